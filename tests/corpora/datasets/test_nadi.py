"""NADI and Casablanca as dialect identification: both forms of their Parquet files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import nadi
from corpora.files import CorpusError

FORMS = (16000, "WAV"), (44100, "FLAC")
pytestmark = pytest.mark.usefixtures("no_disk_sync")


def _audio(seed: int, rate: int = 16000, container: str = "WAV") -> dict:
    buffer = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal(int(0.2 * rate))
    soundfile.write(buffer, noise, rate, format=container)
    return {"bytes": buffer.getvalue(), "path": None}


def _parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _casablanca(root: Path) -> Path:
    for place, country in enumerate(nadi.COUNTRIES):
        for part, size in (("validation", 12), ("test", 3)):
            rows = [
                {
                    "audio": _audio(1000 * place + 100 * (part == "test") + n, *FORMS[n % 2]),
                    "seg_id": f"seg {part} {n}",
                    "transcription": "مرحبا",
                    "gender": "male",
                    "duration": 0.2,
                }
                for n in range(size)
            ]
            _parquet(root / country / f"{part}-00000-of-00001.parquet", rows)
    return root


def test_casablanca_form(tmp_path):
    corpus = _casablanca(tmp_path / "casablanca")
    nadi.prepare(corpus, tmp_path / "out", seed=3)
    splits = {split: read_datadir(tmp_path / "out" / split) for split in ("train", "dev", "test")}
    assert all(validate_datadir(tmp_path / "out" / split) == [] for split in splits)
    assert len(splits["test"]) == 24 and len(splits["train"]) + len(splits["dev"]) == 96
    assert {u.dialect for u in splits["train"]} == set(nadi.COUNTRIES)
    assert 5 < len(splits["dev"]) < 35
    assert all(u.utt_id.startswith(u.dialect + "-seg_") and u.samples == 3200 for u in splits["test"])
    # again: the same division, and nothing is written twice
    clip = next((tmp_path / "out/audio/clips").rglob("*.wav"))
    before = clip.stat().st_mtime_ns
    nadi.prepare(corpus, tmp_path / "out", seed=3)
    assert clip.stat().st_mtime_ns == before
    assert [u.utt_id for u in read_datadir(tmp_path / "out/dev")] == [u.utt_id for u in splits["dev"]]


def test_flat_form_with_a_country_column(tmp_path):
    for place, part in enumerate(("adaptation", "validation", "test")):
        rows = [{"audio": _audio(100 * place + n), "country": country} for n, country in enumerate(nadi.COUNTRIES)]
        _parquet(tmp_path / "nadi/data" / f"{part}-00000-of-00001-0a1b2c.parquet", rows)
    nadi.prepare(tmp_path / "nadi", tmp_path / "out")
    for split in ("train", "dev", "test"):
        assert sorted(u.dialect for u in read_datadir(tmp_path / "out" / split)) == list(nadi.COUNTRIES)


def test_broken_files_are_named(tmp_path):
    corpus = tmp_path / "nadi"
    _parquet(corpus / "validation-00000-of-00001.parquet", [{"audio": _audio(1), "country": "Iraq"}])
    with pytest.raises(CorpusError, match=r"parquet:row 1: expected one of Algeria.*found the dialect 'Iraq'"):
        nadi.prepare(corpus, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"expected the columns audio, land; found audio, country \(missing: land"):
        nadi.prepare(corpus, tmp_path / "out", country_column="land")
    (corpus / "test-00000-of-00001.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(CorpusError, match="test-.*cannot be read as Parquet"):
        nadi.prepare(corpus, tmp_path / "out")
    (corpus / "Iraq").mkdir()
    _parquet(corpus / "Iraq/test-00000-of-00001.parquet", [{"audio": _audio(1)}])
    with pytest.raises(CorpusError, match="Iraq: expected a folder Algeria"):
        nadi.prepare(corpus, tmp_path / "out")


def test_cells_without_audio_are_counted(tmp_path):
    corpus = _casablanca(tmp_path / "casablanca")
    rows = pyarrow.parquet.read_table(corpus / "Egypt/test-00000-of-00001.parquet").to_pylist()
    rows[1]["audio"] = {"bytes": None, "path": "x.wav"}
    rows[2]["audio"] = {"bytes": b"\x00" * 100, "path": "x.wav"}
    _parquet(corpus / "Egypt/test-00000-of-00001.parquet", rows)
    nadi.prepare(corpus, tmp_path / "out")
    assert [u.utt_id for u in read_datadir(tmp_path / "out/test") if u.dialect == "Egypt"] == ["Egypt-seg_test_0"]
    skipped = (tmp_path / "out/skipped.tsv").read_text()
    assert "row 2\tthe row holds no audio" in skipped and "row 3\tthe audio is no WAV" in skipped
