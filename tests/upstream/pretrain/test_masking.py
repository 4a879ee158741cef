import numpy as np
import pytest

from upstream.pretrain.masking import batch_mask, span_mask


@pytest.mark.parametrize("frames", [1, 2, 9, 10, 11, 50, 777])
def test_every_utterance_keeps_a_span_and_some_context(frames):
    for seed in range(50):
        mask = span_mask(frames, 0.8, 10, np.random.default_rng(seed))
        assert mask.shape == (frames,) and mask.any()
        assert frames == 1 or not mask.all()


def test_length_equal_to_the_span_leaves_something_to_predict_from():
    for seed in range(50):
        mask = span_mask(10, 0.8, 10, np.random.default_rng(seed))
        assert 0 < mask.sum() < 10


def test_probability_0_masks_nothing():
    assert not batch_mask([50, 3, 1], 0.0, 10, np.random.default_rng(0)).any()


def test_share_of_masked_frames_is_that_of_hubert():
    """Spans of 10 at 0.8 start on 8 % of the frames; with overlap about half of a long clip is masked."""
    rng = np.random.default_rng(0)
    share = np.mean([span_mask(500, 0.8, 10, rng).mean() for _ in range(300)])
    assert 0.5 < share < 0.6


def test_runs_are_at_least_one_span_long():
    rng = np.random.default_rng(0)
    for _ in range(50):
        edges = np.flatnonzero(np.diff(np.r_[0, span_mask(200, 0.4, 10, rng).astype(int), 0]))
        assert (edges[1::2] - edges[::2]).min() >= 10


def test_padding_is_never_masked():
    rng = np.random.default_rng(0)
    frames = [3, 50, 0, 11]
    for _ in range(50):
        mask = batch_mask(frames, 0.8, 10, rng)
        assert mask.shape == (4, 50)
        for row, count in zip(mask, frames, strict=True):
            assert not row[count:].any()
            assert row[:count].any() == (count > 0)


def test_masks_are_a_function_of_the_generator():
    masks = [span_mask(300, 0.8, 10, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert (masks[0] == masks[1]).all() and (masks[0] != masks[2]).any()
