"""Where target features come from: MFCC, or one hidden layer of a trained model, both at 50 Hz.

A source turns waveforms into frames and says what it is, so that units can be traced to one model and layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from corpora.batches import length_batches
from upstream.encoder import encode, frame_count, front_end_of
from upstream.family import RECEPTIVE_FIELD, SAMPLE_RATE
from upstream.modeldir import load_model, model_sha256, read_card
from upstream.targets.mfcc import DIM, mfcc

FRAME_RATE = 50  # Hz


class FeatureError(ValueError):
    """Features that cannot be computed, or that are not finite."""


class Source(Protocol):
    """What PCA, k-means and labelling need to know of a feature source."""

    dim: int

    def features(self, wavs: Sequence[np.ndarray]) -> list[Tensor]:
        """Unpadded float32 waveforms (N,) at 16 kHz -> frames (T, dim), on the device that computed them."""

    def provenance(self) -> dict[str, Any]:
        """source, front_end, layer, model_sha256, frame_rate."""


class MfccSource:
    """39-dimensional MFCC with deltas and delta-deltas, the targets of the first iteration."""

    dim = DIM

    def features(self, wavs: Sequence[np.ndarray]) -> list[Tensor]:
        """Each waveform (N,) in [-1, 1] -> (T, 39) on the CPU."""
        return [mfcc(torch.from_numpy(wav)) for wav in wavs]

    def frames(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`features` as numpy arrays."""
        return [x.numpy() for x in self.features(wavs)]

    def provenance(self) -> dict[str, Any]:
        """source, front_end, layer, model_sha256, frame_rate."""
        return {
            "source": "mfcc",
            "front_end": "mfcc",
            "layer": None,
            "model_sha256": None,
            "frame_rate": FRAME_RATE,
        }


class LayerSource:
    """Hidden state `layer` of a model directory; the encoder stops there.

    `layer` counts as everywhere here (0 = input of the first layer, L = after the final norm); None takes two
    thirds of the depth. `batch_seconds` bounds the padded audio of one forward pass. Runs on the GPU if there is one.
    """

    def __init__(self, model_dir: Path | str, layer: int | None = None, *, batch_seconds: float = 120.0) -> None:
        self.model_dir = Path(model_dir)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_model(self.model_dir).to(device)
        depth = self.model.config.num_hidden_layers
        self.layer = round(2 * depth / 3) if layer is None else layer
        if not 0 <= self.layer <= depth:
            raise FeatureError(f"{self.model_dir}: layer {self.layer} is not one of the hidden states 0 to {depth}")
        self.dim: int = self.model.config.hidden_size
        self._limit = int(batch_seconds * SAMPLE_RATE)
        self._sha256 = model_sha256(self.model_dir)
        # A name and not the path: units and the cards of models trained on them are shared.
        self._name = read_card(self.model_dir).get("name") or self.model_dir.name

    @torch.inference_mode()
    def features(self, wavs: Sequence[np.ndarray]) -> list[Tensor]:
        """Waveforms (N,) of at least 400 samples -> (T, dim) on the model's device, in the order given."""
        for i, wav in enumerate(wavs):
            if len(wav) < RECEPTIVE_FIELD:
                raise FeatureError(f"waveform {i} has {len(wav)} samples; one frame needs {RECEPTIVE_FIELD}")
        result: list[Tensor] = [torch.empty(0)] * len(wavs)
        for batch in length_batches([len(wav) for wav in wavs], self._limit):
            encoded = encode(self.model, [torch.from_numpy(wavs[i]) for i in batch], top_layer=self.layer)
            states = encoded.hidden_states[self.layer].float()
            for row, i in enumerate(batch):
                result[i] = states[row, : frame_count(len(wavs[i]))]
        return result

    def frames(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`features` as numpy arrays on the CPU."""
        return [x.cpu().numpy() for x in self.features(wavs)]

    def provenance(self) -> dict[str, Any]:
        """source, front_end, layer, model_sha256, frame_rate."""
        return {
            "source": self._name,
            "front_end": front_end_of(self.model),
            "layer": self.layer,
            "model_sha256": self._sha256,
            "frame_rate": FRAME_RATE,
        }


def open_source(source: str, layer: int | None = None, *, batch_seconds: float = 120.0) -> MfccSource | LayerSource:
    """`mfcc`, or the path of a model directory with the hidden state to take."""
    if source == "mfcc":
        if layer is not None:
            raise FeatureError("the source `mfcc` has no layers; leave `layer` out or name a model directory")
        return MfccSource()
    return LayerSource(source, layer, batch_seconds=batch_seconds)
