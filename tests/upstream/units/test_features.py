"""Hidden layers as features: batching changes nothing, the encoder stops where it should, errors name the place."""

import numpy as np
import pytest
import torch

from upstream.model.encoder import build_encoder, encode, frame_count
from upstream.model.family import Geometry
from upstream.model.modeldir import load_model, model_sha256, save_model
from upstream.units.features import FeatureError, LayerSource, open_source

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
    for wav, frames in zip(wavs, source.frames(wavs), strict=True):
        with torch.no_grad():
            alone = encode(model, [torch.from_numpy(wav)]).hidden_states[2][0]
        assert frames.shape == (frame_count(len(wav)), source.dim)
        np.testing.assert_allclose(frames, alone.numpy(), atol=1e-4)


def test_default_layer_is_two_thirds_of_the_depth(model_dir):
    assert LayerSource(model_dir).layer == 2


def test_stops_after_its_layer(model_dir, wavs, monkeypatch):
    source = LayerSource(model_dir, 1)
    calls = []
    for number, layer in enumerate(source.model.encoder.layers, 1):
        layer.register_forward_hook(lambda *_, number=number: calls.append(number))
    source.features(wavs[:1])
    assert calls == [1]


def test_top_layer_comes_after_the_final_norm(model_dir, wavs):
    source = LayerSource(model_dir, TINY.layers)
    top = source.model(torch.from_numpy(wavs[0])[None]).last_hidden_state[0]
    np.testing.assert_allclose(source.frames(wavs[:1])[0], top.detach().numpy(), atol=1e-5)


def test_provenance_names_model_and_layer(model_dir):
    assert LayerSource(model_dir, 3).provenance() == {
        "source": model_dir.name,  # and no path of this machine: cards of models are shared
        "front_end": "logmel",
        "layer": 3,
        "model_sha256": model_sha256(model_dir),
        "frame_rate": 50,
    }
    assert open_source("mfcc").provenance()["front_end"] == "mfcc"


def test_refuses_a_layer_that_is_not_there(model_dir):
    with pytest.raises(FeatureError, match="layer 4 is not one of the hidden states 0 to 3"):
        LayerSource(model_dir, 4)
    with pytest.raises(FeatureError, match="mfc: no such model directory; the nearest known one is `mfcc`"):
        open_source("mfc")
    with pytest.raises(FeatureError, match="no layers"):
        open_source("mfcc", 3)


def test_refuses_audio_below_one_frame(model_dir):
    with pytest.raises(FeatureError, match="waveform 1 has 399 samples"):
        LayerSource(model_dir).features([np.zeros(800, np.float32), np.zeros(399, np.float32)])
