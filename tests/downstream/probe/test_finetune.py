"""Fine-tuning changes the named part and nothing else; the trained parameters are stored and loaded again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from corpora.files import read_json
from downstream import DownstreamError
from downstream.probe import finetune
from downstream.probe.data import load_task
from downstream.probe.finetune import Tuning, parse
from downstream.protocols import load
from downstream.upstreams import resolve
from upstream.model.encoder import build_encoder, encode
from upstream.model.family import geometry
from upstream.model.modeldir import load_model


@pytest.mark.parametrize(
    ("text", "tuning", "tag"),
    [
        ("probe", Tuning("probe"), "probe"),
        ("top-3", Tuning("top", 3), "top-3"),
        ("top-k", Tuning("top", 2), "top-2"),
        ("lora", Tuning("lora", 8), "lora-8"),
        ("LoRA-4", Tuning("lora", 4), "lora-4"),
        ("full", Tuning("full"), "full"),
    ],
)
def test_kinds_are_read(text: str, tuning: Tuning, tag: str):
    assert parse(text) == tuning and tuning.tag == tag


@pytest.mark.parametrize("text", ["lorra", "top-0", "top-x", "full-3", ""])
def test_other_kinds_are_refused(text: str):
    with pytest.raises(DownstreamError):
        parse(text)


def model_of(name: str = "mini_hs") -> torch.nn.Module:
    torch.manual_seed(0)
    return build_encoder(geometry(name, width=32, ffn=64, heads=2)).eval()


def learning(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_probing_trains_nothing_and_full_everything():
    model = model_of()
    finetune.apply(model, Tuning("probe"))
    assert learning(model) == set()
    finetune.apply(model, Tuning("full"))
    assert learning(model) == {name for name, _ in model.named_parameters()}


def test_top_k_trains_the_highest_layers_and_their_norm():
    model = model_of()
    finetune.apply(model, Tuning("top", 1))
    top = ("encoder.layers.1.", "encoder.layer_norm.")
    own = {name for name, _ in model.named_parameters() if name.startswith(top)}
    assert learning(model) == own and own
    with pytest.raises(DownstreamError, match="top-3: .*2 layers"):
        finetune.apply(model_of(), Tuning("top", 3))


@pytest.mark.slow
def test_lora_trains_adapters_on_every_linear_map_of_the_layers():
    model = model_of()
    wav = torch.randn(4000)
    before = encode(model, [wav]).hidden_states[-1]
    finetune.apply(model, Tuning("lora", 4))
    own = learning(model)
    assert all(".lora_A." in name or ".lora_B." in name for name in own)
    maps = ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense")
    assert len(own) == 2 * 2 * len(maps)  # A and B, layers
    assert {name.split(".")[-4] for name in own} == set(maps)
    assert torch.equal(encode(model, [wav]).hidden_states[-1], before)  # B starts at zero


@pytest.mark.parametrize("tag", ["top-1", "lora-4"])
def test_frozen_parts_have_no_dropout(tag: str):
    """In train mode the states below the first layer that learns are those of evaluation."""
    model = model_of()
    wav = torch.randn(8000)
    finetune.apply(model, parse(tag))
    calm = encode(model.eval(), [wav]).hidden_states
    moved = encode(model.train(), [wav]).hidden_states
    if tag == "top-1":
        assert torch.equal(calm[0], moved[0]) and torch.equal(calm[1], moved[1])
    assert not torch.equal(calm[2], moved[2])


@pytest.mark.parametrize("tag", ["top-1", "lora-4", "full"])
@pytest.mark.slow
def test_a_cell_trains_the_named_part_and_stores_it_as_a_delta(
    tag: str, make_set: Callable[..., Path], tiny_models: Path, tmp_path: Path
):
    from downstream.probe.train import run_cell

    upstream = resolve("tiny_a", tiny_models)
    small = {"train.total_steps": 6, "train.eval_step": 3, "build_batch_sampler.train.batch_size": 6}
    protocol = load("ser", "light", {"learning_rates": [1e-3], **{f"problem.{k}": v for k, v in small.items()}})
    data = load_task(make_set("ser", {"train": 12, "dev": 6, "test": 6}), protocol)
    before = (tiny_models / "tiny_a" / "model.safetensors").read_bytes()
    run_cell(data, upstream, None, protocol, 0, tmp_path / "run", "cpu", tuning=parse(tag))
    assert (tiny_models / "tiny_a" / "model.safetensors").read_bytes() == before
    folder = tmp_path / "run" / "head"
    assert read_json(folder / "head.json")["finetune"] == tag
    assert read_json(folder / "delta.json") == {"finetune": tag, "upstream_key": upstream.key}
    delta = load_file(folder / "delta.safetensors")

    plain, tuned = load_model(tiny_models / "tiny_a"), load_model(tiny_models / "tiny_a")
    finetune.load_delta(tuned, folder)
    assert set(delta) == learning(tuned)
    tuned_state = {name.replace(".base_layer", ""): value for name, value in tuned.state_dict().items()}
    moved = {name for name, value in plain.state_dict().items() if not torch.equal(value, tuned_state[name])}
    wav = torch.randn(8000)
    one, other = encode(plain.eval(), [wav]).hidden_states, encode(tuned.eval(), [wav]).hidden_states
    assert not torch.equal(one[-1], other[-1])
    if tag == "lora-4":
        assert not moved
    elif tag == "top-1":
        assert moved and all(n.startswith(("encoder.layers.1.", "encoder.layer_norm.")) for n in moved)
        assert torch.equal(one[1], other[1])
    else:
        assert any(name.startswith("feature_projection") for name in moved)


def test_merged_adapters_are_the_same_function_and_leave_plain_maps():
    model = model_of()
    wav = torch.randn(8000)
    finetune.apply(model, Tuning("lora", 4))
    names = {name.replace(".base_layer", "") for name, _ in model.named_parameters() if "lora_" not in name}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
        plain, adapted = encode(model_of().eval(), [wav]).hidden_states, encode(model.eval(), [wav]).hidden_states
        finetune.merge_adapters(model)
        merged = encode(model, [wav]).hidden_states
    assert (adapted[-1] - plain[-1]).abs().max() > 0.05
    torch.testing.assert_close(merged[-1], adapted[-1], atol=1e-5, rtol=0)
    assert {name for name, _ in model.named_parameters()} == names


def test_a_delta_of_another_geometry_is_refused(tmp_path: Path):
    model = model_of()
    finetune.apply(model, Tuning("top", 1))
    finetune.save_delta(model, Tuning("top", 1), "0" * 64, tmp_path)
    with pytest.raises(DownstreamError, match="parameter encoder"):
        finetune.load_delta(model_of("mini_hl"), tmp_path)


def test_an_upstream_without_an_encoder_has_nothing_to_tune():
    with pytest.raises(DownstreamError, match="Transformer"):
        finetune.encoder_of(torch.nn.Linear(2, 2))
