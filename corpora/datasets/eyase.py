"""EYASE: Egyptian Arabic from a television series, three actors and three actresses, four emotions.

    <corpus>/{Female,Male}NN/<fm or mm>NN_<ang, hap, neu or sad> (<number>).wav

The folder names the speaker, since some file names in Female02 begin with fm01; in a copy without such folders the file
name does. No split is published: the folds are seeded and speaker-disjoint; with six speakers, each fold tests one.
"""

from __future__ import annotations

import re
from pathlib import Path

from corpora.datasets._emotion import Label, emotion_of, plain, read_labels, write_corpus
from corpora.datasets._options import compile_pattern
from corpora.files import CorpusError
from corpora.registry import CorpusInfo

INFO = CorpusInfo(
    name="eyase",
    title="Egyptian Arabic Speech Emotion: a television series, six speakers",
    tasks=("ser",),
    hours=None,
    licence="for research, on request",
    access="form",
    by_hand="ask the authors of EYASE (Abdel-Hamid, 2020)",
    layout="{Female,Male}{01,02,03}/<speaker>_<emotion> (<number>).wav",
    recordings=579,
)
EMOTIONS = ("angry", "happy", "neutral", "sad")
FOLDS = 6
FILE = r"(?P<speaker>[a-z]+\d+)[ _-]*(?P<emotion>[a-z]{3,})[^a-z]*\.wav"

_FOLDER = re.compile(r"(fe)?male[ _-]*\d+", re.IGNORECASE)


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

    files: glob of the recordings.  file: regular expression of a file's name in either case, with the groups `speaker`
    and `emotion`.  emotions: the labels to use.
    Raises CorpusError for a folder of another layout or with too few speakers, TooManyBadFiles past the limit.
    """
    pattern = compile_pattern("file", file, "speaker", "emotion", flags=re.IGNORECASE)
    labels, tally = read_labels(INFO, corpus_dir, files, pattern, emotions, _label)
    write_corpus(INFO, corpus_dir, out_dir, labels, tally, folds=folds, seed=seed, jobs=jobs, least=1)


def _label(source: str, parts: re.Match[str]) -> Label:
    emotion = emotion_of(parts["emotion"])
    if emotion is None:
        raise CorpusError(f"expected an emotion ({', '.join(EMOTIONS)}) in the name, found {parts['emotion']!r}")
    path = Path(source)
    folder = path.parent.name
    return Label(plain(folder if _FOLDER.fullmatch(folder) else parts["speaker"]), emotion, plain(path.stem))
