"""Store units, check them against the audio, and read several label sets of one utterance together.

One split is one memory-mapped file of 16-bit integers and a JSON index:

    units/it1/
      codebook.safetensors
      train.bin      uint16, little endian, utterance after utterance
      train.json     frame rate, k, front end, layer, PCA dimension, hashes, length of every utterance in file order
      dev.bin dev.json

A label set is a folder of units that a model predicts with a head of its own: units of another layer or another k.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from corpora.datadir import Utterance
from corpora.files import read_json, sha256_file, write_json
from upstream.errors import UpstreamError
from upstream.model.encoder import frame_count
from upstream.model.family import FRAME_RATE, RECEPTIVE_FIELD
from upstream.units.codebook import MAX_K

FORMAT = 1
DTYPE = np.dtype("<u2")
TOO_SHORT = f"shorter than one frame ({RECEPTIVE_FIELD} samples)"
SCAN = 1 << 24  # labels counted at once

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UnitsInfo:
    """Origin of units; hashes are SHA-256. `layer`, `pca_dim` and `model_sha256` may be None. `cmvn`: the features were
    normalised over the utterance."""

    frame_rate: int
    k: int
    front_end: str
    source: str
    layer: int | None
    pca_dim: int | None
    codebook_sha256: str
    model_sha256: str | None
    cmvn: bool = False

    def facts(self) -> dict[str, Any]:
        """The fields as JSON; `cmvn` only where it is true, as units of earlier versions lack it."""
        return {key: value for key, value in asdict(self).items() if key != "cmvn" or value}

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise UpstreamError(f"k={self.k} does not fit into 16-bit units; it must lie between 1 and {MAX_K}")


class Units(Mapping[str, np.ndarray]):
    """Read-only units of one split: `units[utt_id]` -> (T,) uint16, a view of the memory-mapped file."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        path = self.folder / f"{split}.json"
        if not path.is_file():
            raise UpstreamError(f"{path}: no such units; `python -m upstream units` makes them")
        content = read_json(path)
        try:
            if content["format"] != FORMAT:
                raise UpstreamError(f"{path}: format {content['format']} is unknown here (expected {FORMAT})")
            names = [f.name for f in fields(UnitsInfo) if f.name in content or f.default is MISSING]
            self.info = UnitsInfo(**{name: content[name] for name in names})
            self.data_sha256: str | None = content["data_sha256"]
            self.left_out: dict[str, str] = content["left_out"]
            self.lengths: dict[str, int] = content["utterances"]
            self._sha256: str = content["bin_sha256"]
        except (KeyError, TypeError) as error:
            raise UpstreamError(f"{path}: not an index of units ({error!r}); make the units again") from error
        lengths = np.fromiter(self.lengths.values(), np.int64, len(self.lengths))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        self._starts = dict(zip(self.lengths, starts[:-1].tolist(), strict=True))
        binary = self.folder / f"{split}.bin"
        size, expected = binary.stat().st_size if binary.is_file() else None, starts[-1] * DTYPE.itemsize
        if size != expected:
            found = "is missing" if size is None else f"holds {size} bytes"
            raise UpstreamError(f"{binary}: {found}, the index needs {expected}; make the units again")
        self.labels: np.ndarray = np.memmap(binary, DTYPE, "r") if size else np.empty(0, DTYPE)

    @classmethod
    def open(cls, folder: Path, split: str) -> Units:
        """Open `<folder>/<split>.{bin,json}`. Raises UpstreamError when they are missing or do not match."""
        return cls(folder, split)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memory map is a copy of the whole file; spawned data workers open the file instead.
        return Units, (self.folder, self.split)

    def __getitem__(self, utt_id: str) -> np.ndarray:
        if utt_id not in self._starts:
            why = self.left_out.get(utt_id)
            raise KeyError(f"{self}: utterance {utt_id} {f'was left out: {why}' if why else 'has no units'}")
        start = self._starts[utt_id]
        return self.labels[start : start + self.lengths[utt_id]]

    def __contains__(self, utt_id: object) -> bool:
        return utt_id in self._starts

    def __iter__(self) -> Iterator[str]:
        return iter(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def __str__(self) -> str:
        return str(self.folder / self.split)

    def histogram(self) -> np.ndarray:
        """Frames of every label: (k,) int64, or longer if a label is >= k."""
        counts = np.zeros(self.info.k, np.int64)
        for start in range(0, len(self.labels), SCAN):
            part = np.bincount(self.labels[start : start + SCAN], minlength=len(counts))
            if len(part) > len(counts):
                counts = np.pad(counts, (0, len(part) - len(counts)))
            counts += part
        return counts

    def verify(self) -> None:
        """Compare the file with its recorded SHA-256. Raises UpstreamError."""
        if sha256_file(self.folder / f"{self.split}.bin") != self._sha256:
            raise UpstreamError(f"{self}.bin: not the file that {self.split}.json describes; make the units again")


class UnitsWriter:
    """Context manager that writes the units of one split, whole or not at all.

    An error inside the `with` block leaves the earlier units as they were.
    """

    def __init__(self, folder: Path, split: str, info: UnitsInfo, *, data_sha256: str | None = None) -> None:
        self.folder, self.split, self.info = Path(folder), split, info
        self._data_sha256 = data_sha256
        self._lengths: dict[str, int] = {}
        self._left_out: dict[str, str] = {}

    def __enter__(self) -> UnitsWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        # One fixed name: a later run overwrites the part of a killed run.
        self._part = self.folder / f".{self.split}.bin.part"
        self._file = open(self._part, "wb")  # noqa: SIM115 - closed in __exit__
        return self

    def add(self, utt_id: str, labels: np.ndarray) -> None:
        """Append the labels (T,) of an utterance. Raises UpstreamError for a label >= k or an id given twice."""
        if utt_id in self._lengths:
            raise UpstreamError(f"{self.folder / self.split}: utterance {utt_id} is given twice")
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.info.k:
            wrong = next(int(label) for label in labels if not 0 <= label < self.info.k)
            where = f"{self.folder / self.split}: utterance {utt_id}"
            raise UpstreamError(f"{where} has label {wrong}, but k={self.info.k}")
        self._file.write(labels.astype(DTYPE).tobytes())
        self._lengths[utt_id] = len(labels)

    def leave_out(self, utt_id: str, reason: str) -> None:
        """Record that an utterance has no units, and why, so that training leaves it out too."""
        self._left_out[utt_id] = reason

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._discard()
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError:
            self._discard()
            raise
        index = self.folder / f"{self.split}.json"
        content = {
            "format": FORMAT,
            **self.info.facts(),
            "data_sha256": self._data_sha256,
            "bin_sha256": sha256_file(self._part),
            "left_out": self._left_out,
            "utterances": self._lengths,
        }
        # Removed first: an old index must never describe new labels, not even between two renames.
        index.unlink(missing_ok=True)
        os.replace(self._part, self.folder / f"{self.split}.bin")
        write_json(index, content)

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        with suppress(OSError):  # on a full disk close fails too
            self._file.close()


def check_units(
    units: Units, utterances: Sequence[Utterance], *, frame_rate: int = FRAME_RATE, **expected: Any
) -> list[Utterance]:
    """Check units against the utterances to train on; returns the utterances that have units.

    Raises UpstreamError, which names the utterance, for another frame rate, a missing utterance, another length than
    the encoder's frames, or a label >= k. `expected` holds fields of UnitsInfo (`k`, `layer`, `model_sha256`,
    `codebook_sha256`, ...) that must agree. Utterances under 400 samples, and those that the labelling left out
    and listed, are dropped. Logs how many clusters are in use; a single one is an error: its loss falls to 0.
    """
    info = asdict(units.info)
    for name, value in {"frame_rate": frame_rate, **expected}.items():
        if name not in info:
            raise TypeError(f"check_units: units have no field `{name}`; known: {', '.join(info)}")
        if info[name] != value:
            first = next(iter(units), "no utterance")
            raise UpstreamError(
                f"{units}: {name} is {info[name]}, expected {value} (first utterance: {first}); "
                "these units have another origin, make them again"
            )
    kept = []
    for utterance in utterances:
        utt_id, frames = utterance.utt_id, frame_count(utterance.samples)
        if frames == 0 or utt_id in units.left_out:
            continue
        if utt_id not in units:
            raise UpstreamError(f"{units}: no units for utterance {utt_id}; make the units of this data directory")
        length = units.lengths[utt_id]
        if length != frames:
            raise UpstreamError(
                f"{units}: utterance {utt_id} has {length} units, but its {utterance.samples} samples give {frames} "
                f"frames; the audio changed, or the units are not at {frame_rate} Hz"
            )
        kept.append(utterance)
    counts = units.histogram()
    if len(counts) > units.info.k:
        utt_id = next(u for u in units if len(units[u]) and units[u].max() >= units.info.k)
        raise UpstreamError(
            f"{units}: utterance {utt_id} has label {units[utt_id].max()}, but k={units.info.k}: "
            "the file is damaged, make the units again"
        )
    in_use = int((counts > 0).sum())
    if in_use == 1 and counts.sum() > units.info.k > 1:
        first = next(iter(units))
        raise UpstreamError(f"{units}: every frame from {first} on has the same label; the codebook is broken")
    if kept and len(kept) < len(utterances):
        log.info("%s: %d of %d utterances have no units", units, len(utterances) - len(kept), len(utterances))
    log.info("%s: %d frames, %d of %d clusters in use", units, counts.sum(), in_use, units.info.k)
    return kept


@dataclass(frozen=True)
class LabelSet:
    """Units to predict: their folder, the weight of their loss, and fields of UnitsInfo that must agree."""

    name: str
    folder: Path
    weight: float = 1.0
    expected: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise UpstreamError(f"label set `{self.name}`: use letters, digits and _ only, as in column names")
        if not 0 < self.weight < math.inf:
            raise UpstreamError(f"label set {self.name}: weight {self.weight} must be positive; or leave it out")


def label_sets(units: Path | Sequence[LabelSet], expected: dict[str, Any] | None = None) -> list[LabelSet]:
    """The label sets of a folder: one set named `units`, with `expected` fields of UnitsInfo. A sequence of label sets
    is returned unchanged."""
    return [LabelSet("units", units, expected=expected or {})] if isinstance(units, Path) else list(units)


class Labels(Mapping[str, np.ndarray]):
    """Units of one split from S label sets: `labels[utt_id]` -> (T, S) uint16. The first set is the main one."""

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
    """Empty labels (T, 0) for a run that predicts features only."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
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

    Each set is checked with `check_units`. Raises UpstreamError, also for two sets of one name.
    """
    if len({s.name for s in sets}) < len(sets):
        raise UpstreamError(f"label sets {', '.join(s.name for s in sets)}: every set needs a name of its own")
    kept = list(utterances)
    opened = {}
    for this in sets:
        units = opened[this.name] = Units.open(this.folder, split)
        units.verify()
        kept = check_units(units, kept, **this.expected)
    if not kept:
        raise UpstreamError(f"{split}: no utterance has units in all of {', '.join(s.name for s in sets)}")
    return kept, Labels(opened) if sets else NoLabels(kept)
