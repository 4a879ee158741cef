"""Transformers' habits with log-mel models: 16 bits, options of the configuration, heads, and their own classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    HubertForCTC,
    HubertForSequenceClassification,
    HubertModel,
)

import upstream
from upstream.model.encoder import build_encoder
from upstream.model.family import Geometry
from upstream.model.modeldir import load_model, save_model

SIZES = {"pos_conv_kernel": 8, "pos_conv_groups": 4}
GEOMETRIES = {
    "plain": Geometry("tiny", 3, 64, 4, 128, "logmel", **SIZES),
    "squeezed": Geometry("tiny", 3, 64, 4, 128, "logmel", squeeze=2, **SIZES),
    "stem": Geometry("tiny", 3, 64, 4, 128, "logmel", stem="convolution", positions="sinusoid"),
}


@pytest.fixture(scope="module", params=list(GEOMETRIES))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    upstream.register("transformers")
    torch.manual_seed(0)
    model = build_encoder(GEOMETRIES[request.param]).eval()
    return save_model(model, tmp_path_factory.mktemp("heads") / "model", {"name": "tiny"})


@pytest.fixture
def padded() -> dict[str, torch.Tensor]:
    """A loud clip, and a quiet one that is padded."""
    torch.manual_seed(1)
    mask = torch.ones(2, 16000, dtype=torch.long)
    mask[1, 9000:] = 0
    return {"input_values": torch.randn(2, 16000) * torch.tensor([[0.1], [1e-3]]) * mask, "attention_mask": mask}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_models_of_16_bits_give_nearly_the_same_states(path: Path, padded: dict, dtype: torch.dtype) -> None:
    expected = load_model(path)(**padded, output_hidden_states=True).hidden_states
    energies = load_model(path).feature_extractor(padded["input_values"])
    halved = load_model(path).half() if dtype == torch.float16 else load_model(path).bfloat16()
    for model in (AutoModel.from_pretrained(path, dtype=dtype).eval(), halved, load_model(path).to(dtype)):
        assert model.dtype == dtype
        found = model(padded["input_values"].to(dtype), padded["attention_mask"], output_hidden_states=True)
        for state, wanted in zip(found.hidden_states, expected, strict=True):
            assert state.dtype == dtype and (state.float() - wanted).norm() < 2e-2 * wanted.norm()
        torch.testing.assert_close(model.feature_extractor(padded["input_values"]), energies)


def test_the_configuration_asks_for_states_and_tuples(path: Path) -> None:
    wav = torch.randn(1, 4000)
    model = load_model(path)
    assert isinstance(model(wav, return_dict=False), tuple) and model(wav).hidden_states is None
    model.config.output_hidden_states = True
    assert len(model(wav).hidden_states) == 4 and model(wav, output_hidden_states=False).hidden_states is None
    model.config.return_dict = False
    first, states = model(wav)
    assert len(states) == 4 and torch.equal(first, states[-1])
    assert torch.equal(model(wav, return_dict=True).last_hidden_state, first)


@pytest.mark.parametrize("theirs", [HubertModel, HubertForCTC, HubertForSequenceClassification])
def test_classes_without_our_front_end_refuse_the_directory(path: Path, theirs: type) -> None:
    with pytest.raises(KeyError, match="upstream.register.*AutoModelForCTC"):
        theirs.from_pretrained(path)


def test_directories_from_before_the_line_load_and_are_saved_with_it(path: Path, tmp_path: Path) -> None:
    old = save_model(load_model(path), tmp_path / "old", {})
    config = json.loads((old / "config.json").read_text(encoding="utf-8"))
    (old / "config.json").write_text(json.dumps(config | {"feat_extract_activation": "gelu"}), encoding="utf-8")
    for number, model in enumerate((load_model(old), AutoModel.from_pretrained(old))):
        model.save_pretrained(tmp_path / str(number))
        with pytest.raises(KeyError, match="upstream.register"):
            HubertModel.from_pretrained(tmp_path / str(number))


@pytest.mark.parametrize("auto", [AutoModelForCTC, AutoModelForAudioClassification])
def test_heads_stand_on_our_encoder_train_and_come_back(path: Path, padded: dict, tmp_path: Path, auto: type) -> None:
    model = auto.from_pretrained(path).eval()
    with torch.no_grad():
        expected = load_model(path)(**padded).last_hidden_state
        torch.testing.assert_close(model.hubert(**padded).last_hidden_state, expected)
    labels = torch.tensor([[1, 2], [3, -100]]) if auto is AutoModelForCTC else torch.tensor([0, 1])
    model(**padded, labels=labels).loss.backward()
    assert model.hubert.encoder.layers[0].attention.q_proj.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        again = auto.from_pretrained(tmp_path, dtype=torch.float32).eval()
        torch.testing.assert_close(again(**padded).logits, model(**padded).logits)
        torch.testing.assert_close(again.hubert(**padded).last_hidden_state, expected)
