"""Encode long audio in bounded memory: overlapping windows, joined on exact frame boundaries.

    audio    |=========================================================|
    window 1 |-----------kept------------|..context..|
    window 2                 |..context..|---------kept--------|..context..|
    window 3                                       |..context..|---kept----|

Every window starts at a frame of the whole recording (a multiple of 320 samples), so frame t is computed from the same
samples [320 t, 320 t + 400) as in one pass. Only attention differs: a frame attends to its window, at least `context`
on either side, instead of the whole recording. Models with `cmvn` also normalise their bands over the window. Audio
that fits one window is encoded in one pass, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import HubertModel

from corpora.audio import SAMPLE_RATE
from upstream.model.encoder import collate, encode, frame_count, frames_together, normalises_waveform, run_layers
from upstream.model.family import HOP, RECEPTIVE_FIELD
from upstream.model.rate import check_frames, frames_of

Source = Callable[[], Iterable[Tensor]]


@dataclass(frozen=True)
class Windowing:
    """Sizes of the windows in seconds: windows of `window`; the frames within `context` of an inner edge are discarded.

    `frames` is the number of 20 ms frames that must stay together (2 if a head reads pairs of frames).
    """

    window: float = 30.0
    context: float = 5.0
    frames: int = 1

    def __post_init__(self) -> None:
        if self.context < 0 or self.window <= 0 or self.frames < 1:
            raise ValueError(f"windowing: window={self.window} s, context={self.context} s, frames={self.frames}")
        if self.kept_frames < self.frames:
            raise ValueError(
                f"windowing: a window of {self.window:g} s is too short for two contexts of {self.context:g} s; "
                "make it longer"
            )

    @property
    def context_frames(self) -> int:
        """Frames of context, a multiple of `frames`, rounded up."""
        return -(-round(self.context * SAMPLE_RATE) // (HOP * self.frames)) * self.frames

    @property
    def window_frames(self) -> int:
        """Frames of a whole window, a multiple of `frames`, rounded down."""
        return round(self.window * SAMPLE_RATE) // (HOP * self.frames) * self.frames

    @property
    def kept_frames(self) -> int:
        """Frames that an inner window contributes."""
        return self.window_frames - 2 * self.context_frames


@dataclass(frozen=True)
class Window:
    """Samples (n,) of one window. Of its frames, `keep` are kept from frame `skip` on; None: all to the end."""

    samples: Tensor
    skip: int
    keep: int | None


def windows(blocks: Iterable[Tensor], windowing: Windowing) -> Iterator[Window]:
    """Cut a stream of 16 kHz samples, in 1-D blocks of any size, into windows; holds little more than one window."""
    size = (windowing.window_frames - 1) * HOP + RECEPTIVE_FIELD
    context = windowing.context_frames
    buffer: list[Tensor] = []
    have = skip = 0
    for block in blocks:
        if block.dim() != 1:
            raise ValueError(f"a block of audio has shape {tuple(block.shape)}; expected one dimension (samples)")
        buffer.append(block)
        have += len(block)
        # With one more frame in the buffer this is an inner window; only the last window keeps its end.
        while have >= size + HOP:
            joined = torch.cat(buffer)
            keep = windowing.window_frames - context - skip
            yield Window(joined[:size], skip, keep)
            step = (skip + keep - context) * HOP
            buffer, have = [joined[step:]], have - step
            skip = context
    yield Window(torch.cat(buffer) if buffer else torch.zeros(0), skip, None)


@dataclass(frozen=True)
class Statistics:
    """Mean and variance of all samples of a recording, for models that normalise the waveform."""

    mean: float
    variance: float

    def normalise(self, wav: Tensor) -> Tensor:
        """As `encoder.normalise_waveform`, with the statistics of the whole recording."""
        return (wav - self.mean) / (self.variance + 1e-7) ** 0.5


def measure(blocks: Iterable[Tensor]) -> Statistics:
    """Statistics of a stream, in 64 bits; variance over n, as in Transformers."""
    count, mean, squares = 0, 0.0, 0.0
    for block in blocks:
        if not len(block):
            continue
        x = block.double()
        own = x.mean().item()
        # Merged as in Chan, Golub and LeVeque (1983), which avoids the difference of two large sums.
        total = count + len(x)
        squares += (x - own).square().sum().item() + (own - mean) ** 2 * count * len(x) / total
        mean += (own - mean) * len(x) / total
        count = total
    return Statistics(mean, squares / count if count else 0.0)


def stream(
    model: HubertModel, source: Source, *, windowing: Windowing | None = None, top_layer: int | None = None
) -> Iterator[list[Tensor]]:
    """Hidden states 0..top_layer of long audio in pieces, each a list of (T, D), in order and without overlap.

    Every call of `source` gives the whole audio as blocks of 16 kHz samples (1-D); a model that normalises waveforms
    reads it twice. The pieces together have floor((n - 400) / 320) + 1 frames. A front end with a group norm
    (HuBERT-Base) normalises each window by itself.
    """
    check_frames(getattr(model, "name_or_path", "") or "model", frames_of(model.config))
    windowing = windowing or Windowing()
    # A window must start at a frame of the layers, in a streaming model at a chunk.
    windowing = replace(windowing, frames=math.lcm(windowing.frames, frames_together(model)))
    statistics = measure(source()) if normalises_waveform(model) else None
    device = next(model.parameters()).device
    for window in windows(source(), windowing):
        frames = frame_count(len(window.samples))
        last = frames if window.keep is None else window.skip + window.keep
        if last <= window.skip:
            return
        samples = window.samples.to(device, torch.float32)
        if statistics is None:
            padded, _ = collate(model, [samples])
        else:
            padded = statistics.normalise(samples)[None]
        states, _ = run_layers(model, padded, top_layer=top_layer)
        yield [state[0, window.skip : last] for state in states]


def encode_long(
    model: HubertModel,
    wav: Tensor,
    *,
    windowing: Windowing | None = None,
    layers: Sequence[int] = (-1,),
) -> list[Tensor]:
    """The chosen hidden states of one long 1-D waveform, each (T, D), on the CPU.

    Equal to `encode` if the audio fits one window. For longer audio the computation needs the memory of one window,
    and the result 4 D bytes for each frame and layer (one HST state of an hour: 369 MB).
    """
    depth = model.config.num_hidden_layers
    chosen = [layer + depth + 1 if layer < 0 else layer for layer in layers]
    if not chosen or min(chosen) < 0 or max(chosen) > depth:
        raise ValueError(f"layers {list(layers)}: the model has hidden states 0 to {depth}")
    pieces: list[list[Tensor]] = [[] for _ in chosen]
    with torch.no_grad():
        for states in stream(model, lambda: wav.split(SAMPLE_RATE * 10), windowing=windowing, top_layer=max(chosen)):
            for kept, layer in zip(pieces, chosen, strict=True):
                kept.append(states[layer].cpu())
    if not pieces[0]:
        empty = encode(model, [wav], top_layer=0).hidden_states[0]
        return [empty.new_zeros(0, empty.shape[-1]) for _ in chosen]
    return [torch.cat(kept) for kept in pieces]
