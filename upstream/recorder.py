"""Validation, logging and checkpoints of a pre-training run; the state from which a killed run goes on."""

from __future__ import annotations

import csv
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from corpora.audio import SAMPLE_RATE
from corpora.files import atomic_file, remove_leftovers
from upstream.bad_batches import BadBatches
from upstream.config import PretrainConfig
from upstream.data import Position, PretrainDataset, dev_steps
from upstream.distributed import Place
from upstream.module import Pretraining
from upstream.objective import StepLoss
from upstream.optimise import StepResult, in_group, of_all_ranks

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
        self.best = -math.inf
        self.rows: list[dict[str, float]] = []
        self.window: list[StepLoss] = []
        self.shown: dict[str, int] = {}
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

    @property
    def last_hours(self) -> dict[str, float]:
        """Hours shown by group up to the last validation."""
        row = self.rows[-1] if self.rows else {}
        return {key.removeprefix("hours_"): value for key, value in row.items() if key.startswith("hours_")}

    def restore(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.state, self.best, self.rows = state, state["best"], list(state["rows"])
            self.seconds, self.bad.count = state["seconds"], state["bad_steps"]
            self.shown = dict(state["shown"]) if self.here.is_first else {}

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
            for part in batch.parts:
                for wav, group in zip(part.wavs, part.groups, strict=True):
                    self.shown[group] = self.shown.get(group, 0) + len(wav)
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
            **_details("train", window),
            **_details("valid", results),
            **{f"hours_{group}": round(hours, 4) for group, hours in self.hours_shown().items()},
            "lr": trainer.lr_scheduler_configs[0].scheduler.get_last_lr()[0],
            "bad_steps": self.bad.count,
        }
        self.window = []
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now
        self.rows.append(row | {"seconds": round(self.seconds, 1)})
        # Without units there is no accuracy: then the loss says which weights are best.
        score = row["valid_masked_accuracy"] if module.tasks else -row["valid_loss"]
        improved = score > self.best
        self.best = max(self.best, score)
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

    def hours_shown(self) -> dict[str, float]:
        """Hours of audio that the steps so far have shown, by group, on all ranks together; the first rank keeps the
        count. Every rank must call it."""
        total: dict[str, int] = {}
        for part in of_all_ranks([self.shown]):
            for group, samples in part.items():
                total[group] = total.get(group, 0) + samples
        if in_group():
            self.shown = dict(total) if self.here.is_first else {}
        return {group: total[group] / SAMPLE_RATE / 3600 for group in sorted(total)}

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
                "shown": self.shown,
                "model": module.state_dict(),
                "optimizer": trainer.optimizers[0].state_dict(),
                "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            },
            keep=folder / "previous.pt",
        )
        with atomic_file(self.out_dir / "metrics.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
            more = sorted({key for row in self.rows for key in row} - set(METRICS))
            writer = csv.DictWriter(file, [*METRICS, *more], restval=0, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def _mean_loss(results: list[StepLoss]) -> float:
    return float(np.mean([float(r.loss) for r in results])) if results else float("nan")


def _ratio(results: list[StepLoss], kind: str, name: str = "") -> float:
    """Accuracy on the masked or unmasked frames of a label set; without a name, of the main set, 0 where there is
    none."""
    chosen = [r.sets[name] if name else next(iter(r.sets.values())) for r in results if r.sets]
    frames = sum(getattr(r, f"{kind}_frames") for r in chosen)
    return sum(getattr(r, f"{kind}_correct") for r in chosen) / frames if frames else 0.0


def _details(part: str, results: list[StepLoss]) -> dict[str, float]:
    """Columns of what only some runs have: accuracies of every set where there are several, feature regression."""
    if not results:
        return {}
    names = list(results[0].sets) if len(results[0].sets) > 1 else []
    columns = {
        f"{part}_{kind}_accuracy_{name}": _ratio(results, kind, name)
        for name in names
        for kind in ("masked", "unmasked")
    }
    means = {name: float(np.mean([r.figures[name] for r in results])) for name in results[0].figures}
    return columns | {f"{part}_{name}": value for name, value in means.items()}


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
