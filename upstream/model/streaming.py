"""Encode audio while it arrives, in bounded memory: the frames of one masked pass over the whole clip.

    samples   |==== chunk 0 ====|==== chunk 1 ====|==== chunk 2 ====|..
    attention                 |-- left context --|==== chunk 2 ====|

A chunk is computed as soon as its last sample has arrived. Everything that later chunks need is in a few tensors of a
fixed size, the state: keys and values of the left context, the input that the causal convolutions still read, and the
number of frames so far. Nothing is normalised by statistics of the clip: the log-mel front end has a fixed mean and
standard deviation for each band, measured on training audio, and each frame has its own layer norms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import HubertModel

from upstream.errors import UpstreamError
from upstream.model.encoder import (
    CausalStem,
    front_end_of,
    left_context_of,
    normalises_waveform,
    squeeze_of,
)
from upstream.model.family import FRAME_MS, HOP, LEFT_CONTEXT, RECEPTIVE_FIELD, chunk_frames
from upstream.model.fast import accelerate
from upstream.model.frontend import SHORT_HOP, stack_pairs
from upstream.model.rate import OURS

# The second 10 ms frame of a chunk's last frame reads so many samples of the next chunk.
OVERLAP = RECEPTIVE_FIELD + SHORT_HOP - HOP
State = dict[str, Tensor]


def check_streams(model: HubertModel, name: str = "this model") -> None:
    """Raise UpstreamError, which names the geometry and what to do, unless a model can stream."""
    config = model.config
    card = getattr(config, "harness", None) or {}
    geometry = card.get("geometry") if isinstance(card, dict) else None
    known = geometry.get("name") if isinstance(geometry, dict) else None
    shape = f"{config.num_hidden_layers} x {config.hidden_size}, {front_end_of(model)} front end"
    label = f"geometry {known} ({shape})" if known else f"geometry {shape}"
    if not left_context_of(model):
        raise UpstreamError(
            f"{name}: {label} cannot stream, since its frames attend to the whole clip; read whole recordings with it, "
            "or train a streaming geometry: the name of a log-mel geometry with `_stream`, such as hst_fast_stream "
            f"(left_context {LEFT_CONTEXT})"
        )
    if normalises_waveform(model):
        raise UpstreamError(
            f"{name}: {label} cannot stream, since `do_normalize` asks for mean and variance of the whole clip; train "
            "it without normalisation"
        )


class StreamStep(nn.Module):
    """The encoder for one chunk: samples and a state -> the chunk's top hidden states and the next state.

    It shares the unchanged weights of the model, is in eval mode, and does not follow later training. The state is a
    dictionary of tensors, whose first axis is the batch; `start` gives the first one. All items of a batch are at the
    same frame.
    """

    def __init__(self, model: HubertModel) -> None:
        super().__init__()
        fast = accelerate(model)
        self.squeeze = squeeze_of(model)
        self.left = left_context_of(model) // self.squeeze
        self.feature_extractor, self.feature_projection = fast.feature_extractor, fast.feature_projection
        # For a few frames a product is cheaper than the convolution's form in the frequency domain.
        positional = model.encoder.pos_conv_embed
        self.convolves = hasattr(positional, "conv")
        self.pos_conv_embed = _Positional(positional) if self.convolves else positional
        self.layers, self.norm = fast.encoder.layers, fast.encoder.layer_norm
        self.upsampler = fast.upsampler if self.squeeze > 1 else None
        self.eval()

    def start(self, batch: int = 1) -> State:
        """The state before the first sample of a clip."""
        weight = self.norm.weight
        attention = self.layers[0].attention
        heads = attention.heads
        size = weight.shape[0] // heads
        state: State = {"seen": torch.zeros(batch, dtype=torch.int64, device=weight.device)}
        if isinstance(self.feature_projection, CausalStem):
            state["stem_energies"], state["stem_inner"] = self.feature_projection.start(batch)
        if self.convolves:
            state["positions"] = weight.new_zeros(batch, self.pos_conv_embed.past, weight.shape[0])
        for name in ("keys", "values"):
            state[name] = weight.new_zeros(batch, len(self.layers), heads, self.left, size)
        return state

    def forward(self, waveform: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, N) samples, from the first one of the chunk's first frame to the last one of its last frame -> (B, T, D).

        T = floor((N - 400) / 320) + 1. Windows of consecutive chunks overlap by OVERLAP samples. Every chunk but the
        last one of a clip has a multiple of `squeeze` frames.
        """
        following: State = {}
        features = self.feature_extractor(waveform).transpose(1, 2).to(self.norm.weight.dtype)
        total = features.shape[1]
        if isinstance(self.feature_projection, CausalStem):
            x, *past = self.feature_projection.step(features, state["stem_energies"], state["stem_inner"])
            following["stem_energies"], following["stem_inner"] = past
            if self.squeeze > 1:
                x = self.feature_projection.squeeze(stack_pairs(x))
        else:
            x = self.feature_projection(stack_pairs(features) if self.squeeze > 1 else features)
        if self.convolves:
            joined = torch.cat([state["positions"], x], 1)
            following["positions"] = joined[:, x.shape[1] :]
            x = x + self.pos_conv_embed(joined)
        else:
            x = x + self.pos_conv_embed(x, state["seen"])
        # At the start of a clip the left context is not full yet.
        context = torch.arange(self.left, device=x.device) >= self.left - state["seen"][:, None]
        absent = ~torch.cat([context, torch.ones_like(x[:, :, 0], dtype=torch.bool)], 1)[:, None, None]
        # Added to the scores: a boolean mask would be converted in every layer.
        mask = torch.zeros_like(absent, dtype=x.dtype).masked_fill(absent, -torch.inf)
        kept: tuple[list[Tensor], list[Tensor]] = ([], [])
        for number, layer in enumerate(self.layers):
            query, *new = layer.attention.project(layer.layer_norm(x))
            key, value = (
                torch.cat([state[name][:, number], own], 2) for name, own in zip(("keys", "values"), new, strict=True)
            )
            x = x + layer.attention.mix(query, key, value, mask)
            x = x + layer.feed_forward(layer.final_layer_norm(x))
            kept[0].append(key[:, :, -self.left :])
            kept[1].append(value[:, :, -self.left :])
        following["keys"], following["values"] = (torch.stack(tensors, 1) for tensors in kept)
        following["seen"] = state["seen"] + x.shape[1]
        top = x if self.upsampler is None else self.upsampler(x)[:, :total]
        return self.norm(top), {name: following[name] for name in state}


