"""GALE: tables of 13 columns after three lines, lists of recordings as splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import gale
from corpora.files import CorpusError, TooManyBadFiles

pytestmark = pytest.mark.usefixtures("no_disk_sync")

TOP = "file;unicode\tchannel;int\tstart;float\n;;MM sectionTypes\n;;MM sectionBoundaries\n"


def _line(recording: str, start: float, end: float, speaker: str, text: str) -> str:
    return f"{recording}\t0\t{start}\t{end}\t{speaker}\tmale\tnative\t{text}\t0\t1\t2\treport\tstatement\n"


@pytest.fixture
def corpus(tmp_path, noise) -> Path:
    root = tmp_path / "gale"
    noise(root / "LDC2013S02/audio/ALAM_A_20070313.flac", 1.5)
    noise(root / "LDC2013S07/audio/ALAM_B_20070314.wav", 1.5)
    for recording, part in (("ALAM_A_20070313", "T04"), ("ALAM_B_20070314", "T17")):
        lines = [
            _line(f"{recording}.sph", 0.0, 0.5, "speaker 1", "السلام * عليكم"),
            _line(f"*{recording}", 0.5, 0.9, "أحمد", "<foreign>نعم</foreign>"),
            _line(f"{recording}.sph", 0.9, 1.0, "no speaker", ""),
            _line(f"{recording}.sph", 1.0, 1.4, "speaker 1", "لا"),
        ]
        path = root / f"LDC2013{part}/tdf/{recording}.tdf"
        path.parent.mkdir(parents=True)
        path.write_bytes((TOP + "".join(lines)).replace("\n", "\r\n").encode("utf-8-sig"))
    return root


def test_all_train_without_lists(corpus, tmp_path):
    gale.prepare(corpus, tmp_path / "out")
    train = read_datadir(tmp_path / "out/train")
    assert len(train) == 6 and validate_datadir(tmp_path / "out/train") == []
    assert [u.text for u in train if "_A_" in u.utt_id and "speaker" in u.speaker] == ["السلام عليكم", "لا"]
    assert [(u.text, u.start, u.end) for u in train if u.text == "نعم"] == [("نعم", 8000, 14400)] * 2
    assert {u.audio.suffix for u in train} == {".flac", ".wav"}


def test_lists_split_by_recording(corpus, tmp_path):
    (tmp_path / "test").write_text("ALAM_B_20070314.sph\r\n")
    gale.prepare(corpus, tmp_path / "out", test_list=tmp_path / "test")
    assert {u.audio.stem for u in read_datadir(tmp_path / "out/test")} == {"ALAM_B_20070314"}
    assert len(read_datadir(tmp_path / "out/train")) == 3
    with pytest.raises(CorpusError, match=r"test:1: ALAM_B_20070314 is in the test list too, .*test:1"):
        gale.prepare(corpus, tmp_path / "out", test_list=tmp_path / "test", dev_list=tmp_path / "test")
    (tmp_path / "test").write_text("ALAM_B_20070314\nALAM_C\n")
    with pytest.raises(CorpusError, match=r"test:2: no transcript names the recording ALAM_C"):
        gale.prepare(corpus, tmp_path / "out", test_list=tmp_path / "test")


def test_broken_trees(corpus, tmp_path, noise):
    path = corpus / "LDC2013T04/tdf/ALAM_A_20070313.tdf"
    path.write_text(TOP + "a\tb\n" * 2, encoding="utf-8")
    with pytest.raises(TooManyBadFiles, match=r"2 of 5 lines.*20070313.tdf:4: expected 13 tab-separated columns"):
        gale.prepare(corpus, tmp_path / "out")
    noise(corpus / "again/ALAM_A_20070313.wav")
    with pytest.raises(CorpusError, match=r"a recording of this name is there twice, also as LDC2013S02"):
        gale.prepare(corpus, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"expected \*\*/<recording>.wav.*GALE=.*LDC2013S02"):
        gale.prepare(tmp_path / "nowhere", tmp_path / "out")
