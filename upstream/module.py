"""The module that Lightning trains: encoder and unit head under one loss, its optimiser and schedule."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from transformers import HubertModel

from upstream.config import PretrainConfig
from upstream.data import Batch
from upstream.encoder import collate, run_layers
from upstream.objective import UnitHead, UnitLoss, unit_loss


class TrainingError(RuntimeError):
    """Training cannot go on; says at which step and on which utterances."""


class Pretraining(lightning.LightningModule):
    """Encoder and unit head under one loss; logs masked and unmasked accuracy."""

    def __init__(self, encoder: HubertModel, k: int, config: PretrainConfig) -> None:
        super().__init__()
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

    def compute(self, batch: Batch) -> UnitLoss:
        padded, lengths = collate(self.encoder, batch.wavs)
        mask, labels = batch.mask.to(self.device), batch.labels.to(self.device)
        states, _ = run_layers(self.encoder, padded, lengths, time_mask=mask)
        return unit_loss(
            self.head,
            states[-1],
            labels,
            mask,
            batch.valid.to(self.device),
            masked_weight=self.config.masked_weight,
            unmasked_weight=self.config.unmasked_weight,
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # `compute` moves what it needs, waveforms after normalising them one by one

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        # The step decides dropout and LayerDrop, on all ranks alike, so that resuming repeats them.
        torch.manual_seed(self.config.seed * 1_000_003 + batch.step)
        result = self.compute(batch)
        if not torch.isfinite(result.loss):
            raise TrainingError(
                f"step {batch.step}: the loss is {float(result.loss.detach())}; "
                f"utterances: {', '.join(batch.utt_ids)}. Look at their audio, or lower lr."
            )
        return {"loss": result.loss, "result": result, "step": batch.step}

    def configure_optimizers(self) -> dict[str, Any]:
        decayed = [p for p in self.parameters() if p.requires_grad and p.dim() > 1]
        plain = [p for p in self.parameters() if p.requires_grad and p.dim() <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": self.config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=self.config.lr,
            betas=(0.9, 0.98),
            eps=1e-6,
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
