"""Read the formats in which publishers ship their lists: CSV and TSV, plain lines, Parquet, WebVTT, MGB's XML.

Every row, line, cue and segment comes with its place, `<file>:<line>`, for messages.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import html
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, TextIO
from xml.parsers import expat

import numpy as np

from corpora.containers import Content, kind_of
from corpora.files import CorpusError, atomic_file
from corpora.prepare.tree import find_path

Bad = Callable[[str, str], None]  # receives the place of a bad line, and the reason

_PARQUET_ROWS = 64  # the most rows, with their audio, in memory at a time
_PARQUET_BYTES = 16 * 2**20  # of rows in memory at a time, by the mean size of a row
_LFS_POINTER = b"version https://git-lfs"
_CUE_TIMES = re.compile(r"(?:(\d+):)?(\d\d):(\d\d)[.,](\d{3})\s+-->\s+(?:(\d+):)?(\d\d):(\d\d)[.,](\d{3})(?:\s.*)?")
_TAG = re.compile(r"<[^<>]*>")
_ALIGNED = "transcript_align"


@dataclass(frozen=True)
class Row:
    """One line of a list: its place, and its fields by column."""

    where: str
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def get(self, column: str) -> str:
        """A field; empty if the list has no such column."""
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
    """The rows of a UTF-8 list, plain or gzipped, with or without byte order mark, LF or CRLF; empty lines are skipped.

    A list with the byte order mark of UTF-16 (spreadsheets write it) is read as UTF-16.

    columns: the expected columns.  header: True: the file may have further columns, in any order. False: the file has
    exactly these columns, in this order. None: the first line is a header if it contains one of their names.
    quoted: double quotes group a field; if False, a lone CR inside a field is text.  required: those of `columns` that
    a header must have, None for all.

    Raises CorpusError if the file is missing, not UTF-8, or lacks a column. A row with another number of fields goes to
    `bad`; without `bad` it raises CorpusError as well.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; expected a list with the columns {', '.join(columns)}")
    names = None if header or header is None else list(columns)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding=_encoding(path), newline="" if quoted else "\n") as file:
        for number, fields in _records(path, file, delimiter, quoted):
            where = f"{path}:{number}"
            fields = [field.strip() for field in fields]
            if not any(fields):
                continue
            if names is None:
                if header or set(fields) & set(columns):
                    _check_columns(where, fields, columns, required)
                    names = fields
                    continue
                names = list(columns)
            if len(fields) != len(names):
                _refuse(bad, where, f"expected {len(names)} fields ({', '.join(names)}), found {len(fields)}")
                continue
            yield Row(where, dict(zip(names, fields, strict=True)))
    if names is None:
        raise CorpusError(f"{path}:1: expected the columns {', '.join(columns)}; found an empty file")


