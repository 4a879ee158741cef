"""Recipes: how they are read, and errors that name file, key and the nearest known key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from corpora.files import CorpusError
from egs.pipeline.recipe import MEMBER_OF, build_recipe, known_recipes, load_recipe


@pytest.mark.parametrize("name", known_recipes())
def test_every_recipe_is_readable(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert set(recipe.pretrain) >= set(MEMBER_OF)
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
    with pytest.raises(CorpusError, match="`mine=`.*NAME=MODEL_DIR"):
        load_recipe("mini", ["upstreams=['mine=']"])


@pytest.mark.parametrize(
    ("override", "tokens"),
    [
        ("pretrain.hl_it1.stpes=3", ["pretrain.hl_it1.stpes", "`steps`"]),
        ("pretrian.hl_it1.steps=3", ["`pretrian`", "`pretrain`"]),
        ("units.it3.k=3", ["`it3`", "nearest", "`it"]),
        ("units.it1.kk=3", ["units.it1.kk", "`k`"]),
        ("family.hs.layer=3", ["family.hs.layer", "`layers`"]),
        ("family.hs.geometry=mini_hp", ["`mini_hp`", "nearest", "`mini_h"]),
        ("tasks.asr.sedes=[0]", ["tasks.asr.sedes", "`seeds`"]),
        ("tasks.ars.seeds=[0]", ["tasks.ars", "`asr`"]),
        ("upstreams=[fbanks]", ["`fbanks`", "`fbank`"]),
        ("pretrain.hs.init.kind=every_third", ["pretrain.hs.init", "every_third"]),
        ("pretrain.hl_it1.steps=many", ["pretrain.hl_it1.steps", "many"]),
        ("pretrain.hl_it1.steps=2.5", ["pretrain.hl_it1.steps", "2.5"]),
        ("pretrain.hl_it1.steps=true", ["pretrain.hl_it1.steps"]),
        ("units.it1.whiten=1", ["units.it1.whiten"]),
        ("tasks.asr.seeds=0", ["tasks.asr.seeds"]),
        ("units.it1.k=1", ["units.it1", "k=1"]),
        ("units.it2.source=hs", ["units.it2.source", "`hs`", "mfcc, hl_it1"]),
        ("pretrain.hl_it2.init.source=nowhere", ["`nowhere`", "hl_it1"]),
        ("family.hs.heads=3", ["family.hs", "width"]),
        ("corpora.modul=x", ["corpora.modul", "`module`"]),
        ("shards.codec=mp3", ["shards", "mp3", "flac"]),
        ("shards.minutes=0", ["shards", "minutes"]),
    ],
)
def test_an_error_names_file_and_key(override: str, tokens: list[str]) -> None:
    with pytest.raises(CorpusError) as error:
        load_recipe("mini", [override])
    assert all(token in str(error.value) for token in ["egs/mini/recipe.yaml", *tokens]), str(error.value)


def test_set_without_a_value_and_unknown_recipe() -> None:
    with pytest.raises(CorpusError, match="--set steps"):
        load_recipe("mini", ["steps"])
    with pytest.raises(CorpusError, match="`minni`.* `mini`"):
        load_recipe("minni")


def test_a_section_that_is_missing_or_of_another_form() -> None:
    with pytest.raises(CorpusError, match="here: `corpora`"):
        build_recipe({"family": {}}, name="x", where="here", local_upstreams={})
    with pytest.raises(CorpusError, match="here: "):
        build_recipe(None, name="x", where="here", local_upstreams={})


def test_checking_stages_loads_no_heavy_library(root: Path) -> None:
    """A second run must take seconds, and torch alone takes some."""
    code = (
        "import sys; from egs.__main__ import main; status = main(['show']); "
        "heavy = {'torch', 'numpy', 'pandas', 's3prl', 'espnet2', 'transformers', 'lightning'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
