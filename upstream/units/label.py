"""Label audio with units, resumable, in shards: fit a codebook on a sample, then label every split in one pass.

Features are not stored: each shard of audio becomes one file of integers. A killed run resumes at its unfinished shard
and gives the same bytes as an undisturbed one.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from corpora.audio import SAMPLE_RATE
from corpora.batches import random_share
from corpora.datadir import Utterance, audio_sha256, can_be_read, read_datadir
from corpora.files import BadFileTally, atomic_file, only_writer, sha256_json, write_json
from upstream.config import TargetConfig
from upstream.distributed import first_rank_first, place, process_group, wait_for_all
from upstream.errors import UpstreamError
from upstream.model.encoder import frame_count
from upstream.model.family import FRAME_RATE
from upstream.model.states import advance, audio_bar, count_unreadable, shards_of
from upstream.units.codebook import Codebook, check_pca
from upstream.units.features import Source, feature_batches, open_source
from upstream.units.units import DTYPE, TOO_SHORT, Units, UnitsInfo, UnitsWriter

CODEBOOK = "codebook.safetensors"
REPORT = "report.json"
FIT_HOURS = 10.0
# A larger sample of features is thinned frame by frame to this size; PCA and k-means take about as much again.
FIT_BYTES = 1 << 30
SPEAKER_SHARE = 0.5  # above it, a warning
SHARD_SECONDS = 1800.0  # of audio: a killed run loses the labels of at most one shard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitReport:
    """Statistics of the units of one split; entropy of the labels in bits, perplexity = 2 ** entropy.

    `speaker_share` is the share of the speakers' entropy that the units of frames carry, less the share that chance
    gives: 0 if all speakers use the units alike, near 1 if a unit names its speaker. None with one speaker.
    """

    utterances: int
    too_short: int
    unreadable: int
    frames: int
    hours: float
    clusters_in_use: int
    entropy: float
    perplexity: float
    speaker_share: float | None


@dataclass(frozen=True)
class UnitsReport:
    """Content of `report.json`: origin of the units, fit of the codebook, statistics of each split, and the card
    entries of the model behind the units and of its ancestors (`upstream.model.lineage`)."""

    info: UnitsInfo
    codebook: dict[str, Any]
    splits: dict[str, SplitReport]
    lineage: dict[str, dict[str, Any]] = field(default_factory=dict)


def make_units(
    data: dict[str, Path], out_dir: Path, config: TargetConfig, *, shard_seconds: float = SHARD_SECONDS
) -> UnitsReport:
    """Fit one codebook on the split `train` (else on the first) and label every split of `data` with it.

    Writes `<out_dir>/{codebook.safetensors, <split>.bin, <split>.json, report.json}`. Existing output of the same
    audio, model and configuration is kept. Under torchrun or srun the first process fits and all of them label; the
    result equals that of one process. Utterances under 400 samples and unreadable audio (up to 5 %, listed in
    `<split>.left_out.tsv`) are left out and counted. Raises UpstreamError, TooManyBadFiles.
    """
    if not data:
        raise UpstreamError("make_units: no data directory is given")
    out_dir = Path(out_dir)
    # The lock is inside, so that an error of the first process ends the others too.
    with process_group() as here, only_writer(out_dir) if here.is_first else nullcontext():
        return _make_units(data, out_dir, config, shard_seconds)


def _make_units(data: dict[str, Path], out_dir: Path, config: TargetConfig, shard_seconds: float) -> UnitsReport:
    utterances = {split: _usable(read_datadir(path), path) for split, path in data.items()}
    hashes = {split: audio_sha256(usable) for split, (usable, _) in utterances.items()}
    source = open_source(config.source, config.layer, batch_seconds=config.batch_seconds)
    fit_split = "train" if "train" in data else next(iter(data))
    check_pca(config.pca, source.dim)  # before the features, which may take hours
    with first_rank_first():
        codebook = _codebook(out_dir / CODEBOOK, source, utterances[fit_split][0], config)
    facts = {"k": codebook.k, "pca_dim": codebook.pca_dim, "codebook_sha256": codebook.sha256, "cmvn": config.cmvn}
    info = UnitsInfo(**source.provenance(), **facts)
    splits = {}
    for split, (usable, too_short) in utterances.items():
        if not _is_finished(out_dir, split, info, hashes[split]):
            labelling = ShardedLabelling(
                out_dir, split, info, usable, data_sha256=hashes[split], shard_seconds=shard_seconds
            )
            labelling.run(source, codebook, config.batch_seconds, too_short)
        units = Units.open(out_dir, split)
        if any(can_be_read(u) for u in usable if u.utt_id in units.left_out):
            log.warning("%s: audio that was left out is readable now; delete %s.json to label again", units, split)
        splits[split] = _describe(units, usable, len(too_short))
        share = splits[split].speaker_share
        if share is not None and share > SPEAKER_SHARE and not config.cmvn:
            log.warning(
                "%s: the units carry %.0f %% of the speaker's identity, so a model would learn speakers and channels "
                "instead of sounds; make these units with cmvn=true",
                units,
                100 * share,
            )
    report = UnitsReport(info, {"k": codebook.k, "sha256": codebook.sha256, **codebook.facts}, splits, source.lineage())
    if place().is_first:
        write_json(out_dir / REPORT, asdict(report))
    return report


def _usable(utterances: Sequence[Utterance], path: Path) -> tuple[list[Utterance], list[str]]:
    """Utterances of at least one frame, and the ids of the others."""
    usable = [u for u in utterances if frame_count(u.samples) > 0]
    short = [u.utt_id for u in utterances if frame_count(u.samples) == 0]
    if short:
        log.info("%s: %d utterances left out, %s; first %s", path, len(short), TOO_SHORT, short[0])
    if not usable:
        raise UpstreamError(f"{path}: no utterance is as long as one frame (25 ms)")
    return usable, short


def _codebook(path: Path, source: Source, utterances: Sequence[Utterance], config: TargetConfig) -> Codebook:
    """Load the codebook of an earlier run with the same fit, else fit one.

    A codebook belongs to the audio of its sample: other audio of the corpus may change without a new fit.
    """
    hours = FIT_HOURS if config.fit_hours is None else config.fit_hours
    chosen = fit_utterances(utterances, hours, config.seed)
    provenance = {
        **source.provenance(),
        "pca": config.pca,
        "whiten": config.whiten,
        "k": config.k,
        "fit_hours": hours,
        "seed": config.seed,
        "data_sha256": audio_sha256(chosen),
    }
    if config.cmvn:  # absent in the codebooks of earlier versions
        provenance["cmvn"] = True
    if path.is_file():
        try:
            codebook = Codebook.load(path)
        except UpstreamError as error:
            log.warning("%s; fitting a new one", error)
        else:
            if _same(codebook.facts["provenance"], provenance):
                log.info("%s: reusing this codebook, its fit is the same", path)
                return codebook
            log.info("%s: fitted with other settings or audio; fitting a new one", path)
    features = fit_sample(source, chosen, config)
    log.info("fitting k=%d, pca=%s on %d frames of %d dimensions", config.k, config.pca, *features.shape)
    codebook = Codebook.fit(
        features,
        config.k,
        pca=config.pca,
        whiten=config.whiten,
        seed=config.seed,
        provenance=provenance,
    )
    codebook.save(path)
    log.info(
        "codebook: k=%d, pca_dim=%s, explained variance %.4f, inertia %.5g of variance %.5g, %d clusters in use",
        codebook.k,
        codebook.pca_dim,
        codebook.explained_variance,
        codebook.inertia,
        codebook.facts["variance"],
        codebook.facts["clusters_in_use"],
    )
    return codebook


def _same(stored: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Equal except for `source`: the path of a model directory may change, its hash identifies it."""
    return {**stored, "source": None} == {**wanted, "source": None}


