"""Free Spoken Digits: English digits at 8 kHz (CC BY-SA 4.0).

<corpus>/recordings/<digit>_<speaker>_<index>.wav      test = index 0-4, training = the rest
"""

from __future__ import annotations

import re
from pathlib import Path

from corpora.datadir import Utterance, write_datadir
from corpora.fetch import GITHUB, fetch_repository, make_once
from corpora.files import BadFileTally
from corpora.prepare.preparation import compare_count
from corpora.prepare.sources import Listing, Provenance, list_audio, read_recordings, write_sources
from corpora.prepare.word_strings import Word
from corpora.registry import CorpusInfo

INFO = CorpusInfo(
    name="free_spoken_digits",
    title="Free Spoken Digits: English digits at 8 kHz",
    tasks=("asr", "ssl"),
    hours=None,
    licence="CC BY-SA 4.0",
    access="open",
    by_hand="",
    layout="recordings/<digit>_<speaker>_<index>.wav",
    languages=("en",),
    recordings=3000,
)
REPOSITORY = "Jakobovski/free-spoken-digit-dataset/archive/HEAD.tar.gz"
TEST_INDICES = range(5)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_FILE = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)\.wav", re.IGNORECASE)


def read_words(corpus_dir: Path, audio_dir: Path, *, jobs: int = 1) -> tuple[dict[str, list[Word]], BadFileTally]:
    """The digits of the "train" (index 5 and up) and "test" (0-4) part, and the tally of those that are left out.

    Converted to 16 kHz into `audio_dir`. A training recording with the audio of a test recording is left out.
    Raises CorpusError for a folder of another layout, TooManyBadFiles past the limit of bad files.
    """
    words: dict[str, list[Word]] = {"train": [], "test": []}
    listing = check_layout(corpus_dir)
    tally = listing.tally(corpus_dir, INFO.layout)
    recordings = read_recordings(corpus_dir, listing.named, audio_dir, tally=tally, jobs=jobs, label=INFO.name)
    tally.check()
    for source, recording in recordings.items():
        parts = _FILE.fullmatch(Path(source).name)
        split = "test" if int(parts["index"]) in TEST_INDICES else "train"
        speaker = "fsdd_" + re.sub(r"[^0-9A-Za-z]", "_", parts["speaker"])
        words[split].append(Word(recording, speaker, DIGITS[int(parts["digit"])]))
    tested = {word.recording.sha256 for word in words["test"]}
    words["train"] = [word for word in words["train"] if word.recording.sha256 not in tested]
    return words, tally


def prepare(corpus_dir: Path, out_dir: Path, *, seed: int = 0, jobs: int = 1) -> None:
    """Write `<out_dir>/{train,test}`, one utterance a digit; the split is the publisher's, `seed` changes nothing.

    Raises CorpusError for a folder of another layout, TooManyBadFiles past the limit of bad recordings.
    """
    words, tally = read_words(corpus_dir, out_dir / "audio" / INFO.name, jobs=jobs)
    compare_count(INFO.name, "recordings", sum(map(len, words.values())), INFO.recordings)
    for split, own in words.items():
        named = [(f"{word.speaker}-{Path(word.recording.source).stem}", word) for word in own]
        write_datadir(
            out_dir / split,
            [
                Utterance(
                    utt_id=utt_id,
                    speaker=word.speaker,
                    audio=word.recording.path,
                    samples=word.recording.samples,
                    text=word.text,
                    language="en",
                )
                for utt_id, word in named
            ],
        )
        write_sources(
            out_dir / split,
            [Provenance(utt_id, INFO.name, word.recording.source, word.recording.sha256) for utt_id, word in named],
        )
    tally.write(out_dir / "skipped.tsv")


def download(root: Path, *, host: str = GITHUB) -> Path:
    """Fetch the corpus into `<root>/free_spoken_digits`."""
    return make_once(
        root / INFO.name, lambda folder: fetch_repository(f"{host}/{REPOSITORY}", folder, root), check_layout
    )


def check_layout(corpus_dir: Path) -> Listing:
    """The recordings of a corpus folder; raises CorpusError unless it is laid out as published."""
    return list_audio(corpus_dir, "recordings/*.wav", _FILE, info=INFO)
