"""BAVED: seven Arabic words, each spoken at three levels of emotion.

    <corpus>/<word 0-6>/<speaker>-<m|f>-<age>-<word>-<emotion 0-2>-<record>.wav

The file name is right where the folder disagrees with it. The publisher gives no split: `prepare` makes seeded folds,
disjoint by speaker. Two speaker numbers that share a recording are one person, and a recording that is there twice is
used once.
"""

from __future__ import annotations

import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpora.datadir import Utterance, write_datadir
from corpora.files import BadFileTally
from corpora.ingest import CorpusError, Listing, Recording, ingest, list_audio
from corpora.preparation import compare_count
from corpora.provenance import Provenance, check_isolation, write_sources
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
FOLDS = 5
DEV_SHARE = 0.12  # of the utterances outside the test fold
_DEV_TRIES = 300

_FILE = re.compile(
    r"(?P<speaker>\d+)-(?P<gender>[mf])-(?P<age>\d+)-(?P<word>\d)-(?P<emotion>[0-2])-(?P<record>\d+)\.wav",
    re.IGNORECASE,
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """One recording with its speaker (as a person) and its level of emotion."""

    utt_id: str
    speaker: str
    emotion: str
    recording: Recording

    def utterance(self) -> Utterance:
        return Utterance(
            utt_id=self.utt_id,
            speaker=self.speaker,
            audio=self.recording.path,
            samples=self.recording.samples,
            language="ar",
            emotion=self.emotion,
        )

    def provenance(self) -> Provenance:
        return Provenance(self.utt_id, INFO.name, self.recording.source, self.recording.sha256)


def read_clips(corpus_dir: Path, audio_dir: Path, *, jobs: int = 1) -> tuple[list[Clip], BadFileTally]:
    """All distinct recordings, labelled from their file names, and the tally of those that are left out.

    Raises CorpusError for a folder of another layout, TooManyBadFiles past the limit of bad files.
    """
    listing = check_layout(corpus_dir)
    tally = listing.tally(corpus_dir, INFO.layout)
    recordings = ingest(corpus_dir, listing.named, audio_dir, tally=tally, jobs=jobs, label=INFO.name)
    compare_count(INFO.name, "recordings", len(recordings), INFO.recordings)
    by_audio: dict[str, list[str]] = defaultdict(list)
    for source, recording in recordings.items():
        by_audio[recording.sha256].append(source)
    person = _persons(
        {_field(source, "speaker") for source in recordings},
        [[_field(source, "speaker") for source in copies] for copies in by_audio.values()],
    )
    clips: dict[str, Clip] = {}
    for copies in by_audio.values():
        if len({_field(source, "emotion") for source in copies}) > 1:
            for source in copies:
                tally.skip(corpus_dir / source, f"the same audio has several labels: {', '.join(copies)}")
            continue
        source = min(copies)
        speaker = f"baved{person[_field(source, 'speaker')]:03d}"
        number, word, emotion, record = (_field(source, name) for name in ("speaker", "word", "emotion", "record"))
        utt_id = f"{speaker}-{number:03d}-w{word}-e{emotion}-r{record:04d}"
        if utt_id in clips:
            other = clips[utt_id].recording.source
            tally.skip(corpus_dir / source, f"same speaker, word, emotion and record as {other}")
            continue
        clips[utt_id] = Clip(utt_id, speaker, EMOTIONS[emotion], recordings[source])
    repeated = len(recordings) - len(by_audio)
    if repeated:
        _log.info("%s: %d recordings are exact copies of another, used once", INFO.name, repeated)
    merged = sorted(number for number, first in person.items() if number != first)
    for number in merged:
        _log.info("%s: speakers %d and %d share recordings: taken as one person", INFO.name, person[number], number)
    tally.check()
    return [clips[utt_id] for utt_id in sorted(clips)], tally


def prepare(corpus_dir: Path, out_dir: Path, *, seed: int = 0, jobs: int = 1, folds: int = FOLDS) -> None:
    """Write `<out_dir>/fold<k>/{train,dev,test}` for k = 1..folds; each speaker is tested in exactly one fold.

    Raises CorpusError for a folder of another layout or with too few speakers, TooManyBadFiles past the limit.
    """
    clips, tally = read_clips(corpus_dir, out_dir / "audio" / INFO.name, jobs=jobs)
    write_folds(clips, out_dir, folds=folds, seed=seed)
    tally.write(out_dir / "skipped.tsv")


def write_folds(clips: Sequence[Clip], out_dir: Path, *, folds: int = FOLDS, seed: int = 0) -> None:
    """Write the data directories of every fold; train, dev and test are disjoint by speaker in each."""
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        labels[clip.speaker][clip.emotion] += 1
    tests = speaker_folds(labels, folds, seed)
    for number, test in enumerate(tests, 1):
        rest = {speaker: labels[speaker] for speaker in sorted(labels) if speaker not in test}
        dev = dev_speakers(rest, seed + number)
        folder = out_dir / f"fold{number}"
        for split, chosen in (("train", set(rest) - dev), ("dev", dev), ("test", test)):
            own = [clip for clip in clips if clip.speaker in chosen]
            write_datadir(folder / split, [clip.utterance() for clip in own])
            write_sources(folder / split, [clip.provenance() for clip in own])
        check_isolation([folder / "train"], [folder / "dev", folder / "test"])
        check_isolation([folder / "dev"], [folder / "test"])


def check_layout(corpus_dir: Path) -> Listing:
    """The recordings of a corpus folder; raises CorpusError unless it is laid out as published."""
    return list_audio(corpus_dir, "[0-9]/*.wav", _FILE, info=INFO)


def speaker_folds(labels: Mapping[str, Counter[str]], folds: int, seed: int) -> list[set[str]]:
    """Share speakers out over `folds` sets of (nearly) equal numbers of speakers, utterances and labels.

    labels: per speaker, the number of utterances of each label. Largest speaker first, into the fold where it adds
    least to the sum of squared label counts among those with room; a seeded order settles ties. One speaker with more
    than its share of the corpus makes its fold larger; the fold then gets the smallest of the others.
    """
    if len(labels) < 3 * folds:
        raise CorpusError(
            f"{INFO.name}: {len(labels)} speakers cannot make {folds} folds of disjoint train, dev and test speakers; "
            f"at least {3 * folds} are needed"
        )
    order = sorted(labels)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda speaker: -labels[speaker].total())
    room = [len(order) // folds + (place < len(order) % folds) for place in range(folds)]
    chosen: list[set[str]] = [set() for _ in range(folds)]
    counts = [Counter() for _ in range(folds)]
    for speaker in order:
        own = labels[speaker]
        growth = {
            place: sum((counts[place][label] + n) ** 2 - counts[place][label] ** 2 for label, n in own.items())
            for place in range(folds)
            if len(chosen[place]) < room[place]
        }
        best = min(growth, key=growth.__getitem__)
        chosen[best].add(speaker)
        counts[best] += own
    return chosen


def dev_speakers(labels: Mapping[str, Counter[str]], seed: int) -> set[str]:
    """Choose the dev speakers among those outside a test fold: DEV_SHARE of the utterances, every label, seeded.

    The best of many random draws by distance from the wanted size and label shares, so that one speaker who holds a
    large part of the corpus stays in training.
    """
    whole = sum(labels.values(), Counter())
    goal = {label: DEV_SHARE * count for label, count in whole.items()}
    draw = random.Random(seed)
    best, best_cost = set(), float("inf")
    for _ in range(_DEV_TRIES):
        order = draw.sample(sorted(labels), len(labels))
        chosen, count = [], Counter()
        for speaker in order[:-1]:
            if (count + labels[speaker]).total() <= 1.15 * DEV_SHARE * whole.total() or not chosen:
                chosen.append(speaker)
                count += labels[speaker]
            if count.total() >= DEV_SHARE * whole.total():
                break
        cost = sum(abs(count[label] - wanted) / wanted for label, wanted in goal.items())
        cost += sum(10 for label in goal if not count[label])
        if cost < best_cost:
            best, best_cost = set(chosen), cost
    return best


def _field(source: str, name: str) -> int:
    """A number from a source's file name."""
    return int(_FILE.fullmatch(Path(source).name)[name])


def _persons(speakers: set[int], shared: Sequence[Sequence[int]]) -> dict[int, int]:
    """The lowest speaker number of the person behind each number: numbers that share audio are one person."""
    first = {speaker: speaker for speaker in speakers}

    def find(speaker: int) -> int:
        while first[speaker] != speaker:
            speaker = first[speaker]
        return speaker

    for group in shared:
        roots = {find(speaker) for speaker in group}
        for root in roots:
            first[root] = min(roots)
    return {speaker: find(speaker) for speaker in speakers}
