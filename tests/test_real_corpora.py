"""The trees of real speech, prepared, validated, and used by a probe: real names, real HTML, real manifests."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from corpora.__main__ import main as corpora_main
from corpora.datadir import read_datadir
from downstream.__main__ import main as downstream_main

pytestmark = pytest.mark.slow

SHORT = ["problem.train.total_steps=4", "problem.train.eval_step=2", "learning_rates=[1.0e-3]", "search_share=null"]
CASES = {
    # corpus: (task, options, data directories with their utterances)
    "adi5_sample": ("did", ["folds=3"], {}),
    "eyase": ("ser", [], {"fold1/train": None}),
    "omani": ("asr", [], {"train": 96, "dev": 19, "test": 33}),
    "verse_clips": ("asr", [], {"test": 43, "test_crowd": 26, "test_studio": 17}),
}


@pytest.fixture
def tree(real_speech: Path):
    def find(name: str) -> Path:
        folder = real_speech / name
        if not folder.is_dir():
            pytest.skip(f"{folder}: not unpacked; unpack all of the real speech")
        return folder

    return find


def _prepare(name: str, folder: Path, out: Path, options: list[str]) -> None:
    corpus = {"adi5_sample": "adi5"}.get(name, name)
    settings = [word for option in options for word in ("--set", option)]
    assert corpora_main([corpus, "--corpus", str(folder), "--out", str(out), "--jobs", "2", *settings]) == 0
    assert corpora_main(["validate", str(out)]) == 0


@pytest.mark.parametrize("name", CASES)
def test_real_trees_reach_a_probe(name: str, tree, tmp_path: Path) -> None:
    task, options, expected = CASES[name]
    out = tmp_path / "data" / task
    _prepare(name, tree(name), out, options)
    for split, count in expected.items():
        assert len(read_datadir(out / split)) == (count or len(read_datadir(out / split)))
    if name == "verse_clips":  # a test set: one reciter's verses are training data
        _prepare("everyayah", tree("everyayah"), tmp_path / "quran", [])
        for split in ("train", "dev"):
            (tmp_path / "quran" / split).rename(out / split)
    if name == "adi5_sample":
        tested = [u for k in (1, 2, 3) for u in read_datadir(out / f"fold{k}/test")]
        assert len(tested) == 98 and len({u.speaker for u in tested}) == 59
    if name == "eyase":
        assert sum(len(read_datadir(out / f"fold{k}/test")) for k in range(1, 7)) in (578, 579)
    command = ["benchmark", "--recipe", name, "--data", str(tmp_path / "data"), "--exp", str(tmp_path / "exp")]
    command += ["--upstreams", "fbank", "--tasks", task, "--seeds", "0", "--folds", "1", "--jobs", "1"]
    settings = [word for option in SHORT for word in ("--set", option)]
    assert downstream_main([*command, *settings]) == 0
    with open(tmp_path / "exp/results.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows and {row["recipe"] for row in rows} == {name}
