"""Source recordings of a corpus: find them, convert them to 16 kHz mono, and list those of every utterance.

<corpus>/...                 the publisher's audio in any format
<out>/audio/...              converted copies, with a journal (ingested.jsonl) that lets an interrupted run resume
<out>/<split>/sources.tsv    the recordings of every utterance, with the hash of their samples
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from corpora import MIN_SAMPLES
from corpora.audio import SAMPLE_RATE, AudioError, convert_audio, hash_audio, is_plain
from corpora.datadir import Utterance, check_line, is_listable, read_datadir, summary_of, write_datadir
from corpora.files import BadFileTally, CorpusError, from_spreadsheet, is_utf8, write_tsv
from corpora.machine import parallel
from corpora.prepare.duplicates import find_pairs, warn_of
from corpora.prepare.tree import visible_files
from corpora.registry import CorpusInfo, corpus_error

SOURCES = "sources.tsv"
_COLUMNS = ("utt_id", "corpus", "source", "sha256")
_log = logging.getLogger(__name__)
_CHANNEL: ContextVar[int | None] = ContextVar("channel", default=None)
_LARGE = 2**28  # bytes of audio: above this, even few files are read by several processes


@dataclass(frozen=True)
class Recording:
    """One recording of a corpus, readable at 16 kHz mono.

    source: path inside the corpus folder (POSIX).  path: the file to read, the source itself or its converted copy.
    samples: length at 16 kHz.  sha256: hash of the 16-bit samples, equal for equal audio.
    """

    source: str
    path: Path
    samples: int
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """A row of sources.tsv: one recording that an utterance was made from.

    source: path inside the corpus folder.  sha256: hash of the recording's 16-bit samples at 16 kHz.
    """

    utt_id: str
    corpus: str
    source: str
    sha256: str


@dataclass(frozen=True)
class Listing:
    """Audio files of a corpus, as paths inside its folder: those with a published name, and those with another name."""

    named: list[str]
    odd: list[str]

    def tally(self, corpus_dir: Path, expected: str) -> BadFileTally:
        """A tally over all files that counts the oddly named ones as bad."""
        tally = BadFileTally(len(self.named) + len(self.odd))
        for source in self.odd:
            tally.skip(corpus_dir / source, f"expected a name like {expected}")
        return tally


def list_audio(corpus_dir: Path, glob: str, name: re.Pattern[str], *, info: CorpusInfo) -> Listing:
    """The visible files that match `glob`, in either case, divided into names that match the pattern `name` and others.

    Raises CorpusError when no name matches.
    """
    found = [path.relative_to(corpus_dir).as_posix() for path in visible_files(corpus_dir, glob)]
    named = [source for source in found if name.fullmatch(source.rsplit("/", 1)[-1])]
    if not named:
        raise corpus_error(corpus_dir, info)
    return Listing(named, sorted(set(found) - set(named)))


def safe_relative(name: str) -> str | None:
    """A path from a publisher's list as a POSIX path inside the corpus; None if it leads out of the folder."""
    path = PurePosixPath(name.strip().replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return None
    return path.as_posix()


@contextmanager
def taking_channel(channel: int | None) -> Iterator[None]:
    """Inside, recordings with several channels are read as this one, from 0; None averages the channels.

    It is no argument of the corpora: their modules say how a corpus is laid out, and this is a choice of the user.
    """
    token = _CHANNEL.set(channel)
    try:
        yield
    finally:
        _CHANNEL.reset(token)


def chosen_channel() -> int | None:
    """The channel of `taking_channel`, None outside."""
    return _CHANNEL.get()


def read_recordings(
    corpus_dir: Path,
    sources: Sequence[str],
    audio_dir: Path,
    *,
    tally: BadFileTally,
    jobs: int = 1,
    label: str = "audio",
    channel: int | None = None,
) -> dict[str, Recording]:
    """Read every source completely: source -> Recording, without the bad ones.

    Plain 16 kHz mono WAV and FLAC files stay in place. Other files, and those whose path no list can hold (marks of
    direction, other spaces than U+0020), are converted into `audio_dir`.  sources: paths inside `corpus_dir`.
    channel: the one to take of several, from 0; None: that of `taking_channel`. Finished sources are not read again by
    a later run, unless their size or modification time has changed. Unreadable files and those under 400 samples are
    counted in `tally`, which the caller checks.
    """
    channel = chosen_channel() if channel is None else channel
    journal = _Journal(audio_dir / "ingested.jsonl")
    tasks = [_task(corpus_dir, audio_dir, source, channel) for source in sources]
    pending = [task for task in tasks if not journal.holds(task)]
    fewest = 2 if sum(task.stamp[1] for task in pending if task.stamp) > _LARGE else 64
    bad: dict[str, str] = {}
    if pending:
        results = parallel(_read_one, pending, jobs=jobs, label=label, fewest=fewest)
        with journal:
            for task, result in zip(pending, results, strict=True):
                if isinstance(result, str):
                    bad[task.source] = result
                else:
                    journal.add(task, _Done(task.stamp, *result))
    recordings: dict[str, Recording] = {}
    notes: dict[str, list[Path]] = {}
    for task in tasks:
        if task.source in bad:
            tally.skip(task.path, bad[task.source])
        else:
            done = journal.entries[task.source]
            recordings[task.source] = Recording(task.source, task.file(done.native), done.samples, done.sha256)
            if done.note:
                notes.setdefault(done.note, []).append(task.path)
    for note, paths in notes.items():
        _log.warning("%d recordings, as %s: %s", len(paths), paths[0], note)
    return recordings


def remove_other_folds(out_dir: Path, count: int) -> None:
    """Remove the folds above `count` that an earlier run with more folds has left; a benchmark would train on them."""
    for folder in sorted(out_dir.glob("fold*")):
        number = folder.name.removeprefix("fold")
        if number.isdecimal() and int(number) > count and any(folder.glob(f"*/{SOURCES}")):
            _log.warning("%s is of an earlier run with more than %d folds, and was removed", folder, count)
            shutil.rmtree(folder)


@dataclass
class SourcedSet:
    """The utterances of a data directory and the recordings that they were made from."""

    utterances: list[Utterance] = field(default_factory=list)
    sources: list[Provenance] = field(default_factory=list)

    def __add__(self, other: SourcedSet) -> SourcedSet:
        return SourcedSet(self.utterances + other.utterances, self.sources + other.sources)

    def write(self, path: Path) -> dict[str, Any]:
        """Write a data directory with its sources; return its entry of a summary.json (`datadir.summary_of`).

        Raises CorpusError for a set without utterances.
        """
        if not self.utterances:
            raise CorpusError(f"{path}: no utterances: the corpora have too few files for this set")
        write_datadir(path, self.utterances)
        write_sources(path, self.sources)
        return summary_of(self.utterances)


def write_sources(data_dir: Path, rows: Iterable[Provenance]) -> None:
    """Write `sources.tsv` into a data directory: one row per recording, an utterance's recordings in playback order."""
    write_tsv(data_dir / SOURCES, _COLUMNS, [(row.utt_id, row.corpus, row.source, row.sha256) for row in rows])


def read_sources(data_dir: Path) -> list[Provenance]:
    """Read `sources.tsv`. Raises CorpusError, with the line, if it is missing or malformed."""
    path = data_dir / SOURCES
    if not path.exists():
        raise CorpusError(f"{path}: missing; prepare the corpus again")
    header, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if header.split("\t") != list(_COLUMNS):
        raise CorpusError(f"{path}:1: expected the columns {', '.join(_COLUMNS)}, found {header!r}")
    rows = []
    for number, line in enumerate(lines, 2):
        fields = line.split("\t")
        if len(fields) != len(_COLUMNS):
            raise CorpusError(f"{path}:{number}: expected 4 tab-separated fields, found {len(fields)}")
        rows.append(Provenance(*map(from_spreadsheet, fields)))
    return rows


def check_isolation(training: Iterable[Path], held_out: Iterable[Path]) -> None:
    """Raise CorpusError when a recording of a held-out data directory is also in a training one.

    Recordings are compared by corpus and path and, since publishers store equal audio under two names, by hash.
    Utterances are compared by sound: samples that are equal after gain and trim are refused, and pairs that sound alike
    are logged (`prepare.duplicates`).
    """
    training, held_out = list(training), list(held_out)
    where: dict[object, tuple[Path, Provenance]] = {}
    for folder in training:
        for row in read_sources(folder):
            where[row.corpus, row.source] = where[row.sha256] = (folder, row)
    for folder in held_out:
        for row in read_sources(folder):
            hit = where.get((row.corpus, row.source)) or where.get(row.sha256)
            if hit:
                raise CorpusError(
                    f"{folder}: utterance {row.utt_id} uses {row.corpus}/{row.source}, which is training data: "
                    f"{hit[1].corpus}/{hit[1].source} (utterance {hit[1].utt_id} of {hit[0]})"
                )
    sides = [[utterance for folder in side for utterance in read_datadir(folder)] for side in (training, held_out)]
    pairs = find_pairs(*sides)
    if pairs and pairs[0].equal:
        first, second = pairs[0].training, pairs[0].held_out
        raise CorpusError(
            f"utterance {second.utt_id} of {', '.join(map(str, held_out))} holds the samples of {first.utt_id}, which "
            f"is training data ({second.audio} and {first.audio}; equal after gain and trim); leave one out"
        )
    warn_of(pairs, ", ".join(map(str, held_out)))


@dataclass(frozen=True)
class _Task:
    """A source to read. stamp: channel, bytes and modification time; empty if the file does not exist."""

    source: str
    path: Path
    copy: Path
    channel: int | None
    stamp: list[int | None]

    def file(self, native: bool) -> Path:
        """The file to read. A source's path is absolute, so that data directories may be moved."""
        return Path(os.path.abspath(self.path)) if native else self.copy


def _task(corpus_dir: Path, audio_dir: Path, source: str, channel: int | None) -> _Task:
    path = corpus_dir / source
    stat = path.stat() if path.is_file() else None
    mark = "" if channel is None else f".{channel}"
    stamp = [channel, stat.st_size, stat.st_mtime_ns] if stat else []
    return _Task(source, path, audio_dir / f"{_listable(source)}{mark}.wav", channel, stamp)


def _listable(source: str) -> str:
    """A source as a path that wav.scp can hold: other characters are written as their code points."""
    if not check_line("", source):
        return source
    return "".join(f"~U{ord(c):04X}~" if check_line("", c) else c for c in source)


class _Done(NamedTuple):
    """A finished source in the journal. native: it is read in place.  note: a remark on its audio."""

    stamp: list[int | None]
    native: bool
    samples: int
    sha256: str
    note: str = ""


class _Journal:
    """Finished sources of an audio folder: one JSON line each, appended as soon as the source is finished.

    A killed run may leave an incomplete last line, which is ignored.
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


def _read_one(task: _Task) -> tuple[bool, int, str, str] | str:
    """(read in place, samples, hash, remark) of a source, or the reason why it cannot be used."""
    if not is_utf8(task.source):
        return "its name is not UTF-8, so no list can name it; rename the file"
    notes: list[str] = []
    try:
        in_place = task.channel in (None, 0) and is_listable(os.path.abspath(task.path))
        native = in_place and is_plain(task.path)  # a plain file has one channel
        if not native:
            count = convert_audio(task.path, task.copy, task.channel, notes)
            if count < MIN_SAMPLES:
                task.copy.unlink()
                return _too_short(count)
        samples, digest = hash_audio(task.file(native))
    except AudioError as error:
        return str(error)
    if samples < MIN_SAMPLES:
        return _too_short(samples)
    return native, samples, digest, "; ".join(notes)


def _too_short(samples: int) -> str:
    return f"{samples} samples ({1000 * samples / SAMPLE_RATE:.0f} ms) at 16 kHz: shorter than one frame of 25 ms"
