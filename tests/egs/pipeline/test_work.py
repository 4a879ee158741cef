"""The work of stages: corpus folders, absent ones with the place to name them, and the units that a run expects."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import types
from collections.abc import Mapping
from pathlib import Path

import pytest

from egs.pipeline.recipe import CorporaConfig, load_recipe
from egs.pipeline.run import Range, Runner
from egs.pipeline.work import Job, StageError, fingerprints, label_sets, prepare_corpora

VARIABLE = "HARNESS_PROBE_CORPUS"


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Job:
    """A recipe on one corpus, whose preparer writes down its arguments."""

    def prepare(out_dir: Path, *, sources: Mapping[str, Path], seed: int = 0, jobs: int = 1) -> None:
        out_dir.mkdir(parents=True)
        (out_dir / "given").write_text(f"{sources[VARIABLE]} {seed} {jobs}")

    module = types.ModuleType("corpora.sets.probe")
    module.prepare = prepare
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delenv(VARIABLE, raising=False)
    recipe = dataclasses.replace(load_recipe("mini"), corpora=CorporaConfig("probe", [VARIABLE], {"seed": 3}))
    return Job(recipe, tmp_path / "data", tmp_path / "exp", jobs=2, downloads=tmp_path / "downloads")


def test_folder_seed_and_processes_reach_the_preparer(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "my corpus"
    corpus.mkdir()
    (corpus / "تسجيل.wav").write_text("")
    monkeypatch.setenv(VARIABLE, f" {corpus} ")
    prepare_corpora(job)
    assert (job.data / "given").read_text() == f"{corpus} 3 2"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "db.sh or the environment$"),  # this speech cannot be fetched, so no word of `downloads`
        ("", "not set"),
        ("{}/nothing", "{}/nothing: no such"),
        ("{}/empty", "{}/empty: .* empty"),
        ("downloads", "cannot be fetched; name its folder"),
    ],
)
def test_an_absent_folder_is_named(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    if value is not None:
        monkeypatch.setenv(VARIABLE, value.format(tmp_path))
    with pytest.raises(StageError, match=message.format(tmp_path)) as error:
        prepare_corpora(job)
    assert VARIABLE in str(error.value) and "egs/mini/db.sh" in str(error.value)


def test_a_corpus_that_can_be_fetched_says_so(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corpora.registry.can_be_fetched", lambda name: name == VARIABLE.lower())
    with pytest.raises(StageError, match=f"{VARIABLE} is not set: .*or write `downloads` there to fetch it"):
        prepare_corpora(job)


def test_an_unknown_option_names_the_nearest(job: Job) -> None:
    corpora = CorporaConfig("probe", [VARIABLE], {"sed": 3})
    with pytest.raises(StageError, match=r"`corpora\.options\.sed`.* `seed`"):
        prepare_corpora(dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, corpora=corpora)))


def test_a_changed_corpus_is_noticed_and_an_absent_one_counts_as_unchanged(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.wav").write_text("one")
    monkeypatch.setenv(VARIABLE, str(corpus))
    outputs = " ".join(f"{job.data}/ssl/{split}/wav.scp" for split in ("train", "dev"))
    script = tmp_path / "prepare.sh"
    script.write_text(f"mkdir -p {job.data}/ssl/train {job.data}/ssl/dev; touch {outputs}\n")

    assert Runner(job).run(Range(1, 1), ["bash", str(script)]) == [1]
    assert Runner(job).incomplete(1) is None
    monkeypatch.delenv(VARIABLE)
    assert fingerprints(job) is None
    assert Runner(job).incomplete(1) is None, "an unmounted corpus has not changed"
    monkeypatch.setenv(VARIABLE, str(corpus))
    (corpus / "b.wav").write_text("two")
    assert Runner(job).incomplete(1)


def test_a_run_expects_units_of_the_model_layer_and_pca_in_the_recipe(tmp_path: Path) -> None:
    """Records ensure this in a whole run; a stage that is started alone has only this check."""
    overrides = ["units.student.layer=2", "units.student.pca=16", "units.it2.pca=0.9"]
    job = Job(load_recipe("mini", overrides), tmp_path / "data", tmp_path / "exp")
    for key in ("hl_it1", "hl_it2"):
        folder = tmp_path / "exp" / key / "model"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(key.encode())
    of = hashlib.sha256(b"hl_it2").hexdigest()
    expected = {run: label_sets(job, run)[0].expected for run in ("hs", "hl_it2", "hl_it1")}
    assert expected["hs"] == {"k": 100, "cmvn": False, "layer": 2, "pca_dim": 16, "model_sha256": of}
    assert "pca_dim" not in expected["hl_it2"], "the data decide how many dimensions a share of variance takes"
    assert expected["hl_it1"]["model_sha256"] is None
