"""IWSLT 2022, Tunisian: telephone conversations at 8 kHz (LDC2022E01), with the splits of the shared task.

    <corpus>/data/audio/ta/<file>.sph                 one side of a call; file: <date>_<time>_<id>_<side>
    <corpus>/data/transcripts/ta/<file>.tsv           start, end, speaker and text, tab-separated
    <splits>/{train,dev,test1}.file_id.txt            from the repository kevinduh/iwslt22-dialect
    <splits>/exclude-utterance.txt                    optional: file, start and end of bad segments

Marks of the transcript (O/ foreign, U/ uncertain, M/ standard Arabic, and their pairs; (()), %pw, #, +, =) are removed,
their words stay. A side of a call is a speaker.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from corpora.files import CorpusError
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_lines, seconds
from corpora.prepare.tree import find_path, visible_files
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="iwslt22_tunisian",
    title="IWSLT 2022 Tunisian: telephone conversations (LDC)",
    tasks=("asr",),
    hours=160,
    licence="LDC user agreement",
    access="paid",
    by_hand="get LDC2022E01 (or LDC2025S05) from the LDC, and clone kevinduh/iwslt22-dialect from GitHub into it",
    layout="data/audio/ta/*.sph, data/transcripts/ta/*.tsv, iwslt22-dialect/{train,dev,test1}.file_id.txt",
)
SPLITS = ("train", "dev", "test1")
DIALECT = "TUN"

_log = logging.getLogger(__name__)
_MARKS = re.compile(r"(?<!\w)[OUM]+/|\(\(|\)\)|%pw|[#+=]")


def prepare(
    corpus_dir: Path, out_dir: Path, *, jobs: int = 1, text_profile: str = "artst", splits: Path | None = None
) -> None:
    """Write each of `<out_dir>/{train,dev,test1}` that has a list.

    splits: folder of the lists; without it `iwslt22-dialect` in the corpus, or the corpus folder.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    transcripts = visible_files(find_path(corpus_dir, "data/transcripts/ta"), "*.tsv")
    audio = find_path(corpus_dir, "data/audio/ta")
    if not transcripts or not audio.is_dir():
        raise corpus_error(corpus_dir, INFO)
    places = [splits] if splits else [find_path(corpus_dir, "iwslt22-dialect"), corpus_dir]
    lists = {split: path for split in SPLITS if (path := _first(places, f"{split}.file_id.txt"))}
    if not lists:
        raise CorpusError(f"{places[0]}: expected train.file_id.txt, dev.file_id.txt, test1.file_id.txt; found none of "
                          "them (--set splits=FOLDER of the repository kevinduh/iwslt22-dialect)")  # fmt: skip
    split_of: dict[str, tuple[str, str]] = {}
    for split, path in lists.items():
        for where, line in read_lines(path):
            other, place = split_of.setdefault(line.split()[0], (split, where))
            if other != split:
                raise CorpusError(f"{where}: {line.split()[0]} is in {other} too, at {place}")
    excluded = _excluded(_first(places, "exclude-utterance.txt"))
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs, text_profile=text_profile)
    unlisted = [path for path in transcripts if path.name.split(".")[0] not in split_of]
    if unlisted:
        _log.warning("%s: %d transcripts are in none of the lists, as %s", INFO.name, len(unlisted), unlisted[0])
    for path in transcripts:
        name = path.name.split(".")[0]
        if name in split_of:
            split = split_of[name][0]
            work.add(split, _items(work, split, path, find_path(audio, f"{name}.sph"), excluded))
    work.write()


def _first(places: Sequence[Path], name: str) -> Path | None:
    """The first file of a name in some folders; None if there is none."""
    return next((path for place in places if (path := find_path(place, name)).is_file()), None)


def _excluded(path: Path | None) -> set[tuple[str, float, float]]:
    if path is None:
        return set()
    bad = set()
    for where, line in read_lines(path):
        fields = line.split()
        if len(fields) != 3:
            raise CorpusError(f"{where}: expected '<file> <start> <end>', found {line!r}")
        bad.add((fields[0], seconds(where, fields[1]), seconds(where, fields[2])))
    return bad


def _items(
    work: Preparation, split: str, path: Path, audio: Path, excluded: set[tuple[str, float, float]]
) -> Iterator[Item]:
    name = path.name.split(".")[0]
    speaker = f"iwslt22_{safe_id(name)}"
    for where, line in read_lines(path):
        fields = line.split("\t")
        if len(fields) != 4:
            work.bad(where, f"expected start, end, speaker and text, tab-separated; found {line!r}")
            continue
        start, end = (seconds(where, field.strip(), work.bad) for field in fields[:2])
        if start is None or end is None:
            continue
        utt_id = f"{speaker}-{round(start * 100):07d}-{round(end * 100):07d}"
        if (name, start, end) in excluded:
            work.exclude(split, utt_id, where, "in exclude-utterance.txt")
            continue
        source = audio.relative_to(work.corpus_dir).as_posix()
        yield Item(utt_id, speaker, source, where, _MARKS.sub("", fields[3]), start, end, dialect=DIALECT)
