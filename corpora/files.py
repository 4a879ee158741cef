"""Write files whole or not at all, lock and hash them, and count the unreadable ones of a set."""

from __future__ import annotations

import csv
import functools
import hashlib
import inspect
import io
import json
import logging
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)
_ONE_FIELD = str.maketrans("\t\r\n", "   ")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class CorpusError(ValueError):
    """Unusable input: a corpus, a data directory, a file or an option. The message names the input and the remedy."""


class TooManyBadFiles(CorpusError):
    """Too many files of a set cannot be read."""


def _temporary_name(path: Path) -> Path:
    # A later run recognises the leftovers of a killed run by process id and host.
    mark = f"{os.getpid()}-{uuid.uuid4().hex[:8]}-{socket.gethostname()}"
    return path.with_name(f".{path.stem}.tmp-{mark}{path.suffix}")


def remove_leftovers(path: Path) -> None:
    """Delete the temporary files and folders of `path` that killed processes of this host have left.

    `atomic_dir` calls this function. `atomic_file` does not: listing a folder of thousands of files for each of them
    would be slow.
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
    """Yield a temporary path next to `path`. The file written there is renamed to `path` on success, removed on error.

    It has the suffix of `path`, since some writers choose the format by the suffix. Raises CorpusError where `path` is
    a folder, before hours of work are lost.
    """
    path = Path(path)
    if path.is_dir():
        raise CorpusError(f"{path}: a folder, which a file cannot replace; name a file")
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
    """Yield an empty temporary folder next to `path`. On success it replaces `path`, on error it is removed.

    An existing `path` is renamed first and deleted last: a complete folder has this name at any time, except for the
    instant between two renames.
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


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock `.<name>.lock` next to `path`, which one process of this machine at a time can hold.

    The system releases the lock when the process ends, also when it is killed. Raises filelock.Timeout when another
    process still holds the lock after `timeout` seconds; by default the wait has no limit.
    """
    from filelock import FileLock  # takes 0.1 s to import

    lock = _make_folder_of(lock_file(path))
    with FileLock(lock, timeout=timeout):
        yield


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the lock of an output folder or file, which one command at a time may write.

    Raises CorpusError at once if another process holds it, and names that process. The lock file is removed afterwards;
    that of a killed process stays and locks nothing.
    """
    from filelock import FileLock, Timeout

    path = Path(os.path.realpath(path))  # a run may be known by a link
    lock = _make_folder_of(lock_file(path))
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        pid = lock.read_text(encoding="ascii").strip() if lock.is_file() else ""
        raise CorpusError(
            f"{path} is in use by {f'process {pid}' if pid else 'another process'}: wait until it ends, stop it, or "
            "give this command another folder"
        ) from None
    try:
        lock.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        # Removed while it is locked: who waits for it notices that it has gone, and makes a new one.
        lock.unlink(missing_ok=True)
        held.release()


