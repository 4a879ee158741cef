"""Batches for pre-training from shards: each process reads its shards from front to back, a few of them shuffled
together in memory, however large the corpus is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from torch.utils.data import Sampler

from upstream.config import PretrainConfig
from upstream.pretrain.data import Position, PretrainDataset, Step, clip_batches, language_repeats, repeated_crops
from upstream.pretrain.shards import Item, ShardsError, ShardsInfo, read_shards


@dataclass(frozen=True)
class ShardClip:
    """`samples` samples of an utterance from `first`, with the utterance's encoded audio and units."""

    item: Item
    first: int
    samples: int


class ShardSampler(Sampler[Step]):
    """The steps `start` to `stop`-1 of one process, holding `mix_shards` shards in memory.

    In every epoch the shards come in a new order; blocks of `mix_shards` go to the processes in turn, and each is
    cropped, cut into batches of like length and shuffled. A process with fewer batches begins its next epoch earlier,
    so that nobody waits. `position` is where step `start` begins.
    """

    def __init__(
        self,
        info: ShardsInfo,
        config: PretrainConfig,
        *,
        start: int = 0,
        stop: int | None = None,
        position: Position | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if len(info.shards) < ranks:
            raise ShardsError(
                f"{info.folder}: {len(info.shards)} shards for {ranks} processes; write more and smaller ones "
                "(`python -m upstream shards` with a lower --shard-minutes)"
            )
        self.info, self.config = info, config
        self.start, self.stop = start, config.steps if stop is None else stop
        self.position: Position = position or (0, 0, 0)
        self.rank, self.ranks = rank, ranks
        # Every process must get a block in every epoch.
        self.mixed = min(config.mix_shards, len(info.shards) // ranks)
        self.hours = info.hours
        self.repeats = language_repeats(info.hours, config.temperature)

    def __len__(self) -> int:
        return self.stop - self.start

    def blocks(self, epoch: int) -> list[list[int]]:
        """The shards of an epoch by block, those of this process."""
        order = np.random.default_rng([self.config.seed, 4, epoch]).permutation(len(self.info.shards)).tolist()
        return [order[i : i + self.mixed] for i in range(0, len(order), self.mixed)][self.rank :: self.ranks]

    def _block_batches(self, epoch: int, shards: list[int]) -> list[list[ShardClip]]:
        rng = np.random.default_rng([self.config.seed, 5, epoch, shards[0]])
        items = list(read_shards(self.info, shards))
        known = ((i, (item.samples, item.language)) for i, item in enumerate(items))
        clips = [
            ShardClip(items[clip.utterance], clip.first, clip.samples)
            for clip in repeated_crops(known, self.repeats, self.config, rng)
        ]
        return clip_batches(clips, self.config, rng)

    def _rows(self) -> Iterator[tuple[list[ShardClip], Position]]:
        """Batches from the position on, each with the position behind it."""
        epoch, block, behind = self.position
        empty = 0
        while True:
            for number, shards in list(enumerate(self.blocks(epoch)))[block:]:
                batches = self._block_batches(epoch, shards)
                for index in range(behind, len(batches)):
                    empty = 0
                    yield batches[index], (epoch, number, index + 1)
                behind = 0
            epoch, block, empty = epoch + 1, 0, empty + 1
            if empty > 1:
                raise ShardsError(f"{self.info.folder}: an epoch without a single batch; do the shards have units?")

    def __iter__(self) -> Iterator[Step]:
        rows = self._rows()
        slots = range(self.rank, self.ranks * self.config.accumulate, self.ranks)
        for number in range(self.start, self.stop):
            drawn = list(islice(rows, len(slots)))
            yield Step(number, [clips for clips, _ in drawn], list(slots), drawn[-1][1])


class ShardDataset(PretrainDataset):
    """Decodes the clips of a step: indexed by a `Step` of a `ShardSampler`, gives its `StepBatches`."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__([], {}, config)

    def describe(self, clip: ShardClip) -> tuple[str, str, np.ndarray]:
        """Utterance id, group and all units of a clip's utterance."""
        return clip.item.utt_id, clip.item.language, clip.item.units

    def waveform(self, clip: ShardClip) -> np.ndarray:
        """The samples (N,) of a clip. Raises AudioError."""
        return clip.item.waveform(clip.first, clip.samples)


def check_shards(info: ShardsInfo, units: dict[str, object]) -> None:
    """Raises ShardsError unless the labels in the shards are the `units` of the dev set (UnitsInfo by label set)."""
    if info.units is None:
        raise ShardsError(f"{info.folder}: the shards hold no units; `python -m upstream shards --units ...` adds them")
    if list(info.units) != list(units) and set(info.units) == set(units):
        raise ShardsError(
            f"{info.folder}: the shards hold the label sets {', '.join(info.units)}, in this order; the run names them "
            f"as {', '.join(units)}. Write the shards again, or name the sets in their order"
        )
    if info.units != units:
        differ = [key for key in {**units, **info.units} if info.units.get(key) != units.get(key)]
        raise ShardsError(
            f"{info.folder}: the units in the shards are others than those of the dev set ({', '.join(differ)}: "
            f"{json.dumps({key: info.units.get(key) for key in differ})}); add them with `python -m upstream shards`"
        )
