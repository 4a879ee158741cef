"""One optimisation step: its batches on this process and on the others, as if they were a single batch.

Masked and unmasked frames are counted over the whole step first, so that every frame weighs the same whatever batch
or process it is in. A loss that is not finite ends the step without moving a weight, on all processes alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from upstream.pretrain.data import Batch, StepBatches
from upstream.pretrain.objective import FrameTotals, StepLoss

T = TypeVar("T")


@dataclass(frozen=True)
class StepResult:
    """The losses of a step's batches on this process, detached; `bad` says why no weight moved, None if all is well.

    `culprits` are the batches of this process that had to do with it.
    """

    losses: list[StepLoss]
    bad: str | None = None
    culprits: tuple[Batch, ...] = ()


def in_group() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized()


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Element-wise sums over all processes, in double precision."""
    if not in_group():
        return values
    total = torch.tensor(values, device=device, dtype=torch.float64)
    dist.all_reduce(total)
    return total.tolist()


def of_all_ranks(items: list[T]) -> list[T]:
    """The items of all processes, those of the first process first."""
    if not in_group():
        return items
    parts: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def frame_totals(parts: list[Batch], device: torch.device) -> FrameTotals:
    """Frames of a step over its batches and all processes."""
    counts = [part.frames for part in parts]
    masked, unmasked = sum_over_ranks([float(sum(kind)) for kind in zip(*counts, strict=True)], device)
    return FrameTotals(int(masked), int(unmasked), dist.get_world_size() if in_group() else 1)


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

    `compute` gives the loss of a batch, `backward` its gradients; DDP averages these over processes unless the block
    is `without_sync`, as all batches but the last are. Gradients are clipped at the norm `clip`, where it is not 0.
    """
    totals = frame_totals(step.parts, device)
    optimizer.zero_grad(set_to_none=True)
    losses: list[StepLoss] = []
    for number, batch in enumerate(step.parts, 1):
        # The step alone decides LayerDrop, on all processes and for all batches; dropout differs between batches.
        chance = torch.Generator().manual_seed(step_seed(seed, step.number))
        torch.manual_seed(step_seed(seed, step.number, batch.slot))
        with without_sync() if number < len(step.parts) else contextlib.nullcontext():
            result = compute(batch, totals, chance)
            finite = bool(torch.isfinite(result.loss))
            (bad_ranks,) = sum_over_ranks([0.0 if finite else 1.0], device)
            if bad_ranks:
                optimizer.zero_grad(set_to_none=True)
                why = f"the loss is {float(result.loss.detach())}" if not finite else "the loss of another process"
                return StepResult(losses, f"{why}, batch {number} of {len(step.parts)}", () if finite else (batch,))
            backward(result.loss)
        # Detached: a loss keeps the graph of its step alive.
        losses.append(replace(result, loss=result.loss.detach().cpu()))
    norm = nn.utils.clip_grad_norm_(parameters, clip or float("inf"))
    if not torch.isfinite(norm):  # DDP has made it the same everywhere
        optimizer.zero_grad(set_to_none=True)
        return StepResult(losses, f"the gradient's norm is {float(norm)}", tuple(step.parts))
    optimizer.step()
    return StepResult(losses)
