"""Random channels change the colour of a clip and nothing else."""

import numpy as np
import torch

from upstream.pretrain.channel import CUTOFF_HZ, random_channel


def gain(seed, gain_db, samples=16000):
    """Gain in dB at every hertz: the response to one click, in whose middle nothing is cut off."""
    torch.manual_seed(seed)
    click = torch.zeros(samples)
    click[samples // 2] = 1.0
    return 20 * torch.fft.rfft(random_channel(click, gain_db)).abs().clamp(min=1e-6).log10().numpy()


def test_gains_stay_within_the_limit_and_some_clips_have_a_narrow_band():
    gains = np.stack([gain(seed, 6.0) for seed in range(60)])
    passed = gains[:, : int(CUTOFF_HZ[0])]
    assert np.abs(passed).max() <= 6.01 and passed.std(axis=0).mean() > 1.0
    narrow = gains[:, 7600:].max(axis=1) < -60
    assert 10 <= narrow.sum() <= 30


def test_no_delay_no_change_without_gains_and_every_length():
    torch.manual_seed(1)
    wav = torch.randn(2001)
    torch.manual_seed(3)  # a clip with its whole band
    np.testing.assert_allclose(random_channel(wav, 0.0), wav, atol=1e-5)
    torch.manual_seed(4)
    filtered = random_channel(wav, 10.0)
    assert np.correlate(filtered.numpy(), wav.numpy(), "same").argmax() == len(wav) // 2
    for samples in (400, 401, 16000):
        assert random_channel(torch.randn(samples), 10.0).shape == (samples,)
    assert not random_channel(torch.zeros(400), 10.0).any()
