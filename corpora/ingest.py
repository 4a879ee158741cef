"""From the files of a publisher to 16 kHz mono recordings with a known length and content hash."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from corpora.audio import SAMPLE_RATE, AudioError, audio_info, load_any, read_audio, write_audio
from corpora.files import BadFileTally

MIN_SAMPLES = 400  # one frame of a 25 ms window; anything shorter has no frame at all

Item = TypeVar("Item")
Result = TypeVar("Result")


class CorpusError(ValueError):
    """A corpus folder is not what its publisher's layout says it should be."""


@dataclass(frozen=True)
class Recording:
    """One recording of a corpus, readable at 16 kHz mono.

    source: path inside the corpus folder (POSIX), which is what provenance lists name.
    path: the file to read: the source itself, or its converted copy.
    samples: length at 16 kHz.  sha256: hash of the 16-bit samples, equal for equal audio.
    """

    source: str
    path: Path
    samples: int
    sha256: str


def corpus_error(corpus_dir: Path, variable: str, expected: str) -> CorpusError:
    """The error for a folder that is missing, empty or of another layout: expected, found, and what to set."""
    if not corpus_dir.exists():
        found = "nothing: there is no such folder"
    elif not corpus_dir.is_dir():
        found = "a file"
    else:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in corpus_dir.iterdir())
        found = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        found = found or "an empty folder"
    return CorpusError(
        f"{corpus_dir}: expected {expected}; found {found}. Set {variable}= in the recipe's db.sh (or in the "
        f"environment) to the folder that holds the corpus, or to 'downloads' to fetch it from its publisher"
    )


@dataclass(frozen=True)
class Listing:
    """The audio files of a corpus folder, as paths inside it: those named as published, and the others."""

    named: list[str]
    odd: list[str]

    def tally(self, corpus_dir: Path, expected: str) -> BadFileTally:
        """A tally over all files in which the oddly named ones are already counted."""
        tally = BadFileTally(len(self.named) + len(self.odd))
        for source in self.odd:
            tally.skip(corpus_dir / source, f"expected a name like {expected}")
        return tally


def list_audio(corpus_dir: Path, glob: str, name: re.Pattern[str], *, variable: str, expected: str) -> Listing:
    """The files that match `glob` (hidden ones aside), told apart by `name`; CorpusError when none is as published."""
    found = sorted(
        path.relative_to(corpus_dir).as_posix()
        for path in corpus_dir.glob(glob)
        if not path.name.startswith(".") and path.is_file()
    )
    named = [source for source in found if name.fullmatch(source.rsplit("/", 1)[-1])]
    if not named:
        raise corpus_error(corpus_dir, variable, expected)
    return Listing(named, sorted(set(found) - set(named)))


def safe_relative(name: str) -> str | None:
    """A path from a publisher's list as a POSIX path inside the corpus, or None when it would leave it."""
    path = PurePosixPath(name.strip().replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return None
    return path.as_posix()


def sha256_samples(samples: np.ndarray) -> str:
    """SHA-256 of float samples as 16-bit integers, so that a WAV and its copy in another container agree."""
    return hashlib.sha256(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()).hexdigest()


def parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int,
    label: str,
    unit: str = "file",
    least: int = 64,
) -> Iterable[Result]:
    """Results of `function` over `items`, in order, with a progress bar, in `jobs` processes.

    Processes are spawned, not forked, since the caller may hold threads; a process that dies raises instead of
    leaving the parent waiting. Fewer than `least` items stay in this process: a spawned one costs more than they do.
    """
    bar = {"total": len(items), "desc": label, "unit": unit, "mininterval": 0.5}
    if jobs <= 1 or len(items) < least:
        yield from tqdm(map(function, items), **bar)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        chunk = max(1, min(64, len(items) // (4 * jobs)))
        yield from tqdm(pool.map(function, items, chunksize=chunk), **bar)


def ingest(
    corpus_dir: Path,
    sources: Sequence[str],
    audio_dir: Path,
    *,
    tally: BadFileTally,
    jobs: int = 1,
    label: str = "audio",
) -> dict[str, Recording]:
    """Read every source, convert what is not a 16 kHz mono WAV or FLAC into `audio_dir`, skip what is bad.

    sources: paths inside `corpus_dir`.  A converted copy carries its source's modification time, and is kept when
    that still agrees: an interrupted run goes on where it was.  Unreadable files and those under 400 samples go to
    `tally`; the caller checks it.  Returns source -> Recording for the good ones.
    """
    tasks = [(corpus_dir / source, audio_dir / (source + ".wav")) for source in sources]
    recordings: dict[str, Recording] = {}
    for source, result in zip(
        sources, parallel(_ingest_one, tasks, jobs=jobs, label=label), strict=True
    ):
        if isinstance(result, str):
            tally.skip(corpus_dir / source, result)
        else:
            path, samples, digest = result
            recordings[source] = Recording(source, path, samples, digest)
    return recordings


def _ingest_one(task: tuple[Path, Path]) -> tuple[Path, int, str] | str:
    """Path, samples and hash of one source; or why it cannot be used."""
    source, target = task
    try:
        if _is_native(source):
            path = Path(os.path.abspath(source))  # wherever the corpus is, the data directory may move
        else:
            path = target
            stamp = source.stat().st_mtime_ns
            if not (target.exists() and target.stat().st_mtime_ns == stamp):
                samples = load_any(source)
                if len(samples) < MIN_SAMPLES:
                    return _too_short(len(samples))
                write_audio(target, samples)
                os.utime(target, ns=(stamp, stamp))
        samples = read_audio(path)
    except AudioError as error:
        return str(error)
    if len(samples) < MIN_SAMPLES:
        return _too_short(len(samples))
    return path, len(samples), sha256_samples(samples)


def _is_native(path: Path) -> bool:
    """True for a mono 16 kHz WAV or FLAC, which is used in place."""
    if path.suffix.lower() not in (".wav", ".flac"):
        return False
    info = audio_info(path)
    return info.sample_rate == SAMPLE_RATE and info.channels == 1


def _too_short(samples: int) -> str:
    return f"{samples} samples ({1000 * samples / SAMPLE_RATE:.0f} ms) at 16 kHz: shorter than one frame of 25 ms"
