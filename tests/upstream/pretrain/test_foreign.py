"""A student that starts from Whisper's layers; the Whisper here is a small random one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperModel

from corpora.audio import write_audio
from corpora.prepare.packed import pack
from upstream.config import InitConfig
from upstream.errors import UpstreamError
from upstream.model.card import tree
from upstream.model.encoder import build_encoder, encode, squeezed
from upstream.model.family import Geometry
from upstream.model.modeldir import load_model, read_card
from upstream.pretrain.foreign import RegressConfig, Regression, WhisperTeacher, copy_layers, fit, frames_of_layers
from upstream.pretrain.init import initialise

STUDENT = Geometry("student", 2, 32, 2, 64, "logmel", pos_conv_kernel=8, pos_conv_groups=4, squeeze=2)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "encoder_layers": 3}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 64}
    model = WhisperModel(WhisperConfig(**sizes, **decoder, vocab_size=64, num_mel_bins=80, pad_token_id=0))
    folder = tmp_path_factory.mktemp("whisper") / "tiny"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    files = {}
    for i in range(4):
        write_audio(folder / f"{i}.wav", rng.normal(0, 0.1, 16000 * (2 + i)))
        files[f"clip{i}"] = folder / f"{i}.wav"
    pack(files, folder / "store")
    return folder / "store"


def test_the_layers_are_copied_whole(whisper: Path) -> None:
    student = build_encoder(STUDENT)
    copied = copy_layers(student, whisper, [0, 2])
    theirs = WhisperModel.from_pretrained(whisper).encoder
    own = student.encoder.layers[1]
    torch.testing.assert_close(own.attention.q_proj.weight, theirs.layers[2].self_attn.q_proj.weight)
    torch.testing.assert_close(own.feed_forward.output_dense.bias, theirs.layers[2].fc2.bias)
    assert own.attention.k_proj.bias.abs().sum() == 0
    assert sum(name.startswith("encoder.layers.") for name in copied) == 2 * 16
    x = torch.randn(1, 20, 32)
    with torch.no_grad():
        student.eval()
        ours = own(x)
        out = theirs.eval().layers[2](x, None)
    ours, out = (y[0] if isinstance(y, tuple) else y for y in (ours, out))
    torch.testing.assert_close(ours, out, atol=1e-5, rtol=1e-4)


def test_init_foreign_copies_them_too(whisper: Path) -> None:
    student = build_encoder(STUDENT)
    copied = initialise(student, InitConfig("foreign", str(whisper), [0, 1]))
    assert "encoder.layers.1.final_layer_norm.weight" in copied
    with pytest.raises(ValueError, match="numbers from 0"):
        InitConfig("foreign", str(whisper), "every_nth")


def test_with_whispers_stem_and_positions_the_states_are_whispers(whisper: Path, store: Path, tmp_path: Path) -> None:
    whole = replace(STUDENT, squeeze=1, stem="convolution", positions="sinusoid")
    made = fit(whole, whisper, [0, 1], store, tmp_path / "start", RegressConfig())
    assert read_card(made)["steps"] == 0 and read_card(made)["regression"] is None
    student = load_model(made)
    wav = np.random.default_rng(0).normal(0, 0.1, 480000).astype(np.float32)
    theirs = WhisperTeacher(whisper, 2)(wav[None])
    early = np.concatenate([wav[200:0:-1], wav, np.zeros(600, np.float32)])  # Whisper's frames are centred
    with torch.no_grad():
        ours = frames_of_layers(student, torch.from_numpy(early)[None])
    for i in (1, 2):  # the teacher's state 0 is without positions
        torch.testing.assert_close(ours[i][:, :1490], theirs[i][:, :1490], atol=2e-3, rtol=2e-3)

    fast = load_model(fit(replace(whole, squeeze=2), whisper, [0, 1], store, tmp_path / "fast", RegressConfig()))
    expected = squeezed(student).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in fast.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "layers", "message"),
    [
        ({"width": 64}, [0, 1], "width is 32, the student's 64"),
        ({"heads": 4}, [0, 1], "number of heads is 2"),
        ({"ffn": 128}, [0, 1], "feed-forward width"),
        ({}, [0], "are 1, the student has 2"),
        ({}, [1, 7], "layers 0 to 2"),
        ({"stem": "convolution", "positions": "sinusoid", "cmvn": True}, [0, 1], "fixed scale"),
    ],
)
def test_an_encoder_of_another_shape_is_refused(whisper: Path, changes: dict, layers: list[int], message: str) -> None:
    with pytest.raises(UpstreamError, match=message):
        copy_layers(build_encoder(replace(STUDENT, **changes)), whisper, layers)


def test_post_norm_layers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hubert", "do_stable_layer_norm": False}))
    with pytest.raises(UpstreamError, match="norms after its layers"):
        copy_layers(build_encoder(STUDENT), tmp_path, [0, 1])


def test_the_teacher_gives_whispers_own_states(whisper: Path) -> None:
    wav = np.random.default_rng(0).normal(0, 0.1, (1, 480000)).astype(np.float32)
    teacher = WhisperTeacher(whisper, 2)
    theirs = WhisperModel.from_pretrained(whisper).encoder.eval()
    with torch.no_grad():
        mel = teacher.extractor(list(wav), sampling_rate=16000, return_tensors="pt")["input_features"]
        states = theirs(mel, output_hidden_states=True).hidden_states
    torch.testing.assert_close(teacher(wav)[2], states[2], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_regression_that_was_killed_resumes(whisper: Path, store: Path, tmp_path: Path) -> None:
    config = RegressConfig(stem_steps=3, steps=6, save_steps=4, stem_rate=1e-2)
    whole = fit(STUDENT, whisper, [0, 1], store, tmp_path / "whole", config)
    card = read_card(whole)
    assert card["init"]["kind"] == "foreign" and card["init"]["layers"] == [0, 1]
    assert "whisper" in tree(whole)
    assert encode(load_model(whole), [torch.zeros(4000)]).hidden_states[0].shape == (1, 12, 32)
    resumed = fit(STUDENT, whisper, [0, 1], store, tmp_path / "whole", config)  # from the state of step 4
    for name, value in load_model(whole).state_dict().items():
        torch.testing.assert_close(value, load_model(resumed).state_dict()[name], msg=name)


def test_the_error_becomes_smaller(whisper: Path) -> None:
    torch.manual_seed(0)
    student = build_encoder(STUDENT)
    copy_layers(student, whisper, [0, 1])
    teacher = WhisperTeacher(whisper, 2)
    config = RegressConfig(stem_steps=3, steps=6, stem_rate=1e-2)
    # States of a random Whisper hardly vary; without a factor the student's errors would reach the limit of the loss.
    run = Regression(student, lambda batch: [100 * state for state in teacher(batch)], config)
    window = np.random.default_rng(1).normal(0, 0.1, (1, 480000)).astype(np.float32)
    first, *_, last = (run.step(window)[0] for _ in range(3))
    assert last < first
