import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model

from upstream.errors import UpstreamError
from upstream.model import fast
from upstream.model.encoder import (
    build_encoder,
    collate,
    encode,
    frame_count,
    geometry_of,
    left_context_of,
    normalise_waveform,
    run_layers,
    squeeze_of,
    squeezed,
)
from upstream.model.family import FAMILY, geometry

NARROW = geometry("mini_hst", front_end="waveform", conv_channels=16)


SHAPES = {
    "waveform": NARROW,
    "logmel": geometry("mini_hst"),
    "squeezed": geometry("mini_hst", squeeze=2),
    "convolutional stem": geometry("mini_hst", stem="convolution", positions="sinusoid"),
    "cmvn": geometry("mini_hst_cmvn", squeeze=2),
    "squeezed stem": geometry("mini_hst", stem="convolution", positions="sinusoid", squeeze=2),
    "streaming": geometry("mini_hst", left_context=10),
    "streaming, squeezed": geometry("mini_hst", left_context=10, squeeze=2),
    "streaming stem": geometry("mini_hst", left_context=10, stem="convolution", positions="sinusoid"),
}


@pytest.fixture(scope="module", params=list(SHAPES))
def model(request):
    torch.manual_seed(0)
    return build_encoder(SHAPES[request.param]).eval()


def wav(samples, seed=0):
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def test_gradients_reach_samples_that_other_samples_gave(model):
    """An attack or an enhancement in front of the encoder, in train mode too."""
    source = wav(16000).requires_grad_()
    model.train()
    try:
        states, _ = run_layers(model, (2 * source)[None])
    finally:
        model.eval()
    states[-1].square().sum().backward()
    assert source.grad is not None and source.grad.isfinite().all() and (source.grad != 0).float().mean() > 0.9


@pytest.mark.parametrize("front_end", ["waveform", "logmel"])
@pytest.mark.slow
def test_frame_count_equals_the_real_output_for_every_length(front_end):
    size = {"conv_channels": 16} if front_end == "waveform" else {}
    model = build_encoder(geometry("mini_hst", front_end=front_end, layers=1, **size)).eval()
    with torch.no_grad():
        for samples in range(400, 4001):
            assert model.feature_extractor(torch.zeros(1, samples)).shape[2] == frame_count(samples), samples
    assert frame_count(399) == 0 and frame_count(0) == 0


def test_top_state_equals_transformers_own_forward():
    torch.manual_seed(0)
    model = build_encoder(NARROW).eval()
    batch, lengths = collate(model, [wav(11000), wav(22000, 1)])
    mask = torch.arange(batch.shape[1]) < lengths[:, None]
    with torch.no_grad():
        theirs = HubertModel.forward(model, batch, attention_mask=mask).last_hidden_state
        states, valid = run_layers(model, batch, lengths)
    torch.testing.assert_close(states[-1][valid], theirs[valid], atol=2e-5, rtol=1e-4)
    assert len(states) == model.config.num_hidden_layers + 1


def test_explicit_mask_equals_transformers_with_augmentation_on():
    torch.manual_seed(0)
    model = build_encoder(NARROW).eval()
    batch, _ = collate(model, [wav(8000)])
    time_mask = torch.zeros(1, frame_count(8000), dtype=torch.bool)
    time_mask[0, 3:9] = True
    model.config.apply_spec_augment = True
    with torch.no_grad():
        theirs = HubertModel.forward(model, batch, mask_time_indices=time_mask).last_hidden_state
        ours = run_layers(model, batch, time_mask=time_mask)[0][-1]
        plain = run_layers(model, batch)[0][-1]
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    assert (ours - plain).abs().max() > 0.01


@pytest.mark.parametrize("stable", [True, False])
def test_wav2vec2_encoders_give_transformers_states(stable):
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=[8] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, feat_extract_norm="layer",
        do_stable_layer_norm=stable,
    )  # fmt: skip
    model = Wav2Vec2Model(config).eval()
    with torch.no_grad():
        theirs = model(wav(8000)[None]).last_hidden_state
        ours = run_layers(model, wav(8000)[None])[0]
    torch.testing.assert_close(ours[-1], theirs, atol=2e-5, rtol=1e-4)
    assert len(ours) == 3


