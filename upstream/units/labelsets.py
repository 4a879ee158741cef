"""Several units of one frame at once: labels of several layers or several k, each predicted by a head of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from corpora.datadir import Utterance
from upstream.units.units import Units, UnitsError, check_units


@dataclass(frozen=True)
class LabelSet:
    """Units to predict: their folder, the weight of their loss, and fields of UnitsInfo that must agree."""

    name: str
    folder: Path
    weight: float = 1.0
    expected: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise UnitsError(f"label set `{self.name}`: letters, digits and _ only, it names a head and columns")
        if self.weight <= 0:
            raise UnitsError(f"label set {self.name}: weight {self.weight} must be positive; leave the set out instead")


def label_sets(units: Path | Sequence[LabelSet], expected: dict[str, Any] | None = None) -> list[LabelSet]:
    """A folder of units as the one label set `units`, with fields of UnitsInfo that must agree; label sets as they
    are."""
    return [LabelSet("units", units, expected=expected or {})] if isinstance(units, Path) else list(units)


class Labels(Mapping[str, np.ndarray]):
    """The units of one split from S sets side by side: `labels[utt_id]` -> (T, S) uint16. The first set is the main
    one."""

    def __init__(self, sets: Mapping[str, Units]) -> None:
        self.sets = dict(sets)

    def __getitem__(self, utt_id: str) -> np.ndarray:
        return np.stack([units[utt_id] for units in self.sets.values()], axis=-1)

    def __contains__(self, utt_id: object) -> bool:
        return all(utt_id in units for units in self.sets.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self.sets[next(iter(self.sets))])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def k(self) -> dict[str, int]:
        """Units of each set."""
        return {name: units.info.k for name, units in self.sets.items()}


class NoLabels(Labels):
    """The labels of a run that predicts features alone: none for every frame of the utterances, (T, 0)."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        from upstream.model.encoder import frame_count

        super().__init__({})
        self._frames = {u.utt_id: frame_count(u.samples) for u in utterances}

    def __getitem__(self, utt_id: str) -> np.ndarray:
        return np.empty((self._frames[utt_id], 0), np.uint16)

    def __contains__(self, utt_id: object) -> bool:
        return utt_id in self._frames

    def __iter__(self) -> Iterator[str]:
        return iter(self._frames)


def open_labels(
    sets: Sequence[LabelSet], utterances: Sequence[Utterance], split: str
) -> tuple[list[Utterance], Labels]:
    """The utterances that have units in every set, and those units.

    Every set is checked by itself (`check_units`). Raises UnitsError, for two sets of one name as well.
    """
    if len({s.name for s in sets}) < len(sets):
        raise UnitsError(f"label sets {', '.join(s.name for s in sets)}: every set needs a name of its own")
    kept = list(utterances)
    opened = {}
    for this in sets:
        units = opened[this.name] = Units.open(this.folder, split)
        units.verify()
        kept = check_units(units, kept, **this.expected)
    if not kept:
        raise UnitsError(f"{split}: no utterance has units in all of {', '.join(s.name for s in sets)}")
    return kept, Labels(opened) if sets else NoLabels(kept)
