"""Mixat: podcasts in Emirati Arabic and English, mixed within sentences (CC BY-NC-SA 4.0).

    <corpus>/[data/]{train,test}-*.parquet      audio, transcript, transliteration, translation, language, duration_ms

The text is `transcript`, with English words in Latin letters. The speakers are unknown: every clip is its own speaker.
"""

from __future__ import annotations

from pathlib import Path

from corpora.datasets._hub import write_clips
from corpora.prepare import hub
from corpora.prepare.preparation import Item
from corpora.registry import CorpusInfo

INFO = CorpusInfo(
    name="mixat",
    title="Mixat: Emirati Arabic mixed with English, podcasts",
    tasks=("asr",),
    hours=15,
    licence="CC BY-NC-SA 4.0",
    access="open",
    by_hand="fetch the data set sqrk/mixat-tri from Hugging Face",
    layout="[data/]{train,test}-*.parquet (audio, transcript, language)",
)
FIELDS = {"text": ("transcript", "text"), "id": ("id",)}
DIALECT = "UAE"


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = "artst",
    parquet: tuple[str, ...] = (),
) -> None:
    """Write each of `<out_dir>/{train,dev,test}` that the corpus has.

    parquet: `field=column` for a copy whose columns have other names.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad rows or recordings.
    """
    write_clips(INFO, corpus_dir, out_dir, FIELDS, _item, jobs=jobs, text_profile=text_profile, chosen=parquet)


def _item(clip: hub.Clip) -> Item:
    utt_id = f"mixat_{clip.split}_{clip.name}"
    return Item(utt_id, utt_id, clip.source, clip.where, clip["text"], dialect=DIALECT)
