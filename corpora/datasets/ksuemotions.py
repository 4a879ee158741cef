"""KSUEmotions (LDC2017S12): acted Standard Arabic, 23 speakers, about five hours.

    <corpus>/data/SPEECH/**/*.flac      the emotion is the number between the last E and the P after it in the name

Where the name says who speaks is not confirmed: `speaker` is a pattern. No split is published: seeded folds, disjoint
by speaker.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from corpora.datasets._emotion import Label, check_groups, distinct_clips, find_files, plain
from corpora.datasets._folds import FOLDS, write_folds
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
    layout="data/SPEECH/**/*.flac with names like ...E<emotion 0-5>P...",
)
EMOTIONS = ("neutral", "happy", "sad", "surprised", "questioning", "angry")  # by number
SPEAKERS = 23

_EMOTION = re.compile(r".*E(?P<emotion>\d+)P")
_log = logging.getLogger(__name__)


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    seed: int = 0,
    jobs: int = 1,
    folds: int = FOLDS,
    files: str = "**/SPEECH/**/*.flac",
    speaker: str = r"(?P<speaker>S\d+)",
    emotions: tuple[str, ...] = EMOTIONS,
) -> None:
    """Write `<out_dir>/fold<k>/{train,dev,test}` for k = 1..folds; each speaker is tested in exactly one fold.

    files: where the recordings are.  speaker: regular expression that is searched in a file's path below the corpus,
    from its end, with the group `speaker`.  emotions: those that are used.
    Raises CorpusError for a folder of another layout or where no name holds a speaker, TooManyBadFiles.
    """
    pattern = re.compile(speaker)
    check_groups(INFO, pattern, ("speaker",))
    unknown = sorted(set(emotions) - set(EMOTIONS))
    if unknown:
        raise CorpusError(f"{INFO.name}: expected emotions among {', '.join(EMOTIONS)}, found {', '.join(unknown)}")
    listing = find_files(INFO, corpus_dir, files, re.compile(r".*E\d+P.*", re.DOTALL))
    tally = listing.tally(corpus_dir, "...E<emotion>P...")
    labels = {}
    for source in listing.named:
        path = Path(source)
        number = int(_EMOTION.match(path.stem)["emotion"])
        found = pattern.search(path.stem) or pattern.search(path.parent.as_posix())
        if number >= len(EMOTIONS):
            tally.skip(corpus_dir / source, f"expected an emotion from 0 to {len(EMOTIONS) - 1}, found {number}")
        elif not found:
            tally.skip(corpus_dir / source, f"expected a speaker like {speaker} in the name; set another pattern")
        elif EMOTIONS[number] in emotions:
            labels[source] = Label(plain(found["speaker"]), EMOTIONS[number], plain(path.stem))
    if not labels:
        tally.check()
    speakers = {label.speaker for label in labels.values()}
    if len(speakers) != SPEAKERS:
        _log.warning(
            "%s: %d speakers by the pattern %s, as %s; %d are published",
            INFO.name, len(speakers), speaker, ", ".join(sorted(speakers)[:3]), SPEAKERS,
        )  # fmt: skip
    clips = distinct_clips(INFO, corpus_dir, labels, out_dir / "audio" / INFO.name, tally=tally, jobs=jobs)
    write_folds(INFO.name, clips, out_dir, folds=folds, seed=seed)
    tally.write(out_dir / "skipped.tsv")
