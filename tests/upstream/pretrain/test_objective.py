"""Losses: units against plain formulas, feature regression against DistilHuBERT's, and numbers that stay finite."""

import csv
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from corpora.files import sha256_json
from upstream.config import PretrainConfig, RegressionConfig
from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder, encode
from upstream.model.family import geometry
from upstream.model.modeldir import load_model, model_sha256, read_card, save_model
from upstream.pretrain.checkpoints import load_state
from upstream.pretrain.module import Pretraining
from upstream.pretrain.objective import FeatureHeads, UnitHead, unit_loss
from upstream.pretrain.train import pretrain

B, T, D, K = 3, 20, 16, 7


@pytest.fixture
def batch():
    torch.manual_seed(0)
    frames = torch.randn(B, T, D, requires_grad=True)
    labels = torch.randint(K, (B, T))
    mask = torch.rand(B, T) < 0.5
    valid = torch.arange(T) < torch.tensor([20, 13, 7])[:, None]
    return frames, labels, mask, valid


def head(logits="cosine"):
    torch.manual_seed(1)
    return UnitHead(D, K, logits=logits, projection=8, temperature=0.1)


def test_cosine_logits_are_cosines_over_the_temperature():
    h, x = head(), torch.randn(5, D)
    expected = F.cosine_similarity(h.projection(x)[:, None], h.units[None], dim=-1) / 0.1
    torch.testing.assert_close(h(x), expected)


@pytest.mark.parametrize("logits", ["cosine", "linear"])
def test_loss_is_the_weighted_sum_of_both_means(batch, logits):
    frames, labels, mask, valid = batch
    h = head(logits)
    result = unit_loss(h, frames, labels, mask, valid, masked_weight=1.0, unmasked_weight=0.3)
    all_logits = h(frames.reshape(-1, D)).reshape(B, T, K)
    ce = F.cross_entropy(all_logits.transpose(1, 2), labels, reduction="none")
    expected = ce[mask & valid].mean() + 0.3 * ce[~mask & valid].mean()
    torch.testing.assert_close(result.loss, expected)
    right = all_logits.argmax(-1) == labels
    assert result.masked_correct == int(right[mask & valid].sum())
    assert result.masked_frames + result.unmasked_frames == int(valid.sum())


def test_padding_has_no_gradient_and_no_unmasked_weight_means_no_unmasked_gradient(batch):
    frames, labels, mask, valid = batch
    unit_loss(head(), frames, labels, mask, valid, masked_weight=1.0, unmasked_weight=0.0).loss.backward()
    moved = frames.grad.abs().sum(-1) > 0
    assert torch.equal(moved, mask & valid)


