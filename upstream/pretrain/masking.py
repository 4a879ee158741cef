"""Span masks for masked prediction, drawn per utterance within its valid frames (HuBERT, section II-B)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def span_mask(frames: int, prob: float, length: int, rng: np.random.Generator) -> np.ndarray:
    """(frames,) bool. About `prob * frames / length` spans of `length` frames, at least one, never past the end; with
    `prob` 0 none at all.

    In a clip no longer than a span, one span of half its frames; two frames or more always keep one to predict from.
    A single frame is masked, zero frames give an empty mask.
    """
    mask = np.zeros(frames, dtype=bool)
    if frames == 0 or prob == 0:
        return mask
    if frames <= length:
        length = max(1, frames // 2)
    starts = frames - length + 1
    # probabilistic rounding keeps the expected share right for short clips
    spans = int(prob * frames / length + rng.random())
    spans = min(max(spans, 1), max(1, (frames - 1) // length))
    for start in rng.choice(starts, size=spans, replace=False):
        mask[start : start + length] = True
    return mask


def batch_mask(frames: Sequence[int], prob: float, length: int, rng: np.random.Generator) -> np.ndarray:
    """(B, max frames) bool; padding is never masked."""
    mask = np.zeros((len(frames), max(frames, default=0)), dtype=bool)
    for row, count in zip(mask, frames, strict=True):
        row[:count] = span_mask(count, prob, length, rng)
    return mask