class _Positional(nn.Module):
    """The causal positional convolution of a chunk: (B, taps - 1 + T, D), the earlier frames first -> (B, T, D)."""

    def __init__(self, positional: nn.Module) -> None:
        super().__init__()
        conv = positional.conv
        self.taps, self.groups, self.per_group = conv.kernel_size[0], conv.groups, conv.in_channels // conv.groups
        self.past = self.taps - 1
        # Its weight norm is folded: it would be computed in every chunk.
        self.weight, self.bias = conv.weight.detach(), conv.bias.detach()
        matrix = self.weight.view(self.groups, -1, self.per_group, self.taps).permute(0, 3, 2, 1)
        self.matrix = matrix.reshape(1, self.groups, self.taps * self.per_group, -1)
        self.activation = positional.activation

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():  # overlapping windows have no form in ONNX
            found = nn.functional.conv1d(x.transpose(1, 2), self.weight, self.bias, groups=self.groups)
            return self.activation(found).transpose(1, 2)
        # PyTorch's convolution takes twice the time of this product for a few frames.
        batch, frames = x.shape[0], x.shape[1] - self.past
        x = x.unflatten(2, (self.groups, self.per_group)).transpose(1, 2).contiguous()
        size = (batch, self.groups, frames, self.taps * self.per_group)
        windows = x.as_strided(size, (*x.stride()[:2], self.per_group, 1))
        found = torch.matmul(windows, self.matrix).transpose(1, 2).reshape(batch, frames, -1)
        return self.activation(found + self.bias)


