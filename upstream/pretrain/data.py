"""Plan the batches of pre-training, and read their audio, units and masks.

Crops, their order and the masks are functions of (seed, step), so a resumed run gets the batches of an undisturbed one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from corpora.audio import SAMPLE_RATE, AudioError, read_audio
from corpora.batches import length_batches
from corpora.datadir import Utterance
from upstream.config import PretrainConfig
from upstream.errors import UpstreamError
from upstream.model.encoder import frame_count
from upstream.model.family import HOP, RECEPTIVE_FIELD

log = logging.getLogger(__name__)

# Place in the stream of batches: epoch, block of shards (0 without shards), batches of the block already used.
Position = tuple[int, int, int]

DEV_STREAM = 1 << 40  # step numbers above those of any run, so that dev has the same masks at every validation


@dataclass(frozen=True)
class Clip:
    """`samples` samples of an utterance from sample `first`, a multiple of 320: the clip starts on a frame.

    `utterance` is an index into the list of utterances or, in training from shards, the item of the shard.
    """

    utterance: Any
    first: int
    samples: int


@dataclass(frozen=True)
class Step:
    """The part of one process in an optimisation step.

    `parts` are the batches whose gradients this process sums. `slots` are their numbers among the batches of all
    processes: random draws depend on them, so the number of processes does not change a step. The next step starts at
    `position`.
    """

    number: int
    parts: list[list[Clip]]
    slots: list[int]
    position: Position = (0, 0, 0)


@dataclass(frozen=True)
class Batch:
    """Unpadded waveforms; units (B, T, S) long for S label sets; span mask and valid frames (B, T) bool; utterance ids
    for messages, and the group (language) of each item. `unreadable` holds id and reason of utterances whose audio
    cannot be read: these items are silent and have no valid frame."""

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
        """Waveforms as one tensor: from a data worker each tensor takes one file descriptor."""
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
    """Group of an utterance for sampling: its language in `utt2lang`."""
    return utterance.language or "unknown"


@dataclass(frozen=True)
class StepBatches:
    """A `Step` with its batches read."""

    number: int
    parts: list[Batch]
    position: Position


def crop(utterance: Any, samples: int, limit: int, rng: np.random.Generator) -> Clip:
    """A random window of at most `limit` samples that starts on a frame."""
    if samples <= limit:
        return Clip(utterance, 0, samples)
    return Clip(utterance, HOP * int(rng.integers((samples - limit) // HOP + 1)), limit)


def language_repeats(hours: dict[str, float], temperature: float) -> dict[str, float]:
    """Repetitions of each language per epoch: shares ~ hours ** temperature, total hours unchanged."""
    weights = {group: value**temperature for group, value in hours.items() if value > 0}
    total, weight_sum = sum(hours.values()), sum(weights.values())
    return {group: weight / weight_sum * total / hours[group] for group, weight in weights.items()}


def clip_batches(
    clips: Sequence[Clip], config: PretrainConfig, rng: np.random.Generator | None = None
) -> list[list[Clip]]:
    """Batches of clips of similar length, at most `batch_seconds` with their padding; shuffled if `rng` is given."""
    rows = length_batches([clip.samples for clip in clips], config.batch_seconds * SAMPLE_RATE, rng)
    return [[clips[i] for i in row] for row in rows]


def repeated_crops(
    utterances: Iterable[tuple[Any, int, str]],
    repeats: dict[str, float],
    config: PretrainConfig,
    rng: np.random.Generator,
) -> list[Clip]:
    """Random crops of each utterance (utterance, samples, language).

    An utterance longer than a crop gives several, as long as the utterance on average; otherwise languages with long
    recordings are under-sampled. The number is multiplied by the repetitions of its language.
    """
    limit = int(config.crop_seconds * SAMPLE_RATE)
    clips = []
    for utterance, samples, group in utterances:
        for _ in range(int(repeats[group] * max(1.0, samples / limit) + rng.random())):
            clips.append(crop(utterance, samples, limit, rng))
    return clips


def group_hours(samples: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Hours of each language, from pairs (language, samples)."""
    hours: dict[str, float] = {}
    for group, count in samples:
        hours[group] = hours.get(group, 0.0) + count / SAMPLE_RATE / 3600
    return hours


