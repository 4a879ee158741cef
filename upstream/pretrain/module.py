"""The LightningModule of pre-training: encoder, prediction heads, loss, optimiser and schedule."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import lightning
import torch
from transformers import HubertModel

from upstream.config import PretrainConfig
from upstream.errors import UpstreamError
from upstream.model.encoder import collate, run_layers
from upstream.model.fast import convolve_frames
from upstream.pretrain.channel import random_channel
from upstream.pretrain.data import Batch, StepBatches
from upstream.pretrain.objective import FeatureHeads, FrameTotals, StepLoss, UnitHead, UnitLoss, unit_loss
from upstream.pretrain.step import take_step


@dataclass(frozen=True)
class UnitTask:
    """One label set to predict: its number of units and the weight of its loss."""

    k: int
    weight: float = 1.0


class Pretraining(lightning.LightningModule):
    """Encoder with a unit head for each label set and, with `regression`, heads for teacher features."""

    def __init__(
        self,
        encoder: HubertModel,
        tasks: int | Mapping[str, UnitTask],
        config: PretrainConfig,
        regression: FeatureHeads | None = None,
    ) -> None:
        """`tasks` in the order of the label sets of a batch; an int is one set with that many units."""
        super().__init__()
        self.automatic_optimization = False  # `take_step` handles several batches and skips bad ones
        self.encoder = encoder
        self.config = config
        self.tasks = {"units": UnitTask(tasks)} if isinstance(tasks, int) else dict(tasks)
        if not self.tasks and regression is None:
            raise UpstreamError("nothing to learn: name units or a teacher")
        if self.tasks and config.mask_prob == 0:
            raise UpstreamError("mask_prob=0 masks no frame; units need masked frames, only features do not")
        self.heads = torch.nn.ModuleDict(
            {
                name: UnitHead(
                    encoder.config.hidden_size,
                    task.k,
                    logits=config.logits,
                    projection=config.projection,
                    temperature=config.logit_temperature,
                )
                for name, task in self.tasks.items()
            }
        )
        self.regression = regression
        convolve_frames(encoder)
        set_dropout(encoder, config.dropout, config.layerdrop)
        # The flag requests the gradient of the waveform, which nothing uses and which takes 5 % of a step.
        encoder.feature_extractor._requires_grad = False
        if config.checkpointing:
            encoder.gradient_checkpointing_enable({"use_reentrant": False})

    def compute(
        self, batch: Batch, totals: FrameTotals | None = None, chance: torch.Generator | None = None
    ) -> StepLoss:
        """Weighted sum of all loss terms of one batch, with labels (B, T, S) for S sets or (B, T) for one.

        `totals` are the frames of the whole step (None: of this batch); the generator `chance` decides LayerDrop.
        """
        wavs = batch.wavs
        if self.training and self.config.channel_db:
            wavs = [random_channel(wav, self.config.channel_db) for wav in wavs]
        padded, lengths = collate(self.encoder, wavs)
        mask, valid = batch.mask.to(self.device), batch.valid.to(self.device)
        states, _ = run_layers(self.encoder, padded, lengths, time_mask=mask, chance=chance)
        frames = states[-1]
        labels = batch.labels.to(self.device)
        labels = labels.unsqueeze(-1) if labels.dim() == 2 else labels
        sets: dict[str, UnitLoss] = {}
        total = frames.new_zeros(())
        for index, (name, task) in enumerate(self.tasks.items()):
            result = unit_loss(
                self.heads[name],
                frames,
                labels[..., index],
                mask,
                valid,
                masked_weight=self.config.masked_weight,
                unmasked_weight=self.config.unmasked_weight,
                totals=totals,
            )
            total = total + task.weight * result.loss
            # On the CPU, because processes exchange these losses.
            sets[name] = replace(result, loss=result.loss.detach().cpu())
        figures: dict[str, float] = {}
        if self.regression is not None:
            features = self.regression(frames, valid, self.regression.targets(batch.wavs), totals)
            total = total + features.loss
            figures = {"feature_l1": features.l1, "feature_cosine": features.cosine}
        return StepLoss(total, sets, figures)

    def transfer_batch_to_device(self, batch: StepBatches, device: torch.device, dataloader_idx: int) -> StepBatches:
        return batch  # `compute` moves the tensors, waveforms after normalising each

    def training_step(self, step: StepBatches, batch_idx: int) -> dict[str, Any]:
        result = take_step(
            step,
            self.optimizers(),
            [p for p in self.parameters() if p.requires_grad],
            seed=self.config.seed,
            clip=self.config.clip,
            device=self.device,
            compute=self.compute,
            backward=self.manual_backward,
            without_sync=getattr(self.trainer.strategy.model, "no_sync", contextlib.nullcontext),
        )
        self.lr_schedulers().step()  # after a skipped step too: the schedule is a function of the step
        return {"result": result, "step": step.number, "position": step.position}

    def configure_optimizers(self) -> dict[str, Any]:
        decayed = [p for p in self.parameters() if p.requires_grad and p.dim() > 1]
        plain = [p for p in self.parameters() if p.requires_grad and p.dim() <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": self.config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=self.config.lr,
            betas=(0.9, 0.98),
            eps=1e-6,
            fused=True,
        )
        warmup = max(1, int(self.config.warmup * self.config.steps))

        def scale(step: int) -> float:
            return min((step + 1) / warmup, max(0.0, (self.config.steps - step) / max(1, self.config.steps - warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def set_dropout(encoder: HubertModel, dropout: float, layerdrop: float) -> None:
    """Set dropout on the residual branches and the input; inside attention it would disable SDPA's fused kernels."""
    encoder.config.layerdrop = layerdrop
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0 if name.endswith("intermediate_dropout") else dropout
        elif hasattr(module, "k_proj"):
            module.dropout = 0.0
