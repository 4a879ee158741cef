"""Every key of config.json that is used is checked against the weights and the code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from upstream.__main__ import main
from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder
from upstream.model.family import geometry
from upstream.model.modeldir import load_model, save_model

GEOMETRIES = {
    "waveform": geometry("mini_hst", front_end="waveform", conv_channels=16),
    "logmel": geometry("mini_hst"),
    "squeezed": geometry("mini_hst", squeeze=2),
    "squeezed stem": geometry("mini_hst", stem="convolution", squeeze=2),
    "streaming": geometry("mini_hst", squeeze=2, left_context=16),
    "cmvn": geometry("mini_hst_cmvn"),
}
OTHER = {
    "num_attention_heads": [0, 3, 4, -2, True, "2", [2]],
    "num_conv_pos_embedding_groups": [0, 8, "16"],
    "num_conv_pos_embeddings": [0, 33, [32]],
    "hidden_size": [0, 128, [64]],
    "intermediate_size": [[256], 255],
    "num_hidden_layers": [1, 3, "2"],
    "num_feat_extract_layers": [9],
    "conv_stride": [320, ["320"], [], [0] * 7, [5, 2]],
    "conv_kernel": [[7], "400"],
    "conv_dim": [[1], {"a": 1}],
    "conv_bias": [False, 1],
    "do_stable_layer_norm": [False, "true"],
    "feat_extract_norm": ["group", "batch", 5],
    "feat_extract_activation": ["no_such", 5],
    "hidden_act": ["no_such", ["gelu"]],
    "feat_proj_layer_norm": [False],
    "conv_pos_batch_norm": [True],
    "layer_norm_eps": [0, -1e-5, 1, "1e-5", None],
    "hidden_dropout": [-0.1, 2, "0"],
    "attention_dropout": [[0.1]],
    "do_normalize": ["false", 0],
}
LOG_MEL = {
    "conv_stride": [[160], [640], [5, 2, 2, 2, 2, 2, 2]],
    "conv_kernel": [[80]],
    "conv_dim": [[512]],
    "mels": [40, "80"],
    "squeeze": [3, [1]],
    "hidden_act": ["relu"],
    "feat_extract_activation": ["relu"],
    "left_context": [-2, 8, "16", None, 16.5, True],
    "cmvn": ["true", 1, None],
}
STREAMING = {"left_context": [0], "chunk": [0, 6, 9, 65, "16", None], "do_normalize": [True]}


@pytest.fixture(scope="module", params=list(GEOMETRIES))
def model_dir(request, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    own = GEOMETRIES[request.param]
    return save_model(
        build_encoder(own).eval(), tmp_path_factory.mktemp("config") / request.param, {"geometry": own.facts()}
    )


def edited(model_dir: Path, tmp_path: Path, **changes: object) -> Path:
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model_dir, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return folder


def test_every_key_that_does_not_fit_is_named(model_dir: Path, tmp_path: Path):
    accepted = []
    cases = {key: list(values) for key, values in OTHER.items()}
    if model_dir.name != "waveform":
        for key, values in LOG_MEL.items():
            cases[key] = [*cases.get(key, []), *values]
        cases["cmvn"].append(model_dir.name != "cmvn")
    for key, values in STREAMING.items() if model_dir.name == "streaming" else ():
        cases[key] = [*cases.get(key, []), *values]
    for key, values in cases.items():
        for value in values:
            try:
                load_model(edited(model_dir, tmp_path, **{key: value}))
                accepted.append((key, value))
            except UpstreamError as error:
                if key not in str(error) or "\n" in str(error):
                    accepted.append((key, value, str(error)))
    assert not accepted
    load_model(edited(model_dir, tmp_path))


def test_a_model_without_the_key_of_its_kind_is_refused(model_dir: Path, tmp_path: Path):
    """It would load, and attend to the whole clip, or normalise by fixed statistics."""
    key, value = {"streaming": ("left_context", "0"), "cmvn": ("cmvn", "False")}.get(model_dir.name, (None, None))
    if key is None:
        return
    folder = edited(model_dir, tmp_path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config[key]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UpstreamError, match=f"`{key}` is {value}"):
        load_model(folder)


def test_several_wrong_keys_are_named_at_once(model_dir: Path, tmp_path: Path):
    with pytest.raises(UpstreamError, match=r"num_attention_heads.*layer_norm_eps|layer_norm_eps.*num_attention_heads"):
        load_model(edited(model_dir, tmp_path, num_attention_heads=0, layer_norm_eps=-1))


def test_tensors_that_the_configuration_leaves_out_are_named(model_dir: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = edited(model_dir, tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"encoder.layers.0.extra.weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(UpstreamError, match="encoder.layers.0.extra.weight"):
        load_model(folder)
    save_file(weights | {"quantizer.codevectors": torch.zeros(2)}, folder / "model.safetensors")
    load_model(folder)  # a head of theirs


@pytest.mark.parametrize("content", ["[]", "3", '{"do_normalize": "false"}', '{"sampling_rate": 8000}', "{"])
def test_a_preprocessor_that_cannot_be_followed_is_refused(model_dir: Path, tmp_path: Path, content: str):
    folder = edited(model_dir, tmp_path)
    (folder / "preprocessor_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        load_model(folder)


@pytest.mark.parametrize(
    "card, token",
    [
        ("text", "`harness`"),
        ({"name": 5}, "harness.name"),
        ({"units": "many"}, "harness.units"),
        ({"units": {"k": [1]}}, "harness.units.k"),
        ({"label_sets": [3]}, "harness.label_sets"),
        ({"init": ["random"]}, "harness.init"),
        ({"regression": {"layers": 4}}, "harness.regression.layers"),
        ({"lineage": []}, "harness.lineage"),
        ({"lineage": {"ab": {"geometry": 1}}}, "harness.lineage"),
        ({"hours": "long"}, "harness.hours"),
    ],
)
def test_a_card_of_other_types_is_one_line(model_dir: Path, tmp_path: Path, capsys, card: object, token: str):
    folder = edited(model_dir, tmp_path, harness=card)
    for command in ("info", "lineage"):
        assert main([command, str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert token in line


def test_cards_with_few_fields_and_with_many_ancestors_are_shown(model_dir: Path, tmp_path: Path, capsys):
    chain = {f"{n:064x}": {"init": {"kind": "model", "source_sha256": f"{n + 1:064x}"}} for n in range(3000)}
    card = {"init": {"kind": "model", "source_sha256": f"{0:064x}"}, "units": {}, "lineage": chain, "data": "text"}
    folder = edited(model_dir, tmp_path, harness=card)
    assert main(["lineage", str(folder)]) == 0 and main(["info", str(folder)]) == 0
    assert "further ancestors are not shown" in capsys.readouterr().out
