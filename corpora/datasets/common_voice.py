"""Common Voice, Arabic: sentences read aloud by volunteers (CC0).

    <corpus>/cv-corpus-*/ar/{clips/*.mp3, train.tsv, dev.tsv, test.tsv, validated.tsv, invalidated.tsv, other.tsv}

    or Parquet, [data/][ar/]{train,validation,test}-*.parquet (client_id, audio, sentence)

The lists are tab-separated without quoting: a sentence may begin with a quotation mark. A delta release is refused: it
has only the clips that are new since the previous release.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corpora.files import CorpusError
from corpora.prepare import hub
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_rows
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import LEADERBOARD

INFO = CorpusInfo(
    name="common_voice",
    title="Common Voice, Arabic",
    tasks=("asr", "ssl"),
    hours=None,
    licence="CC0",
    access="form",
    by_hand="accept the terms of Common Voice at datacollective.mozillafoundation.org, then fetch the Arabic archive "
    "(cv-corpus-<version>-ar.tar.gz)",
    layout="cv-corpus-*/ar/{clips/*.mp3,train.tsv,dev.tsv,test.tsv} (client_id, path, sentence, ...)",
    published={"test": 10471},
)
PUBLISHED_VERSION = "18.0"  # of the published counts
SPLITS = ("train", "dev", "test")
COLUMNS = ("client_id", "path", "sentence")
PARQUET_FIELDS = {"speaker": ("client_id",), "text": ("sentence", "text")}
_CLIENT_DIGITS = 16  # of 128: enough to distinguish a hundred thousand speakers


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = LEADERBOARD,
    splits: tuple[str, ...] = SPLITS,
    parquet: tuple[str, ...] = (),
) -> None:
    """Write `<out_dir>/<split>` for every list of `splits`.

    splits: also validated, other and invalidated; clips of dev and test are removed from them.
    parquet: `field=column` for a copy in Parquet whose columns have other names.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    shards = [shard for shard in hub.shards(corpus_dir, lambda folder: folder in ("", "ar")) if shard.split in splits]
    if shards:
        rows = hub.Hub(INFO, corpus_dir, out_dir, shards, PARQUET_FIELDS, required=("speaker", "text"), chosen=parquet)
        work = Preparation(INFO, rows.clips_dir, out_dir, jobs=jobs, text_profile=text_profile)
        rows.add_to(work, _clip)
        work.write({})
        return
    root = _root(corpus_dir)
    if _is_delta(root):
        raise CorpusError(
            f"{root}: a delta release, which lacks the clips of earlier releases; fetch the whole release, "
            f"cv-corpus-<version>-ar.tar.gz"
        )
    work = Preparation(INFO, root, out_dir, jobs=jobs, text_profile=text_profile)
    for split in splits:
        work.add(split, _items(work, find_path(root, f"{split}.tsv")))
    version = PUBLISHED_VERSION in root.resolve().parent.name
    work.write(INFO.published if version and "test" in splits else {})


def _root(corpus_dir: Path) -> Path:
    """The folder with the lists: the given one, its `ar`, or `ar` in the newest release below it."""
    names = [path.name for path in corpus_dir.iterdir()] if corpus_dir.is_dir() else []
    releases = [find_path(corpus_dir, f"{name}/ar") for name in names if name.lower().startswith("cv-corpus-")]
    releases = sorted(releases, key=lambda path: (not _is_delta(path), _version(path)))[::-1]
    for folder in (corpus_dir, find_path(corpus_dir, "ar"), *releases):
        if find_path(folder, "clips").is_dir():
            return folder
    raise corpus_error(corpus_dir, INFO)


def _is_delta(folder: Path) -> bool:
    """Whether the folder belongs to a delta release: cv-corpus-20.0-delta-2024-12-06/ar."""
    return "-delta-" in f"{folder.resolve().parent.name}-".lower()


def _version(folder: Path) -> tuple[int, ...]:
    """The numbers of a release, to compare releases: 9.0 is older than 18.0."""
    number = folder.parent.name.lower().removeprefix("cv-corpus-").split("-")[0]
    return tuple(int(part) for part in number.split(".") if part.isdecimal())


def _clip(clip: hub.Clip) -> Item:
    speaker = f"cv_{safe_id(clip['speaker'][:_CLIENT_DIGITS])}"
    return Item(f"{speaker}-{clip.name}", speaker, clip.source, clip.where, clip["text"])


def _items(work: Preparation, path: Path) -> Iterator[Item]:
    for row in read_rows(path, COLUMNS, delimiter="\t", quoted=False, bad=work.bad):
        clip = row["path"] if "." in row["path"] else f"{row['path']}.mp3"  # old releases leave the suffix out
        speaker = f"cv_{safe_id(row['client_id'][:_CLIENT_DIGITS])}"
        utt_id = f"{speaker}-{safe_id(Path(clip).stem)}"
        yield Item(utt_id, speaker, f"clips/{clip}", row.where, row["sentence"])