def fit_utterances(utterances: Sequence[Utterance], hours: float, seed: int) -> list[Utterance]:
    """Random utterances of at most `hours` in all, at least one."""
    if hours <= 0:
        raise UpstreamError(f"fit_hours={hours} must be positive")
    rng = np.random.default_rng([seed, 0])
    share_of = random_share([u.samples for u in utterances], hours * 3600 * SAMPLE_RATE, rng)
    return sorted((utterances[i] for i in share_of), key=lambda u: u.utt_id)


def fit_sample(
    source: Source, chosen: Sequence[Utterance], config: TargetConfig, *, limit: int = FIT_BYTES
) -> np.ndarray:
    """Features (N, D) of these utterances, thinned at random to `limit` bytes."""
    share = min(1.0, limit / (4 * source.dim * sum(frame_count(u.samples) for u in chosen)))
    kept = [max(1, int(share * frame_count(u.samples))) for u in chosen]
    features = np.empty((sum(kept), source.dim), np.float32)
    filled = 0
    unreadable: dict[str, str] = {}
    rng = np.random.default_rng([config.seed, 1])
    with audio_bar("features for k-means", chosen) as bar:
        for batch, frames in feature_batches(source, chosen, config.batch_seconds, unreadable, cmvn=config.cmvn):
            for x in frames:
                if share < 1:
                    keep = max(1, int(share * len(x)))
                    x = x[np.sort(rng.choice(len(x), keep, replace=False))]
                features[filled : filled + len(x)] = x.cpu().numpy()
                filled += len(x)
            advance(bar, batch)
    count_unreadable(BadFileTally(len(chosen)), chosen, unreadable)
    return features[:filled]


