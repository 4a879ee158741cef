"""The accelerated encoder is the same function: against torch's own convolution, and against the model it came from."""

import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model

from upstream.model.encoder import build_encoder, encode
from upstream.model.family import Geometry
from upstream.model.fast import SpectralConvolution, accelerate

SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
CONV = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16}


@pytest.mark.parametrize("taps, parts", [(128, 2), (128, 4), (32, 1), (19, 1)])
def test_spectral_convolution_is_torchs_convolution(taps, parts):
    torch.manual_seed(0)
    reference = torch.nn.Conv1d(24, 24, taps, padding=taps // 2, groups=4)
    ours = SpectralConvolution(reference.weight, reference.bias, 4, parts)
    for frames in (1, taps // 2, taps - 1, taps, 3 * taps + 5):
        x = torch.randn(2, frames, 24)
        with torch.no_grad():
            expected = reference(x.transpose(1, 2))[:, :, :frames].transpose(1, 2)
            torch.testing.assert_close(ours(x), expected, atol=3e-6, rtol=0)


def test_kernel_that_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="19 taps cannot be cut into 2"):
        SpectralConvolution(torch.zeros(4, 1, 19), None, 4, 2)


def models():
    torch.manual_seed(0)
    shape = dict(conv_channels=16, pos_conv_groups=4)
    yield "logmel", build_encoder(Geometry("tiny", 2, 48, 4, 96, "logmel", **shape))
    yield "waveform", build_encoder(Geometry("tiny", 2, 48, 4, 96, "waveform", pos_conv_kernel=33, **shape))
    yield "hubert with batch norm", HubertModel(HubertConfig(conv_pos_batch_norm=True, **SMALL, **CONV))
    yield "wav2vec 2.0, post-norm", Wav2Vec2Model(Wav2Vec2Config(**SMALL, **CONV))


@pytest.mark.parametrize("name, model", models(), ids=lambda value: value if isinstance(value, str) else "")
def test_accelerated_states_are_those_of_the_model(name, model):
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    wavs = [0.1 * torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (48000, 20011)]
    fast = accelerate(model)
    with torch.inference_mode():
        expected, found = encode(model, wavs), encode(fast, wavs)
    for theirs, ours in zip(expected.hidden_states, found.hidden_states, strict=True):
        for row, frames in enumerate(expected.frames):
            torch.testing.assert_close(ours[row, :frames], theirs[row, :frames], atol=2e-5, rtol=0)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
    shared = {p.data_ptr() for p in model.parameters()}
    ffn = fast.encoder.layers[0].feed_forward.intermediate_dense.weight
    assert ffn.data_ptr() in shared, "weights that stay as they are must not be held twice"
