"""Batches for pre-training: which crop of which utterance at which step, and its audio with the units beside it.

Everything is a function of (seed, step), so a run that goes on after a kill sees what an undisturbed one would see.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from corpora.audio import SAMPLE_RATE, read_audio
from corpora.batches import length_batches
from corpora.datadir import Utterance
from upstream.config import PretrainConfig
from upstream.encoder import frame_count
from upstream.family import HOP, RECEPTIVE_FIELD
from upstream.masking import batch_mask

log = logging.getLogger(__name__)

DEV_STREAM = 1 << 40  # a step number that no training run reaches: dev masks are the same at every validation


@dataclass(frozen=True)
class Clip:
    """`samples` samples of utterance number `utterance` from `first`, which is 320 times its first unit."""

    utterance: int
    first: int
    samples: int


@dataclass(frozen=True)
class Step:
    number: int
    clips: list[Clip]


@dataclass(frozen=True)
class Batch:
    """Unpadded waveforms; units (B, T, S) long for S label sets, span mask and valid frames (B, T) bool; utterance ids
    for messages, and the group (language) of each item."""

    step: int
    wavs: list[Tensor]
    labels: Tensor
    mask: Tensor
    valid: Tensor
    utt_ids: list[str]
    groups: list[str] = field(default_factory=list)


def group_of(utterance: Utterance) -> str:
    """The group whose share sampling decides: the language of `utt2lang`, whatever names it holds."""
    return utterance.language or "unknown"


def crop(utterance: int, samples: int, limit: int, rng: np.random.Generator) -> Clip:
    """A random window of at most `limit` samples that starts on a frame."""
    if samples <= limit:
        return Clip(utterance, 0, samples)
    return Clip(utterance, HOP * int(rng.integers((samples - limit) // HOP + 1)), limit)


def language_repeats(hours: dict[str, float], temperature: float) -> dict[str, float]:
    """How often an epoch shows each language's utterances: shares ~ hours ** temperature, total hours unchanged."""
    weights = {group: value**temperature for group, value in hours.items() if value > 0}
    total, weight_sum = sum(hours.values()), sum(weights.values())
    return {group: weight / weight_sum * total / hours[group] for group, weight in weights.items()}


def _batches(
    clips: Sequence[Clip], config: PretrainConfig, rng: np.random.Generator | None = None
) -> list[list[Clip]]:
    """Batches of clips of like length, padded to at most `batch_seconds`; shuffled with a generator."""
    rows = length_batches([clip.samples for clip in clips], config.batch_seconds * SAMPLE_RATE, rng)
    return [[clips[i] for i in row] for row in rows]


class StepSampler(Sampler[Step]):
    """The steps `start` to `stop`-1 of a run; epochs follow one another, each freshly cropped and shuffled."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        config: PretrainConfig,
        *,
        start: int = 0,
        stop: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.samples = [u.samples for u in utterances]
        self.groups = [group_of(u) for u in utterances]
        self.config = config
        self.start, self.stop = start, config.steps if stop is None else stop
        self.rank, self.ranks = rank, ranks
        hours: dict[str, float] = {}
        for group, samples in zip(self.groups, self.samples, strict=True):
            hours[group] = hours.get(group, 0.0) + samples / SAMPLE_RATE / 3600
        self.hours = hours
        self.repeats = language_repeats(hours, config.temperature)

    def __len__(self) -> int:
        return self.stop - self.start

    def epoch(self, number: int) -> Iterator[list[Clip]]:
        rng = np.random.default_rng([self.config.seed, 1, number])
        limit = int(self.config.crop_seconds * SAMPLE_RATE)
        clips = []
        for index, (samples, group) in enumerate(zip(self.samples, self.groups, strict=True)):
            repeats = self.repeats[group]
            for _ in range(int(repeats + rng.random())):
                clips.append(crop(index, samples, limit, rng))
        batches = _batches(clips, self.config, rng)
        # every rank must see the same number of batches, or the others wait for it for ever
        equal = len(batches) if self.ranks == 1 else len(batches) // self.ranks * self.ranks
        yield from batches[self.rank : equal : self.ranks]

    def __iter__(self) -> Iterator[Step]:
        step, number = 0, 0
        while step < self.stop:
            before = step
            for clips in self.epoch(number):
                if step >= self.start:
                    yield Step(step, clips)
                step += 1
                if step >= self.stop:
                    return
            if step == before:
                raise ValueError("an epoch without a single batch: is the training set empty?")
            number += 1


class PretrainDataset(Dataset):
    """Reads the clips of a step: indexed by a `Step`, gives a `Batch`.

    `units`: (T, S) by utterance id for S label sets, or (T,) for a single one.
    """

    def __init__(
        self, utterances: Sequence[Utterance], units: Mapping[str, np.ndarray], config: PretrainConfig
    ) -> None:
        self.utterances = utterances
        self.units = units
        self.config = config

    def __getitem__(self, step: Step) -> Batch:
        wavs, rows, utt_ids, groups = [], [], [], []
        for clip in step.clips:
            utterance = self.utterances[clip.utterance]
            first = (utterance.start or 0) + clip.first
            wavs.append(torch.from_numpy(read_audio(utterance.audio, first, first + clip.samples)))
            start = clip.first // HOP
            rows.append(np.asarray(self.units[utterance.utt_id][start : start + frame_count(clip.samples)]))
            utt_ids.append(utterance.utt_id)
            groups.append(group_of(utterance))
        frames = [len(row) for row in rows]
        labels = np.zeros((len(rows), max(frames), *rows[0].shape[1:]), dtype=np.int64)
        for target, row in zip(labels, rows, strict=True):
            target[: len(row)] = row
        rng = np.random.default_rng([self.config.seed, 2, step.number])
        mask = batch_mask(frames, self.config.mask_prob, self.config.mask_length, rng)
        valid = np.arange(labels.shape[1]) < np.array(frames)[:, None]
        return Batch(
            step.number,
            wavs,
            torch.from_numpy(labels),
            torch.from_numpy(mask),
            torch.from_numpy(valid),
            utt_ids,
            groups,
        )


def dev_steps(utterances: Sequence[Utterance], config: PretrainConfig) -> list[Step]:
    """The dev set as fixed batches: the start of every utterance, in an order that never changes."""
    limit = int(config.crop_seconds * SAMPLE_RATE)
    clips = [Clip(i, 0, min(u.samples, limit)) for i, u in enumerate(utterances)]
    return [Step(DEV_STREAM + i, batch) for i, batch in enumerate(_batches(clips, config))]


def usable(utterances: Sequence[Utterance], split: str) -> list[Utterance]:
    """Drop utterances shorter than one frame (25 ms) and say how many; raises when nothing is left."""
    kept = [u for u in utterances if u.samples >= RECEPTIVE_FIELD]
    if len(kept) < len(utterances):
        log.info("%s: %d utterances under 25 ms left out", split, len(utterances) - len(kept))
    if not kept:
        raise ValueError(f"{split}: no utterance of at least 25 ms to train on")
    return kept
