import copy

import pytest
import torch
from torch import nn
from transformers import HubertConfig, HubertModel

from upstream.model.convolution import FrameConv1d, convolve_frames
from upstream.model.encoder import build_encoder
from upstream.model.family import geometry


def pair(norm="layer"):
    """An encoder with Transformers' convolutions and its copy with ours."""
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
    for module in theirs.modules():  # norms and biases that begin as 1 and 0 would hide a mistake
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


def test_names_and_parameters_stay():
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


def test_bf16_is_that_of_torch_as_well():
    """Autocast decides types in a matrix product and a concatenation as it does in a convolution."""
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
