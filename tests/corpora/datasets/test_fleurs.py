"""FLEURS: lists without a header, recordings unpacked or in archives."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import fleurs
from corpora.files import CorpusError, TooManyBadFiles

pytestmark = pytest.mark.usefixtures("no_disk_sync")


def _row(number: int, name: str) -> str:
    return f"{number}\t{name}.wav\tقال: «نَعَمْ»، {number}.\tقال نعم {number}\tق ا ل |\t3200\tFEMALE"


@pytest.fixture
def corpus(tmp_path, noise) -> Path:
    root = tmp_path / "fleurs"
    (root / "metadata/ar_eg").mkdir(parents=True)
    for place, split in enumerate(("train", "dev", "test")):
        # one sentence, read twice
        names = [f"1000{place}1", f"1000{place}2", f"1000{place}3"]
        for name in names:
            noise(root / f"ar_eg/{split}/{name}.wav", 0.2)
        rows = [_row(10 * place + number // 2, name) for number, name in enumerate(names)]
        (root / f"metadata/ar_eg/{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def test_every_reading_is_an_utterance(corpus, tmp_path):
    fleurs.prepare(corpus, tmp_path / "out", text_profile="mgb")
    train = read_datadir(tmp_path / "out/train")
    assert [(u.utt_id, u.text) for u in train] == [
        ("fleurs-0-100001", "قال نعم 0"), ("fleurs-0-100002", "قال نعم 0"), ("fleurs-1-100003", "قال نعم 1")
    ]  # fmt: skip
    assert {u.speaker for u in train} == {u.utt_id for u in train} and train[0].language == "ar"
    assert all(validate_datadir(tmp_path / "out" / split) == [] for split in ("train", "dev", "test"))
    fleurs.prepare(corpus, tmp_path / "out", text_profile="none", text_column="normalised")
    assert read_datadir(tmp_path / "out/test")[0].text == "قال نعم 20"


def test_archives_as_on_the_page_of_the_publisher(corpus, tmp_path):
    page = tmp_path / "page/ar_eg"
    (page / "audio").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        shutil.copy(corpus / f"metadata/ar_eg/{split}.tsv", page / f"{split}.tsv")
        with tarfile.open(page / f"audio/{split}.tar.gz", "w:gz") as file:
            file.add(corpus / f"ar_eg/{split}", split)
    fleurs.prepare(tmp_path / "page", tmp_path / "out")
    assert len(read_datadir(tmp_path / "out/dev")) == 3


def test_broken_trees(corpus, tmp_path):
    path = corpus / "metadata/ar_eg/dev.tsv"
    rows = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join(["id\tfilename", *rows]), encoding="utf-8")
    with pytest.raises(CorpusError, match=r"dev.tsv:1: expected the columns id, filename, raw.*found id, filename"):
        fleurs.prepare(corpus, tmp_path / "out")
    path.write_text("\n".join([rows[0], *["1\tx.wav"] * 2]), encoding="utf-8")
    with pytest.raises(TooManyBadFiles, match=r"dev.tsv:2: expected 7 fields .*, found 2"):
        fleurs.prepare(corpus, tmp_path / "out")
    shutil.rmtree(corpus / "ar_eg/dev")
    with pytest.raises(CorpusError, match=r"expected the recordings of train, dev, test in ar_eg/<split>/ or ar_"):
        fleurs.prepare(corpus, tmp_path / "out")
    with pytest.raises(CorpusError, match="neither raw nor normalised"):
        fleurs.prepare(corpus, tmp_path / "out", text_column="chars")
