"""Data directories from a list of your own recordings: CSV, TSV or JSON lines.

    audio,text,speaker,split            columns by usual names, or by --column FIELD=NAME
    clips/a.wav,السلام عليكم,sara,train

Fields: audio, and as far as the list has them text, speaker, split, dialect, emotion, language, id, start and end (or
start and duration) in seconds, and channel (from 0; by option only). Writes OUT/<split>; a list without splits is
OUT/train, and with --dev-share and --test-share whole speakers are drawn for OUT/dev and OUT/test. A recording without
a speaker is its own speaker.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from corpora.audio import SAMPLE_RATE
from corpora.datadir import Utterance
from corpora.files import CorpusError, hash_fraction
from corpora.prepare.ids import name_utterances, safe_id
from corpora.prepare.preparation import Item, Preparation, is_held_out
from corpora.prepare.readers import Row, read_lines, read_rows, seconds
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo
from corpora.schema import nearest

FIELDS: dict[str, tuple[str, ...]] = {
    "audio": ("audio", "audio_filepath", "audio_path", "audio_file", "path", "file", "filename", "file_name", "wav"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "spk", "client_id"),
    "split": ("split", "subset", "set", "partition"),
    "dialect": ("dialect", "accent", "variety"),
    "emotion": ("emotion",),
    "language": ("language", "lang", "locale"),
    "id": ("id", "utt_id", "utterance_id", "utterance"),
    "start": ("start", "offset", "begin", "start_time"),
    "end": ("end", "stop", "end_time"),
    "duration": ("duration",),
    "channel": (),  # by option only: a column of this name is often that of a video
}
SPLITS = {"validation": "dev", "valid": "dev", "val": "dev", "eval": "test", "evaluation": "test"}

_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json", ".manifest")
_SLACK = 0.5  # seconds, by which the duration in a list may differ from that of the recording
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shares:
    """Shares of the speakers that are drawn for dev and test, and the seed of the draw."""

    dev: float = 0.0
    test: float = 0.0
    seed: int = 0

    def split_of(self, speaker: str) -> str:
        place = hash_fraction(speaker, self.seed, "table")
        return "test" if place < self.test else "dev" if place < self.test + self.dev else "train"


def prepare(
    table: Path,
    out_dir: Path,
    *,
    columns: Sequence[str] = (),
    root: Path | None = None,
    language: str = "ar",
    text_profile: str = "none",
    shares: Shares | None = None,
    jobs: int = 1,
) -> dict[str, list[Utterance]]:
    """Write the data directories of a list; returns their utterances.

    columns: `field=column` for columns with other names.  root: folder that relative paths count from, the list's by
    default.  language: where the list has none.  shares: of speakers for dev and test, for a list without splits.
    Raises CorpusError for a list without a column of recordings, with its line for unreadable text; TooManyBadFiles.
    """
    shares = shares or Shares()
    if shares.dev < 0 or shares.test < 0 or shares.dev + shares.test >= 1:
        raise CorpusError(f"--dev-share {shares.dev} and --test-share {shares.test}: expected shares below 1 in all")
    rows, names = _rows(table)
    fields = _fields(table, names, columns)
    if "split" in fields and (shares.dev or shares.test):
        raise CorpusError(f"{table}: the column {fields['split']} names the splits, so --dev-share and --test-share "
                          "have no use")  # fmt: skip
    listed = [(row, _absolute(root or table.parent, row[fields["audio"]])) for row in rows]
    if not listed:
        raise CorpusError(f"{table}: no row")
    base = Path(os.path.commonpath([path.parent for _, path in listed]))
    work = Preparation(_info(table), base, out_dir, jobs=jobs, text_profile=text_profile)
    splits: dict[str, list[Item]] = defaultdict(list)
    stated: dict[tuple[str, str], float] = {}  # lengths of whole recordings
    for row, path in listed:
        item = _item(work, row, fields, path.relative_to(base).as_posix(), language)
        if item:
            named = row[fields["split"]] if "split" in fields else shares.split_of(item.speaker)
            splits[_split(row.where, named)].append(item)
            length = row.get(fields["duration"]) if "duration" in fields and item.start is item.end is None else ""
            if length and (found := seconds(row.where, length, work.bad)) is not None:
                stated[item.speaker, item.utt_id] = found
    ids = name_utterances((item.speaker, item.utt_id) for own in splits.values() for item in own)
    for split, own in splits.items():
        renamed = (ids[item.speaker, item.utt_id] for item in own)
        work.add(split, [replace(i, utt_id=u, speaker=s) for i, (u, s) in zip(own, renamed, strict=True)])
    written = work.write({})
    if others := [split for split in written if len(written) > 1 and not is_held_out(split) and "train" not in split]:
        _log.warning(
            "%s: the split %s counts as training data; the names of sets to be scored hold `dev` or `test`",
            table, ", ".join(others),
        )  # fmt: skip
    _name_other_lengths(table, written, {ids[key][0]: length for key, length in stated.items()})
    if "speaker" in fields:
        _name_shared_speakers(table, written)
    return written


def _rows(table: Path) -> tuple[list[Row], list[str]]:
    """The rows of a list and its columns."""
    if not table.is_file():
        raise CorpusError(f"{table}: no such file; expected a list in CSV, TSV or JSON lines")
    if table.suffix.lower() in _JSON_SUFFIXES:
        found = [Row(where, own) for where, own in _json_rows(table)]
        return found, list(dict.fromkeys(name for row in found for name in row.values))
    delimiter, names = _header(table)
    return list(read_rows(table, names, delimiter=delimiter, required=())), names


def _header(table: Path) -> tuple[str, list[str]]:
    """Delimiter and columns of the first line: a tab, a comma or a semicolon, whichever divides it most."""
    first = next((line for _, line in read_lines(table)), "")
    try:
        found = {own: next(csv.reader(io.StringIO(first), delimiter=own), []) for own in ("\t", ",", ";")}
    except csv.Error as error:
        raise CorpusError(f"{table}:1: no list with columns in its first line ({error})") from None
    delimiter = max(found, key=lambda own: len(found[own]))
    names = [name.strip() for name in found[delimiter]]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise CorpusError(f"{table}:1: the column {repeated[0]!r} is there twice")
    return delimiter, names


def _json_rows(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, fields) of every object; the file is one list, or has one object on each line."""
    lines = list(read_lines(table))
    whole = lines and lines[0][1].startswith("[")
    for where, text in [(str(table), "\n".join(line for _, line in lines))] if whole else lines:
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise CorpusError(f"{where}: not valid JSON: {error.msg}") from error
        for number, own in enumerate(found if isinstance(found, list) else [found], 1):
            place = f"{table}:row {number}" if whole else where
            if not isinstance(own, dict):
                raise CorpusError(f"{place}: expected an object with the fields of a recording, found {own!r}")
            yield place, {str(key): _plain(value) for key, value in own.items()}


