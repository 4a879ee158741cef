import pytest
import torch

from upstream.model.encoder import frame_count
from upstream.model.family import RECEPTIVE_FIELD
from upstream.model.frontend import LogMelFrontEnd, stack_pairs


@pytest.fixture(scope="module")
def front_end():
    return LogMelFrontEnd(80)


def test_frames_follow_the_formula_for_every_length(front_end):
    for samples in range(400, 4001):
        assert front_end(torch.zeros(1, samples)).shape[2] == frame_count(samples), samples


def test_log_mel_equals_torchaudio_kaldi(front_end):
    """Kaldi's filter bank with the same window, no dither, no pre-emphasis and no mean removal."""
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi", reason="torchaudio is not installed")
    torch.manual_seed(0)
    wav = 0.1 * torch.randn(1, 16000)
    reference = kaldi.fbank(
        wav,
        num_mel_bins=80,
        window_type="hanning",
        dither=0.0,
        preemphasis_coefficient=0.0,
        remove_dc_offset=False,
        use_power=True,
        low_freq=20.0,
        high_freq=8000.0,
    )
    ours = front_end.log_mel(wav)[0]
    assert ours.shape == reference.shape
    # Our floor of 1e-6 is added; Kaldi's is a maximum.
    torch.testing.assert_close(ours, reference, atol=2e-3, rtol=1e-3)


def test_odd_last_frame_is_repeated_and_padding_stays_out(front_end):
    torch.manual_seed(0)
    short = 0.1 * torch.randn(1, 400 + 160 * 4)  # five 10 ms frames
    alone = front_end(short)
    assert torch.equal(alone[0, :80, -1], alone[0, 80:, -1])
    padded = torch.cat([short, torch.randn(1, 5000)], dim=1)
    beside = front_end(padded, torch.tensor([short.shape[1]]))
    frames = frame_count(short.shape[1])
    torch.testing.assert_close(beside[:, :, :frames], alone)


def test_bands_normalised_over_the_clip_ignore_padding_and_the_channel():
    """S3PRL's baseline `fbank` normalises in the same way: mean 0, variance 1 over the valid frames."""
    torch.manual_seed(0)
    front_end = LogMelFrontEnd(80, cmvn=True)
    loud = torch.linspace(0.01, 0.3, 9600)  # a clip whose bands change over time
    short = loud * torch.randn(1, 9600)
    frames = front_end.log_mel(short)
    expected = (frames - frames.mean(1, keepdim=True)) / frames.std(1, correction=0, keepdim=True)
    alone = front_end(short)
    torch.testing.assert_close(alone, stack_pairs(expected).transpose(1, 2), atol=2e-2, rtol=0)
    padded = torch.cat([short, torch.randn(1, 5000)], dim=1)
    beside = front_end(padded, torch.tensor([9600]))
    torch.testing.assert_close(beside[:, :, : alone.shape[2]], alone)
    torch.testing.assert_close(front_end(3.0 * short), alone, atol=2e-2, rtol=0)  # the floor of the energies stays
    assert torch.isfinite(front_end(torch.zeros(2, 1600), torch.tensor([1600, 0]))).all()


def test_silence_is_finite_and_too_short_audio_is_refused(front_end):
    assert torch.isfinite(front_end(torch.zeros(1, 16000))).all()
    with pytest.raises(ValueError, match="399"):
        front_end(torch.zeros(1, RECEPTIVE_FIELD - 1))


def test_energies_are_computed_in_full_precision_under_autocast(front_end):
    wav = 0.1 * torch.randn(1, 16000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = front_end(wav)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, front_end(wav))


def test_statistics_that_are_not_finite_are_refused(front_end):
    with pytest.raises(ValueError, match="finite"):
        LogMelFrontEnd(80).set_statistics(torch.full((80,), float("nan")), torch.ones(80))
