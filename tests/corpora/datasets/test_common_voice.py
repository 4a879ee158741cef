"""Common Voice: lists without quoting, releases, clips that are in two lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import common_voice
from corpora.files import CorpusError, TooManyBadFiles, read_json

pytestmark = pytest.mark.usefixtures("no_disk_sync")

HEADER = "client_id\tpath\tsentence_id\tsentence\tup_votes\tgender\tage\taccents\tvariant\tlocale"


def _row(client: int, clip: int, sentence: str) -> str:
    return f"{client:0128x}\tcommon_voice_ar_{clip}.mp3\t\t{sentence}\t2\t\t\t\t\tar"


ROWS = {
    "train": [_row(1, 11, '"قال: نَعَمْ، ثم مضى.'), _row(1, 12, "مرحبا"), _row(2, 13, 'اقتباس " وحيد')],
    "dev": [_row(3, 14, "أهلًا\u200f وسهلا")],
    "test": [_row(4, 15, "١٢ ڤيلا")],
    "validated": [_row(1, 11, "نعم"), _row(3, 14, "أهلا"), _row(4, 15, "فيلا")],
}


def _release(root: Path, name: str, noise) -> Path:
    folder = root / name / "ar"
    for rows in ROWS.values():
        for row in rows:
            clip = folder / "clips" / row.split("\t")[1]
            if not clip.exists():
                noise(clip, 0.3, 32000, format="MP3")
    for split, rows in ROWS.items():
        end = "\r\n" if split == "dev" else "\n"
        (folder / f"{split}.tsv").write_bytes((end.join([HEADER, *rows]) + end).encode("utf-8-sig"))
    return root


def test_the_newest_release_and_lone_quotation_marks(tmp_path, noise):
    corpus = _release(tmp_path / "cv", "cv-corpus-18.0-2024-06-14", noise)
    (corpus / "cv-corpus-9.0-2022-04-27/ar/clips").mkdir(parents=True)
    common_voice.prepare(corpus, tmp_path / "out")
    sets = {split: read_datadir(tmp_path / "out" / split) for split in ("train", "dev", "test")}
    assert [u.text for u in sets["train"]] == ["قال نعم ثم مضى", "مرحبا", "اقتباس وحيد"]
    assert [u.text for u in sets["dev"]] == ["اهلا وسهلا"] and [u.text for u in sets["test"]] == ["12 فيلا"]
    assert all(validate_datadir(tmp_path / "out" / split) == [] for split in sets)
    assert len({u.speaker for u in sets["train"]}) == 1  # ids differ after the sixteenth digit only in this test
    assert sets["train"][0].audio.suffix == ".wav" and 4000 < sets["train"][0].samples < 6500
    summary = read_json(tmp_path / "out/summary.json")["sets"]
    assert summary["test"]["difference"] == 1 - 10471 and "published" not in summary["train"]


def test_validated_clips_that_are_scored_do_not_train(tmp_path, noise):
    corpus = _release(tmp_path / "cv", "cv-corpus-21.0-2025-03-14", noise) / "cv-corpus-21.0-2025-03-14"
    common_voice.prepare(corpus, tmp_path / "out", splits=("validated", "dev", "test"), text_profile="none")
    assert [u.text for u in read_datadir(tmp_path / "out/validated")] == ["نعم"]
    excluded = (tmp_path / "out/excluded.tsv").read_text()
    assert excluded.count("also in dev") == 1 and excluded.count("also in test") == 1
    assert "published" not in read_json(tmp_path / "out/summary.json")["sets"]["test"]  # another release


def test_broken_trees(tmp_path, noise):
    with pytest.raises(CorpusError, match=r"expected cv-corpus-\*/ar/.*COMMON_VOICE="):
        common_voice.prepare(tmp_path, tmp_path / "out")
    corpus = _release(tmp_path / "cv", "cv-corpus-18.0-2024-06-14", noise)
    folder = corpus / "cv-corpus-18.0-2024-06-14/ar"
    (folder / "dev.tsv").write_text("client_id\tpath\ttext\n")
    with pytest.raises(CorpusError, match=r"dev.tsv:1: expected the columns client_id, path, sentence; found client_"):
        common_voice.prepare(corpus, tmp_path / "out")
    (folder / "dev.tsv").unlink()
    with pytest.raises(CorpusError, match=r"dev.tsv: no such file; expected a list with the columns"):
        common_voice.prepare(corpus, tmp_path / "out")
    (folder / "dev.tsv").write_text(f"{HEADER}\nx\ty.mp3\n{_row(3, 14, 'نعم')}\n../x\t../../y.mp3{7 * chr(9)}ar\n")
    with pytest.raises(TooManyBadFiles, match=r"2 of \d+ lines.*dev.tsv:2: expected 10 fields .*found 2"):
        common_voice.prepare(corpus, tmp_path / "out")
