"""Long audio in windows: every frame once and in order, one window equals one pass, bounded memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upstream.model.chunked import Windowing, encode_long, measure, stream, windows
from upstream.model.encoder import build_encoder, encode, frame_count
from upstream.model.family import HOP, RECEPTIVE_FIELD, Geometry


def tiny(front_end: str = "logmel", layers: int = 2):
    torch.manual_seed(0)
    shape = dict(conv_channels=16, pos_conv_kernel=16, pos_conv_groups=4)
    if front_end == "squeezed":
        front_end, shape = "logmel", shape | {"squeeze": 2}
    return build_encoder(Geometry("tiny", layers, 32, 2, 64, front_end, **shape)).eval()


def wave(samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(0, 60000),
    block=st.integers(1, 9000),
    context=st.floats(0, 0.3),
    window=st.floats(0.7, 1.5),
    together=st.integers(1, 3),
)
def test_every_frame_is_kept_once_and_in_order(samples, block, context, window, together):
    """The value of each sample is its index, which shows where each kept frame begins."""
    windowing = Windowing(window, context, together)
    index = torch.arange(samples, dtype=torch.float64)
    begins = []
    cut = list(windows(index.split(block) if samples else [], windowing))
    for number, part in enumerate(cut):
        frames = frame_count(len(part.samples))
        last = frames if part.keep is None else part.skip + part.keep
        assert last <= frames
        begins += [part.samples[HOP * t].item() for t in range(part.skip, last)]
        assert frames <= windowing.window_frames
        assert number == 0 or part.skip == windowing.context_frames
        assert part.skip % together == 0 and (part.keep or 0) % together == 0
        if part.keep is not None:  # inner windows have their whole context on the right, too
            assert frames - last == windowing.context_frames
    assert begins == [HOP * t for t in range(frame_count(samples))]
    assert (cut[-1].keep is None) and all(part.keep is not None for part in cut[:-1])
    if samples < windowing.window_frames * HOP + RECEPTIVE_FIELD:
        assert len(cut) == 1 and len(cut[0].samples) == samples


def test_windows_without_kept_frames_are_refused():
    with pytest.raises(ValueError, match="10 s"):
        Windowing(window=10, context=5)


@pytest.mark.parametrize("front_end", ["logmel", "squeezed", "waveform"])
def test_audio_of_one_window_is_encoded_in_one_pass(front_end):
    model, wav = tiny(front_end), wave(40000)
    with torch.no_grad():
        expected = encode(model, [wav]).hidden_states
    found = encode_long(model, wav, layers=(0, 1, -1))
    for layer, state in zip((0, 1, 2), found, strict=True):
        torch.testing.assert_close(state, expected[layer][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("front_end", ["logmel", "squeezed", "waveform"])
def test_states_of_windows_are_close_to_those_of_one_pass(front_end):
    """State 0 reads no further than the positional convolution, so windows are exact; higher states are close."""
    model, wav = tiny(front_end), wave(16000 * 12)
    with torch.no_grad():
        expected = encode(model, [wav]).hidden_states
    bottom, top = encode_long(model, wav, windowing=Windowing(4.02, 1.02), layers=(0, -1))
    assert len(bottom) == len(top) == frame_count(len(wav))
    torch.testing.assert_close(bottom, expected[0][0], atol=1e-5, rtol=0)
    cosine = torch.nn.functional.cosine_similarity(top, expected[-1][0], dim=-1)
    assert cosine.min() > 0.9
    shifted = torch.nn.functional.cosine_similarity(top[1:], expected[-1][0, :-1], dim=-1)
    assert cosine.mean() > shifted.mean() + 0.1, "this test would not detect a shift by one frame"


def test_statistics_of_a_stream_are_those_of_the_whole():
    wav = 0.3 + wave(50001)
    found = measure(wav.split(777))
    assert found.mean == pytest.approx(wav.double().mean().item(), abs=1e-9)
    assert found.variance == pytest.approx(wav.double().var(unbiased=False).item(), rel=1e-9)


def test_short_and_empty_audio_has_no_frames():
    assert list(stream(tiny(), lambda: [])) == []
    assert [tuple(s.shape) for s in encode_long(tiny(), wave(399), layers=(0, 1))] == [(0, 32), (0, 32)]
    with pytest.raises(ValueError, match="0 to 2"):
        encode_long(tiny(), wave(4000), layers=(3,))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from /proc/self/status")
def test_a_quarter_of_an_hour_takes_the_memory_of_a_window():
    """Its samples alone are 58 MB; in one pass the spectra of the front end would be 185 MB."""
    program = """
import torch
from pathlib import Path
from upstream.model.chunked import stream
from upstream.model.encoder import build_encoder
from upstream.model.family import Geometry
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1000
torch.set_num_threads(1)
model = build_encoder(Geometry("tiny", 1, 16, 1, 16, "logmel", pos_conv_kernel=16, pos_conv_groups=4)).eval()
noise = torch.Generator().manual_seed(0)
def source(seconds):
    return lambda: (0.1 * torch.randn(160000, generator=noise) for _ in range(seconds // 10))
with torch.inference_mode():
    for states in stream(model, source(60)): pass
    before = peak()
    frames = sum(len(states[-1]) for states in stream(model, source(900)))
print(frames, peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    frames, grown = done.stdout.split()
    assert int(frames) == frame_count(900 * 16000)
    assert float(grown) < 30, f"peak memory grew by {grown} MB"
