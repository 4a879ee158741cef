"""Lhotse's view of our data directories: cuts whose lengths are exact to the sample.

Lhotse's own Kaldi import rounds lengths to a millisecond, opens every file, and runs an entry of wav.scp that ends in
a pipe as a command; here the lengths come from our reader, and `read_datadir` has refused pipes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from corpora.audio import SAMPLE_RATE, audio_info
from corpora.datadir import Utterance

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment


def cut_set(utterances: Iterable[Utterance]) -> CutSet:
    """A CutSet with one cut for each utterance, in their order; audio is opened where it has segments, and only its
    header."""
    from lhotse import CutSet

    return CutSet.from_cuts(_cuts(utterances))


def _cuts(utterances: Iterable[Utterance]) -> Iterator[MonoCut]:
    from lhotse import AudioSource

    for u in utterances:
        source = AudioSource("file", [0], str(u.audio))
        if u.start is None:
            yield _cut(u, _recording(u.utt_id, source, u.samples), 0)
        else:
            yield _cut(u, _recording(u.audio.stem, source, audio_info(u.audio).samples), u.start)


def whole_cut(utterance: Utterance) -> MonoCut:
    """The cut of an utterance whose recording holds it alone and stands elsewhere, as in Shar."""
    from lhotse import AudioSource

    placeholder = AudioSource("shar", [0], "")
    return _cut(utterance, _recording(utterance.utt_id, placeholder, utterance.samples), 0)


def _recording(name: str, source: Any, samples: int) -> Recording:
    from lhotse import Recording

    return Recording(name, [source], SAMPLE_RATE, samples, samples / SAMPLE_RATE)


def _cut(utterance: Utterance, recording: Recording, first: int) -> MonoCut:
    from lhotse import MonoCut

    start, duration = first / SAMPLE_RATE, utterance.samples / SAMPLE_RATE
    supervision = _supervision(utterance, duration)
    return MonoCut(utterance.utt_id, start, duration, 0, [supervision], recording=recording)


def _supervision(utterance: Utterance, duration: float) -> SupervisionSegment:
    from lhotse import SupervisionSegment

    labels = {name: getattr(utterance, name) for name in ("dialect", "emotion")}
    return SupervisionSegment(
        utterance.utt_id,
        utterance.utt_id,
        0.0,
        duration,
        text=utterance.text,
        language=utterance.language,
        speaker=utterance.speaker,
        custom={name: value for name, value in labels.items() if value is not None} or None,
    )
