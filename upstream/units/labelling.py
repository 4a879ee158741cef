"""One pass over the audio of a split that writes integers only, shard by shard, and goes on where it was killed."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor
from tqdm import tqdm

from corpora.audio import SAMPLE_RATE, AudioError
from corpora.batches import length_batches
from corpora.datadir import Utterance, audio_sha256, can_be_read, read_utterance
from corpora.files import BadFileTally, atomic_file, sha256_json
from upstream.distributed import place, wait_for_all
from upstream.model.encoder import frame_count
from upstream.units.codebook import Codebook
from upstream.units.features import FeatureError, Source
from upstream.units.units import DTYPE, TOO_SHORT, UnitsError, UnitsInfo, UnitsWriter

SHARD_SECONDS = 1800.0  # of audio: what a kill can lose
READERS = 4

log = logging.getLogger(__name__)


def feature_batches(
    source: Source, utterances: Sequence[Utterance], batch_seconds: float, bad: dict[str, str]
) -> Iterator[tuple[list[Utterance], list[Tensor]]]:
    """Features (T, D) of utterances of similar length, the audio of the next batch read ahead in threads.

    An utterance whose audio cannot be used is left out, and `bad` receives its id and the reason. Raises FeatureError
    for features that are not finite or of a wrong length, naming the utterance.
    """
    # Longest first: what does not fit into memory shows at once.
    plan = length_batches([u.samples for u in utterances], int(batch_seconds * SAMPLE_RATE))[::-1]
    pool = ThreadPoolExecutor(READERS)
    try:
        ahead = None
        for number in range(len(plan)):
            reading = ahead or [pool.submit(read_utterance, utterances[i]) for i in plan[number]]
            if number + 1 < len(plan):
                ahead = [pool.submit(read_utterance, utterances[i]) for i in plan[number + 1]]
            batch, wavs = [], []
            for i, future in zip(plan[number], reading, strict=True):
                try:
                    wavs.append(future.result())
                    batch.append(utterances[i])
                except AudioError as error:
                    bad[utterances[i].utt_id] = str(error)
            if batch:
                yield batch, _checked(source, batch, wavs)
    finally:
        pool.shutdown(cancel_futures=True)


def _checked(source: Source, batch: Sequence[Utterance], wavs: Sequence[np.ndarray]) -> list[Tensor]:
    features = source.features(wavs)
    for utterance, x in zip(batch, features, strict=True):
        frames = frame_count(utterance.samples)
        if x.shape != (frames, source.dim):
            raise FeatureError(
                f"utterance {utterance.utt_id}: features of shape {tuple(x.shape)}, expected {(frames, source.dim)}"
            )
        if not torch.isfinite(x).all():
            name = source.provenance()["source"]
            raise FeatureError(
                f"utterance {utterance.utt_id}: the features of {name} hold NaN or infinity; the model is broken"
            )
    return features


def progress(what: str, utterances: Sequence[Utterance]) -> tqdm:
    """A bar that counts seconds of audio; `advance` moves it."""
    total = sum(u.samples for u in utterances) / SAMPLE_RATE
    return tqdm(total=total, desc=what, unit="s", unit_scale=True, mininterval=1.0)


def advance(bar: tqdm, utterances: Sequence[Utterance]) -> None:
    """Count the utterances as done."""
    done = sum(u.samples for u in utterances) / SAMPLE_RATE
    bar.update(min(done, bar.total - bar.n))  # the sum of the parts may exceed the whole by a rounding error


class ShardedLabelling:
    """A split cut into runs of consecutive utterances, each labelled into a file of its own.

    The cut and the batches inside depend on the utterances alone: a shard that was lost is made again to the same
    bytes. A shard belongs to its own audio files, so repairing some of a corpus costs the shards that hold them.
    """

    def __init__(
        self,
        out_dir: Path,
        split: str,
        info: UnitsInfo,
        utterances: Sequence[Utterance],
        *,
        data_sha256: str,
        shard_seconds: float = SHARD_SECONDS,
    ) -> None:
        self.out_dir, self.split, self.info = out_dir, split, info
        self.utterances, self.data_sha256 = utterances, data_sha256
        self.shards: list[list[Utterance]] = []
        room = 0.0
        for utterance in utterances:
            if room <= 0:
                self.shards.append([])
                room = shard_seconds
            self.shards[-1].append(utterance)
            room -= utterance.samples / SAMPLE_RATE
        self.folder = out_dir / f".{split}.shards"
        made_from = [[asdict(info), audio_sha256(shard)] for shard in self.shards]
        self.paths = [
            self.folder / f"{number:06d}-{sha256_json(of)[:16]}.safetensors" for number, of in enumerate(made_from)
        ]

    def run(self, source: Source, codebook: Codebook, batch_seconds: float, too_short: Sequence[str]) -> None:
        """Label the shards that are not there yet and join them; `too_short` are ids to list as left out.

        Several processes take every so-manieth shard each; the first one joins them when all are done.
        """
        here = place()
        if here.is_first:
            for stale in {*self.folder.glob("[!.]*")} - {*self.paths}:
                shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
        mine = range(here.rank, len(self.shards), here.ranks)
        tally = BadFileTally(len(self.utterances))
        with progress(f"units of {self.split}", [u for number in mine for u in self.shards[number]]) as bar:
            for number in mine:
                shard = self.shards[number]
                found = self._load(number)
                if found is not None and any(can_be_read(u) for u in shard if u.utt_id in found[1]):
                    log.info("%s: audio that could not be read can be read now; labelling it again", self.paths[number])
                    found = None
                if found is None:
                    bad = self._label(number, source, codebook, batch_seconds, bar)
                else:
                    bad = found[1]
                    advance(bar, shard)
                    bar.initial = bar.n  # what an earlier run did says nothing about the speed of this one
                for utterance in shard:
                    if utterance.utt_id in bad:
                        tally.skip(utterance.audio, f"utterance {utterance.utt_id}: {bad[utterance.utt_id]}")
                if bad:
                    tally.check()
        wait_for_all()
        if here.is_first:
            self._join(too_short)
        wait_for_all()

    def _label(
        self, number: int, source: Source, codebook: Codebook, batch_seconds: float, bar: tqdm
    ) -> dict[str, str]:
        """Label one shard into its file; returns the ids of what could not be used, and why."""
        shard = self.shards[number]
        labels: dict[str, np.ndarray] = {}
        bad: dict[str, str] = {}
        for batch, features in feature_batches(source, shard, batch_seconds, bad):
            joint = codebook.assign(torch.cat(features)).astype(DTYPE)
            ends = np.cumsum([len(x) for x in features])
            labels.update(zip((u.utt_id for u in batch), np.split(joint, ends[:-1]), strict=True))
            advance(bar, batch)
        ordered = [labels[u.utt_id] for u in shard if u.utt_id in labels]
        arrays = {
            "labels": np.concatenate([*ordered, np.empty(0, DTYPE)]),
            "lengths": np.array([len(x) for x in ordered], np.int64),
        }
        with atomic_file(self.paths[number]) as temporary:
            temporary.write_bytes(save(arrays, {"bad": json.dumps(bad, ensure_ascii=False)}))
        return bad

    def _load(self, number: int) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
        """Labels by utterance id, and what was left out and why; None when the shard is not there."""
        path = self.paths[number]
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as file:
                bad: dict[str, str] = json.loads(file.metadata()["bad"])
                labels, lengths = file.get_tensor("labels"), file.get_tensor("lengths")
        except SafetensorError as error:
            log.warning("%s is damaged (%s); labelling it again", path, error)
            return None
        ids = [u.utt_id for u in self.shards[number] if u.utt_id not in bad]
        parts: list[Any] = np.split(labels, np.cumsum(lengths)[:-1]) if ids else []
        return dict(zip(ids, parts, strict=True)), bad

    def _join(self, too_short: Sequence[str]) -> None:
        tally = BadFileTally(len(self.utterances))
        with UnitsWriter(self.out_dir, self.split, self.info, data_sha256=self.data_sha256) as writer:
            for utt_id in too_short:
                writer.leave_out(utt_id, TOO_SHORT)
            for number in range(len(self.shards)):
                found = self._load(number)
                if found is None:
                    raise UnitsError(f"{self.paths[number]} cannot be read back; start the command again")
                for utt_id, labels in found[0].items():
                    writer.add(utt_id, labels)
                audio = {u.utt_id: u.audio for u in self.shards[number]}
                for utt_id, reason in found[1].items():
                    writer.leave_out(utt_id, reason)
                    tally.skipped.append((audio[utt_id], f"utterance {utt_id}: {reason}"))
            tally.check()
        if tally.skipped:
            tally.write(self.out_dir / f"{self.split}.left_out.tsv")
        shutil.rmtree(self.folder, ignore_errors=True)
