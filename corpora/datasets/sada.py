"""SADA: 668 hours of Saudi television in Saudi and other dialects.

    <corpus>/{train,valid,test}.csv and the recordings, at the path of the column FileName

Names of lists and columns are known from one third-party script, so they are options. Unintelligible speech is tagged
"غير واضح", in most lines without the space. A tagged line cannot be scored (142 of the 6,189 of test) and is excluded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_rows, seconds
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import LEADERBOARD

INFO = CorpusInfo(
    name="sada",
    title="SADA: Saudi Audio Dataset for Arabic",
    tasks=("asr", "ssl"),
    hours=668,
    licence="CC BY-NC-SA 4.0",
    access="open",
    by_hand="fetch the data set sdaiancai/sada2022 from Kaggle",
    layout="{train,valid,test}.csv (FileName, SegmentID, SegmentStart, SegmentEnd, ProcessedText, ...) and audio",
    published={"test": 6189 - 142},
)
SPLITS = ("train", "valid", "test")
UNCLEAR = "غير واضح"


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = LEADERBOARD,
    lists: tuple[str, ...] = SPLITS,
    text_column: str = "ProcessedText",
    dialect_column: str = "SpeakerDialect",
    unclear: str = UNCLEAR,
) -> None:
    """Write each of `<out_dir>/{train,dev,test}` that the corpus has lists for.

    lists: names of the training, dev and test list.  unclear: the tag of unintelligible speech, with or without spaces.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    files = dict(zip(("train", "dev", "test"), (find_path(corpus_dir, f"{name}.csv") for name in lists), strict=True))
    files = {split: path for split, path in files.items() if path.is_file()}
    if not files:
        raise corpus_error(corpus_dir, INFO)
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs, text_profile=text_profile)
    for split, path in files.items():
        work.add(split, _items(work, split, path, text_column, dialect_column, unclear))
    work.write()


def _items(
    work: Preparation, split: str, path: Path, text_column: str, dialect_column: str, unclear: str
) -> Iterator[Item]:
    columns = ("FileName", "SegmentID", "SegmentStart", "SegmentEnd", text_column, "Speaker", dialect_column)
    for row in read_rows(path, columns, bad=work.bad):
        start = seconds(row.where, row["SegmentStart"], work.bad)
        end = seconds(row.where, row["SegmentEnd"], work.bad)
        if start is None or end is None:
            continue
        # Numbers of speakers begin again in every programme.
        speaker = f"sada_{safe_id(row['FileName'])}_{safe_id(row['Speaker'] or 'unknown')}"
        utt_id = f"{speaker}-{safe_id(row['SegmentID'])}"
        if unclear and _joined(unclear) in _joined(row[text_column]):
            work.exclude(split, utt_id, row.where, f"cannot be scored: {unclear}")
            continue
        dialect = "_".join(row[dialect_column].split()) or "unknown"
        yield Item(utt_id, speaker, row["FileName"], row.where, row[text_column], start, end, dialect=dialect)


def _joined(text: str) -> str:
    return "".join(text.split())