def test_batch_equals_alone_and_noise_in_the_padding_changes_nothing(model):
    items = [wav(11000), wav(22000, 1), wav(4321, 2)]
    for mode in ("eval", "train"):
        model.train(mode == "train")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "k_proj"):
                module.dropout = 0.0
        # In train mode a streaming model draws its chunks.
        chunk = 12 if left_context_of(model) else None
        with torch.no_grad():
            together = encode(model, items, chunk=chunk)
            padded, lengths = collate(model, items)
            noisy = padded.clone()
            for row, length in zip(noisy, lengths, strict=True):
                row[length:] = 3.0 * torch.randn(len(row) - length)
            states, valid = run_layers(model, noisy, lengths, chunk=chunk)
            for i, item in enumerate(items):
                alone = encode(model, [item], chunk=chunk).hidden_states
                frames = frame_count(len(item))
                assert int(together.frames[i]) == frames == int(valid[i].sum())
                for layer, state in enumerate(alone):
                    for batched in (together.hidden_states, states):
                        torch.testing.assert_close(batched[layer][i, :frames], state[0], atol=5e-5, rtol=1e-4)
    model.eval()


def test_removing_the_lengths_changes_the_output(model):
    padded, lengths = collate(model, [wav(11000), wav(22000, 1)])
    frames = frame_count(11000)
    with torch.no_grad():
        with_lengths = run_layers(model, padded, lengths)[0][-1][0, :frames]
        without = run_layers(model, padded)[0][-1][0, :frames]
    assert (with_lengths - without).abs().max() > 1e-3


def test_zero_length_item_stays_finite_forward_and_backward(model):
    items = [wav(8000), wav(0), wav(300)]
    encoded = encode(model, items)
    assert encoded.frames.tolist() == [frame_count(8000), 0, 0]
    encoded.hidden_states[-1].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    model.zero_grad()
    alone = encode(model, items[:1]).hidden_states[-1][0]
    torch.testing.assert_close(encoded.hidden_states[-1][0], alone, atol=5e-5, rtol=1e-4)


def test_attention_backends_agree_on_valid_frames(model):
    """Plain matrix products against the fused kernels, with an empty item in the batch."""
    items = [wav(11000), wav(0), wav(6000, 1)]
    with torch.no_grad():
        fused = encode(model, items)
        model.set_attn_implementation("eager")
        try:
            plain = encode(model, items)
        finally:
            model.set_attn_implementation("sdpa")
    for ours, theirs in zip(fused.hidden_states, plain.hidden_states, strict=True):
        for row, frames in enumerate(fused.frames.tolist()):
            torch.testing.assert_close(ours[row, :frames], theirs[row, :frames], atol=2e-5, rtol=1e-4)


def test_lower_states_do_not_depend_on_the_top_layer(model):
    items = [wav(8000), wav(5000, 1)]
    with torch.no_grad():
        full = encode(model, items).hidden_states
        cut = encode(model, items, top_layer=1).hidden_states
    assert len(cut) == 2
    for ours, theirs in zip(cut, full, strict=False):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="0 to 2"):
        encode(model, items, top_layer=3)


def test_states_have_constant_number_with_layerdrop_in_train_mode(model):
    model.train()
    model.config.layerdrop = 0.9
    try:
        assert len(encode(model, [wav(8000)]).hidden_states) == model.config.num_hidden_layers + 1
    finally:
        model.config.layerdrop = 0.0
        model.eval()


def test_waveform_normalisation_equals_transformers_and_ignores_other_items():
    from transformers import Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    items = [wav(5000) + 0.3, 7 * wav(3000, 1)]
    theirs = extractor([x.numpy() for x in items], sampling_rate=16000, padding=True, return_tensors="pt")
    model = build_encoder(NARROW)
    padded, lengths = collate(model, items)
    torch.testing.assert_close(padded, theirs["input_values"], atol=1e-5, rtol=1e-4)
    assert lengths.tolist() == theirs["attention_mask"].sum(1).tolist()
    assert torch.isfinite(normalise_waveform(torch.zeros(500))).all()


