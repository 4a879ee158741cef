"""The module that Lightning trains: encoder and unit head under one loss, its optimiser and schedule."""

from __future__ import annotations

import contextlib
from typing import Any

import lightning
import torch
from transformers import HubertModel

from upstream.config import PretrainConfig
from upstream.data import Batch, StepBatches
from upstream.encoder import collate, run_layers
from upstream.objective import FrameTotals, UnitHead, UnitLoss, unit_loss
from upstream.optimise import take_step


class Pretraining(lightning.LightningModule):
    """Encoder and unit head under one loss; logs masked and unmasked accuracy."""

    def __init__(self, encoder: HubertModel, k: int, config: PretrainConfig) -> None:
        super().__init__()
        self.automatic_optimization = False  # a step has several batches, and a bad one moves nothing
        self.encoder = encoder
        self.config = config
        self.head = UnitHead(
            encoder.config.hidden_size,
            k,
            logits=config.logits,
            projection=config.projection,
            temperature=config.logit_temperature,
        )
        set_dropout(encoder, config.dropout, config.layerdrop)
        # The flag freezes nothing: it asks for the gradient of the waveform, a twentieth of a step for nothing.
        encoder.feature_extractor._requires_grad = False
        if config.checkpointing:
            encoder.gradient_checkpointing_enable({"use_reentrant": False})

    def compute(
        self, batch: Batch, totals: FrameTotals | None = None, chance: torch.Generator | None = None
    ) -> UnitLoss:
        """Loss of one batch, its frames weighed as a part of a step's `totals`; `chance` decides LayerDrop."""
        padded, lengths = collate(self.encoder, batch.wavs)
        mask, labels = batch.mask.to(self.device), batch.labels.to(self.device)
        states, _ = run_layers(self.encoder, padded, lengths, time_mask=mask, chance=chance)
        return unit_loss(
            self.head,
            states[-1],
            labels,
            mask,
            batch.valid.to(self.device),
            masked_weight=self.config.masked_weight,
            unmasked_weight=self.config.unmasked_weight,
            totals=totals,
        )

    def transfer_batch_to_device(self, batch: StepBatches, device: torch.device, dataloader_idx: int) -> StepBatches:
        return batch  # `compute` moves what it needs, waveforms after normalising them one by one

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
    """Dropout on the residual branches and the input alone: inside attention it would cost SDPA its fused kernels."""
    encoder.config.layerdrop = layerdrop
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0 if name.endswith("intermediate_dropout") else dropout
        elif hasattr(module, "k_proj"):
            module.dropout = 0.0
