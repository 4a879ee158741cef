"""What the corpora of emotional speech share: from labelled files to distinct clips of known persons."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpora.datadir import Utterance
from corpora.files import BadFileTally, CorpusError
from corpora.prepare.preparation import compare_count
from corpora.prepare.sources import Listing, Provenance, Recording, list_audio, read_recordings
from corpora.registry import CorpusInfo

# How file names and lists abbreviate emotions: the first letters, which no two of these share.
_STEMS = {
    "ang": "angry", "hap": "happy", "joy": "happy", "sad": "sad", "neu": "neutral", "nor": "neutral",
    "sur": "surprised", "fea": "fearful", "afr": "fearful", "que": "questioning", "dis": "disgusted",
}  # fmt: skip

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Label:
    """What a publisher says of a file: who speaks (or what it was cut from), the emotion, the rest of its id."""

    speaker: str
    emotion: str
    rest: str


@dataclass(frozen=True)
class Clip:
    """One recording with its speaker (as a person) and its emotion."""

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


def distinct_clips(
    info: CorpusInfo,
    corpus_dir: Path,
    labels: Mapping[str, Label],
    audio_dir: Path,
    *,
    tally: BadFileTally,
    jobs: int = 1,
    speaker_word: str = "speaker",
) -> list[Clip]:
    """Clips of all usable files, sorted by id: a recording that is there twice is used once.

    labels: by path inside the corpus.  Speakers that share a recording are one person, under the first of their
    names; a recording with two emotions is left out. Ids are `<speaker>-<rest>`. The number of files is compared with
    the published one. Raises TooManyBadFiles past the limit of bad files.
    """
    recordings = read_recordings(corpus_dir, sorted(labels), audio_dir, tally=tally, jobs=jobs, label=info.name)
    compare_count(info.name, "recordings", len(recordings), info.recordings)
    by_audio: dict[str, list[str]] = defaultdict(list)
    for source, recording in recordings.items():
        by_audio[recording.sha256].append(source)
    shared = [[labels[source].speaker for source in copies] for copies in by_audio.values()]
    person = _persons({labels[source].speaker for source in recordings}, shared)
    clips: dict[str, Clip] = {}
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
        clips[utt_id] = Clip(utt_id, speaker, label.emotion, recordings[source], info.name)
    repeated = len(recordings) - len(by_audio)
    if repeated:
        _log.info("%s: %d recordings are exact copies of another, used once", info.name, repeated)
    for name, first in sorted(person.items()):
        if name != first:
            _log.info("%s: %ss %s and %s share recordings: taken as one", info.name, speaker_word, first, name)
    tally.check()
    return [clips[utt_id] for utt_id in sorted(clips)]


def labelled_files(
    info: CorpusInfo,
    corpus_dir: Path,
    glob: str,
    pattern: re.Pattern[str],
    emotions: Sequence[str],
) -> tuple[dict[str, Label], BadFileTally]:
    """Labels of the files below `corpus_dir` from their names, and the tally of those that are not named so.

    pattern: of a file's name, with the groups `speaker` and `emotion`.  emotions: the labels that are used; files of
    other ones are left out without being bad. Raises CorpusError when no file is named so.
    """
    check_groups(info, pattern, ("speaker", "emotion"))
    listing = find_files(info, corpus_dir, glob, pattern)
    tally = listing.tally(corpus_dir, pattern.pattern)
    labels, others = {}, defaultdict(int)
    for source in listing.named:
        name = source.rsplit("/", 1)[-1]
        parts = pattern.fullmatch(name)
        emotion = emotion_of(parts["emotion"])
        if emotion is None:
            tally.skip(corpus_dir / source, f"expected one of {', '.join(emotions)}, found {parts['emotion']!r}")
        elif emotion not in emotions:
            others[emotion] += 1
        else:
            labels[source] = Label(plain(parts["speaker"]), emotion, plain(Path(name).stem))
    if others:
        _log.info("%s: not used: %s", info.name, ", ".join(f"{count} {label}" for label, count in others.items()))
    return labels, tally


def find_files(info: CorpusInfo, corpus_dir: Path, glob: str, pattern: re.Pattern[str]) -> Listing:
    """The files of a glob, told apart by the pattern of their names; the error shows both when none fits."""
    try:
        return list_audio(corpus_dir, glob, pattern, info=info)
    except CorpusError:
        found = sorted(path.relative_to(corpus_dir).as_posix() for path in corpus_dir.glob(glob) if path.is_file())
        if not found:
            raise
    raise CorpusError(
        f"{corpus_dir}: expected files with names like {pattern.pattern}, found {', '.join(found[:3])} ({len(found)} "
        f"files); if the corpus is laid out so, give another pattern (python -m corpora {info.name} --help)"
    )


def check_groups(info: CorpusInfo, pattern: re.Pattern[str], groups: Sequence[str]) -> None:
    """Raise CorpusError for a pattern without a group that is read."""
    for group in groups:
        if group not in pattern.groupindex:
            raise CorpusError(f"{info.name}: the pattern {pattern.pattern!r} has no group (?P<{group}>...)")


def emotion_of(word: str) -> str | None:
    """The emotion that a word of a file name or list means, None for another word: "Anger", "ang" -> "angry"."""
    return _STEMS.get(word.strip().lower()[:3])


def plain(name: str) -> str:
    """A name as a part of an id: letters, digits, `_` and `.`; what sorts below a hyphen would break Kaldi's order."""
    return re.sub(r"[^\w.]+", "_", name.strip()).strip("_") or "_"


def _persons(speakers: set[str], shared: Sequence[Sequence[str]]) -> dict[str, str]:
    """The first name of the person behind each name: names that share audio are one person."""
    first = {speaker: speaker for speaker in speakers}

    def find(speaker: str) -> str:
        while first[speaker] != speaker:
            speaker = first[speaker]
        return speaker

    for group in shared:
        roots = {find(speaker) for speaker in group}
        for root in roots:
            first[root] = min(roots)
    return {speaker: find(speaker) for speaker in speakers}
