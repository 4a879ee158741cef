from pathlib import Path

import numpy as np
import pytest

from corpora.audio import write_audio
from corpora.files import CorpusError
from corpora.prepare.packed import PackedAudio, pack


def _files(folder: Path, count: int = 5) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    files = {}
    for i in range(count):
        path = folder / f"clip {i}.wav"
        write_audio(path, rng.uniform(-0.5, 0.5, 1000 + 10 * i))
        files[f"clip{i}"] = path
    return files


def test_what_is_packed_is_what_was_recorded(tmp_path: Path) -> None:
    files = _files(tmp_path)
    assert pack(files, tmp_path / "store", jobs=2) == {}
    store = PackedAudio(tmp_path / "store")
    assert sorted(store) == sorted(files)
    for i in range(5):
        assert store.samples(f"clip{i}") == len(store[f"clip{i}"]) == 1000 + 10 * i
    first = np.random.default_rng(0).uniform(-0.5, 0.5, 1000)
    np.testing.assert_allclose(store["clip0"] / 32768, first, atol=1 / 32768)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    files = _files(tmp_path)
    store = tmp_path / "store"
    pack(dict(list(files.items())[:3]), store)
    with open(store / "00.pcm", "ab") as pcm, open(store / "00.tsv", "a") as index:
        pcm.write(b"\1\2\3")  # samples of a clip whose line was not written, and half a line
        index.write("clip4\t99")
    pack(files, store)
    packed = PackedAudio(store)
    assert sorted(packed) == sorted(files)
    assert len(packed["clip4"]) == 1040
    assert (store / "00.pcm").stat().st_size == 2 * sum(packed.samples(name) for name in packed)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFFnonsense")
    skipped = pack({"broken": tmp_path / "broken.wav", **_files(tmp_path, 1)}, tmp_path / "store")
    assert list(skipped) == ["broken"] and "broken.wav" in skipped["broken"]
    assert list(PackedAudio(tmp_path / "store")) == ["clip0"]


def test_a_line_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "00.tsv").write_text("clip0\t0\tmany\n")
    with pytest.raises(CorpusError, match="00.tsv:1"):
        PackedAudio(tmp_path)
