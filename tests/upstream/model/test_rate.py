"""Encoders of other frame rates: counted as Transformers counts, described by `info`, refused by name elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

import upstream
from corpora.files import write_json
from upstream.__main__ import main
from upstream.config import RegressionConfig
from upstream.errors import UpstreamError
from upstream.harness.other_encoders import expert_of
from upstream.model.encoder import encode, frame_count
from upstream.model.modeldir import load_model, read_model
from upstream.model.onnx import export_model
from upstream.model.rate import OURS, Frames, check_directory, frames_of
from upstream.pretrain.objective import FeatureHeads
from upstream.tools.convert import import_model

KERNELS = [10, 3, 3, 3, 3, 2, 2]
# Name -> kernels and strides of seven convolutions, and their frames.
OTHER = {
    "25": (KERNELS, [5, 2, 2, 2, 2, 2, 4], Frames(640, 400)),
    "100": (KERNELS, [5, 2, 2, 2, 2, 2, 1], Frames(160, 400)),
    "field": ([10, 3, 3, 3, 3, 3, 2], [5, 2, 2, 2, 2, 2, 2], Frames(320, 480)),
}
SIZES = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=[8] * 7,
    num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, feat_extract_norm="layer", layerdrop=0.0,
)  # fmt: skip
KINDS = {
    "hubert": (HubertConfig, HubertModel, {"do_stable_layer_norm": True}),
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model, {"do_stable_layer_norm": True}),
    "wavlm": (WavLMConfig, WavLMModel, {"do_stable_layer_norm": True, "num_buckets": 16}),
}


def make(folder: Path, other: str, kind: str = "hubert") -> Path:
    kernels, strides, _ = OTHER[other]
    config, model, options = KINDS[kind]
    torch.manual_seed(0)
    model(config(**SIZES, **options, conv_kernel=kernels, conv_stride=strides)).eval().save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", {"do_normalize": False, "sampling_rate": 16000})
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {other: make(root / f"hz_{other}", other) for other in OTHER}


@pytest.mark.parametrize("other", OTHER)
def test_frames_are_those_of_transformers(models, other):
    model, expected = read_model(models[other]), OTHER[other][2]
    assert frames_of(model.config) == expected
    for samples in [*range(380, 1200), 15999, 16000, 16001]:
        theirs = max(0, int(model._get_feat_extract_output_lengths(torch.tensor(samples))))
        assert expected.count(samples) == theirs, samples


@pytest.mark.parametrize("other", OTHER)
def test_encode_counts_the_frames_that_the_model_gives(models, other):
    model = read_model(models[other])
    wavs = [0.1 * torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (5000, 16000, 300)]
    with torch.no_grad():
        encoded = encode(model, wavs)
        for row, wav in enumerate(wavs[:2]):
            alone = model(wav[None]).last_hidden_state[0]
            assert encoded.frames[row] == len(alone)
            torch.testing.assert_close(encoded.hidden_states[-1][row, : len(alone)], alone, atol=2e-5, rtol=1e-4)
    assert encoded.frames[2] == 0


def test_info_states_the_rate_and_that_nothing_else_reads_the_model(models, capsys):
    assert main(["info", str(models["25"])]) == 0
    printed = capsys.readouterr().out
    assert "output    25 frames per second" in printed
    assert "frames    25 frames per second (one every 640 samples, each of 400 samples); all other commands" in printed
    assert main(["info", str(models["100"]), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["frame_rate"], facts["hop"], facts["receptive_field"]) == (100, 160, 400)


USERS = {
    "load_model": load_model,
    "expert": expert_of,
    "import": lambda path: import_model(path, path.parent / "out"),
    "teacher": lambda path: FeatureHeads(8, RegressionConfig(str(path), [1]), read_model(path)),
    "export": lambda path: export_model(read_model(path), path.parent / "m.onnx"),
    "long audio": lambda path: upstream.encode_long(read_model(path), torch.zeros(16000)),
}


@pytest.mark.parametrize("other", OTHER)
@pytest.mark.parametrize("user", USERS)
def test_what_counts_frames_refuses_the_model_by_name_and_rate(models, user, other):
    with pytest.raises(UpstreamError) as failed:
        USERS[user](models[other])
    message = str(failed.value)
    assert str(OTHER[other][2]) in message and "50 per second" in message and "\n" not in message
    if user not in ("export", "long audio"):  # their argument is a model, not a folder
        assert models[other].name in message
    assert not (models[other].parent / "out").exists() and not (models[other].parent / "m.onnx").exists()


@pytest.mark.parametrize("other", OTHER)
def test_other_kinds_of_encoders_are_under_the_same_rule(tmp_path, other):
    for kind in ("wavlm", "wav2vec2"):
        with pytest.raises(UpstreamError, match=f"{kind}_model.*50 per second"):
            expert_of(make(tmp_path / f"{kind}_model", other, kind))


@pytest.mark.parametrize(
    "config, preprocessor, hop",
    [
        ({"model_type": "wav2vec2-bert"}, {"stride": 1}, 160),
        ({"model_type": "wav2vec2-bert"}, {"stride": 2}, None),
        ({"model_type": "wav2vec2-bert"}, None, None),
        ({"model_type": "whisper"}, {"hop_length": 320}, 640),
        ({"model_type": "whisper"}, {"hop_length": 160}, None),
        ({"model_type": "hubert", "conv_stride": [5, 2, 2, 2, 2, 2, 4]}, None, 640),
        ({"model_type": "hubert"}, None, None),
        ({"model_type": "hubert", "conv_stride": "many"}, None, None),  # another message names the fault
        ([], None, None),
    ],
)
def test_the_rate_of_a_directory_is_read_without_its_weights(tmp_path, config, preprocessor, hop):
    write_json(tmp_path / "config.json", config)
    if preprocessor is not None:
        write_json(tmp_path / "preprocessor_config.json", preprocessor)
    if hop is None:
        check_directory(tmp_path)
    else:
        with pytest.raises(UpstreamError, match=f"one every {hop} samples"):
            check_directory(tmp_path)


def test_one_formula_for_our_own_models():
    assert str(OURS) == "50 frames per second (one every 320 samples, each of 400 samples)"
    assert [OURS.count(n) for n in (0, 399, 400, 719, 720)] == [frame_count(n) for n in (0, 399, 400, 719, 720)]
    assert [OURS.count(n) for n in (0, 399, 400, 719, 720)] == [0, 0, 1, 1, 2]
