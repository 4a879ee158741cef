"""Kaldi data directories: one reader, one writer, one validator, and one reader of an utterance's audio.

    train/
      wav.scp          utt_id (or recording id, with segments) and the path of the audio; paths may hold spaces
      utt2spk spk2utt  an utterance id starts with its speaker id
      segments         optional: utt_id, recording id, start and end in seconds
      text utt2lang utt2dialect utt2emotion   optional, for all utterances or for none
      utt2dur utt2num_samples                 length in seconds, and in samples at 16 kHz

Every file is UTF-8 with LF line ends, one line per id, sorted bytewise, white space only as U+0020.
Relative paths in wav.scp count from the folder where commands run, as in Kaldi and ESPnet.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corpora.audio import SAMPLE_RATE, AudioError, audio_info, read_audio
from corpora.files import CorpusError, atomic_dir, sha256_json

_LABEL_FILES = {"text": "text", "utt2lang": "language", "utt2dialect": "dialect", "utt2emotion": "emotion"}
_LONGEST = 100_000 * 3600 * SAMPLE_RATE  # samples; a recording of more than 100,000 h is a wrong number
_CONTROL_NAMES = {"\r": "CARRIAGE RETURN", "\t": "TAB"}
_allowed: set[str] = set()  # characters already checked: millions of characters are about a hundred different ones


@dataclass(frozen=True)
class Utterance:
    """One utterance: samples `start` to `end` of the file `audio`, or the whole file when both are None.

    `samples` is its exact length at 16 kHz; `start` and `end` are in samples at 16 kHz.
    """

    utt_id: str
    speaker: str
    audio: Path
    samples: int
    start: int | None = None
    end: int | None = None
    text: str | None = None
    language: str | None = None
    dialect: str | None = None
    emotion: str | None = None


def write_datadir(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a data directory, whole or not at all; it replaces an existing one.

    Absolute audio paths stay absolute; a relative path stays relative if it lies inside the current folder. Raises
    CorpusError for every problem that `validate_datadir` would report, except missing audio.
    """
    path = Path(path)
    ordered = sorted(utterances, key=lambda utterance: utterance.utt_id)
    tables = _tables(path, ordered)
    spk = path / "utt2spk"
    problems = _check_ids((f"{spk}:{n}", u.utt_id, u.speaker) for n, u in enumerate(ordered, start=1))
    for name, rows in tables.items():
        file = path / name
        for number, (key, value) in enumerate(rows, start=1):
            problems += check_line(f"{file}:{number}", f"{key} {value}")
    _raise_first(problems)
    if path.is_dir() and any(path.iterdir()) and not (path / "utt2spk").exists():
        raise CorpusError(f"{path} holds files and is no data directory (no utt2spk): not replaced; remove it first")
    with atomic_dir(path) as temporary:
        for name, rows in tables.items():
            content = "".join(f"{key} {value}\n" for key, value in rows)
            (temporary / name).write_bytes(content.encode("utf-8"))


def read_datadir(path: Path) -> list[Utterance]:
    """Read and check a data directory; utterances are sorted by id.

    Without `utt2num_samples` the lengths are read from the audio headers. Raises CorpusError with the first problem.
    """
    utterances, problems = _load(Path(path))
    _raise_first(problems)
    return utterances


def validate_datadir(path: Path) -> list[str]:
    """All problems in the files of a data directory, each with file, line and, for a character, its code point.

    `corpora.prepare.validation` checks the audio too.
    """
    try:
        return _load(Path(path))[1]
    except OSError as error:
        return [f"{error.filename or path}: cannot be read ({error.strerror or error})"]


def read_utterance(utterance: Utterance) -> np.ndarray:
    """Samples (T,) of an utterance as float32 at 16 kHz.

    The argument may be any object with `audio`, `samples`, `start` and `end`. Raises AudioError if the audio cannot be
    read, or if its length differs from the data directory.
    """
    end = utterance.end if utterance.start is None else utterance.start + utterance.samples
    wav = read_audio(utterance.audio, utterance.start or 0, end)
    if len(wav) != utterance.samples:
        raise AudioError(
            f"{utterance.audio}: {len(wav)} samples, but the data directory says {utterance.samples}; "
            "prepare the corpus again"
        )
    return wav


