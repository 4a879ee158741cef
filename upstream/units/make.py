"""From data directories to units: fit a codebook on a sample, then label every split in one pass.

Features are never written: a shard of audio goes in, integers come out. A run that was killed goes on at the shard
it was in, and ends with the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from corpora.audio import SAMPLE_RATE
from corpora.batches import random_share
from corpora.datadir import Utterance, audio_sha256, can_be_read, read_datadir
from corpora.files import BadFileTally, write_json
from upstream.config import TargetConfig
from upstream.distributed import first_rank_first, place, process_group
from upstream.model.encoder import frame_count
from upstream.units.codebook import Codebook, CodebookError, check_pca
from upstream.units.features import FRAME_RATE, Source, open_source
from upstream.units.labelling import SHARD_SECONDS, ShardedLabelling, advance, feature_batches, progress
from upstream.units.units import TOO_SHORT, Units, UnitsError, UnitsInfo

CODEBOOK = "codebook.safetensors"
REPORT = "report.json"
FIT_HOURS = 10.0
# Longer samples are thinned frame by frame to stay below this; PCA and k-means take about as much again.
FIT_BYTES = 1 << 30

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitReport:
    """What the units of one split hold; entropy of the labels in bits, perplexity = 2 ** entropy."""

    utterances: int
    too_short: int
    unreadable: int
    frames: int
    hours: float
    clusters_in_use: int
    entropy: float
    perplexity: float


@dataclass(frozen=True)
class UnitsReport:
    """What `report.json` holds: where the units come from, how the codebook fits, each split, and the entries of the
    model behind the units and of its ancestors (`upstream.model.card`)."""

    info: UnitsInfo
    codebook: dict[str, Any]
    splits: dict[str, SplitReport]
    lineage: dict[str, dict[str, Any]] = field(default_factory=dict)


def make_units(
    data: dict[str, Path], out_dir: Path, config: TargetConfig, *, shard_seconds: float = SHARD_SECONDS
) -> UnitsReport:
    """Fit one codebook on the split `train` (else on the first) and label every split of `data` with it.

    Writes `<out_dir>/{codebook.safetensors, <split>.bin, <split>.json, report.json}`. What is there already and was
    made from the same audio, model and configuration is kept. Under torchrun or srun the first process fits, all
    of them label, and the result is that of one. Left out and counted: utterances under 400 samples, and audio that
    cannot be read (up to 5 %, listed in `<split>.left_out.tsv`). Raises UnitsError, CodebookError, FeatureError,
    TooManyBadFiles.
    """
    if not data:
        raise UnitsError("no data directories were given to make units of")
    out_dir = Path(out_dir)
    with process_group():
        return _make_units(data, out_dir, config, shard_seconds)


def _make_units(data: dict[str, Path], out_dir: Path, config: TargetConfig, shard_seconds: float) -> UnitsReport:
    utterances = {split: _usable(read_datadir(path), path) for split, path in data.items()}
    hashes = {split: audio_sha256(usable) for split, (usable, _) in utterances.items()}
    source = open_source(config.source, config.layer, batch_seconds=config.batch_seconds)
    fit_split = "train" if "train" in data else next(iter(data))
    check_pca(config.pca, source.dim)  # before hours of features
    with first_rank_first():
        codebook = _codebook(out_dir / CODEBOOK, source, utterances[fit_split][0], config)
    info = UnitsInfo(**source.provenance(), k=codebook.k, pca_dim=codebook.pca_dim, codebook_sha256=codebook.sha256)
    splits = {}
    for split, (usable, too_short) in utterances.items():
        if not _is_finished(out_dir, split, info, hashes[split]):
            labelling = ShardedLabelling(
                out_dir, split, info, usable, data_sha256=hashes[split], shard_seconds=shard_seconds
            )
            labelling.run(source, codebook, config.batch_seconds, too_short)
        units = Units.open(out_dir, split)
        if any(can_be_read(u) for u in usable if u.utt_id in units.left_out):
            log.warning("%s: audio that was left out can be read now; delete %s.json to label again", units, split)
        splits[split] = _describe(units, len(too_short))
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
        raise UnitsError(f"{path}: no utterance is as long as one frame (25 ms)")
    return usable, short


def _codebook(path: Path, source: Source, utterances: Sequence[Utterance], config: TargetConfig) -> Codebook:
    """The codebook of an earlier run when it was fitted in the same way, else a new one. It belongs to the audio that
    it was fitted on: repairing another file of the corpus leaves it, and all labels with it, as it is."""
    hours = FIT_HOURS if config.fit_hours is None else config.fit_hours
    chosen = _fit_utterances(utterances, hours, config.seed)
    provenance = {
        **source.provenance(),
        "pca": config.pca,
        "whiten": config.whiten,
        "k": config.k,
        "fit_hours": hours,
        "seed": config.seed,
        "data_sha256": audio_sha256(chosen),
    }
    if path.is_file():
        try:
            codebook = Codebook.load(path)
        except CodebookError as error:
            log.warning("%s; fitting a new one", error)
        else:
            if _same(codebook.facts["provenance"], provenance):
                log.info("%s is there already and was made in this way", path)
                return codebook
            log.info("%s was made in another way; fitting a new one", path)
    features = _fit_sample(source, chosen, config)
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


def _same(made: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Equal but for `source`: a model directory may move, its hash says which one it is."""
    return {**made, "source": None} == {**wanted, "source": None}


