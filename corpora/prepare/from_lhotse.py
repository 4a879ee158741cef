"""Lhotse's recipes as a source of data directories: its parsing, our reader's sample counts.

    recordings, supervisions  ->  items (recording inside the corpus, speaker, times, text)  ->  Preparation

Lhotse's durations are never used for whole recordings: they are read from headers, or taken from lists.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.datadir import Utterance
from corpora.prepare.ids import name_utterances
from corpora.prepare.ingest import CorpusError
from corpora.prepare.preparation import Item, Preparation

if TYPE_CHECKING:
    from lhotse import Recording, SupervisionSegment

Manifests = Mapping[str, Mapping[str, Any]]
Clean = Callable[[str], str]

_UNKNOWN_SPEAKERS = ("", "none", "n/a", "unknown")
_EDGE = 0.002  # seconds; Lhotse rounds, so a segment that ends so near to its recording's end is all of it

_log = logging.getLogger(__name__)


def read_manifests(work: Preparation, recipe: Callable[[], Manifests]) -> Manifests:
    """What a recipe of Lhotse makes of a corpus folder: {part: {"recordings": ..., "supervisions": ...}}.

    Audio headers are read with libsndfile alone: Lhotse's own choice starts other programs by name for some formats.
    Raises CorpusError, with Lhotse's reason, for whatever the recipe stops at.
    """
    try:
        with _libsndfile():
            return recipe()
    except ImportError as error:
        raise CorpusError(f"{work.info.name}: {error} (requirements.txt has all of them)") from error
    except Exception as error:  # recipes assert, and let out whatever their parsers raise
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
    """Write a data directory for every part that is in `sets`, under the name that it gives; their utterances.

    clean: from Lhotse's text to ours; empty: the utterance is left out.  listed: lines of every part in the
    publisher's lists; those that Lhotse drops without a word are reported.
    Raises CorpusError for recordings that are no plain files inside the corpus, as `Preparation.write` does too.
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
                work.bad(f"{work.corpus_dir}:{part}", "listed, but dropped by Lhotse: no audio, or outside of it")
    names = name_utterances((item.speaker, item.utt_id) for own in items.values() for item in own)
    for name, own in items.items():
        renamed = (names[item.speaker, item.utt_id] for item in own)
        work.add(name, [replace(i, utt_id=u, speaker=s) for i, (u, s) in zip(own, renamed, strict=True)])
    return work.write()


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
    heard = Counter(own.recording_id for own in supervisions)
    for own in supervisions:
        recording = recordings[own.recording_id]
        whole = heard[recording.id] == 1 and own.start <= _EDGE and own.end >= recording.duration - _EDGE
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
    """The path of a recording inside the corpus; CorpusError unless it is one plain file with one channel."""
    where = f"{work.info.name}: recording {recording.id}"
    if recording.transforms:
        raise CorpusError(
            f"{where} has transforms ({', '.join(map(_kind, recording.transforms))}): only audio as it is stored can "
            f"be prepared; write the changed audio to files first"
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
    """Let Lhotse read with libsndfile, and give its own choice back whatever happens."""
    from lhotse.audio.backend import LibsndfileBackend, get_current_audio_backend, set_current_audio_backend

    before = get_current_audio_backend()
    set_current_audio_backend(LibsndfileBackend())
    try:
        yield
    finally:
        set_current_audio_backend(before)
