"""ANAD: one-second units of eight Arabic talk-show calls, three emotions.

    <corpus>/[data/]1sec_segmented_part<k>/[...]/V<video>_<turn> (<unit>).wav
    <corpus>/[data/]ANAD.csv        columns "name" (a file, with a stray character behind it) and "Emotion "

Neighbouring units of a call are similar, so whole videos are held out. The emotions of the videos limit the number of
folds. The layout is not confirmed, so patterns and names are options.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from corpora.datasets._emotion import Label, emotion_of, find_files, plain, write_corpus
from corpora.datasets._options import compile_pattern
from corpora.files import BadFileTally, CorpusError
from corpora.prepare.readers import read_rows
from corpora.prepare.tree import visible_files
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="anad",
    title="Arabic Natural Audio Dataset: talk-show calls in one-second units",
    tasks=("ser",),
    hours=0.4,
    licence="CC BY-NC-SA 4.0",
    access="open",
    by_hand="Arabic Natural Audio Dataset by Samira Klaylat (Mendeley Data, Kaggle)",
    layout="1sec_segmented_part<k>/**/V<video>_<turn> (<unit>).wav, ANAD.csv",
    recordings=1384,
)
EMOTIONS = ("angry", "happy", "surprised")
FOLDS = 4
FILE = r"(?P<video>V\d+)_\d+ ?\(\d+\)\.wav"

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
    table: str = "ANAD.csv",
    name_column: str = "name",
    emotion_column: str = "Emotion",
    emotions: tuple[str, ...] = EMOTIONS,
) -> None:
    """Write `<out_dir>/fold<k>/{train,dev,test}` for k = 1..folds; each video is tested in exactly one fold.

    files: glob of the units.  file: regular expression of a unit's name in either case, with the group `video`.
    table: name of the list of labels, anywhere below the corpus, with the columns name_column and emotion_column.
    emotions: the labels to use.
    Raises CorpusError with file and line for a list of another form, and for too few videos of an emotion.
    """
    pattern = compile_pattern("file", file, "video", flags=re.IGNORECASE)
    lists = visible_files(corpus_dir, f"**/{table}")
    if not lists:
        raise corpus_error(corpus_dir, INFO, f"a list of labels {table}")
    by_name: dict[str, str] = {}
    for source in find_files(INFO, corpus_dir, files, pattern).named:  # the publisher's parts hold some units twice
        by_name.setdefault(source.rsplit("/", 1)[-1].lower(), source)
    labels, tally = _read_table(lists[0], by_name, pattern, (name_column, emotion_column), emotions)
    unlisted = len(by_name) - len({Path(source).name.lower() for source in labels})
    if unlisted:
        _log.warning("%s: %d units have no label that is used and are left out", INFO.name, unlisted)
    write_corpus(
        INFO, corpus_dir, out_dir, labels, tally, folds=folds, seed=seed, jobs=jobs, least=1, speaker_word="video"
    )


def _read_table(
    path: Path, files: dict[str, str], pattern: re.Pattern[str], columns: tuple[str, str], emotions: tuple[str, ...]
) -> tuple[dict[str, Label], BadFileTally]:
    """Labels by path inside the corpus. files: path by name in lower case."""
    labels: dict[str, Label] = {}
    tally = BadFileTally(0)
    for row in read_rows(path, columns):
        where = row.where
        tally.total += 1
        found = pattern.search(row[columns[0]])
        if not found:
            raise CorpusError(f"{where}: expected a name like {pattern.pattern}, found {row[columns[0]]!r}")
        emotion = emotion_of(row[columns[1]])
        if emotion not in EMOTIONS:
            raise CorpusError(f"{where}: expected one of {', '.join(EMOTIONS)}, found {row[columns[1]]!r}")
        source = files.get(found[0].lower())
        if source is None:
            tally.skip(path.parent / found[0], f"{where}: no such file")
        elif source in labels and labels[source].emotion != emotion:
            raise CorpusError(f"{where}: {found[0]} is {emotion} here and {labels[source].emotion} in an earlier line")
        elif emotion in emotions:
            labels[source] = Label(found["video"].upper(), emotion, plain(Path(source).stem))
    return labels, tally
