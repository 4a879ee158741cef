"""Prepare a corpus of emotional speech: labels from file names, distinct clips, speaker-disjoint folds.

    <out>/fold<k>/{train,dev,test}      data directories; each speaker is tested in exactly one fold
    <out>/protocol.json                 test and dev speakers of each fold; a result must name this file
    <out>/skipped.tsv                   files that cannot be used, with the reason

None of these corpora has a published split, so the folds are drawn with a seed. Where the speakers are unknown, the
recording that the clips were cut from (a video) replaces the speaker.
"""

from __future__ import annotations

import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpora.datadir import Utterance, write_datadir
from corpora.files import BadFileTally, CorpusError, write_json
from corpora.prepare.groups import connected
from corpora.prepare.preparation import compare_count
from corpora.prepare.sources import (
    Listing,
    Provenance,
    Recording,
    check_isolation,
    list_audio,
    read_recordings,
    remove_other_folds,
    write_sources,
)
from corpora.prepare.tree import visible_files
from corpora.registry import CorpusInfo

FOLDS = 5
DEV_SHARE = 0.12  # of the utterances outside the test fold
METRICS = ("WA", "UA", "macro F1")
_DEV_TRIES = 300

# The first three letters of the words for emotions in file names and lists.
_STEMS = {
    "ang": "angry", "hap": "happy", "joy": "happy", "sad": "sad", "neu": "neutral", "nor": "neutral",
    "sur": "surprised", "fea": "fearful", "afr": "fearful", "que": "questioning", "dis": "disgusted",
    "sat": "satisfied",
}  # fmt: skip

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Label:
    """Labels of one file: speaker (or video), emotion, and the rest of the utterance id."""

    speaker: str
    emotion: str
    rest: str


@dataclass(frozen=True)
class EmotionClip:
    """One recording with its speaker and its emotion."""

    utt_id: str
    speaker: str
    emotion: str
    recording: Recording
    corpus: str

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
        return Provenance(self.utt_id, self.corpus, self.recording.source, self.recording.sha256)


def read_labels(
    info: CorpusInfo,
    corpus_dir: Path,
    glob: str,
    pattern: re.Pattern[str],
    emotions: Sequence[str],
    label: Callable[[str, re.Match[str]], Label] | None = None,
) -> tuple[dict[str, Label], BadFileTally]:
    """Labels by path inside the corpus, and the tally of the files that have none.

    pattern: of a file's name.  emotions: files with another emotion are left out without counting as bad.  label:
    from path and match to a label; it raises CorpusError where the name states no label. Without it, the groups
    `speaker` and `emotion` of the pattern are read. Raises CorpusError when no file has such a name.
    """
    listing = find_files(info, corpus_dir, glob, pattern)
    tally = listing.tally(corpus_dir, pattern.pattern)
    labels, others = {}, Counter()
    for source in listing.named:
        try:
            own = (label or _label)(source, pattern.fullmatch(source.rsplit("/", 1)[-1]))
        except CorpusError as error:
            tally.skip(corpus_dir / source, error)
            continue
        if own.emotion in emotions:
            labels[source] = own
        else:
            others[own.emotion] += 1
    if others:
        _log.info("%s: not used: %s", info.name, ", ".join(f"{count} {emotion}" for emotion, count in others.items()))
    if not labels:
        tally.check()
    return labels, tally


def write_corpus(
    info: CorpusInfo,
    corpus_dir: Path,
    out_dir: Path,
    labels: Mapping[str, Label],
    tally: BadFileTally,
    *,
    folds: int,
    seed: int,
    jobs: int,
    least: int = 3,
    speaker_word: str = "speaker",
) -> None:
    """Read the labelled files and write the folds. Arguments and errors are those of distinct_clips and write_folds."""
    audio_dir = out_dir / "audio" / info.name
    clips = distinct_clips(info, corpus_dir, labels, audio_dir, tally=tally, jobs=jobs, speaker_word=speaker_word)
    write_folds(info.name, clips, out_dir, folds=folds, seed=seed, least=least, speaker_word=speaker_word)
    tally.write(out_dir / "skipped.tsv")


