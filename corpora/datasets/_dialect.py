"""What the corpora for dialect identification share: splits whose programmes are apart, counts by dialect.

The speaker of an utterance is unknown in all of them. Its programme (a broadcast, a video) stands in for the speaker:
utterance ids start with it, and no programme is on both sides of a test.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from corpora.datadir import Utterance
from corpora.files import CorpusError, read_json, write_json
from corpora.prepare.ids import name_utterances
from corpora.prepare.preparation import Item, Preparation

SPLITS = ("train", "dev", "test")
SHARED = ("drop", "keep", "refuse")
AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus")

_log = logging.getLogger(__name__)


def write_splits(
    work: Preparation,
    items: Mapping[str, Sequence[Item]],
    *,
    shared: str = "drop",
    published: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, list[Utterance]]:
    """Write the data directories of every split with `utt2dialect`; their utterances.

    items: their `speaker` is the programme, their `utt_id` the publisher's.  shared: what becomes of a programme of
    test that is also in dev or train, or one of dev in train: "drop" leaves it out of train (of dev), "keep" leaves
    the splits as they are published, "refuse" raises.  published: utterances of each split by dialect; the difference
    is logged and stands in summary.json. Raises CorpusError as `Preparation.write` does.
    """
    if shared not in SHARED:
        raise CorpusError(f"{work.info.name}: shared={shared!r}: expected one of {', '.join(SHARED)}")
    consistent = {split: _consistent(work, own) for split, own in items.items()}
    apart, common = _apart(work, consistent, shared)
    names = name_utterances((item.speaker, item.utt_id) for own in apart.values() for item in own)
    for split, own in apart.items():
        renamed = (names[item.speaker, item.utt_id] for item in own)
        work.add(split, [replace(i, utt_id=u, speaker=s) for i, (u, s) in zip(own, renamed, strict=True)])
    written = work.write()
    summary = read_json(work.out_dir / "summary.json")
    for split, own in written.items():
        found = Counter(utterance.dialect for utterance in own)
        gap = differences(found, (published or {}).get(split, found))
        summary["sets"][split] |= {
            "dialects": dict(sorted(found.items())),
            "differs_from_published": gap,
            "of_shared_programmes": common.get(split, 0),
        }
        if gap:
            each = ", ".join(f"{dialect} {count:+d}" for dialect, count in gap.items())
            _log.warning("%s: %s differs from the published counts: %s", work.info.name, split, each)
    write_json(work.out_dir / "summary.json", summary | {"shared": shared})
    return written


def differences(found: Mapping[str, int], published: Mapping[str, int]) -> dict[str, int]:
    """What was found minus what is published, by label, where they are not equal."""
    gaps = {label: found.get(label, 0) - published.get(label, 0) for label in sorted(found.keys() | published.keys())}
    return {label: gap for label, gap in gaps.items() if gap}


def check_dialect(where: str, dialect: str, known: Sequence[str]) -> str:
    """The dialect; raises CorpusError, with the place, unless it is a known one."""
    if dialect not in known:
        raise CorpusError(f"{where}: expected one of {' '.join(known)}, found the dialect {dialect!r}")
    return dialect


class CorpusFiles:
    """Finds listed paths inside a corpus, whatever stands in front of the corpus's own part of them."""

    def __init__(self, work: Preparation):
        self._folder = work.corpus_dir
        self._found: dict[str, str | None] = {}

    def find(self, entry: str) -> str | None:
        """The path inside the corpus, without a placeholder or another machine's folder; None where it is not."""
        if entry not in self._found:
            parts = PurePosixPath(entry.strip().replace("\\", "/")).parts
            inside = (PurePosixPath(*parts[cut:]) for cut in range(len(parts)))
            self._found[entry] = next(
                (
                    path.as_posix()
                    for path in inside
                    if not path.is_absolute() and ".." not in path.parts and (self._folder / path).is_file()
                ),
                None,
            )
        return self._found[entry]


def _consistent(work: Preparation, items: Sequence[Item]) -> list[Item]:
    """Without the utterances that are there with several dialects; one that is there twice is used once."""
    listed: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        listed[item.utt_id].append(item)
    kept = []
    for utt_id, copies in listed.items():
        if len({item.dialect for item in copies}) == 1:
            kept.append(copies[0])
            continue
        each = ", ".join(f"{item.dialect} ({item.where})" for item in copies)
        for item in copies:
            work.bad(item.where, f"{utt_id} has several dialects: {each}")
    return kept


def _apart(
    work: Preparation, items: Mapping[str, list[Item]], shared: str
) -> tuple[dict[str, list[Item]], dict[str, int]]:
    """The splits without the programmes of a later split, and how many utterances that concerns in each."""
    result, common = dict(items), {}
    order = [split for split in SPLITS if split in items]
    for place, split in enumerate(order):
        later = {item.speaker: other for other in order[place + 1 :] for item in items[other]}
        own = [item for item in items[split] if item.speaker in later]
        if not own:
            continue
        common[split] = len(own)
        message = (
            f"{work.info.name}: {len(own)} utterances of {split} are of {len({item.speaker for item in own})} "
            f"programmes that are also in {' or '.join(order[place + 1 :])}, as {own[0].speaker} ({own[0].where})"
        )
        if shared == "refuse":
            raise CorpusError(f"{message}; shared=drop leaves them out of {split}")
        _log.warning("%s: %s", message, "left out" if shared == "drop" else "kept (shared=keep)")
        if shared == "drop":
            for item in own:
                reason = f"its programme {item.speaker} is also in {later[item.speaker]}"
                work.exclude(split, item.utt_id, item.where, reason)
            result[split] = [item for item in items[split] if item.speaker not in later]
    return result, common
