"""Arabic Speech Corpus: quoted Buckwalter lines, a misspelt file, a folder with a space, 48 kHz."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import arabic_speech_corpus
from corpora.files import CorpusError, TooManyBadFiles

pytestmark = pytest.mark.usefixtures("no_disk_sync")


@pytest.fixture
def corpus(tmp_path, noise) -> Path:
    root = tmp_path / "arabic-speech-corpus"
    for folder, names in (("", ("ARA NORM  0002", "ARA NORM  0003")), ("test set", ("0001",))):
        for name in names:
            noise(root / folder / f"wav/{name}.wav", 0.3, 48000)
        lines = "".join(f'"{name}.wav" "waraj~aHa Alt~aqoriyru - {{"\r\n' for name in names)
        (root / folder / "orthographic-transcript.txt").write_bytes(lines.encode("utf-8-sig"))
        spelt = "phonetic-transcript.txt" if folder else "phonetic-transcipt.txt"
        (root / folder / spelt).write_text("".join(f'"{name}.wav" "w a r a j j"\n' for name in names))
    return root


def test_buckwalter_becomes_arabic(corpus, tmp_path):
    arabic_speech_corpus.prepare(corpus.parent, tmp_path / "out", text_profile="none")
    train = read_datadir(tmp_path / "out/train")
    made = [unicodedata.normalize("NFC", u.text) for u in train]
    assert made == [unicodedata.normalize("NFC", "وَرَجَّحَ التَّقْرِيرُ - ٱ")] * 2
    assert {u.samples for u in train} == {4800} and len(read_datadir(tmp_path / "out/test")) == 1
    arabic_speech_corpus.prepare(corpus, tmp_path / "out")
    assert read_datadir(tmp_path / "out/test")[0].text == "ورجح التقرير ٱ"
    assert all(validate_datadir(tmp_path / "out" / split) == [] for split in ("train", "test"))


def test_the_misspelt_file_and_its_correct_brother(corpus, tmp_path):
    arabic_speech_corpus.prepare(corpus, tmp_path / "out", transcript="phonetic")
    assert {u.text for split in ("train", "test") for u in read_datadir(tmp_path / "out" / split)} == {"w a r a j j"}


def test_broken_trees(corpus, tmp_path):
    with pytest.raises(CorpusError, match=r"expected arabic-speech-corpus/\{wav.*ARABIC_SPEECH_CORPUS="):
        arabic_speech_corpus.prepare(tmp_path / "nowhere", tmp_path / "out")
    path = corpus / "orthographic-transcript.txt"
    path.write_text('"ARA NORM  0002.wav" "waraj"\nARA NORM  0003.wav waraj\n"x" y\n')
    with pytest.raises(TooManyBadFiles, match=r"2 of 4 lines.*orthographic-transcript.txt:2: expected \"<file>.wav\" "):
        arabic_speech_corpus.prepare(corpus, tmp_path / "out")
    path.unlink()
    with pytest.raises(CorpusError, match=r"expected orthographic-transcript.txt; found phonetic-transcipt.txt, "):
        arabic_speech_corpus.prepare(corpus, tmp_path / "out")
    with pytest.raises(CorpusError, match="'phonemic' is not one of orthographic, phonetic"):
        arabic_speech_corpus.prepare(corpus, tmp_path / "out", transcript="phonemic")
