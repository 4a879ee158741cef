"""Files that are written whole or not at all, and a count of the bad ones among those that are read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class TooManyBadFiles(RuntimeError):
    """More files of a set are unusable than the stage may silently leave out."""


def _temporary_name(path: Path) -> Path:
    # Process id and host let a later run recognise what a killed one left behind.
    mark = f"{os.getpid()}-{uuid.uuid4().hex[:8]}-{socket.gethostname()}"
    return path.with_name(f".{path.stem}.tmp-{mark}{path.suffix}")


def remove_leftovers(path: Path) -> None:
    """Delete temporary files and folders for `path` whose process on this host is gone (killed before it cleaned up).

    `atomic_dir` calls it; `atomic_file` does not, for it would list a folder of thousands of files at each of them.
    """
    mark = re.escape(f".{path.stem}.tmp-"), re.escape(f"-{socket.gethostname()}{path.suffix}")
    pattern = re.compile(rf"{mark[0]}(\d+)-[0-9a-f]{{8}}{mark[1]}")
    for entry in path.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and not _is_running(int(match[1])):
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if path.is_file():  # some file systems refuse to sync a folder; a file must reach the disk
            raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there takes its name on success and is removed on error.

    The temporary file has the suffix of `path`, so that writers which look at it choose the same format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    try:
        yield temporary
        if not temporary.is_file():
            raise FileNotFoundError(f"nothing was written to {temporary}, so {path} was not made")
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on success it replaces `path`, on error it is removed.

    A `path` that exists is moved aside first and deleted last, so a complete folder is under its name at any time but
    for the instant between two renames.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = _temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                _sync(file)
        if path.exists():
            aside = _temporary_name(path)
            path.rename(aside)
            try:
                temporary.rename(path)
            except OSError:
                aside.rename(path)
                raise
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
        else:
            temporary.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically as UTF-8 with its line ends as they are (LF)."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` atomically as indented UTF-8 JSON, keys in their own order."""
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a ValueError names the file and the place of what is wrong."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON, line {error.lineno} column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from error


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(obj: Any) -> str:
    """Hexadecimal SHA-256 of an object's JSON form, independent of the order of keys."""
    canonical = json.dumps(obj, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def hash_fraction(key: str, seed: int, purpose: str = "split") -> float:
    """Seeded number in [0, 1) from the hash of a key. `purpose` separates draws that share key and seed."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def tree_fingerprint(folder: Path) -> str:
    """Hexadecimal SHA-256 of the relative names and sizes of all files under `folder` (content is not read)."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    entries = []
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            file = Path(parent, name)
            try:
                size = file.stat().st_size
            except FileNotFoundError:  # a link to nothing: whoever needs it will say so
                size = -1
            entries.append([file.relative_to(folder).as_posix(), size])
    return sha256_json(sorted(entries))


class BadFileTally:
    """Counts files of a set that had to be left out, and stops the stage when they are too many.

    A share above `limit` does so, but a single bad file only where it is the only file.
    """

    def __init__(self, total: int, limit: float = 0.05, *, what: str = "files"):
        """what: the name of the things counted, for messages."""
        self.total = total
        self.limit = limit
        self.what = what
        self.skipped: list[tuple[Path, str]] = []

    def skip(self, path: Path, reason: object) -> None:
        """Count `path` as left out and log why."""
        self.skipped.append((Path(path), " ".join(str(reason).split())))
        logger.warning("left out %s: %s", path, self.skipped[-1][1])

    def check(self) -> None:
        """Raise TooManyBadFiles if the share of files left out lies above the limit."""
        count = len(self.skipped)
        too_many = count >= 2 and count > self.limit * self.total
        if count and (too_many or count >= self.total):
            path, reason = self.skipped[0]
            raise TooManyBadFiles(
                f"{count} of {self.total} {self.what} cannot be used (limit {self.limit:.0%}); "
                f"the first is {path}: {reason}. Check that the corpus is complete, or repair or remove these "
                f"{self.what}."
            )
        if count:
            logger.warning("left out %d of %d %s", count, self.total, self.what)

    def write(self, path: Path, *others: BadFileTally) -> None:
        """Write the list of files left out as TSV (path, reason), with those of other tallies after it."""
        skipped = [entry for tally in (self, *others) for entry in tally.skipped]
        rows = (f"{file}\t{reason}\n" for file, reason in skipped)
        write_text(path, "path\treason\n" + "".join(rows))