def test_items_of_group_norm_front_ends_do_not_depend_on_their_batch():
    """HuBERT-Base normalises over time, padding included: in a batch its features would depend on the longest item."""
    config = HubertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=[8] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, feat_extract_norm="group",
    )  # fmt: skip
    torch.manual_seed(0)
    base = HubertModel(config).eval()
    items = [wav(11000), wav(44000, 1)]
    with torch.no_grad():
        together = encode(base, items)
        for row, item in enumerate(items):
            alone = encode(base, [item]).hidden_states
            for ours, theirs in zip(together.hidden_states, alone, strict=True):
                torch.testing.assert_close(ours[row, : frame_count(len(item))], theirs[0], atol=5e-5, rtol=1e-4)


def test_log_mel_models_answer_transformers_options():
    model = build_encoder(geometry("mini_hst")).eval()
    with torch.no_grad():
        output = model(wav(8000)[None], output_hidden_states=True)
        assert len(output.hidden_states) == 3
        assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
        assert model(wav(8000)[None]).hidden_states is None
        with pytest.raises(TypeError, match="output_attentions"):
            model(wav(8000)[None], output_attentions=True)


def test_other_input_than_a_list_of_waveforms_is_refused(model):
    with pytest.raises(ValueError, match="one dimension"):
        encode(model, [torch.zeros(2, 8000)])
    with pytest.raises(ValueError, match="empty"):
        encode(model, [])
    with pytest.raises(ValueError, match="waveform 0 is a ndarray"):
        encode(model, [torch.zeros(8000).numpy()])


@torch.no_grad()
def test_a_trained_model_is_squeezed_by_the_mean_of_its_pairs_at_the_same_positions():
    torch.manual_seed(0)
    plain = build_encoder(SHAPES["convolutional stem"]).eval()
    copy = squeezed(plain)
    assert squeeze_of(copy) == 2 and not copy.training
    own = copy.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in plain.state_dict().items())
    sound = wav(16000 + 320)
    features = plain.feature_projection(plain.feature_extractor(sound[None]).transpose(1, 2))
    half = plain.config.hidden_size // 2
    rates = 10000.0 ** (-torch.arange(half) / (half - 1))
    angles = (2 * torch.arange(25) + 0.5)[:, None] * rates
    expected = features.unflatten(1, (25, 2)).mean(2) + torch.cat([angles.sin(), angles.cos()], -1)
    states = encode(copy, [sound]).hidden_states
    torch.testing.assert_close(states[0][:, ::2], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(states[-1][:, ::2], states[-1][:, 1::2]), "the upsampler begins as a repetition"
    for model in (copy, build_encoder(SHAPES["logmel"])):
        with pytest.raises(UpstreamError, match="squeeze 1 can be squeezed"):
            squeezed(model)


@torch.no_grad()
def test_an_upsampler_of_which_one_frame_was_trained_repeats_it():
    torch.manual_seed(0)
    model = build_encoder(SHAPES["squeezed"]).eval()
    before = encode(model, [wav(16000)]).hidden_states[-1]
    model.upsampler.repeat_first()
    after = encode(model, [wav(16000)]).hidden_states[-1]
    assert torch.equal(after[:, ::2], before[:, ::2]) and torch.equal(after[:, 1::2], after[:, :-1:2])


@torch.no_grad()
def test_squeezed_states_have_every_frame_for_every_length():
    shape = geometry("mini_hst", layers=1, width=16, heads=1, ffn=16, pos_conv_kernel=8, squeeze=2)
    model = build_encoder(shape).eval()
    for samples in range(400, 4001, 7):
        states = run_layers(model, wav(samples)[None])[0]
        assert {state.shape[1] for state in states} == {frame_count(samples)}, samples


@pytest.mark.parametrize("shape", ["squeezed", "squeezed stem"])
@torch.no_grad()
def test_items_of_every_length_do_not_depend_on_their_batch_in_a_squeezed_model(shape):
    """Lengths around the borders of frames and of pairs; noise in the padding."""
    torch.manual_seed(0)
    model = build_encoder(SHAPES[shape]).eval()
    for start in (400, 3601):
        items = [wav(n, n) for edge in range(start, start + 960, 160) for n in (edge - 1, edge) if n >= 400]
        padded, lengths = collate(model, [*items, wav(6000)])
        noisy = torch.randn(padded.shape)
        for row, length, item in zip(noisy, lengths, padded, strict=True):
            row[:length] = item[:length]
        states, valid = run_layers(model, noisy, lengths)
        for i, item in enumerate(items):
            frames = frame_count(len(item))
            assert int(valid[i].sum()) == frames
            for state, alone in zip(states, encode(model, [item]).hidden_states, strict=True):
                torch.testing.assert_close(state[i, :frames], alone[0], atol=5e-5, rtol=1e-4)


@torch.no_grad()
def test_squeezed_layers_run_at_25_hz_and_only_the_top_state_differs_within_a_pair():
    torch.manual_seed(0)
    model = build_encoder(SHAPES["squeezed"]).eval()
    seen = []
    handle = model.encoder.layers[0].register_forward_hook(lambda module, args, output: seen.append(args[0].shape[1]))
    states = encode(model, [wav(16000 + 320)]).hidden_states
    handle.remove()
    assert states[0].shape[1] == 50 and seen == [25]
    for state in states[:-1]:
        assert torch.equal(state[:, 0::2], state[:, 1::2])
    assert not torch.allclose(states[-1][:, 0::2], states[-1][:, 1::2], atol=1e-3)
    with torch.no_grad():  # without a learned difference the upsampler repeats each frame of the layers
        model.upsampler.projection.weight.zero_()
    top = encode(model, [wav(16000 + 320)]).hidden_states[-1]
    assert torch.equal(top[:, 0::2], top[:, 1::2]) and (top[:, 1:-1:2] - top[:, 2::2]).abs().amax(-1).min() > 1e-3


@torch.no_grad()
def test_a_masked_frame_masks_its_whole_pair():
    torch.manual_seed(0)
    model = build_encoder(SHAPES["squeezed"]).eval()
    mask = torch.zeros(1, 50, dtype=torch.bool)
    mask[0, 7] = True
    masked = run_layers(model, wav(16000 + 320)[None], time_mask=mask)[0]
    model.masked_spec_embed.fill_(9.0)
    other = run_layers(model, wav(16000 + 320)[None], time_mask=mask)[0]
    changed = (masked[0] - other[0]).abs().amax((0, 2))
    assert changed[6] > 1 and changed[7] > 1


@pytest.mark.parametrize("name", ["mini_hl", "mini_hst", "open_hl", "hst_tiny", "mini_hst_stream", "hst_tiny_cmvn"])
def test_geometry_of_a_built_model_is_the_geometry_that_it_was_built_from(name):
    assert geometry_of(build_encoder(FAMILY[name]), name) == FAMILY[name]


def test_a_model_with_other_convolutions_has_no_geometry():
    config = HubertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8),
        conv_kernel=(10, 3), conv_stride=(5, 2), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    with pytest.raises(UpstreamError, match="odd"):
        geometry_of(HubertModel(config), "odd")


