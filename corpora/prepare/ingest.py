"""From the files of a publisher to 16 kHz mono recordings with a known length and content hash."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from corpora.audio import SAMPLE_RATE, AudioError, audio_info, convert_audio, hash_audio
from corpora.files import BadFileTally
from corpora.registry import CorpusInfo, how_to_get

_LARGE = 2**28  # bytes of audio that are worth a spawned process however few the files are
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


def corpus_error(corpus_dir: Path, info: CorpusInfo, expected: str = "") -> CorpusError:
    """The error for a folder that is missing, empty or of another layout: expected, found, and what to do.

    expected: what is missing where it is not the whole layout.
    """
    if not corpus_dir.exists():
        found = "nothing: there is no such folder"
    elif not corpus_dir.is_dir():
        found = "a file"
    else:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in corpus_dir.iterdir())
        found = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        found = found or "an empty folder"
    return CorpusError(
        f"{corpus_dir}: expected {expected or info.layout}; found {found}. Name the folder that holds the corpus "
        f"(--corpus, or {info.variable}= in the recipe's db.sh or in the environment). Get it: {how_to_get(info)}"
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


def list_audio(corpus_dir: Path, glob: str, name: re.Pattern[str], *, info: CorpusInfo) -> Listing:
    """The files that match `glob` (hidden ones aside), told apart by `name`; CorpusError when none is as published."""
    found = sorted(
        path.relative_to(corpus_dir).as_posix()
        for path in corpus_dir.glob(glob)
        if not path.name.startswith(".") and path.is_file()
    )
    named = [source for source in found if name.fullmatch(source.rsplit("/", 1)[-1])]
    if not named:
        raise corpus_error(corpus_dir, info)
    return Listing(named, sorted(set(found) - set(named)))


def safe_relative(name: str) -> str | None:
    """A path from a publisher's list as a POSIX path inside the corpus, or None when it would leave it."""
    path = PurePosixPath(name.strip().replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return None
    return path.as_posix()


def parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int,
    label: str,
    unit: str = "file",
    fewest: int = 64,
) -> Iterable[Result]:
    """Results of `function` over `items`, in order, with a progress bar, in `jobs` processes.

    Below `fewest` items a spawned process costs more than the work. Processes are spawned, not forked, since the caller
    may hold threads; a process that dies raises instead of leaving the parent waiting.
    """
    bar = {"total": len(items), "desc": label, "unit": unit, "mininterval": 0.5}
    if jobs <= 1 or len(items) < fewest:
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
    channel: int | None = None,
) -> dict[str, Recording]:
    """Read every source, convert what is not a 16 kHz mono WAV or FLAC into `audio_dir`, skip what is bad.

    sources: paths inside `corpus_dir`.  channel: the one to take of recordings with several; None averages them.
    `audio_dir` keeps a list of what is done, by size and modification time of the source: an interrupted run goes on
    where it was. Unreadable files and those under 400 samples go to `tally`; the caller checks it.  Returns
    source -> Recording for the good ones.
    """
    journal = _Journal(audio_dir / "ingested.jsonl")
    tasks = [_task(corpus_dir, audio_dir, source, channel) for source in sources]
    pending = [task for task in tasks if not journal.holds(task)]
    fewest = 2 if sum(task.stamp[1] for task in pending if task.stamp) > _LARGE else 64
    bad: dict[str, str] = {}
    if pending:
        results = parallel(_ingest_one, pending, jobs=jobs, label=label, fewest=fewest)
        with journal:
            for task, result in zip(pending, results, strict=True):
                if isinstance(result, str):
                    bad[task.source] = result
                else:
                    journal.add(task, _Done(task.stamp, *result))
    recordings: dict[str, Recording] = {}
    for task in tasks:
        if task.source in bad:
            tally.skip(task.path, bad[task.source])
        else:
            done = journal.entries[task.source]
            recordings[task.source] = Recording(task.source, task.file(done.native), done.samples, done.sha256)
    return recordings


@dataclass(frozen=True)
class _Task:
    """A source to read; its stamp (channel, bytes, modification time) is empty where there is no such file."""

    source: str
    path: Path
    copy: Path
    channel: int | None
    stamp: list[int | None]

    def file(self, native: bool) -> Path:
        """The file to read; absolute, since the data directory may move, wherever the corpus is."""
        return Path(os.path.abspath(self.path)) if native else self.copy


def _task(corpus_dir: Path, audio_dir: Path, source: str, channel: int | None) -> _Task:
    path = corpus_dir / source
    stat = path.stat() if path.is_file() else None
    mark = "" if channel is None else f".{channel}"
    stamp = [channel, stat.st_size, stat.st_mtime_ns] if stat else []
    return _Task(source, path, audio_dir / f"{source}{mark}.wav", channel, stamp)


class _Done(NamedTuple):
    """One source as the journal has it; native: it is read in place."""

    stamp: list[int | None]
    native: bool
    samples: int
    sha256: str


class _Journal:
    """What an audio folder holds: a JSON line for every source, appended as soon as it is done.

    The last line of a killed run may be torn; it is passed over.
    """

    def __init__(self, file: Path):
        self._file = file
        self.entries: dict[str, _Done] = {}
        content = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        self._torn = bool(content) and not content.endswith("\n")
        for line in content.split("\n"):
            try:
                source, *done = json.loads(line)
                self.entries[source] = _Done(*done)
            except (ValueError, TypeError):
                continue

    def holds(self, task: _Task) -> bool:
        done = self.entries.get(task.source)
        return done is not None and done.stamp == task.stamp and task.file(done.native).is_file()

    def add(self, task: _Task, done: _Done) -> None:
        self.entries[task.source] = done
        print(json.dumps([task.source, *done], ensure_ascii=False), file=self._out, flush=True)

    def __enter__(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._out = open(self._file, "a", encoding="utf-8")
        if self._torn:
            self._out.write("\n")

    def __exit__(self, *_: object) -> None:
        self._out.close()


def _ingest_one(task: _Task) -> tuple[bool, int, str] | str:
    """Whether a source is read in place, its samples and hash; or why it cannot be used."""
    try:
        native = task.channel is None and _is_native(task.path)
        if not native:
            count = convert_audio(task.path, task.copy, task.channel)
            if count < MIN_SAMPLES:
                task.copy.unlink()
                return _too_short(count)
        samples, digest = hash_audio(task.file(native))
    except AudioError as error:
        return str(error)
    if samples < MIN_SAMPLES:
        return _too_short(samples)
    return native, samples, digest


def _is_native(path: Path) -> bool:
    """True for a mono 16 kHz WAV or FLAC, which is used in place."""
    if path.suffix.lower() not in (".wav", ".flac"):
        return False
    info = audio_info(path)
    return info.sample_rate == SAMPLE_RATE and info.channels == 1


def _too_short(samples: int) -> str:
    return f"{samples} samples ({1000 * samples / SAMPLE_RATE:.0f} ms) at 16 kHz: shorter than one frame of 25 ms"
