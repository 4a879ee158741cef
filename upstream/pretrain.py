"""Masked prediction of units: one run from a geometry and units to a model directory, through Lightning.

A killed run goes on from its last checkpoint and ends as an undisturbed one would: the state holds model, heads,
optimiser, schedule and step, and everything random is a function of (seed, step).
"""

from __future__ import annotations

import csv
import json
import logging
import os
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader
from transformers import HubertModel

from corpora.audio import SAMPLE_RATE, read_audio
from corpora.datadir import Utterance, read_datadir
from corpora.files import atomic_file, remove_leftovers, sha256_json, write_json
from upstream.config import InitConfig, PretrainConfig
from upstream.data import Batch, PretrainDataset, StepSampler, dev_steps, usable
from upstream.encoder import build_encoder, collate, run_layers
from upstream.family import Geometry
from upstream.frontend import LogMelFrontEnd
from upstream.init import initialise
from upstream.modeldir import load_model, model_sha256, save_model
from upstream.objective import UnitHead, UnitLoss, unit_loss
from upstream.targets.units import Units, check_units

log = logging.getLogger(__name__)

STATISTICS_UTTERANCES = 400
METRICS = (
    "step",
    "train_loss",
    "train_masked_accuracy",
    "train_unmasked_accuracy",
    "valid_loss",
    "valid_masked_accuracy",
    "valid_unmasked_accuracy",
    "lr",
    "seconds",
)


class TrainingError(RuntimeError):
    """Training cannot go on; says at which step and on which utterances."""


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
    copied = initialise(model, init)
    if isinstance(model.feature_extractor, LogMelFrontEnd) and "feature_extractor.mean" not in copied:
        set_log_mel_statistics(model, utterances, seed)
    return model


def training_utterances(data_dir: Path, units_dir: Path, split: str, **expected: Any) -> tuple[list[Utterance], Units]:
    """The utterances of a split that have units, and the units; `expected` fields of UnitsInfo must agree.

    Raises UnitsError when a label is missing, too large, or of another length than its utterance.
    """
    units = Units.open(units_dir, split)
    units.verify()
    return check_units(units, usable(read_datadir(data_dir / split), split), **expected), units