def distinct_clips(
    info: CorpusInfo,
    corpus_dir: Path,
    labels: Mapping[str, Label],
    audio_dir: Path,
    *,
    tally: BadFileTally,
    jobs: int = 1,
    speaker_word: str = "speaker",
) -> list[EmotionClip]:
    """Clips of all usable files, sorted by id; one clip for several equal recordings.

    labels: by path inside the corpus. Speakers that share a recording are one speaker, under the first of their
    names. A recording with two emotions is left out. Ids are `<speaker>-<rest>`. The number of files is compared with
    the published number. Raises TooManyBadFiles past the limit of bad files.
    """
    recordings = read_recordings(corpus_dir, sorted(labels), audio_dir, tally=tally, jobs=jobs, label=info.name)
    compare_count(info.name, "recordings", len(recordings), info.recordings)
    by_audio: dict[str, list[str]] = defaultdict(list)
    spoken: dict[str, set[str]] = defaultdict(set)  # recordings of each speaker, by content
    for source, recording in recordings.items():
        by_audio[recording.sha256].append(source)
        spoken[labels[source].speaker].add(recording.sha256)
    person = _persons(spoken)
    clips: dict[str, EmotionClip] = {}
    for copies in by_audio.values():
        if len({labels[source].emotion for source in copies}) > 1:
            for source in copies:
                tally.skip(corpus_dir / source, f"the same audio has several labels: {', '.join(copies)}")
            continue
        source = min(copies)
        label = labels[source]
        speaker = person[label.speaker]
        utt_id = f"{speaker}-{label.rest}"
        if utt_id in clips:
            tally.skip(corpus_dir / source, f"the same id as {clips[utt_id].recording.source}: {utt_id}")
            continue
        clips[utt_id] = EmotionClip(utt_id, speaker, label.emotion, recordings[source], info.name)
    repeated = len(recordings) - len(by_audio)
    if repeated:
        _log.info("%s: %d recordings are exact copies of another recording and left out", info.name, repeated)
    for name, first in sorted(person.items()):
        if name != first:
            _log.info("%s: %ss %s and %s share recordings: treated as one", info.name, speaker_word, first, name)
    tally.check()
    return [clips[utt_id] for utt_id in sorted(clips)]


def find_files(info: CorpusInfo, corpus_dir: Path, glob: str, pattern: re.Pattern[str]) -> Listing:
    """The files of a glob, divided by whether their names match. If no name matches, the error shows some of them."""
    try:
        return list_audio(corpus_dir, glob, pattern, info=info)
    except CorpusError:
        found = [path.relative_to(corpus_dir).as_posix() for path in visible_files(corpus_dir, glob)]
        if not found:
            raise
    raise CorpusError(
        f"{corpus_dir}: expected files with names like {pattern.pattern}, found {', '.join(found[:3])} ({len(found)} "
        f"files). For a corpus with other names, set another pattern (python -m corpora {info.name} --help)"
    )


def emotion_of(word: str) -> str | None:
    """The emotion that a word of a file name or list means ("Anger", "ang" -> "angry"); None for another word."""
    return _STEMS.get(word.strip().lower()[:3])


def plain(name: str) -> str:
    """A name as a part of an id: letters, digits, `_`, `.`. Characters that sort before `-` break Kaldi's order."""
    return re.sub(r"[^\w.]+", "_", name.strip()).strip("_") or "_"


