"""Prediction of discrete units: HuBERT's cosine logits or plain linear ones, on masked and on unmasked frames.

Source: HuBERT (2106.07447), equation 3 and section II-C; HArnESS weights both kinds of frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UnitHead(nn.Module):
    """Frames (N, D) -> logits over K units (N, K).

    `cosine`: a projection, then the cosine with one embedding a unit, divided by the temperature. `linear`: one matrix.
    """

    def __init__(self, width: int, k: int, *, logits: str, projection: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.cosine = logits == "cosine"
        self.projection = nn.Linear(width, projection if self.cosine else k)
        if self.cosine:
            self.units = nn.Parameter(torch.randn(k, projection))

    def forward(self, frames: Tensor) -> Tensor:
        x = self.projection(frames)
        if not self.cosine:
            return x
        # In half precision the norm of a large vector overflows (fp16) or loses the small differences (bf16).
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(x.float(), dim=-1) @ F.normalize(self.units.float(), dim=-1).T / self.temperature


@dataclass(frozen=True)
class UnitLoss:
    """Weighted loss, and for logging: mean cross-entropy and accuracy on masked and unmasked frames, with counts."""

    loss: Tensor
    masked_loss: float
    unmasked_loss: float
    masked_correct: int
    masked_frames: int
    unmasked_correct: int
    unmasked_frames: int


@dataclass(frozen=True)
class StepLoss:
    """The loss of a batch, and what it is made of: the loss of each label set, the first of which is the main one, and
    named figures of other terms."""

    loss: Tensor
    sets: Mapping[str, UnitLoss] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FrameTotals:
    """Masked and unmasked frames of an optimisation step: of all its batches on all `ranks`."""

    masked: int
    unmasked: int
    ranks: int = 1

    def share(self, *kinds: str) -> float:
        """What turns a sum over frames of these kinds into its part of the step's mean; DDP averages over ranks."""
        return self.ranks / max(1, sum(getattr(self, kind) for kind in kinds))


def unit_loss(
    head: UnitHead,
    frames: Tensor,
    labels: Tensor,
    mask: Tensor,
    valid: Tensor,
    *,
    masked_weight: float,
    unmasked_weight: float,
    totals: FrameTotals | None = None,
) -> UnitLoss:
    """`masked_weight` * CE(masked) + `unmasked_weight` * CE(unmasked), each a mean over its frames.

    `frames` (B, T, D), `labels` (B, T) long, `mask` and `valid` (B, T) bool. Logits are computed for the frames that
    the loss needs and for no others: with `unmasked_weight` 0 the unmasked ones are left out. `totals` are the frames
    of the whole step that this batch is a part of; without them the means are over this batch.
    """
    masked, unmasked = mask & valid, ~mask & valid
    needed = valid if unmasked_weight else masked
    total, stats = frames.sum() * 0.0, []
    if not needed.any():  # DDP waits for the gradient of every parameter on every rank, also of one without a frame
        total = total + head(frames[:, 0]).sum() * 0.0
    for kind, chosen, weight in (("masked", masked, masked_weight), ("unmasked", unmasked, unmasked_weight)):
        count = int(chosen.sum())
        if weight == 0 or count == 0:
            stats.append((0.0, 0, 0))
            continue
        logits = head(frames[chosen])
        target = labels[chosen]
        loss_sum = F.cross_entropy(logits.float(), target, reduction="sum")
        share = 1 / count if totals is None else totals.share(kind)
        total = total + weight * loss_sum * share
        stats.append((float(loss_sum.detach()) / count, int((logits.argmax(-1) == target).sum()), count))
    (masked_ce, masked_ok, masked_n), (unmasked_ce, unmasked_ok, unmasked_n) = stats
    return UnitLoss(total, masked_ce, unmasked_ce, masked_ok, masked_n, unmasked_ok, unmasked_n)
