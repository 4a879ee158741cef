"""One training run from a geometry and units (or a teacher's features) to a model directory, through Lightning.

A killed run goes on from its last checkpoint and ends as an undisturbed one would: the state holds model, heads,
optimiser, schedule and step, and everything random is a function of (seed, step).
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader
from transformers import HubertModel

from corpora.audio import SAMPLE_RATE, read_audio
from corpora.datadir import Utterance, read_datadir
from corpora.files import sha256_json, write_json
from upstream.config import InitConfig, PretrainConfig, RegressionConfig
from upstream.data import Batch, PretrainDataset, StepSampler, usable
from upstream.encoder import build_encoder
from upstream.family import Geometry
from upstream.frontend import LogMelFrontEnd
from upstream.init import initialise
from upstream.lineage import lineage
from upstream.modeldir import load_model, model_sha256, save_model
from upstream.module import Pretraining, UnitTask
from upstream.recorder import Recorder, load_state
from upstream.regression import FeatureHeads
from upstream.targets.labelsets import Labels, LabelSet, label_sets, open_labels

log = logging.getLogger(__name__)

STATISTICS_UTTERANCES = 400


def is_first_rank() -> bool:
    """Whether this process writes what all ranks made; always true without torchrun."""
    return int(os.environ.get("RANK", 0)) == 0


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


@torch.no_grad()
def set_log_mel_statistics(model: HubertModel, utterances: list[Utterance], seed: int) -> None:
    """Global mean and deviation of the log-mel bands over a seeded sample of the training utterances."""
    front_end = model.feature_extractor
    rng = np.random.default_rng([seed, 3])
    chosen = rng.permutation(len(utterances))[:STATISTICS_UTTERANCES]
    total = square = torch.zeros(front_end.mean.shape[0], dtype=torch.float64)
    frames = 0
    for index in chosen:
        u = utterances[index]
        wav = torch.from_numpy(read_audio(u.audio, u.start or 0, (u.start or 0) + u.samples))
        x = front_end.log_mel(wav[None])[0].double()
        total, square, frames = total + x.sum(0), square + x.square().sum(0), frames + len(x)
    mean = total / frames
    front_end.set_statistics(mean.float(), (square / frames - mean.square()).clamp(min=0).sqrt().float())


def initial_model(geometry: Geometry, utterances: list[Utterance], init: InitConfig, seed: int) -> HubertModel:
    """The model before its first step; with init `random` this is also the random baseline of the benchmark."""
    torch.manual_seed(seed)
    model = build_encoder(geometry)
    copied = initialise(model, init, utterances, seed=seed)
    if isinstance(model.feature_extractor, LogMelFrontEnd) and "feature_extractor.mean" not in copied:
        set_log_mel_statistics(model, utterances, seed)
    return model


def training_utterances(
    data_dir: Path, units: Path | Sequence[LabelSet], split: str
) -> tuple[list[Utterance], Labels]:
    """The utterances of a split that have units in all label sets (or in the one folder given), and the units.

    Raises UnitsError when a label is missing, too large, or of another length than its utterance.
    """
    return open_labels(label_sets(units), usable(read_datadir(data_dir / split), split), split)


def pretrain(
    geometry: Geometry,
    data_dir: Path,
    units: Path | Sequence[LabelSet],
    out_dir: Path,
    config: PretrainConfig,
    init: InitConfig | None = None,
    card: dict[str, Any] | None = None,
    expected_units: dict[str, Any] | None = None,
    regression: RegressionConfig | None = None,
) -> Path:
    """Train one model and write `<out_dir>/model`; returns that path.

    `data_dir` holds the data directories `train` and `dev`. `units` is a folder of units of both (checked against
    `expected_units`, fields of UnitsInfo such as `k` and `model_sha256`), or several label sets, the first of which is
    the main one: its accuracy decides which weights are best. With `regression` the model also predicts features of a
    frozen teacher; then there may be no label set at all. Goes on from `<out_dir>/checkpoints` when they belong to the
    same configuration. Raises UnitsError before the first step when a label is missing, too large, of another length
    than its utterance, or when units are not those expected.
    """
    init = init or InitConfig()
    sets = label_sets(units, expected_units)
    utterances: dict[str, list[Utterance]] = {}
    labels: dict[str, Labels] = {}
    for split in ("train", "dev"):
        utterances[split], labels[split] = training_utterances(data_dir, sets, split)
    infos = {name: asdict(units.info) for name, units in labels["train"].sets.items()}
    facts = {
        "geometry": asdict(geometry),
        "config": asdict(config),
        "init": {"kind": init.kind, "source_sha256": model_sha256(init.source) if init.source else None},
        "units": [{"name": s.name, "weight": s.weight, **infos[s.name]} for s in sets],
        "utterances": sha256_json([[u.utt_id, u.samples] for split in utterances.values() for u in split]),
    }
    if init.kind == "project":
        facts["init"] |= {"layers": init.layers, "minutes": init.minutes}
    if regression is not None:
        teacher_sha256 = model_sha256(regression.source)
        facts["regression"] = {**asdict(regression), "source": None, "source_sha256": teacher_sha256}
    fingerprint = sha256_json(facts)
    if is_first_rank():
        write_json(out_dir / "config.json", facts)

    recorder = Recorder(PretrainDataset(utterances["dev"], labels["dev"], config), out_dir, config, fingerprint)
    recorder.restore(load_state(out_dir / "checkpoints", fingerprint))
    model = initial_model(geometry, utterances["train"], init, config.seed)
    tasks = {s.name: UnitTask(infos[s.name]["k"], s.weight) for s in sets}
    features = None if regression is None else FeatureHeads(geometry.width, regression)
    module = Pretraining(model, tasks, config, features)
    if recorder.done < config.steps:
        _fit(module, recorder, PretrainDataset(utterances["train"], labels["train"], config), out_dir, config)

    if not is_first_rank():
        return out_dir / "model"
    best = torch.load(out_dir / "checkpoints" / "best.pt", map_location="cpu", weights_only=True)
    module.encoder.load_state_dict(best["encoder"])
    hours = sum(u.samples for u in utterances["train"]) / SAMPLE_RATE / 3600
    facts_of_run = {
        "geometry": asdict(geometry),
        "front_end": geometry.front_end,
        "units": infos[sets[0].name] if sets else None,
        "label_sets": facts["units"] if len(sets) > 1 else None,
        "init": facts["init"],
        "regression": facts.get("regression"),
        "hours": round(hours, 3),
        "hours_shown": {group: round(shown, 3) for group, shown in sorted(recorder.last_hours.items())},
        "steps": config.steps,
        "valid_masked_accuracy": round(recorder.best, 4) if sets else None,
        "lineage": lineage([s.folder for s in sets], init.source, regression.source if regression else None),
    }
    save_model(
        module.encoder.cpu().eval(),
        out_dir / "model",
        {key: value for key, value in ((card or {}) | facts_of_run).items() if value is not None},
    )
    load_model(out_dir / "model")  # an export that cannot be read must fail here, not in a benchmark
    return out_dir / "model"


def _fit(
    module: Pretraining, recorder: Recorder, dataset: PretrainDataset, out_dir: Path, config: PretrainConfig
) -> None:
    ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    sampler = StepSampler(dataset.utterances, config, start=recorder.done, rank=rank, ranks=ranks)
    log.info(
        "training steps %d to %d on %s; hours by language %s, shown per epoch x %s",
        recorder.done,
        config.steps,
        resolve_precision(config.precision),
        json.dumps({g: round(h, 3) for g, h in sampler.hours.items()}),
        json.dumps({g: round(r, 2) for g, r in sampler.repeats.items()}),
    )
    loader = DataLoader(
        dataset, sampler=sampler, batch_size=None, num_workers=config.workers, collate_fn=_unchanged
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*`training_step` returned.*")
        warnings.filterwarnings("ignore", message=".*Trying to infer the `batch_size`.*")
        trainer = lightning.Trainer(
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
            num_nodes=max(1, ranks // int(os.environ.get("LOCAL_WORLD_SIZE", ranks))),
            # LayerDrop leaves the parameters of a skipped layer without a gradient
            strategy="auto" if ranks == 1 else "ddp_find_unused_parameters_true" if config.layerdrop else "ddp",
            precision=resolve_precision(config.precision),
            max_steps=config.steps - recorder.done,
            gradient_clip_val=config.clip,
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
        trainer.fit(module, loader)


def _unchanged(batch: Batch) -> Batch:
    return batch
