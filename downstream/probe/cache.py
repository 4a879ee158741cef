"""Store features of frozen upstreams on disk, so that each is computed once.

    <root>/<upstream>-<key>-<form>/info.json                          layers, width, stride
        <kind>[_normalised]/<shard>/   values.npy keys.json [frames.npy scale.npy]
        <kind>[_normalised]/.use       shared lock of every process that reads these features
        <kind>[_normalised]/.*.lock    lock of the process that computes a shard

There are two kinds. `pooled` is the mean over time of every layer, float32 (layers, width) per utterance; it is exact
for heads that are linear before mean pooling, since the mean of W x + b is W mean(x) + b. `frames` is every frame,
(layers, frames, width) per utterance, half precision times one scale per layer. S3PRL's wrapper computes all features
and sets their lengths. A shard is written whole or not at all. Unused shards may be deleted; they are computed again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from filelock import Timeout

from corpora.audio import SAMPLE_RATE, AudioError
from corpora.datadir import read_utterance
from corpora.files import BadFileTally, CorpusError, atomic_dir, locked, read_json, sha256_json, write_json
from downstream import DownstreamError
from downstream.probe.data import LabelledUtterance
from downstream.upstreams import Upstream

logger = logging.getLogger(__name__)

KINDS = ("pooled", "frames")
# The size of a shard is the most that an interrupted run loses.
SHARD_ITEMS = 2048
_SHARD_BYTES = 256 << 20
_SHARD_SECONDS = 900
# Seconds of padded audio in one pass of the upstream; limits memory.
_PASS_SECONDS = 24.0
_SPARE_BYTES = 64 << 20
# The list of a shard's keys; its modification time is the shard's last use.
_LISTING = "keys.json"
# Increase it when the meaning of the stored numbers changes.
_FORM = 1


class CacheFull(DownstreamError):
    """The features fit neither on the disk nor below the limit; the upstream can still run at every step."""


@dataclass(frozen=True)
class Info:
    """The shape of an upstream's features: number of hidden states, their width, samples between frames."""

    layers: int
    width: int
    stride: int

    def frames(self, samples: int) -> int:
        """S3PRL's length of an utterance: ceil(samples / stride)."""
        return (samples - 1) // self.stride + 1


class Extractor(Protocol):
    """A frozen upstream: waveforms (n,) to hidden states (layers, frames, width), float32."""

    info: Info

    def __call__(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]: ...


