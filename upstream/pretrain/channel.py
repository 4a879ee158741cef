"""Filter training clips with random channels, so that a model does not learn which microphone or codec it hears.

Recordings of one speaker usually share a microphone and a codec. With few speakers, the channel then tells the speaker,
and features differ more between channels than between sounds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from corpora.audio import SAMPLE_RATE

KNOTS = 8  # of the gain curve, at equal distances on the mel scale
NARROW_SHARE = 1 / 3  # of the clips
CUTOFF_HZ = (3400.0, 7500.0)  # from a telephone to almost the whole band
STOP_DB = -70.0
SILENCE = 1024  # samples behind a clip


def random_channel(wav: Tensor, gain_db: float) -> Tensor:
    """(N,) samples at 16 kHz -> (N,) samples through a random filter of zero phase; randomness of torch's generator.

    Gains within `gain_db` of 0 at `KNOTS` frequencies, straight lines between, and in `NARROW_SHARE` of the clips no
    sound above a random cutoff, whatever `gain_db` is.
    """
    size = len(wav) + SILENCE  # else the end of the clip would ring at its start
    gains = (2 * torch.rand(KNOTS) - 1) * gain_db
    narrow, cutoff = torch.rand(2).tolist()
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, size // 2 + 1)
    # Position of every frequency between the knots.
    mel = torch.log1p(frequencies / 700.0)
    position = mel / mel[-1] * (KNOTS - 1)
    left = position.long().clamp(max=KNOTS - 2)
    curve = torch.lerp(gains[left], gains[left + 1], position - left)
    if narrow < NARROW_SHARE:
        low, high = CUTOFF_HZ
        curve = torch.where(frequencies > low + cutoff * (high - low), STOP_DB, curve)
    spectrum = torch.fft.rfft(wav, n=size) * (10.0 ** (curve / 20.0)).to(wav.device)
    return torch.fft.irfft(spectrum, n=size)[: len(wav)]
