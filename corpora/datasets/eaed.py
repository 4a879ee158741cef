"""EAED: Egyptian Arabic from five television series, 79 actors, six emotions, 44.1 kHz.

    <corpus>/<series>/<actor>/<Actor>_<emotion>_ NN.wav      the space is the publisher's

An actor who plays in two series is one speaker: the speaker is read from the file name, not from the folder. No split
is published: the folds are seeded and speaker-disjoint.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from corpora.datasets._emotion import FOLDS, plain, read_labels, write_corpus
from corpora.datasets._options import compile_pattern
from corpora.registry import CorpusInfo

INFO = CorpusInfo(
    name="eaed",
    title="Egyptian Arabic Emotional Dataset: five television series, 79 actors",
    tasks=("ser",),
    hours=None,
    licence="as its data port states",
    access="form",
    by_hand="Egyptian-Arabic emotional speech on IEEE DataPort (Safwat et al., 2024): 27 parts, unpack the first",
    layout="<series>/<actor>/<Actor>_<emotion>_ NN.wav",
    recordings=3614,
)
EMOTIONS = ("angry", "fearful", "happy", "neutral", "sad", "surprised")
FILE = r"(?P<speaker>[^_]+)_(?P<emotion>[a-z]+)_ *\(?\d+\)?\.wav"


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    seed: int = 0,
    jobs: int = 1,
    folds: int = FOLDS,
    files: str = "**/*.wav",
    file: str = FILE,
    emotions: tuple[str, ...] = EMOTIONS,
) -> None:
    """Write `<out_dir>/fold<k>/{train,dev,test}` for k = 1..folds; each actor is tested in exactly one fold.

    files: glob of the recordings.  file: regular expression of a file's name in either case, with the groups `speaker`
    and `emotion`.  emotions: the labels to use.
    Raises CorpusError for a folder of another layout or with too few actors, TooManyBadFiles past the limit.
    """
    pattern = compile_pattern("file", file, "speaker", "emotion", flags=re.IGNORECASE)
    found, tally = read_labels(INFO, corpus_dir, files, pattern, emotions)
    labels = {}
    for source, label in found.items():
        series = plain(source.split("/")[0]) if "/" in source else ""  # numbers begin again in every series
        labels[source] = replace(label, speaker=label.speaker.lower(), rest=f"{series}-{label.rest}".strip("-"))
    write_corpus(INFO, corpus_dir, out_dir, labels, tally, folds=folds, seed=seed, jobs=jobs)
