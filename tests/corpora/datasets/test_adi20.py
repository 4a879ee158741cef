"""ADI-20: lists with placeholders, samples, ids of several lengths."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import adi20
from corpora.files import CorpusError

pytestmark = pytest.mark.usefixtures("no_disk_sync")
HEADER = "ID,wav,dialect,duration,start,end"


def _tree(root: Path, write_clip) -> Path:
    write_clip(root / "ADI17/train/-a_bcDEfgh1.wav", 1, seconds=1.0)
    write_clip(root / "TuniSwitch/ab-c.wav", 2, seconds=0.5, rate=22050)
    write_clip(root / "TuniSwitch/ab.wav", 3, seconds=0.5)
    rows = {
        "train": [
            "-a_bcDEfgh1_000010-000030,$data_root/ADI17/train/-a_bcDEfgh1.wav,EGY,0.2,1600,4800",
            "-a_bcDEfgh1_000050-000080,$data_root/ADI17/train/-a_bcDEfgh1.wav,EGY,0.3,8000.0,12800.0",
            "ab-c,/home/x/TuniSwitch/ab-c.wav,TUN,0.5,0,8000",
            "ab_000000-000050,/home/x/TuniSwitch/ab.wav,TUN,0.5,0,8000",
        ],
        "dev": ["msa1_000000-000020,MSA/msa1.wav,MSA,0.2,0,3200"],
    }
    write_clip(root / "MSA/msa1.wav", 4)
    for split, own in rows.items():
        (root / f"{split}.csv").write_bytes("\ufeff".encode() + ("\r\n".join([HEADER, *own]) + "\r\n").encode())
    return root


def test_lists(tmp_path, write_clip):
    adi20.prepare(_tree(tmp_path / "adi20", write_clip), tmp_path / "out")
    assert validate_datadir(tmp_path / "out/train") == [] and validate_datadir(tmp_path / "out/dev") == []
    own = {u.utt_id: u for u in read_datadir(tmp_path / "out/train")}
    # ids of several lengths: hyphens inside a programme would break the order of Kaldi's tables
    assert set(own) == {
        "ab-ab_000000-000050",
        "ab~c-ab-c",
        "~a_bcDEfgh1--a_bcDEfgh1_000010-000030",
        "~a_bcDEfgh1--a_bcDEfgh1_000050-000080",
    }
    assert (own["ab~c-ab-c"].samples, own["ab~c-ab-c"].dialect) == (8000, "TUN")
    assert own["~a_bcDEfgh1--a_bcDEfgh1_000050-000080"].start == 8000


def test_rows_without_audio_are_counted(tmp_path, write_clip):
    corpus = _tree(tmp_path / "adi20", write_clip)
    rows = [f"msa1_{n:06d}-{n + 2:06d},MSA/msa1.wav,MSA,0.02,{n},{n + 400}" for n in range(60)]
    broken = ["x1,MSA/msa1.wav,MSA,0.2,3200,0", "x2,MSA/msa2.wav,MSA,0.2,0,3200"]
    with (corpus / "dev.csv").open("a") as file:
        file.write("\n".join([*rows, *broken]) + "\n")
    adi20.prepare(corpus, tmp_path / "out")
    skipped = (tmp_path / "out/skipped.tsv").read_text()
    assert "dev.csv:63\tx1-x1 runs from 0.2 to 0 s: that is no speech" in skipped
    assert "dev.csv:64\tno such file in" in skipped and "MSA/msa2.wav" in skipped
    assert len(read_datadir(tmp_path / "out/dev")) == 61


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,MSA/msa1.wav,Cairo,0.2,0,3200", r"dev.csv:3: expected one of ALG .* MSA, found the dialect 'Cairo'"),
        ("x,MSA/msa1.wav,MSA,0.2,0.5,3200", r"dev.csv:3: expected a number of samples in start, found '0.5'"),
        ("x,MSA/msa1.wav,MSA", r"dev.csv:3: expected 6 fields \(ID, .*\), found 3"),
    ],
)
def test_a_broken_row_names_its_line(tmp_path, write_clip, row, message):
    corpus = _tree(tmp_path / "adi20", write_clip)
    with (corpus / "dev.csv").open("a") as file:
        file.write(row + "\n")
    with pytest.raises(CorpusError, match=message):
        adi20.prepare(corpus, tmp_path / "out")


def test_header_and_options(tmp_path, write_clip):
    corpus = _tree(tmp_path / "adi20", write_clip)
    (corpus / "dev.csv").write_text("ID,path,dialect\nx,y,MSA\n")
    with pytest.raises(CorpusError, match=r"dev.csv:1: expected the columns ID, wav, .*missing: wav, start, end\)"):
        adi20.prepare(corpus, tmp_path / "out")
    (corpus / "test.csv").write_bytes(b"ID,wav,dialect,duration,start,end\n\xff,x,MSA,1,0,1\n")
    (corpus / "dev.csv").unlink()
    with pytest.raises(CorpusError, match=r"test.csv:.*cannot be read as UTF-8"):
        adi20.prepare(corpus, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"no group \(\?P<programme>"):
        adi20.prepare(corpus, tmp_path / "out", programme=".+")
    with pytest.raises(CorpusError, match="expected adi20_train.csv, adi20_dev.csv, adi20_test.csv; found"):
        adi20.prepare(corpus, tmp_path / "out", lists="adi20_{split}.csv")
