"""Rows of the lists that publishers ship as CSV, TSV or lines of fields, each with its file and line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from corpora.prepare.ingest import CorpusError

Bad = Callable[[str, str], None]  # told where a line stands and what is wrong with it


@dataclass(frozen=True)
class Row:
    """One line of a list: its fields by column, and `<file>:<line>`."""

    where: str
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def get(self, column: str) -> str:
        """A field, empty where the list has no such column."""
        return self.values.get(column, "")


def read_rows(
    path: Path,
    columns: Sequence[str],
    *,
    delimiter: str = ",",
    quoted: bool = True,
    header: bool | None = True,
    required: Sequence[str] | None = None,
    bad: Bad | None = None,
) -> Iterator[Row]:
    """The rows of a list in UTF-8, with or without byte order mark, LF or CRLF; empty lines are passed over.

    columns: what must be there. With a header (True) they stand anywhere among others; without one (False) they are the
    columns, in order; None: a first line that holds one of their names is a header. quoted: whether double quotes group
    (without them a lone CR inside a field is text).  required: those of `columns` that a header must have, None: all.
    Raises CorpusError for a file that is missing, not UTF-8, or lacks a column; a row of another length goes to `bad`,
    or is such an error without it.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; expected a list with the columns {', '.join(columns)}")
    names = None if header or header is None else list(columns)
    with path.open(encoding="utf-8-sig", newline="" if quoted else "\n") as file:
        for number, fields in _records(path, file, delimiter, quoted):
            where = f"{path}:{number}"
            fields = [field.strip() for field in fields]
            if not any(fields):
                continue
            if names is None:
                if header or set(fields) & set(columns):
                    names = _header(where, fields, columns if required is None else required)
                    continue
                names = list(columns)
            if len(fields) != len(names):
                _refuse(bad, where, f"expected {len(names)} fields ({', '.join(names)}), found {len(fields)}")
                continue
            yield Row(where, dict(zip(names, fields, strict=True)))
    if names is None:
        raise CorpusError(f"{path}:1: expected the columns {', '.join(columns)}; found an empty file")


def read_lines(path: Path, *, strip: bool = True, empty: bool = False) -> Iterator[tuple[str, str]]:
    """(`<file>:<line>`, line) of a UTF-8 text file with or without byte order mark, LF or CRLF. Raises CorpusError.

    strip: without the white space around it.  empty: empty lines too.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise CorpusError(f"{path}:{line}: not UTF-8 (byte 0x{error.object[error.start]:02X})") from error
    for number, line in enumerate(content.split("\n"), 1):
        if empty or line.strip():
            yield f"{path}:{number}", line.strip() if strip else line.rstrip("\r")


def seconds(where: str, value: str, bad: Bad | None = None) -> float | None:
    """A time in seconds; what is no finite number of 0 or more goes to `bad` (then None), or is a CorpusError."""
    try:
        time = float(value)
    except ValueError:
        time = float("nan")
    if 0 <= time < float("inf"):
        return time
    _refuse(bad, where, f"expected a time in seconds, found {value!r}")
    return None


def _records(path: Path, file: TextIO, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, fields) of every record; CorpusError where the text cannot be read."""
    number = 0
    try:
        if quoted:
            reader = csv.reader(file, delimiter=delimiter)
            for fields in reader:
                number = reader.line_num
                yield number, fields
        else:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip("\r\n").split(delimiter)
    except (csv.Error, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}:{number + 1}: cannot be read as UTF-8 text in columns: {error}") from error


def _header(where: str, fields: list[str], columns: Sequence[str]) -> list[str]:
    missing = [column for column in columns if column not in fields]
    if missing:
        raise CorpusError(
            f"{where}: expected the columns {', '.join(columns)}; found {', '.join(fields)} (missing: "
            f"{', '.join(missing)})"
        )
    return fields


def _refuse(bad: Bad | None, where: str, reason: str) -> None:
    if bad is None:
        raise CorpusError(f"{where}: {reason}")
    bad(where, reason)
