"""Find which of many known texts a recording contains: verses, commands, prompts.

    audio -> greedy text -> candidates by edit distance -> CTC likelihood of each -> ids, or none

Candidates are single lines and spans of up to N consecutive lines, compared without spaces; those nearest to the greedy
text are ranked by CTC. The answer is none unless the best one explains the audio nearly as well as the best free path,
or much better than every other line (`Limits.likelihood`, calibrated for a recogniser). Without calibration or without
probabilities, letters decide: few of them differ (`Limits.share`), or all other lines differ by clearly more
(`Limits.gap`): a bad recording of a listed text has many errors, but no other line is nearer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import ctc_loss

from corpora.prepare.readers import read_lines
from corpora.quran_spelling import in_quran_spelling
from corpora.text import normalise, printable
from downstream import DownstreamError
from downstream.spans import SpanDistances

SHORTEST = 3  # a greedy text with fewer letters finds nothing
NEAR = 0.12  # candidates differ by at most so much more of their letters than the closest one
CANDIDATES = 24  # at most so many are ranked by CTC where letters decide
CELLS = 8_000  # frames times candidates that are ranked where the likelihood decides,
RANKED = (5, 100)  # but at least and at most so many candidates
# Frames in which the blank is likelier than this are merged before the ranking, up to so many: there are few letters in
# 25 or 50 frames a second of recitation, and the time of CTC grows with the frames.
BLANK, MERGED = 0.99, 8
# Being so many nats ahead of every other line counts as much as one nat a letter, up to the second number.
RIVAL_NATS, MOST_NATS = 16.0, 32.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """When a text is found: head.json holds the values that were calibrated for a recogniser (`find`).

    With `likelihood`, and log-probabilities: if its log-likelihood ratio per letter to the best free path, plus 1/16 of
    the nats by which it is ahead of every other line, is at least `likelihood`. Otherwise: if the share of its letters
    that differ is at most `share`, or smaller than that of every other line by at least `gap`.

    A line is ahead by its log-likelihood plus `bonus` a character. A recogniser writes too few letters where it hears
    badly, so short lines would be likelier. Of 294 noisy clips the first line was right in 256 with 2, in 218 with 0.
    """

    likelihood: float | None = None
    bonus: float = 0.0
    share: float = 0.35
    gap: float = 0.08


def limits_of(description: dict[str, Any]) -> Limits:
    """The limits in head.json, or the defaults."""
    return Limits(**description.get("find", {}))


@dataclass(frozen=True)
class Found:
    """The ids of the lines in order (empty: none of them); `score`, the log-likelihood ratio per letter of the best
    text to the best free path (about 0 where every letter was heard); `margin`, positive if and only if a text was
    found."""

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

    Spaces or a tab follow the id. Diacritics, punctuation and marks of direction are dropped. Raises CorpusError for
    a file that is missing, without lines or not UTF-8, a repeated id, an id without text, and a text none of whose
    letters the recogniser writes.
    """
    path = Path(path)
    known = set(characters)
    ids: list[str] = []
    texts: list[str] = []
    seen: dict[str, str] = {}
    lines = [(where, own) for where, line in read_lines(path) if (own := printable(line).strip())]
    quran = in_quran_spelling("\n".join(line for _, line in lines))
    for where, line in lines:
        name, *rest = line.split(maxsplit=1)
        if name in seen:
            raise DownstreamError(f"{where}: the id {name} is also in line {seen[name]}; ids (first words) must differ")
        seen[name] = where.rsplit(":", 1)[1]
        text = normalise(" ".join(rest), "modern", quran=quran)
        kept = " ".join("".join(c if c in known else "" for c in text).split())
        if not kept.strip():
            raise DownstreamError(
                f"{where}: {name}, the id, has no text that the recogniser can write; expected `id text`, Arabic"
            )
        ids.append(name)
        texts.append(kept)
    if not ids:
        raise DownstreamError(f"{path}: no lines; expected Kaldi text, `id text` a line")
    if all(set(normalise(name, "modern")) <= known for name in ids):
        _log.warning(
            "%s: the first word of each line is taken for its id, as %s; put an id before the text if that is a word",
            path, ids[0],
        )  # fmt: skip
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
        self.spans = SpanDistances(texts.bare, min(spans, len(texts.bare)))

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
        if log_probs is not None and self.limits.likelihood is not None:
            return self._likeliest(log_probs, near, shares)
        order = np.argsort(shares, kind="stable")[:CANDIDATES]
        chosen = order[shares[order] <= shares[order[0]] + NEAR]
        margins = [self._margin(near, shares, j) for j in chosen]
        if max(margins) < 0:  # none of them, whatever CTC says: the nearest one stands for all
            chosen = chosen[:1]
        best, score = 0, None
        if log_probs is not None:
            ratios, sizes = self._ratios(log_probs, near[chosen])
            scores = ratios / sizes
            best, score = int(np.argmax(scores)), round(float(scores.max()), 4)
        start, count = self.spans.starts[near[chosen[best]]], self.spans.counts[near[chosen[best]]]
        ids = self.texts.ids[start : start + count] if margins[best] >= 0 else []
        return Found(ids, score, round(float(margins[best]), 4))

    def _likeliest(self, log_probs: np.ndarray, near: np.ndarray, shares: np.ndarray) -> Found:
        """The first of the spans `near` by likelihood and bonus, if it is likely enough."""
        count = min(max(CELLS // len(log_probs), RANKED[0]), RANKED[1])
        chosen = near[np.argsort(shares, kind="stable")[:count]]
        ratios, sizes = self._ratios(log_probs, chosen)
        ranks = ratios + self.limits.bonus * sizes
        best = int(np.argmax(ranks))
        others = self._others(chosen, best)
        lead = min(float(ranks[best] - ranks[others].max(initial=-np.inf)), MOST_NATS)
        score = float(ratios[best] / sizes[best])
        margin = score + lead / RIVAL_NATS - self.limits.likelihood
        start, count = self.spans.starts[chosen[best]], self.spans.counts[chosen[best]]
        ids = self.texts.ids[start : start + count] if margin >= 0 else []
        return Found(ids, round(score, 4), round(margin, 4))

    def _others(self, spans: np.ndarray, best: int) -> np.ndarray:
        """Which of the spans have no line in common with number `best` of them, and another text."""
        starts, counts = self.spans.starts[spans], self.spans.counts[spans]
        others = (starts >= starts[best] + counts[best]) | (starts + counts <= starts[best])
        text, lengths = self.spans.string(spans[best]), self.spans.lengths[spans]
        for i in np.flatnonzero(others & (lengths == lengths[best])):
            others[i] = self.spans.string(spans[i]) != text
        return others

    def _margin(self, near: np.ndarray, shares: np.ndarray, best: int) -> float:
        """By how much a text keeps the limits: at least 0 if one of the two allows it."""
        gap = shares[self._others(near, best)].min(initial=1.0) - shares[best]
        return float(max(self.limits.share - shares[best], gap - self.limits.gap))

    def _ratios(self, log_probs: np.ndarray, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-likelihood of each span's text minus that of the best free path, and the number of its characters."""
        # Verses that are repeated word for word have one score.
        texts, place = np.unique([self._text(j) for j in spans], return_inverse=True)
        targets = [[self.index[c] for c in text] for text in texts]
        sizes = torch.tensor([len(target) for target in targets])
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(t) for t in targets], batch_first=True)
        merged = merge_blanks(log_probs)
        if len(merged) > 2 * int(sizes.max()):  # each letter needs a frame, equal neighbours a blank between them
            log_probs = merged
        logp = torch.from_numpy(log_probs)[:, None].expand(-1, len(texts), -1)
        frames = torch.full((len(texts),), len(log_probs))
        losses = ctc_loss(logp, padded, frames, sizes, reduction="none").numpy()
        free = float(log_probs.max(-1).sum())
        return (-losses - free)[place], sizes.numpy()[place]

    def _text(self, span: int) -> str:
        start = self.spans.starts[span]
        return " ".join(self.texts.texts[start : start + self.spans.counts[span]])


def merge_blanks(log_probs: np.ndarray) -> np.ndarray:
    """(T, C) natural-log probabilities with fewer frames: up to `MERGED` neighbours that are surely blank become one.

    The merged frame has the likelihood of blanks only, and for each letter that of the letter in one of the frames and
    blanks in the others, so that a text may have a letter there which the recogniser did not write.
    """
    blank = log_probs[:, 0]
    sure = blank > np.log(BLANK)
    position = np.arange(len(sure))
    run = position - np.maximum.accumulate(np.where(sure, -1, position))  # 0 for other frames, then 1, 2, ...
    starts = np.flatnonzero(~sure | (run % MERGED == 1))
    letters = np.logaddexp.reduceat(log_probs[:, 1:] - blank[:, None], starts)
    blanks = np.add.reduceat(blank, starts)[:, None]
    return np.concatenate([blanks, letters + blanks], axis=1)
