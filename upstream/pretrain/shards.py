"""Shards of a corpus that outgrows a disk's seeks: Lhotse Shar, written by one command, read from front to back.

shards/
  train.json                    codec, lengths, hours by language, where the units come from; written last
  train/cuts.000000.jsonl.gz    Lhotse cuts: ids, lengths, speakers, text
  train/recording.000000.tar    FLAC or Opus, an utterance each
  train/units.000000.tar        labels at 50 Hz, where there are some

`lhotse.CutSet.from_shar(in_dir="shards/train")` reads them too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from corpora.audio import SAMPLE_RATE, AudioError, decode_audio, encode_audio
from corpora.datadir import Utterance, audio_sha256, can_be_read, read_utterance
from corpora.files import BadFileTally, atomic_file, read_json, remove_leftovers, sha256_json, write_json
from corpora.machine import parallel
from corpora.prepare.lhotse import whole_cut
from upstream.model.encoder import frame_count
from upstream.pretrain.data import group_hours, group_of

FORMAT = 1
MADE_FROM = "made_from.json"
CODECS = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}
SHARD_SECONDS = 3600.0  # of audio: about 60 MB of FLAC

log = logging.getLogger(__name__)


class ShardsError(ValueError):
    """Shards that are missing, damaged, or do not belong to the units asked for."""


@dataclass(frozen=True)
class Item:
    """One utterance of a shard: encoded audio, its length in samples, and its units (T,) or (T, S), S = 0 for none."""

    utt_id: str
    samples: int
    language: str
    content: bytes
    units: np.ndarray

    def waveform(self, first: int, samples: int) -> np.ndarray:
        """Samples `first` to `first + samples` as float32. Raises AudioError when the audio is another than indexed."""
        wav = decode_audio(self.content, f"shard audio of {self.utt_id}")
        if len(wav) != self.samples:
            raise AudioError(f"shard audio of {self.utt_id}: {len(wav)} samples, its cut says {self.samples}")
        return wav[first : first + samples]


@dataclass(frozen=True)
class ShardsInfo:
    """What `<folder>/<split>.json` says: utterances and seconds of every shard, hours by language, origin of the units.

    `audio_hours` are those of all audio in the shards, `hours` those of what is read: with units, where there are some.
    `sha256` stands for the ids and lengths of the utterances, their order, and the codec.
    """

    folder: Path
    split: str
    codec: str
    shards: list[dict[str, Any]]
    hours: dict[str, float]
    audio_hours: dict[str, float]
    sha256: str
    units: dict[str, Any] | None

    @classmethod
    def open(cls, folder: Path, split: str) -> ShardsInfo:
        """Read the index. Raises ShardsError when it is missing or of another form."""
        path = folder / f"{split}.json"
        if not path.is_file():
            raise ShardsError(f"{path}: no complete shards; `python -m upstream shards` makes them or goes on")
        content = read_json(path)
        if content.get("format") != FORMAT:
            raise ShardsError(f"{path}: format {content.get('format')} is unknown here (expected {FORMAT})")
        content.setdefault("audio_hours", content["hours"])  # an index from before they were told apart
        names = ("codec", "shards", "hours", "audio_hours", "sha256", "units")
        return cls(folder, split, **{key: content[key] for key in names})

    def without_units(self) -> ShardsInfo:
        """The same shards for a run that predicts none: all of their audio is read, their units are not."""
        return replace(self, units=None, hours=self.audio_hours)


def write_shards(
    utterances: Sequence[Utterance],
    folder: Path,
    split: str,
    *,
    codec: str = "flac",
    shard_seconds: float = SHARD_SECONDS,
    units: Mapping[str, np.ndarray] | None = None,
    units_info: dict[str, Any] | None = None,
    jobs: int = 1,
) -> ShardsInfo:
    """Write utterances in a random, fixed order into shards `<folder>/<split>/*` of about `shard_seconds` of audio.

    Shards that are there already are kept; so is the audio when only `units` are new. Utterances under 400 samples,
    those without units (where there are units), and audio that cannot be read (up to 5 %) are left out. Raises
    ShardsError for an unknown codec or a label that does not fit, TooManyBadFiles.
    """
    if codec not in CODECS:
        raise ShardsError(f"codec `{codec}` is unknown; choose {' or '.join(CODECS)}")
    plan = _plan(utterances, shard_seconds)
    if not plan:
        raise ShardsError(f"{folder}: no utterance is as long as one frame (25 ms)")
    made_from = [audio_sha256(shard) for shard in plan]
    identity = sha256_json([FORMAT, codec, shard_seconds, [[u.utt_id, u.samples] for shard in plan for u in shard]])
    index, out = folder / f"{split}.json", _Files(folder, split)
    index.unlink(missing_ok=True)
    out.keep_if("plan.json", identity, "cuts", "recording", "units")
    for number in out.changed(made_from) | out.repaired(plan):
        for field in ("cuts", "recording", "units"):  # the cuts first: they stand for the others
            out.path(field, number).unlink(missing_ok=True)
    out.note(made_from)
    todo = [number for number in range(len(plan)) if not out.path("cuts", number).exists()]
    tasks = [(number, plan[number]) for number in todo]
    list(parallel(partial(_write_shard, out, codec), tasks, jobs=jobs, label="shards", unit="shard", fewest=2))

    tally = BadFileTally(sum(map(len, plan)))
    shards, held = [], []
    for number, shard in enumerate(plan):
        bad = read_json(out.left_out(number))
        for u in shard:
            if u.utt_id in bad:
                tally.skip(u.audio, f"utterance {u.utt_id}: {bad[u.utt_id]}")
        kept = [u for u in shard if u.utt_id not in bad]
        held += kept
        shards.append({"utterances": len(kept), "seconds": round(sum(u.samples for u in kept) / SAMPLE_RATE, 3)})
    tally.check()
    _label_shards(out, plan, units, units_info)
    content = {
        "format": FORMAT,
        "codec": codec,
        "sha256": identity,
        "hours": group_hours((group_of(u), u.samples) for u in held if units is None or u.utt_id in units),
        "audio_hours": group_hours((group_of(u), u.samples) for u in held),
        "units": units_info,
        "shards": shards,
    }
    write_json(index, content)
    return ShardsInfo.open(folder, split)


@dataclass(frozen=True)
class _Files:
    """Names of the files of a split; what is ours and not Shar's stands in a hidden folder beside them."""

    folder: Path
    split: str

    def path(self, field: str, number: int) -> Path:
        return self.folder / self.split / f"{field}.{number:06d}.{'jsonl.gz' if field == 'cuts' else 'tar'}"

    def left_out(self, number: int) -> Path:
        return self.folder / f".{self.split}" / f"left_out.{number:06d}.json"

    def remove(self, field: str) -> None:
        for path in (self.folder / self.split).glob(f"{field}.[0-9]*"):
            path.unlink()

    def changed(self, made_from: list[str]) -> set[int]:
        """The shards whose audio files are others than those of last time."""
        record = self.folder / f".{self.split}" / MADE_FROM
        before = read_json(record) if record.is_file() else []
        return {number for number, now in enumerate(made_from) if before[number : number + 1] != [now]}

    def repaired(self, plan: list[list[Utterance]]) -> set[int]:
        """The shards that leave out audio which can be read now."""
        found = set()
        for number, shard in enumerate(plan):
            path = self.left_out(number)
            bad = read_json(path) if path.is_file() else {}
            if any(can_be_read(u) for u in shard if u.utt_id in bad):
                log.info("%s: audio that could not be read can be read now; writing the shard again", path)
                found.add(number)
        return found

    def note(self, made_from: list[str]) -> None:
        """Remember the audio files of every shard."""
        write_json(self.folder / f".{self.split}" / MADE_FROM, made_from)

    def keep_if(self, name: str, wanted: Any, *fields: str) -> None:
        """Remove the files of some fields unless the record `name` says that they were made as `wanted`."""
        record = self.folder / f".{self.split}" / name
        if not record.is_file() or read_json(record) != wanted:
            for field in fields:
                self.remove(field)
            write_json(record, wanted)


