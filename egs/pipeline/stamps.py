"""Which stages are complete: one stamp a stage, and a lock so that two runs do not work on one recipe.

A stamp holds the digest of what went in (the stage's part of the recipe, external inputs, and the `result` of every
stage it depends on) and the `result`: a digest of the files that later stages read. A stage that is run again with the
same outcome therefore leaves its dependants complete, and one with another outcome does not. Nothing here needs torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from corpora.files import read_json, sha256_file, write_json, write_text

CHANGED = "its configuration or inputs changed"


class RecipeLocked(RuntimeError):
    """Another process works on the same experiment folder."""


@dataclass(frozen=True)
class Stamp:
    """What a finished stage leaves behind; `outputs` are paths as the stage named them, `seconds` is wall time."""

    digest: str
    result: str
    outputs: tuple[str, ...]
    finished: str
    seconds: float


class StampFolder:
    """The stamps of one experiment folder, `<folder>/stage_NN.json`; `stage_NN.begun` marks one under way.

    What a recipe makes besides the thirteen stages has its name in place of the number.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, place: int | str) -> Stamp | None:
        """The stamp of a finished stage; None where there is none (or it was not written by us)."""
        path = self._path(place, "json")
        if not path.is_file():
            return None
        try:
            fields = read_json(path)
            return Stamp(**{**fields, "outputs": tuple(fields["outputs"])})
        except (ValueError, KeyError, TypeError):
            return None

    def begun(self, place: int | str) -> str | None:
        """The digest under which an unfinished stage was started; None where none was."""
        path = self._path(place, "begun")
        return path.read_text(encoding="utf-8").strip() if path.is_file() else None

    def reopen(self, place: int | str) -> str:
        """Take the stamp away before anything changes, so that a killed stage is never taken for a complete one.

        Returns the digest of what is there, "" where nothing is.
        """
        stamp = self.read(place)
        if stamp is not None:
            self.begin(place, stamp.digest)
        self._path(place, "json").unlink(missing_ok=True)
        return self.begun(place) or ""

    def begin(self, place: int | str, digest: str) -> None:
        """Note what is being made, for whoever goes on with it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.begun(place) != digest:
            write_text(self._path(place, "begun"), digest + "\n")

    def finish(self, place: int | str, stamp: Stamp) -> None:
        """Write the stamp, whole or not at all."""
        write_json(self._path(place, "json"), asdict(stamp))
        self._path(place, "begun").unlink(missing_ok=True)

    def _path(self, place: int | str, suffix: str) -> Path:
        return self.folder / f"stage_{file_name(place)}.{suffix}"


def file_name(place: int | str) -> str:
    """Two digits for a number, a name as it is."""
    return f"{place:02d}" if isinstance(place, int) else place


def why_incomplete(stamp: Stamp | None, digest: str, outputs: Iterable[Path]) -> str | None:
    """The reason why a stage has to run; None when it is complete."""
    if stamp is None:
        return "not finished yet"
    if stamp.digest != digest:
        return CHANGED
    missing = next((path for path in outputs if not path.exists()), None)
    return f"{missing} is missing" if missing else None


def content_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over names and contents of files; a folder counts with every file below it.

    Raises FileNotFoundError for a path that does not exist.
    """
    digest = hashlib.sha256()
    for path in paths:
        if path.is_dir():
            files = sorted(Path(folder) / name for folder, _, names in os.walk(path) for name in names)
        else:
            files = [path]
        for file in files:
            name = file.relative_to(path) if file != path else Path(file.name)
            digest.update(f"{path.name}/{name.as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an experiment folder. Raises RecipeLocked, naming the process that holds it.

    A POSIX record lock: it ends with the process, however that dies, and worker processes do not inherit it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with open(path, "a+", encoding="utf-8") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise RecipeLocked(
                f"{folder.parent} is in use by process {holder}: wait for it, or stop it (kill {holder})"
            ) from error
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield
        stream.truncate(0)
