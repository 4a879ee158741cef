"""MFCC against torchaudio's Kaldi-compliant ones, and their length against the encoder's frames."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from corpora.audio import load_any
from upstream.model.encoder import frame_count
from upstream.units.mfcc import mfcc


def reference(wav: torch.Tensor) -> torch.Tensor:
    """What fairseq dumps for HuBERT, every second frame."""
    torchaudio = pytest.importorskip("torchaudio")
    cepstra = torchaudio.compliance.kaldi.mfcc(wav[None], sample_frequency=16000, use_energy=False).T
    deltas = torchaudio.functional.compute_deltas(cepstra)
    return torch.cat([cepstra, deltas, torchaudio.functional.compute_deltas(deltas)]).T[::2]


@pytest.mark.parametrize("samples", [400, 559, 560, 719, 720, 4001, 48000])
@pytest.mark.parametrize("level", [1e-4, 0.1])
def test_equals_torchaudio(samples, level):
    wav = torch.randn(samples, generator=torch.Generator().manual_seed(samples)) * level + 0.01
    torch.testing.assert_close(mfcc(wav), reference(wav), atol=1e-3, rtol=1e-4)


def test_equals_torchaudio_on_speech(real_speech):
    for path in sorted((real_speech / "arabic_speech_commands").rglob("*.wav"))[::500]:
        wav = torch.from_numpy(load_any(path))
        torch.testing.assert_close(mfcc(wav), reference(wav), atol=2e-3, rtol=1e-4)


def test_length_is_that_of_the_encoder():
    wav = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    assert [len(mfcc(wav[:n])) for n in range(400, 4001)] == [frame_count(n) for n in range(400, 4001)]


def test_digital_silence_is_finite():
    assert torch.isfinite(mfcc(torch.zeros(16000))).all()


def test_refuses_what_has_no_frame():
    with pytest.raises(ValueError, match="399 samples are fewer than the 400"):
        mfcc(torch.zeros(399))
    with pytest.raises(ValueError, match="one dimension"):
        mfcc(torch.zeros(1, 16000))


def test_imports_without_torchaudio_s3prl_and_espnet():
    code = """
import sys
for name in ("torchaudio", "s3prl", "espnet", "espnet2"):
    sys.modules[name] = None
import numpy, torch
import upstream.units.make
from upstream.units.features import MfccSource
frames = MfccSource().frames([numpy.zeros(800, numpy.float32)])
assert frames[0].shape == (2, 39), frames[0].shape
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_source_keeps_order_and_does_not_mix_utterances():
    from upstream.units.features import MfccSource

    rng = np.random.default_rng(0)
    wavs = [rng.standard_normal(n).astype(np.float32) for n in (1000, 9000, 400)]
    frames = MfccSource().frames(wavs)
    assert [x.shape for x in frames] == [(frame_count(len(wav)), 39) for wav in wavs]
    np.testing.assert_array_equal(frames[1], MfccSource().frames([wavs[1]])[0])
