"""Units on disk: one memory-mapped file of 16-bit integers a split, beside a JSON that says what made them.

units/it1/
  codebook.safetensors
  train.bin      uint16, little endian, utterance after utterance
  train.json     frame rate, k, front end, layer, PCA dimension, hashes, length of every utterance in file order
  dev.bin dev.json
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from corpora.datadir import Utterance
from corpora.files import atomic_file, read_json, sha256_file, write_json
from upstream.model.encoder import frame_count
from upstream.model.family import RECEPTIVE_FIELD
from upstream.units.codebook import MAX_K

FORMAT = 1
DTYPE = np.dtype("<u2")
FRAME_RATE = 50  # Hz
TOO_SHORT = f"shorter than one frame ({RECEPTIVE_FIELD} samples)"
SCAN = 1 << 24  # labels looked at in one go

log = logging.getLogger(__name__)


class UnitsError(ValueError):
    """Units that are missing, damaged, or do not belong to the data or the model asked for."""


@dataclass(frozen=True)
class UnitsInfo:
    """Where units come from; hashes are SHA-256. `layer`, `pca_dim`, `model_sha256` are None where there is none."""

    frame_rate: int
    k: int
    front_end: str
    source: str
    layer: int | None
    pca_dim: int | None
    codebook_sha256: str
    model_sha256: str | None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise UnitsError(f"k={self.k} does not fit into 16-bit units; it must lie between 1 and {MAX_K}")


class Units(Mapping[str, np.ndarray]):
    """Read-only units of one split: `units[utt_id]` -> (T,) uint16, a view of the memory-mapped file."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        path = self.folder / f"{split}.json"
        if not path.is_file():
            raise UnitsError(f"{path}: no such units; `python -m upstream units` makes them")
        content = read_json(path)
        try:
            if content["format"] != FORMAT:
                raise UnitsError(f"{path}: format {content['format']} is unknown here (expected {FORMAT})")
            self.info = UnitsInfo(**{f.name: content[f.name] for f in fields(UnitsInfo)})
            self.data_sha256: str | None = content["data_sha256"]
            self.left_out: dict[str, str] = content["left_out"]
            self.lengths: dict[str, int] = content["utterances"]
            self._sha256: str = content["bin_sha256"]
        except (KeyError, TypeError) as error:
            raise UnitsError(f"{path}: not an index of units ({error!r}); make the units again") from error
        lengths = np.fromiter(self.lengths.values(), np.int64, len(self.lengths))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        self._starts = dict(zip(self.lengths, starts[:-1].tolist(), strict=True))
        binary = self.folder / f"{split}.bin"
        size, expected = binary.stat().st_size if binary.is_file() else None, starts[-1] * DTYPE.itemsize
        if size != expected:
            found = "is missing" if size is None else f"holds {size} bytes"
            raise UnitsError(f"{binary}: {found}, the index needs {expected}; make the units again")
        self.labels: np.ndarray = np.memmap(binary, DTYPE, "r") if size else np.empty(0, DTYPE)

    @classmethod
    def open(cls, folder: Path, split: str) -> Units:
        """Open `<folder>/<split>.{bin,json}`. Raises UnitsError when they are missing or do not match."""
        return cls(folder, split)

    def __reduce__(self) -> tuple[Any, ...]:
        # A memory map pickles as a copy of the whole file; spawned data workers open it again instead.
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
        """Frames of every label: (k,) int64, or longer when labels >= k are there."""
        counts = np.zeros(self.info.k, np.int64)
        for start in range(0, len(self.labels), SCAN):
            part = np.bincount(self.labels[start : start + SCAN], minlength=len(counts))
            if len(part) > len(counts):
                counts = np.pad(counts, (0, len(part) - len(counts)))
            counts += part
        return counts

    def verify(self) -> None:
        """Compare the file with its recorded SHA-256. Raises UnitsError."""
        if sha256_file(self.folder / f"{self.split}.bin") != self._sha256:
            raise UnitsError(f"{self}.bin: not the file that {self.split}.json describes; make the units again")


class UnitsWriter:
    """Writes the units of one split, whole or not at all; a context manager.

    An error inside the `with` block leaves what was there before.
    """

    def __init__(self, folder: Path, split: str, info: UnitsInfo, *, data_sha256: str | None = None) -> None:
        self.folder, self.split, self.info = Path(folder), split, info
        self._data_sha256 = data_sha256
        self._lengths: dict[str, int] = {}
        self._left_out: dict[str, str] = {}

    def __enter__(self) -> UnitsWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        # One fixed name, so that what a killed run left behind is overwritten and does not pile up.
        self._part = self.folder / f".{self.split}.bin.part"
        self._file = open(self._part, "wb")  # noqa: SIM115 - closed in __exit__
        return self

    def add(self, utt_id: str, labels: np.ndarray) -> None:
        """Append the labels (T,) of an utterance. Raises UnitsError for a label >= k or an id given twice."""
        if utt_id in self._lengths:
            raise UnitsError(f"{self.folder / self.split}: utterance {utt_id} is given twice")
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.info.k:
            wrong = next(int(label) for label in labels if not 0 <= label < self.info.k)
            where = f"{self.folder / self.split}: utterance {utt_id}"
            raise UnitsError(f"{where} has label {wrong}, but k={self.info.k}")
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
            **asdict(self.info),
            "data_sha256": self._data_sha256,
            "bin_sha256": sha256_file(self._part),
            "left_out": self._left_out,
            "utterances": self._lengths,
        }
        # An old index must never stand beside new labels, not even for the instant between two renames.
        index.unlink(missing_ok=True)
        os.replace(self._part, self.folder / f"{self.split}.bin")
        write_json(index, content)

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk fails once more on close
            self._file.close()


