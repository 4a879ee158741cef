"""FLEURS, ar_eg: sentences of Wikipedia read aloud by Egyptians (CC BY 4.0).

    <corpus>/ar_eg/{train,dev,test}/*.wav and metadata/ar_eg/{train,dev,test}.tsv
    or, in a snapshot of the hub,  [data/]ar_eg/audio/{train,dev,test}.tar.gz and [data/]ar_eg/{train,dev,test}.tsv
    or Parquet,                    [data/][ar_eg/]{train,validation,test}-*.parquet (id, audio, raw_transcription, ...)

A list has seven tab-separated columns without a header. The speakers are unknown: every utterance is its own speaker.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corpora.datasets._options import check_choice
from corpora.fetch import unpack_once
from corpora.prepare import hub
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_rows
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import LEADERBOARD

INFO = CorpusInfo(
    name="fleurs",
    title="FLEURS, Arabic (Egypt)",
    tasks=("asr",),
    hours=None,
    licence="CC BY 4.0",
    access="open",
    by_hand="fetch the configuration ar_eg of the data set google/fleurs from Hugging Face",
    layout="ar_eg/{train,dev,test}/*.wav and metadata/ar_eg/{train,dev,test}.tsv (7 columns, no header)",
    published={"train": 2104, "dev": 295, "test": 428},
)
SPLITS = ("train", "dev", "test")
PARQUET_TEXT = {"raw": ("raw_transcription", "transcription"), "normalised": ("transcription",)}
COLUMNS = ("id", "filename", "raw", "normalised", "chars", "nsamples", "gender")


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = LEADERBOARD,
    text_column: str = "raw",
    language: str = "ar_eg",
    parquet: tuple[str, ...] = (),
) -> None:
    """Write each of `<out_dir>/{train,dev,test}` that the corpus has.

    Archives are unpacked into `<out_dir>/unpacked`.  text_column: raw or normalised.  language: the configuration.
    parquet: `field=column` for a copy in Parquet whose columns have other names.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    check_choice("text_column", text_column, ("raw", "normalised"))
    shards = hub.shards(corpus_dir, lambda folder: folder in ("", language))
    if shards:
        fields = {"id": ("id",), "text": PARQUET_TEXT[text_column]}
        rows = hub.Hub(INFO, corpus_dir, out_dir, shards, fields, required=("id", "text"), chosen=parquet)
        work = Preparation(INFO, rows.clips_dir, out_dir, jobs=jobs, text_profile=text_profile)
        rows.add_to(work, lambda clip: _clip(clip, language))
        work.write(INFO.published if language == "ar_eg" else {})
        return
    if find_path(corpus_dir, f"data/{language}").is_dir():  # the root of a snapshot of the hub
        corpus_dir = find_path(corpus_dir, "data")
    lists = {split: own for split in SPLITS if (own := _list(corpus_dir, language, split))}
    if not lists:
        raise corpus_error(corpus_dir, INFO)
    root, folders = _audio(corpus_dir, out_dir, language, list(lists))
    work = Preparation(INFO, root, out_dir, jobs=jobs, text_profile=text_profile)
    for split, path in lists.items():
        work.add(split, _items(work, path, folders[split], text_column, language))
    work.write(INFO.published if language == "ar_eg" else {})


def _list(corpus_dir: Path, language: str, split: str) -> Path | None:
    names = (f"metadata/{language}/{split}.tsv", f"{language}/{split}.tsv", f"{split}.tsv")
    return next((path for name in names if (path := find_path(corpus_dir, name)).is_file()), None)


def _audio(corpus_dir: Path, out_dir: Path, language: str, splits: list[str]) -> tuple[Path, dict[str, str]]:
    """The folder that holds all recordings, and each split's folder inside it."""
    for parent in (f"{language}/", f"{language}/audio/", "audio/", ""):
        folders = {split: find_path(corpus_dir, f"{parent}{split}") for split in splits}
        if all(folder.is_dir() for folder in folders.values()):
            return corpus_dir, {split: own.relative_to(corpus_dir).as_posix() for split, own in folders.items()}
    for parent in (f"{language}/audio", "audio"):
        archives = [find_path(corpus_dir, f"{parent}/{split}.tar.gz") for split in splits]
        if all(archive.is_file() for archive in archives):
            for split, archive in zip(splits, archives, strict=True):
                unpack_once(archive, out_dir / "unpacked" / split, strip=1)
            return out_dir / "unpacked", {split: split for split in splits}
    expected = f"the recordings of {', '.join(splits)} in {language}/<split>/ or {language}/audio/<split>.tar.gz"
    raise corpus_error(corpus_dir, INFO, expected)


def _clip(clip: hub.Clip, language: str) -> Item:
    utt_id = f"fleurs-{clip['id']}-{clip.name}"
    return Item(utt_id, utt_id, clip.source, clip.where, clip["text"], language=language.split("_")[0])


def _items(work: Preparation, path: Path, folder: str, text_column: str, language: str) -> Iterator[Item]:
    for row in read_rows(path, COLUMNS, delimiter="\t", quoted=False, header=None, bad=work.bad):
        utt_id = f"fleurs-{row['id']}-{safe_id(Path(row['filename']).stem)}"
        source = f"{folder}/{row['filename']}"
        yield Item(utt_id, utt_id, source, row.where, row[text_column], language=language.split("_")[0])
