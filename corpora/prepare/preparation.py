"""Write data directories from a publisher's lists and recordings: the steps that all corpora share.

work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs, text_profile="mgb")
for split in ("train", "dev", "test"):
    work.add(split, items)          # Item: id, speaker, recording, text, start and end in seconds
work.write()

<out>/<split>/            data directories, with sources.tsv
<out>/summary.json        utterances, speakers and hours of each set, with the published counts
<out>/skipped.tsv         recordings and lines that cannot be used, with the reason; above 5 % nothing is written
<out>/excluded.tsv        valid utterances that are left out on purpose (no words, unclear, also in test)
<out>/overlaps.tsv        segments that overlap another one of their recording; they are kept
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from corpora import MIN_SAMPLES
from corpora.audio import SAMPLE_RATE
from corpora.datadir import Utterance, hours, write_datadir
from corpora.files import BadFileTally, CorpusError, write_json, write_tsv
from corpora.prepare.duplicates import find_pairs, warn_of
from corpora.prepare.sources import (
    SOURCES,
    Provenance,
    Recording,
    chosen_channel,
    read_recordings,
    safe_relative,
    write_sources,
)
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo
from corpora.text import normalise, printable

_OVERRUN = 0.5  # seconds past the end of a recording that count as rounding and are cut off
_OVERLAP = 0.01  # seconds, to which publishers round times

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """One utterance of a publisher's list.

    source: its recording, as a path inside the corpus folder.  where: file and line of the list.  start, end: in
    seconds, None for the whole recording.  channel: of a recording with several, from 0; None averages them, unless the
    user chose one (`prepare.sources.taking_channel`).
    """

    utt_id: str
    speaker: str
    source: str
    where: str
    text: str | None = None
    start: float | None = None
    end: float | None = None
    channel: int | None = None
    language: str = "ar"
    dialect: str | None = None
    emotion: str | None = None


class Preparation:
    """Collect the items of every split, then read the recordings and write the data directories."""

    def __init__(
        self,
        info: CorpusInfo,
        corpus_dir: Path,
        out_dir: Path,
        *,
        jobs: int = 1,
        text_profile: str = "none",
        skip_limit: float = 0.05,
    ):
        """skip_limit: tolerated share of unusable recordings, and of unusable lines."""
        self.info = info
        self.corpus_dir = Path(corpus_dir)
        self.out_dir = Path(out_dir)
        self._jobs = jobs
        self._profile = text_profile
        self._items: dict[str, list[Item]] = {}
        self._lines = BadFileTally(0, skip_limit, what="lines")
        self._files = BadFileTally(0, skip_limit)
        self._others: list[BadFileTally] = []
        self._excluded: list[tuple[str, str, str, str]] = []
        self._overlaps: list[tuple[str, str, str, str]] = []
        self._clipped: list[str] = []
        self._shared: list[str] = []

    def add(self, split: str, items: Iterable[Item]) -> None:
        """Take the items of a split. Items without words in the text profile are excluded and listed with their line.

        An item whose text is None belongs to data without transcripts.
        """
        own = self._items.setdefault(split, [])
        for item in items:
            self._lines.total += 1
            source = safe_relative(item.source)
            if source is None:
                self._lines.skip(Path(item.where), f"the path {item.source!r} leaves the corpus folder")
                continue
            text = item.text
            if text is not None:
                text = normalise(printable(text), self._profile)
                if not any(map(str.isalnum, text)):  # marks and punctuation are no words under any profile
                    self.exclude(split, item.utt_id, item.where, f"no words in the text {item.text!r}")
                    continue
            own.append(replace(item, source=source, text=text))

    def bad(self, where: str, reason: str) -> None:
        """Count a line that cannot be used; above the limit `write` refuses the corpus."""
        self._lines.total += 1
        self._lines.skip(Path(where), reason)

    def tally(self, what: str, total: int = 0) -> BadFileTally:
        """A tally of other inputs, such as transcripts; `write` checks it and lists its entries."""
        self._others.append(BadFileTally(total, self._lines.limit, what=what))
        return self._others[-1]

    def exclude(self, split: str, utt_id: str, where: str, reason: str) -> None:
        """List a valid utterance that is left out on purpose; the number of these has no limit."""
        self._excluded.append((split, utt_id, where, reason))

    def write(self, published: Mapping[str, int] | None = None) -> dict[str, list[Utterance]]:
        """Read the recordings and write all files; returns the utterances of each split.

        published: counts to compare with, for another release or a part of the corpus; None: those of `INFO`.
        Raises CorpusError when no utterance is left, TooManyBadFiles above the limit of bad lines or recordings.
        """
        for tally in (*self._others, self._lines):
            tally.check()
        recordings = self._recordings()
        self._files.check()
        splits = {split: self._utterances(split, items, recordings) for split, items in self._items.items()}
        self._lines.check()
        self._hold_out(splits)
        splits = {split: own for split, own in splits.items() if own}
        if not splits:
            raise CorpusError(f"{self.corpus_dir}: no utterance of {self.info.name} is left to write")
        written = {}
        for split, pairs in splits.items():
            written[split] = [utterance for utterance, _ in pairs]
            write_datadir(self.out_dir / split, written[split])
            rows = [Provenance(u.utt_id, self.info.name, own.source, own.sha256) for u, own in pairs]
            write_sources(self.out_dir / split, sorted(rows, key=lambda row: row.utt_id))
        self._report(written, self.info.published if published is None else published)
        return written

    def _recordings(self) -> dict[tuple[str, int | None], Recording]:
        """The usable recordings of all items; unusable ones are counted, with the line that names them."""
        named: dict[tuple[str, int | None], str] = {}
        for items in self._items.values():
            for item in items:
                named.setdefault((item.source, item.channel), item.where)
        self._files.total = len(named)
        stated = next((where for (_, channel), where in named.items() if channel is not None), None)
        if chosen_channel() is not None and stated is not None:
            raise CorpusError(
                f"--channel {chosen_channel()}: {self.info.name} names the channel of each utterance ({stated}); leave "
                "--channel out"
            )
        recordings = {}
        for channel in sorted({channel for _, channel in named}, key=str):
            sources: dict[str, str] = {}  # listed name -> name on the disk
            for source in sorted(source for source, own in named if own == channel):
                path = find_path(self.corpus_dir, source)
                if path.is_file():
                    sources[source] = path.relative_to(self.corpus_dir).as_posix()
                else:
                    self._files.skip(path, f"no such file, named by {named[source, channel]}")
            made = read_recordings(
                self.corpus_dir,
                sorted(set(sources.values())),
                self.out_dir / "audio" / ("" if channel is None else f"channel{channel}"),
                tally=self._files,
                jobs=self._jobs,
                label=self.info.name,
                channel=channel,
            )
            recordings |= {(listed, channel): made[own] for listed, own in sources.items() if own in made}
        return recordings

    def _utterances(
        self, split: str, items: list[Item], recordings: Mapping[tuple[str, int | None], Recording]
    ) -> list[tuple[Utterance, Recording]]:
        """Pairs of utterance and recording, for items with a usable recording and times inside it."""
        taken: dict[str, Item] = {}
        pairs, spans = [], defaultdict(list)
        for item in items:
            recording = recordings.get((item.source, item.channel))
            if recording is None:
                continue
            if item.utt_id in taken:
                first = taken[item.utt_id].where
                self._lines.skip(Path(item.where), f"utterance id {item.utt_id} is already used by {first}")
                continue
            span = self._span(split, item, recording)
            if span is None:
                continue
            taken[item.utt_id] = item
            start, end = span
            pairs.append((_utterance(item, recording, start, end), recording))
            if start is not None:
                spans[item.source, item.channel].append((start, end, item))
        for own in spans.values():
            self._name_overlaps(split, own)
        return pairs

    def _span(self, split: str, item: Item, recording: Recording) -> tuple[int | None, int | None] | None:
        """First sample and end of an item, (None, None) for the whole recording, None for an unusable item."""
        if item.start is None and item.end is None:
            return None, None
        start = round((item.start or 0) * SAMPLE_RATE)
        end = recording.samples if item.end is None else round(item.end * SAMPLE_RATE)
        length = f"{item.source} has {recording.samples / SAMPLE_RATE:g} s"
        if end > recording.samples:
            if start >= recording.samples or end > recording.samples + _OVERRUN * SAMPLE_RATE:
                self._lines.skip(
                    Path(item.where), f"{item.utt_id} runs from {item.start or 0:g} to {item.end:g} s, but {length}"
                )
                return None
            self._clipped.append(f"{item.where}: {item.utt_id} ends at {item.end:g} s, {length}")
            end = recording.samples
        if start >= end:
            self._lines.skip(
                Path(item.where),
                f"{item.utt_id} runs from {start / SAMPLE_RATE:g} to {end / SAMPLE_RATE:g} s: no audio",
            )
            return None
        if end - start < MIN_SAMPLES:
            self.exclude(split, item.utt_id, item.where, f"{end - start} samples at 16 kHz: shorter than one frame")
            return None
        return start, end

    def _name_overlaps(self, split: str, spans: list[tuple[int, int, Item]]) -> None:
        spans.sort(key=lambda span: (span[0], span[1], span[2].utt_id))
        latest = spans[0]
        for span in spans[1:]:
            if latest[1] - span[0] > _OVERLAP * SAMPLE_RATE:
                shared = (min(latest[1], span[1]) - span[0]) / SAMPLE_RATE
                self._overlaps.append((split, span[2].utt_id, latest[2].utt_id, f"{shared:.2f}"))
            if span[1] > latest[1]:
                latest = span

    def _hold_out(self, splits: dict[str, list[tuple[Utterance, Recording]]]) -> None:
        """Remove from the other sets every utterance that shares audio with an utterance of a dev or test set."""
        held, held_sources = defaultdict(list), set()
        for split, pairs in splits.items():
            if is_held_out(split):
                for utterance, recording in pairs:
                    held[recording.sha256].append((*_stretch(utterance), utterance.utt_id, split))
                    held_sources.add(recording.source)
        if not held:
            return
        shared: set[str] = set()
        for split, pairs in splits.items():
            if is_held_out(split):
                continue
            kept = []
            for utterance, recording in pairs:
                start, end = _stretch(utterance)
                hit = next((own for own in held.get(recording.sha256, ()) if own[0] < end and start < own[1]), None)
                if hit:
                    self.exclude(split, utterance.utt_id, recording.source, f"also in {hit[3]}, as {hit[2]}")
                else:
                    kept.append((utterance, recording))
                    shared |= {recording.source} & held_sources
            splits[split] = kept
        self._shared = sorted(shared)
        self._exclude_copies(splits)

    def _exclude_copies(self, splits: dict[str, list[tuple[Utterance, Recording]]]) -> None:
        """Remove from the other sets every utterance with the samples of a held-out one; name those that are alike."""
        held = [utterance for split, pairs in splits.items() if is_held_out(split) for utterance, _ in pairs]
        for split, own in splits.items():
            if is_held_out(split):
                continue
            pairs = find_pairs([utterance for utterance, _ in own], held, jobs=self._jobs)
            copies = {pair.training.utt_id: pair.held_out.utt_id for pair in pairs if pair.equal}
            for utterance, recording in own:
                if utterance.utt_id in copies:
                    reason = f"the same samples are held out, as {copies[utterance.utt_id]}"
                    self.exclude(split, utterance.utt_id, recording.source, reason)
            splits[split] = [pair for pair in own if pair[0].utt_id not in copies]
            warn_of(pairs, f"{self.info.name}, {split}")

    def _report(self, written: Mapping[str, list[Utterance]], published: Mapping[str, int]) -> None:
        self._files.write(self.out_dir / "skipped.tsv", self._lines, *self._others)
        write_tsv(self.out_dir / "excluded.tsv", ("split", "utt_id", "where", "reason"), self._excluded)
        write_tsv(self.out_dir / "overlaps.tsv", ("split", "utt_id", "overlaps", "seconds"), self._overlaps)
        excluded: dict[str, int] = defaultdict(int)
        for split, *_ in self._excluded:
            excluded[split] += 1
        sets = {}
        for split, own in written.items():
            sets[split] = {
                "utterances": len(own),
                "speakers": len({utterance.speaker for utterance in own}),
                "hours": hours(sum(utterance.samples for utterance in own)),
                "excluded": excluded[split],
                **compare_count(self.info.name, split, len(own), published.get(split), excluded[split]),
            }
        for split in sorted(published.keys() - written.keys()):
            count = published[split]
            _log.warning("%s: the published set %s (%d utterances) is missing", self.info.name, split, count)
        earlier = sorted(
            path.parent.name for path in self.out_dir.glob(f"*/{SOURCES}") if path.parent.name not in written
        )
        if earlier:
            _log.warning(
                "%s: %s is of an earlier run and was not written now; delete it unless you want it",
                self.out_dir, ", ".join(earlier),
            )  # fmt: skip
        if self._clipped:
            _log.warning(
                "%d segments end up to %g s past their recording and are cut there, as %s",
                len(self._clipped), _OVERRUN, self._clipped[0],
            )  # fmt: skip
        if self._shared:
            _log.warning(
                "%s: %d recordings have other parts in training than in dev or test, as %s",
                self.info.name, len(self._shared), self._shared[0],
            )  # fmt: skip
        if self._overlaps:
            split, first, second, shared = self._overlaps[0]
            _log.warning(
                "%d segments overlap another one (overlaps.tsv), as %s: %s and %s by %s s",
                len(self._overlaps), split, first, second, shared,
            )  # fmt: skip
        write_json(
            self.out_dir / "summary.json",
            {
                "corpus": self.info.name,
                "text_profile": self._profile,
                "channel": chosen_channel(),
                "recordings_left_out": len(self._files.skipped),
                "lines_left_out": len(self._lines.skipped),
                "segments_cut_at_the_end": len(self._clipped),
                "segments_that_overlap": len(self._overlaps),
                "recordings_in_training_and_held_out": len(self._shared),
                "sets": sets,
            },
        )


def is_held_out(split: str) -> bool:
    """Whether a set of this name is for development or test."""
    return "dev" in split or "test" in split


def compare_count(corpus: str, name: str, found: int, published: int | None, excluded: int = 0) -> dict[str, int]:
    """Log a count and the published one; return the published count and the difference, if a count is published."""
    if published is None:
        _log.info("%s, %s: %d", corpus, name, found)
        return {}
    left_out = f"; {excluded} left out, see excluded.tsv" if excluded else ""
    level = logging.INFO if found == published else logging.WARNING
    difference = found - published
    _log.log(level, "%s, %s: %d, published are %d (%+d)%s", corpus, name, found, published, difference, left_out)
    return {"published": published, "difference": difference}


def _stretch(utterance: Utterance) -> tuple[int, int]:
    start = utterance.start or 0
    return start, start + utterance.samples


def _utterance(item: Item, recording: Recording, start: int | None, end: int | None) -> Utterance:
    return Utterance(
        utt_id=item.utt_id,
        speaker=item.speaker,
        audio=recording.path,
        samples=recording.samples if start is None else end - start,
        start=start,
        end=end,
        text=item.text,
        language=item.language,
        dialect=item.dialect,
        emotion=item.emotion,
    )