def walk_once(folder: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` in the order of the names, which follows links to folders elsewhere and visits every folder once.

    Without links the folders behind them would be missing without a word; links to a folder above would never end.
    """
    top = Path(os.path.realpath(folder))
    seen = {top}
    for parent, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        for name in sorted(folders):
            path = Path(parent, name)
            real = Path(os.path.realpath(path))
            if real in seen or path.is_symlink() and real.is_relative_to(top):
                folders.remove(name)
            seen.add(real)
        folders.sort()
        yield parent, folders, names


def check_output(out: Path | None, inputs: Iterable[Path | None]) -> None:
    """Raise CorpusError where an output file is one of the files that the command reads, which it would replace."""
    if out is None or not out.exists():
        return
    for path in inputs:
        if path is not None and path.exists() and path.samefile(out):
            raise CorpusError(f"--out {out}: this command reads {path}, which would be lost; name another file")


def writes(argument: str, when: Callable[[], bool] = lambda: True) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorator: hold the lock of the folder that is this argument of the function, if `when` is true."""

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(function)
        def with_lock(*args: Any, **kwargs: Any) -> T:
            if not when():
                return function(*args, **kwargs)
            with only_writer(inspect.signature(function).bind(*args, **kwargs).arguments[argument]):
                return function(*args, **kwargs)

        return with_lock

    return decorate


def _make_folder_of(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(parent for parent in path.parents if parent.exists())
        raise CorpusError(f"{file} is a file, not a folder; name another output") from None
    return path


def lock_file(path: Path) -> Path:
    """The file that `locked(path)` locks."""
    return path.with_name(f".{path.name}.lock")


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically as UTF-8; line ends stay as they are (LF)."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` atomically as indented UTF-8 JSON; keys keep their order."""
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises CorpusError, with line and column where possible, if it is not valid JSON in UTF-8."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise CorpusError(f"{path}: not valid JSON, line {error.lineno} column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 at byte {error.start}") from error
    except (RecursionError, ValueError) as error:  # thousands of brackets, a number of thousands of digits
        raise CorpusError(f"{path}: not a JSON file of a usual size ({error})") from None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cached_sha256(path: Path) -> str:
    """SHA-256 of a file; a process reads the file once for each size and modification time."""
    status = path.stat()
    return _cached_sha256(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _cached_sha256(path: Path, size: int, modified_ns: int) -> str:
    return sha256_file(path)


def sha256_json(obj: Any) -> str:
    """SHA-256 of an object as JSON, in hexadecimal, independent of the order of keys."""
    canonical = json.dumps(obj, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def hash_fraction(key: str, seed: int, purpose: str = "split") -> float:
    """Seeded number in [0, 1) from the hash of a key. `purpose` separates draws that share key and seed."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def tree_fingerprint(folder: Path) -> str:
    """SHA-256 of the relative names and the sizes of all files under `folder`, in hexadecimal; no content is read."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    entries = []
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            file = Path(parent, name)
            try:
                size = file.stat().st_size
            except FileNotFoundError:  # a dangling link; reading it fails with a clear message
                size = -1
            entries.append([file.relative_to(folder).as_posix(), size])
    return sha256_json(sorted(entries))


def is_utf8(name: str) -> bool:
    """Whether a file name is UTF-8; Python marks other bytes by surrogates, which UTF-8 does not have."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


class BadFileTally:
    """Count the unreadable files of a set, and stop when there are too many.

    `check` raises above the share `limit`. A single bad file is tolerated unless it is the only file of the set.
    """

    def __init__(self, total: int, limit: float = 0.05, *, what: str = "files"):
        """what: plural noun for the counted things, used in messages."""
        self.total = total
        self.limit = limit
        self.what = what
        self.skipped: list[tuple[Path, str]] = []

    def skip(self, path: Path, reason: object) -> None:
        """Count `path` as left out, and log the reason."""
        self.skipped.append((Path(path), " ".join(str(reason).split())))
        logger.warning("left out %s: %s", path, self.skipped[-1][1])

    def check(self) -> None:
        """Raise TooManyBadFiles if the share of files left out is above the limit."""
        count = len(self.skipped)
        if not count:
            return
        if count >= self.total or (count >= 2 and count > self.limit * self.total):
            path, reason = self.skipped[0]
            raise TooManyBadFiles(
                f"{count} of {self.total} {self.what} cannot be used (limit {self.limit:.0%}); the first is {path}: "
                f"{reason}. Check that the corpus is complete, or repair or remove these {self.what}."
            )
        logger.warning("left out %d of %d %s", count, self.total, self.what)

    def write(self, path: Path, *others: BadFileTally) -> None:
        """Write the files left out as TSV (path, reason), first those of this tally, then those of `others`."""
        rows = [entry for tally in (self, *others) for entry in tally.skipped]
        write_tsv(path, ("path", "reason"), rows)


def for_spreadsheet(value: object) -> object:
    """A field of a table: text that a spreadsheet would compute as a formula gets an apostrophe before it.

    These are texts, other than numbers, that begin with = + - @ or a tab. `from_spreadsheet` undoes it.
    """
    if not isinstance(value, str) or not value.lstrip("'").startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def from_spreadsheet(text: str) -> str:
    """The text that `for_spreadsheet` was given."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_FORMULA) else text


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Any]) -> None:
    """Write mappings or dataclasses as CSV (UTF-8, LF), whole or not at all.

    None and missing columns are empty fields. Text passes `for_spreadsheet`. Raises ValueError if a row has another
    column.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    mappings = (asdict(row) if is_dataclass(row) else row for row in rows)
    writer.writerows({name: for_spreadsheet(value) for name, value in row.items()} for row in mappings)
    write_text(Path(path), buffer.getvalue())


def write_tsv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a tab-separated table atomically; a tab or line end inside a field becomes a space. Text passes
    `for_spreadsheet`, and what is not UTF-8 is written with backslashes."""
    lines = ("\t".join(str(for_spreadsheet(field)).translate(_ONE_FIELD) for field in row) for row in (header, *rows))
    content = "".join(f"{line}\n" for line in lines)
    write_text(path, content.encode("utf-8", "backslashreplace").decode("utf-8"))
