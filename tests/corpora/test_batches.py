"""Batches hold every item once, stay within their bound, pad little, and repeat."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora.batches import length_batches, random_share

LENGTHS = [400 * (1 + i % 100) for i in range(1000)]


@given(st.lists(st.integers(400, 50_000), max_size=40), st.integers(400, 200_000), st.booleans())
@settings(max_examples=200, deadline=None)
def test_batches_cover_everything_once_within_the_bound(lengths, limit, shuffled):
    batches = length_batches(lengths, limit, np.random.default_rng(0) if shuffled else None)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert max(lengths[i] for i in batch) * len(batch) <= limit or len(batch) == 1


@pytest.mark.parametrize(("rng", "most"), [(None, 1.05), (np.random.default_rng(0), 1.15)])
def test_batches_pad_little(rng, most):
    batches = length_batches(LENGTHS, 400_000, rng)
    padded = sum(max(LENGTHS[i] for i in batch) * len(batch) for batch in batches)
    assert padded < most * sum(LENGTHS)


def test_the_generator_decides_order_and_neighbours():
    one, same, other = (length_batches(LENGTHS, 400_000, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == same and one != other
    assert {frozenset(batch) for batch in one} != {frozenset(batch) for batch in other}
    assert length_batches(LENGTHS, 400_000) == length_batches(LENGTHS, 400_000)


def test_one_item_over_the_limit_is_a_batch():
    assert length_batches([10, 50, 10], 20) == [[0, 2], [1]]


def test_a_random_share_stays_below_its_bound_and_is_never_empty():
    lengths = [30, 10, 20, 40]
    for seed in range(20):
        chosen = random_share(lengths, 60, np.random.default_rng(seed))
        assert len(set(chosen)) == len(chosen) >= 1 and sum(lengths[i] for i in chosen) <= 60
    assert len(random_share(lengths, 5, np.random.default_rng(0))) == 1
    assert sorted(random_share(lengths, 1000, np.random.default_rng(0))) == [0, 1, 2, 3]
    assert random_share([], 10, np.random.default_rng(0)) == []
