"""Batches of items of similar length with a bounded padded size, and random items up to a total length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def length_batches(lengths: Sequence[int], limit: float, rng: np.random.Generator | None = None) -> list[list[int]]:
    """Indices in batches. The number of items times the longest item never exceeds `limit`, except for a single item.

    With a generator, lengths are jittered by a tenth before sorting: each call groups other items, with little more
    padding, and the batches are shuffled. Without one, the shortest come first and equal lengths give equal batches.
    Lhotse's dynamic bucketing is not used, since its last item may exceed the bound: the largest batch decides how much
    memory a step needs.
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
    """Indices of random items whose lengths sum to at most `limit`; at least one item if there are any."""
    chosen: list[int] = []
    for index in rng.permutation(len(lengths)).tolist():
        limit -= lengths[index]
        if limit < 0 and chosen:
            break
        chosen.append(index)
    return chosen
