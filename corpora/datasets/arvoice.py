"""ArVoice: Modern Standard Arabic by several speakers, for synthesis, with vowel marks (CC BY 4.0).

    <corpus>/<part>/{train,test}-*.parquet      original_wav, transcription, speaker_id; parts Human_<n>, Synthetic_<n>

The synthetic parts are the output of other synthesisers; they are left out unless an option asks for them.
"""

from __future__ import annotations

from pathlib import Path

from corpora.datasets._hub import write_clips
from corpora.prepare import hub
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item
from corpora.registry import CorpusInfo
from corpora.text import LEADERBOARD

INFO = CorpusInfo(
    name="arvoice",
    title="ArVoice: Modern Standard Arabic, several speakers, diacritised",
    tasks=("asr",),
    hours=83.5,
    licence="CC BY 4.0",
    access="form",
    by_hand="accept the terms of the data set MBZUAI/ArVoice on Hugging Face, then fetch its Parquet files",
    layout="Human_<n>/{train,test}-*.parquet (original_wav, transcription, speaker_id)",
)
FIELDS = {"text": ("transcription", "text"), "speaker": ("speaker_id", "speaker"), "id": ("id", "file")}


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = LEADERBOARD,
    synthetic: bool = False,
    parquet: tuple[str, ...] = (),
) -> None:
    """Write `<out_dir>/{train,test}`. With text_profile=none the text keeps its vowel marks.

    synthetic: use the parts of synthetic speech too.  parquet: `field=column` for a copy with other columns.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad rows or recordings.
    """
    write_clips(
        INFO, corpus_dir, out_dir, FIELDS, _item, jobs=jobs, text_profile=text_profile, chosen=parquet,
        folders=lambda name: synthetic or "synth" not in name.lower(),
    )  # fmt: skip


def _item(clip: hub.Clip) -> Item:
    part = safe_id(clip.folder) or "arvoice"
    speaker = f"arvoice_{part}_{safe_id(clip['speaker'])}" if clip["speaker"] else f"arvoice_{part}"
    return Item(f"{speaker}-{clip.split}-{clip.name}", speaker, clip.source, clip.where, clip["text"])
