import pytest
import torch

from upstream.config import InitConfig
from upstream.encoder import build_encoder
from upstream.family import geometry
from upstream.init import InitError, initialise, layer_choice
from upstream.modeldir import save_model

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
    with pytest.raises(InitError, match="5 layers"):
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


def test_thinner_student_takes_only_what_fits(teacher):
    model, path = teacher
    student = build_encoder(geometry("mini_hst"))
    before = student.encoder.layers[0].attention.q_proj.weight.clone()
    copied = initialise(student, InitConfig("every_nth", path))
    assert torch.equal(student.encoder.layers[0].attention.q_proj.weight, before)
    assert torch.equal(student.feature_extractor.mean, model.feature_extractor.mean)
    assert "feature_projection.layer_norm.weight" in copied


def test_continuing_needs_the_same_geometry(teacher):
    model, path = teacher
    same = build_encoder(TEACHER)
    initialise(same, InitConfig("model", path))
    for (name, a), b in zip(same.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(InitError, match="another geometry"):
        initialise(build_encoder(geometry("mini_hl", layers=3)), InitConfig("model", path))


def test_random_copies_nothing_and_configuration_errors_are_named():
    assert initialise(build_encoder(geometry("mini_hst")), InitConfig()) == []
    with pytest.raises(ValueError, match="needs a source"):
        InitConfig("every_nth")
    with pytest.raises(ValueError, match="`every`"):
        InitConfig("every", "x")
