"""EYASE: Egyptian Arabic from a television series, three actors and three actresses, four emotions.

    <corpus>/**/*.wav      speaker and emotion in the name

461 to 579 utterances are reported and the layout is not confirmed: `file` is a pattern. No split is published: seeded
folds, disjoint by speaker; with six speakers, one is tested in each fold.
"""

from __future__ import annotations

import re
from pathlib import Path

from corpora.datasets._emotion import distinct_clips, labelled_files
from corpora.datasets._folds import write_folds
from corpora.registry import CorpusInfo

INFO = CorpusInfo(
    name="eyase",
    title="Egyptian Arabic Speech Emotion: a television series, six speakers",
    tasks=("ser",),
    hours=None,
    licence="for research, on request",
    access="form",
    by_hand="ask the authors of EYASE (Abdel-Hamid, 2020)",
    layout="**/*.wav with names like <speaker>_<emotion>....wav",
)
EMOTIONS = ("angry", "happy", "neutral", "sad")
FOLDS = 6
FILE = r"(?P<speaker>[a-z]+\d+)[ _-]*(?P<emotion>[a-z]{3,})[^a-z]*\.wav"


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
    """Write `<out_dir>/fold<k>/{train,dev,test}` for k = 1..folds; each speaker is tested in exactly one fold.

    files: where the recordings are.  file: regular expression of a file's name, whatever its case, with the groups
    `speaker` and `emotion`.  emotions: those that are used.
    Raises CorpusError for a folder of another layout or with too few speakers, TooManyBadFiles past the limit.
    """
    pattern = re.compile(file, re.IGNORECASE)
    labels, tally = labelled_files(INFO, corpus_dir, files, pattern, emotions)
    clips = distinct_clips(INFO, corpus_dir, labels, out_dir / "audio" / INFO.name, tally=tally, jobs=jobs)
    write_folds(INFO.name, clips, out_dir, folds=folds, seed=seed, least=1)
    tally.write(out_dir / "skipped.tsv")
