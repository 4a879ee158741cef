"""Losses of pre-training: prediction of discrete units on masked and unmasked frames, and of a teacher's features.

Units: HuBERT (2106.07447), equation 3 and section II-C, with cosine logits or plain linear ones; HArnESS weights masked
and unmasked frames separately. Features: DistilHuBERT (2110.01900), equation 1, L1 and log-sigmoid of the cosine, with
one linear head for each teacher layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import HubertModel

from upstream.config import RegressionConfig
from upstream.distributed import of_all_ranks
from upstream.errors import UpstreamError
from upstream.model.encoder import encode
from upstream.model.modeldir import load_model
from upstream.model.rate import check_frames, frames_of


class UnitHead(nn.Module):
    """Frames (N, D) -> logits over K units (N, K).

    `cosine`: a projection, then its cosine with the embedding of each unit, divided by the temperature. `linear`: one
    matrix.
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
    """Weighted loss; for the log, mean cross-entropy, correct frames and frames, masked and unmasked."""

    loss: Tensor
    masked_loss: float
    unmasked_loss: float
    masked_correct: int
    masked_frames: int
    unmasked_correct: int
    unmasked_frames: int


@dataclass(frozen=True)
class StepLoss:
    """Loss of a batch, and its parts for the log: one loss for each label set (the first is the main one), and named
    figures of other terms."""

    loss: Tensor
    sets: Mapping[str, UnitLoss] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FrameTotals:
    """Masked and unmasked frames of an optimisation step, over all its batches on all `ranks`."""

    masked: int
    unmasked: int
    ranks: int = 1

    def share(self, *kinds: str) -> float:
        """Factor from a sum over frames of these kinds to its part of the step's mean; DDP averages over ranks."""
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

    `frames` (B, T, D), `labels` (B, T) long, `mask` and `valid` (B, T) bool. Logits are computed only for frames with a
    weight: `unmasked_weight` 0 leaves out the unmasked ones. `totals` are the frames of the step that this batch
    belongs to; without them the means are over this batch.
    """
    masked, unmasked = mask & valid, ~mask & valid
    needed = valid if unmasked_weight else masked
    total, stats = frames.sum() * 0.0, []
    if not needed.any():  # DDP waits for a gradient of every parameter from every rank, also from one without frames
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


@dataclass(frozen=True)
class FeatureLoss:
    """Weighted loss; for the log, mean absolute difference and mean cosine over layers and frames."""

    loss: Tensor
    l1: float
    cosine: float


class FeatureHeads(nn.Module):
    """One linear head for each teacher layer, and the frozen teacher that computes their targets.

    The teacher is not a submodule: checkpoints, exports and DDP do not contain its weights, and `train()` does not
    change its mode.
    """

    def __init__(self, width: int, config: RegressionConfig, teacher: HubertModel | None = None) -> None:
        super().__init__()
        self.config = config
        teacher = (teacher or load_model(config.source)).eval().requires_grad_(False)
        depth = teacher.config.num_hidden_layers
        if max(config.layers) > depth:
            raise UpstreamError(f"regression: {config.source} has hidden states 0 to {depth}, not {max(config.layers)}")
        check_frames(f"regression: {config.source}", frames_of(teacher.config))
        self._outside = [teacher]  # nn.Module does not register modules inside a list
        self.heads = nn.ModuleDict(
            {str(layer): nn.Linear(width, teacher.config.hidden_size) for layer in config.layers}
        )

    @torch.no_grad()
    def targets(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """Hidden states of the teacher on unmasked, unpadded waveforms: one (B, T, D) float32 for each layer."""
        teacher = self._outside[0].to(next(self.heads.parameters()).device)
        states = encode(teacher, wavs, top_layer=max(self.config.layers)).hidden_states
        chosen = [states[layer].float() for layer in self.config.layers]
        return [F.layer_norm(x, x.shape[-1:]) for x in chosen] if self.config.normalise else chosen

    def forward(
        self, frames: Tensor, valid: Tensor, targets: Sequence[Tensor], totals: FrameTotals | None = None
    ) -> FeatureLoss:
        """Loss of student frames (B, T, D), valid ones (B, T) bool, against the result of `targets`.

        It is a mean over valid frames and layers; with `totals`, this batch's part of the step's mean.
        """
        chosen = frames[valid]
        total = frames.new_zeros((), dtype=torch.float32) + frames.sum() * 0.0
        l1_sum = cosine_sum = 0.0
        for head, target in zip(self.heads.values(), targets, strict=True):
            predicted = head(chosen)
            # Outlier dimensions of a teacher overflow fp16, and their squares overflow fp32.
            with torch.autocast(frames.device.type, enabled=False):
                predicted, wanted = predicted.float(), target[valid]
                l1 = (predicted - wanted).abs().mean(-1)
                cosine = (_unit(predicted) * _unit(wanted)).sum(-1)
                total = total + (l1 - self.config.cosine * F.logsigmoid(cosine)).sum()
            l1_sum += float(l1.detach().sum())
            cosine_sum += float(cosine.detach().sum())
        seen = max(1, len(chosen) * len(targets))
        scale = 1 / seen if totals is None else totals.share("masked", "unmasked") / len(targets)
        return FeatureLoss(self.config.weight * total * scale, l1_sum / seen, cosine_sum / seen)


def _unit(x: Tensor) -> Tensor:
    """Unit vectors; each is first divided by its largest entry, whose square could be infinite."""
    largest = x.detach().abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return F.normalize(x / largest, dim=-1)


class LossSums:
    """Loss, accuracies and figures of many batches, kept as sums: their size does not grow with the number of steps."""

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
        """The sums over all processes; every process must call it."""
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
        """Mean over batches of ("loss",) or ("figure", name); NaN without a batch."""
        return self.sums[key] / self.sums[("batches",)] if key in self.sums else math.nan

    def accuracy(self, kind: str, name: str = "") -> float:
        """Accuracy on the masked or unmasked frames of a label set, by default the main one; 0 without frames."""
        name = name or next(iter(self.sets), "")
        frames = self.sums.get((name, kind, "frames"), 0.0)
        return self.sums[name, kind, "correct"] / frames if frames else 0.0

    def details(self, part: str) -> dict[str, float]:
        """Optional columns: accuracies of each label set if there are several, and the figures of further losses."""
        names = self.sets if len(self.sets) > 1 else []
        columns = {
            f"{part}_{kind}_accuracy_{name}": self.accuracy(kind, name)
            for name in names
            for kind in ("masked", "unmasked")
        }
        figures = [key[1] for key in self.sums if key[0] == "figure"]
        return columns | {f"{part}_{name}": self.mean("figure", name) for name in figures}