class StepSampler(Sampler[Step]):
    """The steps `start` to `stop`-1 of a run.

    Epochs, each with new crops and order, form one endless sequence of batches. A step takes the next
    ranks x `accumulate` of them: all processes get the same number, and no batch is lost or repeated at the end of an
    epoch. Step `start` begins at `position`; without it the sampler counts through the earlier steps.
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
        """The batches of an epoch for all processes, in order."""
        rng = np.random.default_rng([self.config.seed, 1, number])
        utterances = zip(range(len(self.samples)), self.samples, self.groups, strict=True)
        clips = repeated_crops(utterances, self.repeats, self.config, rng)
        return clip_batches(clips, self.config, rng)

    def _rows(self, position: Position) -> Iterator[tuple[list[Clip], Position]]:
        """Batches from `position` on, each with the position after it."""
        number, _, used = position
        while True:
            batches = self.epoch(number)
            if not batches:
                raise UpstreamError("an epoch has no batch: is the training set empty?")
            for index in range(used, len(batches)):
                yield batches[index], (number, 0, index + 1)
            number, used = number + 1, 0

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
    """Reads the clips of a step: `dataset[step]` -> `StepBatches`.

    `units`: (T, S) by utterance id for S label sets, or (T,) for a single one. `squeeze` is that of the geometry.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        units: Mapping[str, np.ndarray],
        config: PretrainConfig,
        squeeze: int = 1,
    ) -> None:
        self.utterances = utterances
        self.units = units
        self.config = config
        self.squeeze = squeeze

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

    def batch(self, step: int, slot: int, clips: Sequence[Clip]) -> Batch:
        """Read one batch; its masks depend on seed, step and slot."""
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
        mask = batch_mask(frames, self.config.mask_prob, self.config.mask_length, rng, self.squeeze)
        readable = [0 if utt_id in unreadable else count for utt_id, count in zip(utt_ids, frames, strict=True)]
        valid = np.arange(labels.shape[1]) < np.array(readable)[:, None]
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
    """The dev set as fixed batches: the start of every utterance, in a fixed order."""
    limit = int(config.crop_seconds * SAMPLE_RATE)
    clips = [Clip(i, 0, min(u.samples, limit)) for i, u in enumerate(utterances)]
    return [Step(DEV_STREAM + i, [batch], [0]) for i, batch in enumerate(clip_batches(clips, config))]


def usable(utterances: Sequence[Utterance], split: str) -> list[Utterance]:
    """Drop utterances shorter than one frame (25 ms) and log how many. Raises UpstreamError if none is left."""
    kept = [u for u in utterances if u.samples >= RECEPTIVE_FIELD]
    if len(kept) < len(utterances):
        log.info("%s: %d utterances under 25 ms left out", split, len(utterances) - len(kept))
    if not kept:
        raise UpstreamError(f"{split}: no utterance of at least 25 ms to train on")
    return kept


def span_mask(frames: int, prob: float, length: int, rng: np.random.Generator) -> np.ndarray:
    """Span mask (frames,) bool for masked prediction (HuBERT, section II-B).

    About `prob * frames / length` spans of `length` frames, at least one, never past the end; none with `prob` 0. A
    clip no longer than a span gets one span of half its frames, so a clip of two frames or more keeps one unmasked. A
    single frame is masked; zero frames give an empty mask.
    """
    mask = np.zeros(frames, dtype=bool)
    if frames == 0 or prob == 0:
        return mask
    if frames <= length:
        length = max(1, frames // 2)
    starts = frames - length + 1
    # Random rounding keeps the expected share for short clips.
    spans = int(prob * frames / length + rng.random())
    spans = min(max(spans, 1), max(1, (frames - 1) // length))
    for start in rng.choice(starts, size=spans, replace=False):
        mask[start : start + length] = True
    return mask


def batch_mask(
    frames: Sequence[int], prob: float, length: int, rng: np.random.Generator, squeeze: int = 1
) -> np.ndarray:
    """(B, max frames) bool; padding is never masked.

    A squeezed encoder masks whole groups of `squeeze` frames, so the mask grows to the borders of the groups. The loss
    then counts each frame whose input is masked as masked.
    """
    mask = np.zeros((len(frames), max(frames, default=0)), dtype=bool)
    for row, count in zip(mask, frames, strict=True):
        spans = span_mask(count, prob, length, rng)
        for start in range(0, count, squeeze) if squeeze > 1 else ():
            spans[start : start + squeeze] = spans[start : start + squeeze].any()
        row[:count] = spans
    return mask
