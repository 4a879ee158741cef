import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model

from upstream.model.encoder import build_encoder, collate, encode, frame_count, normalise_waveform, run_layers
from upstream.model.family import geometry

NARROW = geometry("mini_hst", front_end="waveform", conv_channels=16)


@pytest.fixture(scope="module", params=["waveform", "logmel", "squeezed"])
def model(request):
    torch.manual_seed(0)
    g = NARROW if request.param == "waveform" else geometry("mini_hst")
    if request.param == "squeezed":
        g = geometry("mini_hst", squeeze=2)
    return build_encoder(g).eval()


def wav(samples, seed=0):
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("front_end", ["waveform", "logmel"])
def test_frame_count_equals_the_real_output_for_every_length(front_end):
    size = {"conv_channels": 16} if front_end == "waveform" else {}
    model = build_encoder(geometry("mini_hst", front_end=front_end, layers=1, **size)).eval()
    with torch.no_grad():
        for samples in range(400, 4001):
            assert model.feature_extractor(torch.zeros(1, samples)).shape[2] == frame_count(samples), samples
    assert frame_count(399) == 0 and frame_count(0) == 0


def test_a_squeezed_model_has_the_frames_of_any_other_and_half_as_many_inside():
    model = build_encoder(geometry("mini_hst", layers=1, squeeze=2)).eval()
    with torch.no_grad():
        for samples in (400, 719, 720, 1039, 1040, 4000):
            frames = frame_count(samples)
            states, _ = run_layers(model, wav(samples)[None])
            inner, _ = run_layers(model, wav(samples)[None], inner=True)
            assert [s.shape[1] for s in states] == [frames] * 2 and inner[1].shape[1] == -(-frames // 2)
            torch.testing.assert_close(states[1][:, ::2], inner[1])
            torch.testing.assert_close(states[1][:, 1::2], inner[1][:, : frames // 2])


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
def test_wav2vec2_encoders_walk_too(stable):
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
        with torch.no_grad():
            together = encode(model, items)
            padded, lengths = collate(model, items)
            noisy = padded.clone()
            for row, length in zip(noisy, lengths, strict=True):
                row[length:] = 3.0 * torch.randn(len(row) - length)
            states, valid = run_layers(model, noisy, lengths)
            for i, item in enumerate(items):
                alone = encode(model, [item]).hidden_states
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


def test_lower_states_do_not_depend_on_where_the_walk_stops(model):
    items = [wav(8000), wav(5000, 1)]
    with torch.no_grad():
        full = encode(model, items).hidden_states
        cut = encode(model, items, top_layer=1).hidden_states
    assert len(cut) == 2
    for ours, theirs in zip(cut, full, strict=False):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="hidden states 0 to 2"):
        encode(model, items, top_layer=3)


def test_states_have_constant_number_with_layerdrop_in_train_mode(model):
    model.train()
    model.config.layerdrop = 0.9
    try:
        assert len(encode(model, [wav(8000)]).hidden_states) == model.config.num_hidden_layers + 1
    finally:
        model.config.layerdrop = 0.0
        model.eval()


def test_waveform_normalisation_equals_transformers_and_ignores_companions():
    from transformers import Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    items = [wav(5000) + 0.3, 7 * wav(3000, 1)]
    theirs = extractor([x.numpy() for x in items], sampling_rate=16000, padding=True, return_tensors="pt")
    model = build_encoder(NARROW)
    padded, lengths = collate(model, items)
    torch.testing.assert_close(padded, theirs["input_values"], atol=1e-5, rtol=1e-4)
    assert lengths.tolist() == theirs["attention_mask"].sum(1).tolist()
    assert torch.isfinite(normalise_waveform(torch.zeros(500))).all()


def test_group_norm_front_ends_do_not_see_their_companions():
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


def test_what_is_no_list_of_waveforms_is_refused(model):
    with pytest.raises(ValueError, match="one dimension"):
        encode(model, [torch.zeros(2, 8000)])
    with pytest.raises(ValueError, match="empty list of waveforms"):
        encode(model, [])
    with pytest.raises(ValueError, match="waveform 0 is a ndarray; expected a tensor"):
        encode(model, [torch.zeros(8000).numpy()])
