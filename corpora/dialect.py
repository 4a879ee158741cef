"""What the corpora for dialect identification share: from labelled files or segments to data directories by split.

The speaker of an utterance is unknown in all of them. Its programme (a broadcast, a video) stands in: utterance ids
start with it, and no programme is on both sides of a test.

    items  ->  ingest  ->  labels that contradict each other  ->  programmes in two splits  ->  <out>/<split>
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from corpora.audio import SAMPLE_RATE
from corpora.datadir import Utterance, write_datadir
from corpora.files import BadFileTally, write_json
from corpora.ingest import MIN_SAMPLES, CorpusError, Recording, ingest
from corpora.provenance import Provenance, write_sources

SPLITS = ("train", "dev", "test")
SHARED = ("drop", "keep", "refuse")
_SLACK = SAMPLE_RATE // 50  # a segment may end 20 ms after its recording: times are rounded to centiseconds

_BELOW_DOT = re.compile(r"[\s!-\-]")  # ASCII from the space to the hyphen
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """An utterance as a publisher lists it.

    utt_id: the publisher's id.  programme: what its recording is a part of.  source: path inside the corpus folder.
    start, end: samples at 16 kHz, None for the whole file.  where: the place of its label, for messages.
    """

    utt_id: str
    programme: str
    dialect: str
    source: str
    start: int | None = None
    end: int | None = None
    where: str = ""


@dataclass(frozen=True)
class Kept:
    """An item with its recording, its times brought inside it."""

    item: Item
    recording: Recording

    @property
    def samples(self) -> int:
        whole = self.item.start is None
        return self.recording.samples if whole else self.item.end - self.item.start


def write_splits(
    name: str,
    corpus_dir: Path,
    out_dir: Path,
    items: Mapping[str, Sequence[Item]],
    *,
    tally: BadFileTally,
    published: Mapping[str, Mapping[str, int] | int] | None = None,
    shared: str = "drop",
    jobs: int = 1,
) -> dict[str, dict]:
    """Write `<out_dir>/<split>` with `utt2dialect` for every split of `items`, `summary.json` and `skipped.tsv`.

    tally: counts over all files, those already left out included.  published: utterances of each split, by dialect
    where that is known; the difference is reported.  shared: what becomes of a programme of test that is also in dev
    or train, or one of dev in train: "drop" leaves the training side's (dev's) utterances out, "keep" leaves the
    publisher's splits as they are, "refuse" raises; the same for recordings of equal content.
    Raises CorpusError when no utterance is left in a split, TooManyBadFiles past the limit of bad files.
    """
    if shared not in SHARED:
        raise CorpusError(f"{name}: shared={shared!r}: expected one of {', '.join(SHARED)}")
    sources = sorted({item.source for own in items.values() for item in own})
    recordings = ingest(corpus_dir, sources, out_dir / "audio" / name, tally=tally, jobs=jobs, label=name)
    kept = {split: _inside(corpus_dir, own, recordings, tally) for split, own in items.items()}
    kept = _consistent(corpus_dir, kept, tally)
    tally.check()
    kept, overlap = _apart(name, kept, shared)
    names = name_utterances(one.item for own in kept.values() for one in own)
    summary: dict[str, dict] = {}
    for split, own in kept.items():
        if not own:
            raise CorpusError(f"{name}: no utterance is left in {split}; {len(tally.skipped)} files were left out")
        rows = [(*names[one.item.programme, one.item.utt_id], one) for one in own]
        write_datadir(out_dir / split, [_utterance(*row) for row in rows])
        write_sources(
            out_dir / split,
            [Provenance(utt_id, name, one.recording.source, one.recording.sha256) for utt_id, _, one in rows],
        )
        found = Counter(one.item.dialect for one in own)
        summary[split] = {
            "utterances": len(own),
            "programmes": len({one.item.programme for one in own}),
            "hours": round(sum(one.samples for one in own) / SAMPLE_RATE / 3600, 4),
            "dialects": dict(sorted(found.items())),
            "left_out_as_shared": overlap.get(split, 0),
            "differs_from_published": differences(found, (published or {}).get(split)),
        }
        _report(name, split, summary[split])
    tally.write(out_dir / "skipped.tsv")
    write_json(out_dir / "summary.json", {"corpus": name, "shared": shared, "splits": summary})
    return summary


def differences(found: Mapping[str, int], published: Mapping[str, int] | int | None) -> dict[str, int]:
    """What was found minus what is published, by label (or "all"), where they are not equal."""
    if published is None:
        return {}
    if isinstance(published, int):
        surplus = sum(found.values()) - published
        return {"all": surplus} if surplus else {}
    labels = sorted(found.keys() | published.keys())
    return {
        label: found.get(label, 0) - published.get(label, 0)
        for label in labels
        if found.get(label, 0) != published.get(label, 0)
    }


def check_labels(where: str, label: str, known: Sequence[str]) -> str:
    """The label; raises CorpusError, with the place, unless it is a known one."""
    if label not in known:
        raise CorpusError(f"{where}: expected one of {' '.join(known)}, found the dialect {label!r}")
    return label


def name_utterances(items: Iterable[Item]) -> dict[tuple[str, str], tuple[str, str]]:
    """(programme, publisher's id) -> (utterance id, speaker id), such that both sort alike.

    The publisher's ids stay where they begin with their programme and that order holds. It breaks where one programme
    is the beginning of another (`ab_1` and `ab-c_1`); then what sorts below a full stop becomes `~` in all programmes,
    and a hyphen joins them to the publisher's id.
    """
    keys = sorted({(item.programme, item.utt_id) for item in items})
    plain = {(programme, utt_id): ("_".join(programme.split()), "_".join(utt_id.split())) for programme, utt_id in keys}
    names = {
        key: (own if own.startswith(speaker) else f"{speaker}-{own}", speaker) for key, (speaker, own) in plain.items()
    }
    speakers = [speaker for _, speaker in sorted(names.values())]
    if speakers == sorted(speakers):
        return names
    names = {}
    for key, (speaker, own) in plain.items():
        safe = _BELOW_DOT.sub("~", speaker)
        names[key] = (f"{safe}-{own}", safe)
    return names


def _utterance(utt_id: str, speaker: str, one: Kept) -> Utterance:
    return Utterance(
        utt_id=utt_id,
        speaker=speaker,
        audio=one.recording.path,
        samples=one.samples,
        start=one.item.start,
        end=one.item.end,
        language="ar",
        dialect=one.item.dialect,
    )


def _inside(
    corpus_dir: Path, items: Sequence[Item], recordings: Mapping[str, Recording], tally: BadFileTally
) -> list[Kept]:
    """The items whose recording is usable and holds them; a segment that runs past the end by rounding is cut."""
    kept = []
    for item in items:
        recording = recordings.get(item.source)
        if recording is None:
            continue  # counted by ingest
        if item.start is not None:
            end = min(item.end, recording.samples)
            if item.end - end > _SLACK or end - item.start < MIN_SAMPLES:
                tally.skip(
                    corpus_dir / item.source,
                    f"{item.where}: segment {item.utt_id} from {item.start / SAMPLE_RATE:.2f} to "
                    f"{item.end / SAMPLE_RATE:.2f} s, the recording has {recording.samples / SAMPLE_RATE:.2f} s",
                )
                continue
            item = replace(item, end=end)
        kept.append(Kept(item, recording))
    return kept


def _consistent(corpus_dir: Path, kept: dict[str, list[Kept]], tally: BadFileTally) -> dict[str, list[Kept]]:
    """Without the utterances that are listed with several dialects; one that is listed twice is used once."""
    result = {}
    for split, own in kept.items():
        listed: dict[object, list[Kept]] = defaultdict(list)
        for one in own:
            listed[one.recording.sha256, one.item.start, one.item.end].append(one)
        result[split] = []
        for copies in listed.values():
            if len({one.item.dialect for one in copies}) > 1:
                labels = ", ".join(f"{one.item.where or one.item.source} {one.item.dialect}" for one in copies)
                for source in sorted({one.item.source for one in copies}):
                    tally.skip(corpus_dir / source, f"the same audio has several dialects: {labels}")
            else:
                result[split].append(min(copies, key=lambda one: one.item.utt_id))
        ids = Counter(one.item.utt_id for one in result[split])
        repeated = [utt_id for utt_id, count in ids.items() if count > 1]
        if repeated:
            places = [one.item.where or one.item.source for one in result[split] if one.item.utt_id == repeated[0]]
            raise CorpusError(f"{' and '.join(places)}: utterance id {repeated[0]} names different recordings")
        result[split].sort(key=lambda one: one.item.utt_id)
    return result


def _apart(
    name: str, kept: Mapping[str, list[Kept]], shared: str
) -> tuple[dict[str, list[Kept]], dict[str, int]]:
    """The splits without programmes and recordings of a later split, and how many utterances that concerns in each."""
    result, overlap = dict(kept), {}
    order = [split for split in SPLITS if split in kept] + [split for split in kept if split not in SPLITS]
    for place, split in enumerate(order):
        later = {key for other in order[place + 1 :] for one in kept[other] for key in _keys(one)}
        common = [one for one in kept[split] if later & _keys(one)]
        if not common:
            continue
        overlap[split] = len(common)
        programmes = sorted({one.item.programme for one in common})
        message = (
            f"{name}: {len(common)} utterances of {split} are of {len(programmes)} programmes (or recordings) that "
            f"are also in {' or '.join(order[place + 1 :])}, as {programmes[0]}"
        )
        if shared == "refuse":
            raise CorpusError(f"{message}; shared=drop leaves them out of {split}")
        _log.warning("%s: %s", message, "left out" if shared == "drop" else "kept (shared=keep)")
        if shared == "drop":
            gone = {id(one) for one in common}
            result[split] = [one for one in kept[split] if id(one) not in gone]
    return result, overlap


def _keys(one: Kept) -> set[tuple[str, str]]:
    return {("programme", one.item.programme), ("audio", one.recording.sha256)}


def _report(name: str, split: str, entry: Mapping) -> None:
    _log.info("%s %s: %d utterances, %d programmes, %.3f h", name, split, *list(entry.values())[:3])
    if entry["differs_from_published"]:
        gap = ", ".join(f"{label} {count:+d}" for label, count in entry["differs_from_published"].items())
        _log.warning("%s %s: not the published number of utterances: %s", name, split, gap)