def read_lines(path: Path, *, strip: bool = True, empty: bool = False) -> Iterator[tuple[str, str]]:
    """Pairs (place, line) of a UTF-8 text file, with or without byte order mark, LF or CRLF. Raises CorpusError.

    A file with the byte order mark of UTF-16 is read as UTF-16.

    strip: remove white space around each line.  empty: yield empty lines too.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    try:
        content = path.read_text(encoding=_encoding(path))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise CorpusError(f"{path}:{line}: not UTF-8 (byte 0x{error.object[error.start]:02X})") from error
    for number, line in enumerate(content.split("\n"), 1):
        if empty or line.strip():
            yield f"{path}:{number}", line.strip() if strip else line.rstrip("\r")


def seconds(where: str, value: str, bad: Bad | None = None) -> float | None:
    """A time in seconds. A value that is negative or not a finite number goes to `bad` (then None), or raises
    CorpusError without `bad`."""
    try:
        time = float(value)
    except ValueError:
        time = float("nan")
    if 0 <= time < float("inf"):
        return time
    _refuse(bad, where, f"expected a time in seconds, found {value!r}")
    return None


def parquet_columns(path: Path) -> list[str]:
    """The columns of a Parquet file. Raises CorpusError for a damaged file."""
    with _parquet(path) as file:
        return list(file.schema_arrow.names)


def read_parquet(
    path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pairs (`<file>:row <number>`, values by column) of a Parquet file.

    In memory are a page of a column (in the files of a hub a row group of 100 rows) and about _PARQUET_BYTES of rows,
    whatever the size of the file. Numbers of a class label become its names, which a hub writes into the metadata.
    optional: columns that are read if the file has them. Raises CorpusError for a damaged file or a missing column.
    """
    with _parquet(path) as file:
        names = file.schema_arrow.names
        _check_columns(str(path), names, columns)
        wanted = list(dict.fromkeys([*columns, *(column for column in optional if column in names)]))
        labels = _class_labels(file.schema_arrow.metadata)
        number = 0
        for batch in _batches(file, wanted):
            for values in batch.to_pylist():
                number += 1
                for column in labels.keys() & values.keys():
                    if isinstance(values[column], int) and 0 <= values[column] < len(labels[column]):
                        values[column] = labels[column][values[column]]
                yield f"{path}:row {number}", values


def _batches(file: Any, columns: Sequence[str]) -> Iterator[Any]:
    """The rows in batches, one row group after the other: read together, all row groups stay in memory."""
    for group in range(file.metadata.num_row_groups):
        yield from file.iter_batches(batch_size=_rows_at_once(file), row_groups=[group], columns=columns)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CorpusError(f"{path}: pyarrow reads Parquet files and is missing: pip install pyarrow") from error
    try:
        # With a buffer, a column is read page by page; without one, or read ahead, a whole row group is in memory.
        with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        with open(path, "rb") as file:
            pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
        reason = "a pointer of Git LFS, not the file itself; fetch it with: git lfs pull" if pointer else str(error)
        raise CorpusError(f"{path}: cannot be read as Parquet: {reason}") from error


def _rows_at_once(file: Any) -> int:
    """Rows of one batch, from the mean size of a row."""
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return max(1, min(_PARQUET_ROWS, int(_PARQUET_BYTES / max(1, largest))))


def _class_labels(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of the classes by column."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {
            column: [str(name) for name in own["names"]]
            for column, own in features.items()
            if isinstance(own, dict) and own.get("_type") == "ClassLabel" and isinstance(own.get("names"), list)
        }
    except (ValueError, AttributeError):
        return {}


def store_audio(audio: Any, stem: Path, root: Path | None = None) -> Path:
    """Write the audio of a Parquet row to `stem` plus the suffix of its format; return the path.

    audio: `{"bytes", "path"}`, bytes, `{"array", "sampling_rate"}`, one of these in a list or in another mapping, or a
    path; a path inside `root` becomes a link to that file. A file of the same size is kept. Raises CorpusError for a
    row without audio and for audio of an unknown format.
    """
    audio = _unwrapped(audio)
    content = audio.get("bytes") if isinstance(audio, dict) else audio
    if isinstance(audio, dict) and not content and audio.get("array") is not None:
        content = _wav(audio["array"], audio.get("sampling_rate"))
    if not content and isinstance(audio, dict):
        content = audio.get("path")
    if isinstance(content, str) and root is not None:
        return _linked(content, stem, root)
    if not content or not isinstance(content, bytes):
        raise CorpusError("the row holds no audio (bytes)")
    kind = kind_of(Content(io.BytesIO(content)))
    if kind is None:
        raise CorpusError(f"the audio has no known format: it begins with {content[:4]!r}")
    path = stem.with_name(f"{stem.name}.{kind}")
    if not (path.is_file() and path.stat().st_size == len(content)):
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
    return path


