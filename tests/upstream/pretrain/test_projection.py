"""Projected students: exact at equal width, and close to the teacher when thinner."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder, encode, repeat_frames, run_layers
from upstream.model.family import geometry
from upstream.pretrain.projection import Basis, closest_product, complement_of_ones, from_weights, measure
from upstream.pretrain.projection import project as project_fully

TEACHER = geometry("mini_hl", layers=3, width=64, heads=4, ffn=128, pos_conv_groups=4)


def project(student, teacher, layers, statistics, fit_steps=60):
    """With few steps: the regression of the positional convolution takes most of the time of a projection."""
    return project_fully(student, teacher, layers, statistics, fit_steps=fit_steps)


@pytest.fixture(scope="module")
def wavs():
    """Voiced-like clips: harmonics of a gliding pitch under a moving envelope."""
    rng = np.random.default_rng(0)
    clips = []
    for samples in (16000, 24000, 11000, 30000):
        time = np.arange(samples) / 16000
        pitch = 120 + 60 * np.sin(2 * np.pi * rng.uniform(0.5, 3) * time)
        phase = 2 * np.pi * np.cumsum(pitch) / 16000
        weights = [np.exp(-((n * pitch - 700 - 500 * np.sin(5 * time)) ** 2) / 2e5) for n in range(1, 20)]
        wav = sum(w * np.sin(n * phase) for n, w in enumerate(weights, 1)) * (0.2 + np.abs(np.sin(7 * time)))
        clips.append(torch.from_numpy((0.1 * wav + 0.003 * rng.standard_normal(samples)).astype(np.float32)))
    return clips


@pytest.fixture(scope="module")
def teacher():
    """Random weights with norms that are far from plain: gains and biases must be folded, not forgotten."""
    torch.manual_seed(0)
    model = build_encoder(TEACHER)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name and name.endswith("weight"):
                parameter.uniform_(0.3, 1.7)
            elif name.endswith("bias"):
                parameter.normal_(std=0.3)
            elif "layers" in name and parameter.dim() == 2:
                parameter.mul_(3.0)
    return model.eval()


@pytest.fixture(scope="module")
def statistics(teacher, wavs):
    return measure(teacher, [0, 1, 2], iter([wavs[:2], wavs[2:]]))


def stack(model, x):
    """The Transformer layers and the final norm on a given input of layer 1: states 1 to L."""
    states = []
    for layer in model.encoder.layers:
        out = layer(x)
        x = out[0] if isinstance(out, tuple) else out
        states.append(x)
    states[-1] = model.encoder.layer_norm(states[-1])
    return states


def valid_states(model, wavs):
    with torch.no_grad():
        encoded = encode(model.eval(), wavs)
    return [
        torch.cat([state[i, : encoded.frames[i]] for i in range(len(wavs))]).double() for state in encoded.hidden_states
    ]


def cka(x, y):
    """Linear centred kernel alignment: 1 where one is a rotation of the other."""
    x, y = x - x.mean(0), y - y.mean(0)
    return float((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


@pytest.mark.parametrize("source", ["audio", "weights"])
def test_at_equal_width_the_stack_is_the_teachers_in_another_basis(teacher, statistics, source):
    found = statistics if source == "audio" else from_weights(teacher, [0, 1, 2])
    student = build_encoder(TEACHER).eval()
    project(student, teacher, [0, 1, 2], found)
    p = Basis.of(found, TEACHER.width).matrix.float()
    x = 3 * torch.randn(2, 50, TEACHER.width) + 1.0
    with torch.no_grad():
        theirs, ours = stack(teacher, x), stack(student, x @ p)
    for layer in range(2):
        torch.testing.assert_close(ours[layer], theirs[layer] @ p, rtol=1e-4, atol=1e-4)
    norm = teacher.encoder.layer_norm
    plain = (theirs[2] - norm.bias) / norm.weight
    torch.testing.assert_close(ours[2], plain @ p, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_at_equal_width_feature_projection_and_mask_embedding_are_the_teachers(teacher, statistics, wavs):
    student = build_encoder(TEACHER).eval()
    student.feature_extractor.load_state_dict(teacher.feature_extractor.state_dict())
    student.feature_projection.layer_norm.load_state_dict(teacher.feature_projection.layer_norm.state_dict())
    project(student, teacher, [0, 1, 2], statistics)
    p = Basis.of(statistics, TEACHER.width).matrix.float()
    with torch.no_grad():
        features = teacher.feature_extractor(wavs[0][None]).transpose(1, 2)
        theirs, ours = teacher.feature_projection(features), student.feature_projection(features)
    torch.testing.assert_close(ours, theirs @ p, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(student.masked_spec_embed, teacher.masked_spec_embed @ p)


@pytest.mark.parametrize("changes", [{"heads": 2, "ffn": 64}, {"heads": 4, "ffn": 128}, {"heads": 1, "ffn": 64}])
def test_a_thinner_student_is_far_closer_to_its_teacher_than_a_random_one(teacher, statistics, wavs, changes):
    """Heads of equal, smaller and greater width than the teacher's 16."""
    torch.manual_seed(1)
    shape = geometry("mini_hl", layers=3, width=32, pos_conv_groups=4, **changes)
    student, random = build_encoder(shape), build_encoder(shape)
    for model in (student, random):
        model.feature_extractor.load_state_dict(teacher.feature_extractor.state_dict())
        model.feature_projection.layer_norm.load_state_dict(teacher.feature_projection.layer_norm.state_dict())
    project(student, teacher, [0, 1, 2], statistics)
    theirs, ours, nobodys = (valid_states(model, wavs) for model in (teacher, student, random))
    near = [cka(a, b) for a, b in zip(ours, theirs, strict=True)]
    far = [cka(a, b) for a, b in zip(nobodys, theirs, strict=True)]
    # On clips this simple a random network keeps much as well: what counts is how much less is lost.
    assert min(near) > 0.98 and all(1 - a < 0.5 * (1 - b) for a, b in zip(near, far, strict=True)), (near, far)


