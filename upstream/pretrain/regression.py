"""Prediction of a teacher's features: DistilHuBERT's objective, for comparison with units under one roof.

Source: DistilHuBERT (2110.01900), equation 1: L1 and log-sigmoid of the cosine, one linear head a teacher layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import HubertModel

from upstream.config import RegressionConfig
from upstream.model.encoder import encode
from upstream.model.family import HOP
from upstream.model.modeldir import load_model
from upstream.pretrain.objective import FrameTotals


class RegressionError(ValueError):
    """A teacher whose features cannot be predicted."""


@dataclass(frozen=True)
class FeatureLoss:
    """The weighted loss, and for logging the mean absolute difference and the mean cosine, over layers and frames."""

    loss: Tensor
    l1: float
    cosine: float


class FeatureHeads(nn.Module):
    """One linear head for each teacher layer, and the frozen teacher that makes their targets.

    The teacher is no part of the module's state: neither checkpoints nor exports hold its weights, DDP does not see
    them, and `train()` does not reach it.
    """

    def __init__(self, width: int, config: RegressionConfig, teacher: HubertModel | None = None) -> None:
        super().__init__()
        self.config = config
        teacher = (teacher or load_model(config.source)).eval().requires_grad_(False)
        depth = teacher.config.num_hidden_layers
        if max(config.layers) > depth:
            raise RegressionError(
                f"regression: {config.source} has hidden states 0 to {depth}, not {max(config.layers)}"
            )
        stride = teacher.config.inputs_to_logits_ratio
        if stride != HOP:
            raise RegressionError(f"regression: {config.source} has a frame every {stride} samples, not every {HOP}")
        self._outside = [teacher]  # a list hides it from nn.Module
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
        """Student frames (B, T, D), their valid ones (B, T) bool, targets as `targets` gives them.

        The loss is a mean over valid frames and layers, or this batch's part of a step's mean with `totals`.
        """
        chosen = frames[valid]
        total = frames.new_zeros((), dtype=torch.float32) + frames.sum() * 0.0
        l1_sum = cosine_sum = 0.0
        for head, target in zip(self.heads.values(), targets, strict=True):
            predicted = head(chosen)
            # A teacher's outlier dimensions leave the range of fp16, and their squares that of fp32.
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
    """Unit vectors; divided by the largest entry first, because the square of a large one is infinite."""
    largest = x.detach().abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return F.normalize(x / largest, dim=-1)
