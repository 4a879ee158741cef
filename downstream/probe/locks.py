"""Who uses which features on disk, and which of them go when there are too many.

    <root>/<upstream>/<kind>/<shard>/   keys.json (its time is the last use), values.npy, ...
    <root>/<upstream>/<kind>/.use       shared lock of every process that reads this kind
    <root>/<upstream>/<kind>/.write-*   lock of the process that computes a shard

Locks are `flock`: they end with their process, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LISTING = "keys.json"


def complete(store: Path) -> list[Path]:
    """Finished shards of one kind of features; a leading dot marks locks and what was never finished."""
    return sorted(p for p in store.glob("[!.]*") if (p / LISTING).is_file()) if store.is_dir() else []


def use(store: Path) -> IO[str]:
    """Hold the features of one kind until the returned file is closed: nobody removes them meanwhile."""
    store.mkdir(parents=True, exist_ok=True)
    handle = open(store / ".use", "w")  # noqa: SIM115  the caller keeps it open
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def mark_used(shards: Iterable[Path]) -> None:
    """Note that these shards are read now."""
    for shard in shards:
        os.utime(shard / LISTING)


def write_each(store: Path, names: Iterable[str], write: Callable[[str], None]) -> None:
    """Call `write` for each shard that is not there; what another process is at comes last, and is waited for."""
    waiting: list[str] = []
    for name in names:
        with _writing(store, name, wait=False) as mine:
            if not mine:
                waiting.append(name)
            elif not (store / name / LISTING).is_file():
                write(name)
    for name in waiting:
        with _writing(store, name, wait=True):
            if not (store / name / LISTING).is_file():
                write(name)


@contextmanager
def _writing(store: Path, name: str, *, wait: bool) -> Iterator[bool]:
    with open(store / f".write-{name}", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def make_room(root: Path, need: int, limit: int) -> int:
    """Remove the shards that were not used for the longest time until `need` bytes fit below `limit` bytes in `root`.

    Kinds of features that any process uses stay. Returns the bytes that are still there.
    """
    sizes: dict[Path, int] = {}
    for listing in root.glob(f"*/*/[!.]*/{LISTING}"):
        with contextlib.suppress(FileNotFoundError):  # another process may make room as well
            sizes[listing.parent] = _size(listing.parent)
    total = sum(sizes.values())
    for shard in sorted(sizes, key=_last_use):
        if total + need <= limit:
            break
        with open(shard.parent / ".use", "w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            # Without its listing it is no shard, whatever stops us before the rest is gone.
            (shard / LISTING).unlink(missing_ok=True)
            shutil.rmtree(shard, ignore_errors=True)
            total -= sizes[shard]
    return total


def _last_use(shard: Path) -> float:
    try:
        return (shard / LISTING).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(shard: Path) -> int:
    return sum(file.stat().st_size for file in shard.iterdir())
