"""The transcripts of MGB-2 and QASR: aligned segments of a broadcast in XML.

transcript/body/segments[annotation_id=transcript_align]/segment[who, starttime, endtime, WMER]/element[type=word]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from corpora.prepare.ingest import CorpusError

ANNOTATION = "transcript_align"


@dataclass(frozen=True)
class Segment:
    """One aligned segment: by whom, from when to when (seconds), its words, and its word matching error rate in %.

    `where` is file and line; `error_rate` is None where the file gives none.
    """

    where: str
    who: str
    start: float
    end: float
    error_rate: float | None
    words: tuple[str, ...]


def read_segments(path: Path, annotation: str = ANNOTATION) -> list[Segment]:
    """The segments of one transcript, in the order of the file.

    Only groups that are called `annotation` count; a group without a name does too. Raises CorpusError, with the line,
    for what is no well-formed XML, declares entities, or has a segment without its attributes.
    """
    return _Reader(path, annotation).read()


class _Reader:
    """Expat, since it knows the line of every element; ElementTree does not tell it."""

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
            raise CorpusError(f"{self._path}:{error.lineno}: no well-formed XML: {reason}") from error
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
            raise CorpusError(f"{where}: a time or rate of the segment is no number: {error}") from None

    def _entity(self, name: str, *_: object) -> NoReturn:
        line = self._parser.CurrentLineNumber
        raise CorpusError(f"{self._path}:{line}: declares the entity {name!r}, which no transcript does; refused")
