"""Write a training split as Lhotse Shar shards, and train from them with sequential reads in bounded memory.

For corpora so large that random access to single files is too slow.

    shards/
      train.json                    codec, lengths, hours by language, origin of the units; written last
      train/cuts.000000.jsonl.gz    Lhotse cuts: ids, lengths, speakers, text
      train/recording.000000.tar    FLAC or Opus, one file for each utterance
      train/units.000000.tar        labels at 50 Hz (optional)

`lhotse.CutSet.from_shar(in_dir="shards/train")` reads them too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Sampler
from tqdm import tqdm

from corpora.audio import SAMPLE_RATE, AudioError, decode_audio, encode_audio
from corpora.datadir import Utterance, audio_sha256, can_be_read
from corpora.files import BadFileTally, atomic_file, read_json, remove_leftovers, sha256_json, write_json
from corpora.machine import parallel
from corpora.prepare.lhotse import whole_cut
from upstream.config import PretrainConfig
from upstream.errors import UpstreamError
from upstream.model.encoder import frame_count
from upstream.model.states import count_unreadable, read_all, shards_of
from upstream.pretrain.data import (
    Clip,
    Position,
    PretrainDataset,
    Step,
    clip_batches,
    group_hours,
    group_of,
    language_repeats,
    repeated_crops,
)

FORMAT = 1
AUDIO_RECORD = "made_from.json"
CODECS = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}
SHARD_SECONDS = 3600.0  # of audio: about 60 MB of FLAC

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardItem:
    """One utterance of a shard: encoded audio, its length in samples, and its units (T,) or (T, S); S may be 0."""

    utt_id: str
    samples: int
    language: str
    content: bytes
    units: np.ndarray

    def waveform(self, first: int, samples: int) -> np.ndarray:
        """Samples `first` to `first + samples` as float32. Raises AudioError if the audio has another length."""
        wav = decode_audio(self.content, f"shard audio of {self.utt_id}")
        if len(wav) != self.samples:
            raise AudioError(f"shard audio of {self.utt_id}: {len(wav)} samples, its cut says {self.samples}")
        return wav[first : first + samples]


@dataclass(frozen=True)
class ShardsInfo:
    """Content of `<folder>/<split>.json`: utterances and seconds of every shard, hours by language, origin of units.

    `audio_hours` counts all audio in the shards, `hours` only utterances with units (all, if the shards hold no units).
    `sha256` identifies codec, order, ids and lengths of the utterances.
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
        """Read the index. Raises UpstreamError if it is missing or has another format."""
        path = folder / f"{split}.json"
        if not path.is_file():
            raise UpstreamError(f"{path}: no complete shards; `python -m upstream shards` writes or completes them")
        content = read_json(path)
        if content.get("format") != FORMAT:
            raise UpstreamError(f"{path}: format {content.get('format')} is unknown here (expected {FORMAT})")
        content.setdefault("audio_hours", content["hours"])  # missing in older indexes
        names = ("codec", "shards", "hours", "audio_hours", "sha256", "units")
        return cls(folder, split, **{key: content[key] for key in names})

    def without_units(self) -> ShardsInfo:
        """The same shards for a run that predicts no units: all audio is read, also of utterances without units."""
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

    Existing shards are kept, and the audio too if only `units` are new. Utterances under 400 samples and unreadable
    audio (up to 5 %) are left out; utterances without units stay, for runs that predict none. Raises UpstreamError for
    an unknown codec or labels of another length than their utterance, TooManyBadFiles.
    """
    if codec not in CODECS:
        raise UpstreamError(f"codec `{codec}` is unknown; choose {' or '.join(CODECS)}")
    usable = [u for u in utterances if frame_count(u.samples) > 0]
    # Shuffled once: neighbours in a data directory share their speaker.
    plan = shards_of((usable[i] for i in np.random.default_rng(0).permutation(len(usable))), shard_seconds)
    if not plan:
        raise UpstreamError(f"{folder}: no utterance is as long as one frame (25 ms)")
    audio = [audio_sha256(shard) for shard in plan]
    identity = sha256_json([FORMAT, codec, shard_seconds, [[u.utt_id, u.samples] for shard in plan for u in shard]])
    index, out = folder / f"{split}.json", _Files(folder, split)
    index.unlink(missing_ok=True)
    out.keep_if("plan.json", identity, "cuts", "recording", "units")
    for number in out.changed(audio) | out.repaired(plan):
        for field in ("cuts", "recording", "units"):  # cuts first: they mark a complete shard
            out.path(field, number).unlink(missing_ok=True)
    out.record_audio(audio)
    todo = [number for number in range(len(plan)) if not out.path("cuts", number).exists()]
    tasks = [(number, plan[number]) for number in todo]
    list(parallel(partial(_write_shard, out, codec), tasks, jobs=jobs, label="shards", unit="shard", fewest=2))

    unreadable: dict[str, str] = {}
    for number in range(len(plan)):
        unreadable |= read_json(out.left_out(number))
    everything = [u for shard in plan for u in shard]
    count_unreadable(BadFileTally(len(everything)), everything, unreadable)
    held = [u for u in everything if u.utt_id not in unreadable]
    shards = []
    for shard in plan:
        kept = [u for u in shard if u.utt_id not in unreadable]
        shards.append({"utterances": len(kept), "seconds": round(sum(u.samples for u in kept) / SAMPLE_RATE, 3)})
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
    """Paths of the files of a split; records that are not part of Shar lie in the hidden folder `.<split>`."""

    folder: Path
    split: str

    def path(self, field: str, number: int) -> Path:
        return self.folder / self.split / f"{field}.{number:06d}.{'jsonl.gz' if field == 'cuts' else 'tar'}"

    def left_out(self, number: int) -> Path:
        return self.folder / f".{self.split}" / f"left_out.{number:06d}.json"

    def remove(self, field: str) -> None:
        for path in (self.folder / self.split).glob(f"{field}.[0-9]*"):
            path.unlink()

    def changed(self, audio: list[str]) -> set[int]:
        """Shards whose audio files have changed since the last run."""
        record = self.folder / f".{self.split}" / AUDIO_RECORD
        before = read_json(record) if record.is_file() else []
        return {number for number, now in enumerate(audio) if before[number : number + 1] != [now]}

    def repaired(self, plan: list[list[Utterance]]) -> set[int]:
        """Shards without some audio that is readable now."""
        found = set()
        for number, shard in enumerate(plan):
            path = self.left_out(number)
            bad = read_json(path) if path.is_file() else {}
            if any(can_be_read(u) for u in shard if u.utt_id in bad):
                log.info("%s: unreadable audio is readable now; writing the shard again", path)
                found.add(number)
        return found

    def record_audio(self, audio: list[str]) -> None:
        """Store the fingerprint of the audio files of every shard."""
        write_json(self.folder / f".{self.split}" / AUDIO_RECORD, audio)

    def keep_if(self, name: str, wanted: Any, *fields: str) -> None:
        """Remove the files of some fields unless the record `name` equals `wanted`; then write the record."""
        record = self.folder / f".{self.split}" / name
        if not record.is_file() or read_json(record) != wanted:
            for field in fields:
                self.remove(field)
            write_json(record, wanted)


def _write_shard(out: _Files, codec: str, task: tuple[int, list[Utterance]]) -> None:
    """Write audio and cuts of one shard; the cuts are renamed last and mark a complete shard."""
    from lhotse.serialization import SequentialJsonlWriter
    from lhotse.shar.writers.tar import TarWriter

    number, shard = task
    unreadable: dict[str, str] = {}
    (out.folder / out.split).mkdir(parents=True, exist_ok=True)
    for field in ("recording", "cuts"):
        remove_leftovers(out.path(field, number))
    with (
        atomic_file(out.path("cuts", number)) as cuts_path,
        atomic_file(out.path("recording", number)) as audio_path,
    ):
        with TarWriter(str(audio_path), None) as tar, SequentialJsonlWriter(cuts_path) as cuts:
            for (u,), (wav,) in read_all([[u] for u in shard], unreadable):
                cut = whole_cut(u)
                tar.write(f"{u.utt_id}.{codec}", BytesIO(encode_audio(wav, *CODECS[codec])))
                manifest = json.dumps(cut.recording.to_dict()) + "\n"
                tar.write(f"{u.utt_id}.json", BytesIO(manifest.encode()), count=False)
                cuts.write(cut)
        write_json(out.left_out(number), unreadable)


def _label_shards(
    out: _Files,
    plan: list[list[Utterance]],
    units: Mapping[str, np.ndarray] | None,
    info: dict[str, Any] | None,
) -> None:
    """Write the field `units` of every shard that has no units of this origin."""
    from lhotse.array import Array, TemporalArray
    from lhotse.shar.writers.array import ArrayTarWriter

    # A list, because label sets are columns of the labels: their order matters, and JSON objects have none.
    out.keep_if("units.json", None if info is None else [[name, info[name]] for name in info], "units")
    if units is None:
        return
    for number, shard in enumerate(tqdm(plan, desc="units of shards", unit="shard")):
        path = out.path("units", number)
        if path.exists():
            continue
        unreadable = read_json(out.left_out(number))
        with atomic_file(path) as temporary, ArrayTarWriter(str(temporary), None) as tar:
            for u in shard:
                if u.utt_id in unreadable:
                    continue
                if u.utt_id not in units:
                    tar.write_placeholder(u.utt_id)
                    continue
                labels = np.asarray(units[u.utt_id])
                if len(labels) != frame_count(u.samples):
                    raise UpstreamError(
                        f"utterance {u.utt_id}: {len(labels)} units, but its {u.samples} samples give "
                        f"{frame_count(u.samples)} frames; make the units again"
                    )
                array = Array("shar", "", "", list(labels.shape))
                tar.write(u.utt_id, labels, TemporalArray(array, temporal_dim=0, frame_shift=0.02, start=0))


def read_shards(info: ShardsInfo, numbers: Sequence[int]) -> Iterator[ShardItem]:
    """The utterances of some shards, in order, with sequential reads.

    If the shards have units, utterances without units are left out. Raises UpstreamError for a missing file.
    """
    from lhotse import CutSet

    fields = ("cuts", "recording", "units") if info.units is not None else ("cuts", "recording")
    files = _Files(info.folder, info.split)
    paths = {field: [str(files.path(field, n)) for n in numbers] for field in fields}
    for path in (path for row in paths.values() for path in row):
        if not Path(path).is_file():
            raise UpstreamError(f"{path}: missing, but {info.split}.json lists it; write the shards again")
    for cut in CutSet.from_shar(fields=paths):
        samples = cut.recording.num_samples
        labels = np.empty((frame_count(samples), 0), np.uint16)
        if info.units is not None:
            if not cut.has_custom("units"):
                continue
            labels = cut.units.load()
        language = cut.supervisions[0].language or "unknown"
        yield ShardItem(cut.id, samples, language, cut.recording.sources[0].source, labels)


class ShardSampler(Sampler[Step]):
    """The steps `start` to `stop`-1 of one process, with `mix_shards` shards in memory.

    Every epoch has a new order of shards. Blocks of `mix_shards` go to the processes in turn; the crops of a block are
    shuffled in batches of similar length. A process with fewer batches starts its next epoch earlier, so no process
    waits for another. Step `start` begins at `position`.
    """

    def __init__(
        self,
        info: ShardsInfo,
        config: PretrainConfig,
        *,
        start: int = 0,
        stop: int | None = None,
        position: Position | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if len(info.shards) < ranks:
            raise UpstreamError(
                f"{info.folder}: {len(info.shards)} shards for {ranks} processes; write more and smaller ones "
                "(`python -m upstream shards` with a lower --shard-minutes)"
            )
        self.info, self.config = info, config
        self.start, self.stop = start, config.steps if stop is None else stop
        self.position: Position = position or (0, 0, 0)
        self.rank, self.ranks = rank, ranks
        # Every process must get a block in every epoch.
        self.mixed = min(config.mix_shards, len(info.shards) // ranks)
        self.hours = info.hours
        self.repeats = language_repeats(info.hours, config.temperature)

    def __len__(self) -> int:
        return self.stop - self.start

    def blocks(self, epoch: int) -> list[list[int]]:
        """The blocks of shards of this process in an epoch."""
        order = np.random.default_rng([self.config.seed, 4, epoch]).permutation(len(self.info.shards)).tolist()
        return [order[i : i + self.mixed] for i in range(0, len(order), self.mixed)][self.rank :: self.ranks]

    def _block_batches(self, epoch: int, shards: list[int]) -> list[list[Clip]]:
        rng = np.random.default_rng([self.config.seed, 5, epoch, shards[0]])
        items = ((item, item.samples, item.language) for item in read_shards(self.info, shards))
        return clip_batches(repeated_crops(items, self.repeats, self.config, rng), self.config, rng)

    def _rows(self) -> Iterator[tuple[list[Clip], Position]]:
        """Batches from `position` on, each with the position after it."""
        epoch, block, used = self.position
        empty = 0
        while True:
            for number, shards in list(enumerate(self.blocks(epoch)))[block:]:
                batches = self._block_batches(epoch, shards)
                for index in range(used, len(batches)):
                    empty = 0
                    yield batches[index], (epoch, number, index + 1)
                used = 0
            epoch, block, empty = epoch + 1, 0, empty + 1
            if empty > 1:
                raise UpstreamError(f"{self.info.folder}: an epoch has no batch; do the shards have units?")

    def __iter__(self) -> Iterator[Step]:
        rows = self._rows()
        slots = range(self.rank, self.ranks * self.config.accumulate, self.ranks)
        for number in range(self.start, self.stop):
            drawn = list(islice(rows, len(slots)))
            yield Step(number, [clips for clips, _ in drawn], list(slots), drawn[-1][1])


class ShardDataset(PretrainDataset):
    """Decodes the clips of a step: `dataset[step]` with a `Step` of a `ShardSampler` -> `StepBatches`."""

    def __init__(self, config: PretrainConfig, squeeze: int = 1) -> None:
        super().__init__([], {}, config, squeeze)

    def describe(self, clip: Clip) -> tuple[str, str, np.ndarray]:
        """Utterance id, group and all units of a clip's utterance."""
        return clip.utterance.utt_id, clip.utterance.language, clip.utterance.units

    def waveform(self, clip: Clip) -> np.ndarray:
        """The samples (N,) of a clip. Raises AudioError."""
        return clip.utterance.waveform(clip.first, clip.samples)


def check_shards(info: ShardsInfo, units: dict[str, object]) -> None:
    """Raise UpstreamError unless the shards hold the same label sets as dev; `units` are UnitsInfo by label set."""
    if info.units is None:
        raise UpstreamError(f"{info.folder}: the shards hold no units; `python -m upstream shards --units` adds them")
    if list(info.units) != list(units) and set(info.units) == set(units):
        raise UpstreamError(
            f"{info.folder}: the shards hold the label sets {', '.join(info.units)}, in this order; the run names "
            f"{', '.join(units)}. Write the shards again, or name the sets in their order"
        )
    if info.units != units:
        differ = [key for key in {**units, **info.units} if info.units.get(key) != units.get(key)]
        raise UpstreamError(
            f"{info.folder}: the units in the shards differ from those of the dev set ({', '.join(differ)}: "
            f"{json.dumps({key: info.units.get(key) for key in differ})}); write them with `python -m upstream shards`"
        )
