import json
import pickle

import pytest
import torch
from transformers import HubertModel

from upstream.errors import UpstreamError
from upstream.model.card import describe
from upstream.model.encoder import build_encoder, encode
from upstream.model.family import geometry
from upstream.model.modeldir import load_model, model_sha256, read_card, save_model

FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
G = {
    "waveform": geometry("mini_hst", front_end="waveform", conv_channels=16),
    "logmel": geometry("mini_hst"),
    "cmvn": geometry("mini_hst_cmvn", squeeze=2),
    "squeezed": geometry("mini_hst", squeeze=2),
    "convolutional stem": geometry("mini_hst", stem="convolution", positions="sinusoid"),
    "squeezed stem": geometry("mini_hst", stem="convolution", positions="sinusoid", squeeze=2),
    "streaming": geometry("mini_hst", squeeze=2, left_context=16),
}


@pytest.fixture(params=list(G))
def saved(request, tmp_path):
    torch.manual_seed(0)
    model = build_encoder(G[request.param]).eval()
    if request.param != "waveform":
        model.feature_extractor.set_statistics(torch.linspace(-3, 1, 80), torch.linspace(1, 2, 80))
    card = {"name": "نموذج HST", "iteration": 3}
    return model, save_model(model, tmp_path / "my model", card)


def states(model):
    with torch.no_grad():
        return encode(model, [0.1 * torch.randn(9000, generator=torch.Generator().manual_seed(1))]).hidden_states


def test_round_trip_keeps_every_state_and_the_card(saved):
    model, path = saved
    assert {file.name for file in path.iterdir()} == FILES
    loaded = load_model(path)
    assert not loaded.training
    assert (path / "model.safetensors").stat().st_mode == (path / "config.json").stat().st_mode
    for ours, theirs in zip(states(loaded), states(model), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert read_card(path)["name"] == "نموذج HST"
    assert "نموذج HST" in (path / "README.md").read_text(encoding="utf-8")


def test_exports_carry_no_layerdrop_no_augmentation_and_a_mask_embedding(saved):
    _, path = saved
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    assert config["layerdrop"] == 0 and config["apply_spec_augment"] is False and config["mask_time_prob"] > 0
    assert hasattr(load_model(path), "masked_spec_embed")


def test_saving_twice_gives_the_same_identity_and_a_changed_weight_another(saved, tmp_path):
    model, path = saved
    again = save_model(model, tmp_path / "again", {"name": "other card"})
    assert model_sha256(again) == model_sha256(path)
    with torch.no_grad():
        model.encoder.layer_norm.bias += 1e-3
    assert model_sha256(save_model(model, tmp_path / "changed", {})) != model_sha256(path)


def test_waveform_export_loads_with_transformers_alone(tmp_path):
    torch.manual_seed(0)
    model = build_encoder(G["waveform"]).eval()
    path = save_model(model, tmp_path / "m", {"name": "HST"})
    theirs = HubertModel.from_pretrained(path, local_files_only=True).eval()
    x = torch.randn(1, 8000)
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(x).last_hidden_state, HubertModel.forward(model, x).last_hidden_state, atol=2e-5, rtol=1e-4
        )


def test_a_missing_or_foreign_directory_is_refused(saved, tmp_path):
    _, path = saved
    with pytest.raises(UpstreamError, match="no such model directory"):
        load_model(tmp_path / "nowhere")
    (path / "model.safetensors").unlink()
    with pytest.raises(UpstreamError, match="model.safetensors"):
        load_model(path)
    (path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(UpstreamError, match="`bert`"):
        load_model(path)


def test_truncated_weights_and_wrong_shapes_are_refused(saved):
    _, path = saved
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}), encoding="utf-8")
    with pytest.raises(UpstreamError, match="my model"):
        load_model(path)
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}), encoding="utf-8")
    with pytest.raises(UpstreamError, match="num_hidden_layers"):
        load_model(path)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UpstreamError, match="my model"):
        load_model(path)


def test_a_pickle_in_the_folder_is_never_opened(saved):
    _, path = saved

    class Trap:
        def __reduce__(self):
            return (open, (str(path / "executed"), "w"))

    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Trap()}))
    with pytest.raises(UpstreamError):
        load_model(path)
    assert not (path / "executed").exists()


def test_a_failed_save_leaves_the_old_model_whole(saved):
    model, path = saved
    before = model_sha256(path)
    with torch.no_grad():
        model.encoder.layer_norm.bias += 1
    with pytest.raises(TypeError):
        save_model(model, path, {"name": object()})  # no JSON
    assert model_sha256(path) == before and {file.name for file in path.iterdir()} == FILES


def edited(path, **changes):
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")


