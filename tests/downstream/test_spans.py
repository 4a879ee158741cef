"""Distances to all spans of lines, against RapidFuzz pair by pair."""

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from downstream.spans import SpanDistances


@pytest.mark.parametrize(("letters", "longest", "spans"), [("ab", 9, 1), ("abcde", 70, 4), ("ab", 200, 3)])
def test_distances_are_those_of_rapidfuzz(letters: str, longest: int, spans: int) -> None:
    rng = np.random.default_rng(longest)
    lines = ["".join(rng.choice(list(letters), rng.integers(1, longest))) for _ in range(25)]
    lines += ["a" * 64, "b" * 128]  # spans that end where a word of 64 bits ends
    searched = SpanDistances(lines, spans)
    for size in (1, 7, 63, 64, 65, 150):
        text = "".join(rng.choice([*letters, "z"], size))
        chosen = rng.permutation(len(searched.starts))[: rng.integers(1, len(searched.starts) + 1)]
        expected = []
        for j in chosen:
            start = searched.starts[j]
            span = "".join(lines[start : start + searched.counts[j]])
            assert searched.string(j) == span
            expected.append(Levenshtein.distance(text, span))
        assert searched.distances(text, chosen).tolist() == expected