def can_be_read(utterance: Utterance) -> bool:
    """Whether `read_utterance` succeeds."""
    try:
        read_utterance(utterance)
    except AudioError:
        return False
    return True


def audio_sha256(utterances: Sequence[Utterance]) -> str:
    """Fingerprint of the audio: ids, lengths, and the sizes and modification times of the files, which are not read.

    A copy of the same audio has another fingerprint, since its modification time differs.
    """
    stats = {path: path.stat() for path in {u.audio for u in utterances}}
    rows = []
    for u in utterances:
        stat = stats[u.audio]
        rows.append([u.utt_id, u.samples, u.start or 0, stat.st_size, stat.st_mtime_ns])
    return sha256_json(rows)


def summary_of(utterances: Sequence[Utterance]) -> dict[str, Any]:
    """Numbers of utterances and speakers, and hours, in all and by language, for a summary.json."""
    samples: Counter[str] = Counter()
    for utterance in utterances:
        samples[utterance.language or "?"] += utterance.samples
    return {
        "utterances": len(utterances),
        "speakers": len({utterance.speaker for utterance in utterances}),
        "hours": hours(samples.total()),
        "hours_by_language": {language: hours(count) for language, count in sorted(samples.items())},
    }


def hours(samples: int) -> float:
    """Hours of a number of samples at 16 kHz, with four decimals."""
    return round(samples / SAMPLE_RATE / 3600, 4)


class KaldiTable(dict[str, str]):
    """id -> value in the order of the file, with the line of each id."""

    def __init__(self, file: Path):
        super().__init__()
        self.file = file
        self.lines: dict[str, int] = {}

    def where(self, key: str) -> str:
        """`<file>:<line>` of an id."""
        return f"{self.file}:{self.lines[key]}"


def read_table(file: Path, problems: list[str], what: str = "value", *, one_word: bool = False) -> KaldiTable:
    """Read a Kaldi table (id, space, value); append each problem, with file and line, to `problems`.

    what: noun for a value, used in messages.  one_word: values hold no space.
    """
    table = KaldiTable(file)
    try:
        content = file.read_bytes()
        lines = content.decode("utf-8").split("\n")
    except FileNotFoundError:
        problems.append(f"{file}: no such file")
        return table
    except OSError as error:
        problems.append(f"{file}: cannot be read ({error.strerror})")
        return table
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        problems.append(f"{file}:{line}: not UTF-8 (byte 0x{content[error.start]:02X})")
        return table
    if lines.pop() != "":
        problems.append(f"{file}: the last line does not end with a line feed; the file may be cut off")
        return table
    if not lines:
        problems.append(f"{file}: empty file")
    previous = ""
    for number, line in enumerate(lines, start=1):
        where = f"{file}:{number}"
        wrong = check_line(where, line)
        if wrong:
            problems += wrong
            continue
        key, _, value = line.partition(" ")
        value = value.strip(" ")
        if not key:
            problems.append(f"{where}: no id at the start of the line")
        elif not value:
            problems.append(f"{where}: empty {what} of {key}")
        elif one_word and " " in value:
            problems.append(f"{where}: {what} {value!r} of {key} is not one word")
        elif key in table:
            problems.append(f"{where}: id {key} occurs twice, first in line {table.lines[key]}")
        elif key < previous:
            problems.append(f"{where}: id {key} comes after {previous}; sort bytewise (LC_ALL=C sort)")
        if key not in table:
            table[key] = value
            table.lines[key] = number
        previous = max(previous, key)
    return table


