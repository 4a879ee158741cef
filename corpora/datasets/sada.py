"""SADA: 668 hours of Saudi television in Saudi and other dialects.

    <corpus>/{train,valid,test}.csv and the recordings, at the path of the column FileName

    or Parquet, [data/]{train,validation,test}-*.parquet (audio, ProcessedText, ...), cut into segments

Names of lists and columns are known from one third-party script, so they are options. Unintelligible speech is tagged
"غير واضح", in most lines without the space. A tagged line cannot be scored (142 of the 6,189 of test) and is excluded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corpora.prepare import hub
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
PARQUET_FIELDS = {
    "text": ("ProcessedText", "cleaned_text", "text"),
    "speaker": ("Speaker", "speaker"),
    "show": ("FileName", "show_name"),
    "dialect": ("SpeakerDialect", "speaker_dialect", "dialect"),
}


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
    parquet: tuple[str, ...] = (),
) -> None:
    """Write each of `<out_dir>/{train,dev,test}` that the corpus has lists for.

    lists: names of the training, dev and test list.  unclear: the tag of unintelligible speech, with or without spaces.
    parquet: `field=column` for a copy in Parquet whose columns have other names.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    shards = hub.shards(corpus_dir)
    if shards:
        fields = PARQUET_FIELDS | {
            "text": (text_column, *PARQUET_FIELDS["text"]), "dialect": (dialect_column, *PARQUET_FIELDS["dialect"]),
        }  # fmt: skip
        rows = hub.Hub(INFO, corpus_dir, out_dir, shards, fields, chosen=parquet)
        work = Preparation(INFO, rows.clips_dir, out_dir, jobs=jobs, text_profile=text_profile)
        rows.add_to(work, lambda clip: _clip(work, clip, unclear))
        work.write()
        return
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


def _clip(work: Preparation, clip: hub.Clip, unclear: str) -> Item | None:
    """One clip of a copy in Parquet; the clip is its own speaker if the copy does not name one."""
    names = [safe_id(clip[field]) for field in ("show", "speaker") if clip[field]]
    speaker = "_".join(["sada", *names]) if clip["speaker"] else f"sada_{clip.name}"
    utt_id = f"{speaker}-{clip.name}"
    if unclear and _joined(unclear) in _joined(clip["text"]):
        work.exclude(clip.split, utt_id, clip.where, f"cannot be scored: {unclear}")
        return None
    dialect = "_".join(clip["dialect"].split()) or "unknown"
    return Item(utt_id, speaker, clip.source, clip.where, clip["text"], dialect=dialect)


def _joined(text: str) -> str:
    return "".join(text.split())
