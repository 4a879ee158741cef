"""Features: MFCC against torchaudio's, hidden states against single utterances; errors name the place."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from corpora.audio import load_any
from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder, encode, frame_count
from upstream.model.family import Geometry
from upstream.model.modeldir import load_model, model_sha256, save_model
from upstream.units.features import LayerSource, MfccSource, mfcc, normalise_utterance, open_source

TINY = Geometry("tiny", 3, 32, 2, 64, "logmel", pos_conv_kernel=16, pos_conv_groups=2)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    torch.manual_seed(0)
    return save_model(build_encoder(TINY), tmp_path_factory.mktemp("model") / "tiny", {"name": "tiny"})


@pytest.fixture(scope="module")
def wavs():
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in (16000, 400, 7001, 30000, 719, 16000)]


@pytest.mark.parametrize("batch_seconds", [0.01, 2.0, 100.0])
def test_frames_are_those_of_each_utterance_alone(model_dir, wavs, batch_seconds):
    source = LayerSource(model_dir, 2, batch_seconds=batch_seconds)
    model = load_model(model_dir)
    for wav, frames in zip(wavs, source.features(wavs), strict=True):
        with torch.no_grad():
            alone = encode(model, [torch.from_numpy(wav)]).hidden_states[2][0]
        assert frames.shape == (frame_count(len(wav)), source.dim)
        np.testing.assert_allclose(frames, alone.numpy(), atol=1e-4)


def test_default_layer_is_two_thirds_of_the_depth(model_dir):
    assert LayerSource(model_dir).layer == 2


def test_the_encoder_stops_after_its_layer(model_dir, wavs):
    source = LayerSource(model_dir, 1)
    calls = []
    for number, layer in enumerate(source.model.encoder.layers, 1):
        layer.register_forward_hook(lambda *_, number=number: calls.append(number))
    source.features(wavs[:1])
    assert calls == [1]


def test_top_layer_comes_after_the_final_norm(model_dir, wavs):
    source = LayerSource(model_dir, TINY.layers)
    top = source.model(torch.from_numpy(wavs[0])[None]).last_hidden_state[0]
    np.testing.assert_allclose(source.features(wavs[:1])[0], top.detach().numpy(), atol=1e-5)


def test_provenance_names_model_and_layer(model_dir):
    assert LayerSource(model_dir, 3).provenance() == {
        "source": model_dir.name,  # and no path of this machine: cards of models are shared
        "front_end": "logmel",
        "layer": 3,
        "model_sha256": model_sha256(model_dir),
        "frame_rate": 50,
    }
    assert open_source("mfcc").provenance()["front_end"] == "mfcc"


def test_cmvn_removes_channel_and_level_of_an_utterance(wavs):
    source = MfccSource()

    def normalised(wav):
        return normalise_utterance(source.features([wav])[0]).numpy()

    for wav in (wav for wav in wavs if len(wav) > 1000):  # of several frames
        x = source.features([wav])[0].numpy()
        np.testing.assert_allclose(normalised(wav), (x - x.mean(axis=0)) / x.std(axis=0), atol=1e-3)
        np.testing.assert_allclose(normalised(0.1 * wav), normalised(wav), atol=1e-2)
    assert np.abs(normalised(np.zeros(4000, np.float32))).max() < 0.1, "rounding of silence became a feature"


def test_refuses_a_missing_layer_or_source(model_dir):
    with pytest.raises(UpstreamError, match="layer 4 .* 0 to 3"):
        LayerSource(model_dir, 4)
    with pytest.raises(UpstreamError, match="mfc: .*`mfcc`"):
        open_source("mfc")
    with pytest.raises(UpstreamError, match="`mfcc`"):
        open_source("mfcc", 3)


def test_refuses_audio_below_one_frame(model_dir):
    with pytest.raises(UpstreamError, match="waveform 1 .*399"):
        LayerSource(model_dir).features([np.zeros(800, np.float32), np.zeros(399, np.float32)])


def reference(wav: torch.Tensor) -> torch.Tensor:
    """Every second frame of the MFCC that fairseq stores for HuBERT."""
    torchaudio = pytest.importorskip("torchaudio")
    cepstra = torchaudio.compliance.kaldi.mfcc(wav[None], sample_frequency=16000, use_energy=False).T
    deltas = torchaudio.functional.compute_deltas(cepstra)
    return torch.cat([cepstra, deltas, torchaudio.functional.compute_deltas(deltas)]).T[::2]


@pytest.mark.parametrize("samples", [400, 559, 560, 719, 720, 4001, 48000])
@pytest.mark.parametrize("level", [1e-4, 0.1])
def test_mfcc_equal_torchaudio(samples, level):
    wav = torch.randn(samples, generator=torch.Generator().manual_seed(samples)) * level + 0.01
    torch.testing.assert_close(mfcc(wav), reference(wav), atol=1e-3, rtol=1e-4)


def test_mfcc_equal_torchaudio_on_speech(real_speech):
    for path in sorted((real_speech / "arabic_speech_commands").rglob("*.wav"))[::500]:
        wav = torch.from_numpy(load_any(path))
        torch.testing.assert_close(mfcc(wav), reference(wav), atol=2e-3, rtol=1e-4)


def test_mfcc_have_the_frames_of_the_encoder():
    wav = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    assert [len(mfcc(wav[:n])) for n in range(400, 4001)] == [frame_count(n) for n in range(400, 4001)]


def test_mfcc_of_digital_silence_are_finite():
    assert torch.isfinite(mfcc(torch.zeros(16000))).all()


def test_refuses_audio_without_a_frame():
    with pytest.raises(ValueError, match="399 samples"):
        mfcc(torch.zeros(399))
    with pytest.raises(ValueError, match="one dimension"):
        mfcc(torch.zeros(1, 16000))


@pytest.mark.slow
def test_imports_without_torchaudio_s3prl_and_espnet():
    code = """
import sys
for name in ("torchaudio", "s3prl", "espnet", "espnet2"):
    sys.modules[name] = None
import numpy, torch
import upstream.units.label
from upstream.units.features import MfccSource
frames = MfccSource().features([numpy.zeros(800, numpy.float32)])
assert frames[0].shape == (2, 39), frames[0].shape
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_mfcc_source_keeps_order_and_does_not_mix_utterances():
    rng = np.random.default_rng(0)
    wavs = [rng.standard_normal(n).astype(np.float32) for n in (1000, 9000, 400)]
    frames = MfccSource().features(wavs)
    assert [x.shape for x in frames] == [(frame_count(len(wav)), 39) for wav in wavs]
    np.testing.assert_array_equal(frames[1], MfccSource().features([wavs[1]])[0])
