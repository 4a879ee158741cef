import json
import pickle

import pytest
import torch
from transformers import HubertModel

from upstream.encoder import build_encoder, encode
from upstream.family import geometry
from upstream.modeldir import ModelDirError, load_model, model_sha256, read_card, save_model

FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
G = {
    "waveform": geometry("mini_hst", front_end="waveform", conv_channels=16),
    "logmel": geometry("mini_hst"),
}


@pytest.fixture(params=["waveform", "logmel"])
def saved(request, tmp_path):
    torch.manual_seed(0)
    model = build_encoder(G[request.param]).eval()
    if request.param == "logmel":
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
        model.feature_projection.projection.bias += 1e-3
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


def test_what_is_no_model_directory_is_named(saved, tmp_path):
    _, path = saved
    with pytest.raises(ModelDirError, match="no such model directory"):
        load_model(tmp_path / "nowhere")
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelDirError, match="model.safetensors is missing"):
        load_model(path)
    (path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(ModelDirError, match="`bert`"):
        load_model(path)


def test_truncated_weights_and_wrong_shapes_are_refused(saved):
    _, path = saved
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}), encoding="utf-8")
    with pytest.raises(ModelDirError, match="do not fit"):
        load_model(path)
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}), encoding="utf-8")
    with pytest.raises(ModelDirError, match="lacks"):
        load_model(path)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelDirError, match="do not fit"):
        load_model(path)


def test_a_pickle_in_the_folder_is_never_opened(saved):
    _, path = saved

    class Trap:
        def __reduce__(self):
            return (open, (str(path / "executed"), "w"))

    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Trap()}))
    with pytest.raises(ModelDirError):
        load_model(path)
    assert not (path / "executed").exists()


def test_a_failed_save_leaves_the_old_model_whole(saved, monkeypatch):
    model, path = saved
    before = model_sha256(path)
    monkeypatch.setattr("upstream.modeldir._readme", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with torch.no_grad():
        model.feature_projection.projection.bias += 1
    with pytest.raises(OSError, match="No space"):
        save_model(model, path, {})
    assert model_sha256(path) == before and {file.name for file in path.iterdir()} == FILES
