"""python -m corpora: one clear line and exit code 2 for each mistake of a user."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from corpora import registry
from corpora.__main__ import main
from corpora.audio import write_audio
from corpora.datadir import Utterance, write_datadir
from corpora.datasets import free_spoken_digits
from corpora.files import CorpusError, only_writer
from corpora.sets import open_arabic

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


def test_open_arabic_gets_its_folders_from_the_environment(corpus_trees, tmp_path, monkeypatch, capsys):
    for corpus in open_arabic.CORPORA:
        monkeypatch.delenv(corpus.INFO.variable, raising=False)
    assert "for ARABIC_SPEECH_COMMANDS, BAVED" in _error(capsys, ["open_arabic", "--out", "x"])
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

    monkeypatch.setattr(free_spoken_digits, "download", fetched)
    assert main(["free_spoken_digits", "--corpus", "downloads", "--out", str(tmp_path / "out")]) == 0
    assert asked == [Path("downloads")] and (tmp_path / "out/train/wav.scp").exists()


def test_an_archive_is_unpacked_first(corpus_trees, tmp_path):
    folder = corpus_trees.free_spoken_digits(tmp_path / "corpus")
    with zipfile.ZipFile(tmp_path / "corpus.zip", "w") as file:
        for path in sorted(folder.rglob("*.wav")):
            file.write(path, path.relative_to(folder))
    arguments = ["free_spoken_digits", "--corpus", str(tmp_path / "corpus.zip"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    first = (tmp_path / "out/train/wav.scp").read_bytes()
    assert main(arguments) == 0 and (tmp_path / "out/train/wav.scp").read_bytes() == first
    assert main(["validate", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("name", registry.MODULES)
def test_every_corpus_describes_itself_and_refuses_another_folder(name, tmp_path, capsys):
    info = registry.load(name).INFO
    assert info.name == name and info.tasks and info.licence and info.access in ("open", "form", "paid")
    assert info.by_hand or registry.can_be_fetched(name)
    assert info.layout in registry.describe(info) and registry.how_to_get(info) in registry.describe(info)
    for option in registry.options(registry.load(name)).values():
        assert option.default is not option.empty
    (tmp_path / "other").mkdir()
    line = _error(capsys, [name, "--corpus", str(tmp_path / "other"), "--out", str(tmp_path / "out")])
    assert "expected" in line and "found an empty folder" in line and f"{info.variable}=" in line
    assert info.by_hand in line and ("--corpus downloads" in line) == registry.can_be_fetched(name)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0 and info.title in capsys.readouterr().out


def test_options_are_converted_as_annotated():
    mgb2, gale, common_voice = (registry.load(name) for name in ("mgb2", "gale", "common_voice"))
    assert registry.parse_options(mgb2, ["max_wmer=50", "script=bw"]) == {"max_wmer": 50.0, "script": "bw"}
    assert registry.parse_options(gale, ["test_list=a b", "dev_list="]) == {"test_list": Path("a b"), "dev_list": None}
    assert registry.parse_options(common_voice, ["splits=train, other"]) == {"splits": ("train", "other")}
    with pytest.raises(CorpusError, match="max_wmer=x"):
        registry.parse_options(mgb2, ["max_wmer=x"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected the name of a corpus"),
        (["beved", "--out", "x"], "`beved`; the nearest known one is `baved`"),
        (["baved", "--out", "x"], "--corpus"),
        (["baved", "--corpus", "nowhere", "--out", "x"], "no such folder"),
        (["baved", "--corpus", "nowhere", "--out", "x", "--jobs", "0"], "--jobs"),
        (["baved", "--corpus", "nowhere", "--out", "x", "--sed", "1"], "--sed"),
        (["baved", "--corpus", "nowhere", "--out", "x", "--seed", "one"], "--seed"),
        (["baved", "--corpus", "nowhere", "--out", "x", "--set", "fold=3"], "`folds`"),
        (["baved", "--corpus", "nowhere", "--out", "x", "--set", "folds=three"], "folds=three"),
        (["baved", "--corpus", "nowhere", "--out", "x", "--set", "folds"], "--set folds: "),
        (["mgb2", "--corpus", "downloads", "--out", "x"], "arabicspeech.org/mgb2"),
        (["mgb2", "--corpus", "nowhere", "--out", "x", "--seed", "1"], "--seed"),
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
    (tmp_path / "corpus").mkdir()
    command += ["everyayah", "--corpus", "corpus", "--out", "x"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "expected quran.json" in done.stderr.splitlines()[-1]
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "corpora.prepare.sources" in imported
    assert not imported & {"torch", "torchaudio", "s3prl", "espnet2"}


def test_a_folder_that_cannot_be_read_does_not_hide_the_others(tmp_path, capsys):
    for name in ("a", "b", "c"):
        write_audio(tmp_path / f"{name}.wav", np.full(800, 0.1))
        write_datadir(tmp_path / "sets" / name, [Utterance("s", "s", tmp_path / f"{name}.wav", 800)])
    (tmp_path / "sets" / "b" / "utt2spk").unlink()
    (tmp_path / "sets" / "b" / "utt2spk").mkdir()  # as root, a test cannot forbid itself to read a file
    assert main(["validate", str(tmp_path / "sets")]) == 2
    printed = capsys.readouterr()
    assert "utt2spk: cannot be read" in printed.err and f"{tmp_path / 'sets' / 'c'}: ok" in printed.out


def test_a_second_command_for_the_same_folder_is_refused(tmp_path, capsys):
    with only_writer(tmp_path / "out"):
        assert main(["baved", "--corpus", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err
