"""39-dimensional MFCC at 50 Hz, the features behind the units of the first iteration.

Kaldi's conventions with the settings of fairseq's HuBERT recipe: 25 ms Povey windows every 10 ms, 23 mel bands
from 20 Hz, 13 liftered cepstra with C0 (no energy), no dither, then deltas and delta-deltas at 100 Hz, of which
every second frame is kept: exactly the frames of the encoder. The input is float audio in [-1, 1], as in fairseq.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from upstream.model.family import FFT_SIZE, HOP, RECEPTIVE_FIELD, SAMPLE_RATE

DIM = 39
CEPSTRA = 13
MELS = 23
LIFTER = 22.0
PRE_EMPHASIS = 0.97
LOW_HZ = 20.0
DELTA_SPAN = 2  # frames on either side
SHORT_HOP = HOP // 2
FLOOR = torch.finfo(torch.float32).eps


@cache
def _window() -> Tensor:
    """Povey window (a Hann window that reaches zero more gently), (400,)."""
    return torch.hann_window(RECEPTIVE_FIELD, periodic=False, dtype=torch.float64).pow(0.85).float()


@cache
def _mel_matrix() -> Tensor:
    """Triangles on the mel scale, (bins, MELS); Kaldi leaves the Nyquist bin out."""
    bins = torch.arange(FFT_SIZE // 2, dtype=torch.float64) * SAMPLE_RATE / FFT_SIZE
    limits = torch.tensor([LOW_HZ, SAMPLE_RATE / 2], dtype=torch.float64)
    mel, (low, high) = 1127.0 * torch.log1p(bins / 700.0), (1127.0 * torch.log1p(limits / 700.0)).tolist()
    edges = torch.linspace(low, high, MELS + 2, dtype=torch.float64)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return torch.cat([triangles, triangles.new_zeros(1, MELS)]).float()


@cache
def _cepstrum_matrix() -> Tensor:
    """Orthonormal DCT-II with the lifter folded in, (MELS, CEPSTRA)."""
    band = torch.arange(MELS, dtype=torch.float64)[:, None] + 0.5
    order = torch.arange(CEPSTRA, dtype=torch.float64)
    dct = torch.cos(math.pi / MELS * band * order) * math.sqrt(2 / MELS)
    dct[:, 0] = math.sqrt(1 / MELS)
    return (dct * (1 + LIFTER / 2 * torch.sin(math.pi * order / LIFTER))).float()


def _deltas(x: Tensor) -> Tensor:
    """Regression slope over five frames, the ends repeated: (T, D) -> (T, D)."""
    padded = torch.cat([x[:1].expand(DELTA_SPAN, -1), x, x[-1:].expand(DELTA_SPAN, -1)])
    spans = range(1, DELTA_SPAN + 1)
    shifted = {n: padded[DELTA_SPAN + n : DELTA_SPAN + n + len(x)] for n in range(-DELTA_SPAN, DELTA_SPAN + 1)}
    return sum(n * (shifted[n] - shifted[-n]) for n in spans) / (2 * sum(n * n for n in spans))


@torch.inference_mode()
def mfcc(wav: Tensor) -> Tensor:
    """MFCC, deltas and delta-deltas of one 16 kHz waveform: (N,) samples in [-1, 1] -> (T, 39) at 50 Hz.

    T = floor((N - 400) / 320) + 1. Raises ValueError below 400 samples.
    """
    if wav.dim() != 1:
        raise ValueError(f"mfcc: the waveform has shape {tuple(wav.shape)}; expected one dimension (samples)")
    if len(wav) < RECEPTIVE_FIELD:
        raise ValueError(f"mfcc: {len(wav)} samples are fewer than the {RECEPTIVE_FIELD} of one frame")
    frames = wav.float().unfold(0, RECEPTIVE_FIELD, SHORT_HOP)
    frames = frames - frames.mean(dim=1, keepdim=True)
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - PRE_EMPHASIS * previous) * _window()
    power = torch.fft.rfft(frames, n=FFT_SIZE).abs().square()
    cepstra = (power @ _mel_matrix()).clamp(min=FLOOR).log() @ _cepstrum_matrix()
    deltas = _deltas(cepstra)
    return torch.cat([cepstra, deltas, _deltas(deltas)], dim=1)[::2].contiguous()
