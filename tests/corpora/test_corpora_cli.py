"""python -m corpora: one clear line and exit code 2 for what a user can get wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from corpora import download, open_arabic
from corpora.__main__ import main

pytestmark = pytest.mark.usefixtures("no_disk_sync")

ROOT = Path(__file__).parents[2]


def _error(capsys: pytest.CaptureFixture, arguments: list[str]) -> str:
    assert main(arguments) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("corpora: error: ")
    return line


def test_list_names_every_corpus_and_its_variable(capsys):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    for name in ("arabic_speech_commands", "baved", "everyayah", "free_spoken_digits", "mini", "open_arabic"):
        assert f"\n{name} " in f"\n{listed}"
    assert "EVERYAYAH" in listed and "CC BY 4.0" in listed and "get it: " in listed


def test_a_corpus_is_prepared_and_validated(corpus_trees, tmp_path, capsys):
    corpus = corpus_trees.baved(tmp_path / "corpus")
    assert main(["baved", "--corpus", str(corpus), "--out", str(tmp_path / "out"), "--seed", "2"]) == 0
    assert main(["validate", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count(": ok") == 15
    broken = tmp_path / "out/fold1/test/utt2emotion"
    broken.write_text("\u200f" + broken.read_text(), encoding="utf-8")
    assert main(["validate", str(tmp_path / "out")]) == 2
    assert "U+200F" in capsys.readouterr().err


def test_open_arabic_takes_its_folders_from_the_environment(corpus_trees, tmp_path, monkeypatch, capsys):
    for corpus in open_arabic.CORPORA:
        monkeypatch.delenv(corpus.INFO.variable, raising=False)
    assert "no folder is named for ARABIC_SPEECH_COMMANDS" in _error(capsys, ["open_arabic", "--out", "x"])
    for corpus in open_arabic.CORPORA:
        folder = getattr(corpus_trees, corpus.INFO.name)(tmp_path / corpus.INFO.name)
        monkeypatch.setenv(corpus.INFO.variable, str(folder))
    assert main(["open_arabic", "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    assert (tmp_path / "out/ser/fold5/test/text").exists() is False
    assert (tmp_path / "out/ssl/train/utt2lang").exists()


def test_downloads_fetches_the_corpus_first(corpus_trees, tmp_path, monkeypatch):
    asked = []

    def fetched(root: Path) -> Path:
        asked.append(root)
        return corpus_trees.free_spoken_digits(tmp_path / "fetched")

    monkeypatch.setitem(download.DOWNLOADS, "free_spoken_digits", fetched)
    assert main(["free_spoken_digits", "--corpus", "downloads", "--out", str(tmp_path / "out")]) == 0
    assert asked == [Path("downloads")] and (tmp_path / "out/train/wav.scp").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no corpus is named"),
        (["beved", "--out", "x"], "did you mean baved?"),
        (["baved", "--out", "x"], "--corpus"),
        (["baved", "--corpus", "nowhere", "--out", "x"], "no such folder"),
        (["baved", "--corpus", "nowhere", "--out", "x", "--jobs", "0"], "--jobs"),
        (["baved", "--corpus", "nowhere", "--out", "x", "--sed", "1"], "--sed"),
        (["baved", "--corpus", "nowhere", "--out", "x", "--seed", "one"], "--seed"),
        (["baved", "--corpus", "nowhere", "--out", "x", "--set", "fold=3"], "nearest known one is `folds`"),
        (["baved", "--corpus", "nowhere", "--out", "x", "--set", "folds=three"], "expected a number, found 'three'"),
        (["baved", "--corpus", "nowhere", "--out", "x", "--set", "folds"], "expected key=value"),
        (["validate", "nowhere"], "nowhere"),
        (["--nonsense"], "--nonsense"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in _error(capsys, arguments)
    assert not (tmp_path / "x").exists()


def test_from_the_shell_without_a_traceback_and_without_torch(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "corpora"]
    command += ["everyayah", "--corpus", str(tmp_path), "--out", "x"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "expected quran.json" in done.stderr.splitlines()[-1]
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "corpora.everyayah" in imported
    assert not imported & {"torch", "torchaudio", "s3prl", "espnet2"}
