"""The feature cache: same numbers, computed once, computed again when model or audio change, never half written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from corpora.files import TooManyBadFiles
from downstream import DownstreamError
from downstream.probe import cache
from downstream.probe.cache import Info
from downstream.probe.data import LabelledUtterance, load_task
from downstream.protocols import load
from downstream.upstreams import Upstream

TOY = Upstream("toy", "toy", None, "0" * 64, batched=True)


class Toy:
    """Two layers of (frame number, mean of its samples) at 160 samples a frame; counts its utterances."""

    info = Info(layers=2, width=2, stride=160)

    def __init__(self, gain: float = 1.0):
        self.gain = gain
        self.seen = 0

    def __call__(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.seen += len(waves)
        return [self.states(wave) for wave in waves]

    def states(self, wave: np.ndarray) -> np.ndarray:
        frames = self.info.frames(len(wave))
        padded = np.pad(wave, (0, frames * 160 - len(wave))).reshape(frames, 160)
        one = np.stack([np.arange(frames), padded.mean(1)], axis=1).astype(np.float32)
        return np.stack([one, 1000 * self.gain * one])


@pytest.fixture
def items(make_set: Callable[..., Path]) -> list[LabelledUtterance]:
    return load_task(make_set("ser", {"train": 9, "dev": 6, "test": 6}), load("ser", "light")).items


def never() -> Toy:
    raise AssertionError("the upstream was built although every feature is stored")


def test_pooled_features_are_exact_means(items: list[LabelledUtterance], tmp_path: Path):
    toy = Toy()
    features = cache.prepare(tmp_path / "c", TOY, "pooled", items, lambda: toy)
    from corpora.audio import read_audio

    for item in items:
        assert np.array_equal(features[item.key], toy.states(read_audio(item.audio)).mean(axis=1))


def test_frames_keep_half_precision_of_each_layer(items: list[LabelledUtterance], tmp_path: Path):
    toy = Toy(gain=1e4)  # the upper layer would overflow half precision without a scale
    features = cache.prepare(tmp_path / "c", TOY, "frames", items, lambda: toy)
    from corpora.audio import read_audio

    for item in items:
        expected = toy.states(read_audio(item.audio))
        got = features[item.key]
        assert got.shape == expected.shape
        peak = np.abs(expected).max(axis=(1, 2), keepdims=True)
        assert (np.abs(got - expected) / peak).max() < 2**-11


def test_features_are_computed_once_for_each_kind(items: list[LabelledUtterance], tmp_path: Path):
    toy = Toy()
    for _ in range(2):
        cache.prepare(tmp_path / "c", TOY, "pooled", items, lambda: toy)
    assert toy.seen == len(items)
    cache.prepare(tmp_path / "c", TOY, "pooled", items, never)
    cache.prepare(tmp_path / "c", TOY, "frames", items, lambda: toy)
    assert toy.seen == 2 * len(items)


def test_another_model_has_its_own_features(items: list[LabelledUtterance], tmp_path: Path):
    first = cache.prepare(tmp_path / "c", TOY, "pooled", items, Toy)
    other = replace(TOY, key="1" * 64)
    second = cache.prepare(tmp_path / "c", other, "pooled", items, lambda: Toy(gain=2.0))
    key = items[0].key
    assert np.allclose(second[key][1], 2 * first[key][1])
    assert np.array_equal(cache.prepare(tmp_path / "c", TOY, "pooled", items, never)[key], first[key])


def test_features_of_changed_audio_are_computed_again(make_set: Callable[..., Path], tmp_path: Path):
    sizes = {"train": 6, "dev": 3, "test": 3}
    old = load_task(make_set("ser", sizes), load("ser", "light")).items
    cache.prepare(tmp_path / "c", TOY, "pooled", old, Toy)
    item = old[0]
    data = bytearray(item.audio.read_bytes())
    data[1000:1400] = b"\0" * 400  # same name, same size
    item.audio.write_bytes(data)
    os.utime(item.audio, ns=(0, 1))
    new = load_task(item.audio.parent.parent, load("ser", "light")).items
    toy = Toy()
    cache.prepare(tmp_path / "c", TOY, "pooled", new, lambda: toy)
    assert toy.seen == 1


def test_a_killed_run_leaves_the_same_shards(items: list[LabelledUtterance], tmp_path: Path):
    whole = cache.prepare(tmp_path / "whole", TOY, "frames", items, Toy, shard_items=4)

    class Killed(Toy):
        def __call__(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
            if self.seen >= 8:
                raise KeyboardInterrupt
            return super().__call__(waves)

    with pytest.raises(KeyboardInterrupt):
        cache.prepare(tmp_path / "c", TOY, "frames", items, Killed, shard_items=4)
    toy = Toy()
    again = cache.prepare(tmp_path / "c", TOY, "frames", items, lambda: toy, shard_items=4)
    assert toy.seen < len(items)
    names = [sorted(p.name for p in cache.folder_of(tmp_path / x, TOY).glob("frames/*")) for x in ("whole", "c")]
    assert names[0] == names[1]
    assert all(np.array_equal(whole[i.key], again[i.key]) for i in items)


def test_a_deleted_shard_is_computed_again(items: list[LabelledUtterance], tmp_path: Path):
    cache.prepare(tmp_path / "c", TOY, "pooled", items, Toy, shard_items=4)
    shutil.rmtree(next(cache.folder_of(tmp_path / "c", TOY).glob("pooled/[!.]*")))
    toy = Toy()
    features = cache.prepare(tmp_path / "c", TOY, "pooled", items, lambda: toy)
    assert 1 <= toy.seen <= 4
    assert all(item.key in features for item in items)


@pytest.mark.parametrize("kind", cache.KINDS)
def test_features_that_are_not_finite_name_the_utterance(items: list[LabelledUtterance], tmp_path: Path, kind: str):
    class Broken(Toy):
        def states(self, wave: np.ndarray) -> np.ndarray:
            states = super().states(wave)
            states[1, 3] = np.nan
            return states

    shortest = min(items, key=lambda i: (i.samples, i.utt_id))
    with pytest.raises(DownstreamError, match=f"hidden state 1 .*{shortest.utt_id}"):
        cache.prepare(tmp_path / "c", TOY, kind, items, Broken)


def test_features_of_a_wrong_length_are_refused(items: list[LabelledUtterance], tmp_path: Path):
    class Long(Toy):
        def states(self, wave: np.ndarray) -> np.ndarray:
            return np.pad(super().states(wave), ((0, 0), (0, 1), (0, 0)))

    with pytest.raises(DownstreamError, match=r"\(2, \d+, 2\)"):
        cache.prepare(tmp_path / "c", TOY, "pooled", items, Long)


def test_one_unreadable_file_is_left_out_and_remembered(items: list[LabelledUtterance], tmp_path: Path):
    bad = items[3]
    bad.audio.write_bytes(bad.audio.read_bytes()[:-200])  # truncated after it was listed
    features = cache.prepare(tmp_path / "c", TOY, "pooled", items, Toy)
    assert features.usable(items) == [item for item in items if item is not bad]
    again = cache.prepare(tmp_path / "c", TOY, "pooled", items, never)
    assert again.bad == {bad.key}
    items[4].audio.write_bytes(b"")
    with pytest.raises(TooManyBadFiles, match="2 of 21"):
        cache.prepare(tmp_path / "d", TOY, "pooled", items, Toy)


def test_free_space_is_checked_before_anything_is_written(
    items: list[LabelledUtterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**9, used=10**9, free=1000))
    with pytest.raises(DownstreamError, match=r"toy: .*frames.* 1\.0 kB free"):
        cache.prepare(tmp_path / "c", TOY, "frames", items, Toy)
    assert "21 utterances" in caplog.text
    assert not list(cache.folder_of(tmp_path / "c", TOY).glob("frames/[!.]*"))


def test_a_full_disk_is_named_and_complete_shards_are_kept(
    items: list[LabelledUtterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, calls = np.save, []

    def full(*args: object, **kwargs: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args, **kwargs)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DownstreamError, match="toy: the disk is full"):
        cache.prepare(tmp_path / "c", TOY, "pooled", items, Toy, shard_items=7)
    toy = Toy()
    cache.prepare(tmp_path / "c", TOY, "pooled", items, lambda: toy, shard_items=7)
    assert toy.seen == len(items) - 7


def size_of(root: Path) -> int:
    return sum(p.stat().st_size for p in root.glob("*/*/[!.]*/*"))


def used_at(features_root: Path, upstream: Upstream, when: float) -> None:
    for listing in cache.folder_of(features_root, upstream).glob("*/[!.]*/keys.json"):
        os.utime(listing, (when, when))


def test_the_longest_unused_features_go_first(items: list[LabelledUtterance], tmp_path: Path):
    root = tmp_path / "c"
    others = [replace(TOY, name=name, key=name * 64) for name in "abc"]
    for number, upstream in enumerate(others):
        cache.prepare(root, upstream, "frames", items, Toy)
        used_at(root, upstream, 1000 + number)
    one = size_of(root) // 3
    cache.prepare(root, others[0], "frames", items, never)  # reading makes it the newest
    kept = cache.prepare(root, TOY, "frames", items, Toy, limit_bytes=int(3.2 * one))
    present = {u.name for u in [*others, TOY] if list(cache.folder_of(root, u).glob("frames/[!.]*"))}
    assert present == {"a", "c", "toy"}
    assert size_of(root) <= 3.2 * one and kept[items[0].key].shape


def test_features_in_use_are_never_removed(items: list[LabelledUtterance], tmp_path: Path):
    root = tmp_path / "c"
    reading = cache.prepare(root, replace(TOY, name="a", key="a" * 64), "frames", items, Toy)
    one = size_of(root)
    with pytest.raises(cache.CacheFull, match=r"toy: .*frames.*--cache_gb"):
        cache.prepare(root, TOY, "frames", items, Toy, limit_bytes=int(1.5 * one))
    assert all(np.isfinite(reading[item.key]).all() for item in items)
    reading.hold.close()
    cache.prepare(root, TOY, "frames", items, Toy, limit_bytes=int(1.5 * one))
    assert {p.parents[2].name[:3] for p in root.glob("*/*/[!.]*/keys.json")} == {"toy"}


def test_a_folder_without_listing_is_no_shard(items: list[LabelledUtterance], tmp_path: Path):
    """The listing is removed first: a process that is killed while it makes room leaves the other files."""
    cache.prepare(tmp_path / "c", TOY, "frames", items, Toy)
    for listing in cache.folder_of(tmp_path / "c", TOY).glob("frames/[!.]*/keys.json"):
        listing.unlink()
    toy = Toy()
    features = cache.prepare(tmp_path / "c", TOY, "frames", items, lambda: toy)
    assert toy.seen == len(items) and all(item.key in features for item in items)


WRITER = """
import json, sys, time
from pathlib import Path
import numpy as np
from downstream.probe import cache
from downstream.probe.cache import Info
from downstream.probe.data import load_task
from downstream.protocols import load
from downstream.upstreams import Upstream