@pytest.mark.parametrize(
    "key, value",
    [
        ("num_hidden_layers", 10**9),
        ("hidden_size", 10**7),
        ("intermediate_size", 10**9),
        ("num_conv_pos_embeddings", 10**8),
        ("hidden_size", "64"),
        ("num_hidden_layers", -1),
        ("conv_dim", [10**9] * 7),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_built(saved, key, value, monkeypatch):
    model, path = saved
    if key == "conv_dim" and model.config.model_type != "hubert":
        key, value = "mels", 10**9
    edited(path, **{key: value})
    monkeypatch.setattr(HubertModel, "from_pretrained", lambda *a, **k: pytest.fail("the model was built"))
    with pytest.raises(UpstreamError, match=key):
        load_model(path)


@pytest.mark.parametrize(
    "key, value", [("feat_extract_activation", "no_such"), ("num_attention_heads", 7), ("hidden_act", {"a": 1})]
)
def test_other_wrong_values_of_a_configuration_are_refused(saved, key, value):
    model, path = saved
    if key == "feat_extract_activation" and model.config.model_type != "hubert":
        key = "hidden_act"
    edited(path, **{key: value})
    with pytest.raises(UpstreamError, match="my model"):
        load_model(path)


def test_a_wrong_squeeze_is_refused_and_an_unsqueezed_config_has_no_such_key(saved):
    model, path = saved
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    assert config.get("squeeze") == (2 if getattr(model.config, "squeeze", 1) == 2 else None)
    assert config.get("cmvn") == (getattr(model.config, "cmvn", False) or None)
    if model.config.model_type == "hubert":
        return
    edited(path, squeeze=10**9)
    with pytest.raises(UpstreamError, match="squeeze"):
        load_model(path)
    edited(path, squeeze=1 if "squeeze" in config else 2)
    with pytest.raises(UpstreamError, match="squeeze"):
        load_model(path)


def test_info_says_what_is_normalised_over_the_clip(saved):
    model, path = saved
    normalised = "logmel front end, normalised over the clip" in describe(path)
    assert normalised == getattr(model.config, "cmvn", False)


def test_only_a_streaming_config_has_its_keys_and_they_survive(saved, tmp_path):
    model, path = saved
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    expected = (16, 16) if getattr(model.config, "left_context", 0) else (None, None)
    assert (config.get("left_context"), config.get("chunk")) == expected
    if expected[0]:
        edited(path, chunk=40)
        again = json.loads((save_model(load_model(path), tmp_path / "again", {}) / "config.json").read_text("utf-8"))
        assert (again["left_context"], again["chunk"]) == (16, 40)


def test_code_adapters_and_quantisers_in_a_model_folder_are_never_opened(saved):
    model, path = saved
    expected = states(load_model(path))
    mark = path / "executed"
    (path / "modeling_evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "elsewhere"}))
    edited(
        path,
        auto_map={"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"},
        quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True},
        attn_implementation="evil/kernel",
        dtype="float16",
        add_adapter=True,
    )
    loaded = load_model(path)
    assert not mark.exists() and next(loaded.parameters()).dtype == torch.float32
    for ours, theirs in zip(states(loaded), expected, strict=True):
        assert torch.equal(ours, theirs)
    again = save_model(loaded, path.parent / "again", {})
    config = json.loads((again / "config.json").read_text(encoding="utf-8"))
    assert not {"auto_map", "quantization_config"} & set(config)


def test_both_spellings_of_weight_norm_load(saved):
    from safetensors.torch import load_file, save_file

    model, path = saved
    weights = load_file(path / "model.safetensors")
    spelled = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in weights.items()
    }
    assert (set(spelled) != set(weights)) == any("pos_conv_embed" in name for name in weights)
    save_file(spelled, path / "model.safetensors", {"format": "pt"})
    for ours, theirs in zip(states(load_model(path)), states(model), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_files_that_disagree_on_normalising_are_refused(saved):
    _, path = saved
    facts = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").write_text(json.dumps(facts | {"do_normalize": not facts["do_normalize"]}))
    with pytest.raises(UpstreamError, match="do_normalize=.*preprocessor_config.json"):
        load_model(path)


def test_a_broken_configuration_or_a_missing_preprocessor_is_refused(saved):
    _, path = saved
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    del config["do_normalize"]
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (path / "preprocessor_config.json").unlink()
    with pytest.raises(UpstreamError, match="preprocessor_config.json"):
        load_model(path)
    (path / "config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UpstreamError, match="config.json"):
        load_model(path)


def test_stem_and_positions_that_the_weights_do_not_hold_are_refused(saved):
    model, path = saved
    if model.config.model_type == "hubert":
        return
    other = {"linear": "convolution", "convolution": "linear"}[model.config.stem]
    edited(path, stem=other)
    with pytest.raises(UpstreamError, match="stem"):
        load_model(path)
    edited(path, stem=model.config.stem)
    load_model(path)
    edited(path, positions="sinusoid" if model.config.positions == "convolution" else "convolution")
    with pytest.raises(UpstreamError, match="positions"):
        load_model(path)
