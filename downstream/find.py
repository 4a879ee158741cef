"""Find which of many known texts a recording contains: verses, commands, prompts.

    audio -> greedy text -> candidates by edit distance -> CTC likelihood of each -> ids, or none

Candidates are single lines and spans of up to N consecutive lines, compared without spaces. Those whose letters are
nearly as close to the greedy text as the closest ones are ranked by CTC. The answer is none unless few letters differ
(`Limits.share`), or all other lines differ by clearly more (`Limits.gap`): a bad recording of a listed text has many
errors, but no other line is nearer; a recording of another text is about equally far from many lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import ctc_loss

from corpora.quran_spelling import in_quran_spelling
from corpora.text import normalise
from downstream import DownstreamError
from downstream.spans import SpanDistances

SHORTEST = 3  # a greedy text with fewer letters finds nothing
NEAR = 0.12  # candidates differ by at most so much more of their letters than the closest one
CANDIDATES = 24  # at most so many are ranked by CTC


@dataclass(frozen=True)
class Limits:
    """A text is found if the share of its letters that differ is at most `share`, or if that share is smaller than that
    of every other line by at least `gap`. head.json holds the values that were calibrated for a recogniser (`find`)."""

    share: float = 0.35
    gap: float = 0.08


def limits_of(description: dict[str, Any]) -> Limits:
    """The limits in head.json, or the defaults."""
    return Limits(**description.get("find", {}))


@dataclass(frozen=True)
class Found:
    """The ids of the lines in order (empty: none of them); `score`, the log-likelihood ratio per letter of the best
    text to the best path without a text (0 is best); `margin`, positive if and only if a text was found."""

    ids: list[str]
    score: float | None
    margin: float | None


@dataclass(frozen=True)
class TextList:
    """Lines to search: ids, texts in the spelling of the recogniser, and the same texts without spaces."""

    ids: list[str]
    texts: list[str]
    bare: list[str]


def read_texts(path: Path, characters: Sequence[str]) -> TextList:
    """A Kaldi `text` file, normalised to the recogniser's spelling; equal lines are allowed, the first one is found.

    Raises DownstreamError for a file without lines, a repeated id, an id without text, and a text none of whose letters
    the recogniser writes. Diacritics and punctuation are dropped.
    """
    path = Path(path)
    known = set(characters)
    ids: list[str] = []
    texts: list[str] = []
    seen: dict[str, int] = {}
    content = path.read_text(encoding="utf-8-sig")
    quran = in_quran_spelling(content)
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        name, _, raw = line.strip().partition(" ")
        if name in seen:
            raise DownstreamError(f"{path}:{number}: the id {name} is also in line {seen[name]}; ids must differ")
        seen[name] = number
        text = normalise(raw, "modern", quran=quran)
        kept = " ".join("".join(c if c in known else "" for c in text).split())
        if not kept.strip():
            raise DownstreamError(
                f"{path}:{number}: {name} has no text that the recogniser can write; expected `id text`, Arabic"
            )
        ids.append(name)
        texts.append(kept)
    if not ids:
        raise DownstreamError(f"{path}: no lines; expected Kaldi text, `id text` a line")
    return TextList(ids, texts, [text.replace(" ", "") for text in texts])


class Finder:
    """A list of texts, prepared for searching. `spans`: the largest number of consecutive lines in one recording."""

    def __init__(
        self, texts: TextList, characters: Sequence[str], *, spans: int = 1, limits: Limits | None = None
    ) -> None:
        if spans < 1:
            raise DownstreamError(f"--spans {spans}: at least 1")
        self.texts, self.limits = texts, limits or Limits()
        self.index = {character: i for i, character in enumerate(characters)}
        self.spans = SpanDistances(texts.bare, spans)
        seen: dict[str, int] = {}
        count = len(self.spans.starts)
        self.same = np.array([seen.setdefault(self.spans.string(j), j) for j in range(count)])  # equal for equal texts

    def find(self, log_probs: np.ndarray | None, greedy: str) -> Found:
        """The lines that explain (T, C) natural-log probabilities best; `greedy` is their best free path. Without
        probabilities (another recogniser's text) edit distance alone decides, and the score is None."""
        heard = normalise(greedy, "modern").replace(" ", "")
        if len(heard) < SHORTEST:
            return Found([], None, None)
        lengths = self.spans.lengths
        near = np.flatnonzero((lengths >= len(heard) * 0.5) & (lengths <= len(heard) * 2 + 4))
        if not len(near):
            return Found([], None, None)
        # The edit distance from the greedy text to each span, divided by the length of the longer one.
        shares = self.spans.distances(heard, near) / np.maximum(lengths[near], len(heard))
        order = np.argsort(shares, kind="stable")[:CANDIDATES]
        chosen = order[shares[order] <= shares[order[0]] + NEAR]
        margins = [self._margin(near, shares, j) for j in chosen]
        if max(margins) < 0:  # none of them, whatever CTC says: the nearest one stands for all
            chosen = chosen[:1]
        best, score = 0, None
        if log_probs is not None:
            scores = self._scores(log_probs, near[chosen])
            best, score = int(np.argmax(scores)), round(float(scores.max()), 4)
        start, count = self.spans.starts[near[chosen[best]]], self.spans.counts[near[chosen[best]]]
        ids = self.texts.ids[start : start + count] if margins[best] >= 0 else []
        return Found(ids, score, round(float(margins[best]), 4))

    def _margin(self, near: np.ndarray, shares: np.ndarray, best: int) -> float:
        """By how much a text keeps the limits: at least 0 if one of the two allows it."""
        starts, counts = self.spans.starts[near], self.spans.counts[near]
        others = (starts >= starts[best] + counts[best]) | (starts + counts <= starts[best])  # no line in common
        others &= self.same[near] != self.same[near[best]]
        gap = shares[others].min(initial=1.0) - shares[best]
        return float(max(self.limits.share - shares[best], gap - self.limits.gap))

    def _scores(self, log_probs: np.ndarray, spans: np.ndarray) -> np.ndarray:
        """Log-likelihood of each span's text minus that of the best path without a text, per letter."""
        # Verses that are repeated word for word have one score.
        texts, place = np.unique([self._text(j) for j in spans], return_inverse=True)
        targets = [[self.index[c] for c in text] for text in texts]
        sizes = torch.tensor([len(target) for target in targets])
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(t) for t in targets], batch_first=True)
        logp = torch.from_numpy(log_probs)[:, None].expand(-1, len(texts), -1)
        frames = torch.full((len(texts),), len(log_probs))
        losses = ctc_loss(logp, padded, frames, sizes, reduction="none").numpy()
        free = float(log_probs.max(-1).sum())
        return ((-losses - free) / sizes.numpy())[place]

    def _text(self, span: int) -> str:
        start = self.spans.starts[span]
        return " ".join(self.texts.texts[start : start + self.spans.counts[span]])
