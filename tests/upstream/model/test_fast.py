"""The faster modules compute the same function: against torch's convolution, and against the original model."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model

from upstream.model.encoder import build_encoder, encode, run_layers
from upstream.model.family import Geometry, geometry
from upstream.model.fast import (
    FoldedLogMel,
    FrameConv1d,
    SpectralConvolution,
    accelerate,
    attend_by_products,
    convolve_frames,
)
from upstream.model.frontend import LogMelFrontEnd

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


@pytest.mark.parametrize("taps, parts", [(128, 2), (32, 1), (19, 1)])
def test_causal_spectral_convolution_reads_no_later_frame(taps, parts):
    torch.manual_seed(0)
    reference = torch.nn.Conv1d(24, 24, taps, groups=4)
    ours = SpectralConvolution(reference.weight, reference.bias, 4, parts, before=taps - 1)
    for frames in (1, taps - 1, taps, 3 * taps + 5):
        x = torch.randn(2, frames, 24)
        with torch.no_grad():
            expected = reference(nn.functional.pad(x.transpose(1, 2), (taps - 1, 0))).transpose(1, 2)
            torch.testing.assert_close(ours(x), expected, atol=3e-6, rtol=0)


def test_kernel_that_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="19 taps"):
        SpectralConvolution(torch.zeros(4, 1, 19), None, 4, 2)


def models():
    torch.manual_seed(0)
    shape = dict(conv_channels=16, pos_conv_groups=4)
    yield "logmel", build_encoder(Geometry("tiny", 2, 48, 4, 96, "logmel", **shape))
    yield "squeezed", build_encoder(Geometry("tiny", 2, 48, 4, 96, "logmel", squeeze=2, **shape))
    yield "streaming", build_encoder(Geometry("tiny", 2, 48, 4, 96, "logmel", left_context=32, squeeze=2, **shape))
    copied = dict(stem="convolution", positions="sinusoid", **shape)
    yield "convolutional stem", build_encoder(Geometry("tiny", 2, 48, 4, 96, "logmel", **copied))
    yield "waveform", build_encoder(Geometry("tiny", 2, 48, 4, 96, "waveform", pos_conv_kernel=33, **shape))
    yield "hubert with batch norm", HubertModel(HubertConfig(conv_pos_batch_norm=True, **SMALL, **CONV))
    yield "wav2vec 2.0, post-norm", Wav2Vec2Model(Wav2Vec2Config(**SMALL, **CONV))


def whispers(front_end):
    """The front end with Whisper's DFT: 400 points, 201 bins, a periodic window."""
    samples, bins = np.arange(400), np.arange(201)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * samples / 400)
    basis = np.exp(-2j * np.pi * np.outer(samples, bins) / 400) * window[:, None]
    for buffer in (front_end.dft, front_end.mel[201:]):
        buffer.zero_()
    front_end.dft[:, :201] = torch.from_numpy(basis.real)
    front_end.dft[:, 257:458] = torch.from_numpy(basis.imag)
    return front_end


@pytest.mark.parametrize("change", [lambda own: own, whispers], ids=["ours", "whisper"])
@torch.no_grad()
def test_the_folded_front_end_gives_the_same_energies_by_half_of_the_products(change):
    plain = change(LogMelFrontEnd(80))
    folded = FoldedLogMel(plain)
    assert folded.cosines.numel() + folded.sines.numel() <= plain.dft.numel() // 2
    wavs = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    wavs[1] *= 1e-4
    torch.testing.assert_close(folded.log_mel(wavs), plain.log_mel(wavs), atol=1e-4, rtol=0)
    torch.testing.assert_close(folded(wavs), plain(wavs), atol=1e-4, rtol=0)
    plain.dft[:150] = 0
    with pytest.raises(ValueError, match="no symmetric window"):
        FoldedLogMel(plain)


@torch.no_grad()
def test_a_front_end_that_was_rounded_stays_as_it_is():
    model = build_encoder(geometry("mini_hst")).eval()
    model.feature_extractor.dft.copy_(model.feature_extractor.dft.half().float())
    wavs = [0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))]
    expected, found = encode(model, wavs), encode(accelerate(model), wavs)
    torch.testing.assert_close(found.hidden_states[-1], expected.hidden_states[-1], atol=2e-5, rtol=0)


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
    assert ffn.data_ptr() in shared, "unchanged weights must not be copied"