folder, root, log = map(Path, sys.argv[1:4])

class Slow:
    info = Info(layers=2, width=2, stride=160)
    def __call__(self, waves):
        time.sleep(0.15)
        with open(log, "a") as stream:
            stream.write(f"{len(waves)}\\n")
        return [np.full((2, self.info.frames(len(w)), 2), w.mean(), np.float32) for w in waves]

items = load_task(folder, load("ser", "light")).items
features = cache.prepare(root, Upstream("toy", "toy", None, "0" * 64, True), "frames", items, Slow, shard_items=3)
print(json.dumps({item.utt_id: float(features[item.key].sum()) for item in items}))
"""


def writer(root: Path, folder: Path, log: Path, repository: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(root), str(log)],
        cwd=repository,
        stdout=subprocess.PIPE,
        text=True,
    )


def computed(log: Path) -> int:
    return sum(map(int, log.read_text().split())) if log.is_file() else 0


@pytest.mark.slow
def test_two_writers_share_the_work(make_set: Callable[..., Path], tmp_path: Path, root: Path):
    folder = make_set("ser", {"train": 18, "dev": 6, "test": 6})
    both = [writer(tmp_path / "c", folder, tmp_path / f"log{i}", root) for i in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0] == printed[1] != ""
    assert sum(computed(tmp_path / f"log{i}") for i in range(2)) == 30


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_whole_shards_only(make_set: Callable[..., Path], tmp_path: Path, root: Path):
    folder = make_set("ser", {"train": 18, "dev": 6, "test": 6})
    killed = writer(tmp_path / "c", folder, tmp_path / "log", root)
    deadline = time.monotonic() + 60
    while computed(tmp_path / "log") < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()  # SIGKILL: nothing is cleaned up, locks end with the process
    killed.wait()
    done = computed(tmp_path / "log")
    assert 10 <= done < 30
    again = writer(tmp_path / "c", folder, tmp_path / "again", root)
    whole = writer(tmp_path / "whole", folder, tmp_path / "plain", root)
    texts = [process.communicate(timeout=120)[0] for process in (again, whole)]
    assert texts[0] == texts[1] != ""
    assert 30 - done <= computed(tmp_path / "again") <= 30 - done + 3  # at most the shard that was in the making
    names = [sorted(p.name for p in (tmp_path / x).glob("*/frames/[!.]*")) for x in ("c", "whole")]
    assert names[0] == names[1]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": 3}'])
def test_a_damaged_list_is_named_and_its_features_are_computed_again(items, tmp_path: Path, caplog, content: str):
    cache.prepare(tmp_path / "c", TOY, "pooled", items, Toy, shard_items=7)
    damaged, *others = sorted(cache.folder_of(tmp_path / "c", TOY).glob("pooled/[!.]*/keys.json"))
    lost = len(json.loads(damaged.read_text())["keys"])
    damaged.write_text(content)
    toy = Toy()
    features = cache.prepare(tmp_path / "c", TOY, "pooled", items, lambda: toy, shard_items=7)
    assert toy.seen == lost and others and all(item.key in features for item in items)
    assert str(damaged) in caplog.text
