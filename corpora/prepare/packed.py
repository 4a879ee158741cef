"""Packed audio: thousands of short recordings in a few files of 16-bit samples, read through a memory map.

    store/
      00.pcm      16 kHz mono, 16-bit little-endian, one recording after the other
      00.tsv      one line each: id, first sample, samples; written after its samples

Training reads every recording once an epoch; decoding MP3 each time costs about as much as a small model's step.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corpora.audio import AudioError, load_any
from corpora.files import CorpusError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """Samples `start` to `start + samples` of a store's file."""

    file: Path
    start: int
    samples: int


class PackedAudio(Mapping[str, np.ndarray]):
    """The recordings of a store by their id: int16 (n,). Entries written after the opening are not seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._entries = _read_entries(self.folder)
        self._maps: dict[Path, np.memmap] = {}

    def __getitem__(self, utt_id: str) -> np.ndarray:
        entry = self._entries[utt_id]
        if entry.file not in self._maps:
            self._maps[entry.file] = np.memmap(entry.file, dtype="<i2", mode="r")
        return self._maps[entry.file][entry.start : entry.start + entry.samples]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def samples(self, utt_id: str) -> int:
        """Length of a recording in samples, without reading it."""
        return self._entries[utt_id].samples


def pack(files: Mapping[str, Path], folder: Path, *, jobs: int = 1, seed: int = 0) -> dict[str, str]:
    """Add recordings of any format to a store, in random order, so that training may begin on a part of them.

    Recordings that the store holds are not decoded again, so a killed run resumes. Returns what could not be read, with
    the reason by id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.tsv"):
        _repair(path)
    there = _read_entries(folder)
    todo = sorted(set(files) - set(there))
    random.Random(seed).shuffle(todo)
    shares = [[(name, files[name]) for name in todo[i::jobs]] for i in range(jobs)]
    skipped: dict[str, str] = {}
    with ProcessPoolExecutor(jobs) as pool:
        for result in pool.map(_pack_share, [folder / f"{i:02d}" for i in range(jobs)], shares):
            skipped |= result
    return skipped


def _pack_share(stem: Path, items: Sequence[tuple[str, Path]]) -> dict[str, str]:
    skipped = {}
    pcm_path = stem.with_suffix(".pcm")
    with open(pcm_path, "ab") as pcm, open(stem.with_suffix(".tsv"), "a", encoding="utf-8") as index:
        at = pcm.tell() // 2
        for name, path in items:
            try:
                samples = load_any(path)
            except AudioError as error:
                skipped[name] = str(error)
                continue
            pcm.write(np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2").tobytes())
            pcm.flush()
            index.write(f"{name}\t{at}\t{len(samples)}\n")
            index.flush()
            at += len(samples)
    return skipped


def _repair(index: Path) -> None:
    """Cut what a killed run wrote incompletely: an index line without its end, samples without a line."""
    content = index.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        index.write_bytes(whole)
    end = 0
    if whole:
        _, start, samples = whole.decode("utf-8").splitlines()[-1].split("\t")
        end = int(start) + int(samples)
    pcm = index.with_suffix(".pcm")
    if pcm.exists() and pcm.stat().st_size != 2 * end:
        with open(pcm, "r+b") as file:
            file.truncate(2 * end)


def _read_entries(folder: Path) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for index in sorted(folder.glob("*.tsv")):
        content = index.read_text(encoding="utf-8")
        for number, line in enumerate(content[: content.rfind("\n") + 1].splitlines(), start=1):
            fields = line.split("\t")
            if len(fields) != 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
                raise CorpusError(f"{index}:{number}: expected id, first sample and samples, got {line!r:.80}")
            entries[fields[0]] = Entry(index.with_suffix(".pcm"), int(fields[1]), int(fields[2]))
    return entries