@dataclass
class Features:
    """The features of one upstream and kind; `features[item.key]` is (layers, width) or (layers, frames, width).

    No process removes these features from the disk while this object exists and `hold` is open.
    """

    info: Info
    kind: str
    normalised: bool
    where: dict[str, tuple[Any, int]]
    bad: set[str]
    hold: IO[str] | None = None

    def __contains__(self, key: str) -> bool:
        return key in self.where

    def __getitem__(self, key: str) -> np.ndarray:
        shard, row = self.where[key]
        return shard[row]

    def packed(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Frames as stored: float16 (layers, frames, width), and the scale (layers,) to multiply them by."""
        shard, row = self.where[key]
        return shard.packed(row)

    def usable(self, items: Iterable[LabelledUtterance]) -> list[LabelledUtterance]:
        """The items whose audio could be read."""
        return [item for item in items if item.key not in self.bad]


class _Normalised:
    """An extractor with frames normalised as by S3PRL's featurizer, which does so only if it sums several layers."""

    def __init__(self, extractor: Extractor):
        self.extractor = extractor
        self.info = extractor.info

    def __call__(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        hidden = self.extractor(waves)
        return [layer_norm(states) for states in hidden] if self.info.layers > 1 else hidden


def layer_norm(states: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the last axis, as `torch.nn.functional.layer_norm` without parameters."""
    centred = states - states.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(1e-5))


class _PooledShard:
    def __init__(self, folder: Path):
        self.values = np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[row]


class _FramesShard:
    def __init__(self, folder: Path, info: Info):
        # Mode "c" (copy on write) since torch refuses read-only memory; nothing is ever written.
        self.values = np.load(folder / "values.npy", mmap_mode="c", allow_pickle=False)
        self.scale = np.load(folder / "scale.npy", allow_pickle=False)
        self.count = np.load(folder / "frames.npy", allow_pickle=False)
        self.start = np.concatenate([[0], np.cumsum(self.count)]) * info.layers * info.width
        self.info = info

    def __getitem__(self, row: int) -> np.ndarray:
        stored, scale = self.packed(row)
        return stored.astype(np.float32) * scale[:, None, None]

    def packed(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """As stored: float16 (layers, frames, width), and the scale of each layer."""
        flat = self.values[self.start[row] : self.start[row + 1]]
        return flat.reshape(self.info.layers, self.count[row], self.info.width), self.scale[row]


def folder_of(root: Path, upstream: Upstream) -> Path:
    """Folder of the features of an upstream."""
    return Path(root) / f"{upstream.name}-{upstream.key[:12]}-{_FORM}"


def prepare(
    root: Path,
    upstream: Upstream,
    kind: str,
    items: Iterable[LabelledUtterance],
    build: Callable[[], Extractor],
    *,
    normalised: bool = False,
    limit_bytes: int | None = None,
    shard_items: int = SHARD_ITEMS,
    progress: Callable[[float], None] = lambda share: None,
) -> Features:
    """Features of `items`; missing ones are computed, and `build` is called only if some are missing.

    `normalised` stores each frame as S3PRL's featurizer normalises it with its option `normalize` (`layer_norm`).
    Utterances with unreadable audio are left out, counted and listed; too many of them stop the run
    (`corpora.files.TooManyBadFiles`). `limit_bytes` limits all features under `root`: those that no process uses are
    deleted, the least recently used first. Processes that need the same features divide the work.

    Raises DownstreamError for features that are not finite and names the utterance, and CacheFull if the disk or the
    limit cannot hold the features.
    """
    if kind not in KINDS:
        raise ValueError(f"kind of features `{kind}`: choose from {', '.join(KINDS)}")
    folder = folder_of(root, upstream)
    store = folder / (f"{kind}_normalised" if normalised else kind)
    hold = _use(store)
    # One entry per audio content: folds and tasks share utterances.
    wanted = {item.key: item for item in sorted(items, key=lambda i: (i.samples, i.utt_id), reverse=True)}
    stored, unreadable = _stored(store)
    missing = [item for key, item in wanted.items() if key not in stored and key not in unreadable]
    tally = BadFileTally(len(wanted))
    for key in sorted(wanted.keys() & unreadable.keys()):
        tally.skip(wanted[key].audio, unreadable[key])
    if missing:
        extractor = build()
        info = extractor.info
        _write_info(folder, upstream, info)
        _check_room(folder, upstream, kind, missing, info, limit_bytes)
        extractor = _Normalised(extractor) if normalised else extractor
        parts = _shards(sorted(missing, key=lambda i: (i.samples, i.utt_id)), kind, info, shard_items)
        total = sum(item.samples for item in missing)
        done = 0

        def write(shard: Path, part: Sequence[LabelledUtterance]) -> None:
            nonlocal done
            _write_shard(shard, part, kind, upstream, extractor, tally)
            done += sum(item.samples for item in part)
            progress(done / total)

        _write_each({store / sha256_json([item.key for item in part])[:16]: part for part in parts}, write)
    tally.check()
    info = Info(**{k: v for k, v in read_json(folder / "info.json").items() if k in Info.__annotations__})
    where, read = _index(store, kind, info, set(wanted))
    for shard in read:
        os.utime(shard / _LISTING)
    _, unreadable = _stored(store)
    bad = {key for key in wanted if key not in where}
    if lost := sorted(bad - set(unreadable)):
        raise DownstreamError(
            f"{upstream.name}: {store} lacks {len(lost)} of the features that were just computed; delete the folder "
            "and run again"
        )
    return Features(info, kind, normalised, where, bad, hold)


def _complete(store: Path) -> list[Path]:
    """Finished shards of one kind of features; names with a leading dot are locks and unfinished shards."""
    return sorted(p for p in store.glob("[!.]*") if (p / _LISTING).is_file()) if store.is_dir() else []


def _use(store: Path) -> IO[str]:
    """Lock the features of one kind against removal until the returned file is closed.

    It is a shared lock (`flock`), which the system releases when the process ends. filelock's `ReadWriteLock` needs an
    SQLite file, and each of its locks belongs to one thread.
    """
    store.mkdir(parents=True, exist_ok=True)
    handle = open(store / ".use", "w")  # noqa: SIM115  the caller keeps it open
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def _write_each(
    shards: dict[Path, list[LabelledUtterance]], write: Callable[[Path, list[LabelledUtterance]], None]
) -> None:
    """Call `write` for each missing shard; shards that another process is writing come last and are waited for."""
    for wait in (False, True):
        busy = {}
        for shard, part in shards.items():
            try:
                with locked(shard, timeout=-1 if wait else 0):
                    if not ((shard / _LISTING).is_file() and any(read_listing(shard).values())):
                        write(shard, part)
            except Timeout:
                busy[shard] = part
        shards = busy


def _make_room(root: Path, need: int, limit: int) -> int:
    """Remove the least recently used shards until `need` more bytes fit below `limit` bytes in `root`.

    Features that any process uses stay. Returns the remaining number of bytes.
    """
    sizes: dict[Path, int] = {}
    last_use: dict[Path, float] = {}
    for listing in root.glob(f"*/*/[!.]*/{_LISTING}"):
        with contextlib.suppress(FileNotFoundError):  # another process may make room as well
            shard = listing.parent
            sizes[shard] = sum(file.stat().st_size for file in shard.iterdir())
            last_use[shard] = listing.stat().st_mtime
    total = sum(sizes.values())
    for shard in sorted(last_use, key=lambda shard: last_use[shard]):
        if total + need <= limit:
            break
        with open(shard.parent / ".use", "w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            # Without its listing it is no shard, even if the removal of the other files is interrupted.
            (shard / _LISTING).unlink(missing_ok=True)
            shutil.rmtree(shard, ignore_errors=True)
            total -= sizes[shard]
    return total


def _stored(folder: Path) -> tuple[set[str], dict[str, str]]:
    """Keys of the stored features, and of unreadable audio with the reason."""
    keys: set[str] = set()
    unreadable: dict[str, str] = {}
    for path in _complete(folder):
        listing = read_listing(path)
        keys.update(listing["keys"])
        unreadable.update(listing["unreadable"])
    return keys, unreadable


def read_listing(shard: Path) -> dict[str, Any]:
    """The keys of a shard, and its unreadable audio with the reason.

    A shard with a damaged list counts as empty, which a warning says; its features are computed again.
    """
    path = shard / _LISTING
    try:
        listing = read_json(path)
        if not isinstance(listing, dict) or not {"keys", "unreadable"} <= listing.keys():
            raise CorpusError(f"{path}: not the list of a shard")
        return listing
    except CorpusError as error:
        logger.warning("%s; the features of this folder are computed again", error)
        return {"keys": [], "unreadable": {}}


def _index(folder: Path, kind: str, info: Info, wanted: set[str]) -> tuple[dict[str, tuple[Any, int]], list[Path]]:
    """The shard and row of each wanted key, and the folders of these shards."""
    where: dict[str, tuple[Any, int]] = {}
    read: list[Path] = []
    for path in _complete(folder):
        keys = read_listing(path)["keys"]
        if wanted.isdisjoint(keys):
            continue
        try:
            shard = _PooledShard(path) if kind == "pooled" else _FramesShard(path, info)
        except (ValueError, EOFError, OSError) as error:
            raise DownstreamError(
                f"{path}: damaged ({error}); delete this folder, its features are computed again"
            ) from error
        where.update({key: (shard, row) for row, key in enumerate(keys) if key in wanted})
        read.append(path)
    return where, read


def _shards(items: list[LabelledUtterance], kind: str, info: Info, most: int) -> list[list[LabelledUtterance]]:
    """Consecutive items of limited total size; a resumed run makes the same shards, since only the items count."""
    parts: list[list[LabelledUtterance]] = []
    size = samples = 0
    for item in items:
        own = bytes_of(item, kind, info)
        full = size + own > _SHARD_BYTES or samples + item.samples > _SHARD_SECONDS * SAMPLE_RATE
        if not parts or full or len(parts[-1]) >= most:
            parts.append([])
            size = samples = 0
        parts[-1].append(item)
        size += own
        samples += item.samples
    return parts


def bytes_of(item: LabelledUtterance, kind: str, info: Info) -> int:
    """Bytes on disk of the features of one utterance."""
    if kind == "pooled":
        return info.layers * info.width * 4
    return info.layers * (info.frames(item.samples) * info.width * 2 + 4)


def _check_room(
    folder: Path, upstream: Upstream, kind: str, items: list[LabelledUtterance], info: Info, limit: int | None
) -> None:
    """Log the size of the missing features, and raise CacheFull if they do not fit."""
    need = sum(bytes_of(item, kind, info) for item in items)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    hours = sum(item.samples for item in items) / SAMPLE_RATE / 3600
    logger.info(
        "%s: %s features of %d utterances (%.2f h) will take %s in %s (%s free)",
        upstream.name,
        kind,
        len(items),
        hours,
        size_text(need),
        folder,
        size_text(free),
    )
    text = f"{upstream.name}: its {kind} features of {hours:.2f} h of audio take {size_text(need)}"
    if limit is not None and (used := _make_room(folder.parent, need, limit)) + need > limit:
        raise CacheFull(
            f"{text}, but --cache_gb allows {size_text(limit)}, of which {size_text(used)} are in use; raise it"
        )
    if need + _SPARE_BYTES > (free := shutil.disk_usage(folder).free):
        raise CacheFull(
            f"{text}, but the disk of {folder} has {size_text(free)} free; make room (older folders beside it may be "
            "deleted, they are computed again when needed), or use another --exp folder"
        )


def _write_info(folder: Path, upstream: Upstream, info: Info) -> None:
    path = folder / "info.json"
    content = asdict(info) | {"upstream": upstream.name, "key": upstream.key, "form": _FORM}
    if path.is_file() and _content(path) != content:
        logger.warning("%s: features of another form are deleted and computed again", folder)
        shutil.rmtree(folder)
    write_json(path, content)


def _content(path: Path) -> Any:
    """The content of a JSON file; None if it is damaged."""
    try:
        return read_json(path)
    except CorpusError:
        return None


def _write_shard(
    folder: Path,
    items: Sequence[LabelledUtterance],
    kind: str,
    upstream: Upstream,
    extractor: Extractor,
    tally: BadFileTally,
) -> None:
    waves, kept, unreadable = [], [], {}
    for item in items:
        try:
            wave = read_utterance(item)
        except AudioError as error:
            unreadable[item.key] = f"{error} (utterance {item.utt_id})"
            tally.skip(item.audio, unreadable[item.key])
            continue
        waves.append(wave)
        kept.append(item)
    tally.check()
    if not kept:
        return
    write = _write_pooled if kind == "pooled" else _write_frames
    listing = {"keys": [item.key for item in kept], "unreadable": unreadable}
    try:
        with atomic_dir(folder) as temporary:
            write(temporary, kept, waves, upstream, extractor)
            write_json(temporary / _LISTING, listing)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DownstreamError(
            f"{upstream.name}: the disk is full while writing features to {folder}; make room (older folders in "
            f"{folder.parents[2]} may be deleted) and run again; complete shards are kept"
        ) from error


def _write_pooled(
    folder: Path, items: list[LabelledUtterance], waves: list[np.ndarray], upstream: Upstream, extractor: Extractor
) -> None:
    info = extractor.info
    values = np.empty((len(items), info.layers, info.width), np.float32)
    for row, hidden in _extract(items, waves, upstream, extractor):
        values[row] = hidden.mean(axis=1)
    np.save(folder / "values.npy", values, allow_pickle=False)


def _write_frames(
    folder: Path, items: list[LabelledUtterance], waves: list[np.ndarray], upstream: Upstream, extractor: Extractor
) -> None:
    info = extractor.info
    counts = np.array([info.frames(len(wave)) for wave in waves], dtype=np.int64)
    flat = np.empty(int(counts.sum()) * info.layers * info.width, np.float16)
    starts = np.concatenate([[0], np.cumsum(counts)]) * info.layers * info.width
    scales = np.empty((len(items), info.layers), np.float32)
    for row, hidden in _extract(items, waves, upstream, extractor):
        # With a largest value of 1, half precision keeps 11 bits of every value above 6e-5, at any scale of the layer.
        scales[row] = np.maximum(np.abs(hidden).max(axis=(1, 2)), np.finfo(np.float32).tiny)
        flat[starts[row] : starts[row + 1]] = (hidden / scales[row][:, None, None]).astype(np.float16).ravel()
    np.save(folder / "values.npy", flat, allow_pickle=False)
    np.save(folder / "scale.npy", scales, allow_pickle=False)
    np.save(folder / "frames.npy", counts, allow_pickle=False)


def _extract(
    items: list[LabelledUtterance], waves: list[np.ndarray], upstream: Upstream, extractor: Extractor
) -> Iterable[tuple[int, np.ndarray]]:
    """(row, hidden states) of every item; items of similar lengths share a pass if the upstream allows batches."""
    passes: list[list[int]] = []
    for row, wave in enumerate(waves):
        full = not passes or (len(passes[-1]) + 1) * len(wave) > _PASS_SECONDS * SAMPLE_RATE
        if full or not upstream.batched:
            passes.append([])
        passes[-1].append(row)
    for rows in passes:
        for row, hidden in zip(rows, extractor([waves[row] for row in rows]), strict=True):
            expected = (extractor.info.layers, extractor.info.frames(len(waves[row])), extractor.info.width)
            if hidden.shape != expected:
                raise DownstreamError(
                    f"{upstream.name}: features of utterance {items[row].utt_id} have shape {hidden.shape}, "
                    f"expected {expected}"
                )
            if not np.isfinite(hidden).all():
                layer = int(np.flatnonzero(~np.isfinite(hidden).all(axis=(1, 2)))[0])
                raise DownstreamError(
                    f"{upstream.name}: hidden state {layer} of utterance {items[row].utt_id} ({items[row].audio}) "
                    "holds NaN or infinity; the model or this file is broken"
                )
            yield row, hidden


def size_text(count: float) -> str:
    """Bytes for people: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
