"""Parquet files with audio inside, as data sets are shared on hubs: rows with line numbers, audio as files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.files import atomic_file
from corpora.ingest import CorpusError

if TYPE_CHECKING:
    import pyarrow.parquet

_ROWS = 64  # of one batch: a row holds a whole clip


def read_rows(
    path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, column -> value) of a Parquet file, a few rows in memory at a time.

    Raises CorpusError for a file that is no Parquet or lacks one of `columns`; `optional` ones are read if there.
    """
    import pyarrow

    with _open(path) as file:
        found = file.schema_arrow.names
        missing = [name for name in columns if name not in found]
        if missing:
            raise CorpusError(
                f"{path}: expected the columns {', '.join(columns)}; {', '.join(missing)} not among {', '.join(found)}"
            )
        wanted = [*columns, *(name for name in optional if name in found)]
        number = 0
        try:
            for batch in file.iter_batches(batch_size=_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise CorpusError(f"{path}: row {number + 1} cannot be read ({' '.join(str(error).split())})") from error


def count_rows(path: Path) -> int:
    """Number of rows of a Parquet file; raises CorpusError for a file that is none."""
    with _open(path) as file:
        return file.metadata.num_rows


def extract_audio(cell: Any, folder: Path, name: str) -> Path:
    """Write the audio of a cell ({"bytes": ..., "path": ...} or bytes) as `<folder>/<name><suffix>`; its path.

    A file that holds the same bytes already is kept, so that an interrupted run goes on where it was. Raises
    CorpusError for a cell without bytes; what the bytes hold is not looked at.
    """
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes) or not content:
        raise CorpusError("the audio cell holds no bytes")
    path = folder / f"{name}{_suffix(content)}"
    if not (path.exists() and path.stat().st_size == len(content) and _same(path, content)):
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
    return path


def _open(path: Path) -> pyarrow.parquet.ParquetFile:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())})") from error


def _same(path: Path, content: bytes) -> bool:
    return hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content).digest()


def _suffix(content: bytes) -> str:
    """The suffix of a container by its first bytes; names inside data sets are often missing or wrong."""
    if content[:4] == b"fLaC":
        return ".flac"
    if content[:4] == b"OggS":
        return ".ogg"
    if content[:4] == b"RIFF":
        return ".wav"
    return ".mp3"