def pair(norm="layer"):
    """An encoder with Transformers' convolutions, and a copy with `FrameConv1d`."""
    torch.manual_seed(0)
    if norm == "layer":
        theirs = build_encoder(geometry("mini_hst", front_end="waveform", conv_channels=16, layers=1))
    else:
        theirs = HubertModel(
            HubertConfig(
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                conv_dim=[16] * 7,
                num_conv_pos_embedding_groups=4,
            )
        )
    for module in theirs.modules():  # initial norms and biases of 1 and 0 would hide an error
        if isinstance(module, (nn.Conv1d, nn.LayerNorm, nn.GroupNorm)) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.3)
    ours = copy.deepcopy(theirs)
    convolve_frames(ours)
    for model in (theirs, ours):
        model.feature_extractor._requires_grad = False
    return theirs.eval(), ours.eval()


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("samples", [400, 719, 720, 5077])
def test_features_and_gradients_are_those_of_transformers(norm, samples):
    theirs, ours = pair(norm)
    wavs = torch.randn(3, samples, generator=torch.Generator().manual_seed(1))
    results = []
    for model in (theirs, ours):
        features = model.feature_extractor(wavs)
        weights = torch.linspace(-1, 1, features.numel()).view(features.shape)
        (features * weights).sum().backward()
        results.append((features, {n: p.grad for n, p in model.feature_extractor.named_parameters()}))
    (a, gradients), (b, own) = results
    torch.testing.assert_close(b, a, atol=2e-5, rtol=1e-4)
    assert gradients.keys() == own.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_names_and_parameters_do_not_change():
    theirs, ours = pair()
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict())
    before = dict(ours.named_parameters())
    convolve_frames(ours)
    assert all(parameter is before[name] for name, parameter in ours.named_parameters())
    converted = [isinstance(layer.conv, FrameConv1d) for layer in ours.feature_extractor.conv_layers]
    assert converted == [True] * 7


def test_a_group_norm_keeps_its_convolution():
    _, ours = pair("group")
    converted = [isinstance(layer.conv, FrameConv1d) for layer in ours.feature_extractor.conv_layers]
    assert converted == [False] + [True] * 6


def test_logmel_has_nothing_to_convert():
    model = build_encoder(geometry("mini_hst"))
    convolve_frames(model)
    assert not any(isinstance(module, FrameConv1d) for module in model.modules())


def test_too_short_is_refused_as_by_torch():
    _, ours = pair()
    with pytest.raises(RuntimeError, match="[Kk]ernel size"):
        ours.feature_extractor(torch.zeros(1, 8))


def test_bf16_features_and_gradients_are_close_to_torchs():
    """Autocast chooses the same types for a matrix product as for a convolution."""
    theirs, ours = pair()
    wavs = torch.randn(2, 4000, generator=torch.Generator().manual_seed(2))
    results = []
    for model in (theirs, ours):
        with torch.autocast("cpu", torch.bfloat16):
            features = model.feature_extractor(wavs)
        features.float().square().mean().backward()
        results.append((features, {n: p.grad for n, p in model.feature_extractor.named_parameters()}))
    (a, gradients), (b, own) = results
    assert a.dtype == b.dtype and (a - b).abs().max() < 0.1 * a.abs().max()
    for name, gradient in gradients.items():
        assert own[name].dtype == gradient.dtype
        assert torch.cosine_similarity(own[name].flatten(), gradient.flatten(), 0) > 0.98, name


@pytest.mark.parametrize("left_context", [0, 4])
@pytest.mark.parametrize("lengths", [None, [9000, 5000]])
def test_attention_by_products_has_the_states_and_gradients_of_sdpa(lengths, left_context):
    torch.manual_seed(0)
    shape = dict(pos_conv_groups=4, left_context=left_context)
    reference = build_encoder(Geometry("tiny", 2, 48, 4, 96, "logmel", **shape)).eval()
    reference.config.chunk = 8
    ours = copy.deepcopy(reference)
    attend_by_products(ours)
    wavs = torch.randn(2, 9000) * 0.1
    lengths = None if lengths is None else torch.tensor(lengths)
    grads = []
    for model in (reference, ours):
        states, valid = run_layers(model, wavs, lengths)
        top = states[-1] if valid is None else states[-1][valid]
        top.square().sum().backward()
        grads.append((top, model.encoder.layers[0].attention.k_proj.weight.grad))
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
