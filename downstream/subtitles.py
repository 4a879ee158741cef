"""Subtitles (SubRip and WebVTT) from words with times.

A cue ends at a pause. Where the words up to the next pause are too many for one line, it ends at the longest pause
between the words that fill the second half of the line. Text is written as it is, in its logical order.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

Word = tuple[str, float, float]  # text, start and end in seconds
FORMATS = ("srt", "vtt")
CHARACTERS = 42  # of a line
SECONDS = 7.0  # of a cue
PAUSE = 0.6  # seconds without speech that end a cue


def cues(words: Sequence[Word]) -> list[Word]:
    """Lines of up to 42 characters and 7 s, as (text, start, end). A longer word has a line of its own."""
    found: list[Word] = []
    first = 0
    while first < len(words):
        end = first + 1
        while end < len(words) and words[end][1] - words[end - 1][2] < PAUSE and _fits(words[first : end + 1]):
            end += 1
        if end < len(words) and words[end][1] - words[end - 1][2] < PAUSE:
            # Too long, no pause. Of equal gaps between words the last one, which fills the line.
            gaps = {i: round(words[i][1] - words[i - 1][2], 3) for i in range((first + end + 1) // 2, end + 1)}
            end = max(gaps, key=lambda i: (gaps[i], i))
        line = words[first:end]
        found.append((" ".join(word for word, _, _ in line), line[0][1], line[-1][2]))
        first = end
    return found


def _fits(words: Sequence[Word]) -> bool:
    letters = sum(len(word) + 1 for word, _, _ in words) - 1
    return letters <= CHARACTERS and words[-1][2] - words[0][1] <= SECONDS


def subtitles(words: Sequence[Word], form: str) -> str:
    """The content of an .srt or .vtt file; without words, one without cues."""
    lines = ["WEBVTT", ""] if form == "vtt" else []
    point = "." if form == "vtt" else ","
    for number, (text, start, end) in enumerate(cues(words), 1):
        times = f"{_time(start, point)} --> {_time(end, point)}"
        lines += [times, html.escape(text, quote=False), ""] if form == "vtt" else [str(number), times, text, ""]
    return "".join(f"{line}\n" for line in lines)


def _time(seconds: float, point: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{milliseconds:03}"
