"""Corpus folders: every way in which one can be missing names the variable and where to write it."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from egs.pipeline.recipe import CorporaConfig, Recipe, load_recipe
from egs.pipeline.run import Range, Walk
from egs.pipeline.sources import StageError, fingerprints, prepare
from egs.pipeline.stages import Job

VARIABLE = "HARNESS_PROBE_CORPUS"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe on one corpus, whose preparer notes what it was given."""

    def note(out_dir: Path, *, sources: Mapping[str, Path], seed: int = 0, jobs: int = 1) -> None:
        out_dir.mkdir(parents=True)
        (out_dir / "given").write_text(f"{sources[VARIABLE]} {seed} {jobs}")

    module = types.ModuleType("corpora.sets.probe")
    module.prepare = note
    monkeypatch.setitem(sys.modules, "corpora.sets.probe", module)
    monkeypatch.delenv(VARIABLE, raising=False)
    return dataclasses.replace(load_recipe("mini"), corpora=CorporaConfig("probe", [VARIABLE], {"seed": 3}))


def test_folder_seed_and_processes_reach_the_preparer(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "my corpus"
    corpus.mkdir()
    (corpus / "تسجيل.wav").write_text("")
    monkeypatch.setenv(VARIABLE, f" {corpus} ")
    prepare(recipe, tmp_path / "data", 2)
    assert (tmp_path / "data/given").read_text() == f"{corpus} 3 2"


@pytest.mark.parametrize(
    ("value", "message"),
    [(None, "is not set"), ("", "is not set"), ("{}/nothing", "no such folder"), ("{}/empty", "the folder is empty")],
)
def test_a_folder_that_is_not_at_hand_is_named(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    if value is not None:
        monkeypatch.setenv(VARIABLE, value.format(tmp_path))
    with pytest.raises(StageError, match=message) as error:
        prepare(recipe, tmp_path / "data", 1)
    assert VARIABLE in str(error.value) and "egs/mini/db.sh" in str(error.value)


def test_downloads_fetches_from_the_publisher(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(root: Path) -> Path:
        (root / "fetched").mkdir(parents=True)
        (root / "fetched/a.wav").write_text("")
        return root / "fetched"

    monkeypatch.setattr("egs.pipeline.sources.DOWNLOADS", tmp_path / "downloads")
    monkeypatch.setattr("corpora.registry.load", lambda name: SimpleNamespace(download=fetch))
    monkeypatch.setenv(VARIABLE, "downloads")
    prepare(recipe, tmp_path / "data", 1)
    assert (tmp_path / "data/given").read_text().startswith(str(tmp_path / "downloads/fetched"))


def test_an_unknown_option_names_the_nearest(recipe: Recipe, tmp_path: Path) -> None:
    wrong = dataclasses.replace(recipe, corpora=CorporaConfig("probe", [VARIABLE], {"sed": 3}))
    with pytest.raises(StageError, match=r"unknown key `corpora\.options\.sed`; the nearest known one is `seed`"):
        prepare(wrong, tmp_path / "data", 1)


def test_a_changed_corpus_is_noticed_and_an_absent_one_taken_as_unchanged(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.wav").write_text("one")
    monkeypatch.setenv(VARIABLE, str(corpus))
    job = Job(recipe, tmp_path / "data", tmp_path / "exp")
    outputs = " ".join(f"{job.data}/ssl/{split}/wav.scp" for split in ("train", "dev"))
    script = tmp_path / "prepare.sh"
    script.write_text(f"mkdir -p {job.data}/ssl/train {job.data}/ssl/dev; touch {outputs}\n")

    assert Walk(job).run(Range(1, 1), ["bash", str(script)]) == [1]
    assert Walk(job).incomplete(1) is None
    monkeypatch.delenv(VARIABLE)
    assert fingerprints(recipe, tmp_path) is None
    assert Walk(job).incomplete(1) is None, "a corpus that is not mounted today has not changed"
    monkeypatch.setenv(VARIABLE, str(corpus))
    (corpus / "b.wav").write_text("two")
    assert Walk(job).incomplete(1) == "its configuration or inputs changed"