def test_stream_moments_are_those_of_the_inputs_of_the_norms_without_padding(teacher, statistics, wavs):
    rows = []
    for wav in wavs:
        with torch.no_grad():
            states, _ = run_layers(teacher, wav[None])
        rows.append(F.layer_norm(states[1][0], (TEACHER.width,)).double())
    x = torch.cat(rows)
    torch.testing.assert_close(statistics.stream["1.attention"], x.T @ x / len(x), rtol=1e-4, atol=1e-4)
    assert sum(len(a) for a, _ in statistics.clips) == len(x)


def test_a_squeezed_teacher_is_measured_at_the_rate_of_its_layers_and_its_upsampler_is_projected(wavs):
    torch.manual_seed(2)
    shape = replace(TEACHER, squeeze=2)
    teacher, student = build_encoder(shape).eval(), build_encoder(shape).eval()
    found = measure(teacher, [0, 1, 2], iter([wavs[:2], wavs[2:]]))
    with torch.no_grad():
        states = [run_layers(teacher, wav[None])[0] for wav in wavs]
    x = torch.cat([F.layer_norm(own[1][0, ::2], (shape.width,)).double() for own in states])
    torch.testing.assert_close(found.stream["1.attention"], x.T @ x / len(x), rtol=1e-4, atol=1e-4)
    x = torch.cat([F.layer_norm(own[3][0], (shape.width,)).double() for own in states])  # the final norm is plain here
    torch.testing.assert_close(found.stream["top"], x.T @ x / len(x), rtol=1e-4, atol=1e-4)
    assert "upsampler.projection.weight" in project(student, teacher, [0, 1, 2], found, fit_steps=1)
    p, x = Basis.of(found, shape.width).matrix.float(), torch.randn(2, 9, shape.width)
    x = x - x.mean(-1, keepdim=True)  # the basis leaves the mean out, as layer norms do
    difference = teacher.upsampler(x) - repeat_frames(x, 2)
    torch.testing.assert_close(student.upsampler(x @ p) - repeat_frames(x @ p, 2), difference @ p, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_positional_convolution_is_fitted_to_the_teachers(teacher, statistics):
    student = build_encoder(TEACHER)
    p = Basis.of(statistics, TEACHER.width).matrix.float()

    def missed():
        with torch.no_grad():
            pairs = [(student.encoder.pos_conv_embed((x @ p)[None])[0], y @ p) for x, y in statistics.clips]
        wanted = torch.cat([y for _, y in pairs])
        error = sum(F.mse_loss(a, b, reduction="sum") for a, b in pairs)
        return float(error / (wanted - wanted.mean(0)).square().sum())

    before = missed()
    done = project(student, teacher, [0, 1, 2], statistics, fit_steps=200)
    assert missed() < 0.5 * before, (missed(), before)
    assert any("pos_conv_embed" in name for name in done)
    assert not any(parameter.grad is not None for parameter in student.parameters())


def test_basis_is_orthonormal_and_both_sides_are_orthogonal_to_the_constant_vector(statistics):
    basis = Basis.of(statistics, 32)
    p = basis.matrix
    torch.testing.assert_close(p.T @ p, torch.eye(32, dtype=torch.float64) - 1 / 32)
    assert p.sum(0).abs().max() < 1e-9 and p.sum(1).abs().max() < 1e-9
    assert all(0.5 < share < 1 for share in basis.kept.values())
    torch.testing.assert_close(complement_of_ones(5).T @ complement_of_ones(5), torch.eye(4, dtype=torch.float64))


def test_the_closest_product_of_its_rank():
    torch.manual_seed(0)
    left, right = torch.randn(6, 9).double(), torch.randn(6, 8).double()
    a, b = closest_product(left, right, 3)
    singular = torch.linalg.svdvals(left.T @ right)
    torch.testing.assert_close((a.T @ b - left.T @ right).norm() ** 2, singular[3:].square().sum())
    a, b = closest_product(left, right, 8)
    torch.testing.assert_close(a.T @ b, left.T @ right)


def test_an_impossible_projection_is_named(teacher, statistics):
    with pytest.raises(UpstreamError, match="width 128"):
        project(build_encoder(geometry("mini_hl", layers=3)), teacher, [0, 1, 2], statistics)
    with pytest.raises(UpstreamError, match="8 heads"):
        shape = geometry("mini_hl", layers=3, width=32, heads=8, ffn=64, pos_conv_groups=4)
        project(build_encoder(shape), teacher, [0, 1, 2], statistics)
    with pytest.raises(UpstreamError, match="FFN of 256"):
        shape = geometry("mini_hl", layers=3, width=32, heads=2, ffn=256, pos_conv_groups=4)
        project(build_encoder(shape), teacher, [0, 1, 2], statistics)
