"""Check data directories with their audio: every recording is decoded, and holds what the directory says.

`<data dir>/.checked.jsonl` lists the recordings that are done, so that an interrupted check continues; it is deleted at
the end. A quick check reads headers only, which a broken download, and a header that states a wrong length, pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from corpora.audio import SAMPLE_RATE, AudioError, audio_info, hash_audio, header_info
from corpora.datadir import Utterance, read_datadir, validate_datadir
from corpora.files import walk_once
from corpora.machine import parallel

_CHECKED = ".checked.jsonl"
_TABLES = {"wav.scp", "utt2spk"}


@dataclass(frozen=True)
class _Task:
    """A recording. stamp: its size and modification time, with which a finished check remains valid."""

    audio: Path
    quick: bool
    stamp: tuple[int, int]


def find_datadirs(folder: Path) -> tuple[list[Path], list[str]]:
    """The data directories in a folder, sorted, and a problem for each folder in it that cannot be read.

    Links to folders are followed, and a folder is listed once. One of two tables makes a data directory, since the
    other one may be what is missing.
    """
    problems: list[str] = []
    found = []
    walk = walk_once(folder, lambda error: problems.append(f"{error.filename}: cannot be read ({error.strerror})"))
    for parent, _, names in walk:
        if not _TABLES.isdisjoint(names):
            found.append(Path(parent))
    return sorted(found), problems


def check_datadir(path: Path, *, quick: bool = False, jobs: int = 1) -> list[str]:
    """All problems of a data directory and of its audio, each with its file and line."""
    problems = validate_datadir(path)
    if problems:
        return problems
    utterances = read_datadir(path)
    segmented = any(u.start is not None for u in utterances)
    counts = _samples(path, sorted({u.audio for u in utterances}), quick, jobs)
    file = path / ("segments" if segmented else "wav.scp")
    named: set[Path] = set()
    for line, utterance in enumerate(utterances, start=1):  # the lines of every file are in the order of the ids
        count = counts[utterance.audio]
        if isinstance(count, str):
            if utterance.audio not in named:
                problems.append(f"{file}:{line}: {utterance.utt_id}: {count}")
            named.add(utterance.audio)
        elif count is not None and (reason := _mismatch(utterance, count)):
            problems.append(f"{file}:{line}: {utterance.utt_id}: {utterance.audio} {reason}")
    return problems


def _mismatch(utterance: Utterance, count: int) -> str | None:
    """Why an utterance does not fit a recording of `count` samples."""
    if utterance.start is None:
        wrong = utterance.samples != count
        return f"holds {count} samples, but utt2num_samples says {utterance.samples}" if wrong else None
    end = utterance.start + utterance.samples
    if end <= count:
        return None
    return f"ends at {count / SAMPLE_RATE:g} s, but the segment ends at {end / SAMPLE_RATE:g} s"


def _samples(path: Path, recordings: list[Path], quick: bool, jobs: int) -> dict[Path, int | str | None]:
    """Samples of every recording; a text says why it cannot be used, None that its header states no length."""
    tasks = []
    for audio in recordings:
        stat = audio.stat()
        tasks.append(_Task(audio, quick, (stat.st_size, stat.st_mtime_ns)))
    journal = path / _CHECKED
    done = {} if quick else _read_journal(journal)
    counts: dict[Path, int | str | None] = {task.audio: done[str(task.audio), task.stamp] for task in tasks
                                            if (str(task.audio), task.stamp) in done}  # fmt: skip
    pending = [task for task in tasks if task.audio not in counts]
    with _appended(None if quick else journal) as out:
        for task, count in zip(pending, parallel(_count, pending, jobs=jobs, label=str(path)), strict=True):
            counts[task.audio] = count
            if out is not None and isinstance(count, int):
                print(json.dumps([str(task.audio), *task.stamp, count]), file=out, flush=True)
    if not quick:
        journal.unlink(missing_ok=True)
    return counts


def _count(task: _Task) -> int | str | None:
    try:
        info = header_info(task.audio) if task.quick else audio_info(task.audio)
        if info is None:
            return None
        if info.sample_rate != SAMPLE_RATE or info.channels != 1:
            return (
                f"{task.audio}: {info.sample_rate} Hz, {info.channels} channels; expected {SAMPLE_RATE} Hz mono; "
                "prepare the corpus, or convert it"
            )
        return info.samples if task.quick else hash_audio(task.audio)[0]
    except AudioError as error:
        return str(error)


def _read_journal(file: Path) -> dict[tuple[str, tuple[int, int]], int]:
    """Samples by path and stamp. A killed run may leave an incomplete last line, which is ignored."""
    found = {}
    for line in file.read_text(encoding="utf-8").split("\n") if file.exists() else ():
        try:
            audio, size, modified, count = json.loads(line)
            found[audio, (size, modified)] = int(count)
        except (ValueError, TypeError):
            continue
    return found


@contextmanager
def _appended(file: Path | None) -> Iterator[TextIO | None]:
    """The journal, open for writing; None where there is none, as in a folder that must not be written."""
    try:
        out = None if file is None else open(file, "a", encoding="utf-8")
    except OSError:
        out = None
    if out is None:
        yield None
        return
    with out:
        out.write("\n")  # ends a line that a killed run has left incomplete
        yield out
