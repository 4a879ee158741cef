"""Decode CTC probabilities with a bonus for given words and phrases.

A prefix beam search (Hannun et al., "First-pass large vocabulary continuous speech recognition using bi-directional
recurrent DNNs", 2014) without a language model. A prefix that ends with the beginning of a hotword has a part of the
bonus, in proportion to its letters; it loses it as soon as another letter follows, or if the word does not end there.
Letters below `FLOOR` are never written, so that a bonus cannot invent what was not heard.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from math import exp, inf, log, log1p
from pathlib import Path

import numpy as np

from corpora.prepare.readers import read_lines
from corpora.quran_spelling import in_quran_spelling
from corpora.text import normalise
from downstream import DownstreamError

BLANK = 0
BEAM = 16  # prefixes after each frame
MARGIN = 14.0  # natural log: prefixes that are less likely than the best one by more are dropped
LETTERS = 8  # of a frame, at most
FLOOR = 0.002  # probability of a frame from which a letter is considered
BOOST = 4.0  # natural log: a hotword may be 55 times less likely than what replaces it


def read_hotwords(given: str, characters: Sequence[str]) -> list[str]:
    """Words and phrases from a file (one a line) or a list with commas, in the spelling of the recogniser.

    Raises CorpusError for an entry without a letter that the recogniser writes, an empty list, and a file that is not
    UTF-8.
    """
    if _is_file(given):
        entries = list(read_lines(Path(given)))
    else:
        entries = [("--hotwords: neither a file nor a word", entry) for entry in re.split("[,،\n]", given)]
    known, found = set(characters), []
    for where, entry in entries:
        if not entry.strip():
            continue
        text = normalise(entry, "modern", quran=in_quran_spelling(entry))
        text = " ".join("".join(c if c in known else "" for c in text).split())
        if not text:
            raise DownstreamError(f"{where}: `{entry.strip()}` has no letter that the recogniser writes")
        found.append(text)
    if not found:
        raise DownstreamError(f"--hotwords {given}: no words; expected a file with one a line, or a list with commas")
    return found


def _is_file(given: str) -> bool:
    try:
        return Path(given).is_file()
    except (OSError, ValueError):  # a list of words that is too long for a name
        return False


class Hotwords:
    """Words and phrases with their bonus: `boost` for a whole entry, spread evenly over its letters. One that begins
    with another entry ("a b" beside "a") has its own bonus on top, spread over the further letters."""

    def __init__(self, words: Sequence[str], boost: float = BOOST) -> None:
        if not boost < MARGIN:  # prefixes without a bonus would be dropped before it is lost
            raise ValueError(f"a bonus of {boost:g}: it must be below {MARGIN:g}")
        self.whole = set(words)
        self.value: dict[str, float] = {"": 0.0}  # of every beginning of a hotword
        for word in sorted(self.whole, key=len):
            head = self._head(word[: max(word.rfind(" "), 0)])
            rest = len(word) - len(head)
            for size in range(len(head) + 1, len(word) + 1):
                value = self.value[head] + boost * (size - len(head)) / rest
                self.value[word[:size]] = max(value, self.value.get(word[:size], 0.0))

    def step(self, matched: str | None, kept: float, letter: str) -> tuple[str | None, float]:
        """The state behind a further letter. A state is the beginning of a hotword that the prefix ends with (None:
        this word is none), and the bonus of the complete hotwords before it."""
        if matched is not None and matched + letter in self.value:
            return matched + letter, kept
        if letter == " ":
            return "", kept + self.closed(matched)
        if matched is None:
            return None, kept
        # A phrase breaks off. It may contain a complete hotword, and its last words may begin another one.
        words = matched.split(" ")
        for count in range(len(words) - 1, 0, -1):
            head, tail = " ".join(words[:count]), " ".join(words[count:]) + letter
            if head in self.whole:
                return tail if tail in self.value else None, kept + self.value[head]
        for count in range(1, len(words)):
            if (tail := " ".join(words[count:]) + letter) in self.value:
                return tail, kept
        return None, kept

    def closed(self, matched: str | None) -> float:
        """The bonus of the longest complete hotword in a beginning that nothing follows."""
        return self.value[self._head(matched or "")]

    def _head(self, text: str) -> str:
        """The longest complete hotword that a text of whole words begins with, or an empty string."""
        words = text.split()
        heads = (" ".join(words[:count]) for count in range(len(words), 0, -1))
        return next((head for head in heads if head in self.whole), "")


@dataclass(eq=False, slots=True)
class _Prefix:
    """A text as a chain: its last class, and its state of `Hotwords`."""

    parent: _Prefix | None
    label: int
    matched: str | None
    kept: float
    bonus: float


def decode(log_probs: np.ndarray, characters: Sequence[str], hotwords: Hotwords) -> list[int]:
    """The classes of the best text of (T, C) natural-log probabilities.

    Time grows in proportion to T: at most BEAM * LETTERS new prefixes a frame.
    """
    root = _Prefix(None, BLANK, "", 0.0, 0.0)
    beams: dict[_Prefix, tuple[float, float]] = {root: (0.0, -inf)}  # log-likelihood that ends with blank, with letter
    floor = log(FLOOR)
    for row in log_probs:
        candidates = np.flatnonzero(row >= floor)
        if len(candidates) > LETTERS:
            candidates = candidates[np.argsort(-row[candidates], kind="stable")[:LETTERS]]
        values = row.tolist()
        letters = [label for label in candidates.tolist() if label != BLANK]
        if letters:
            beams = _advance(beams, letters, values, characters, hotwords)
        else:
            beams = {prefix: (_add(*ends) + values[BLANK], -inf) for prefix, ends in beams.items()}
    best = max(beams, key=lambda prefix: _add(*beams[prefix]) + prefix.kept + hotwords.closed(prefix.matched))
    classes = []
    while best.parent is not None:
        classes.append(best.label)
        best = best.parent
    return classes[::-1]


def _advance(
    beams: dict[_Prefix, tuple[float, float]],
    letters: list[int],
    values: list[float],
    characters: Sequence[str],
    hotwords: Hotwords,
) -> dict[_Prefix, tuple[float, float]]:
    """The beams after a frame with these log-probabilities, of which `letters` are considered."""
    ends: dict[_Prefix, list[float]] = {}
    for prefix, (with_blank, with_letter) in beams.items():
        # The text stays the same: the frame is a blank, or repeats the last letter.
        ends[prefix] = [_add(with_blank, with_letter) + values[BLANK], with_letter + values[prefix.label]]
    there = {(id(prefix.parent), prefix.label): prefix for prefix in beams if prefix.parent is not None}
    for prefix, (with_blank, with_letter) in beams.items():
        either = _add(with_blank, with_letter)
        for label in letters:
            # A letter twice needs a blank between.
            value = values[label] + (with_blank if label == prefix.label else either)
            if value == -inf:
                continue
            key = (id(prefix), label)
            if key not in there:
                matched, kept = hotwords.step(prefix.matched, prefix.kept, characters[label])
                bonus = kept + (0.0 if matched is None else hotwords.value[matched])
                there[key] = _Prefix(prefix, label, matched, kept, bonus)
            further = there[key]
            if further in ends:
                ends[further][1] = _add(ends[further][1], value)
            else:
                ends[further] = [-inf, value]
    scores = {prefix: _add(*values) + prefix.bonus for prefix, values in ends.items()}
    limit = max(scores.values()) - MARGIN
    kept_beams = nlargest(BEAM, scores, key=scores.__getitem__)
    return {prefix: (ends[prefix][0], ends[prefix][1]) for prefix in kept_beams if scores[prefix] >= limit}


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == -inf else a + log1p(exp(b - a))