def check_units(
    units: Units, utterances: Sequence[Utterance], *, frame_rate: int = FRAME_RATE, **expected: Any
) -> list[Utterance]:
    """Compare units with the utterances to train on; returns the utterances that have units.

    Refuses, with UnitsError naming the utterance: another frame rate, a missing utterance, another length than
    the encoder's frames, a label >= k. `expected` holds fields of UnitsInfo (`k`, `layer`, `model_sha256`,
    `codebook_sha256`, ...) that must agree. Utterances under 400 samples, and those that the labelling left out
    and listed, are dropped. Logs how many clusters are in use; a single one is refused: its loss falls to 0.
    """
    info = asdict(units.info)
    for name, value in {"frame_rate": frame_rate, **expected}.items():
        if name not in info:
            raise TypeError(f"check_units: units have no field `{name}`; known: {', '.join(info)}")
        if info[name] != value:
            first = next(iter(units), "no utterance")
            raise UnitsError(
                f"{units}: {name} is {info[name]}, expected {value} (first utterance: {first}); "
                "these units were made for something else, make them again"
            )
    kept = []
    for utterance in utterances:
        utt_id, frames = utterance.utt_id, frame_count(utterance.samples)
        if frames == 0 or utt_id in units.left_out:
            continue
        if utt_id not in units:
            raise UnitsError(f"{units}: no units for utterance {utt_id}; make the units of this data directory")
        length = units.lengths[utt_id]
        if length != frames:
            raise UnitsError(
                f"{units}: utterance {utt_id} has {length} units, but its {utterance.samples} samples give {frames} "
                f"frames; the audio changed, or the units are not at {frame_rate} Hz"
            )
        kept.append(utterance)
    counts = units.histogram()
    if len(counts) > units.info.k:
        utt_id = next(u for u in units if len(units[u]) and units[u].max() >= units.info.k)
        raise UnitsError(
            f"{units}: utterance {utt_id} has label {units[utt_id].max()}, but k={units.info.k}: "
            "the file is damaged, make the units again"
        )
    in_use = int((counts > 0).sum())
    if in_use == 1 and counts.sum() > units.info.k > 1:
        first = next(iter(units))
        raise UnitsError(f"{units}: every frame from {first} on has the same label; the codebook is broken")
    if kept and len(kept) < len(utterances):
        log.info("%s: %d of %d utterances have no units", units, len(utterances) - len(kept), len(utterances))
    log.info("%s: %d frames, %d of %d clusters in use", units, counts.sum(), in_use, units.info.k)
    return kept


def export_km(units: Units, path: Path, utterances: Sequence[Utterance]) -> None:
    """Write fairseq's text form: a line of labels for each of `utterances`, in their order (the manifest's).

    Raises UnitsError when one of them has no units, for then the lines would not match the manifest.
    """
    missing = [u.utt_id for u in utterances if u.utt_id not in units]
    if missing:
        raise UnitsError(f"{units}: {len(missing)} of these utterances have no units, first {missing[0]}")
    with atomic_file(path) as temporary, open(temporary, "w", encoding="ascii", newline="\n") as file:
        for utterance in utterances:
            file.write(" ".join(map(str, units[utterance.utt_id].tolist())) + "\n")


def import_km(
    path: Path,
    utterances: Sequence[Utterance],
    folder: Path,
    split: str,
    info: UnitsInfo,
    *,
    km_rate: int = FRAME_RATE,
) -> None:
    """Read fairseq's text form, a line for each of `utterances` in their order, and write `<folder>/<split>`.

    `km_rate` is the rate of the labels in Hz: 50, or 100 as fairseq's MFCC labels have, of which every second is
    kept. Raises UnitsError that names file, line and utterance.
    """
    if km_rate not in (FRAME_RATE, 2 * FRAME_RATE):
        raise UnitsError(f"{path}: labels at {km_rate} Hz cannot be used; they must be at 50 or 100 Hz")
    with open(path, encoding="utf-8-sig") as file:
        lines = sum(1 for _ in file)
    if lines != len(utterances):
        raise UnitsError(f"{path}: {lines} lines for {len(utterances)} utterances; is it another manifest?")
    # Line by line: as Python's strings the labels of 1,000 hours would take 11 GB.
    with open(path, encoding="utf-8-sig") as file, UnitsWriter(folder, split, info) as writer:
        for number, (line, utterance) in enumerate(zip(file, utterances, strict=True), 1):
            where = f"{path}:{number}: utterance {utterance.utt_id}"
            try:
                labels = np.array(line.split(), dtype=np.int64)[:: km_rate // FRAME_RATE]
            except (ValueError, OverflowError) as error:
                raise UnitsError(f"{where}: not a line of integers ({error})") from error
            frames = frame_count(utterance.samples)
            if len(labels) != frames:
                raise UnitsError(f"{where} has {len(labels)} labels at 50 Hz, expected {frames}")
            if frames == 0:
                writer.leave_out(utterance.utt_id, TOO_SHORT)
            else:
                writer.add(utterance.utt_id, labels)