class Pretraining(lightning.LightningModule):
    """Encoder and unit head under one loss; logs masked and unmasked accuracy."""

    def __init__(self, encoder: HubertModel, k: int, config: PretrainConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = config
        self.head = UnitHead(
            encoder.config.hidden_size,
            k,
            logits=config.logits,
            projection=config.projection,
            temperature=config.logit_temperature,
        )
        set_dropout(encoder, config.dropout, config.layerdrop)

    def compute(self, batch: Batch) -> UnitLoss:
        padded, lengths = collate(self.encoder, batch.wavs)
        mask, labels = batch.mask.to(self.device), batch.labels.to(self.device)
        states, _ = run_layers(self.encoder, padded, lengths, time_mask=mask)
        return unit_loss(
            self.head,
            states[-1],
            labels,
            mask,
            batch.valid.to(self.device),
            masked_weight=self.config.masked_weight,
            unmasked_weight=self.config.unmasked_weight,
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # `compute` moves what it needs, waveforms after normalising them one by one

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        # The step decides dropout and LayerDrop, on all ranks alike, so that resuming repeats them.
        torch.manual_seed(self.config.seed * 1_000_003 + batch.step)
        result = self.compute(batch)
        if not torch.isfinite(result.loss):
            raise TrainingError(
                f"step {batch.step}: the loss is {float(result.loss.detach())}; "
                f"utterances: {', '.join(batch.utt_ids)}. Look at their audio, or lower lr."
            )
        return {"loss": result.loss, "result": result, "step": batch.step}

    def configure_optimizers(self) -> dict[str, Any]:
        decayed = [p for p in self.parameters() if p.requires_grad and p.dim() > 1]
        plain = [p for p in self.parameters() if p.requires_grad and p.dim() <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": self.config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=self.config.lr,
            betas=(0.9, 0.98),
            eps=1e-6,
        )
        warmup = max(1, int(self.config.warmup * self.config.steps))

        def scale(step: int) -> float:
            return min((step + 1) / warmup, max(0.0, (self.config.steps - step) / max(1, self.config.steps - warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def set_dropout(encoder: HubertModel, dropout: float, layerdrop: float) -> None:
    """Dropout on the residual branches and the input alone: inside attention it would cost SDPA its fused kernels."""
    encoder.config.layerdrop = layerdrop
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0 if name.endswith("intermediate_dropout") else dropout
        elif hasattr(module, "k_proj"):
            module.dropout = 0.0


class Recorder(Callback):
    """Validates, logs and checkpoints every `valid_every` steps and at the end."""

    def __init__(self, dev: PretrainDataset, out_dir: Path, config: PretrainConfig, fingerprint: str) -> None:
        self.dev = dev
        self.steps = dev_steps(dev.utterances, config)
        self.out_dir, self.config, self.fingerprint = out_dir, config, fingerprint
        self.state: dict[str, Any] | None = None
        self.best = -1.0
        self.rows: list[dict[str, float]] = []
        self.window: list[UnitLoss] = []
        self.seconds, self.since = 0.0, time.monotonic()

    @property
    def done(self) -> int:
        """Steps that the restored state has behind it."""
        return 0 if self.state is None else self.state["step"]

    def restore(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.state, self.best, self.rows = state, state["best"], list(state["rows"])
            self.seconds = state["seconds"]

    def on_fit_start(self, trainer: lightning.Trainer, module: Pretraining) -> None:
        if self.state is not None:
            module.load_state_dict(self.state["model"])
            trainer.optimizers[0].load_state_dict(self.state["optimizer"])
            trainer.lr_scheduler_configs[0].scheduler.load_state_dict(self.state["schedule"])
        self.since = time.monotonic()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        # Detached: a loss keeps the graph of its step alive.
        result: UnitLoss = replace(outputs["result"], loss=outputs["result"].loss.detach())
        self.window.append(result)
        done = outputs["step"] + 1
        if batch_idx % 10 == 0:
            module.log("loss", float(result.loss), prog_bar=True, logger=False)
            module.log("masked_acc", _ratio([result], "masked"), prog_bar=True, logger=False)
        if done % self.config.valid_every == 0 or done == self.config.steps:
            self._validate(trainer, module, done)

    @torch.no_grad()
    def _validate(self, trainer: lightning.Trainer, module: Pretraining, done: int) -> None:
        module.eval()
        with trainer.strategy.precision_plugin.forward_context():
            results = [module.compute(self.dev[step]) for step in self.steps]
        module.train()
        row = {
            "step": done,
            "train_loss": float(np.mean([float(r.loss) for r in self.window])),
            "train_masked_accuracy": _ratio(self.window, "masked"),
            "train_unmasked_accuracy": _ratio(self.window, "unmasked"),
            "valid_loss": float(np.mean([float(r.loss) for r in results])),
            "valid_masked_accuracy": _ratio(results, "masked"),
            "valid_unmasked_accuracy": _ratio(results, "unmasked"),
            "lr": trainer.lr_scheduler_configs[0].scheduler.get_last_lr()[0],
        }
        self.window = []
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now
        self.rows.append(row | {"seconds": round(self.seconds, 1)})
        improved = row["valid_masked_accuracy"] > self.best
        self.best = max(self.best, row["valid_masked_accuracy"])
        if not trainer.is_global_zero:
            return
        log.info(
            "step %d: train loss %.3f, dev loss %.3f, masked accuracy %.3f, unmasked %.3f",
            *(row[key] for key in ("step", "train_loss", "valid_loss")),
            *(row[f"valid_{kind}_accuracy"] for kind in ("masked", "unmasked")),
        )
        if trainer.logger is not None:
            trainer.logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step=done)
        self._write(trainer, module, done, improved)

    def _write(self, trainer: lightning.Trainer, module: Pretraining, done: int, improved: bool) -> None:
        """Best weights first: a state that says "best" never points at weights that are not there yet."""
        folder = self.out_dir / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("best.pt", "last.pt"):
            remove_leftovers(folder / name)
        if improved:
            _save(folder / "best.pt", {"fingerprint": self.fingerprint, "encoder": module.encoder.state_dict()})
        if (folder / "last.pt").exists():
            os.replace(folder / "last.pt", folder / "previous.pt")
        _save(
            folder / "last.pt",
            {
                "fingerprint": self.fingerprint,
                "step": done,
                "best": self.best,
                "rows": self.rows,
                "seconds": self.seconds,
                "model": module.state_dict(),
                "optimizer": trainer.optimizers[0].state_dict(),
                "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            },
        )
        with atomic_file(self.out_dir / "metrics.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, METRICS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def _ratio(results: list[UnitLoss], kind: str) -> float:
    frames = sum(getattr(r, f"{kind}_frames") for r in results)
    return sum(getattr(r, f"{kind}_correct") for r in results) / frames if frames else 0.0


def _save(path: Path, state: dict[str, Any]) -> None:
    with atomic_file(path) as temporary:
        torch.save(state, temporary)


def load_state(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The newest readable training state of the same configuration; None when there is nothing to go on from."""
    for name in ("last.pt", "previous.pt"):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 - torch raises a dozen types for a damaged file
            log.warning("%s cannot be read (%s); going back to the state before it", path, error)
            continue
        if state["fingerprint"] != fingerprint:
            log.warning("%s belongs to another configuration; starting from step 0", path)
            return None
        return state
    return None


def pretrain(
    geometry: Geometry,
    data_dir: Path,
    units_dir: Path,
    out_dir: Path,
    config: PretrainConfig,
    init: InitConfig | None = None,
    card: dict[str, Any] | None = None,
    expected_units: dict[str, Any] | None = None,
) -> Path:
    """Train one model on units and write `<out_dir>/model`; returns that path.

    `data_dir` holds the data directories `train` and `dev`, `units_dir` their units. Goes on from
    `<out_dir>/checkpoints` when they belong to the same configuration. Raises UnitsError before the first step when a
    label is missing, too large, of another length than its utterance, or when the units are not the `expected_units`
    (fields of UnitsInfo, for instance `k` and `model_sha256`).
    """
    init = init or InitConfig()
    utterances, units = {}, {}
    for split in ("train", "dev"):
        utterances[split], units[split] = training_utterances(data_dir, units_dir, split, **(expected_units or {}))
    info = asdict(units["train"].info)
    facts = {
        "geometry": asdict(geometry),
        "config": asdict(config),
        "init": {"kind": init.kind, "source_sha256": model_sha256(init.source) if init.source else None},
        "units": info,
        "utterances": sha256_json([[u.utt_id, u.samples] for split in utterances.values() for u in split]),
    }
    fingerprint = sha256_json(facts)
    if is_first_rank():
        write_json(out_dir / "config.json", facts)

    recorder = Recorder(PretrainDataset(utterances["dev"], units["dev"], config), out_dir, config, fingerprint)
    recorder.restore(load_state(out_dir / "checkpoints", fingerprint))
    model = initial_model(geometry, utterances["train"], init, config.seed)
    module = Pretraining(model, info["k"], config)
    if recorder.done < config.steps:
        _fit(module, recorder, PretrainDataset(utterances["train"], units["train"], config), out_dir, config)

    if not is_first_rank():
        return out_dir / "model"
    best = torch.load(out_dir / "checkpoints" / "best.pt", map_location="cpu", weights_only=True)
    module.encoder.load_state_dict(best["encoder"])
    hours = sum(u.samples for u in utterances["train"]) / SAMPLE_RATE / 3600
    save_model(
        module.encoder.cpu().eval(),
        out_dir / "model",
        (card or {})
        | {"geometry": asdict(geometry), "front_end": geometry.front_end, "units": info, "init": facts["init"]}
        | {"hours": round(hours, 3), "steps": config.steps, "valid_masked_accuracy": round(recorder.best, 4)},
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
