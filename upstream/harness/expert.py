"""The S3PRL upstream: unpadded waveforms in, all hidden states out, independent of padding and train mode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from upstream.errors import UpstreamError
from upstream.model.encoder import Encoded, encode
from upstream.model.family import HOP, RECEPTIVE_FIELD
from upstream.model.fast import convolve_frames
from upstream.model.modeldir import load_model


class UpstreamExpert(nn.Module):
    """A model directory behind S3PRL's interface.

    Works for HArnESS models of either front end and for local HuBERT, wav2vec 2.0 and XLS-R directories in
    Transformers form. While no parameter requires a gradient it stays in eval mode, because ESPnet's
    `model.train()` would otherwise switch on dropout in a frozen upstream. With trainable parameters `train()`
    works as usual. LayerDrop and SpecAugment are always off.
    """

    def __init__(self, ckpt: str | Path) -> None:
        super().__init__()
        self.name = f"[HArnESS {Path(ckpt).name}]"
        self.model = load_model(ckpt)
        convolve_frames(self.model)

    def get_downsample_rates(self, key: str | None = None) -> int:
        """Samples from one frame to the next (16 kHz), the same for every hidden state."""
        return HOP

    @property
    def frozen(self) -> bool:
        """Whether no parameter requires a gradient."""
        return not any(p.requires_grad for p in self.parameters())

    def train(self, mode: bool = True) -> UpstreamExpert:
        """Train mode if `mode` is set and some parameter requires a gradient, else eval mode."""
        return super().train(mode and not self.frozen)

    def encode(self, wavs: Sequence[Tensor]) -> Encoded:
        """Hidden states of waveforms of at least 400 samples, each with its valid frames."""
        return encode(self.model, wavs)

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Unpadded 1-D 16 kHz waveforms -> `hidden_states`: L+1 tensors (B, ceil(n_max / 320), D).

        State 0 is the input of layer 1, state i the output of layer i, state L comes after the final norm.
        S3PRL counts ceil(n / 320) frames, the encoder gives floor((n - 400) / 320) + 1: the last valid frame of
        each item is repeated, never a frame of the padding. A waveform below 400 samples, also an empty one, is
        padded with zeros to 400, which give one frame. Raises UpstreamError for an empty list and for waveforms
        that are not 1-D.
        """
        if not len(wavs):
            raise UpstreamError("the upstream got an empty list of waveforms; it needs at least one")
        for i, wav in enumerate(wavs):
            if wav.dim() != 1:
                raise UpstreamError(f"waveform {i} has shape {tuple(wav.shape)}; expected 1-D samples at 16 kHz")
        if self.training and self.frozen:  # parameters were frozen after train() had been called
            self.eval()
        samples = max(len(wav) for wav in wavs)
        padded = [nn.functional.pad(wav, (0, max(0, RECEPTIVE_FIELD - len(wav)))) for wav in wavs]
        encoded = self.encode(padded)
        length = max(1, -(-samples // HOP))
        steps = torch.arange(length, device=encoded.frames.device)
        index = torch.minimum(steps[None, :], encoded.frames[:, None] - 1)
        rows = torch.arange(len(wavs), device=index.device)[:, None]
        return {"hidden_states": [state[rows, index] for state in encoded.hidden_states]}
