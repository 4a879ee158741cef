"""KSUEmotions (LDC2017S12): acted Standard Arabic, 23 speakers, about five hours.

    <corpus>/data/SPEECH/**/D05E<emotion>P<speaker>S<sentence>T<trial>.flac      for instance D05E03P104S01T01.flac

P is the speaker; S is the sentence, which all speakers say. No split is published: the folds are seeded and
speaker-disjoint.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from corpora.datasets._emotion import FOLDS, Label, plain, read_labels, write_corpus
from corpora.datasets._options import compile_pattern
from corpora.files import CorpusError
from corpora.registry import CorpusInfo

INFO = CorpusInfo(
    name="ksuemotions",
    title="King Saud University Emotions: acted emotions in Standard Arabic",
    tasks=("ser",),
    hours=5,
    licence="LDC",
    access="paid",
    by_hand="order LDC2017S12 from the Linguistic Data Consortium",
    layout="data/SPEECH/**/*.flac with names like D05E<emotion 0-5>P<speaker>S<sentence>T<trial>.flac",
)
EMOTIONS = ("neutral", "happy", "sad", "surprised", "questioning", "angry")  # by number
SPEAKERS = 23
SPEAKER = r"E\d+P(?P<speaker>\d+)"

_FILE = re.compile(r".*E(?P<emotion>\d+)P.*", re.DOTALL)
_log = logging.getLogger(__name__)


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    seed: int = 0,
    jobs: int = 1,
    folds: int = FOLDS,
    files: str = "**/SPEECH/**/*.flac",
    speaker: str = SPEAKER,
    emotions: tuple[str, ...] = EMOTIONS,
) -> None:
    """Write `<out_dir>/fold<k>/{train,dev,test}` for k = 1..folds; each speaker is tested in exactly one fold.

    files: glob of the recordings.  speaker: regular expression with the group `speaker`, searched in the file's name,
    then in its folders.  emotions: the labels to use.
    Raises CorpusError for a folder of another layout, TooManyBadFiles past the limit, as where names hold no speaker.
    """
    pattern = compile_pattern("speaker", speaker, "speaker")
    unknown = sorted(set(emotions) - set(EMOTIONS))
    if unknown:
        raise CorpusError(f"{INFO.name}: expected emotions among {', '.join(EMOTIONS)}, found {', '.join(unknown)}")

    def label(source: str, parts: re.Match[str]) -> Label:
        path, number = Path(source), int(parts["emotion"])
        found = pattern.search(path.stem) or pattern.search(path.parent.as_posix())
        if number >= len(EMOTIONS):
            raise CorpusError(f"expected an emotion from 0 to {len(EMOTIONS) - 1}, found {number}")
        if not found:
            raise CorpusError(f"expected a speaker like {speaker} in the name; set another pattern")
        name = plain(found["speaker"])
        return Label(f"P{name}" if name.isdecimal() else name, EMOTIONS[number], plain(path.stem))

    labels, tally = read_labels(INFO, corpus_dir, files, _FILE, emotions, label)
    speakers = {own.speaker for own in labels.values()}
    if len(speakers) != SPEAKERS:
        _log.warning(
            "%s: %d speakers by the pattern %s, as %s; %d are published",
            INFO.name, len(speakers), speaker, ", ".join(sorted(speakers)[:3]), SPEAKERS,
        )  # fmt: skip
    write_corpus(INFO, corpus_dir, out_dir, labels, tally, folds=folds, seed=seed, jobs=jobs)
