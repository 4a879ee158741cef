"""Log-mel front end as a part of the model; it gives as many frames as the convolutional encoder.

25 ms windows every 10 ms, not centred, 80 mel bands, global mean and variance as buffers or those of the clip, stacked
by two.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from corpora.audio import SAMPLE_RATE
from upstream.model.family import FFT_SIZE, HOP, RECEPTIVE_FIELD

SHORT_HOP = HOP // 2
BLOCK = math.gcd(RECEPTIVE_FIELD, SHORT_HOP)  # samples
# About one step of 16-bit audio: digital silence and dither give the same value, and the logarithm stays finite.
FLOOR = 1e-6
# Added to the variance of a band's log energy over a clip (4 to 16 in speech), so that a silent band does not become
# noise.
LEAST_VARIANCE = 1e-2


# Computed in numpy: Transformers builds modules on torch's meta device, where tensors have no values.
def _dft_basis() -> Tensor:
    """Windowed real and imaginary DFT, (RECEPTIVE_FIELD, 2 * bins); unlike an FFT, a product exports to ONNX."""
    samples, bins = np.arange(RECEPTIVE_FIELD), np.arange(FFT_SIZE // 2 + 1)
    angle = 2 * np.pi * samples[:, None] * bins[None, :] / FFT_SIZE
    basis = np.concatenate([np.cos(angle), -np.sin(angle)], axis=1) * np.hanning(RECEPTIVE_FIELD)[:, None]
    return torch.from_numpy(basis.astype(np.float32))


def _mel_matrix(mels: int, low_hz: float = 20.0, high_hz: float = SAMPLE_RATE / 2) -> Tensor:
    """Triangular mel filters on the HTK scale, (bins, mels)."""

    def to_mel(hz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hz) / 700.0)

    bins = to_mel(np.arange(FFT_SIZE // 2 + 1) * SAMPLE_RATE / FFT_SIZE)
    edges = np.linspace(to_mel(low_hz), to_mel(high_hz), mels + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - left) / (centre - left)
    falling = (right - bins[:, None]) / (right - centre)
    return torch.from_numpy(np.minimum(rising, falling).clip(min=0).astype(np.float32))


def normalise_bands(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """Each band with mean 0 and variance 1 over the valid frames of its item: (B, F, mels) -> (B, F, mels).

    `valid` (B,): valid frames of each item; None: all frames. An item without valid frames gives finite values.
    """
    inside = torch.ones_like(x[:, :, :1])
    if valid is not None:
        inside = inside * (torch.arange(x.shape[1], device=x.device) < valid[:, None]).unsqueeze(-1)
    count = inside.sum(1, keepdim=True).clamp(min=1)
    centred = x - (x * inside).sum(1, keepdim=True) / count
    variance = (centred.square() * inside).sum(1, keepdim=True) / count
    return centred / torch.sqrt(variance + LEAST_VARIANCE)


def stack_pairs(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """Frames side by side in pairs: (B, F, D) -> (B, ceil(F / 2), 2 D).

    `valid` (B,): valid frames of each item; None: all frames. If their number is odd, the last one is repeated, so that
    no pair contains padding.
    """
    first = x[:, 0::2]
    # Always one repeated frame, then cut: tracing would freeze a branch on the length.
    second = torch.cat([x[:, 1::2], x[:, -1:]], dim=1)[:, : first.shape[1]]
    if valid is not None:
        index = 2 * torch.arange(second.shape[1], device=x.device) + 1
        second = torch.where((index < valid[:, None]).unsqueeze(-1), second, first)
    return torch.cat([first, second], dim=-1)


class LogMelFrontEnd(nn.Module):
    """Log-mel frames of a waveform, two 10 ms frames stacked: (B, N) samples -> (B, 2 * mels, T) at 50 Hz.

    T = floor((N - 400) / 320) + 1, as the seven convolutions give. If an item has an odd number of 10 ms frames, its
    last one is repeated, so that no frame contains padding. `cmvn`: each band is normalised over the item, not by
    `mean` and `std`.
    """

    def __init__(self, mels: int, *, cmvn: bool = False) -> None:
        super().__init__()
        self.cmvn = cmvn
        self.register_buffer("dft", _dft_basis())
        self.register_buffer("mel", _mel_matrix(mels))
        self.register_buffer("mean", torch.full((mels,), -4.0, dtype=torch.float32))
        self.register_buffer("std", torch.full((mels,), 4.0, dtype=torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMelFrontEnd:
        """Follow `.to(device)`, but keep 32 bits after `.half()`, `.bfloat16()` and the like."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            if buffer.dtype != torch.float32:
                self._buffers[name] = before[name].to(buffer.device, torch.float32)
        return self

    @staticmethod
    def _windows(wavs: Tensor) -> Tensor:
        """(B, N) samples -> (B, F, RECEPTIVE_FIELD), one window every SHORT_HOP: five blocks of 80 samples each.

        Slices and one concatenation, because `unfold` does not export to ONNX with a dynamic length.
        """
        count = (wavs.shape[1] - RECEPTIVE_FIELD) // SHORT_HOP + 1
        blocks = wavs[:, : wavs.shape[1] // BLOCK * BLOCK].reshape(wavs.shape[0], -1, BLOCK)
        step = SHORT_HOP // BLOCK
        parts = [blocks[:, i : i + step * (count - 1) + 1 : step] for i in range(RECEPTIVE_FIELD // BLOCK)]
        return torch.cat(parts, dim=-1)

    def log_mel(self, wavs: Tensor) -> Tensor:
        """(B, N) samples in [-1, 1] -> (B, F, mels) natural-log mel energies every 10 ms, not normalised."""
        spectrum = self._windows(wavs) @ self.dft
        real, imaginary = spectrum.chunk(2, dim=-1)
        return torch.log((real.square() + imaginary.square()) @ self.mel + FLOOR)

    def forward(self, wavs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`lengths` (B,): valid samples of each item; None: all samples are valid. The frames have 32 bits."""
        if wavs.shape[1] < RECEPTIVE_FIELD:
            raise ValueError(f"{wavs.shape[1]} samples are fewer than the {RECEPTIVE_FIELD} that one frame needs")
        valid = None
        if lengths is not None:
            valid = (lengths - RECEPTIVE_FIELD).div(SHORT_HOP, rounding_mode="floor") + 1
        # Energies span ten orders of magnitude, too many for half precision.
        with torch.autocast(wavs.device.type, enabled=False):
            x = self.log_mel(wavs.float())
            x = normalise_bands(x, valid) if self.cmvn else (x - self.mean) / self.std
        return stack_pairs(x, valid).transpose(1, 2)

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Fix the global mean and standard deviation, (mels,) each, measured on training audio."""
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all()):
            raise ValueError("log-mel statistics are not finite: the training audio has NaN or infinite samples")
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=1e-3))

    def _freeze_parameters(self) -> None:
        """Transformers calls this method of a feature encoder; this one has no parameters."""
