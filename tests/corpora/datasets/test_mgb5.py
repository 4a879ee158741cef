"""MGB-5: archives, Buckwalter, UNK, and annotators whose files are named by a pattern."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import mgb5
from corpora.files import CorpusError, TooManyBadFiles

pytestmark = pytest.mark.usefixtures("no_disk_sync")

IDS = ("vlog_1_0001", "vlog_1_0002")


def _split(root: Path, split: str, noise) -> Path:
    noise(root / f"{split}/wav/vlog_1.wav", 1.0)
    (root / f"{split}/{split}.segments.bw").write_text(f"{IDS[0]} vlog_1 0.0 0.5\n{IDS[1]} vlog_1 0.5 1.0\n")
    return root / split


@pytest.fixture
def archives(tmp_path, noise) -> Path:
    db = tmp_path / "mgb5/DB"
    db.mkdir(parents=True)
    train = _split(tmp_path / "made", "train", noise)
    (train / "train.txt.bw").write_bytes(f"{IDS[0]} $nw *A UNK mzyAn\r\n{IDS[1]} UNK\r\n".encode())
    dev = _split(tmp_path / "made", "dev", noise)
    for annotator, text in enumerate(("wAx~A", "wA x~A", "waxA", "wxA"), 1):
        (dev / f"dev.txt.{annotator}.bw").write_text(f"{IDS[0]} {text}\n")
    for folder in (train, dev):
        with tarfile.open(db / f"{folder.name}.tar.gz", "w:gz") as file:
            file.add(folder, folder.name)
    return tmp_path / "mgb5"


def test_archives_are_unpacked_once_and_unknown_words_deleted(archives, tmp_path):
    mgb5.prepare(archives, tmp_path / "out")
    train = read_datadir(tmp_path / "out/train")
    assert [(u.utt_id, u.text, u.speaker) for u in train] == [(IDS[0], "شنو ذا مزيان", "vlog_1")]
    assert "no words" in (tmp_path / "out/excluded.tsv").read_text()
    assert validate_datadir(tmp_path / "out/train") == []
    wav = tmp_path / "out/unpacked/train/wav/vlog_1.wav"
    assert train[0].audio == wav
    before = wav.stat().st_ino
    mgb5.prepare(archives, tmp_path / "out")
    assert wav.stat().st_ino == before


def test_four_annotators(archives, tmp_path):
    """The second utterance has no text in any of the four files: that is a bad line, one of two."""
    segments = "".join(f"{IDS[0]}_{n} vlog_1 {n / 50} {n / 50 + 0.1}\n" for n in range(40))
    texts = ("wAx~A", "wA x~A", "waxA", "UNK")
    root = tmp_path / "made"
    (root / "dev/dev.segments.bw").write_text(segments + f"{IDS[1]} vlog_1 0.5 1.0\n")
    for annotator, text in enumerate(texts, 1):
        (root / f"dev/dev.txt.{annotator}.bw").write_text("".join(f"{IDS[0]}_{n} {text}\n" for n in range(40)))
    mgb5.prepare(root, tmp_path / "out")
    dev = tmp_path / "out/dev"
    assert read_datadir(dev)[0].text == "واخا" and len(read_datadir(dev)) == 40
    first = [path.read_text(encoding="utf-8").split("\n")[0] for path in sorted(dev.glob("text_*"))]
    assert first == [f"{IDS[0]}_0 واخا", f"{IDS[0]}_0 وا خا", f"{IDS[0]}_0 وخا", ""]
    assert f"dev.segments.bw:41\t{IDS[1]} has no text" in (tmp_path / "out/skipped.tsv").read_text()


def test_recordings_are_speakers_where_their_ids_sort(archives, tmp_path, noise):
    root = tmp_path / "made"
    noise(root / "train/wav/vlog_10.wav", 1.0)
    (root / "train/train.segments.bw").write_text(f"{IDS[0]} vlog_1 0.0 0.5\nvlog_10_0001 vlog_10 0.5 1.0\n")
    (root / "train/train.txt.bw").write_text(f"{IDS[0]} nEm\nvlog_10_0001 lA\n")
    (root / "dev").rename(tmp_path / "dev")
    mgb5.prepare(root, tmp_path / "out")
    assert [u.speaker for u in read_datadir(tmp_path / "out/train")] == ["vlog_10_0001", IDS[0]]


def test_broken_trees(archives, tmp_path):
    root = tmp_path / "made"
    with pytest.raises(CorpusError, match=r"train: expected train.trn and train.segments.bw; found train"):
        mgb5.prepare(root, tmp_path / "out", texts="{split}.trn")
    (root / "train/train.segments.bw").write_text(f"{IDS[0]} vlog_1 0.0\n{IDS[1]} vlog_1 0 -1\n")
    with pytest.raises(TooManyBadFiles, match=r"train.segments.bw:1: expected 'utterance recording start end'"):
        mgb5.prepare(root, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"expected DB/\{train,dev,test\}.tar.gz"):
        mgb5.prepare(tmp_path / "out", tmp_path / "out2")


def test_an_archive_that_leaves_its_folder_is_refused(archives, tmp_path):
    with tarfile.open(archives / "DB/dev.tar.gz", "w:gz") as file:
        member = tarfile.TarInfo("dev/../../evil")
        member.size = 1
        file.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(CorpusError, match="leads out of the folder"):
        mgb5.prepare(archives, tmp_path / "out")
    assert not (tmp_path / "evil").exists() and not (tmp_path / "out/dev").exists()
