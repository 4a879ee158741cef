"""Subtitles in WebVTT: cues with times and text."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from corpora.prepare.ingest import CorpusError

_TIMES = re.compile(r"(?:(\d+):)?(\d\d):(\d\d)[.,](\d{3})\s+-->\s+(?:(\d+):)?(\d\d):(\d\d)[.,](\d{3})(?:\s.*)?")
_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class Cue:
    """What is shown from `start` to `end` (seconds), its lines joined by spaces; `where` is file and line."""

    where: str
    start: float
    end: float
    text: str


def read_cues(path: Path, bad: Callable[[str, str], None]) -> list[Cue]:
    """The cues of a file in its order, without tags; a block with an arrow that gives no times goes to `bad`.

    Raises CorpusError for a file that is missing, not UTF-8, or does not begin with WEBVTT.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 at byte {error.start}") from error
    if not lines or not lines[0].startswith("WEBVTT"):
        raise CorpusError(f"{path}:1: expected WEBVTT, found {lines[0] if lines else 'an empty file'!r}")
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
        times = _TIMES.fullmatch(line)
        if not times:
            bad(where, f"expected 'hh:mm:ss.ttt --> hh:mm:ss.ttt', found {line!r}")
            continue
        start, end = (_seconds(times.groups()[first : first + 4]) for first in (0, 4))
        cues.append(Cue(where, start, end, " ".join(html.unescape(_TAG.sub("", " ".join(text))).split())))
    return cues


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, thousandths = (int(part or 0) for part in parts)
    return hours * 3600 + minutes * 60 + seconds + thousandths / 1000