def check_line(where: str, line: str) -> list[str]:
    """Name the first character that a table must not hold: controls, format marks, white space other than U+0020."""
    if line.isascii() and line.isprintable() or set(line) <= _allowed:
        return []
    for column, character in enumerate(line, start=1):
        category = unicodedata.category(character)
        if category in ("Cc", "Cf", "Cs", "Zl", "Zp") or (category == "Zs" and character != " "):
            name = unicodedata.name(character, _CONTROL_NAMES.get(character, "control character"))
            return [f"{where}: forbidden character U+{ord(character):04X} ({name}) in column {column}; remove it"]
    _allowed.update(line)
    return []


def is_listable(path: str) -> bool:
    """Whether wav.scp can hold a path: no character that `check_line` names, no white space or pipe at its ends."""
    return not check_line("", path) and path == path.strip() and not path.startswith("|") and not path.endswith("|")


def compare_ids(table: KaldiTable, expected: Mapping[str, object], source: str = "utt2spk") -> list[str]:
    """Problems where the ids of a table differ from `expected`, the ids of the file `source`."""
    missing = sorted(expected.keys() - table.keys())
    extra = sorted(table.keys() - expected.keys())
    problems = []
    if missing:
        problems.append(f"{table.file}: {len(missing)} of the ids in {source} are missing, as {missing[0]}")
    if extra:
        problems.append(f"{table.where(extra[0])}: {len(extra)} ids are not in {source}, as {extra[0]}")
    return problems


def _raise_first(problems: list[str]) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more; `python -m corpora validate` lists them)" if len(problems) > 1 else ""
        raise CorpusError(problems[0] + more)


def _seconds(samples: int) -> str:
    # 1/16000 s has seven decimals, so this is exact
    return f"{samples / SAMPLE_RATE:.7f}".rstrip("0").rstrip(".")


def _tables(path: Path, ordered: list[Utterance]) -> dict[str, list[tuple[str, str]]]:
    """The rows of every file; raises CorpusError for problems that cannot be found in the rows."""
    if not ordered:
        raise CorpusError(f"{path}: no utterances to write")
    for previous, current in zip(ordered, ordered[1:], strict=False):
        if previous.utt_id == current.utt_id:
            raise CorpusError(f"{path}: utterance id {current.utt_id} is given twice")
    segmented = any(u.start is not None or u.end is not None for u in ordered)
    recordings = _recording_ids(ordered) if segmented else {}
    speakers: dict[str, list[str]] = {}
    for utterance in ordered:
        speakers.setdefault(utterance.speaker, []).append(utterance.utt_id)
        _check_length(path, utterance)

    tables = {}
    if segmented:
        tables["wav.scp"] = sorted((name, _audio_entry(path, audio)) for audio, name in recordings.items())
        tables["segments"] = [(u.utt_id, _segment_entry(u, recordings[u.audio])) for u in ordered]
    else:
        tables["wav.scp"] = [(u.utt_id, _audio_entry(path, u.audio)) for u in ordered]
    tables["utt2spk"] = [(u.utt_id, u.speaker) for u in ordered]
    tables["spk2utt"] = [(speaker, " ".join(ids)) for speaker, ids in sorted(speakers.items())]
    for name, field in _LABEL_FILES.items():
        rows = [(u.utt_id, getattr(u, field)) for u in ordered]
        missing = [utt_id for utt_id, value in rows if value is None]
        if len(missing) == len(rows):
            continue
        if missing:
            raise CorpusError(
                f"{path / name}: {len(missing)} of {len(rows)} utterances have no {field}, as {missing[0]}"
            )
        rows = [(utt_id, value.strip(" ")) for utt_id, value in rows]
        for utt_id, value in rows:
            if not value:
                raise CorpusError(f"{path / name}: empty {'transcript' if name == 'text' else field} of {utt_id}")
            if name != "text" and " " in value:
                raise CorpusError(f"{path / name}: {field} {value!r} of {utt_id} is not one word")
        tables[name] = rows
    tables["utt2dur"] = [(u.utt_id, _seconds(u.samples)) for u in ordered]
    tables["utt2num_samples"] = [(u.utt_id, str(u.samples)) for u in ordered]
    return tables


