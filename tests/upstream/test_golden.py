"""Stored hidden states of a fixed tiny network, which every interface must reproduce.

`python tests/upstream/test_golden.py` writes them again, for a change of the network itself. Weights and audio come
from NumPy's legacy generator, whose stream never changes. The states are those of one CPU. TOLERANCE is the largest
allowed difference; values lie between -4 and 4.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import upstream
from upstream.model.encoder import build_encoder, encode
from upstream.model.family import Geometry
from upstream.model.modeldir import load_model, save_model

GOLDEN = Path(__file__).parent / "golden" / "hidden_states.safetensors"
TOLERANCE = 5e-5
LENGTHS = (5043, 11111, 800)
FRONT_ENDS = ("waveform", "logmel")


def network(front_end: str) -> torch.nn.Module:
    shape = dict(conv_channels=8, pos_conv_kernel=8, pos_conv_groups=4)
    model = build_encoder(Geometry("golden", 2, 16, 2, 32, front_end, **shape))
    random = np.random.RandomState(2026)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(torch.from_numpy(0.3 * random.standard_normal(tuple(parameter.shape))))
    return model.eval()


def audio() -> list[torch.Tensor]:
    random = np.random.RandomState(7)
    return [torch.from_numpy(0.1 * random.standard_normal(n)).float() for n in LENGTHS]


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """The clips as one batch, with noise in the padding."""
    wavs = audio()
    batch = torch.randn(len(wavs), max(LENGTHS), generator=torch.Generator().manual_seed(1))
    for row, wav in zip(batch, wavs, strict=True):
        row[: len(wav)] = wav
    return batch, torch.tensor(LENGTHS)


@pytest.fixture(scope="module", params=FRONT_ENDS)
def model_dir(request, tmp_path_factory) -> Path:
    return save_model(network(request.param), tmp_path_factory.mktemp("golden") / request.param, {"name": "golden"})


@pytest.fixture(scope="module")
def golden(model_dir) -> list[torch.Tensor]:
    """(L+1, T, D) of each clip."""
    stored = load_file(GOLDEN)
    return [stored[f"{model_dir.name}.{n}"] for n in LENGTHS]


def check(found, expected: torch.Tensor) -> None:
    """`found`: one (T', D) tensor per state, T' at least as long as the stored state."""
    assert len(found) == len(expected)
    for theirs, ours in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(theirs)[: len(ours)], ours, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_golden_states_of_our_own_forward_pass_single_and_batched(model_dir, golden):
    model = load_model(model_dir)
    together = encode(model, audio()).hidden_states
    for i, (wav, expected) in enumerate(zip(audio(), golden, strict=True)):
        check([state[0] for state in encode(model, [wav]).hidden_states], expected)
        check([state[i] for state in together], expected)


@torch.no_grad()
def test_golden_states_through_s3prl(model_dir, golden):
    upstream.register("s3prl")
    from s3prl.nn import S3PRLUpstream

    model = S3PRLUpstream("harness_custom", path_or_url=str(model_dir)).eval()
    states, _ = model(*padded())
    alone, _ = model(audio()[0][None], torch.tensor([LENGTHS[0]]))
    check([state[0] for state in alone], golden[0])
    for i, expected in enumerate(golden):
        check([state[i] for state in states], expected)


@torch.no_grad()
def test_golden_states_through_espnet(model_dir, golden):
    upstream.register("s3prl")
    from espnet2.asr.frontend.s3prl import S3prlFrontend

    conf = {"upstream": "harness_custom", "path_or_url": str(model_dir)}
    frontend = S3prlFrontend(fs=16000, frontend_conf=conf, multilayer_feature=True).eval()
    features, _ = frontend(*padded())
    for i, expected in enumerate(golden):
        check([features[i]], expected.mean(0)[None])  # untrained layer weights are equal
    top, _ = S3prlFrontend(fs=16000, frontend_conf=conf).eval()(*padded())
    for i, expected in enumerate(golden):
        check([top[i]], expected[-1:])


@torch.no_grad()
def test_golden_states_through_transformers(model_dir, golden):
    from transformers import AutoFeatureExtractor, AutoModel, HubertModel

    upstream.register("transformers")
    extract = AutoFeatureExtractor.from_pretrained(model_dir)
    model = (HubertModel if model_dir.name == "waveform" else AutoModel).from_pretrained(model_dir).eval()
    inputs = extract([w.numpy() for w in audio()], sampling_rate=16000, padding=True, return_tensors="pt")
    noisy = inputs["input_values"] + (1 - inputs["attention_mask"]) * torch.randn(inputs["input_values"].shape)
    output = model(noisy, attention_mask=inputs["attention_mask"], output_hidden_states=True)
    for i, expected in enumerate(golden):
        # Plain HubertModel has its top state before the final norm in this tuple, and after it as the last state.
        check([*(state[i] for state in output.hidden_states[:-1]), output.last_hidden_state[i]], expected)


def test_golden_states_through_onnx_runtime(model_dir, golden, tmp_path):
    from upstream.model.onnx import OnnxEncoder, export_onnx

    export_onnx(model_dir, tmp_path / "golden.onnx", all_states=True)
    encoder = OnnxEncoder(tmp_path / "golden.onnx")
    batch, lengths = (t.numpy() for t in padded())
    _, frames, states = encoder.session.run(None, {"waveform": batch, "lengths": lengths})
    for i, expected in enumerate(golden):
        assert frames[i] == expected.shape[1]
        check(list(states[:, i]), expected)
        check(list(encoder([audio()[i].numpy()]).hidden_states[:, 0]), expected)


def test_the_stored_states_are_small_and_vary(golden):
    assert GOLDEN.stat().st_size < 100_000
    for expected, frames in zip(golden, (15, 34, 2), strict=True):
        assert expected.shape == (3, frames, 16) and expected.std() > 0.1 and torch.isfinite(expected).all()


if __name__ == "__main__":
    stored = {}
    for name in FRONT_ENDS:
        for samples, clip in zip(LENGTHS, audio(), strict=True):
            with torch.no_grad():
                states = encode(network(name), [clip]).hidden_states
            stored[f"{name}.{samples}"] = torch.stack([state[0] for state in states])
    GOLDEN.parent.mkdir(exist_ok=True)
    save_file(stored, GOLDEN)
