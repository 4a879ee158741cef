"""Where target features come from: MFCC, or one hidden layer of a model directory or an S3PRL upstream, all at 50 Hz.

A source turns waveforms into frames and says what it is, so that units can be traced to one model and layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from corpora.batches import length_batches
from corpora.schema import nearest
from upstream.config import S3PRL
from upstream.model.card import ancestors
from upstream.model.encoder import encode, frame_count, front_end_of
from upstream.model.family import HOP, RECEPTIVE_FIELD, SAMPLE_RATE
from upstream.model.fast import convolve_frames
from upstream.model.modeldir import load_model, model_sha256, read_card
from upstream.units.mfcc import DIM, mfcc

FRAME_RATE = 50  # Hz
# Longer passes outgrow the caches: HuBERT-Base takes half as long again over 60 s of padded audio as over 16 s.
CPU_PASS_SECONDS = 16.0


class FeatureError(ValueError):
    """Features that cannot be computed, or that are not finite."""


class Source(Protocol):
    """What PCA, k-means and labelling need to know of a feature source."""

    dim: int

    def features(self, wavs: Sequence[np.ndarray]) -> list[Tensor]:
        """Unpadded float32 waveforms (N,) at 16 kHz -> frames (T, dim), on the device that computed them."""

    def provenance(self) -> dict[str, Any]:
        """source, front_end, layer, model_sha256, frame_rate."""

    def lineage(self) -> dict[str, dict[str, Any]]:
        """Entries of the model behind the features and of its ancestors, by hash; empty where there is none."""


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

    def lineage(self) -> dict[str, dict[str, Any]]:
        """No model, no ancestors."""
        return {}


class LayerSource:
    """Hidden state `layer` of a model directory; the encoder stops there.

    `layer` counts as everywhere here (0 = input of the first layer, L = after the final norm); None takes two
    thirds of the depth. `batch_seconds` bounds the padded audio of one forward pass, on a CPU `CPU_PASS_SECONDS` as
    well. Runs on the GPU if there is one.
    """

    def __init__(self, model_dir: Path | str, layer: int | None = None, *, batch_seconds: float = 120.0) -> None:
        self.model_dir = Path(model_dir)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_model(self.model_dir).to(device)
        convolve_frames(self.model)
        self.depth = depth = self.model.config.num_hidden_layers
        self.layer = round(2 * depth / 3) if layer is None else layer
        if not 0 <= self.layer <= depth:
            raise FeatureError(f"{self.model_dir}: layer {self.layer} is not one of the hidden states 0 to {depth}")
        _check_rate(str(self.model_dir), self.model.config.inputs_to_logits_ratio)
        self.dim: int = self.model.config.hidden_size
        if device.type == "cpu":
            batch_seconds = min(batch_seconds, CPU_PASS_SECONDS)
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

    def lineage(self) -> dict[str, dict[str, Any]]:
        """The model's card entry and those of its ancestors."""
        return ancestors(self.model_dir)


class S3prlSource:
    """Hidden state `layer` of an upstream of S3PRL: `NAME`, or `NAME=PATH` with a local checkpoint.

    One waveform at a time: what S3PRL's upstreams make of a padded batch depends on its companions. S3PRL counts
    ceil(n / 320) frames, and pads clips under 50 ms to that length; the first floor((n - 400) / 320) + 1 frames are
    taken. Raises FeatureError for an unknown name, a
    frame rate other than 50 Hz, and fewer frames than the encoder has.
    """

    def __init__(self, name: str, layer: int | None = None) -> None:
        import upstream

        self.name, _, path = name.partition("=")
        upstream.register("s3prl")
        from s3prl.nn import S3PRLUpstream

        if self.name not in S3PRLUpstream.available_names():
            near = nearest(self.name, S3PRLUpstream.available_names())
            raise FeatureError(f"{S3PRL}{self.name}: S3PRL has no upstream of this name{near}")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        options = {"path_or_url": path} if path else {}
        self.model = S3PRLUpstream(self.name, **options).to(self.device).eval().requires_grad_(False)
        self.depth = depth = self.model.num_layers - 1
        self.layer = round(2 * depth / 3) if layer is None else layer
        if not 0 <= self.layer <= depth:
            raise FeatureError(f"{S3PRL}{self.name}: layer {self.layer} is not one of the hidden states 0 to {depth}")
        _check_rate(f"{S3PRL}{self.name}", self.model.downsample_rates[self.layer])
        self.dim: int = self.model.hidden_sizes[self.layer]
        self._sha256 = sha256_state(self.model)

    @torch.inference_mode()
    def features(self, wavs: Sequence[np.ndarray]) -> list[Tensor]:
        """Waveforms (N,) -> (T, dim) on the model's device."""
        return [self._one(torch.from_numpy(wav).to(self.device)) for wav in wavs]

    def _one(self, wav: Tensor) -> Tensor:
        states, _ = self.model(wav[None], torch.tensor([len(wav)], device=self.device))
        frames = frame_count(len(wav))
        state = states[self.layer][0].float()
        if len(state) < frames:
            raise FeatureError(f"{S3PRL}{self.name}: {len(state)} frames of {len(wav)} samples, {frames} are needed")
        return state[:frames]

    def provenance(self) -> dict[str, Any]:
        """source, front_end, layer, model_sha256, frame_rate; the hash is that of the weights as S3PRL loads them."""
        return {
            "source": f"{S3PRL}{self.name}",
            "front_end": "s3prl",
            "layer": self.layer,
            "model_sha256": self._sha256,
            "frame_rate": FRAME_RATE,
        }

    def lineage(self) -> dict[str, dict[str, Any]]:
        """An entry that names the upstream; S3PRL knows no more."""
        return {self._sha256: {"name": f"{S3PRL}{self.name}"}}


def sha256_state(module: torch.nn.Module) -> str:
    """SHA-256 over the names and values of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_rate(name: str, stride: int) -> None:
    if stride != HOP:
        raise FeatureError(
            f"{name}: {SAMPLE_RATE / stride:g} frames per second, but units are at {FRAME_RATE} Hz "
            f"(a frame every {HOP} samples): choose another source"
        )


def open_source(
    source: str, layer: int | None = None, *, batch_seconds: float = 120.0
) -> MfccSource | LayerSource | S3prlSource:
    """`mfcc`, the path of a model directory, or `s3prl:NAME`, the latter two with the hidden state to take."""
    if source == "mfcc":
        if layer is not None:
            raise FeatureError("the source `mfcc` has no layers; leave `layer` out or name a model directory")
        return MfccSource()
    if source.startswith(S3PRL):
        return S3prlSource(source.removeprefix(S3PRL), layer)
    if not Path(source).exists() and (near := nearest(source, ["mfcc"])):
        raise FeatureError(f"{source}: no such model directory{near}")
    return LayerSource(source, layer, batch_seconds=batch_seconds)
