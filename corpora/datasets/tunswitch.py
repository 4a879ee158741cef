"""TunSwitch: Tunisian Arabic, alone (TO) and mixed with French and English (CS).

    <corpus>/[data/]{train,validation,test}_{cs,to}-*.parquet      audio, text, speaker_id

The publisher's ZIP files hold WAVs and lists whose columns are not documented; this reads the copy in Parquet.
"""

from __future__ import annotations

from pathlib import Path

from corpora.datasets._hub import write_clips
from corpora.prepare import hub
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item
from corpora.registry import CorpusInfo

INFO = CorpusInfo(
    name="tunswitch",
    title="TunSwitch: Tunisian Arabic, alone and mixed with French and English",
    tasks=("asr",),
    hours=11.5,
    licence="CC BY-NC 4.0",
    access="open",
    by_hand="fetch Batnini/tunswitch-tts from Hugging Face, a copy in Parquet of Zenodo record 8370566",
    layout="[data/]{train,validation,test}_{cs,to}-*.parquet (audio, text, speaker_id)",
    published={"train_cs": 5212, "dev_cs": 165, "test_cs": 300, "train_to": 2128, "dev_to": 67, "test_to": 344},
)
FIELDS = {"text": ("text", "wrd", "transcription"), "speaker": ("speaker_id", "spk_id"), "id": ("id",)}
KINDS = ("cs", "to")
DIALECT = "TUN"


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = "artst",
    parquet: tuple[str, ...] = (),
) -> None:
    """Write each of `<out_dir>/{train,dev,test}_{cs,to}` that the corpus has.

    `test_wavs`, which holds both tests again, is not read.  parquet: `field=column` for a copy with other columns.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad rows or recordings.
    """
    write_clips(
        INFO, corpus_dir, out_dir, FIELDS, _item, jobs=jobs, text_profile=text_profile, chosen=parquet,
        folders=lambda name: name.split("/")[-1].lower() in KINDS,
        set_of=lambda clip: f"{clip.split}_{clip.folder.split('/')[-1].lower()}",
    )  # fmt: skip


def _item(clip: hub.Clip) -> Item:
    kind = clip.folder.split("/")[-1].lower()
    own = f"tunswitch_{kind}_{clip.split}_{clip.name}"
    speaker = f"tunswitch_{safe_id(clip['speaker'])}" if clip["speaker"] else own
    return Item(own if not clip["speaker"] else f"{speaker}-{own}", speaker, clip.source, clip.where, clip["text"],
                dialect=DIALECT)  # fmt: skip