def _unwrapped(audio: Any) -> Any:
    """The innermost mapping with the audio."""
    while True:
        if isinstance(audio, list) and len(audio) == 1:
            audio = audio[0]
        elif isinstance(audio, dict) and not {"bytes", "path", "array"} & audio.keys() and len(audio) == 1:
            audio = next(iter(audio.values()))
        else:
            return audio


def _wav(samples: Sequence[float], rate: object) -> bytes:
    """Decoded samples (n,) as a WAV file of floats, which is then read by the rules for any file of floats."""
    import soundfile

    if not isinstance(rate, int) or not len(samples):
        raise CorpusError(f"the row holds {len(samples)} decoded samples and the sampling rate {rate!r}")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(samples, dtype=np.float32), rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def _linked(name: str, stem: Path, root: Path) -> Path:
    """A link at `stem` to the file `name` inside `root`, also if `name` is a path of another machine."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    inside = [PurePosixPath(*parts[cut:]) for cut in range(len(parts)) if ".." not in parts]
    found = [path for own in inside if not own.is_absolute() and (path := find_path(root, own.as_posix())).is_file()]
    if not found:
        raise CorpusError(f"the row holds no audio, only the path {name!r}, and {root} has no such file")
    path = stem.with_name(stem.name + found[0].suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (path.is_symlink() and path.resolve() == found[0].resolve()):
        path.unlink(missing_ok=True)
        path.symlink_to(found[0].resolve())
    return path


@dataclass(frozen=True)
class Cue:
    """One subtitle: its place, start and end in seconds, and its lines joined by spaces."""

    where: str
    start: float
    end: float
    text: str


def read_cues(path: Path, bad: Bad) -> list[Cue]:
    """The cues of a WebVTT file in its order, without tags; an arrow without valid times goes to `bad`.

    Raises CorpusError for a file that is missing, not UTF-8, or does not begin with WEBVTT.
    """
    lines = [line for _, line in read_lines(path, strip=False, empty=True)]
    if not lines[0].startswith("WEBVTT"):
        raise CorpusError(f"{path}:1: expected WEBVTT, found {lines[0] or 'an empty file'!r}")
    cues = []
    number = 0
    while number < len(lines):
        line = lines[number].strip()
        number += 1
        if "-->" not in line:
            continue
        where = f"{path}:{number}"
        text = []
        while number < len(lines) and lines[number].strip():
            text.append(lines[number])
            number += 1
        times = _CUE_TIMES.fullmatch(line)
        if not times:
            bad(where, f"expected 'hh:mm:ss.ttt --> hh:mm:ss.ttt', found {line!r}")
            continue
        start, end = (_cue_seconds(times.groups()[first : first + 4]) for first in (0, 4))
        cues.append(Cue(where, start, end, " ".join(html.unescape(_TAG.sub("", " ".join(text))).split())))
    return cues


@dataclass(frozen=True)
class Segment:
    """One aligned segment of MGB-2 or QASR: its place, speaker, times in seconds, and words.

    error_rate: word matching error rate in %, None if the file states none.
    """

    where: str
    who: str
    start: float
    end: float
    error_rate: float | None
    words: tuple[str, ...]


def read_segments(path: Path, annotation: str = _ALIGNED) -> list[Segment]:
    """The segments of one XML transcript of MGB-2 or QASR, in the order of the file.

        transcript/body/segments[annotation_id=transcript_align]/segment[who, starttime, endtime, WMER]
            /element[type=word]

    Groups with another name than `annotation` are skipped; a group without a name is read. Raises CorpusError, with the
    line, for malformed XML, entity declarations, and segments without their attributes.
    """
    return _SegmentReader(path, annotation).read()


class _SegmentReader:
    """Reads with expat, since it reports the line of every element; ElementTree does not."""

    def __init__(self, path: Path, annotation: str):
        self._path = path
        self._annotation = annotation
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = self._entity
        self._segments: list[Segment] = []
        self._wanted = False
        self._segment: tuple[str, dict[str, str]] | None = None
        self._words: list[str] = []
        self._word: list[str] | None = None

    def read(self) -> list[Segment]:
        try:
            with open(self._path, "rb") as file:
                self._parser.ParseFile(file)
        except expat.ExpatError as error:
            reason = expat.errors.messages[error.code]
            raise CorpusError(f"{self._path}:{error.lineno}: malformed XML: {reason}") from error
        return self._segments

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "segments":
            self._wanted = attributes.get("annotation_id", self._annotation) == self._annotation
        elif name == "segment" and self._wanted:
            self._segment, self._words = (f"{self._path}:{self._parser.CurrentLineNumber}", attributes), []
        elif name == "element" and self._segment and attributes.get("type", "word") == "word":
            self._word = []

    def _characters(self, text: str) -> None:
        if self._word is not None:
            self._word.append(text)

    def _end(self, name: str) -> None:
        if name == "element" and self._word is not None:
            self._words += "".join(self._word).split()
            self._word = None
        elif name == "segment" and self._segment:
            self._segments.append(self._finished(*self._segment))
            self._segment = None

    def _finished(self, where: str, attributes: dict[str, str]) -> Segment:
        missing = [name for name in ("who", "starttime", "endtime") if name not in attributes]
        if missing:
            found = ", ".join(attributes) or "none"
            raise CorpusError(f"{where}: segment without {', '.join(missing)}; its attributes are {found}")
        try:
            start, end = float(attributes["starttime"]), float(attributes["endtime"])
            rate = float(attributes["WMER"]) if "WMER" in attributes else None
            return Segment(where, attributes["who"], start, end, rate, tuple(self._words))
        except ValueError as error:
            raise CorpusError(f"{where}: a time or rate of the segment is not a number: {error}") from None

    def _entity(self, name: str, *_: object) -> NoReturn:
        line = self._parser.CurrentLineNumber
        raise CorpusError(f"{self._path}:{line}: declares the entity {name!r}; transcripts have none, so it is refused")


def _records(path: Path, file: TextIO, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """Pairs (number of its last line, fields) of every record. Raises CorpusError for unreadable text."""
    number = 0
    try:
        if quoted:
            reader = csv.reader(file, delimiter=delimiter)
            columns = 0
            for fields in reader:
                begin, number = number + 1, reader.line_num
                columns = columns or len(fields)
                if number > begin and columns > 1 and _holds_rows(fields, delimiter, columns):
                    raise CorpusError(
                        f"{path}:{begin}: a quotation mark opens a field that holds other rows, up to line {number}; "
                        "close it, or write a mark inside of a field twice and the field in marks"
                    )
                yield number, fields
        else:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip("\r\n").split(delimiter)
    except (csv.Error, UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorpusError(f"{path}:{number + 1}: cannot be read as UTF-8 text in columns: {error}") from error


def _holds_rows(fields: Sequence[str], delimiter: str, columns: int) -> bool:
    """Whether a field of several lines has one with as many delimiters as a row: its mark was never closed."""
    return any(line.count(delimiter) >= columns - 1 for field in fields for line in field.split("\n")[1:])


def _encoding(path: Path) -> str:
    """The encoding of a text file: UTF-16 with its byte order mark, otherwise UTF-8."""
    with open(path, "rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _check_columns(
    where: str, found: Sequence[str], columns: Sequence[str], required: Sequence[str] | None = None
) -> None:
    missing = [column for column in (columns if required is None else required) if column not in found]
    if missing:
        raise CorpusError(
            f"{where}: expected the columns {', '.join(columns)}; found {', '.join(found)} (missing: "
            f"{', '.join(missing)})"
        )


def _refuse(bad: Bad | None, where: str, reason: str) -> None:
    if bad is None:
        raise CorpusError(f"{where}: {reason}")
    bad(where, reason)


def _cue_seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, thousandths = (int(part or 0) for part in parts)
    return hours * 3600 + minutes * 60 + seconds + thousandths / 1000