def _plan(utterances: Sequence[Utterance], shard_seconds: float) -> list[list[Utterance]]:
    """Utterances by shard. Shuffled once and for all: neighbours in a data directory share their speaker."""
    usable = [u for u in utterances if frame_count(u.samples) > 0]
    plan: list[list[Utterance]] = []
    room = 0.0
    for i in np.random.default_rng(0).permutation(len(usable)):
        if room <= 0:
            plan.append([])
            room = shard_seconds
        plan[-1].append(usable[i])
        room -= usable[i].samples / SAMPLE_RATE
    return plan


def _write_shard(out: _Files, codec: str, task: tuple[int, list[Utterance]]) -> None:
    """Audio and cuts of one shard; the cuts take their name last and stand for a complete shard."""
    from lhotse.serialization import SequentialJsonlWriter
    from lhotse.shar.writers.tar import TarWriter

    number, shard = task
    bad: dict[str, str] = {}
    (out.folder / out.split).mkdir(parents=True, exist_ok=True)
    for field in ("recording", "cuts"):
        remove_leftovers(out.path(field, number))
    with (
        atomic_file(out.path("cuts", number)) as cuts_path,
        atomic_file(out.path("recording", number)) as audio_path,
    ):
        with TarWriter(str(audio_path), None) as tar, SequentialJsonlWriter(cuts_path) as cuts:
            for u in shard:
                try:
                    wav = read_utterance(u)
                except AudioError as error:
                    bad[u.utt_id] = str(error)
                    continue
                cut = whole_cut(u)
                tar.write(f"{u.utt_id}.{codec}", BytesIO(encode_audio(wav, *CODECS[codec])))
                manifest = json.dumps(cut.recording.to_dict()) + "\n"
                tar.write(f"{u.utt_id}.json", BytesIO(manifest.encode()), count=False)
                cuts.write(cut)
        write_json(out.left_out(number), bad)


