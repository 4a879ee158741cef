"""Initialisation: chosen layers, copied and random tensors, and projection."""

from dataclasses import replace

import pytest
import torch

from corpora.audio import write_audio
from corpora.datadir import Utterance
from upstream.config import InitConfig
from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder
from upstream.model.family import geometry
from upstream.model.modeldir import save_model
from upstream.pretrain.init import initialise, layer_choice

TEACHER = geometry("mini_hl", layers=4)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    model = build_encoder(TEACHER)
    model.feature_extractor.set_statistics(torch.linspace(-3, 1, 80), torch.ones(80))
    return model, str(save_model(model, tmp_path_factory.mktemp("t") / "teacher", {}))


def test_layer_choice_spreads_and_ends_on_top():
    assert layer_choice("every_nth", 4, 24) == [5, 11, 17, 23]
    assert layer_choice("every_nth", 2, 4) == [1, 3]
    assert layer_choice("every_nth", 3, 4) == [0, 1, 3]
    assert layer_choice("first_n", 2, 4) == [0, 1]
    with pytest.raises(UpstreamError, match="5 .*4 "):
        layer_choice("first_n", 5, 4)


@pytest.mark.parametrize("kind, layers", [("every_nth", [1, 3]), ("first_n", [0, 1])])
def test_student_of_equal_width_starts_from_the_chosen_layers(teacher, kind, layers):
    model, path = teacher
    student = build_encoder(geometry("mini_hs", layers=2))
    initialise(student, InitConfig(kind, path))
    for mine, theirs in enumerate(layers):
        for a, b in zip(
            student.encoder.layers[mine].parameters(), model.encoder.layers[theirs].parameters(), strict=True
        ):
            assert torch.equal(a, b)
    assert torch.equal(student.feature_extractor.mean, model.feature_extractor.mean)
    assert torch.equal(student.feature_projection.projection.weight, model.feature_projection.projection.weight)


def test_a_thinner_student_copies_only_tensors_that_fit(teacher):
    model, path = teacher
    student = build_encoder(geometry("mini_hst"))
    before = student.encoder.layers[0].attention.q_proj.weight.clone()
    copied = initialise(student, InitConfig("every_nth", path))
    assert torch.equal(student.encoder.layers[0].attention.q_proj.weight, before)
    assert torch.equal(student.feature_extractor.mean, model.feature_extractor.mean)
    assert "feature_projection.layer_norm.weight" in copied
    # The gain of the weight norm has one entry a tap, whatever the width, and belongs to the teacher's directions.
    assert not any("pos_conv" in name for name in copied)


def test_a_bias_that_fits_does_not_come_without_its_weights(teacher):
    model, path = teacher
    student = build_encoder(geometry("mini_hst", ffn=512))
    assert student.encoder.layers[0].feed_forward.intermediate_dense.bias.shape == (512,)
    copied = initialise(student, InitConfig("first_n", path))
    assert not any(name.startswith("encoder.layers") for name in copied)


def test_continuing_needs_the_same_geometry(teacher):
    model, path = teacher
    same = build_encoder(TEACHER)
    initialise(same, InitConfig("model", path))
    for (name, a), b in zip(same.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(UpstreamError, match="number of layers"):
        initialise(build_encoder(geometry("mini_hl", layers=3)), InitConfig("model", path))


@pytest.mark.parametrize("kind", ["model", "first_n", "project"])
def test_weights_of_bands_of_another_scale_are_refused(teacher, kind):
    student = build_encoder(replace(TEACHER, cmvn=True))
    with pytest.raises(UpstreamError, match="lacks cmvn, the model that starts from it has it"):
        initialise(student, InitConfig(kind, teacher[1]))


def test_projection_starts_a_thinner_student_from_every_layer_it_can(teacher, tmp_path):
    """From weights alone: the tensors that are set or stay random, and the layers taken."""
    model, path = teacher
    torch.manual_seed(3)
    student = build_encoder(geometry("mini_hst"))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    done = initialise(student, InitConfig("project", path, layers="first_n"))
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if name.startswith("encoder.layers")} <= set(done)
    assert not any("pos_conv" in name for name in changed), "without audio there is nothing to fit it on"
    assert torch.equal(student.feature_extractor.mean, model.feature_extractor.mean)
    last = build_encoder(geometry("mini_hst"))
    initialise(last, InitConfig("project", path, layers="every_nth"))
    assert not torch.equal(
        last.encoder.layers[0].attention.q_proj.weight, student.encoder.layers[0].attention.q_proj.weight
    )


@pytest.mark.slow
def test_projection_on_audio_is_deterministic_and_fits_the_positional_convolution(teacher, tmp_path, caplog):
    _, path = teacher
    utterances = []
    for i, samples in enumerate((9000, 16000, 12345)):
        torch.manual_seed(i)
        write_audio(tmp_path / f"{i}.wav", (0.1 * torch.randn(samples)).numpy())
        utterances.append(Utterance(f"s-{i}", "s", tmp_path / f"{i}.wav", samples))
    utterances.append(Utterance("s-3", "s", tmp_path / "missing.wav", 8000))
    students = []
    for _ in range(2):
        torch.manual_seed(5)
        students.append(build_encoder(geometry("mini_hst")))
        done = initialise(students[-1], InitConfig("project", path), utterances, seed=1)
    assert any("pos_conv" in name for name in done) and "s-3" in caplog.text
    for (name, a), b in zip(students[0].state_dict().items(), students[1].state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_projection_needs_norms_before_the_layers(tmp_path):
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                          conv_dim=[8] * 7, num_conv_pos_embedding_groups=4)  # fmt: skip
    base = save_model(HubertModel(config), tmp_path / "base", {})
    with pytest.raises(UpstreamError, match="norms"):
        initialise(build_encoder(geometry("mini_hst")), InitConfig("project", str(base)))


def test_random_copies_nothing_and_configuration_errors_are_named():
    assert initialise(build_encoder(geometry("mini_hst")), InitConfig()) == []
    with pytest.raises(ValueError, match="every_nth"):
        InitConfig("every_nth")
    with pytest.raises(ValueError, match="'every'"):
        InitConfig("every", "x")
    with pytest.raises(ValueError, match="'top'"):
        InitConfig("project", "x", layers="top")
