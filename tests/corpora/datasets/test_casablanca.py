"""Casablanca: Parquet shards with audio inside, sets by country."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import casablanca
from corpora.files import CorpusError, TooManyBadFiles

pytestmark = pytest.mark.usefixtures("no_disk_sync")

AUDIO = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def _shard(path: Path, rows: list[tuple[bytes | None, str, str | None]], text_column: str = "transcription") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = [{"bytes": content, "path": None} for content, *_ in rows]
    columns = {
        "audio": pyarrow.array(audio, AUDIO),
        "seg_id": [seg_id for _, seg_id, _ in rows],
        text_column: [text for *_, text in rows],
        "gender": ["male"] * len(rows),
        "duration": [0.3] * len(rows),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


@pytest.fixture
def corpus(tmp_path, noise) -> Path:
    root = tmp_path / "casablanca"

    def clip(name: str, rate: int = 16000) -> bytes:
        return noise(tmp_path / "made" / name, 0.3, rate).read_bytes()

    for country in ("Egypt", "Yemen"):
        for split in ("validation", "test"):
            for shard in range(2):
                rows = [
                    (clip(f"{country}{split}{shard}.wav"), f"ep 1/{shard}_a", "إزيَّك، عامل إيه؟"),
                    (clip(f"{country}{split}{shard}.flac", 44100), f"ep 1/{shard}_b", "ماشي"),
                ]
                _shard(root / f"{country}/{split}-0000{shard}-of-00002.parquet", rows)
    return root


def test_sets_of_all_and_of_each_country(corpus, tmp_path):
    countries = ("Egypt", "Yemen")
    casablanca.prepare(corpus, tmp_path / "out", countries=countries)
    names = sorted(path.parent.name for path in (tmp_path / "out").rglob("utt2spk"))
    assert names == ["dev", "dev_egy", "dev_yem", "test", "test_egy", "test_yem"]
    assert [len(read_datadir(tmp_path / "out" / name)) for name in names] == [8, 4, 4, 8, 4, 4]
    assert all(validate_datadir(tmp_path / "out" / name) == [] for name in names)
    egyptian = read_datadir(tmp_path / "out/test_egy")
    assert {u.text for u in egyptian} == {"ازيك عامل ايه", "ماشي"} and {u.dialect for u in egyptian} == {"EGY"}
    assert {(u.audio.suffix, u.samples) for u in egyptian} == {(".wav", 4800)}
    stored = {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*.wav")}
    assert len(stored) == 8 + 8  # WAV stored as it came, FLAC of 44.1 kHz converted
    casablanca.prepare(corpus, tmp_path / "out", countries=countries)
    assert {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*.wav")} == stored


def test_rows_without_audio_are_counted(corpus, tmp_path):
    shard = corpus / "Egypt/test-00000-of-00002.parquet"
    _shard(shard, [(None, "a", "نعم"), (b"text", "b", "لا"), (b"", "c", None)])
    with pytest.raises(TooManyBadFiles, match=r"3 of \d+ rows.*00000-of-00002.parquet:row 1: the row holds no audio"):
        casablanca.prepare(corpus, tmp_path / "out", countries=("Egypt",))


def test_broken_trees(corpus, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(CorpusError, match=r"expected <Country>/.*CASABLANCA=.*UBC-NLP/Casablanca"):
        casablanca.prepare(tmp_path / "nowhere", out)
    with pytest.raises(CorpusError, match=r"Algeria: expected validation-\*.parquet; found no such folder"):
        casablanca.prepare(corpus, out)
    with pytest.raises(CorpusError, match="'Iraq' is not one of Algeria"):
        casablanca.prepare(corpus, out, countries=("Iraq",))
    shard = corpus / "Egypt/validation-00000-of-00002.parquet"
    _shard(shard, [(b"x", "a", "نعم")], text_column="text")
    with pytest.raises(CorpusError, match=r"expected the columns audio, seg_id, transcription; found .*text.*missing"):
        casablanca.prepare(corpus, out, countries=("Egypt",))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CorpusError, match=r"validation-00000-of-00002.parquet: cannot be read as Parquet"):
        casablanca.prepare(corpus, out, countries=("Egypt",))
