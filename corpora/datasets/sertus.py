"""SERTUS: emotions in spontaneous Tunisian speech of broadcasts, six labels by a majority of three people.

    <corpus>/Categorical annotation.csv     Name,Label, as EMO6.wav,angry
    <corpus>/**/EMO<number>.wav

This is the layout of the publisher's repository, which lists all recordings and holds a part of them. No speaker is
published. Long runs of neighbouring numbers have one label, as parts of one broadcast would, so blocks of neighbouring
numbers are held out as a whole; one speaker may still be in two blocks. The augmented copies of the repository
(EMO3_aug-shift.wav) are not in the list and are left out.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from corpora.datasets._emotion import FOLDS, Label, emotion_of, find_files, plain, write_corpus
from corpora.datasets._options import compile_pattern
from corpora.files import BadFileTally, CorpusError
from corpora.prepare.readers import read_rows
from corpora.prepare.tree import visible_files
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="sertus",
    title="SERTUS: Speech Emotion Recognition in Tunisian Spontaneous speech",
    tasks=("ser",),
    hours=23,
    licence="none stated",
    access="open",
    by_hand="clone github.com/LatifaIbenNasr/SERTUS, which has the labels and a part of the recordings; ask the "
    "authors (Iben Nasr, Masmoudi and Hadrich Belguith, 2025) for the others",
    layout="Categorical annotation.csv (Name, Label) and **/EMO<number>.wav",
    recordings=3793,
)
EMOTIONS = ("angry", "disgusted", "happy", "neutral", "sad", "satisfied")
COLUMNS = ("Name", "Label")
FILE = r"EMO(?P<number>\d+)\.wav"
BLOCK = 20  # recordings; they last 20 s on average, and a speaker has three on average

_log = logging.getLogger(__name__)


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    seed: int = 0,
    jobs: int = 1,
    folds: int = FOLDS,
    files: str = "**/*.wav",
    file: str = FILE,
    table: str = "Categorical annotation.csv",
    block: int = BLOCK,
    emotions: tuple[str, ...] = EMOTIONS,
) -> None:
    """Write `<out_dir>/fold<k>/{train,dev,test}` for k = 1..folds; each block is tested in exactly one fold.

    files: glob of the recordings.  file: regular expression of a recording's name in either case, with the group
    `number`.  table: name of the list of labels, anywhere below the corpus.  block: neighbouring numbers of one block.
    emotions: the labels to use.
    Raises CorpusError with file and line for a list of another form, and for too few blocks.
    """
    pattern = compile_pattern("file", file, "number", flags=re.IGNORECASE)
    if block < 1:
        raise CorpusError(f"block={block}: expected at least 1 recording")
    lists = visible_files(corpus_dir, f"**/{table}")
    if not lists:
        raise corpus_error(corpus_dir, INFO, f"a list of labels {table}")
    listing = find_files(INFO, corpus_dir, files, pattern)
    by_name: dict[str, str] = {}
    for source in listing.named:  # the repository has some recordings in two folders
        by_name.setdefault(source.rsplit("/", 1)[-1].lower(), source)
    labels, tally = _read_table(lists[0], by_name, pattern, block, emotions)
    if not labels:
        raise corpus_error(corpus_dir, INFO, f"recordings that {lists[0].name} names")
    if listing.odd:
        _log.info("%s: %d files have other names and are left out, as %s", INFO.name, len(listing.odd), listing.odd[0])
    write_corpus(
        INFO, corpus_dir, out_dir, labels, tally, folds=folds, seed=seed, jobs=jobs, least=1, speaker_word="block"
    )


def _read_table(
    path: Path, files: dict[str, str], pattern: re.Pattern[str], block: int, emotions: tuple[str, ...]
) -> tuple[dict[str, Label], BadFileTally]:
    """Labels by path inside the corpus. files: path by name in lower case.

    A recording with two labels is left out and counted; a listed recording that is not there is only named in the log.
    """
    labels: dict[str, Label] = {}
    places: dict[str, str] = {}
    tally = BadFileTally(0)
    absent: list[str] = []
    twice: set[str] = set()
    for row in read_rows(path, COLUMNS):
        found = pattern.fullmatch(row["Name"])
        if not found:
            raise CorpusError(f"{row.where}: expected a name like {pattern.pattern}, found {row['Name']!r}")
        emotion = emotion_of(row["Label"])
        if emotion not in EMOTIONS:
            raise CorpusError(f"{row.where}: expected one of {', '.join(EMOTIONS)}, found {row['Label']!r}")
        source = files.get(row["Name"].lower())
        if source is None:
            absent.append(row["Name"])
            continue
        if places.setdefault(source, emotion) != emotion:
            twice.add(source)
            continue
        first = (int(found["number"]) - 1) // block * block + 1
        labels[source] = Label(f"from{first:04d}", emotion, plain(Path(source).stem))
    tally.total = len(labels)
    for source in sorted(twice):
        del labels[source]
        tally.skip(path.parent / source, f"{path.name} gives it several labels")
    if absent:
        _log.warning(
            "%s: %d recordings of %s are not here and are left out, as %s", INFO.name, len(absent), path.name, absent[0]
        )
    return {source: label for source, label in labels.items() if label.emotion in emotions}, tally
