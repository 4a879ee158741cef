"""Recipes: what is read, and what is refused with file, key and the nearest known one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from egs.pipeline.recipe import MEMBER_OF, RecipeError, build_recipe, known_recipes, load_recipe
from egs.pipeline.stages import Job
from egs.pipeline.training import label_set


@pytest.mark.parametrize("name", known_recipes())
def test_every_recipe_is_readable(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert set(recipe.pretrain) == set(MEMBER_OF)
    assert {"fbank", "random_l", "harness_l", "harness_s", "harness_st"} <= set(recipe.upstreams)
    assert recipe.units["student"].pca is not None, "the teacher's features pass through PCA for the students"


def test_open_arabic_has_no_dialects_and_asks_for_seeds_and_folds() -> None:
    recipe = load_recipe("open_arabic")
    assert set(recipe.tasks) == {"asr", "ser"}
    assert recipe.tasks["ser"].folds == 5
    assert len(recipe.tasks["asr"].seeds) == len(recipe.tasks["ser"].seeds) == 3


def test_overrides_reach_the_value_and_common_lies_underneath() -> None:
    recipe = load_recipe("mini", ["pretrain.common.lr=0.25", "pretrain.hl_it2.lr=0.5", "tasks.asr.seeds=[3,4]"])
    assert recipe.pretrain["hl_it1"].train.lr == 0.25
    assert recipe.pretrain["hl_it2"].train.lr == 0.5
    assert recipe.tasks["asr"].seeds == [3, 4]


def test_a_field_of_a_geometry_can_be_replaced() -> None:
    recipe = load_recipe("mini", ["family.hs.layers=1"])
    assert recipe.family["hs"].layers == 1
    assert recipe.family["hl"].layers > 1


def test_local_upstreams_join_the_list(tmp_path: Path) -> None:
    recipe = load_recipe("mini", (), {"hubert": tmp_path})
    assert recipe.upstreams[-1] == "hubert"
    assert recipe.local_upstreams == {"hubert": tmp_path}


def test_models_of_others_are_named_with_their_folder() -> None:
    assert load_recipe("mini", ["upstreams=[fbank, 'mine=some/where']"]).upstreams == ["fbank", "mine=some/where"]
    with pytest.raises(RecipeError, match="unknown upstream `mine=`.*any NAME=MODEL_DIR"):
        load_recipe("mini", ["upstreams=['mine=']"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.hl_it1.stpes=3", "unknown key `pretrain.hl_it1.stpes`; the nearest known one is `steps`"),
        ("pretrian.hl_it1.steps=3", "unknown key `pretrian`; the nearest known one is `pretrain`"),
        ("units.it3.k=3", "no run has the units `it3`; the nearest known one is `it"),
        ("units.it1.kk=3", "unknown key `units.it1.kk`; the nearest known one is `k`"),
        ("family.hs.layer=3", "unknown key `family.hs.layer`; the nearest known one is `layers`"),
        ("family.hs.geometry=mini_hp", "no geometry named `mini_hp`; the nearest known one is `mini_h"),
        ("tasks.asr.sedes=[0]", "unknown key `tasks.asr.sedes`; the nearest known one is `seeds`"),
        ("tasks.ars.seeds=[0]", "unknown key `tasks.ars`; the nearest known one is `asr`"),
        ("upstreams=[fbanks]", "unknown upstream `fbanks`; the nearest known one is `fbank`"),
        ("pretrain.hs.init.kind=every_third", "`pretrain.hs.init`: init: kind `every_third` is unknown"),
        ("pretrain.hl_it1.steps=many", "`pretrain.hl_it1.steps` must be"),
        ("pretrain.hl_it1.steps=2.5", "`pretrain.hl_it1.steps` must be"),
        ("pretrain.hl_it1.steps=true", "`pretrain.hl_it1.steps` must be"),
        ("units.it1.whiten=1", "`units.it1.whiten` must be"),
        ("tasks.asr.seeds=0", "`tasks.asr.seeds` must be"),
        ("units.it1.k=1", "`units.it1`: units: k=1 must lie between"),
        ("units.it2.source=hs", "`units.it2.source`: `hs` is neither made by an earlier stage (mfcc, hl_it1)"),
        ("pretrain.hl_it2.init.source=nowhere", "`nowhere` is neither made by an earlier stage (hl_it1) nor a model"),
        ("family.hs.heads=3", "`family.hs`: mini_hs: width"),
        ("corpora.modul=x", "unknown key `corpora.modul`; the nearest known one is `module`"),
    ],
)
def test_what_is_wrong_is_named(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("mini", [override])
    assert message in str(error.value)
    assert "egs/mini/recipe.yaml" in str(error.value)


def test_set_without_a_value_and_unknown_recipe() -> None:
    with pytest.raises(RecipeError, match="--set steps: write it as key=value"):
        load_recipe("mini", ["steps"])
    with pytest.raises(RecipeError, match="no recipe named `minni`; the nearest known one is `mini`"):
        load_recipe("minni")


def test_a_section_that_is_missing_or_of_another_form() -> None:
    with pytest.raises(RecipeError, match="here: `corpora` is missing"):
        build_recipe({"family": {}}, name="x", where="here", local_upstreams={})
    with pytest.raises(RecipeError, match="here: it must be a mapping"):
        build_recipe(None, name="x", where="here", local_upstreams={})


def test_looking_at_stages_loads_no_heavy_library(root: Path) -> None:
    """A second run must take seconds, and torch alone takes some."""
    code = (
        "import sys; from egs.__main__ import main; status = main(['show']); "
        "heavy = {'torch', 'numpy', 'pandas', 's3prl', 'espnet2', 'transformers', 'lightning'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_units_are_expected_to_be_of_the_model_layer_and_pca_that_the_recipe_says(tmp_path: Path) -> None:
    """Stamps see to it where stages are walked; a stage that is started alone has nothing but this."""
    recipe = load_recipe("mini", ["units.student.layer=2", "units.student.pca=16", "units.it2.pca=0.9"])
    job = Job(recipe, tmp_path / "data", tmp_path / "exp")
    for key in ("hl_it1", "hl_it2"):
        folder = tmp_path / "exp" / key / "model"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(key.encode())
    of = hashlib.sha256(b"hl_it2").hexdigest()
    assert label_set(job, "student", 1.0).expected == {"k": 100, "layer": 2, "pca_dim": 16, "model_sha256": of}
    assert "pca_dim" not in label_set(job, "it2", 1.0).expected, "how many dimensions a share takes, the data says"
    assert label_set(job, "it1", 1.0).expected["model_sha256"] is None
