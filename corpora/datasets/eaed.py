"""EAED: Egyptian Arabic from five television series, 79 actors, six emotions, 44.1 kHz.

    <corpus>/<series>/<actor>/<Actor>_<emotion>_ NN.wav      the space is the publisher's

An actor who plays in two series is one speaker: the name in the file counts, not the folder. No split is published:
seeded folds, disjoint by speaker.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from corpora.datasets._emotion import distinct_clips, labelled_files, plain
from corpora.datasets._folds import FOLDS, write_folds
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

    files: where the recordings are.  file: regular expression of a file's name, whatever its case, with the groups
    `speaker` and `emotion`.  emotions: those that are used.
    Raises CorpusError for a folder of another layout or with too few actors, TooManyBadFiles past the limit.
    """
    pattern = re.compile(file, re.IGNORECASE)
    found, tally = labelled_files(INFO, corpus_dir, files, pattern, emotions)
    labels = {}
    for source, label in found.items():
        series = plain(source.split("/")[0]) if "/" in source else ""
        # numbers start again in every series
        labels[source] = replace(label, speaker=label.speaker.lower(), rest=f"{series}-{label.rest}".strip("-"))
    clips = distinct_clips(INFO, corpus_dir, labels, out_dir / "audio" / INFO.name, tally=tally, jobs=jobs)
    write_folds(INFO.name, clips, out_dir, folds=folds, seed=seed)
    tally.write(out_dir / "skipped.tsv")
