"""ClArTTS: an audiobook in Classical Arabic by one speaker, for synthesis, with vowel marks (CC BY 4.0).

<corpus>/[data/]{train,test}-*.parquet      text, file, audio (samples), sampling_rate (40.1 kHz), duration
"""

from __future__ import annotations

from pathlib import Path

from corpora.datasets._hub import write_clips
from corpora.prepare import hub
from corpora.prepare.preparation import Item
from corpora.registry import CorpusInfo
from corpora.text import LEADERBOARD

INFO = CorpusInfo(
    name="clartts",
    title="ClArTTS: Classical Arabic, one speaker, diacritised",
    tasks=("asr",),
    hours=12,
    licence="CC BY 4.0",
    access="open",
    by_hand="fetch the data set MBZUAI/ClArTTS from Hugging Face",
    layout="[data/]{train,test}-*.parquet (text, file, audio, sampling_rate)",
    published={"train": 9500, "test": 205},
)
SPEAKER = "clartts"
FIELDS = {"text": ("text",), "id": ("file",)}


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = LEADERBOARD,
    parquet: tuple[str, ...] = (),
) -> None:
    """Write `<out_dir>/{train,test}`. With text_profile=none the text keeps its vowel marks.

    parquet: `field=column` for a copy whose columns have other names.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad rows or recordings.
    """
    write_clips(INFO, corpus_dir, out_dir, FIELDS, _item, jobs=jobs, text_profile=text_profile, chosen=parquet)


def _item(clip: hub.Clip) -> Item:
    return Item(f"{SPEAKER}-{clip.split}-{clip.name}", SPEAKER, clip.source, clip.where, clip["text"])
