"""Corpora that come as Parquet files with the audio inside: rows as plain values, recordings as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from corpora.files import atomic_file
from corpora.prepare.ingest import CorpusError

_ROWS_AT_ONCE = 64  # with their audio; what a shard holds in memory

_SUFFIXES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff": ".mp3"}


def read_parquet(
    path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`<file>:row <number>`, values by column) of a Parquet file, some rows at a time.

    optional: columns that are read where they are there. Raises CorpusError for a file that is damaged or lacks one
    of `columns`.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CorpusError(f"{path}: pyarrow reads Parquet files and is missing: pip install pyarrow") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = [column for column in columns if column not in names]
            if missing:
                raise CorpusError(
                    f"{path}: expected the columns {', '.join(columns)}; found {', '.join(names)} (missing: "
                    f"{', '.join(missing)})"
                )
            wanted = [*columns, *(column for column in optional if column in names)]
            number = 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted):
                for values in batch.to_pylist():
                    number += 1
                    yield f"{path}:row {number}", values
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: cannot be read as Parquet: {error}") from error


def store_audio(audio: Any, stem: Path) -> Path:
    """Write the audio of a row, `{"bytes": ..., "path": ...}`, to `stem` with the suffix of its format, once.

    Raises CorpusError for a row without audio or of an unknown format.
    """
    content = audio.get("bytes") if isinstance(audio, dict) else None
    if not content:
        raise CorpusError("the row holds no audio (bytes)")
    suffix = next((suffix for magic, suffix in _SUFFIXES.items() if content.startswith(magic)), None)
    if suffix is None:
        raise CorpusError(f"the audio is no WAV, FLAC, Ogg or MP3: it begins with {content[:4]!r}")
    path = stem.with_name(stem.name + suffix)
    if not (path.is_file() and path.stat().st_size == len(content)):
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
    return path
