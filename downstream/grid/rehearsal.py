"""What the steps of a grid cost here, measured on noise: the upstream itself, and heads of the same sizes.

Without S3PRL, whose import takes longer than all of the measurements: a plan is to be had at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corpora.audio import SAMPLE_RATE
from corpora.batches import length_batches
from downstream.grid.plan import POOLED, UNCACHED, Cell
from downstream.probe.cache import Info
from downstream.probe.data import Item
from downstream.upstreams import WIDTHS, Upstream

_NOISE_S = 10.0
_STEPS = 3
_ITEMS = 256
_HOP = 160


def extraction(upstream: Upstream, device: str) -> tuple[Info, float] | None:
    """Geometry of an upstream, and its seconds of work for a second of audio; None where its weights are S3PRL's to
    fetch."""
    if upstream.path is not None:
        from upstream.harness.other_encoders import expert_of

        expert = expert_of(upstream.path).to(device).eval()

        def run(wave: Tensor) -> list[Tensor]:
            return expert([wave])["hidden_states"]

        stride = expert.get_downsample_rates()
    elif upstream.entry in WIDTHS:
        from torchaudio.compliance import kaldi

        def run(wave: Tensor) -> list[Tensor]:
            frames = kaldi.fbank(wave[None], num_mel_bins=80)
            return [frames.new_empty(len(frames), WIDTHS[upstream.entry])]

        stride = _HOP
    else:
        return None
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(int(_NOISE_S * SAMPLE_RATE)).astype(np.float32))
    noise = noise.to(device)
    with torch.no_grad():
        states = run(noise[:SAMPLE_RATE])
        begin = time.monotonic()
        run(noise)[-1].cpu()  # only then a GPU is done
        factor = (time.monotonic() - begin) / _NOISE_S
    return Info(len(states), states[0].shape[-1], stride), factor


def step_seconds(cell: Cell, info: Info, device: str) -> tuple[float, float]:
    """Seconds of one training step of the head of a cell on features that are there already, measured on a few steps
    after a first one, and seconds of audio in a step."""
    conf = cell.protocol.config["problem"]
    items = cell.data.splits["train"][:_ITEMS]
    batches = _batches(items, conf["build_batch_sampler"]["train"])
    chosen = [batches[(number * len(batches)) // (_STEPS + 1)] for number in range(_STEPS + 1)]
    speech = cell.task == "asr"
    # Utterances are classified by the mean of their frames: where frames stream, the upstream is what costs time.
    pooled = cell.kind[0] == POOLED or (cell.kind[0] == UNCACHED and not speech)
    normalise = bool(conf["build_featurizer"]["normalize"]) and not cell.kind[1]
    outputs = sorted({token for item in items for token in (item.label if speech else [item.label])})
    build = _recogniser if speech else _classifier
    head = build(info, len(outputs) + speech, conf["build_downstream"]).to(device).train()
    weights = nn.Parameter(torch.zeros(info.layers, device=device))
    optimizer = torch.optim.Adam([weights, *head.parameters()])
    begin = time.monotonic()
    for number, batch in enumerate(chosen):
        frames = [1 if pooled else info.frames(item.samples) for item in batch]
        noise = torch.randn(info.layers, len(batch), max(frames), info.width).half().to(device)
        if number == 1:
            begin = time.monotonic()
        states = noise.float()
        if normalise:
            states = nn.functional.layer_norm(states, (info.width,))
        x = (torch.softmax(weights, dim=0) @ states.flatten(1)).view(states.shape[1:])
        loss = _loss(head(x), batch, outputs, frames, speech)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        weights.detach().cpu()
    seconds = (time.monotonic() - begin) / _STEPS
    return seconds, sum(item.samples for batch in chosen[1:] for item in batch) / SAMPLE_RATE / _STEPS


def _batches(items: Sequence[Item], conf: dict[str, Any]) -> list[list[Item]]:
    """Batches as the samplers of the protocols make them, within a length or of a size."""
    if "max_seconds" in conf:
        rows = length_batches([item.samples for item in items], conf["max_seconds"] * SAMPLE_RATE)
        return [[items[row] for row in batch] for batch in rows]
    size = conf["batch_size"]
    if "max_length" in conf:  # S3PRL halves batches that hold a longer utterance
        size = max(1, size // 2)
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _loss(logits: Tensor, batch: Sequence[Item], outputs: list[str], frames: list[int], speech: bool) -> Tensor:
    place = {token: number for number, token in enumerate(outputs)}
    if not speech:
        targets = torch.tensor([place[item.label] for item in batch], device=logits.device)
        return nn.functional.cross_entropy(logits.mean(1), targets)
    texts = [torch.tensor([1 + place[token] for token in item.label]) for item in batch]
    steps = torch.tensor(frames) * logits.shape[1] // max(frames)
    return nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        nn.utils.rnn.pad_sequence(texts, batch_first=True).to(logits.device),
        steps.clamp(min=1).to(logits.device),
        torch.tensor([len(text) for text in texts], device=logits.device),
        zero_infinity=True,
    )


def _classifier(info: Info, outputs: int, conf: dict[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Linear(info.width, conf["hidden_size"]), nn.Linear(conf["hidden_size"], outputs))


def _recogniser(info: Info, outputs: int, conf: dict[str, Any]) -> nn.Module:
    return _Recurrent(info, outputs, conf["total_rate"], conf["model_conf"])


class _Recurrent(nn.Module):
    """Recurrent layers between two linear ones, on `stack` frames side by side, as in S3PRL's RNNEncoder."""

    def __init__(self, info: Info, outputs: int, total_rate: int | None, conf: dict[str, Any]):
        super().__init__()
        self.stack = max(1, round((total_rate or info.stride) / info.stride))
        size = info.width * self.stack
        self.input = nn.Linear(size, conf["proj_size"]) if conf["proj_size"] > 0 else nn.Identity()
        size = conf["proj_size"] if conf["proj_size"] > 0 else size
        self.layers = nn.ModuleList()
        build: Callable[..., nn.Module] = getattr(nn, conf["module"].upper())
        for hidden in conf["hidden_size"]:
            self.layers.append(build(size, hidden, batch_first=True, bidirectional=conf["bidirectional"]))
            size = hidden * (2 if conf["bidirectional"] else 1)
        self.output = nn.Linear(size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, ceil(T / stack), outputs)."""
        x = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % self.stack))
        x = self.input(x.reshape(len(x), -1, x.shape[2] * self.stack))
        for layer in self.layers:
            x, _ = layer(x)
        return self.output(x)
