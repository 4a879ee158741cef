"""Masked prediction of units: one run from a geometry and units to a model directory, through Lightning.

A killed run goes on from its last checkpoint and ends as an undisturbed one would: the state holds model, heads,
optimiser, schedule and step, and everything random is a function of (seed, step).
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from torch.utils.data import DataLoader
from transformers import HubertModel

from corpora.audio import SAMPLE_RATE, read_audio
from corpora.datadir import Utterance, read_datadir
from corpora.files import sha256_json, write_json
from upstream.config import InitConfig, PretrainConfig
from upstream.data import Position, PretrainDataset, StepBatches, StepSampler, usable
from upstream.distributed import Place, adopt_slurm, place
from upstream.encoder import build_encoder
from upstream.family import Geometry
from upstream.frontend import LogMelFrontEnd
from upstream.init import initialise
from upstream.modeldir import load_model, model_sha256, save_model
from upstream.module import Pretraining
from upstream.recorder import Recorder, load_state
from upstream.shard_data import ShardDataset, ShardSampler, check_shards
from upstream.shards import ShardsError, ShardsInfo, read_shards
from upstream.targets.units import Units, UnitsError, check_units

log = logging.getLogger(__name__)

STATISTICS_UTTERANCES = 400
# Settings that may change when a run goes on: they decide how fast it gets there.
MACHINERY = ("workers", "compile", "checkpointing", "bad_steps", "bad_rate")


def native_bf16() -> bool:
    """Whether this machine multiplies bf16 in hardware: a CUDA GPU that says so, or a CPU with AMX tiles."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


def resolve_precision(precision: str) -> str:
    """Lightning's name for `fp32`, `bf16` or `auto`."""
    bf16 = native_bf16() if precision == "auto" else precision == "bf16"
    return "bf16-mixed" if bf16 else "32-true"


def resolve_compile(choice: str) -> bool:
    """Whether `on`, `off` or `auto` means that the Transformer layers are compiled."""
    return torch.cuda.is_available() if choice == "auto" else choice == "on"


def sample_waveforms(utterances: Sequence[Utterance], seed: int) -> Iterator[np.ndarray]:
    """The audio of a seeded sample of utterances, each (N,)."""
    for index in np.random.default_rng([seed, 3]).permutation(len(utterances))[:STATISTICS_UTTERANCES]:
        u = utterances[index]
        yield read_audio(u.audio, u.start or 0, (u.start or 0) + u.samples)


@torch.no_grad()
def set_log_mel_statistics(model: HubertModel, wavs: Iterable[np.ndarray]) -> None:
    """Global mean and deviation of the log-mel bands over some training audio."""
    front_end = model.feature_extractor
    total = square = torch.zeros(front_end.mean.shape[0], dtype=torch.float64)
    frames = 0
    for wav in wavs:
        x = front_end.log_mel(torch.from_numpy(wav)[None])[0].double()
        total, square, frames = total + x.sum(0), square + x.square().sum(0), frames + len(x)
    mean = total / frames
    front_end.set_statistics(mean.float(), (square / frames - mean.square()).clamp(min=0).sqrt().float())


def initial_model(
    geometry: Geometry,
    utterances: Sequence[Utterance],
    init: InitConfig,
    seed: int,
    wavs: Iterable[np.ndarray] | None = None,
) -> HubertModel:
    """The model before its first step; with init `random` this is also the random baseline of the benchmark.

    Log-mel statistics are those of a sample of the utterances, or of `wavs` where these are given.
    """
    torch.manual_seed(seed)
    model = build_encoder(geometry)
    copied = initialise(model, init)
    if isinstance(model.feature_extractor, LogMelFrontEnd) and "feature_extractor.mean" not in copied:
        set_log_mel_statistics(model, sample_waveforms(utterances, seed) if wavs is None else wavs)
    return model


def training_utterances(data_dir: Path, units_dir: Path, split: str, **expected: Any) -> tuple[list[Utterance], Units]:
    """The utterances of a split that have units, and the units; `expected` fields of UnitsInfo must agree.

    Raises UnitsError when a label is missing, too large, or of another length than its utterance.
    """
    units = Units.open(units_dir, split)
    units.verify()
    return check_units(units, usable(read_datadir(data_dir / split), split), **expected), units


