"""Corpora as a hub keeps them: Parquet shards with the audio inside, for every preparer that reads them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from corpora import registry
from corpora.audio import read_audio
from corpora.datadir import read_datadir, validate_datadir
from corpora.files import CorpusError, TooManyBadFiles
from corpora.prepare import hub
from corpora.prepare.readers import read_parquet, store_audio

pytestmark = pytest.mark.usefixtures("no_disk_sync")

PARTS = ("train", "validation", "test")
ROOT = Path(__file__).resolve().parents[3]


def _rows(name: str, part: str, shard: int, cell: Callable[[int], dict]) -> list[dict]:
    """Three rows of a shard, in the columns of the copies that people hold."""
    base = 100 * PARTS.index(part) + 10 * shard
    rows = []
    for n in range(3):
        own = base + n
        audio = cell(own) | {"path": f"{part}_{own}.wav"}
        video = f"vid{part[:2]}{own:04d}"
        verse = chr(0x628) + chr(0x62C + own % 5) + chr(0x633 + own % 7) + "كل"[own % 2] * (1 + own // 100)
        columns = {
            "adi17": {"id": f"{video}_000010-000040", "dialect": ("EGY", "MOR", "YEM")[n]},
            "adi20": {"ID": f"{video}_split_{n}", "dialect": ("TUN", "BAH", "MSA")[n]},
            "common_voice": {"client_id": f"{own:0128d}", "sentence": f"جملة رقم {own}", "locale": "ar"},
            "everyayah": {"text": f"ٱلۡعَٰلَمِينَ {verse}", "reciter": "husary"},
            "fleurs": {"id": own, "raw_transcription": f"نص، {own}", "transcription": f"نص {own}", "gender": 1},
            "masc": {"video_id": video, "text": f"{n}] كلام {own}", "type": "cn"[n % 2], "start": 0.0, "end": 0.3},
            "mgb3": {"sentence": f"كلام {own}"},
            "mgb5": {"text": f"هضرة {own}"},
            "sada": {"ProcessedText": f"هلا {own}", "SpeakerDialect": "Najdi", "Speaker": f"متحدث {n}"},
        }[name]
        rows.append({"audio": audio, **columns})
    return rows


SETS = {
    "masc": {f"{quality}_{split}": count for split in ("train", "dev", "test")
             for quality, count in (("clean", 4), ("noisy", 2))},
    "everyayah": None,
}  # fmt: skip
NAMES = ("adi17", "adi20", "common_voice", "everyayah", "fleurs", "masc", "mgb3", "mgb5", "sada")


@pytest.fixture
def snapshot(tmp_path: Path, made) -> Callable[[str], Path]:
    """Writes two shards of each part below data/, as in the snapshot of a hub."""

    def write(name: str) -> Path:
        root = tmp_path / name
        for part in PARTS:
            for shard in range(2):
                rows = _rows(name, part, shard, made.audio_cell)
                made.parquet(root / f"data/{part}-{shard:05d}-of-00002.parquet", rows)
        (root / "README.md").write_text("---\n")
        return root

    return write


def _sets(out: Path) -> dict[str, int]:
    found = {}
    for path in sorted(out.rglob("utt2spk")):
        assert validate_datadir(path.parent) == []
        own = read_datadir(path.parent)
        assert all(len(read_audio(u.audio, u.start or 0, u.end)) == u.samples == 4800 for u in own)
        found[path.parent.relative_to(out).as_posix()] = len(own)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_shards_of_a_snapshot(name: str, snapshot, tmp_path: Path) -> None:
    corpus, out, module = snapshot(name), tmp_path / "out", registry.load(name)
    module.prepare(corpus, out)
    found = _sets(out)
    if name == "everyayah":  # its splits are drawn by text
        assert sum(found.values()) == 18 and set(found) <= {"train", "dev", "test"}
    else:
        assert found == SETS.get(name, {"train": 6, "dev": 6, "test": 6})
    texts = [u.text for path in out.rglob("utt2spk") for u in read_datadir(path.parent)]
    if "asr" in module.INFO.tasks:
        assert all(texts) and len(set(texts)) == 18
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    module.prepare(corpus, out)  # a second run writes no recording again
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")} == stamps


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_with_other_columns_names_the_option(name: str, snapshot, tmp_path: Path) -> None:
    corpus, module = snapshot(name), registry.load(name)
    field = {"adi17": "dialect", "adi20": "dialect"}.get(name, "text")
    for path in corpus.rglob("*.parquet"):
        table = pyarrow.parquet.read_table(path)
        known = {"dialect", "sentence", "text", "transcription", "raw_transcription", "ProcessedText"}
        names = ["words" if column in known and column != "transcription" else column for column in table.column_names]
        pyarrow.parquet.write_table(table.rename_columns(names).drop_columns({"transcription"} & set(names)), path)
    with pytest.raises(CorpusError, match=f"expected a column for {field} .* found .*words.*parquet={field}="):
        module.prepare(corpus, tmp_path / "out")
    module.prepare(corpus, tmp_path / "out", parquet=(f"{field}=words",))
    assert sum(_sets(tmp_path / "out").values()) == 18
    with pytest.raises(CorpusError, match="parquet=words: expected <field>=<column>"):
        module.prepare(corpus, tmp_path / "other", parquet=("words",))


def test_a_held_out_part_must_be_whole(snapshot, tmp_path: Path, caplog) -> None:
    corpus, module = snapshot("sada"), registry.load("sada")
    (corpus / "data/train-00001-of-00002.parquet").unlink()
    module.prepare(corpus, tmp_path / "out")
    assert _sets(tmp_path / "out") == {"train": 3, "dev": 6, "test": 6}
    assert "train lacks 1 of 2 shards, as number 1" in caplog.text
    (corpus / "data/test-00000-of-00002.parquet").unlink()
    with pytest.raises(CorpusError, match="test lacks 1 of 2 shards, as number 0"):
        module.prepare(corpus, tmp_path / "other")


def test_names_of_shards(made, tmp_path: Path) -> None:
    rows = _rows("fleurs", "train", 0, made.audio_cell)
    for place, name in enumerate(("ar_eg/train/0000.parquet", "ar_eg/partial-test/0000.parquet", "fr_fr/dev.parquet")):
        cells = [made.audio_cell(7 * place + n) for n in range(3)]
        own = [row | {"id": 100 * place + row["id"], "audio": cell} for row, cell in zip(rows, cells, strict=True)]
        made.parquet(tmp_path / "fleurs" / name, own)
    registry.load("fleurs").prepare(tmp_path / "fleurs", tmp_path / "out")
    assert _sets(tmp_path / "out") == {"train": 3, "test": 3}
    # Another language that is not whole does no harm.
    made.parquet(tmp_path / "fleurs/fr_fr/test-00000-of-00002.parquet", rows)
    registry.load("fleurs").prepare(tmp_path / "fleurs", tmp_path / "out")
    made.parquet(tmp_path / "fleurs/ar_eg/part.parquet", rows)
    with pytest.raises(CorpusError, match="part.parquet: expected a name like train-00000-of-00001"):
        registry.load("fleurs").prepare(tmp_path / "fleurs", tmp_path / "out")


def test_names_and_fields_of_clips(made, tmp_path: Path) -> None:
    """Paths of Windows, a name twice, no name, and gaps in a column of numbers."""
    rows = [
        {"audio": made.audio_cell(0) | {"path": r"C:\clips\a.wav"}, "text": "نص", "id": 7.0},
        {"audio": made.audio_cell(1) | {"path": "other/a.wav"}, "text": "نص", "id": float("nan")},
        {"audio": made.audio_cell(2), "text": None, "id": float("nan")},
    ]
    made.parquet(tmp_path / "corpus/train-00003-of-00004.parquet", rows)
    info, fields = registry.load("mixat").INFO, {"text": ("text",), "id": ("id",)}
    reader = hub.Hub(info, tmp_path / "corpus", tmp_path / "out", hub.shards(tmp_path / "corpus"), fields)
    clips = list(reader.clips("train", lambda *place: pytest.fail(f"{place}")))
    assert [clip.name for clip in clips] == ["a", "a_00003_000002", "00003_000003"]
    assert [(clip["text"], clip["id"]) for clip in clips] == [("نص", "7.0"), ("نص", ""), ("", "")]


def test_samples_whose_rate_is_a_column(tmp_path: Path) -> None:
    samples = (0.1 * np.random.default_rng(0).standard_normal(2400)).astype(np.float32)
    table = pyarrow.table({"audio": [samples.tolist()], "sampling_rate": [8000], "text": ["نص"]})
    (tmp_path / "corpus").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "corpus/train.parquet")
    found = hub.shards(tmp_path / "corpus")
    reader = hub.Hub(registry.load("mixat").INFO, tmp_path / "corpus", tmp_path / "out", found, {"text": ("text",)})
    (clip,) = reader.clips("train", lambda *place: pytest.fail(f"{place}"))
    assert soundfile.info(str(reader.clips_dir / clip.source)).samplerate == 8000


def test_forms_of_audio(made, noise, tmp_path: Path) -> None:
    wav = made.audio_cell(1)["bytes"]
    noise(tmp_path / "corpus/wavs/ملف.WAV")
    noise(tmp_path / "outside.wav")
    samples = (0.1 * np.random.default_rng(0).standard_normal(4800)).astype(np.float32)
    for number, cell in enumerate(
        (
            {"bytes": wav, "path": None}, wav, [{"bytes": wav}], {"audio": {"bytes": wav, "path": "x.wav"}},
            {"path": "/home/x/wavs/ملف.wav", "bytes": None}, "wavs/ملف.wav",
            {"array": samples.tolist(), "sampling_rate": 16000, "path": "a.wav"},
        )
    ):  # fmt: skip
        path = store_audio(cell, tmp_path / f"out/{number}", tmp_path / "corpus")
        assert path.suffix.lower() == ".wav" and len(read_audio(path)) in (3200, 4800)
    assert np.array_equal(read_audio(path), samples)
    for cell, token in (
        (None, "no audio"), ({"bytes": None, "path": None}, "no audio"), ("no.wav", "'no.wav', and .*corpus has no"),
        ("../outside.wav", "has no such file"), (b"%PDF", "no known format"),
        ({"array": [], "sampling_rate": 1}, "0 decoded"),
    ):  # fmt: skip
        with pytest.raises(CorpusError, match=token):
            store_audio(cell, tmp_path / "out/bad", tmp_path / "corpus")


def test_rows_without_audio_are_counted(snapshot, made, tmp_path: Path) -> None:
    corpus = snapshot("mgb3")
    rows = _rows("mgb3", "test", 0, made.audio_cell)
    made.parquet(corpus / "data/test-00000-of-00002.parquet", [row | {"audio": {"bytes": None}} for row in rows])
    with pytest.raises(TooManyBadFiles, match=r"3 of \d+ lines .*00000-of-00002.parquet:row 1: "):
        registry.load("mgb3").prepare(corpus, tmp_path / "out")


def test_unclear_clips_of_sada_are_not_scored(snapshot, made, tmp_path: Path) -> None:
    corpus = snapshot("sada")
    rows = _rows("sada", "test", 0, made.audio_cell)
    for row, text in zip(rows, ("[غير واضح] هلا", "هلا غيرواضح", "هلا"), strict=True):
        row["ProcessedText"] = text
    made.parquet(corpus / "data/test-00000-of-00002.parquet", rows)
    registry.load("sada").prepare(corpus, tmp_path / "out")
    assert len(read_datadir(tmp_path / "out/test")) == 4
    assert (tmp_path / "out/excluded.tsv").read_text(encoding="utf-8").count("cannot be scored") == 2


def test_class_labels_and_pointers(made, tmp_path: Path) -> None:
    rows = [{"audio": made.audio_cell(1), "label": label} for label in (1, -1)]  # -1: not labelled
    path = made.parquet(tmp_path / "test.parquet", rows)
    features = {"label": {"names": ["ALG", "EGY"], "_type": "ClassLabel"}}
    table = pyarrow.parquet.read_table(path)
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)
    assert [row["label"] for _, row in read_parquet(path, ["label"])] == ["EGY", -1]
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CorpusError, match="test.parquet: cannot be read as Parquet: a pointer of Git LFS.*lfs pull"):
        list(read_parquet(path, ["label"]))


@pytest.mark.parametrize("size, group", [(2**20, 16), (2**13, 24576)], ids=["many row groups", "one row group"])
@pytest.mark.slow
def test_memory_is_bounded_by_rows_not_by_the_file(size: int, group: int, tmp_path: Path) -> None:
    """Twelve row groups of 16 MB each, or one of 192 MB in pages; the reader may hold about three of 16 MB."""
    draw = np.random.default_rng(0)
    rows = [draw.bytes(size) for _ in range(192 * 2**20 // size)]
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"audio": pyarrow.array(rows)}), path, row_group_size=group, compression="none"
    )
    del rows
    code = (
        "import pyarrow, sys; from pathlib import Path; from corpora.prepare.readers import read_parquet\n"
        "count = sum(len(row['audio']) for _, row in read_parquet(Path(sys.argv[1]), ['audio']))\n"
        "print(count, pyarrow.default_memory_pool().max_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd=ROOT)
    count, peak = map(int, done.stdout.split())
    assert count == 192 * 2**20 and peak < 64 * 2**20, peak
