"""Batches for pre-training: which crop of which utterance at which step, and its audio with the units beside it.

Everything is a function of (seed, step), so a run that goes on after a kill sees what an undisturbed one would see.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from corpora.audio import SAMPLE_RATE, AudioError, read_audio
from corpora.batches import length_batches
from corpora.datadir import Utterance
from upstream.config import PretrainConfig
from upstream.model.encoder import frame_count
from upstream.model.family import HOP, RECEPTIVE_FIELD
from upstream.pretrain.masking import batch_mask

log = logging.getLogger(__name__)

# Where a stream of batches stands: epoch, block of shards (0 without shards), batches of it that are behind.
Position = tuple[int, int, int]

DEV_STREAM = 1 << 40  # a step number that no training run reaches: dev masks are the same at every validation


class Cropped(Protocol):
    """A window of `samples` samples of some utterance, from `first`, which is 320 times its first unit."""

    first: int
    samples: int


C = TypeVar("C", bound=Cropped)


@dataclass(frozen=True)
class Clip:
    """`samples` samples of utterance number `utterance` from `first`, which is 320 times its first unit."""

    utterance: int
    first: int
    samples: int


@dataclass(frozen=True)
class Step:
    """One optimisation step as one process sees it.

    `parts` are the batches whose gradients it adds up; `slots` number them among those of all processes, so that a
    step is the same however processes and accumulation share it out. The next step begins at `position`.
    """

    number: int
    parts: list[list[Any]]
    slots: list[int]
    position: Position = (0, 0, 0)


@dataclass(frozen=True)
class Batch:
    """Unpadded waveforms; units (B, T, S) long for S label sets, span mask and valid frames (B, T) bool; utterance ids
    for messages, and the group (language) of each item. `unreadable` holds utterance ids, and why their audio could not
    be read: such items are silent and have no valid frame."""

    step: int
    slot: int
    wavs: list[Tensor]
    labels: Tensor
    mask: Tensor
    valid: Tensor
    utt_ids: list[str]
    groups: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Waveforms as one tensor: each would take a file descriptor of its own from a worker to the process that
        trains, and there are a thousand of them."""
        lengths = [len(wav) for wav in self.wavs]
        return {**self.__dict__, "wavs": (torch.cat(self.wavs) if self.wavs else torch.zeros(0), lengths)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        joint, lengths = state["wavs"]
        self.__dict__.update({**state, "wavs": list(joint.split(lengths))})

    @property
    def frames(self) -> tuple[int, int]:
        """Masked and unmasked frames."""
        masked = int((self.mask & self.valid).sum())
        return masked, int(self.valid.sum()) - masked


def group_of(utterance: Utterance) -> str:
    """The group whose share sampling decides: the language of `utt2lang`, whatever names it holds."""
    return utterance.language or "unknown"


@dataclass(frozen=True)
class StepBatches:
    """The batches of a `Step`, read."""

    number: int
    parts: list[Batch]
    position: Position


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


def clip_batches(clips: Sequence[C], config: PretrainConfig, rng: np.random.Generator | None = None) -> list[list[C]]:
    """Batches of clips of like length, padded to at most `batch_seconds`; shuffled with a generator."""
    rows = length_batches([clip.samples for clip in clips], config.batch_seconds * SAMPLE_RATE, rng)
    return [[clips[i] for i in row] for row in rows]


def repeated_crops(
    utterances: Iterable[tuple[int, tuple[int, str]]],
    repeats: dict[str, float],
    config: PretrainConfig,
    rng: np.random.Generator,
) -> list[Clip]:
    """Random crops of each utterance (number, (samples, language)), as often as its language is shown: one where it is
    no longer than a crop, else so many that they have its length on average, or a language of long recordings would
    be heard less than its hours say."""
    limit = int(config.crop_seconds * SAMPLE_RATE)
    clips = []
    for index, (samples, group) in utterances:
        for _ in range(int(repeats[group] * max(1.0, samples / limit) + rng.random())):
            clips.append(crop(index, samples, limit, rng))
    return clips


def group_hours(samples: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Hours of each language from pairs of language and length in samples."""
    hours: dict[str, float] = {}
    for group, count in samples:
        hours[group] = hours.get(group, 0.0) + count / SAMPLE_RATE / 3600
    return hours


class StepSampler(Sampler[Step]):
    """The steps `start` to `stop`-1 of a run.

    Epochs, each freshly cropped and shuffled, form one endless row of batches. A step takes the next
    ranks x `accumulate` of them, so that all processes have equally many and no batch is lost or repeated where an
    epoch ends. `position` is where step `start` begins; without it the epochs before are counted through.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        config: PretrainConfig,
        *,
        start: int = 0,
        stop: int | None = None,
        position: Position | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.samples = [u.samples for u in utterances]
        self.groups = [group_of(u) for u in utterances]
        self.config = config
        self.start, self.stop = start, config.steps if stop is None else stop
        self.position = position
        self.rank, self.ranks = rank, ranks
        self.hours = group_hours(zip(self.groups, self.samples, strict=True))
        self.repeats = language_repeats(self.hours, config.temperature)

    def __len__(self) -> int:
        return self.stop - self.start

    def epoch(self, number: int) -> list[list[Clip]]:
        """The batches of an epoch, in their order, for all processes."""
        rng = np.random.default_rng([self.config.seed, 1, number])
        clips = repeated_crops(enumerate(zip(self.samples, self.groups, strict=True)), self.repeats, self.config, rng)
        return clip_batches(clips, self.config, rng)

    def _rows(self, position: Position) -> Iterator[tuple[list[Clip], Position]]:
        """Batches from `position` on, each with the position behind it."""
        number, _, behind = position
        while True:
            batches = self.epoch(number)
            if not batches:
                raise ValueError("an epoch without a single batch: is the training set empty?")
            for index in range(behind, len(batches)):
                yield batches[index], (number, 0, index + 1)
            number, behind = number + 1, 0

    def __iter__(self) -> Iterator[Step]:
        slots = self.ranks * self.config.accumulate
        rows = self._rows(self.position or (0, 0, 0))
        if self.position is None:
            for _ in range(self.start * slots):
                next(rows)
        for number in range(self.start, self.stop):
            drawn = [next(rows) for _ in range(slots)]
            mine = range(self.rank, slots, self.ranks)
            yield Step(number, [drawn[slot][0] for slot in mine], list(mine), drawn[-1][1])


class PretrainDataset(Dataset):
    """Reads the clips of a step: indexed by a `Step`, gives its `StepBatches`.

    `units`: (T, S) by utterance id for S label sets, or (T,) for a single one.
    """

    def __init__(
        self, utterances: Sequence[Utterance], units: Mapping[str, np.ndarray], config: PretrainConfig
    ) -> None:
        self.utterances = utterances
        self.units = units
        self.config = config

    def describe(self, clip: Clip) -> tuple[str, str, np.ndarray]:
        """Utterance id, group and all units (T, S) or (T,) of a clip's utterance."""
        utterance = self.utterances[clip.utterance]
        return utterance.utt_id, group_of(utterance), self.units[utterance.utt_id]

    def waveform(self, clip: Clip) -> np.ndarray:
        """The samples (N,) of a clip. Raises AudioError."""
        utterance = self.utterances[clip.utterance]
        first = (utterance.start or 0) + clip.first
        return read_audio(utterance.audio, first, first + clip.samples)

    def __getitem__(self, step: Step) -> StepBatches:
        parts = [self.batch(step.number, slot, clips) for slot, clips in zip(step.slots, step.parts, strict=True)]
        return StepBatches(step.number, parts, step.position)

    def batch(self, step: int, slot: int, clips: Sequence[Any]) -> Batch:
        """One batch; its masks are a function of seed, step and slot."""
        wavs, rows, utt_ids, groups = [], [], [], []
        unreadable: dict[str, str] = {}
        for clip in clips:
            utt_id, group, units = self.describe(clip)
            try:
                wav = self.waveform(clip)
            except AudioError as error:
                wav = np.zeros(clip.samples, np.float32)
                unreadable[utt_id] = str(error)
            wavs.append(torch.from_numpy(wav))
            start = clip.first // HOP
            rows.append(np.asarray(units[start : start + frame_count(clip.samples)]))
            utt_ids.append(utt_id)
            groups.append(group)
        frames = [len(row) for row in rows]
        labels = np.zeros((len(rows), max(frames), *rows[0].shape[1:]), dtype=np.int64)
        for target, row in zip(labels, rows, strict=True):
            target[: len(row)] = row
        rng = np.random.default_rng([self.config.seed, 2, step, *([slot] if slot else [])])
        mask = batch_mask(frames, self.config.mask_prob, self.config.mask_length, rng)
        heard = [0 if utt_id in unreadable else count for utt_id, count in zip(utt_ids, frames, strict=True)]
        valid = np.arange(labels.shape[1]) < np.array(heard)[:, None]
        return Batch(
            step,
            slot,
            wavs,
            torch.from_numpy(labels),
            torch.from_numpy(mask),
            torch.from_numpy(valid),
            utt_ids,
            groups,
            unreadable,
        )


def dev_steps(utterances: Sequence[Utterance], config: PretrainConfig) -> list[Step]:
    """The dev set as fixed batches: the start of every utterance, in an order that never changes."""
    limit = int(config.crop_seconds * SAMPLE_RATE)
    clips = [Clip(i, 0, min(u.samples, limit)) for i, u in enumerate(utterances)]
    return [Step(DEV_STREAM + i, [batch], [0]) for i, batch in enumerate(clip_batches(clips, config))]


def usable(utterances: Sequence[Utterance], split: str) -> list[Utterance]:
    """Drop utterances shorter than one frame (25 ms) and say how many; raises when nothing is left."""
    kept = [u for u in utterances if u.samples >= RECEPTIVE_FIELD]
    if len(kept) < len(utterances):
        log.info("%s: %d utterances under 25 ms left out", split, len(utterances) - len(kept))
    if not kept:
        raise ValueError(f"{split}: no utterance of at least 25 ms to train on")
    return kept
