"""Batches of items of like length whose padded size is bounded, and random items up to a bound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def length_batches(lengths: Sequence[int], limit: float, rng: np.random.Generator | None = None) -> list[list[int]]:
    """Indices in batches; a batch's items times its longest item never exceed `limit`, unless one item alone does.

    With a generator, lengths are jittered by a tenth before sorting, so that each call mixes other neighbours at
    little cost in padding, and the batches are shuffled. Without one, shortest first; equal lengths give equal batches.
    Lhotse's dynamic bucketing bounds the sum of durations and lets a long item that comes last go over; the memory
    of a step has to be known beforehand.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    jitter = np.ones(len(sizes)) if rng is None else rng.uniform(0.9, 1.1, len(sizes))
    batches: list[list[int]] = []
    longest = 0
    for index in np.argsort(sizes * jitter, kind="stable").tolist():
        longest = max(longest, int(sizes[index]))
        if not batches or longest * (len(batches[-1]) + 1) > limit:
            batches.append([])
            longest = int(sizes[index])
        batches[-1].append(index)
    if rng is not None:
        rng.shuffle(batches)
    return batches


def random_share(lengths: Sequence[int], limit: float, rng: np.random.Generator) -> list[int]:
    """Indices of random items whose lengths add up to at most `limit`, at least one item if there is any."""
    chosen: list[int] = []
    for index in rng.permutation(len(lengths)).tolist():
        limit -= lengths[index]
        if limit < 0 and chosen:
            break
        chosen.append(index)
    return chosen
