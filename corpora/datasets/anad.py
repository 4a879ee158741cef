"""ANAD: one-second units of eight Arabic talk-show calls, three emotions.

    <corpus>/[data/]1sec_segmented_part<k>/[...]/V<video>_<turn> (<unit>).wav
    <corpus>/[data/]ANAD.csv        columns "name" (a file, with a stray character behind it) and "Emotion "

Units that lie side by side in a call sound alike, so whole videos are held out. Which emotions a video holds decides
how many folds there can be; the layout is not confirmed, so patterns and names are options.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from corpora.datasets._emotion import Label, check_groups, distinct_clips, emotion_of, find_files, plain
from corpora.datasets._folds import write_folds
from corpora.files import BadFileTally, CorpusError
from corpora.prepare.readers import read_rows
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

    file: regular expression of a unit's name, whatever its case, with the group `video`.  table: the list of labels,
    anywhere below the corpus, with the columns name_column and emotion_column.  emotions: those that are used.
    Raises CorpusError with file and line for a list of another form, and for too few videos of an emotion.
    """
    pattern = re.compile(file, re.IGNORECASE)
    check_groups(INFO, pattern, ("video",))
    lists = sorted(corpus_dir.rglob(table)) if corpus_dir.is_dir() else []
    if not lists:
        raise corpus_error(corpus_dir, INFO, f"a list of labels {table}")
    listing = find_files(INFO, corpus_dir, files, pattern)
    by_name: dict[str, str] = {}
    for source in listing.named:  # the publisher's parts hold some units twice
        by_name.setdefault(source.rsplit("/", 1)[-1].lower(), source)
    labels, tally = _read_labels(lists[0], by_name, pattern, (name_column, emotion_column), emotions)
    unlisted = len(by_name) - len({Path(source).name.lower() for source in labels})
    if unlisted:
        _log.warning("%s: %d units have no label that is used and are left out", INFO.name, unlisted)
    clips = distinct_clips(
        INFO, corpus_dir, labels, out_dir / "audio" / INFO.name, tally=tally, jobs=jobs, speaker_word="video"
    )
    write_folds(INFO.name, clips, out_dir, folds=folds, seed=seed, least=1, speaker_word="video")
    tally.write(out_dir / "skipped.tsv")


def _read_labels(
    path: Path, files: dict[str, str], pattern: re.Pattern[str], columns: tuple[str, str], emotions: tuple[str, ...]
) -> tuple[dict[str, Label], BadFileTally]:
    """Labels by path inside the corpus, of the files (by name in lower case) that the list names."""
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
            raise CorpusError(f"{where}: {found[0]} is {emotion} here and {labels[source].emotion} before")
        elif emotion in emotions:
            labels[source] = Label(found["video"].upper(), emotion, plain(Path(source).stem))
    return labels, tally
