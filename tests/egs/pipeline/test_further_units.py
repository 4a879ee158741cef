"""Further units and runs of a recipe: stage and order in which they are made, and those that cannot be made."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.files import CorpusError
from egs.pipeline.recipe import build_order, dependencies, iteration, load_recipe
from egs.pipeline.stages import stages_of
from egs.pipeline.work import Job

# A third iteration of the teacher, from which the students come, and a further student on two label sets.
THIRD = [
    "units.it3.source=hl_it2",
    "units.it3.layer=3",
    "pretrain.hl_it3.geometry=hl",
    "pretrain.hl_it3.units=[it3]",
    "pretrain.hl_it3.init.kind=model",
    "pretrain.hl_it3.init.source=hl_it2",
    "units.student.source=hl_it3",
]
LOW = [
    "units.student_low.source=hl_it2",
    "units.student_low.layer=1",
    "pretrain.hst_low.geometry=hst",
    "pretrain.hst_low.units=[student,student_low]",
    "pretrain.hst_low.weights.student_low=0.5",
]


def stage_ids(*overrides: str) -> list[int | str]:
    return [stage.id for stage in stages_of(load_recipe("mini", overrides))]


def test_without_further_runs_the_stages_are_1_to_13() -> None:
    assert stage_ids() == list(range(1, 14))


def test_a_third_iteration_is_made_before_what_needs_it() -> None:
    assert stage_ids(*THIRD) == [1, 2, 3, 4, 5, "it3", "hl_it3", *range(6, 14)]
    recipe = load_recipe("mini", THIRD)
    assert [iteration(recipe, key) for key in ("hl_it1", "hl_it2", "hl_it3", "hs", "hst")] == [1, 2, 3, 4, 4]


def test_what_nothing_needs_is_made_with_the_last_student() -> None:
    assert stage_ids(*LOW) == [*range(1, 8), "student_low", 8, "hst_low", *range(9, 14)]
    recipe = load_recipe("mini", LOW)
    assert recipe.pretrain["hst_low"].units == {"student": 1.0, "student_low": 0.5}
    assert dependencies(recipe, "hst_low") == ("student", "student_low")
    assert iteration(recipe, "hst_low") == 3
    assert build_order(recipe)[8] == ["student_low", "hst", "hst_low"]


def test_units_for_both_students_are_made_before_the_first() -> None:
    overrides = ["units.low.source=hl_it2", "pretrain.hs.units=[student,low]", "pretrain.hst.units=[low,student]"]
    assert stage_ids(*overrides) == [*range(1, 7), "low", *range(7, 14)]
    recipe = load_recipe("mini", overrides)
    assert list(recipe.pretrain["hst"].units) == ["low", "student"], "the first set is the main one"


def test_a_run_on_features_alone_needs_its_teacher() -> None:
    overrides = [
        "pretrain.hst.units=[]",
        "pretrain.hst.regression.source=hl_it2",
        "pretrain.hst.regression.layers=[2,4]",
        "pretrain.hst.mask_prob=0.0",
    ]
    recipe = load_recipe("mini", overrides)
    assert dependencies(recipe, "hst") == ("hl_it2",) and iteration(recipe, "hst") == 3
    assert recipe.pretrain["hst"].regression.layers == [2, 4]
    stage = next(stage for stage in stages_of(recipe) if stage.id == 8)
    assert stage.needs(recipe) == (1, 5)


def test_further_models_are_exported_and_may_be_compared() -> None:
    recipe = load_recipe("mini", [*LOW, "upstreams=[fbank,hst_low]"])
    job = Job(recipe, Path("d"), Path("e"))
    export = next(stage for stage in stages_of(recipe) if stage.id == 9)
    assert "hst_low" in export.needs(recipe)
    assert Path("e/models/hst_low/model.safetensors") in export.outputs(job)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pretrain.hts.steps=3"], "`pretrain.hts.geometry`.* `hs"),
        (["pretrain.x.geometry=hts"], "`pretrain.x.geometry`: `hts`.*nearest"),
        (["pretrain.x.geometry=hst"], "`pretrain.x.units`"),
        (["pretrain.hst.units=[studnet]"], "`studnet`.* `student`"),
        (["pretrain.hst.units=[student,student]"], "`pretrain.hst.units`"),
        (["pretrain.hst.weights.it1=2"], "`pretrain.hst.weights.it1`"),
        (["pretrain.hst.weights.student=0"], "`pretrain.hst.weights.student`=0.0"),
        (["pretrain.hst.regression.layers=[1]"], "`pretrain.hst.regression.source`"),
        (
            ["pretrain.hst.regression.source=hl_it9", "pretrain.hst.regression.layers=[1]"],
            "`pretrain.hst.regression.source`: `hl_it9`",
        ),
        (["pretrain.models.geometry=hst", "pretrain.models.units=[student]"], "`pretrain.models`"),
        (["units.hst.source=mfcc", "pretrain.hs.units=[hst]"], "`hst` names both"),
        ([*THIRD, "pretrain.hl_it3.init.source=hs"], "made from itself: .*hl_it3"),
        (
            [*THIRD, "pretrain.hl_it3.init.source=hs", "pretrain.hs.units=[it2]"],
            "`hl_it3` .*stage 6.*`hs`.*stage 7",
        ),
        ([*LOW, "units.student_low.source=hst_low"], "made from itself: .*hst_low"),
        (["pretrain.hst.init.kind=project", "pretrain.hst.init.source=null"], "`project`.* source"),
    ],
)
def test_an_error_names_the_entry(overrides: list[str], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        load_recipe("mini", overrides)


def test_units_of_an_s3prl_upstream_are_allowed_anywhere() -> None:
    recipe = load_recipe("mini", ["units.it1.source=s3prl:hubert"])
    assert dependencies(recipe, "it1") == () and iteration(recipe, "hl_it1") == 1