def _check_length(path: Path, utterance: Utterance) -> None:
    if utterance.samples <= 0:
        raise CorpusError(f"{path}: utterance {utterance.utt_id} has {utterance.samples} samples")
    if utterance.end is not None:
        length = utterance.end - (utterance.start or 0)
        if length != utterance.samples:
            raise CorpusError(
                f"{path}: utterance {utterance.utt_id} runs from sample {utterance.start or 0} to {utterance.end}, "
                f"but its length is given as {utterance.samples}"
            )


def _audio_entry(path: Path, audio: Path) -> str:
    if not audio.is_absolute() and not audio.resolve().is_relative_to(Path.cwd().resolve()):
        audio = audio.resolve()
    entry = str(audio)
    if not is_listable(entry) and not check_line("", entry):
        raise CorpusError(
            f"{path / 'wav.scp'}: audio path {entry!r} begins or ends with white space or a pipe; rename it"
        )
    return entry


def _recording_ids(ordered: list[Utterance]) -> dict[Path, str]:
    """An id for every audio file: its stem, made safe, with a number where stems repeat."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for audio in sorted({u.audio for u in ordered}):
        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in audio.stem) or "recording"
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name)
        names[audio] = name
    return names


def _segment_entry(utterance: Utterance, recording: str) -> str:
    start = utterance.start or 0
    return f"{recording} {_seconds(start)} {_seconds(start + utterance.samples)}"


def _check_ids(entries: Iterable[tuple[str, str, str]]) -> list[str]:
    """Problems of entries (place, utterance, speaker).

    Ids are one word, an utterance id starts with its speaker id, and both sort in the same order.
    """
    problems = []
    previous = ""
    for where, utt_id, speaker in entries:
        if len(utt_id.split(" ")) != 1 or len(speaker.split(" ")) != 1 or not utt_id or not speaker:
            problems.append(f"{where}: utterance id {utt_id!r} and speaker id {speaker!r} must be one word each")
            continue
        if not utt_id.startswith(speaker):
            problems.append(f"{where}: utterance id {utt_id} does not start with its speaker id {speaker}")
        if speaker < previous:
            problems.append(
                f"{where}: sorted by utterance, speaker {speaker} comes after {previous}; "
                "join speaker and rest with '-' or give all speaker ids one length"
            )
        previous = max(previous, speaker)
    return problems


def _load(path: Path) -> tuple[list[Utterance], list[str]]:
    if not path.is_dir():
        return [], [f"{path}: no such data directory"]
    problems: list[str] = []
    speakers = read_table(path / "utt2spk", problems)
    scp = read_table(path / "wav.scp", problems)
    spk2utt = read_table(path / "spk2utt", problems)
    if problems and not (speakers and scp):
        return [], problems
    problems += _check_ids((speakers.where(utt_id), utt_id, speaker) for utt_id, speaker in speakers.items())
    inverse: dict[str, list[str]] = {}
    for utt_id, speaker in speakers.items():
        inverse.setdefault(speaker, []).append(utt_id)
    for speaker in sorted(inverse.keys() | spk2utt.keys()):
        if spk2utt.get(speaker, "").split() != inverse.get(speaker, []):
            problems.append(f"{path / 'spk2utt'}: the utterances of speaker {speaker} differ from utt2spk")

    labels = {}
    for name, field in _LABEL_FILES.items():
        if (path / name).exists():
            what = "transcript" if name == "text" else field
            labels[field] = read_table(path / name, problems, what, one_word=name != "text")
            problems += compare_ids(labels[field], speakers)
    problems += _check_audio(scp)
    if problems:
        return [], problems

    spans = _spans(path, speakers, scp, problems)
    lengths = _lengths(path, speakers, scp, spans, problems)
    if problems:
        return [], problems
    utterances = []
    for utt_id, speaker in speakers.items():
        recording, start, _ = spans[utt_id]
        samples = lengths[utt_id]
        utterances.append(
            Utterance(
                utt_id,
                speaker,
                Path(scp[recording]),
                samples,
                start,
                None if start is None else start + samples,
                **{field: table[utt_id] for field, table in labels.items()},
            )
        )
    return utterances, problems


def _check_audio(scp: KaldiTable) -> list[str]:
    problems = []
    for key, entry in scp.items():
        if entry.endswith("|") or entry.startswith("|"):
            problems.append(f"{scp.where(key)}: {key} is a command, not a file; pipes are refused, write audio files")
        elif not Path(entry).is_file():
            hint = "" if Path(entry).is_absolute() else f" (relative paths count from the current folder, {Path.cwd()})"
            problems.append(f"{scp.where(key)}: audio of {key} is missing: {entry}{hint}")
    return problems


def _spans(
    path: Path, speakers: KaldiTable, scp: KaldiTable, problems: list[str]
) -> dict[str, tuple[str, int | None, int | None]]:
    """Recording id, first sample and end of every utterance (None: the whole file)."""
    file = path / "segments"
    if not file.exists():
        problems += compare_ids(scp, speakers)
        return {utt_id: (utt_id, None, None) for utt_id in speakers}
    spans: dict[str, tuple[str, int | None, int | None]] = {}
    table = read_table(file, problems)
    problems += compare_ids(table, speakers)
    for utt_id, entry in table.items():
        fields = entry.split()
        try:
            recording, start, end = fields[0], *(round(float(field) * SAMPLE_RATE) for field in fields[1:])
        except (ValueError, OverflowError):
            problems.append(
                f"{table.where(utt_id)}: expected 'utterance recording start end', found {utt_id + ' ' + entry!r}"
            )
            continue
        if recording not in scp:
            problems.append(f"{table.where(utt_id)}: recording {recording} is not in wav.scp")
        elif end > _LONGEST:
            problems.append(f"{table.where(utt_id)}: segment {utt_id} ends at {fields[2]} s; no recording is that long")
        elif not 0 <= start < end:
            problems.append(f"{table.where(utt_id)}: segment {utt_id} from {fields[1]} to {fields[2]} s holds no audio")
        spans[utt_id] = (recording, start, end)
    return spans


def _lengths(
    path: Path,
    speakers: KaldiTable,
    scp: KaldiTable,
    spans: Mapping[str, tuple[str, int | None, int | None]],
    problems: list[str],
) -> dict[str, int]:
    """Length of every utterance in samples: from `utt2num_samples`, else from segments, else from audio headers."""
    if problems:
        return {}
    file = path / "utt2num_samples"
    lengths: dict[str, int] = {}
    if file.exists():
        table = read_table(file, problems, one_word=True)
        problems += compare_ids(table, speakers)
        for utt_id, value in table.items():
            if not (value.isascii() and value.isdecimal()) or not value.strip("0"):
                problems.append(f"{table.where(utt_id)}: {value!r} is not a number of samples")
                continue
            if len(value) > 18 or int(value) > _LONGEST:
                problems.append(f"{table.where(utt_id)}: {value} samples; no recording is that long")
                continue
            lengths[utt_id] = int(value)
            _, start, end = spans.get(utt_id, ("", None, None))
            if start is not None and end is not None and abs(end - start - lengths[utt_id]) > 1:
                problems.append(f"{table.where(utt_id)}: {value} samples, but segments gives {end - start}")
        return lengths
    for utt_id in speakers:
        recording, start, end = spans[utt_id]
        if start is not None and end is not None:
            lengths[utt_id] = end - start
            continue
        try:
            info = audio_info(Path(scp[recording]))
        except AudioError as error:
            problems.append(f"{scp.where(recording)}: {error}")
            continue
        if info.sample_rate != SAMPLE_RATE or info.channels != 1 or info.samples == 0:
            problems.append(
                f"{scp.where(recording)}: {scp[recording]} has {info.samples} samples, {info.sample_rate} Hz, "
                f"{info.channels} channels; expected {SAMPLE_RATE} Hz mono"
            )
        lengths[utt_id] = info.samples
    return lengths
