"""Batches of pre-training: coverage, resume, crops with their labels, and masks."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora.datadir import Utterance
from upstream.config import PretrainConfig
from upstream.model.encoder import frame_count
from upstream.pretrain.data import (
    Clip,
    PretrainDataset,
    Step,
    StepSampler,
    batch_mask,
    crop,
    dev_steps,
    language_repeats,
    span_mask,
    usable,
)
from upstream.pretrain.train import unchanged

CONFIG = PretrainConfig(steps=30, batch_seconds=10.0, crop_seconds=4.0, temperature=0.5)


def utterances(count=60, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Utterance(f"s-{i:03d}", "s", Path(f"{i}.wav"), int(samples), language="ar" if i % 6 else "en")
        for i, samples in enumerate(rng.integers(6000, 120000, count))
    ]


def test_batches_are_bounded_by_padded_audio_and_an_epoch_covers_everything_once():
    data = utterances()
    sampler = StepSampler(data, PretrainConfig(temperature=1.0, batch_seconds=10.0, crop_seconds=4.0))
    seen = Counter()
    for clips in sampler.epoch(0):
        assert len(clips) * max(c.samples for c in clips) <= 10.0 * 16000
        seen.update(c.utterance for c in clips)
    assert set(seen) == set(range(len(data)))
    for number, u in enumerate(data):  # once, and where it is longer than a crop, as often as it holds one
        assert seen[number] == 1 or 1 <= int(u.samples / 64000) <= seen[number] <= int(u.samples / 64000) + 1


def test_epochs_differ_and_a_later_start_sees_the_same_steps():
    sampler = StepSampler(utterances(), CONFIG)
    assert list(sampler.epoch(0)) != list(sampler.epoch(1))
    whole = list(StepSampler(utterances(), CONFIG))
    assert [step.number for step in whole] == list(range(30))
    assert list(StepSampler(utterances(), CONFIG, start=17)) == whole[17:]


@pytest.mark.parametrize("ranks, accumulate", [(1, 2), (2, 1), (3, 2)])
def test_steps_of_all_ranks_are_one_row_of_batches(ranks, accumulate):
    """Equal counts, nothing lost or repeated at the end of an epoch, and a step does not depend on the ranks."""
    config = replace(CONFIG, accumulate=accumulate)
    single = StepSampler(utterances(), config)
    whole = single.epoch(0) + single.epoch(1) + single.epoch(2)
    assert len(single.epoch(0)) % (ranks * accumulate), "choose sizes that do not divide"
    parts = [list(StepSampler(utterances(), config, rank=r, ranks=ranks, stop=8)) for r in range(ranks)]
    assert {len(part) for part in parts} == {8}
    slots = ranks * accumulate
    for number, steps in enumerate(zip(*parts, strict=True)):
        taken = {slot: clips for step in steps for slot, clips in zip(step.slots, step.parts, strict=True)}
        assert [taken[slot] for slot in range(slots)] == whole[number * slots : (number + 1) * slots]
        assert len({step.position for step in steps}) == 1


def test_a_position_continues_like_counting():
    for ranks in (1, 2):
        whole = list(StepSampler(utterances(), CONFIG, rank=ranks - 1, ranks=ranks))
        for start in (1, 9, 17, 29):
            resumed = StepSampler(
                utterances(), CONFIG, start=start, position=whole[start - 1].position, rank=ranks - 1, ranks=ranks
            )
            assert list(resumed) == whole[start:]


def test_temperature_moves_hours_between_languages():
    hours = {"ar": 9.0, "en": 1.0}
    assert language_repeats(hours, 1.0) == pytest.approx({"ar": 1.0, "en": 1.0})
    equal = language_repeats(hours, 0.0)
    assert 9.0 * equal["ar"] == pytest.approx(5.0) and 1.0 * equal["en"] == pytest.approx(5.0)
    half = language_repeats(hours, 0.5)
    assert 9.0 * half["ar"] / (1.0 * half["en"]) == pytest.approx(3.0)


def test_long_recordings_are_not_under_sampled():
    """With equal hours and temperature 0, thirty seconds a recording against five, in crops of at most ten."""
    data = [Utterance(f"a-{i}", "a", Path("a.wav"), 480_000, language="ar") for i in range(20)]
    data += [Utterance(f"e-{i:03d}", "e", Path("e.wav"), 80_000, language="en") for i in range(120)]
    sampler = StepSampler(data, PretrainConfig(temperature=0.0, batch_seconds=40.0, crop_seconds=10.0))
    shown = Counter()
    for epoch in range(5):
        for clip in (clip for clips in sampler.epoch(epoch) for clip in clips):
            shown[data[clip.utterance].language] += clip.samples / 16000 / 5
    assert shown["ar"] == pytest.approx(600, rel=0.02) and shown["en"] == pytest.approx(600, rel=0.02)


def test_unreadable_audio_is_silent_and_has_no_valid_frame(tmp_path):
    data, units = [], {}
    for i, samples in enumerate((8000, 16000)):
        soundfile.write(tmp_path / f"{i}.wav", np.full(samples, 0.5), 16000)
        data.append(Utterance(f"s-{i}", "s", tmp_path / f"{i}.wav", samples))
        units[f"s-{i}"] = np.ones(frame_count(samples), dtype=np.uint16)
    clips = [Clip(0, 0, 8000), Clip(1, 0, 16000)]
    dataset = PretrainDataset(data, units, CONFIG)
    whole = dataset[Step(5, [clips], [0])].parts[0]
    (tmp_path / "1.wav").write_bytes(b"")
    batch = dataset[Step(5, [clips], [0])].parts[0]
    assert list(batch.unreadable) == ["s-1"] and "1.wav" in batch.unreadable["s-1"] and not whole.unreadable
    assert not batch.wavs[1].any() and len(batch.wavs[1]) == 16000 and torch.equal(batch.wavs[0], whole.wavs[0])
    assert batch.valid.sum(1).tolist() == [frame_count(8000), 0]
    assert torch.equal(batch.mask, whole.mask), "the others are masked as they were"


def test_a_batch_takes_a_handful_of_file_descriptors_from_a_worker(tmp_path):
    """Not one for each clip: the usual limit is a few hundred."""
    soundfile.write(tmp_path / "a.wav", np.arange(16000) / 16000, 16000)
    data = [Utterance("s-0", "s", tmp_path / "a.wav", 16000)]
    dataset = PretrainDataset(data, {"s-0": np.ones(frame_count(16000), dtype=np.uint16)}, CONFIG)
    steps = [Step(n, [[Clip(0, 320 * i, 800 + 320 * i) for i in range(20)]], [0]) for n in range(6)]
    own = [dataset[step].parts[0] for step in steps]
    before = len(os.listdir("/proc/self/fd"))
    loader = torch.utils.data.DataLoader(
        dataset, sampler=steps, batch_size=None, num_workers=1, prefetch_factor=4, collate_fn=unchanged
    )
    got = []
    for step in loader:
        got.append(step.parts[0])
        assert len(os.listdir("/proc/self/fd")) - before < 60
    for ours, theirs in zip(own, got, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.wavs, theirs.wavs, strict=True))
        assert torch.equal(ours.labels, theirs.labels) and ours.utt_ids == theirs.utt_ids


@settings(max_examples=150, deadline=None)
@given(
    samples=st.integers(400, 40000),
    limit=st.integers(400, 40000),
    place=st.integers(0, 100),
    seed=st.integers(0, 2**32 - 1),
)
def test_crops_start_on_a_frame_and_their_labels_are_those_of_the_whole(long_file, samples, limit, place, seed):
    """Sample i*320 of the utterance carries the value i, unit i is i: whatever is cropped, also of a part of a
    recording, label and audio name the same frame."""
    samples = min(samples, 40000 - 320 * place)
    data = [Utterance("s-0", "s", long_file, samples, 320 * place, 320 * place + samples)]
    units = np.arange(place, place + frame_count(samples), dtype=np.uint16)
    dataset = PretrainDataset(data, {"s-0": units}, CONFIG)
    clip = crop(0, samples, limit, np.random.default_rng(seed))
    assert clip.first % 320 == 0 and clip.first + clip.samples <= samples and clip.samples == min(limit, samples)
    batch = dataset[Step(0, [[clip]], [0])].parts[0]
    frames = frame_count(clip.samples)
    assert batch.labels.shape == (1, frames) and batch.valid.all() and len(batch.wavs[0]) == clip.samples
    np.testing.assert_allclose(batch.wavs[0][::320][:frames].numpy() * 400, batch.labels[0].numpy(), atol=1e-3)


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio") / "a.wav"
    soundfile.write(path, (np.arange(40000) // 320 / 400).astype(np.float32), 16000, subtype="FLOAT")
    return path


def test_last_frame_of_a_crop_is_reachable():
    firsts = {crop(0, 400 + 320 * 4, 400, np.random.default_rng(seed)).first for seed in range(200)}
    assert firsts == {0, 320, 640, 960, 1280}


def test_batches_repeat_for_a_step_and_pad_with_invalid_frames(tmp_path):
    data, units = [], {}
    for i, samples in enumerate((8000, 16000)):
        soundfile.write(tmp_path / f"{i}.wav", np.zeros(samples), 16000)
        data.append(Utterance(f"s-{i}", "s", tmp_path / f"{i}.wav", samples))
        units[f"s-{i}"] = np.ones(frame_count(samples), dtype=np.uint16)
    dataset = PretrainDataset(data, units, CONFIG)
    clips = [Clip(0, 0, 8000), Clip(1, 0, 16000)]
    one, two = dataset[Step(5, [clips], [0])].parts[0], dataset[Step(5, [clips], [0])].parts[0]
    assert (one.mask == two.mask).all() and not (one.mask & ~one.valid).any()
    assert one.valid.sum(1).tolist() == [frame_count(8000), frame_count(16000)]
    other_step, other_slot = dataset[Step(6, [clips], [0])], dataset[Step(5, [clips], [1])]
    assert (other_step.parts[0].mask != one.mask).any() and (other_slot.parts[0].mask != one.mask).any()


def test_dev_batches_never_change():
    assert dev_steps(utterances(), CONFIG) == dev_steps(utterances(), CONFIG)
    assert sum(len(step.parts[0]) for step in dev_steps(utterances(), CONFIG)) == 60


def test_utterances_shorter_than_a_frame_are_left_out(caplog):
    short = Utterance("s-x", "s", Path("x.wav"), 399)
    assert len(usable([*utterances(3), short], "train")) == 3
    with pytest.raises(ValueError, match="train.*25 ms"):
        usable([short], "train")


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


def test_masks_of_a_squeezed_encoder_end_on_the_borders_of_its_pairs():
    frames = [49, 50, 1, 2]
    single = batch_mask(frames, 0.5, 5, np.random.default_rng(3))
    pairs = batch_mask(frames, 0.5, 5, np.random.default_rng(3), squeeze=2)
    assert (pairs >= single).all() and (pairs > single).any()
    assert (pairs[:, 0::2] == pairs[:, 1::2])[:2, :24].all()
    assert not any(row[count:].any() for row, count in zip(pairs, frames, strict=True))
