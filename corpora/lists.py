"""Publishers' lists: text and CSV with LF or CRLF ends, with or without a byte order mark, read with line numbers."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from corpora.ingest import CorpusError, safe_relative


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, line) of every line that is not blank; raises CorpusError for a missing file and bad UTF-8."""
    return [(number, line) for number, line in enumerate(_text(path).split("\n"), 1) if line.strip()]


def read_columns(
    path: Path, required: Sequence[str], *, delimiter: str = ",", optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, column -> field) of a CSV file with a header; fields and names lose white space at their ends.

    Raises CorpusError that names the line for a header without a required column and for a row of another width.
    Column names are compared without regard to case.
    """
    reader = csv.reader(_text(path).split("\n"), delimiter=delimiter)
    header: list[str] | None = None
    for row in reader:
        if not any(field.strip() for field in row):
            continue
        where = f"{path}:{reader.line_num}"
        if header is None:
            header = _header(row, [*required, *optional])
            missing = [name for name in required if name not in header]
            if missing:
                raise CorpusError(
                    f"{where}: expected a header with {', '.join(required)}; {', '.join(missing)} "
                    f"{'is' if len(missing) == 1 else 'are'} not in {delimiter.join(row)!r}"
                )
        elif len(row) != len(header):
            raise CorpusError(f"{where}: expected {len(header)} fields as in the header, found {len(row)}")
        else:
            yield reader.line_num, dict(zip(header, (field.strip() for field in row), strict=True))
    if header is None:
        raise CorpusError(f"{path}: empty; expected a header with {', '.join(required)}")


def find_inside(corpus_dir: Path, entry: str) -> str | None:
    """A listed path as a POSIX path inside the corpus, or None where no such file is in it.

    A placeholder or another machine's folder in front of the corpus's own part is dropped.
    """
    parts = PurePosixPath(entry.strip().replace("\\", "/")).parts
    for cut in range(len(parts)):
        inside = safe_relative("/".join(parts[cut:]))
        if inside and (corpus_dir / inside).is_file():
            return inside
    return None


def _header(row: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names of a header, spelt as in `known` where they differ only by case or by white space around them."""
    spelling = {name.lower(): name for name in known}
    return [spelling.get(name.strip().lower(), name.strip()) for name in row]


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file") from None
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CorpusError(f"{path}:{line}: not UTF-8 (byte 0x{content[error.start]:02X})") from None