def write_folds(
    name: str,
    clips: Sequence[EmotionClip],
    out_dir: Path,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    least: int = 3,
    speaker_word: str = "speaker",
) -> None:
    """Write the data directories of every fold and `protocol.json`; train, dev and test of a fold share no speaker.

    name: of the corpus.  least: fewest speakers of a test fold.  speaker_word: the word for a speaker in messages.
    Raises CorpusError for too few speakers, and for an emotion that some fold tests but does not train.
    """
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        labels[clip.speaker][clip.emotion] += 1
    tests = speaker_folds(labels, folds, seed, name=name, least=least, speaker_word=speaker_word)
    parts = []
    for number, test in enumerate(tests, 1):
        rest = {speaker: labels[speaker] for speaker in sorted(labels) if speaker not in test}
        dev = dev_speakers(rest, seed + number)
        parts.append({"train": set(rest) - dev, "dev": dev, "test": test})
        _check_trained(name, number, labels, parts[-1], speaker_word)
    for number, part in enumerate(parts, 1):
        folder = out_dir / f"fold{number}"
        for split, chosen in part.items():
            own = [clip for clip in clips if clip.speaker in chosen]
            write_datadir(folder / split, [clip.utterance() for clip in own])
            write_sources(folder / split, [clip.provenance() for clip in own])
        check_isolation([folder / "train"], [folder / "dev", folder / "test"])
        check_isolation([folder / "dev"], [folder / "test"])
    remove_other_folds(out_dir, len(parts))
    write_json(
        out_dir / "protocol.json",
        {
            "corpus": name,
            "published_split": None,
            "folds": len(parts),
            "seed": seed,
            "disjoint_by": speaker_word,
            "metrics": list(METRICS),
            "clips": len(clips),
            "emotions": dict(sorted(Counter(clip.emotion for clip in clips).items())),
            "parts": {
                f"fold{number}": {split: sorted(part[split]) for split in ("test", "dev")}
                for number, part in enumerate(parts, 1)
            },
        },
    )


def speaker_folds(
    labels: Mapping[str, Counter[str]],
    folds: int,
    seed: int,
    *,
    name: str = "folds",
    least: int = 3,
    speaker_word: str = "speaker",
) -> list[set[str]]:
    """Divide the speakers into `folds` sets of nearly equal numbers of speakers, utterances and labels.

    labels: number of utterances of each label, by speaker. Speakers are assigned in order of size, the largest first,
    each to the fold where it adds least to the sum of squared label counts. Full folds take no further speaker, and a
    seeded order decides ties. The fold of a speaker with more than one fold's share of the corpus gets the smallest
    other speakers.
    """
    needed = max(least * folds, 3)
    if folds < 2 or len(labels) < needed:
        raise CorpusError(
            f"{name}: {len(labels)} {speaker_word}s cannot make {folds} folds of disjoint train, dev and test "
            f"{speaker_word}s; at least {needed} are needed, and 2 folds"
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
    """Draw the dev speakers among those outside a test fold: DEV_SHARE of the utterances, every label, seeded.

    Of many random draws, the one nearest to the wanted size and label shares is taken. A speaker with a large part of
    the corpus, and the last speaker of a label, therefore stay in training.
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
        cost += sum(1000 for label in goal if count[label] == whole[label])
        if cost < best_cost:
            best, best_cost = set(chosen), cost
    return best


def _label(source: str, parts: re.Match[str]) -> Label:
    emotion = emotion_of(parts["emotion"])
    if emotion is None:
        raise CorpusError(f"expected an emotion in the name, found {parts['emotion']!r}")
    return Label(plain(parts["speaker"]), emotion, plain(Path(source).stem))


def _persons(spoken: Mapping[str, set[str]]) -> dict[str, str]:
    """One name for all names of a speaker, the first of them: names that share a recording are one speaker."""
    names = sorted(spoken)
    groups = connected([spoken[name] for name in names])
    first: dict[int, str] = {}
    return {name: first.setdefault(group, name) for name, group in zip(names, groups, strict=True)}


def _check_trained(
    name: str, number: int, labels: Mapping[str, Counter[str]], part: Mapping[str, set[str]], speaker_word: str
) -> None:
    """Raise CorpusError unless train has every emotion of dev and test: an unseen class cannot be recognised."""
    present = {split: set(sum((labels[speaker] for speaker in own), Counter())) for split, own in part.items()}
    for emotion in sorted((present["dev"] | present["test"]) - present["train"]):
        own = [speaker for speaker, count in labels.items() if count[emotion]]
        raise CorpusError(
            f"{name}: fold {number} would score {emotion} without training it: {len(own)} {speaker_word}"
            f"{'s have' if len(own) > 1 else ' has'} it ({', '.join(sorted(own)[:4])}). Take another number of folds "
            f"or another seed, or list the emotions to use without it (--set emotions=...)"
        )
