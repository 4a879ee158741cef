"""SADA: segments of programmes in CSV, lines that cannot be scored, quoted text."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import sada
from corpora.files import CorpusError, TooManyBadFiles, read_json

pytestmark = pytest.mark.usefixtures("no_disk_sync")

HEADER = (
    "FileName,SegmentID,SegmentStart,SegmentEnd,SegmentLength,FullFileLength,ProcessedText,Speaker,SpeakerDialect,"
    "SpeakerGender"
)


def _row(file: str, number: int, start: float, end: float, text: str, speaker: str, dialect: str = "نجدي") -> str:
    return f'{file},{number},{start},{end},{end - start},2,"{text}",{speaker},{dialect},ذكر'


@pytest.fixture
def corpus(tmp_path, noise) -> Path:
    root = tmp_path / "sada"
    for split in ("train", "valid", "test"):
        noise(root / f"batch_1/{split} show.wav", 2.0, 22050)
        noise(root / f"batch_1/{split}-2.wav", 1.0)
        rows = [
            _row(f"batch_1/{split} show.wav", 0, 0.0, 0.5, "هلا، كيف الحال؟", "متحدث 1"),
            _row(f"batch_1/{split} show.wav", 1, 0.5, 1.25, 'قال ""نعم""', "متحدث 2", "حجازي جداً"),
            _row(f"batch_1/{split} show.wav", 2, 1.25, 1.5, "[غير واضح] طيب", "متحدث 1"),
            _row(f"batch_1\\{split}-2.wav", 3, 0.0, 0.5, "طيب", "متحدث 1", ""),
        ]
        (root / f"{split}.csv").write_bytes("\r\n".join([HEADER, *rows, ""]).encode("utf-8-sig"))
    return root


def test_segments_speakers_and_what_cannot_be_scored(corpus, tmp_path):
    sada.prepare(corpus, tmp_path / "out")
    test = read_datadir(tmp_path / "out/test")
    assert sorted((u.text, u.start, u.end, u.dialect) for u in test) == [
        ("طيب", 0, 8000, "unknown"), ("قال نعم", 8000, 20000, "حجازي_جداً"), ("هلا كيف الحال", 0, 8000, "نجدي")
    ]  # fmt: skip
    assert len({u.speaker for u in test}) == 3  # speaker 1 of two programmes is two people
    assert {u.audio.name for u in test} == {"test show.wav.wav", "test-2.wav"}
    for split in ("train", "dev", "test"):
        assert validate_datadir(tmp_path / "out" / split) == []
    rows = [line.split("\t") for line in (tmp_path / "out/excluded.tsv").read_text(encoding="utf-8").splitlines()]
    assert [(row[0], row[2].rsplit("/")[-1], row[3]) for row in rows[1:]] == [
        ("train", "train.csv:4", "cannot be scored: غير واضح"),
        ("dev", "valid.csv:4", "cannot be scored: غير واضح"),
        ("test", "test.csv:4", "cannot be scored: غير واضح"),
    ]
    summary = read_json(tmp_path / "out/summary.json")["sets"]["test"]
    assert (summary["excluded"], summary["published"]) == (1, 6047)


def test_unconfirmed_names_are_options(corpus, tmp_path):
    (corpus / "valid.csv").rename(corpus / "validation.csv")
    content = (corpus / "test.csv").read_text(encoding="utf-8-sig").replace("ProcessedText", "GroundTruthText")
    (corpus / "test.csv").write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError, match=r"test.csv:1: expected the columns .*ProcessedText.*missing: ProcessedText"):
        sada.prepare(corpus, tmp_path / "out")
    (corpus / "train.csv").unlink()
    sada.prepare(
        corpus, tmp_path / "out", text_column="GroundTruthText", lists=("train", "nothing", "test"), unclear=""
    )
    assert len(read_datadir(tmp_path / "out/test")) == 4


def test_broken_trees(corpus, tmp_path):
    with pytest.raises(CorpusError, match=r"expected \{train,valid,test\}.csv .*SADA="):
        sada.prepare(tmp_path / "nowhere", tmp_path / "out")
    path = corpus / "train.csv"
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    lines[1] = lines[1].replace(",0,0.0,", ",0,zero,")
    lines[2] = lines[2].replace(",1.25,", ",NaN,")
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(TooManyBadFiles, match=r"2 of \d+ lines.*train.csv:2: expected a time in seconds, found 'zero'"):
        sada.prepare(corpus, tmp_path / "out")
    path.write_bytes(HEADER.encode() + b"\n\xff\xfe,1\n")
    with pytest.raises(CorpusError, match=r"train.csv:\d: cannot be read as UTF-8 text"):
        sada.prepare(corpus, tmp_path / "out")