def _label_shards(
    out: _Files,
    plan: list[list[Utterance]],
    units: Mapping[str, np.ndarray] | None,
    info: dict[str, Any] | None,
) -> None:
    """The field `units` of every shard that has none from the same origin."""
    from lhotse.array import Array, TemporalArray
    from lhotse.shar.writers.array import ArrayTarWriter

    # A list: the labels of several sets are columns, and JSON objects have no order to compare.
    out.keep_if("units.json", None if info is None else [[name, info[name]] for name in info], "units")
    if units is None:
        return
    for number, shard in enumerate(tqdm(plan, desc="units of shards", unit="shard")):
        path = out.path("units", number)
        if path.exists():
            continue
        bad = read_json(out.left_out(number))
        with atomic_file(path) as temporary, ArrayTarWriter(str(temporary), None) as tar:
            for u in shard:
                if u.utt_id in bad:
                    continue
                if u.utt_id not in units:
                    tar.write_placeholder(u.utt_id)
                    continue
                labels = np.asarray(units[u.utt_id])
                if len(labels) != frame_count(u.samples):
                    raise ShardsError(
                        f"utterance {u.utt_id}: {len(labels)} units, but its {u.samples} samples give "
                        f"{frame_count(u.samples)} frames; make the units again"
                    )
                array = Array("shar", "", "", list(labels.shape))
                tar.write(u.utt_id, labels, TemporalArray(array, temporal_dim=0, frame_shift=0.02, start=0))


def read_shards(info: ShardsInfo, numbers: Sequence[int]) -> Iterator[Item]:
    """The utterances of some shards, shard after shard, each file from front to back.

    Where the shards have units, utterances without any are left out. Raises ShardsError for a file that is missing.
    """
    from lhotse import CutSet

    fields = ("cuts", "recording", "units") if info.units is not None else ("cuts", "recording")
    files = _Files(info.folder, info.split)
    paths = {field: [str(files.path(field, n)) for n in numbers] for field in fields}
    for path in (path for row in paths.values() for path in row):
        if not Path(path).is_file():
            raise ShardsError(f"{path}: missing, but {info.split}.json lists it; write the shards again")
    for cut in CutSet.from_shar(fields=paths):
        samples = cut.recording.num_samples
        labels = np.empty((frame_count(samples), 0), np.uint16)
        if info.units is not None:
            if not cut.has_custom("units"):
                continue
            labels = cut.units.load()
        language = cut.supervisions[0].language or "unknown"
        yield Item(cut.id, samples, language, cut.recording.sources[0].source, labels)
