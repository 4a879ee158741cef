"""Lhotse: prepare corpora through its recipes, and write our data directories as its cuts.

    recordings, supervisions  ->  items (recording inside the corpus, speaker, times, text)  ->  Preparation
    utterances                ->  cuts, exact to the sample

Lengths always come from our own reader: Lhotse's recipes take them from headers or lists, and its Kaldi import rounds
them to a millisecond and runs a wav.scp entry that ends in a pipe as a command (`read_datadir` refuses such entries).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.audio import SAMPLE_RATE, audio_info
from corpora.datadir import Utterance
from corpora.files import CorpusError
from corpora.prepare.ids import name_utterances
from corpora.prepare.preparation import Item, Preparation

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

Manifests = Mapping[str, Mapping[str, Any]]
Clean = Callable[[str], str]

_UNKNOWN_SPEAKERS = ("", "none", "n/a", "unknown")
_EDGE = 0.002  # seconds: Lhotse rounds times, so a segment that ends this near to the end covers its recording

_log = logging.getLogger(__name__)


def read_manifests(work: Preparation, recipe: Callable[[], Manifests]) -> Manifests:
    """Run a recipe of Lhotse on a corpus folder: {part: {"recordings": ..., "supervisions": ...}}.

    Audio headers are read with libsndfile only: for some formats Lhotse's default starts other programs. Raises
    CorpusError, with Lhotse's reason, if the recipe fails.
    """
    try:
        with _libsndfile():
            return recipe()
    except ImportError as error:
        raise CorpusError(f"{work.info.name}: {error} (pip install -r requirements.txt)") from error
    except Exception as error:  # recipes use assert, and do not catch the errors of their parsers
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorpusError(
            f"{work.corpus_dir}: expected {work.info.layout}; Lhotse's recipe for {work.info.name} stopped: {reason}"
        ) from error


def write_manifests(
    work: Preparation,
    manifests: Manifests,
    sets: Mapping[str, str],
    *,
    language: str = "en",
    clean: Clean = str.strip,
    listed: Mapping[str, int] | None = None,
) -> dict[str, list[Utterance]]:
    """Write a data directory for every part in `sets` (part -> name of the set); returns the utterances by set.

    clean: turns Lhotse's text into ours; an utterance with an empty text is left out.  listed: number of lines of each
    part in the publisher's lists; lines that Lhotse drops silently are reported. Raises CorpusError for recordings that
    are not plain files inside the corpus, and as `Preparation.write` does.
    """
    items: dict[str, list[Item]] = {}
    for part, name in sets.items():
        if part not in manifests:
            continue
        recordings = {own.id: own for own in manifests[part]["recordings"]}
        sources = {key: _source(work, own) for key, own in recordings.items()}
        items[name] = list(_items(work, part, manifests[part]["supervisions"], recordings, sources, language, clean))
        lost = (listed or {}).get(part, 0) - sum(1 for _ in manifests[part]["supervisions"])
        if lost > 0:
            _log.warning("%s %s: %d of the listed utterances have no audio or no time", work.info.name, part, lost)
            for _ in range(lost):
                work.bad(f"{work.corpus_dir}:{part}", "listed, but dropped by Lhotse: no audio, or times outside of it")
    names = name_utterances((item.speaker, item.utt_id) for own in items.values() for item in own)
    for name, own in items.items():
        renamed = (names[item.speaker, item.utt_id] for item in own)
        work.add(name, [replace(i, utt_id=u, speaker=s) for i, (u, s) in zip(own, renamed, strict=True)])
    return work.write()


def cut_set(utterances: Iterable[Utterance]) -> CutSet:
    """A CutSet with one cut per utterance, in their order. For segments, the header of the recording is read."""
    from lhotse import CutSet

    return CutSet.from_cuts(_cuts(utterances))


def whole_cut(utterance: Utterance) -> MonoCut:
    """A cut that treats the utterance as a whole recording. Its audio is stored separately, as in Lhotse's Shar."""
    from lhotse import AudioSource

    placeholder = AudioSource("shar", [0], "")
    return _cut(utterance, _cut_recording(utterance.utt_id, placeholder, utterance.samples), 0)


def _items(
    work: Preparation,
    part: str,
    supervisions: Iterable[SupervisionSegment],
    recordings: Mapping[str, Recording],
    sources: Mapping[str, str],
    language: str,
    clean: Clean,
) -> Iterator[Item]:
    supervisions = list(supervisions)
    segments = Counter(own.recording_id for own in supervisions)
    for own in supervisions:
        recording = recordings[own.recording_id]
        whole = segments[recording.id] == 1 and own.start <= _EDGE and own.end >= recording.duration - _EDGE
        speaker = str(own.speaker or "").strip()
        yield Item(
            utt_id=own.id,
            speaker=recording.id if speaker.lower() in _UNKNOWN_SPEAKERS else speaker,
            source=sources[recording.id],
            where=f"{part}: {own.id}",
            text=None if own.text is None else clean(own.text),
            start=None if whole else own.start,
            end=None if whole else own.end,
            language=language,
        )


def _source(work: Preparation, recording: Recording) -> str:
    """Path of a recording inside the corpus. Raises CorpusError unless it is one plain file with one channel."""
    where = f"{work.info.name}: recording {recording.id}"
    if recording.transforms:
        raise CorpusError(
            f"{where} has transforms ({', '.join(map(_kind, recording.transforms))}): only stored audio can be "
            f"prepared; write the transformed audio to files first"
        )
    if len(recording.sources) != 1 or recording.sources[0].type != "file":
        kinds = ", ".join(source.type for source in recording.sources)
        raise CorpusError(f"{where} comes from {kinds or 'nothing'}: expected one file")
    if len(recording.sources[0].channels) != 1:
        raise CorpusError(f"{where} has the channels {recording.sources[0].channels}: expected one")
    path = Path(recording.sources[0].source).absolute()
    folder = work.corpus_dir.absolute()
    if not path.is_relative_to(folder):
        raise CorpusError(f"{where}: {path} lies outside of {folder}")
    return path.relative_to(folder).as_posix()


def _kind(transform: object) -> str:
    return str(transform.get("name", transform)) if isinstance(transform, dict) else type(transform).__name__


@contextmanager
def _libsndfile() -> Iterator[None]:
    """Make Lhotse read with libsndfile, and restore its previous backend afterwards."""
    from lhotse.audio.backend import LibsndfileBackend, get_current_audio_backend, set_current_audio_backend

    before = get_current_audio_backend()
    set_current_audio_backend(LibsndfileBackend())
    try:
        yield
    finally:
        set_current_audio_backend(before)


def _cuts(utterances: Iterable[Utterance]) -> Iterator[MonoCut]:
    from lhotse import AudioSource

    for u in utterances:
        source = AudioSource("file", [0], str(u.audio))
        if u.start is None:
            yield _cut(u, _cut_recording(u.utt_id, source, u.samples), 0)
        else:
            yield _cut(u, _cut_recording(u.audio.stem, source, audio_info(u.audio).samples), u.start)


def _cut_recording(name: str, source: Any, samples: int) -> Recording:
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
