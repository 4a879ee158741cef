"""Validation, logging and checkpoints of a pre-training run; the state from which a killed run goes on."""

from __future__ import annotations

import csv
import errno
import logging
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from corpora.audio import SAMPLE_RATE
from corpora.files import atomic_file, remove_leftovers
from upstream.config import PretrainConfig
from upstream.distributed import Place
from upstream.pretrain.bad_batches import BadBatches, TrainingError, Unreadable
from upstream.pretrain.data import Position, PretrainDataset, dev_steps
from upstream.pretrain.module import Pretraining
from upstream.pretrain.objective import StepLoss
from upstream.pretrain.step import StepResult, in_group, of_all_ranks

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


class OtherConfiguration(TrainingError):
    """What is in the folder was trained with other settings, data or starting weights."""


class LossSums:
    """What is logged of the losses of many batches, as sums: they take no more room, and no longer to exchange, for a
    window of thousands of steps."""

    def __init__(self, losses: Iterable[StepLoss] = ()) -> None:
        self.sums: dict[tuple[str, ...], float] = {}
        self.add(losses)

    def add(self, losses: Iterable[StepLoss]) -> None:
        for result in losses:
            self._count(("loss",), float(result.loss))
            for name, value in result.figures.items():
                self._count(("figure", name), value)
            for name, own in result.sets.items():
                for kind in ("masked", "unmasked"):
                    self._count((name, kind, "correct"), getattr(own, f"{kind}_correct"))
                    self._count((name, kind, "frames"), getattr(own, f"{kind}_frames"))
            self._count(("batches",), 1)

    def _count(self, key: tuple[str, ...], value: float) -> None:
        self.sums[key] = self.sums.get(key, 0.0) + value

    @classmethod
    def of_all_ranks(cls, own: LossSums) -> LossSums:
        """The sums of all processes together; every one must call it."""
        joint = cls()
        for sums in of_all_ranks([own.sums]):
            for key, value in sums.items():
                joint._count(key, value)
        return joint

    @property
    def sets(self) -> list[str]:
        """The label sets, the main one first."""
        return [key[0] for key in self.sums if key[1:] == ("masked", "frames")]

    def mean(self, *key: str) -> float:
        """Mean over batches of `loss`, or of a `figure` by its name; NaN without a batch."""
        return self.sums[key] / self.sums[("batches",)] if key in self.sums else math.nan

    def accuracy(self, kind: str, name: str = "") -> float:
        """On the masked or unmasked frames of a label set; without a name, of the main set, 0 where there is none."""
        name = name or next(iter(self.sets), "")
        frames = self.sums.get((name, kind, "frames"), 0.0)
        return self.sums[name, kind, "correct"] / frames if frames else 0.0

    def details(self, part: str) -> dict[str, float]:
        """Columns of what only some runs have: accuracies of every set where there are several, feature regression."""
        names = self.sets if len(self.sets) > 1 else []
        columns = {
            f"{part}_{kind}_accuracy_{name}": self.accuracy(kind, name)
            for name in names
            for kind in ("masked", "unmasked")
        }
        figures = [key[1] for key in self.sums if key[0] == "figure"]
        return columns | {f"{part}_{name}": self.mean("figure", name) for name in figures}


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
        self.window = LossSums()
        self.shown: dict[str, int] = {}
        self.clips = Unreadable(config.bad_steps, config.bad_rate)
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
        self._agree()
        if self.state is not None:
            module.load_state_dict(self.state["model"])
            trainer.optimizers[0].load_state_dict(self.state["optimizer"])
            trainer.lr_scheduler_configs[0].scheduler.load_state_dict(self.state["schedule"])
        self.since = time.monotonic()

    def _agree(self) -> None:
        """All processes must go on from one state: DDP would average the gradients of different weights without a word.

        Raises TrainingError on all of them.
        """
        found = of_all_ranks([(self.fingerprint, self.done)])
        if len(set(found)) > 1:
            told = "; ".join(f"process {rank}: step {done}" for rank, (_, done) in enumerate(found))
            raise TrainingError(
                f"{self.out_dir / 'checkpoints'}: the processes do not find the same state and configuration ({told}). "
                "Is the folder the same on all machines, and can all of them read it?"
            )

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        result: StepResult = outputs["result"]
        self.position = outputs["position"]
        done = outputs["step"] + 1
        self.clips.add(outputs["step"], batch.parts)
        self.clips.check_silence(outputs["step"])
        if result.bad is None:
            self.window.add(result.losses)
            for part in batch.parts:
                for utt_id, wav, group in zip(part.utt_ids, part.wavs, part.groups, strict=True):
                    if utt_id not in part.unreadable:
                        self.shown[group] = self.shown.get(group, 0) + len(wav)
            if batch_idx % 10 == 0:
                module.log("loss", sum(float(r.loss) for r in result.losses), prog_bar=True, logger=False)
                module.log("masked_acc", LossSums(result.losses).accuracy("masked"), prog_bar=True, logger=False)
        else:
            self.bad.add(outputs["step"], result.bad, result.culprits)
        if done % self.config.valid_every == 0 or done == self.config.steps:
            self._validate(trainer, module, done)

    @torch.no_grad()
    def _validate(self, trainer: lightning.Trainer, module: Pretraining, done: int) -> None:
        """Every process takes its share of the dev set; the results of all of them make the row."""
        module.eval()
        with trainer.strategy.precision_plugin.forward_context():
            sums, dev = LossSums(), Unreadable(0, self.config.bad_rate, "dev ")
            for step in self.steps:
                batch = self.dev[step].parts[0]
                dev.add(done, [batch])
                if batch.valid.any():  # an empty mean is no loss of 0
                    sums.add([module.compute(batch)])
        module.train()
        for clips in (self.clips, dev):
            clips.check(done, of_all_ranks([clips.summary()]))
        window, results = LossSums.of_all_ranks(self.window), LossSums.of_all_ranks(sums)
        row = {
            "step": done,
            # A batch holds its share of its step's loss, times the number of processes.
            "train_loss": window.mean("loss") * self.config.accumulate,
            "train_masked_accuracy": window.accuracy("masked"),
            "train_unmasked_accuracy": window.accuracy("unmasked"),
            "valid_loss": results.mean("loss"),
            "valid_masked_accuracy": results.accuracy("masked"),
            "valid_unmasked_accuracy": results.accuracy("unmasked"),
            **window.details("train"),
            **results.details("valid"),
            **{f"hours_{group}": round(hours, 4) for group, hours in self.hours_shown().items()},
            "lr": trainer.lr_scheduler_configs[0].scheduler.get_last_lr()[0],
            "bad_steps": self.bad.count,
        }
        self.window = LossSums()
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
                "precision": str(trainer.precision),
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
    """The newest readable training state of the same configuration; None when there is nothing to go on from.

    Only a damaged file makes way for the one before it. Raises OSError where a file cannot be reached, for other
    processes may reach it, and OtherConfiguration.
    """
    for name in ("last.pt", "previous.pt"):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 - torch raises a dozen types for a damaged file
            out_of_reach = isinstance(error, OSError) and error.errno != errno.EINVAL  # which some truncations give
            if out_of_reach or isinstance(error, MemoryError) or "alloc" in str(error):
                raise
            log.warning("%s cannot be read (%s); going back to the state before it", path, error)
            continue
        if state["fingerprint"] != fingerprint:
            raise OtherConfiguration(f"{path} belongs to another configuration")
        return state
    return None
