"""Write the splits of a dialect corpus, each programme in one split, and compare the counts with the published ones.

The speakers are unknown in all of these corpora. The programme of an utterance (a broadcast, a video) replaces the
speaker: utterance ids begin with it, and no programme of dev or test is in training.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from corpora.datadir import Utterance
from corpora.datasets._emotion import dev_speakers, speaker_folds
from corpora.datasets._options import check_choice
from corpora.files import CorpusError, read_json, write_json
from corpora.prepare import hub
from corpora.prepare.ids import name_utterances
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo

SPLITS = ("train", "dev", "test")
PARQUET_FIELDS = {
    "id": ("ID", "utt_id", "utterance_id", "segment_id", "filename"),
    "dialect": ("dialect", "label", "country", "language"),
}
SHARED = ("drop", "keep", "refuse")

_log = logging.getLogger(__name__)


def write_splits(
    work: Preparation,
    items: Mapping[str, Sequence[Item]],
    *,
    shared: str = "drop",
    published: Mapping[str, Mapping[str, int]] | None = None,
    whole: bool = True,
) -> dict[str, list[Utterance]]:
    """Write the data directories of every split with `utt2dialect`; return their utterances.

    items: `speaker` is the programme, `utt_id` the publisher's id.  shared: treatment of a programme that is in two
    splits: "drop" leaves it out of the earlier one of train, dev, test; "keep" leaves the splits as published;
    "refuse" raises.  published: utterances of each split by dialect; the difference is logged and written to
    summary.json.  whole: the splits are the publisher's, so their sizes are compared with the published ones.
    Raises CorpusError as `Preparation.write` does.
    """
    check_choice("shared", shared, SHARED)
    consistent = {split: _consistent(work, own) for split, own in items.items()}
    disjoint, common = _disjoint(work, consistent, shared)
    names = name_utterances((item.speaker, item.utt_id) for own in disjoint.values() for item in own)
    for split, own in disjoint.items():
        renamed = (names[item.speaker, item.utt_id] for item in own)
        work.add(split, [replace(i, utt_id=u, speaker=s) for i, (u, s) in zip(own, renamed, strict=True)])
    written = work.write(None if whole else {})
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


def write_clips(
    info: CorpusInfo,
    corpus_dir: Path,
    out_dir: Path,
    shards: Sequence[hub.Shard],
    dialects: Sequence[str],
    programme: re.Pattern[str],
    *,
    jobs: int,
    shared: str,
    chosen: Sequence[str],
) -> dict[str, list[Utterance]]:
    """Write the splits of a copy in Parquet. programme: pattern of an id with the group `programme`.

    The id is the field `id`, or the name of the recording. Raises CorpusError for an unknown dialect, with its row.
    """
    rows = hub.Hub(info, corpus_dir, out_dir, shards, PARQUET_FIELDS, required=("dialect",), chosen=chosen)
    work = Preparation(info, rows.clips_dir, out_dir, jobs=jobs)
    items: dict[str, list[Item]] = {}
    for split in rows.splits():
        own = items.setdefault(split, [])
        for clip in rows.clips(split, work.bad):
            utt_id = PurePosixPath(clip["id"].replace("\\", "/")).name.removesuffix(".wav") or clip.name
            found = programme.fullmatch(utt_id)
            if found is None:
                work.bad(clip.where, f"expected an id like {programme.pattern}, found {utt_id!r}")
                continue
            dialect = check_dialect(clip.where, clip["dialect"].upper(), dialects)
            own.append(Item(utt_id, found["programme"], clip.source, clip.where, dialect=dialect))
    return write_splits(work, items, shared=shared)


def programme_folds(items: Sequence[Item], folds: int, seed: int, name: str) -> list[dict[str, list[Item]]]:
    """Train, dev and test of every fold; each programme is in one of them, and is tested in exactly one fold.

    Raises CorpusError for fewer programmes than folds or than three.
    """
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        labels[item.speaker][item.dialect or ""] += 1
    parts = []
    for number, test in enumerate(speaker_folds(labels, folds, seed, name=name, least=1, speaker_word="programme"), 1):
        dev = dev_speakers({own: labels[own] for own in sorted(labels) if own not in test}, seed + number)
        own: dict[str, list[Item]] = {split: [] for split in SPLITS}
        for item in items:
            own["test" if item.speaker in test else "dev" if item.speaker in dev else "train"].append(item)
        parts.append(own)
    return parts


def differences(found: Mapping[str, int], published: Mapping[str, int]) -> dict[str, int]:
    """Found minus published count, by label, without the labels whose counts are equal."""
    gaps = {label: found.get(label, 0) - published.get(label, 0) for label in sorted(found.keys() | published.keys())}
    return {label: gap for label, gap in gaps.items() if gap}


def check_dialect(where: str, dialect: str, known: Sequence[str]) -> str:
    """Return the dialect; raise CorpusError, with the place, for an unknown one."""
    if dialect not in known:
        raise CorpusError(f"{where}: expected one of {' '.join(known)}, found the dialect {dialect!r}")
    return dialect


class CorpusFiles:
    """Find the files of a list inside the corpus folder, also if the list has the paths of another machine."""

    def __init__(self, corpus_dir: Path, *folders: Path):
        """folders: further folders inside the corpus; listed paths may be relative to them."""
        self._corpus_dir = corpus_dir
        self._folders = (corpus_dir, *folders)
        self._found: dict[str, str | None] = {}

    def find(self, entry: str) -> str | None:
        """The path inside the corpus, without a placeholder or another machine's folder; None for a missing file."""
        if entry not in self._found:
            parts = PurePosixPath(entry.strip().replace("\\", "/")).parts
            inside = [PurePosixPath(*parts[cut:]) for cut in range(len(parts))]
            inside = [path for path in inside if not path.is_absolute() and ".." not in path.parts]
            places = [(folder, path) for path in inside for folder in self._folders]
            files = (folder / path for folder, path in places if (folder / path).is_file())
            alike = (file for folder, path in places if (file := find_path(folder, path.as_posix())).is_file())
            file = next(files, None) or next(alike, None)
            self._found[entry] = file.relative_to(self._corpus_dir).as_posix() if file else None
        return self._found[entry]


def _consistent(work: Preparation, items: Sequence[Item]) -> list[Item]:
    """Leave out utterances that have several dialects; use a repeated utterance once."""
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


def _disjoint(
    work: Preparation, items: Mapping[str, list[Item]], shared: str
) -> tuple[dict[str, list[Item]], dict[str, int]]:
    """The splits without programmes that are also in a later split, and how many utterances these programmes have."""
    result, common = dict(items), {}
    order = [split for split in SPLITS if split in items]
    for place, split in enumerate(order):
        later = {item.speaker: other for other in order[place + 1 :] for item in items[other]}
        own = [item for item in items[split] if item.speaker in later]
        if not own:
            continue
        common[split] = len(own)
        message = (
            f"{work.info.name}: {len(own)} utterances of {split} belong to {len({item.speaker for item in own})} "
            f"programmes that are also in {' or '.join(order[place + 1 :])}, for instance to {own[0].speaker} "
            f"({own[0].where})"
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
