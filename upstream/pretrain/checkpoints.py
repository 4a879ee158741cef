"""Validate, log and checkpoint a pre-training run, and load the state that a killed run resumes from.

Lightning's ModelCheckpoint and CSVLogger are not used: a run with a damaged checkpoint must resume from the earlier
one, and metrics.csv must keep the rows of a killed run, which CSVLogger deletes.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from corpora.audio import SAMPLE_RATE
from corpora.command import one_line
from corpora.files import atomic_file, remove_leftovers, write_csv
from upstream.config import PretrainConfig
from upstream.distributed import Place, group_size, of_all_ranks
from upstream.errors import UpstreamError
from upstream.pretrain.data import Position, PretrainDataset, dev_steps
from upstream.pretrain.module import Pretraining
from upstream.pretrain.objective import LossSums
from upstream.pretrain.step import BadBatches, StepResult, Unreadable

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
    """Lightning callback that validates, logs and checkpoints every `valid_every` steps and at the end."""

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
        """Steps of the restored state."""
        return 0 if self.state is None else self.state["step"]

    @property
    def positions(self) -> list[Position] | None:
        """Place of each process in its stream of batches; None at the start of a run."""
        return None if self.state is None else [tuple(p) for p in self.state["positions"]]

    @property
    def last_hours(self) -> dict[str, float]:
        """Hours of audio in the steps up to the last validation, by group."""
        row = self.rows[-1] if self.rows else {}
        return {key.removeprefix("hours_"): value for key, value in row.items() if key.startswith("hours_")}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue the counts and rows of a state that `load_state` returned."""
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
        """Raise UpstreamError on all processes unless they resume from the same state.

        DDP does not check: it would average the gradients of different weights.
        """
        found = of_all_ranks([(self.fingerprint, self.done)])
        if len(set(found)) > 1:
            states = "; ".join(f"process {rank}: step {done}" for rank, (_, done) in enumerate(found))
            raise UpstreamError(
                f"{self.out_dir / 'checkpoints'}: the processes find different states or configurations ({states}). "
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
        """Write one row of metrics and the checkpoints; each process computes a share of the dev set."""
        module.eval()
        with trainer.strategy.precision_plugin.forward_context():
            sums, dev = LossSums(), Unreadable(0, self.config.bad_rate, "dev ")
            for step in self.steps:
                batch = self.dev[step].parts[0]
                dev.add(done, [batch])
                if batch.valid.any():  # without valid frames the loss is 0, which would lower the mean
                    sums.add([module.compute(batch)])
        module.train()
        for clips in (self.clips, dev):
            clips.check(done, of_all_ranks([clips.summary()]))
        window, results = LossSums.of_all_ranks(self.window), LossSums.of_all_ranks(sums)
        row = {
            "step": done,
            # The loss of a batch is its share of the step's loss, times the number of processes.
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
        # Without units there is no accuracy; then the lowest loss marks the best weights.
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
        """Hours of audio in the steps so far, by group, over all ranks; every rank must call it.

        From then on the first rank holds the total.
        """
        total: dict[str, int] = {}
        for part in of_all_ranks([self.shown]):
            for group, samples in part.items():
                total[group] = total.get(group, 0) + samples
        if group_size() > 1:
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
        """Write best.pt, last.pt and metrics.csv, in this order: the best score in last.pt must have its weights."""
        folder = self.out_dir / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder / "best.pt", folder / "last.pt", self.out_dir / "metrics.csv"):
            remove_leftovers(path)
        if improved:
            save_state(folder / "best.pt", {"fingerprint": self.fingerprint, "encoder": module.encoder.state_dict()})
        save_state(
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
        columns = [*METRICS, *sorted({key for row in self.rows for key in row} - set(METRICS))]
        write_csv(self.out_dir / "metrics.csv", columns, (dict.fromkeys(columns, 0) | row for row in self.rows))


def save_state(path: Path, state: dict[str, Any], keep: Path | None = None) -> None:
    """Write a state whole or not at all; the earlier file is renamed to `keep` when the new one is on disk.

    Raises OSError if it cannot be written; then the earlier files stay as they were.
    """
    with atomic_file(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's writer raises it for a full disk
            raise OSError(f"{path}: cannot be written, is the disk full? ({error})") from error
        if keep is not None and path.exists():
            os.replace(path, keep)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest readable training state, last.pt or else previous.pt; None if there is none.

    Only a damaged file is skipped. Raises OSError for a file that this process cannot reach: other processes may reach
    it.
    """
    for name in ("last.pt", "previous.pt"):
        path = folder / name
        if not path.exists():
            continue
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 - torch raises a dozen types for a damaged file
            out_of_reach = isinstance(error, OSError) and error.errno != errno.EINVAL  # EINVAL: some truncated files
            if out_of_reach or isinstance(error, MemoryError) or "alloc" in str(error):
                raise
            log.warning("%s cannot be read (%s); using the state before it", path, one_line(error))
    return None


def load_best(path: Path) -> dict[str, Any]:
    """The best weights of a run. Raises UpstreamError, which says what to delete, for a damaged file."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UpstreamError(f"{path}: missing; delete the folder {path.parent} and train again") from None
    except Exception as error:  # torch raises a dozen types for a damaged file
        if isinstance(error, MemoryError | PermissionError) or "alloc" in str(error):
            raise
        raise UpstreamError(
            f"{path}: damaged ({one_line(error)}), and no other file holds the best weights; delete the folder "
            f"{path.parent} and train again"
        ) from error
