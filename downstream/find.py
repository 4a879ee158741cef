"""Find which of many known texts a recording contains: verses, commands, prompts.

    audio -> greedy text -> candidates by edit distance -> CTC likelihood of each -> ids, or none

Candidates are single lines and spans of up to N consecutive lines. The score is the log-likelihood of a text under the
recogniser, minus that of the best path without a text, divided by the number of letters; 0 is the best value. Below the
floor the answer is none. `find_floor` in head.json sets the floor; the default is not calibrated on any recogniser. The
margin is the distance of the score from the floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein
from torch.nn.functional import ctc_loss

from corpora.text import normalise
from downstream import DownstreamError

FLOOR = -1.2  # lowest score per letter at which a text is found
SHORTEST = 3  # a greedy text with fewer letters finds nothing


@dataclass(frozen=True)
class Found:
    """The ids of the lines in order (empty: none of them), the score per letter, its distance from the floor."""

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
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, raw = line.strip().partition(" ")
        if name in seen:
            raise DownstreamError(f"{path}:{number}: the id {name} is also in line {seen[name]}; ids must differ")
        seen[name] = number
        text = normalise(raw, "modern", quran=True)
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
        self, texts: TextList, characters: Sequence[str], *, spans: int = 1, floor: float = FLOOR, candidates: int = 24
    ) -> None:
        if spans < 1:
            raise DownstreamError(f"--spans {spans}: at least 1")
        self.texts, self.floor, self.candidates = texts, floor, candidates
        self.index = {character: i for i, character in enumerate(characters)}
        self.lengths = np.array([len(bare) for bare in texts.bare])
        self.spans = [(i, n) for n in range(1, spans + 1) for i in range(len(texts.bare) - n + 1)]
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        self.span_lengths = np.array([ends[i + n] - ends[i] for i, n in self.spans])
        whole = "".join(texts.bare)
        self.strings = [whole[ends[i] : ends[i + n]] for i, n in self.spans]

    def find(self, log_probs: np.ndarray, greedy: str) -> Found:
        """The lines that explain (T, C) natural-log probabilities best; `greedy` is their best free path."""
        heard = normalise(greedy, "modern").replace(" ", "")
        if len(heard) < SHORTEST:
            return Found([], None, None)
        chosen = self._candidates(heard)
        if not chosen:
            return Found([], None, None)
        scores = self._scores(log_probs, [self._text(span) for span in chosen])
        best = int(np.argmax(scores))
        score = float(scores[best])
        start, count = chosen[best]
        ids = self.texts.ids[start : start + count] if score >= self.floor else []
        return Found(ids, round(score, 4), round(score - self.floor, 4))

    def _text(self, span: tuple[int, int]) -> str:
        return " ".join(self.texts.texts[span[0] : span[0] + span[1]])

    def _candidates(self, heard: str) -> list[tuple[int, int]]:
        """The spans whose letters are nearest to the greedy text, with lengths within a factor of two."""
        near = np.flatnonzero((self.span_lengths >= len(heard) * 0.5) & (self.span_lengths <= len(heard) * 2 + 4))
        if not len(near):
            return []
        strings = [self.strings[j] for j in near]
        distances = process.cdist([heard], strings, scorer=Levenshtein.distance, dtype=np.int32)[0]
        shares = distances / np.maximum(self.span_lengths[near], len(heard))
        order = np.argsort(shares, kind="stable")[: self.candidates]
        return [self.spans[near[j]] for j in order]

    def _scores(self, log_probs: np.ndarray, texts: list[str]) -> np.ndarray:
        """Log-likelihood of each text minus that of the best path without a text, per letter."""
        targets = [[self.index[c] for c in text] for text in texts]
        sizes = torch.tensor([len(target) for target in targets])
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(t) for t in targets], batch_first=True)
        logp = torch.from_numpy(log_probs)[:, None].expand(-1, len(texts), -1)
        frames = torch.full((len(texts),), len(log_probs))
        losses = ctc_loss(logp, padded, frames, sizes, reduction="none").numpy()
        free = float(log_probs.max(-1).sum())
        return (-losses - free) / sizes.numpy()
