"""BAVED: seven Arabic words, each spoken at three levels of emotion.

    <corpus>/<word 0-6>/<speaker>-<m|f>-<age>-<word>-<emotion 0-2>-<record>.wav

The file name is right where the folder disagrees with it. The publisher gives no split: `prepare` makes seeded folds,
disjoint by speaker. Two speaker numbers that share a recording are one person, and a recording that is there twice is
used once.
"""

from __future__ import annotations

import re
from pathlib import Path

from corpora.datasets._emotion import Clip, Label, distinct_clips
from corpora.datasets._folds import FOLDS, write_folds
from corpora.fetch import GITHUB, fetch_repository, make_once
from corpora.files import BadFileTally
from corpora.prepare.sources import Listing, list_audio
from corpora.registry import CorpusInfo

INFO = CorpusInfo(
    name="baved",
    title="Basic Arabic Vocal Emotions Dataset: seven words at three levels of emotion",
    tasks=("ser",),
    hours=None,
    licence="none stated by the publisher: use it, do not pass it on",
    access="open",
    by_hand="",
    layout="<word 0-6>/<speaker>-<m or f>-<age>-<word>-<emotion 0-2>-<record>.wav",
    recordings=1935,
)
EMOTIONS = ("low", "neutral", "high")
REPOSITORY = "40uf411/Basic-Arabic-Vocal-Emotions-Dataset/archive/HEAD.tar.gz"

_FILE = re.compile(
    r"(?P<speaker>\d+)-(?P<gender>[mf])-(?P<age>\d+)-(?P<word>\d)-(?P<emotion>[0-2])-(?P<record>\d+)\.wav",
    re.IGNORECASE,
)


def read_clips(corpus_dir: Path, audio_dir: Path, *, jobs: int = 1) -> tuple[list[Clip], BadFileTally]:
    """All distinct recordings, labelled from their file names, and the tally of those that are left out.

    Raises CorpusError for a folder of another layout, TooManyBadFiles past the limit of bad files.
    """
    listing = check_layout(corpus_dir)
    tally = listing.tally(corpus_dir, INFO.layout)
    labels = {source: _label(source) for source in listing.named}
    return distinct_clips(INFO, corpus_dir, labels, audio_dir, tally=tally, jobs=jobs), tally


def prepare(corpus_dir: Path, out_dir: Path, *, seed: int = 0, jobs: int = 1, folds: int = FOLDS) -> None:
    """Write `<out_dir>/fold<k>/{train,dev,test}` for k = 1..folds; each speaker is tested in exactly one fold.

    Raises CorpusError for a folder of another layout or with too few speakers, TooManyBadFiles past the limit.
    """
    clips, tally = read_clips(corpus_dir, out_dir / "audio" / INFO.name, jobs=jobs)
    write_folds(INFO.name, clips, out_dir, folds=folds, seed=seed)
    tally.write(out_dir / "skipped.tsv")


def download(root: Path, *, host: str = GITHUB) -> Path:
    """Fetch the corpus into `<root>/baved`. Its publisher states no licence: use it, do not pass it on."""
    return make_once(
        root / INFO.name, lambda folder: fetch_repository(f"{host}/{REPOSITORY}", folder, root), check_layout
    )


def check_layout(corpus_dir: Path) -> Listing:
    """The recordings of a corpus folder; raises CorpusError unless it is laid out as published."""
    return list_audio(corpus_dir, "[0-9]/*.wav", _FILE, info=INFO)


def _label(source: str) -> Label:
    """What a file's name says."""
    found = _FILE.fullmatch(Path(source).name)
    speaker, word, emotion, record = (int(found[name]) for name in ("speaker", "word", "emotion", "record"))
    return Label(f"baved{speaker:03d}", EMOTIONS[emotion], f"{speaker:03d}-w{word}-e{emotion}-r{record:04d}")