def test_attention_gets_a_boolean_mask_with_a_key_in_every_row(model, monkeypatch):
    """As numbers a mask would be added to the scores or taken for an index, and a row without a key is NaN on some
    devices; on this CPU both could pass unseen."""
    masks = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(q, k, v, attn_mask=None, **options):
        masks.append(attn_mask)
        return real(q, k, v, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    monkeypatch.setattr(fast, "scaled_dot_product_attention", spy)
    padded, lengths = collate(model, [wav(8000), wav(0), wav(300)])
    with torch.no_grad():
        for own in (model, fast.accelerate(model)):
            _, valid = run_layers(own, padded, lengths)
            assert valid.dtype is torch.bool
    assert len(masks) == 2 * len(model.encoder.layers)
    for mask in masks:
        assert mask.dtype is torch.bool and mask.any(-1).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.int32, torch.float32])
def test_masks_of_every_type_give_the_same_states(dtype):
    """Transformers inverts a mask with ~, which is another number for every type but bool."""
    torch.manual_seed(0)
    own = build_encoder(geometry("mini_hst")).eval()
    padded, lengths = collate(own, [wav(11000), wav(6000, 1)])
    mask = (torch.arange(padded.shape[1]) < lengths[:, None]).to(dtype)
    with torch.no_grad():
        states = own(padded, attention_mask=mask).last_hidden_state
        alone = own(padded[1:, :6000]).last_hidden_state
    torch.testing.assert_close(states[1:, : alone.shape[1]], alone, atol=5e-5, rtol=1e-4)
