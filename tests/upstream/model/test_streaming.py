"""Streaming equals one masked pass for any cut; state and memory do not grow; what cannot stream says why."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import upstream
from upstream.__main__ import main
from upstream.errors import UpstreamError
from upstream.model import encoder
from upstream.model.chunked import Windowing, stream
from upstream.model.encoder import build_encoder, encode, frame_count, run_layers
from upstream.model.family import geometry
from upstream.model.modeldir import load_model, save_model
from upstream.model.streaming import OVERLAP, Stream, StreamStep, check_streams

SHAPES = {
    "logmel": geometry("mini_hst", left_context=16),
    "squeezed": geometry("mini_hst", left_context=16, squeeze=2),
    "whisper's stem": geometry("mini_hst", left_context=16, stem="convolution", positions="sinusoid"),
    "squeezed stem": geometry("mini_hst", left_context=16, stem="convolution", positions="sinusoid", squeeze=2),
    "stem and convolution": geometry("mini_hst", left_context=20, stem="convolution", pos_conv_kernel=5),
    "sinusoids": geometry("mini_hst", left_context=100, positions="sinusoid", squeeze=2),
}
TOLERANCE = 1e-4


def random_model(name):
    torch.manual_seed(3)
    model = build_encoder(SHAPES[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # small initial weights would hide what attention reads
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", params=list(SHAPES))
def model(request):
    return random_model(request.param)


def wave(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(samples, generator=generator) * torch.linspace(0.2, 2, samples)


def streamed(model, wav, pieces, chunk_ms=None):
    """All frames of a clip that arrives in these pieces."""
    live = Stream(model, chunk_ms)
    found = [live.push(piece) for piece in wav.split(pieces)]
    return torch.cat([*found, live.finish()])


@torch.no_grad()
def whole(model, wav, chunk_ms):
    """The top state of one masked pass."""
    top = encode(model, [wav], chunk=chunk_ms // 20).hidden_states[-1][0]
    return top[: frame_count(len(wav))]


@pytest.mark.parametrize("chunk_ms", [160, 520, 1280])
@pytest.mark.parametrize("samples", [0, 399, 400, 2799, 2800, 33333])
@pytest.mark.slow
def test_frames_are_those_of_one_masked_pass(model, chunk_ms, samples):
    wav = wave(samples)
    expected = whole(model, wav, chunk_ms)
    rng = np.random.default_rng(samples)
    cuts = np.diff([0, *sorted(rng.integers(0, samples + 1, 12)), samples]).tolist()
    for pieces in ([samples], cuts, 320):
        found = streamed(model, wav, pieces, chunk_ms)
        assert found.shape == (frame_count(samples), 64)
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def test_one_sample_at_a_time(model):
    wav = wave(9000)
    expected = whole(model, wav, 160)
    torch.testing.assert_close(streamed(model, wav, 1, 160), expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_a_dropped_left_context_and_a_shift_by_one_frame_are_far_from_the_tolerance(model, monkeypatch):
    """Else the tests above could not see them."""
    wav = wave(20000)
    expected = whole(model, wav, 160)
    assert (expected[1:] - expected[:-1]).abs().amax(-1).median() > 1e-2
    real = encoder._chunk_mask
    monkeypatch.setattr(encoder, "_chunk_mask", lambda frames, chunk, left: real(frames, chunk, 0))
    assert (whole(model, wav, 160)[8:] - expected[8:]).abs().amax(-1).median() > 1e-2


def test_the_state_stays_as_it_is(model):
    live = Stream(model, 160)
    first = {name: (value.shape, value.dtype) for name, value in live.state.items()}
    live.push(wave(16000 * 20))
    assert {name: (value.shape, value.dtype) for name, value in live.state.items()} == first
    assert live.state["seen"].item() * encoder.squeeze_of(model) == live.frames == 20 * 50 - 8
    assert live._chunks._window.nbytes == 4 * (8 * 320 + OVERLAP)
    kept = [value.untyped_storage().nbytes() for value in live.state.values()]  # a view keeps its whole tensor
    live.push(wave(16000 * 5))
    assert [value.untyped_storage().nbytes() for value in live.state.values()] == kept


def test_a_stream_begins_anew_after_its_end(model):
    live = Stream(model)
    first = torch.cat([live.push(wave(9000)), live.finish()])
    assert live.finish().shape == (0, 64) and live.frames == 0
    second = torch.cat([live.push(wave(9000).numpy()), live.finish()])
    assert torch.equal(first, second)


def test_frames_come_as_soon_as_their_chunk_is_complete(model):
    live = Stream(model, 320)
    assert len(live.push(wave(16 * 320 + OVERLAP - 1))) == 0 and OVERLAP == 240
    assert len(live.push(wave(1))) == 16
    assert len(live.push(wave(16 * 320 - 1))) == 0 and len(live.push(wave(1))) == 16


@torch.no_grad()
def test_later_samples_change_no_earlier_chunk_and_early_ones_no_far_frame(model):
    wav = wave(40000)
    expected = whole(model, wav, 160)
    later, early = wav.clone(), wav.clone()
    later[24 * 320 + OVERLAP :] = 0
    early[:1600] = 0
    assert torch.equal(whole(model, later, 160)[:24], expected[:24])
    assert (whole(model, later, 160)[24:32] - expected[24:32]).abs().max() > 1e-2
    config = model.config  # two layers, each with its left context and chunk, and the positional convolution
    taps = config.num_conv_pos_embeddings * encoder.squeeze_of(model)
    reach = 5 + taps + 2 * (config.left_context + 8) + 8
    if reach < len(expected):
        torch.testing.assert_close(whole(model, early, 160)[reach:], expected[reach:], atol=1e-5, rtol=0)
    assert (whole(model, early, 160)[:8] - expected[:8]).abs().max() > 1e-2


@torch.no_grad()
def test_chunks_give_different_frames_and_the_configuration_names_the_usual_one(model):
    wav = wave(20000)
    assert model.config.chunk == 16
    assert torch.equal(encode(model, [wav]).hidden_states[-1], encode(model, [wav], chunk=16).hidden_states[-1])
    assert (whole(model, wav, 320) - whole(model, wav, 1280)).abs().max() > 1e-2
    torch.testing.assert_close(streamed(model, wav, 4000), whole(model, wav, 320), atol=TOLERANCE, rtol=0)


def test_training_draws_a_chunk_for_each_pass(model, monkeypatch):
    drawn = []
    real = encoder._chunk_mask
    squeeze = encoder.squeeze_of(model)
    monkeypatch.setattr(
        encoder, "_chunk_mask", lambda frames, chunk, left: drawn.append(chunk * squeeze) or real(frames, chunk, left)
    )
    model.train()
    try:
        with torch.no_grad():
            for seed in range(120):
                run_layers(model, wave(800)[None], top_layer=0, chance=torch.Generator().manual_seed(seed))
            again = [run_layers(model, wave(800)[None], top_layer=0, chance=torch.Generator().manual_seed(5))]
            run_layers(model, wave(800)[None], top_layer=0, chunk=40)
    finally:
        model.eval()
    assert len(again) == 1 and drawn[120] == drawn[5] and drawn[121] == 40
    chunks = np.array(drawn[:120])
    assert chunks.min() >= 8 and chunks.max() <= 64 and not (chunks % squeeze).any()
    assert len(set(drawn)) > 12 and (chunks <= 16).mean() > 0.2 and (chunks >= 32).mean() > 0.2


@torch.no_grad()
def test_windows_of_long_audio_begin_at_chunks(model):
    wav = wave(16000 * 8)
    windowing = Windowing(3.0, 0.7)
    pieces = [states[-1] for states in stream(model, lambda: wav.split(5000), windowing=windowing)]
    joined, expected = torch.cat(pieces), encode(model, [wav]).hidden_states[-1][0]
    assert joined.shape == expected.shape
    first = len(pieces[0])
    torch.testing.assert_close(joined[:first], expected[:first], atol=1e-4, rtol=0)
    assert first % 16 == 0 and len(pieces[1]) % 16 == 0


def test_the_public_name_takes_a_loaded_directory_and_info_says_that_it_streams(tmp_path, capsys):
    path = save_model(random_model("squeezed"), tmp_path / "m", {"geometry": SHAPES["squeezed"].facts()})
    config = json.loads((path / "config.json").read_text())
    assert (config["left_context"], config["chunk"], config["do_normalize"]) == (16, 16, False)
    assert main(["info", str(path)]) == 0 and "streams with 0.32 s of left context" in capsys.readouterr().out
    live = upstream.streaming.Stream(load_model(path), chunk_ms=640)
    wav = wave(15000)
    found = torch.cat([live.push(wav), live.finish()])
    torch.testing.assert_close(found, whole(random_model("squeezed"), wav, 640), atol=TOLERANCE, rtol=0)


def test_a_batch_of_streams_in_step(model):
    step = StreamStep(model)
    wavs = torch.stack([wave(8 * 320 * 3 + OVERLAP, seed) for seed in range(3)])
    state = step.start(3)
    tops = []
    with torch.no_grad():
        for chunk in range(3):
            top, state = step(wavs[:, chunk * 2560 : (chunk + 1) * 2560 + OVERLAP], state)
            tops.append(top)
    for row, wav in enumerate(wavs):
        torch.testing.assert_close(torch.cat(tops, 1)[row], whole(model, wav, 160)[:24], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("chunk_ms", [0, 100, 159, 170, 1300, 5000, -320, float("nan")])
def test_a_chunk_that_does_not_fit_is_refused(model, chunk_ms):
    with pytest.raises(UpstreamError, match="multiple of .* from 160 to 1280 ms"):
        Stream(model, chunk_ms)


def test_a_chunk_between_the_frames_of_squeezed_layers_is_refused():
    Stream(random_model("logmel"), 180)
    with pytest.raises(UpstreamError, match="multiple of 40 ms"):
        Stream(random_model("squeezed"), 180)


@pytest.mark.parametrize(
    "name, changes", [("mini_hst", {}), ("mini_hst", {"front_end": "waveform", "conv_channels": 16})]
)
def test_a_geometry_that_cannot_stream_is_named_with_what_to_do(name, changes):
    own = build_encoder(geometry(name, **changes))
    own.config.harness = {"geometry": {"name": "mini_hst"}}
    with pytest.raises(UpstreamError, match=r"geometry mini_hst \(2 x 64, .*cannot stream.*_stream"):
        Stream(own)
    del own.config.harness
    with pytest.raises(UpstreamError, match=r"my model: geometry 2 x 64, .*cannot stream"):
        check_streams(own, "my model")
    with pytest.raises(UpstreamError, match="whole clip"):
        run_layers(own, wave(8000)[None], chunk=16)


def test_a_model_that_normalises_the_whole_clip_cannot_stream():
    own = random_model("logmel")
    own.config.do_normalize = True
    with pytest.raises(UpstreamError, match="do_normalize"):
        Stream(own)


@pytest.mark.parametrize(
    "samples, message",
    [
        (np.zeros((2, 100), np.float32), "one dimension"),
        (np.zeros(100, np.int16), "divide 16-bit"),
        (np.array([0.0, np.nan]), "NaN"),
        (torch.tensor([0.0, float("inf")]), "infinite"),
    ],
)
def test_samples_that_would_spoil_the_state_are_refused(samples, message):
    live = Stream(random_model("logmel"))
    with pytest.raises(UpstreamError, match=message):
        live.push(samples)
    torch.testing.assert_close(
        torch.cat([live.push(wave(8000)), live.finish()]),
        whole(random_model("logmel"), wave(8000), 320),
        atol=1e-4,
        rtol=0,
    )