def _is_finished(out_dir: Path, split: str, info: UnitsInfo, data_sha256: str) -> bool:
    """Whether an earlier run wrote these units, complete and from the same audio."""
    if not (out_dir / f"{split}.json").is_file():
        return False
    try:
        units = Units.open(out_dir, split)
    except ValueError as error:
        log.warning("%s; labelling again", error)
        return False
    if _same(units.info.facts(), info.facts()) and units.data_sha256 == data_sha256:
        log.info("%s is complete already", units)
        return True
    log.info("%s has another origin; labelling again", units)
    return False


def _entropy(counts: np.ndarray) -> float:
    """Entropy in bits."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _speaker_share(units: Units, utterances: Sequence[Utterance]) -> float | None:
    """Mutual information of unit and speaker over frames, divided by the entropy of the speakers.

    Few frames of a speaker use few of the units, which alone looks like information. The same figure with the speakers
    of the utterances exchanged at random is subtracted.
    """
    kept = [u for u in utterances if u.utt_id in units]
    speakers = [u.speaker for u in kept]
    if len(set(speakers)) < 2:
        return None
    exchanged = np.random.default_rng(0).permutation(speakers).tolist()
    found, by_chance = (_information(units, kept, names) for names in (speakers, exchanged))
    return round(max(0.0, found - by_chance), 4)


def _information(units: Units, utterances: Sequence[Utterance], speakers: Sequence[str]) -> float:
    """Share of the entropy of the `speakers` of utterances that their units carry, 0 to 1."""
    counts = {speaker: np.zeros(units.info.k, np.int64) for speaker in speakers}
    for u, speaker in zip(utterances, speakers, strict=True):
        counts[speaker] += np.bincount(units[u.utt_id], minlength=units.info.k)
    frames = np.array([own.sum() for own in counts.values()])
    if np.count_nonzero(frames) < 2:
        return 0.0
    within = np.average([_entropy(own) if own.any() else 0.0 for own in counts.values()], weights=frames)
    return float((_entropy(sum(counts.values())) - within) / _entropy(frames))


def _describe(units: Units, utterances: Sequence[Utterance], too_short: int) -> SplitReport:
    counts = units.histogram()
    entropy = _entropy(counts)
    report = SplitReport(
        utterances=len(units),
        too_short=too_short,
        unreadable=len(units.left_out) - too_short,
        frames=int(counts.sum()),
        hours=round(int(counts.sum()) / FRAME_RATE / 3600, 4),
        clusters_in_use=int((counts > 0).sum()),
        entropy=round(entropy, 4),
        perplexity=round(2**entropy, 2),
        speaker_share=_speaker_share(units, utterances),
    )
    log.info(
        "%s: %d utterances, %.3f h, %d of %d clusters in use, perplexity %.1f, speaker share %s",
        units,
        report.utterances,
        report.hours,
        report.clusters_in_use,
        units.info.k,
        report.perplexity,
        report.speaker_share,
    )
    return report


class ShardedLabelling:
    """Labels a split in shards of consecutive utterances, one file each.

    Shards and the batches inside them depend on the utterances alone, so a shard that is labelled again has the same
    bytes. A shard's name depends on its own audio files: only shards with changed audio are labelled again.
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
        self.shards = shards_of(utterances, shard_seconds)
        self.folder = out_dir / f".{split}.shards"
        origins = [sha256_json([info.facts(), audio_sha256(shard)])[:16] for shard in self.shards]
        self.paths = [self.folder / f"{number:06d}-{origin}.safetensors" for number, origin in enumerate(origins)]

    def run(self, source: Source, codebook: Codebook, batch_seconds: float, too_short: Sequence[str]) -> None:
        """Label the missing shards and join all of them; `too_short` are ids to list as left out.

        Rank r of n labels shards r, r+n, ...; the first rank joins them when all are done.
        """
        here = place()
        if here.is_first:
            for stale in {*self.folder.glob("[!.]*")} - {*self.paths}:
                shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
        mine = range(here.rank, len(self.shards), here.ranks)
        tally = BadFileTally(len(self.utterances))
        with audio_bar(f"units of {self.split}", [u for number in mine for u in self.shards[number]]) as bar:
            for number in mine:
                shard = self.shards[number]
                found = self._load(number)
                if found is not None and any(can_be_read(u) for u in shard if u.utt_id in found[1]):
                    log.info("%s: unreadable audio is readable now; labelling it again", self.paths[number])
                    found = None
                if found is None:
                    log.info("labelling %s", self.paths[number])
                    unreadable = self._label(number, source, codebook, batch_seconds, bar)
                else:
                    unreadable = found[1]
                    advance(bar, shard)
                    bar.initial = bar.n  # shards of an earlier run do not count for the speed of this one
                count_unreadable(tally, shard, unreadable)
        wait_for_all()
        if here.is_first:
            self._join(too_short)
        wait_for_all()

    def _label(
        self, number: int, source: Source, codebook: Codebook, batch_seconds: float, bar: tqdm
    ) -> dict[str, str]:
        """Label one shard into its file; returns id and reason of its unreadable utterances."""
        shard = self.shards[number]
        labels: dict[str, np.ndarray] = {}
        unreadable: dict[str, str] = {}
        for batch, features in feature_batches(source, shard, batch_seconds, unreadable, cmvn=self.info.cmvn):
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
            temporary.write_bytes(save(arrays, {"bad": json.dumps(unreadable, ensure_ascii=False)}))
        return unreadable

    def _load(self, number: int) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
        """Labels by utterance id, and reasons by unreadable id; None if the file is missing or damaged."""
        path = self.paths[number]
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as file:
                unreadable: dict[str, str] = json.loads(file.metadata()["bad"])
                labels, lengths = file.get_tensor("labels"), file.get_tensor("lengths")
        except SafetensorError as error:
            log.warning("%s is damaged (%s); labelling it again", path, error)
            return None
        ids = [u.utt_id for u in self.shards[number] if u.utt_id not in unreadable]
        parts: list[Any] = np.split(labels, np.cumsum(lengths)[:-1]) if ids else []
        return dict(zip(ids, parts, strict=True)), unreadable

    def _join(self, too_short: Sequence[str]) -> None:
        tally = BadFileTally(len(self.utterances))
        with UnitsWriter(self.out_dir, self.split, self.info, data_sha256=self.data_sha256) as writer:
            for utt_id in too_short:
                writer.leave_out(utt_id, TOO_SHORT)
            for number in range(len(self.shards)):
                found = self._load(number)
                if found is None:
                    raise UpstreamError(f"{self.paths[number]} cannot be read back; start the command again")
                for utt_id, labels in found[0].items():
                    writer.add(utt_id, labels)
                audio = {u.utt_id: u.audio for u in self.shards[number]}
                for utt_id, reason in found[1].items():
                    writer.leave_out(utt_id, reason)
                    # Not `skip`: this process or another one has logged it.
                    tally.skipped.append((audio[utt_id], f"utterance {utt_id}: {reason}"))
            tally.check()
        if tally.skipped:
            tally.write(self.out_dir / f"{self.split}.left_out.tsv")
        shutil.rmtree(self.folder, ignore_errors=True)