def _fit_utterances(utterances: Sequence[Utterance], hours: float, seed: int) -> list[Utterance]:
    """Random utterances of at most `hours` in all, at least one."""
    if hours <= 0:
        raise UnitsError(f"fit_hours={hours} must be positive")
    rng = np.random.default_rng([seed, 0])
    share_of = random_share([u.samples for u in utterances], hours * 3600 * SAMPLE_RATE, rng)
    return sorted((utterances[i] for i in share_of), key=lambda u: u.utt_id)


def _fit_sample(source: Source, chosen: Sequence[Utterance], config: TargetConfig) -> np.ndarray:
    """Features (N, D) of these utterances, thinned to FIT_BYTES."""
    share = min(1.0, FIT_BYTES / (4 * source.dim * sum(frame_count(u.samples) for u in chosen)))
    kept = [max(1, int(share * frame_count(u.samples))) for u in chosen]
    features = np.empty((sum(kept), source.dim), np.float32)
    filled = 0
    bad: dict[str, str] = {}
    rng = np.random.default_rng([config.seed, 1])
    with progress("features for k-means", chosen) as bar:
        for batch, frames in feature_batches(source, chosen, config.batch_seconds, bad):
            for x in frames:
                if share < 1:
                    keep = max(1, int(share * len(x)))
                    x = x[np.sort(rng.choice(len(x), keep, replace=False))]
                features[filled : filled + len(x)] = x.cpu().numpy()
                filled += len(x)
            advance(bar, batch)
    tally = BadFileTally(len(chosen))
    for utterance in chosen:
        if utterance.utt_id in bad:
            tally.skip(utterance.audio, f"utterance {utterance.utt_id}: {bad[utterance.utt_id]}")
    tally.check()
    return features[:filled]


def _is_finished(out_dir: Path, split: str, info: UnitsInfo, data_sha256: str) -> bool:
    """Whether an earlier run left the very units that are asked for."""
    if not (out_dir / f"{split}.json").is_file():
        return False
    try:
        units = Units.open(out_dir, split)
    except ValueError as error:
        log.warning("%s; labelling again", error)
        return False
    if _same(asdict(units.info), asdict(info)) and units.data_sha256 == data_sha256:
        log.info("%s is complete already", units)
        return True
    log.info("%s was made in another way; labelling again", units)
    return False


def _describe(units: Units, too_short: int) -> SplitReport:
    counts = units.histogram()
    shares = counts[counts > 0] / counts.sum()
    entropy = float(-(shares * np.log2(shares)).sum())
    report = SplitReport(
        utterances=len(units),
        too_short=too_short,
        unreadable=len(units.left_out) - too_short,
        frames=int(counts.sum()),
        hours=round(int(counts.sum()) / FRAME_RATE / 3600, 4),
        clusters_in_use=int((counts > 0).sum()),
        entropy=round(entropy, 4),
        perplexity=round(2**entropy, 2),
    )
    log.info(
        "%s: %d utterances, %.3f h, %d of %d clusters in use, perplexity %.1f",
        units,
        report.utterances,
        report.hours,
        report.clusters_in_use,
        units.info.k,
        report.perplexity,
    )
    return report