class _NoText(str):
    """A value of JSON that is neither text nor number, for messages. Only a row whose fields hold one is bad."""


def _plain(value: Any) -> str:
    if isinstance(value, dict) and "path" in value:  # {"path": ..., "bytes": null}
        value = value["path"]
    if isinstance(value, dict | list | bool):
        return _NoText(json.dumps(value, ensure_ascii=False)[:40])
    return "" if value is None else str(value).strip()


def _fields(table: Path, names: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """Field -> column of the list."""
    lower = {name.lower(): name for name in reversed(names)}
    fields = {
        field: next(lower[own] for own in usual if own in lower)
        for field, usual in FIELDS.items()
        if any(own in lower for own in usual)
    }
    for entry in columns:
        field, equals, column = entry.partition("=")
        if not equals or field not in FIELDS:
            raise CorpusError(
                f"--column {entry}: expected FIELD=COLUMN with a field of {', '.join(FIELDS)}{nearest(field, FIELDS)}"
            )
        if column not in names:
            raise CorpusError(
                f"--column {entry}: {table} has no column {column!r}{nearest(column, names)}; it has {', '.join(names)}"
            )
        fields[field] = column
    if "audio" not in fields:
        raise CorpusError(
            f"{table}:1: expected a column of recordings ({', '.join(FIELDS['audio'])}); found {', '.join(names)} "
            "(--column audio=NAME)"
        )
    return fields


def _absolute(root: Path, name: str) -> Path:
    """The recording's path; a name that the disk spells in another way is found."""
    given = Path(name.replace("\\", "/"))
    given = given.expanduser() if given.parts[:1] == ("~",) else given  # a file may be called ~x.wav
    path = Path(os.path.normpath(Path(os.path.abspath(root)) / given))
    return (
        path if path.is_file() or not name else find_path(Path(path.anchor), path.relative_to(path.anchor).as_posix())
    )


def _item(work: Preparation, row: Row, fields: Mapping[str, str], source: str, language: str) -> Item | None:
    """The item of a row; None for a row that cannot be used, which is counted."""

    def get(field: str) -> str:
        return row.get(fields[field]) if field in fields else ""

    for column in fields.values():
        if isinstance(row.get(column), _NoText):
            work.bad(row.where, f"{column}: expected a text or a number, found {row[column]}")
            return None
    if not get("audio"):
        work.bad(row.where, "no recording is named")
        return None
    for field in ("dialect", "emotion"):
        if field in fields and not get(field):
            work.bad(row.where, f"empty {field}; give every row one, or remove the column")
            return None
    start = seconds(row.where, get("start"), work.bad) if get("start") else None
    if get("start") and start is None:
        return None
    end = seconds(row.where, get("end"), work.bad) if get("end") else None
    if get("end") and end is None:
        return None
    if start is not None and end is None and get("duration"):
        length = seconds(row.where, get("duration"), work.bad)
        if length is None:
            return None
        end = start + length
    if get("channel") and not get("channel").isdecimal():
        work.bad(row.where, f"channel {get('channel')!r}: expected a number from 0")
        return None
    speaker = safe_id("_".join(get("speaker").split())) if get("speaker") else ""
    side = f"_channel{get('channel')}" if get("channel") else ""  # of a call: another speaker
    stem = safe_id(source.rsplit(".", 1)[0].replace("/", "_") + side)
    times = f"_{round((start or 0) * 100):07d}_{round((end or 0) * 100):07d}" if start is not None else ""
    name = safe_id(get("id")) if get("id") else f"{stem}{times}"
    return Item(
        name,
        speaker or stem,
        source,
        row.where,
        text=get("text") if "text" in fields else None,
        start=start,
        end=end,
        channel=int(get("channel")) if get("channel") else None,
        language="_".join(get("language").split()) or language,
        dialect="_".join(get("dialect").split()) or None,
        emotion="_".join(get("emotion").split()) or None,
    )


def _split(where: str, stated: str) -> str:
    """The name of a split as a folder: letters, digits, `_`, `-` and `.`."""
    name = stated.strip().lower()
    if not name or name.startswith(".") or not all(c.isalnum() or c in "_-." for c in name):
        raise CorpusError(f"{where}: expected the name of a split such as train, dev or test, found {stated!r}")
    return SPLITS.get(name, name)


def _name_other_lengths(table: Path, written: Mapping[str, Sequence[Utterance]], stated: Mapping[str, float]) -> None:
    """Name recordings that are longer or shorter than the list states: they may be another take, or only a part is
    meant."""
    lengths = {u.utt_id: u.samples / SAMPLE_RATE for own in written.values() for u in own}
    other = [name for name in stated if name in lengths and abs(lengths[name] - stated[name]) > _SLACK]
    if other:
        _log.warning(
            "%s: %d recordings have another duration than the list states, as %s: %.2f s, stated are %.2f s; the whole "
            "recording was taken (a column `start` or `offset` takes a part)",
            table, len(other), other[0], lengths[other[0]], stated[other[0]],
        )  # fmt: skip


def _name_shared_speakers(table: Path, written: Mapping[str, Sequence[Utterance]]) -> None:
    trained = {u.speaker for split, own in written.items() if not is_held_out(split) for u in own}
    for split, own in written.items():
        shared = sorted({u.speaker for u in own} & trained) if is_held_out(split) else []
        if shared:
            _log.warning(
                "%s: %d speakers of %s are in training too, as %s; scores then say little about new speakers",
                table, len(shared), split, shared[0],
            )  # fmt: skip


def _info(table: Path) -> CorpusInfo:
    return CorpusInfo(
        name=safe_id(table.stem) or "table",
        title=f"recordings of {table.name}",
        tasks=(),
        hours=None,
        licence="yours",
        access="open",
        by_hand="",
        layout="a list of recordings in CSV, TSV or JSON lines",
    )
