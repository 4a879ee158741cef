"""ONNX export: the numbers of PyTorch for any batch and length, and int8 that does not touch spectra."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import HubertConfig, HubertModel

from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder, encode, frame_count
from upstream.model.family import geometry
from upstream.model.modeldir import load_model, model_sha256, save_model
from upstream.model.onnx import (
    OPSET,
    SMALLEST_HALF,
    OnnxEncoder,
    export_model,
    export_onnx,
    fold_weight_norm,
    quantise,
)

LENGTHS = (5043, 11111, 32000)
TOLERANCE = 5e-5
GEOMETRIES = {
    "waveform": geometry("mini_hst", front_end="waveform", conv_channels=16),
    "logmel": geometry("mini_hst"),
    "cmvn": geometry("mini_hst_cmvn"),
    "squeezed": geometry("mini_hst", squeeze=2),
    "stem": geometry("mini_hst", stem="convolution", positions="sinusoid"),
    "squeezed stem": geometry("mini_hst", stem="convolution", positions="sinusoid", squeeze=2),
    "streaming": geometry("mini_hst", left_context=20),
}


@pytest.fixture(scope="module", params=[*GEOMETRIES, "group"])
def model_dir(request, tmp_path_factory) -> Path:
    torch.manual_seed(1)
    if request.param == "group":  # HuBERT-Base's kind: group norm over time, layer norm after each block
        model = HubertModel(
            HubertConfig(
                hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=[16] * 7,
                num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, feat_extract_norm="group",
            )
        )  # fmt: skip
    else:
        model = build_encoder(GEOMETRIES[request.param])
    for p in model.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    return save_model(model, tmp_path_factory.mktemp("onnx") / request.param, {"name": request.param})


@pytest.fixture(scope="module")
def files(model_dir) -> dict[str, Path]:
    folder = model_dir.parent
    made = {
        "fp32": folder / "fp32.onnx",
        "int8": folder / "int8.onnx",
        "int4": folder / "int4.onnx",
        "full": folder / "full.onnx",
    }
    export_onnx(model_dir, made["fp32"], all_states=True)
    export_onnx(model_dir, made["int8"], precision="int8")
    export_onnx(model_dir, made["int4"], precision="int4")
    export_onnx(model_dir, made["full"], lengths=False)
    return made


def clips(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(n, generator=generator) + 0.02 for n in lengths]


@torch.no_grad()
@pytest.mark.parametrize("lengths", [*((n,) for n in LENGTHS), *((n, 4321) for n in LENGTHS)])
@pytest.mark.slow
def test_every_state_equals_pytorch(model_dir, files, lengths):
    wavs = clips(*lengths)
    encoded = OnnxEncoder(files["fp32"])([wav.numpy() for wav in wavs])
    expected = encode(load_model(model_dir), wavs)
    assert encoded.frames.tolist() == expected.frames.tolist() == [frame_count(n) for n in lengths]
    assert len(encoded.hidden_states) == len(expected.hidden_states) == 3
    for row, frames in enumerate(encoded.frames):
        for theirs, ours in zip(encoded.hidden_states, expected.hidden_states, strict=True):
            found = torch.from_numpy(theirs[row, :frames])
            torch.testing.assert_close(found, ours[row, :frames], atol=TOLERANCE, rtol=0)
        assert np.array_equal(encoded.hidden_states[-1, row, :frames], encoded.last_hidden_state[row, :frames])


def test_noise_in_the_padding_changes_no_valid_frame_and_the_lengths_matter(model_dir, files):
    encoder = OnnxEncoder(files["fp32"])
    assert encoder.facts["padded_batches"] == "yes"
    short, long = (wav.numpy() for wav in clips(9000, 20000))
    batch = np.stack([np.pad(short, (0, 11000)), long])
    noisy = batch.copy()
    noisy[0, 9000:] = np.random.default_rng(0).normal(size=11000)
    lengths = np.array([9000, 20000])
    run = encoder.session.run
    clean, frames, _ = run(None, {"waveform": batch, "lengths": lengths})
    other, _, _ = run(None, {"waveform": noisy, "lengths": lengths})
    assert np.abs(clean[0, : frames[0]] - other[0, : frames[0]]).max() < TOLERANCE
    alone = encoder([short]).last_hidden_state[0]
    assert np.abs(clean[0, : frames[0]] - alone).max() < TOLERANCE
    full, _, _ = run(None, {"waveform": batch, "lengths": np.array([20000, 20000])})
    assert np.abs(clean[0, : frames[0]] - full[0, : frames[0]]).max() > 1e-2


def test_short_and_empty_items_stay_finite(files):
    encoder = OnnxEncoder(files["fp32"])
    encoded = encoder([np.zeros(0, np.float32), np.ones(399, np.float32), *(wav.numpy() for wav in clips(800))])
    assert encoded.frames.tolist() == [0, 0, 2] and np.isfinite(encoded.last_hidden_state).all()
    with pytest.raises(ValueError, match="one dimension"):
        encoder([np.zeros((2, 800), np.float32)])


def test_the_graph_is_accelerated_and_has_nothing_random(model_dir, files):
    graph = onnx.load(files["fp32"]).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert not {"RandomNormal", "RandomUniform", "RandomUniformLike", "Dropout", "Loop"} & set(kinds)
    convolutions = {"waveform": 7, "group": 7, "stem": 2, "squeezed stem": 2}.get(model_dir.name, 0)
    assert kinds["Conv"] == convolutions, "the positional convolution is no product of spectra"
    assert len([n for n in graph.node if n.name.endswith("/qkv/MatMul")]) == 2, "one product for q, k and v a layer"
    # A weight norm in the graph would compute a norm in every pass.
    assert not any("parametriz" in node.name or node.op_type in ("ReduceL2", "Norm") for node in graph.node)
    facts = OnnxEncoder(files["fp32"]).facts
    assert facts["source_sha256"] == model_sha256(model_dir) and facts["precision"] == "fp32"


@torch.no_grad()
def test_folding_weight_norm_leaves_one_plain_weight_and_the_same_states(model_dir):
    plain, folded = load_model(model_dir), fold_weight_norm(load_model(model_dir))
    assert "stem" in model_dir.name or [name for name, _ in plain.named_parameters() if "original" in name]
    assert not [name for name, _ in folded.named_parameters() if "original" in name]
    wavs = clips(5043)
    for ours, theirs in zip(encode(folded, wavs).hidden_states, encode(plain, wavs).hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def cosines(model_dir, file) -> torch.Tensor:
    """Of the top states of an export and of PyTorch, for every frame of three clips."""
    wavs = clips(*LENGTHS)
    encoded, expected = OnnxEncoder(file)([wav.numpy() for wav in wavs]), encode(load_model(model_dir), wavs)
    return torch.cat(
        [
            torch.nn.functional.cosine_similarity(torch.from_numpy(row[:count]), own[:count], dim=-1)
            for row, own, count in zip(
                encoded.last_hidden_state, expected.hidden_states[-1], encoded.frames, strict=True
            )
        ]
    )


def test_int8_quantises_products_with_weights_only(model_dir, files):
    graph = onnx.load(files["int8"]).graph
    before, after = (Counter(n.op_type for n in onnx.load(files[k]).graph.node) for k in ("fp32", "int8"))
    assert after["Conv"] == before["Conv"] and not after["ConvInteger"] and not after["QLinearConv"]
    # Two layers of q with k and v, out, two of the FFN; the projection, and the upsampler of a squeezed model.
    assert after["MatMulInteger"] == 2 * 4 + {"squeezed": 2, "squeezed stem": 2, "stem": 0}.get(model_dir.name, 1)
    products = [n.name for n in graph.node if n.op_type == "MatMulInteger"]
    assert not any("feature_extractor" in name or "pos_conv_embed" in name for name in products)
    spectral = any("/pos_conv_embed/" in n.name for n in graph.node if n.op_type == "MatMul")
    assert spectral == ("stem" not in model_dir.name)
    eighths = sum(np.prod(t.dims) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8)
    model = load_model(model_dir)
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert eighths >= sum(m.weight.numel() for m in linear)


def test_int4_packs_the_weights_of_the_same_products_and_is_behind_the_gate(model_dir, files, monkeypatch):
    graph = onnx.load(files["int4"]).graph
    kinds, eighths = (Counter(n.op_type for n in onnx.load(files[k]).graph.node) for k in ("int4", "int8"))
    assert kinds["MatMulNBits"] == eighths["MatMulInteger"] and kinds["Conv"] == eighths["Conv"]
    products = [n for n in graph.node if n.op_type == "MatMulNBits"]
    assert not any(part in n.name for n in products for part in ("feature_extractor", "pos_conv_embed"))
    packed = {t.name: np.prod(t.dims) for t in graph.initializer}
    attributes = [{a.name: a.i for a in n.attribute} for n in products]
    for node, own in zip(products, attributes, strict=True):
        assert packed[node.input[1]] == -(-own["K"] // 32) * 32 * own["N"] // 2, "whole blocks, two weights a byte"
    assert OnnxEncoder(files["int4"]).facts["precision"] == "int4"
    assert cosines(model_dir, files["int4"]).mean() > 0.95
    monkeypatch.setattr("upstream.model.onnx.LEAST_COSINE", 0.99999)
    with pytest.raises(UpstreamError, match="differs from the model"):
        export_onnx(model_dir, model_dir.parent / "broken.onnx", precision="int4")
    assert not (model_dir.parent / "broken.onnx").exists()


def test_int8_does_not_quantise_spectra_that_are_stored_as_weights(tmp_path):
    """The tracer writes spectra as constants, which the quantiser skips; as weights it would quantise them."""
    names = ["/layers.0/MatMul", "/feature_extractor/MatMul", "/pos_conv_embed/convolution/MatMul"]
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [make.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"], name) for i, name in enumerate(names)]
    weights = [make.make_tensor(f"w{i}", kind, [8, 8], np.eye(8).ravel()) for i in range(3)]
    outputs = [make.make_tensor_value_info(f"y{i}", kind, [1, 8]) for i in range(3)]
    graph = make.make_graph(nodes, "g", [make.make_tensor_value_info("x", kind, [1, 8])], outputs, weights)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", OPSET)]), tmp_path / "g.onnx")
    quantise(tmp_path / "g.onnx", tmp_path / "q.onnx")
    found = {n.name: n.op_type for n in onnx.load(tmp_path / "q.onnx").graph.node if "MatMul" in n.op_type}
    assert found == {f"{names[0]}_quant": "MatMulInteger", names[1]: "MatMul", names[2]: "MatMul"}


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_files_hold_no_large_fp32_tensor(files, precision):
    """Convolutions and the spectra that the tracer computes from them are stored in 16 bits."""
    graph = onnx.load(files[precision]).graph
    constants = [n.attribute[0].t for n in graph.node if n.op_type == "Constant"]
    for tensor in [*graph.initializer, *constants]:
        assert tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST_HALF, tensor.name


def test_int8_is_close_to_fp32(model_dir, files):
    assert cosines(model_dir, files["int8"]).min() > 0.98


def test_the_plain_form_equals_the_accelerated_one_and_the_model_is_not_changed(model_dir, files):
    model = load_model(model_dir).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    out = model_dir.parent / "as_in_transformers.onnx"
    export_model(model, out, accelerated=False, lengths=False)
    convolutions = {"waveform": 8, "group": 8, "stem": 2, "squeezed stem": 2}.get(model_dir.name, 1)
    assert Counter(n.op_type for n in onnx.load(out).graph.node)["Conv"] == convolutions
    after = model.state_dict()
    assert model.training and after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    wav = clips(9000)[0].numpy()
    difference = OnnxEncoder(out)([wav]).last_hidden_state - OnnxEncoder(files["full"])([wav]).last_hidden_state
    assert 0 < np.abs(difference).max() < TOLERANCE


def test_without_lengths_there_is_one_input_and_batches_still_work(model_dir, files):
    encoder = OnnxEncoder(files["full"])
    assert [i.name for i in encoder.session.get_inputs()] == ["waveform"]
    wavs = [wav.numpy() for wav in clips(9000, 20000)]
    together, masked = encoder(wavs), OnnxEncoder(files["fp32"])(wavs)
    assert together.frames.tolist() == masked.frames.tolist()
    for row, frames in enumerate(together.frames):
        difference = together.last_hidden_state[row, :frames] - masked.last_hidden_state[row, :frames]
        assert np.abs(difference).max() < TOLERANCE


def test_a_graph_that_differs_from_the_model_is_not_written(model_dir, tmp_path):
    with pytest.raises(UpstreamError, match="m.onnx"):
        export_model(load_model(model_dir), tmp_path / "m.onnx", tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []


def test_failed_exports_and_loads_are_named(model_dir, tmp_path):
    with pytest.raises(UpstreamError, match="m.bin"):
        export_onnx(model_dir, tmp_path / "m.bin")
    with pytest.raises(UpstreamError, match="1e-06 GB"):
        export_model(load_model(model_dir), tmp_path / "m.onnx", largest_bytes=1000)
    with pytest.raises(UpstreamError, match="no such file"):
        OnnxEncoder(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"not a graph")
    with pytest.raises(UpstreamError, match="m.onnx"):
        OnnxEncoder(tmp_path / "m.onnx")
