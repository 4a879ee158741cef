"""MADIS 5: spoken dialects of five regions, collected from radio, television, podcasts and films, for evaluation.

    <corpus>/[data/]test-*.parquet      audio, dialect ("Egyptian Arabic", ...), segment_id

The labels are those of ADI-5. There is no training part: everything is `test`. The programme of a clip is unknown.
"""

from __future__ import annotations

from pathlib import Path

from corpora.datasets._dialect import check_dialect, write_splits
from corpora.files import CorpusError
from corpora.prepare import hub
from corpora.prepare.preparation import Item, Preparation
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="madis5",
    title="MADIS 5: spoken dialects of five regions, for evaluation",
    tasks=("did",),
    hours=None,
    licence="CC BY-NC-ND 4.0",
    access="open",
    by_hand="fetch the data set badrex/MADIS5-spoken-arabic-dialects from Hugging Face",
    layout="[data/]test-*.parquet (audio, dialect)",
)
# The publisher's words, and the labels of ADI-5.
DIALECTS = {
    "egyptian": "EGY", "gulf": "GLF", "levantine": "LAV", "maghrebi": "NOR", "modern standard": "MSA", "msa": "MSA",
}  # fmt: skip
FIELDS = {"id": ("segment_id", "id"), "dialect": ("dialect", "label")}


def prepare(
    corpus_dir: Path, out_dir: Path, *, jobs: int = 1, shared: str = "drop", parquet: tuple[str, ...] = ()
) -> None:
    """Write `<out_dir>/test` with `utt2dialect`.

    parquet: `field=column` for a copy whose columns have other names.  shared: as in the other dialect corpora.
    Raises CorpusError for another layout or an unknown dialect, with file and row; TooManyBadFiles.
    """
    shards = hub.shards(corpus_dir)
    if not shards:
        raise corpus_error(corpus_dir, INFO)
    rows = hub.Hub(INFO, corpus_dir, out_dir, shards, FIELDS, required=("dialect",), chosen=parquet)
    work = Preparation(INFO, rows.clips_dir, out_dir, jobs=jobs)
    items: dict[str, list[Item]] = {}
    for split in rows.splits():
        items[split] = [_item(clip) for clip in rows.clips(split, work.bad)]
    write_splits(work, items, shared=shared)


def _item(clip: hub.Clip) -> Item:
    word = clip["dialect"].lower().removesuffix(" arabic").strip()
    label = DIALECTS.get(word, clip["dialect"].upper())
    if label not in DIALECTS.values():
        raise CorpusError(f"{clip.where}: expected one of {', '.join(DIALECTS)}, found the dialect {clip['dialect']!r}")
    check_dialect(clip.where, label, tuple(DIALECTS.values()))
    utt_id = f"madis5_{clip.name}"
    return Item(utt_id, utt_id, clip.source, clip.where, dialect=label)
