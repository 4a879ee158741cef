"""BAVED: seven Arabic words, each spoken at three levels of emotion.

    <corpus>/<word 0-6>/<speaker>-<m|f>-<age>-<word>-<emotion 0-2>-<record>.wav

Where folder and file name disagree, the file name is used. No split is published: the folds are seeded and
speaker-disjoint. Two speaker numbers that share a recording are one speaker, and equal recordings are used once.
"""

from __future__ import annotations

import re
from pathlib import Path

from corpora.datasets._emotion import FOLDS, EmotionClip, Label, distinct_clips, read_labels, write_corpus
from corpora.fetch import GITHUB, fetch_repository, make_once
from corpora.files import BadFileTally
from corpora.prepare.sources import Listing, list_audio
from corpora.registry import CorpusInfo

INFO = CorpusInfo(
    name="baved",
    title="Basic Arabic Vocal Emotions Dataset: seven words at three levels of emotion",
    tasks=("ser",),
    hours=None,
    licence="none stated by the publisher: do not redistribute",
    access="open",
    by_hand="",
    layout="<word 0-6>/<speaker>-<m or f>-<age>-<word>-<emotion 0-2>-<record>.wav",
    recordings=1935,
)
EMOTIONS = ("low", "neutral", "high")
REPOSITORY = "40uf411/Basic-Arabic-Vocal-Emotions-Dataset/archive/HEAD.tar.gz"

_FILES = "[0-9]/*.wav"
_NAME = re.compile(
    r"(?P<speaker>\d+)-(?P<gender>[mf])-(?P<age>\d+)-(?P<word>\d)-(?P<emotion>[0-2])-(?P<record>\d+)\.wav",
    re.IGNORECASE,
)


def prepare(corpus_dir: Path, out_dir: Path, *, seed: int = 0, jobs: int = 1, folds: int = FOLDS) -> None:
    """Write `<out_dir>/fold<k>/{train,dev,test}` for k = 1..folds; each speaker is tested in exactly one fold.

    Raises CorpusError for a folder of another layout or with too few speakers, TooManyBadFiles past the limit.
    """
    labels, tally = _labels(corpus_dir)
    write_corpus(INFO, corpus_dir, out_dir, labels, tally, folds=folds, seed=seed, jobs=jobs)


def read_clips(corpus_dir: Path, audio_dir: Path, *, jobs: int = 1) -> tuple[list[EmotionClip], BadFileTally]:
    """All distinct recordings with the labels of their file names, and the tally of the files that were left out.

    Raises CorpusError for a folder of another layout, TooManyBadFiles past the limit of bad files.
    """
    labels, tally = _labels(corpus_dir)
    return distinct_clips(INFO, corpus_dir, labels, audio_dir, tally=tally, jobs=jobs), tally


def download(root: Path, *, host: str = GITHUB) -> Path:
    """Fetch the corpus into `<root>/baved`. Its publisher states no licence: do not redistribute it."""
    return make_once(
        root / INFO.name, lambda folder: fetch_repository(f"{host}/{REPOSITORY}", folder, root), check_layout
    )


def check_layout(corpus_dir: Path) -> Listing:
    """The recordings of a corpus folder; raises CorpusError for a folder of another layout."""
    return list_audio(corpus_dir, _FILES, _NAME, info=INFO)


def _labels(corpus_dir: Path) -> tuple[dict[str, Label], BadFileTally]:
    return read_labels(INFO, corpus_dir, _FILES, _NAME, EMOTIONS, _label)


def _label(source: str, parts: re.Match[str]) -> Label:
    speaker, word, emotion, record = (int(parts[name]) for name in ("speaker", "word", "emotion", "record"))
    return Label(f"baved{speaker:03d}", EMOTIONS[emotion], f"{speaker:03d}-w{word}-e{emotion}-r{record:04d}")