def test_large_norms_stay_finite_in_bf16():
    h = head()
    frames = (1e4 * torch.randn(1, T, D)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = unit_loss(
            h, frames, torch.zeros(1, T, dtype=torch.long), torch.ones(1, T, dtype=torch.bool),
            torch.ones(1, T, dtype=torch.bool), masked_weight=1.0, unmasked_weight=0.1,
        )  # fmt: skip
    result.loss.backward()
    assert torch.isfinite(result.loss) and torch.isfinite(frames.grad).all()


def test_a_batch_without_masked_frames_still_trains(batch):
    frames, labels, mask, valid = batch
    result = unit_loss(head(), frames, labels, mask & False, valid, masked_weight=1.0, unmasked_weight=0.5)
    assert result.masked_frames == 0 and float(result.loss.detach()) > 0


TEACHER = geometry("mini_hl", layers=3, width=32, heads=2, ffn=64, pos_conv_groups=4, pos_conv_kernel=8)
STUDENT = geometry("mini_hst", width=16, heads=2, ffn=32, pos_conv_groups=4, pos_conv_kernel=8)
CONFIG = PretrainConfig(steps=30, batch_seconds=4.0, crop_seconds=2.0, valid_every=10, lr=3e-3, mask_prob=0.0)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    return str(save_model(build_encoder(TEACHER), tmp_path_factory.mktemp("t") / "teacher", {"name": "HL"}))


@pytest.fixture(scope="module")
def data(tmp_path_factory, noise_corpus):
    root = tmp_path_factory.mktemp("data")
    noise_corpus(root, 10, 3, samples=(8000, 30000))
    return root


@pytest.fixture(scope="module")
def trained(data, teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    pretrain(STUDENT, data, [], out, CONFIG, card={"name": "student"}, regression=RegressionConfig(teacher, [1, 3]))
    return out


@pytest.mark.parametrize("normalise", [False, True])
def test_loss_is_distilhuberts_on_valid_frames(teacher, normalise):
    config = RegressionConfig(teacher, [1, 3], weight=0.7, cosine=2.0, normalise=normalise)
    heads = FeatureHeads(STUDENT.width, config)
    wavs = [torch.randn(8000), torch.randn(5000)]
    with torch.no_grad():
        encoded = encode(load_model(teacher), wavs)
    valid = torch.arange(encoded.hidden_states[0].shape[1]) < encoded.frames[:, None]
    frames = torch.randn(*valid.shape, STUDENT.width)
    result = heads(frames, valid, heads.targets(wavs))
    losses = []
    for layer in (1, 3):
        target = encoded.hidden_states[layer]
        target = F.layer_norm(target, target.shape[-1:]) if normalise else target
        predicted = F.linear(frames, heads.heads[str(layer)].weight, heads.heads[str(layer)].bias)
        similarity = F.cosine_similarity(predicted, target, dim=-1)
        losses.append(((predicted - target).abs().mean(-1) - 2.0 * F.logsigmoid(similarity))[valid])
    torch.testing.assert_close(result.loss, 0.7 * torch.stack(losses).mean())


@pytest.mark.slow
def test_features_without_units_train_a_student_and_store_no_teacher(trained, teacher):
    with open(trained / "metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["valid_feature_l1"]) < float(rows[0]["valid_feature_l1"])
    assert float(rows[-1]["valid_feature_cosine"]) > float(rows[0]["valid_feature_cosine"])
    own = load_model(trained / "model").state_dict()
    assert set(own) == set(build_encoder(STUDENT).state_dict()), "encoder weights and nothing else"
    card = read_card(trained / "model")
    assert card["regression"]["source_sha256"] == model_sha256(teacher) and "units" not in card
    state = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)["model"]
    assert {name.split(".")[0] for name in state} == {"encoder", "regression"}
    assert sum(value.numel() for name, value in state.items() if name.startswith("regression")) == 2 * (16 * 32 + 32)


def test_the_best_weights_are_those_of_the_least_loss(trained):
    with open(trained / "metrics.csv", encoding="utf-8") as file:
        losses = [float(row["valid_loss"]) for row in csv.DictReader(file)]
    state = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)
    assert state["best"] == pytest.approx(-min(losses))


def test_a_run_does_not_resume_with_another_teacher(trained):
    facts = json.loads((trained / "config.json").read_text())
    fingerprint = load_state(trained / "checkpoints")["fingerprint"]
    assert fingerprint == sha256_json(facts)
    facts["regression"]["source_sha256"] = "0" * 64
    assert fingerprint != sha256_json(facts)


def test_the_teacher_is_frozen_deterministic_and_no_part_of_the_module(teacher):
    heads = FeatureHeads(STUDENT.width, RegressionConfig(teacher, [3]))
    module = Pretraining(build_encoder(STUDENT), {}, CONFIG, heads).train()
    wavs = [torch.randn(6000)]
    first, again = heads.targets(wavs), heads.targets(wavs)
    assert torch.equal(first[0], again[0]) and not first[0].requires_grad
    assert sum(p.numel() for p in module.regression.parameters()) == 16 * 32 + 32


@pytest.mark.parametrize("norm", [1e3, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_teacher_with_large_norms_stays_finite(teacher, norm, dtype):
    heads = FeatureHeads(STUDENT.width, RegressionConfig(teacher, [1, 3]))
    frames = torch.randn(2, 20, STUDENT.width, requires_grad=True)
    plain = [torch.randn(2, 20, TEACHER.width) for _ in range(2)]
    plain[0][0, 0] = 0.0
    valid = torch.ones(2, 20, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        result = heads(frames, valid, [norm * target for target in plain])
        # The squares of such numbers are infinite in 32 bits, and a cosine by way of them is 0.
        assert result.cosine == pytest.approx(heads(frames, valid, plain).cosine, abs=1e-4)
    result.loss.backward()
    assert torch.isfinite(result.loss) and torch.isfinite(frames.grad).all() and np.isfinite(result.cosine)


def test_without_valid_frames_the_loss_is_zero_and_has_gradients(teacher):
    heads = FeatureHeads(STUDENT.width, RegressionConfig(teacher, [1]))
    frames = torch.randn(1, 4, STUDENT.width, requires_grad=True)
    result = heads(frames, torch.zeros(1, 4, dtype=torch.bool), [torch.randn(1, 4, TEACHER.width)])
    result.loss.backward()
    assert float(result.loss.detach()) == 0 and frames.grad is not None


def test_wrong_layers_and_weights_are_named(teacher):
    with pytest.raises(UpstreamError, match="0 to 3, not 4"):
        FeatureHeads(16, RegressionConfig(teacher, [4]))
    with pytest.raises(ValueError, match="layers"):
        RegressionConfig(teacher, layers=[])
    with pytest.raises(ValueError, match="weight"):
        RegressionConfig(teacher, [1], weight=0)