class Chunks:
    """Cuts samples that arrive in pieces of any size into the windows of chunks; holds one window."""

    def __init__(self, chunk: int) -> None:
        """`chunk` in 20 ms frames."""
        self.hop = chunk * HOP
        self._window = np.zeros(self.hop + OVERLAP, np.float32)
        self._filled = 0

    def cut(self, samples: Any) -> Iterator[np.ndarray]:
        """The windows (N,) that these samples complete; read each before the next one. Raises UpstreamError for
        samples that are no 1-D array or tensor of finite floating-point numbers."""
        if isinstance(samples, Tensor):
            samples = samples.detach().cpu().numpy()
        samples = np.asarray(samples)
        if samples.ndim != 1:
            raise UpstreamError(f"a piece of audio has shape {samples.shape}; expected one dimension (samples)")
        if not np.issubdtype(samples.dtype, np.floating):
            raise UpstreamError(
                f"a piece of audio has numbers of type {samples.dtype}; expected floating-point samples in [-1, 1] "
                "(divide 16-bit samples by 32768)"
            )
        if not np.isfinite(samples).all():
            raise UpstreamError("a piece of audio holds NaN or infinite samples; leave it out or replace it by zeros")
        return self._cut(samples)

    def _cut(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        while len(samples):
            taken = min(len(samples), len(self._window) - self._filled)
            self._window[self._filled : self._filled + taken] = samples[:taken]
            self._filled, samples = self._filled + taken, samples[taken:]
            if self._filled == len(self._window):
                yield self._window
                self._window[:OVERLAP] = self._window[self.hop :].copy()
                self._filled = OVERLAP

    def rest(self) -> np.ndarray | None:
        """The window of the last, shorter chunk, or None if no frame is left; the next samples begin a new clip."""
        filled, self._filled = self._filled, 0
        return self._window[:filled] if OURS.count(filled) else None


class Stream:
    """A streaming encoder for one voice: `push` samples, get frames; `finish` gives the last ones.

    The frames together are the top hidden states of `encode(model, [wav], chunk=...)` for the whole clip, however it is
    cut: floor((n - 400) / 320) + 1 frames of n samples. State and memory do not grow. A frame is given when its chunk
    is complete, at most one chunk and 15 ms after its first sample.
    """

    def __init__(self, model: HubertModel, chunk_ms: float | None = None) -> None:
        """`chunk_ms`: 160 to 1,280 ms, a multiple of 20 ms, or of 40 ms for layers at 25 Hz (None: the chunk of the
        model's configuration). Raises UpstreamError for a model that cannot stream and for a chunk that does not fit.
        """
        check_streams(model, getattr(model, "name_or_path", "") or "this model")
        chunk_ms = model.config.chunk * FRAME_MS if chunk_ms is None else chunk_ms
        self.chunk = chunk_frames(chunk_ms, squeeze_of(model))
        self._step = StreamStep(model)
        self._chunks = Chunks(self.chunk)
        self._begin()

    def _begin(self) -> None:
        self.state = self._step.start()
        self.frames = 0

    def push(self, samples: np.ndarray | Tensor) -> Tensor:
        """(N,) samples at 16 kHz in [-1, 1], any number -> (T, D), the frames of the chunks that they complete."""
        return self._run(self._chunks.cut(samples))

    def finish(self) -> Tensor:
        """(T, D): the frames of the last chunk. The next samples begin a new clip."""
        last = self._chunks.rest()
        frames = self._run(() if last is None else (last,))
        self._begin()
        return frames

    @torch.no_grad()  # not inference mode: a head with gradients may follow
    def _run(self, windows: Iterable[np.ndarray]) -> Tensor:
        weight = self._step.norm.weight
        found = []
        for window in windows:
            top, self.state = self._step(torch.from_numpy(window).to(weight.device)[None], self.state)
            found.append(top[0])
            self.frames += top.shape[1]
        return torch.cat(found) if found else weight.new_zeros(0, weight.shape[0])
