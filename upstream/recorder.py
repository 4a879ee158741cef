"""Validation, logging and checkpoints of a pre-training run; the state from which a killed run goes on."""

from __future__ import annotations

import csv
import logging
import os
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from corpora.files import atomic_file, remove_leftovers
from upstream.bad_batches import BadBatches
from upstream.config import PretrainConfig
from upstream.data import Position, PretrainDataset, dev_steps
from upstream.distributed import Place
from upstream.module import Pretraining
from upstream.objective import UnitLoss
from upstream.optimise import StepResult, of_all_ranks

log = logging.getLogger(__name__)

METRICS = (
    "step",
    "train_loss",
    "train_masked_accuracy",
    "train_unmasked_accuracy",
    "valid_loss",
    "valid_masked_accuracy",
    "valid_unmasked_accuracy",
    "lr",
    "bad_steps",
    "seconds",
)


class Recorder(Callback):
    """Validates, logs and checkpoints every `valid_every` steps and at the end."""

    def __init__(
        self, dev: PretrainDataset, out_dir: Path, config: PretrainConfig, fingerprint: str, here: Place | None = None
    ) -> None:
        self.dev = dev
        self.here = here or Place()
        self.steps = dev_steps(dev.utterances, config)[self.here.rank :: self.here.ranks]
        self.out_dir, self.config, self.fingerprint = out_dir, config, fingerprint
        self.state: dict[str, Any] | None = None
        self.best = -1.0
        self.rows: list[dict[str, float]] = []
        self.window: list[UnitLoss] = []
        self.bad = BadBatches(out_dir / "bad_batches", config.bad_steps, config.bad_rate)
        self.position: Position = (0, 0, 0)
        self.seconds, self.since = 0.0, time.monotonic()

    @property
    def done(self) -> int:
        """Steps that the restored state has behind it."""
        return 0 if self.state is None else self.state["step"]

    @property
    def positions(self) -> list[Position] | None:
        """Where the stream of each process goes on; None at the start of a run."""
        return None if self.state is None else [tuple(p) for p in self.state["positions"]]

    def restore(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.state, self.best, self.rows = state, state["best"], list(state["rows"])
            self.seconds, self.bad.count = state["seconds"], state["bad_steps"]

    def on_fit_start(self, trainer: lightning.Trainer, module: Pretraining) -> None:
        if self.state is not None:
            module.load_state_dict(self.state["model"])
            trainer.optimizers[0].load_state_dict(self.state["optimizer"])
            trainer.lr_scheduler_configs[0].scheduler.load_state_dict(self.state["schedule"])
        self.since = time.monotonic()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        result: StepResult = outputs["result"]
        self.position = outputs["position"]
        done = outputs["step"] + 1
        if result.bad is None:
            self.window += result.losses
            if batch_idx % 10 == 0:
                module.log("loss", sum(float(r.loss) for r in result.losses), prog_bar=True, logger=False)
                module.log("masked_acc", _ratio(result.losses, "masked"), prog_bar=True, logger=False)
        else:
            self.bad.add(outputs["step"], result.bad, result.culprits)
        if done % self.config.valid_every == 0 or done == self.config.steps:
            self._validate(trainer, module, done)

    @torch.no_grad()
    def _validate(self, trainer: lightning.Trainer, module: Pretraining, done: int) -> None:
        """Every process takes its share of the dev set; the results of all of them make the row."""
        module.eval()
        with trainer.strategy.precision_plugin.forward_context():
            results = [module.compute(self.dev[step].parts[0]) for step in self.steps]
        module.train()
        window, results = of_all_ranks(self.window), of_all_ranks(results)
        row = {
            "step": done,
            # A batch holds its share of its step's loss, times the number of processes.
            "train_loss": _mean_loss(window) * self.config.accumulate,
            "train_masked_accuracy": _ratio(window, "masked"),
            "train_unmasked_accuracy": _ratio(window, "unmasked"),
            "valid_loss": _mean_loss(results),
            "valid_masked_accuracy": _ratio(results, "masked"),
            "valid_unmasked_accuracy": _ratio(results, "unmasked"),
            "lr": trainer.lr_scheduler_configs[0].scheduler.get_last_lr()[0],
            "bad_steps": self.bad.count,
        }
        self.window = []
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now
        self.rows.append(row | {"seconds": round(self.seconds, 1)})
        improved = row["valid_masked_accuracy"] > self.best
        self.best = max(self.best, row["valid_masked_accuracy"])
        positions = of_all_ranks([self.position])
        if not trainer.is_global_zero:
            return
        log.info(
            "step %d: train loss %.3f, dev loss %.3f, masked accuracy %.3f, unmasked %.3f",
            *(row[key] for key in ("step", "train_loss", "valid_loss")),
            *(row[f"valid_{kind}_accuracy"] for kind in ("masked", "unmasked")),
        )
        if trainer.logger is not None:
            trainer.logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step=done)
        self._write(trainer, module, done, improved, positions)

    def _write(
        self,
        trainer: lightning.Trainer,
        module: Pretraining,
        done: int,
        improved: bool,
        positions: list[Position],
    ) -> None:
        """Best weights first: a state that says "best" never points at weights that are not there yet."""
        folder = self.out_dir / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("best.pt", "last.pt"):
            remove_leftovers(folder / name)
        if improved:
            _save(folder / "best.pt", {"fingerprint": self.fingerprint, "encoder": module.encoder.state_dict()})
        _save(
            folder / "last.pt",
            {
                "fingerprint": self.fingerprint,
                "step": done,
                "positions": positions,
                "bad_steps": self.bad.count,
                "best": self.best,
                "rows": self.rows,
                "seconds": self.seconds,
                "model": module.state_dict(),
                "optimizer": trainer.optimizers[0].state_dict(),
                "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            },
            keep=folder / "previous.pt",
        )
        with atomic_file(self.out_dir / "metrics.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, METRICS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def _mean_loss(results: list[UnitLoss]) -> float:
    return float(np.mean([float(r.loss) for r in results])) if results else float("nan")


def _ratio(results: list[UnitLoss], kind: str) -> float:
    frames = sum(getattr(r, f"{kind}_frames") for r in results)
    return sum(getattr(r, f"{kind}_correct") for r in results) / frames if frames else 0.0


def _save(path: Path, state: dict[str, Any], keep: Path | None = None) -> None:
    """Write a state whole or not at all; the one before it takes the name `keep` once the new one is on disk.

    Raises OSError when it cannot be written; what was there stays.
    """
    with atomic_file(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's own writer says so of a full disk
            raise OSError(f"{path}: cannot be written, is the disk full? ({error})") from error
        if keep is not None and path.exists():
            os.replace(path, keep)


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
