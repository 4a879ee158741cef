"""Take one optimisation step; count and limit the steps with a loss that is not finite or without readable audio.

The step is the same on one process or several, with one batch or several: masked and unmasked frames are counted over
the whole step first, so that each frame has the same weight. If a loss or the gradient is not finite, no process
changes a weight.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from corpora.files import atomic_file, write_json
from upstream.distributed import group_size, sum_over_ranks
from upstream.errors import UpstreamError
from upstream.pretrain.data import Batch, StepBatches
from upstream.pretrain.objective import FrameTotals, StepLoss

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """Detached losses of a step's batches on this process.

    `bad` is the reason why no weight changed, else None; `culprits` are the batches of this process that caused it.
    """

    losses: list[StepLoss]
    bad: str | None = None
    culprits: tuple[Batch, ...] = ()


def frame_totals(parts: list[Batch], device: torch.device) -> FrameTotals:
    """Frames of a step, over its batches and all processes."""
    counts = [part.frames for part in parts]
    masked, unmasked = sum_over_ranks([float(sum(kind)) for kind in zip(*counts, strict=True)], device)
    return FrameTotals(int(masked), int(unmasked), group_size())


def step_seed(seed: int, step: int, slot: int = 0) -> int:
    """Seed of the dropout of one batch of a step."""
    return seed * 1_000_003 + step + (slot << 40)


def take_step(
    step: StepBatches,
    optimizer: Optimizer,
    parameters: list[nn.Parameter],
    *,
    seed: int,
    clip: float,
    device: torch.device,
    compute: Callable[[Batch, FrameTotals, torch.Generator], StepLoss],
    backward: Callable[[Tensor], None],
    without_sync: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> StepResult:
    """Forward and backward through all batches of a step, then one update of the weights.

    `compute` returns the loss of a batch, `backward` adds its gradients. DDP averages gradients over processes after
    the last batch; the earlier ones run in `without_sync`. Gradients are clipped at the norm `clip`, unless it is 0.
    """
    totals = frame_totals(step.parts, device)
    optimizer.zero_grad(set_to_none=True)
    losses: list[StepLoss] = []
    for number, batch in enumerate(step.parts, 1):
        # LayerDrop depends on the step alone, equal on all processes and batches; dropout differs between batches.
        chance = torch.Generator().manual_seed(step_seed(seed, step.number))
        torch.manual_seed(step_seed(seed, step.number, batch.slot))
        with without_sync() if number < len(step.parts) else contextlib.nullcontext():
            result = compute(batch, totals, chance)
            finite = bool(torch.isfinite(result.loss))
            (bad_ranks,) = sum_over_ranks([0.0 if finite else 1.0], device)
            if bad_ranks:
                optimizer.zero_grad(set_to_none=True)
                why = f"the loss is {float(result.loss.detach())}" if not finite else "another process has a bad loss"
                return StepResult(losses, f"{why}, batch {number} of {len(step.parts)}", () if finite else (batch,))
            backward(result.loss)
        # Detached, else a loss keeps the graph of its step in memory.
        losses.append(replace(result, loss=result.loss.detach().cpu()))
    norm = nn.utils.clip_grad_norm_(parameters, clip or float("inf"))
    if not torch.isfinite(norm):  # equal on all processes, as DDP averages gradients
        optimizer.zero_grad(set_to_none=True)
        return StepResult(losses, f"the gradient's norm is {float(norm)}", tuple(step.parts))
    optimizer.step()
    return StepResult(losses)


class BadBatches:
    """Counts the steps whose loss or gradient is not finite, and stores their batches for inspection.

    `folder` receives `step<number>-batch<slot>.{safetensors,json}` for the first `stored` of them.
    """

    def __init__(self, folder: Path, allowed: int, rate: float, *, stored: int = 100) -> None:
        self.folder, self.allowed, self.rate, self.stored = folder, allowed, rate, stored
        self.count = 0

    def add(self, step: int, reason: str, batches: Sequence[Batch]) -> None:
        """Count one bad step (on every process), and store the batches of this process that caused it.

        Raises UpstreamError if the bad steps are more than `allowed` and more than `rate` of the `step` + 1 done.
        """
        self.count += 1
        where = []
        for batch in batches:
            if self.count <= self.stored:
                where.append(str(self._store(batch, reason)))
        names = [utt_id for batch in batches for utt_id in batch.utt_ids]
        message = f"step {step}: {reason}" + (f"; utterances: {', '.join(names)}" if names else "")
        log.warning("%s; skipped%s", message, f", stored in {', '.join(where)}" if where else "")
        if self.count > max(self.allowed, self.rate * (step + 1)):
            raise UpstreamError(
                f"{message}. {self.count} of {step + 1} steps were skipped "
                f"(allowed: {self.allowed}, or {self.rate:.1%}): look at the batches in {self.folder}, lower lr, or "
                "raise bad_steps and bad_rate."
            )

    def _store(self, batch: Batch, reason: str) -> Path:
        tensors = {f"wav.{i}": wav.clone() for i, wav in enumerate(batch.wavs)}
        tensors |= {"labels": batch.labels, "mask": batch.mask, "valid": batch.valid}
        base = self.folder / f"step{batch.step:07d}-batch{batch.slot}"
        rows: list[dict[str, Any]] = [
            {
                "utt_id": utt_id,
                "tensor": f"wav.{i}",
                "samples": len(wav),
                "peak": float(wav.abs().max()),
                "rms": float(wav.square().mean().sqrt()),
                "frames": int(batch.valid[i].sum()),
                "masked": int((batch.mask & batch.valid)[i].sum()),
            }
            for i, (utt_id, wav) in enumerate(zip(batch.utt_ids, batch.wavs, strict=True))
        ]
        with atomic_file(base.with_suffix(".safetensors")) as temporary:
            temporary.write_bytes(save(tensors))
        write_json(
            base.with_suffix(".json"),
            {"step": batch.step, "batch": batch.slot, "reason": reason, "utterances": rows},
        )
        return base.with_suffix(".json")


class Unreadable:
    """Counts the clips of this process whose audio could not be read; they are silent in their batches.

    `kind` stands before "clips" in messages. A run ends if the clips are more than `allowed` and than `rate` of all.
    """

    def __init__(self, allowed: int, rate: float, kind: str = "") -> None:
        self.allowed, self.rate, self.kind = allowed, rate, kind
        self.seen = 0
        self.reasons: dict[str, str] = {}
        self.lost = 0
        self.silent_steps = 0  # in a row, without one readable clip

    def add(self, step: int, batches: Sequence[Batch]) -> None:
        """Count the clips of a step."""
        lost = 0
        for batch in batches:
            self.seen += len(batch.wavs)
            lost += sum(utt_id in batch.unreadable for utt_id in batch.utt_ids)
            for utt_id, reason in batch.unreadable.items():
                if utt_id not in self.reasons:
                    log.warning("step %d: %sutterance %s is left out: %s", step, self.kind, utt_id, reason)
                self.reasons[utt_id] = reason
        self.lost += lost
        self.silent_steps = self.silent_steps + 1 if lost and lost == sum(len(b.wavs) for b in batches) else 0

    def check_silence(self, step: int) -> None:
        """Raise UpstreamError if more than `allowed` steps in a row had no readable clip."""
        if self.silent_steps > self.allowed:
            message = self._message([self.summary()])
            raise UpstreamError(f"step {step}: the last {self.silent_steps} steps had no audio; {message}")

    def summary(self) -> tuple[int, int, list[tuple[str, str]]]:
        """For the other processes: clips lost, clips seen, and id and reason of the first lost utterance."""
        return self.lost, self.seen, list(self.reasons.items())[:1]

    def check(self, step: int, summaries: Sequence[tuple[int, int, list[tuple[str, str]]]]) -> None:
        """Raise UpstreamError if the clips lost on all processes are more than `allowed` and than `rate` of all."""
        lost, seen = sum(s[0] for s in summaries), sum(s[1] for s in summaries)
        if lost > max(self.allowed, self.rate * seen):
            raise UpstreamError(f"step {step}: {self._message(summaries)}")

    def _message(self, summaries: Sequence[tuple[int, int, list[tuple[str, str]]]]) -> str:
        lost, seen = sum(s[0] for s in summaries), sum(s[1] for s in summaries)
        utt_id, reason = next(first for *_, firsts in summaries for first in firsts)
        limit = f"allowed: {self.allowed}, or {self.rate:.1%}"
        return (
            f"{lost} of {seen} {self.kind}clips could not be read ({limit}); the first is of utterance {utt_id}: "
            f"{reason}. Repair the audio and start the command again (it resumes from the last checkpoint), or raise "
            "bad_steps and bad_rate."
        )
