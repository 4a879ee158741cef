"""Log-mel encoders with a head for Transformers: CTC recognisers and classifiers of whole clips.

They are Transformers' own classes (input, loss, options, training), with our encoder in place of `HubertModel`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from transformers import HubertForCTC, HubertForSequenceClassification

from upstream.model.encoder import LOAD_HINT, LogMelHubertConfig, LogMelHubertModel, init_front_end


class _WithLogMel:
    """Replaces the encoder that Transformers' class builds."""

    config_class = LogMelHubertConfig
    _can_record_outputs: ClassVar[dict[str, object]] = {}

    def __init__(self, config: LogMelHubertConfig, *arguments: object, **options: object) -> None:
        config.feat_extract_activation = "gelu"  # the parent builds convolutions, which are replaced below
        checkpointing = getattr(config, "gradient_checkpointing", False)  # the parent reads and deletes it
        try:
            super().__init__(config, *arguments, **options)
        finally:
            config.feat_extract_activation = LOAD_HINT
        if checkpointing:
            config.gradient_checkpointing = True
        self.hubert = LogMelHubertModel(config)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if not init_front_end(module):
            super()._init_weights(module)


class LogMelHubertForCTC(_WithLogMel, HubertForCTC):
    """`HubertForCTC` of a log-mel encoder: (B, N) samples -> logits (B, T, vocabulary)."""


class LogMelHubertForSequenceClassification(_WithLogMel, HubertForSequenceClassification):
    """`HubertForSequenceClassification` of a log-mel encoder: (B, N) samples -> logits (B, labels)."""