def pretrain(
    geometry: Geometry,
    data_dir: Path,
    units_dir: Path,
    out_dir: Path,
    config: PretrainConfig,
    init: InitConfig | None = None,
    card: dict[str, Any] | None = None,
    expected_units: dict[str, Any] | None = None,
    shards: Path | None = None,
) -> Path:
    """Train one model on units and write `<out_dir>/model`; returns that path.

    `data_dir` holds the data directories `train` and `dev`, `units_dir` their units; with `shards` (which hold units
    as well) they need `dev` alone. Goes on from
    `<out_dir>/checkpoints` when they belong to the same configuration. Raises UnitsError before the first step when a
    label is missing, too large, of another length than its utterance, or when the units are not the `expected_units`
    (fields of UnitsInfo, for instance `k` and `model_sha256`).
    """
    here, init = place(), init or InitConfig()
    adopt_slurm()
    expected = expected_units or {}
    train = _from_directory(data_dir, units_dir, config, expected) if shards is None else None
    dev, dev_units = training_utterances(data_dir, units_dir, "dev", **expected)
    info = asdict(dev_units.info)
    train = train or _from_shards(shards, info, config)
    if train.units != info:
        raise UnitsError(f"{units_dir}: train and dev have units of different origin; make them together")
    facts = {
        "geometry": asdict(geometry),
        "config": {name: value for name, value in asdict(config).items() if name not in MACHINERY},
        "init": {"kind": init.kind, "source_sha256": model_sha256(init.source) if init.source else None},
        "units": info,
        "utterances": sha256_json([train.identity, [[u.utt_id, u.samples] for u in dev]]),
    }
    fingerprint = sha256_json(facts)
    if here.is_first:
        write_json(out_dir / "config.json", facts)

    recorder = Recorder(PretrainDataset(dev, dev_units, config), out_dir, config, fingerprint, here)
    recorder.restore(load_state(out_dir / "checkpoints", fingerprint))
    model = initial_model(geometry, train.utterances, init, config.seed, train.wavs)
    module = Pretraining(model, info["k"], config)
    if recorder.done < config.steps:
        _fit(module, recorder, train, out_dir, config)

    if not here.is_first:
        return out_dir / "model"
    best = torch.load(out_dir / "checkpoints" / "best.pt", map_location="cpu", weights_only=True)
    module.encoder.load_state_dict(best["encoder"])
    save_model(
        module.encoder.cpu().eval(),
        out_dir / "model",
        (card or {})
        | {"geometry": asdict(geometry), "front_end": geometry.front_end, "units": info, "init": facts["init"]}
        | {"hours": round(train.hours, 3), "steps": config.steps, "valid_masked_accuracy": round(recorder.best, 4)},
    )
    load_model(out_dir / "model")  # an export that cannot be read must fail here, not in a benchmark
    return out_dir / "model"


@dataclass(frozen=True)
class TrainingData:
    """Where the batches come from: a dataset, and the sampler of its steps from `start` at `positions` on.

    `identity` stands for the utterances in the fingerprint of a run; `wavs` is some of the audio where there are no
    `utterances` to read it from.
    """

    dataset: PretrainDataset
    sampler: Callable[[int, list[Position] | None, Place], StepSampler | ShardSampler]
    units: dict[str, Any]
    hours: float
    identity: str
    utterances: Sequence[Utterance] = ()
    wavs: Iterable[np.ndarray] | None = None


def _from_directory(
    data_dir: Path, units_dir: Path, config: PretrainConfig, expected: dict[str, Any]
) -> TrainingData:
    utterances, units = training_utterances(data_dir, units_dir, "train", **expected)

    def sampler(start: int, positions: list[Position] | None, here: Place) -> StepSampler:
        at = positions[0] if positions else None  # the row of batches is one for all processes
        return StepSampler(utterances, config, start=start, position=at, rank=here.rank, ranks=here.ranks)

    return TrainingData(
        PretrainDataset(utterances, units, config),
        sampler,
        asdict(units.info),
        sum(u.samples for u in utterances) / SAMPLE_RATE / 3600,
        sha256_json([[u.utt_id, u.samples] for u in utterances]),
        utterances,
    )


def _from_shards(folder: Path, units: dict[str, Any], config: PretrainConfig) -> TrainingData:
    info = ShardsInfo.open(folder, "train")
    check_shards(info, units)

    def sampler(start: int, positions: list[Position] | None, here: Place) -> ShardSampler:
        if positions and len(positions) != here.ranks:
            raise ShardsError(
                f"{folder}: the run was stopped with {len(positions)} processes, each in its own shards; go on with "
                f"as many (now: {here.ranks})"
            )
        at = positions[here.rank] if positions else None
        return ShardSampler(info, config, start=start, position=at, rank=here.rank, ranks=here.ranks)

    return TrainingData(
        ShardDataset(config),
        sampler,
        info.units or {},
        sum(info.hours.values()),
        info.sha256,
        wavs=(item.waveform(0, item.samples) for item in islice(read_shards(info, [0]), STATISTICS_UTTERANCES)),
    )


def _fit(
    module: Pretraining, recorder: Recorder, train: TrainingData, out_dir: Path, config: PretrainConfig
) -> None:
    here = place()
    sampler = train.sampler(recorder.done, recorder.positions, here)
    log.info(
        "training steps %d to %d on %s; hours by language %s, shown per epoch x %s",
        recorder.done,
        config.steps,
        resolve_precision(config.precision),
        json.dumps({g: round(h, 3) for g, h in sampler.hours.items()}),
        json.dumps({g: round(r, 2) for g, r in sampler.repeats.items()}),
    )
    loader = DataLoader(
        train.dataset, sampler=sampler, batch_size=None, num_workers=config.workers, collate_fn=_unchanged
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*`training_step` returned.*")
        # Of a first step that was skipped: the schedule goes by steps, not by updates.
        warnings.filterwarnings("ignore", message=".*`lr_scheduler.step\\(\\)` before `optimizer.step.*")
        warnings.filterwarnings("ignore", message=".*Trying to infer the `batch_size`.*")
        trainer = lightning.Trainer(
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            devices=here.local_ranks,
            num_nodes=here.nodes,
            # Named, because Lightning would look for Slurm by itself, and see it in a batch script without srun too.
            plugins=[TorchElasticEnvironment() if here.ranks > 1 else LightningEnvironment()],
            # LayerDrop leaves the parameters of a skipped layer without a gradient
            strategy="auto" if here.ranks == 1 else f"ddp{'_find_unused_parameters_true' * (config.layerdrop > 0)}",
            precision=resolve_precision(config.precision),
            max_epochs=1,
            logger=TensorBoardLogger(out_dir, name="tensorboard", version=""),
            callbacks=[recorder, TQDMProgressBar(refresh_rate=20)],
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        module.train()
        if resolve_compile(config.compile):
            for layer in module.encoder.encoder.layers:
                layer.compile(dynamic=True)
        trainer.fit(module, loader)


def _unchanged(step: StepBatches) -> StepBatches:
    return step
