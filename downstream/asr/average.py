"""The mean of a fine-tuned recogniser and of its start: `python -m downstream.asr average`.

A fine-tuned recogniser forgets voices and channels that its training speech lacks. The mean of both weights keeps much
of what each knows (Wortsman et al., 2022, "Robust fine-tuning of zero-shot models").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from downstream import DownstreamError
from downstream.asr.recogniser import Recogniser, load_head, save_recogniser
from upstream.model.encoder import squeeze_of, squeezed
from upstream.model.modeldir import load_model, model_sha256


@dataclass(frozen=True)
class Shares:
    """The share of the fine-tuned weights: `all`, and `lowest` in the lowest `layers` layers.

    Raises DownstreamError for a share outside of 0 to 1.
    """

    all: float
    layers: int = 0
    lowest: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("share", self.all), ("lower share", self.lowest)):
            if not 0 <= value <= 1:
                raise DownstreamError(f"{name} {value:g}: give 0 (the start) to 1 (the fine-tuned weights)")

    def of(self, tensor: str) -> float:
        """The share of a tensor of the recogniser, by its name."""
        layer = re.search(r"\blayers\.(\d+)\.", tensor)
        return self.lowest if layer and int(layer[1]) < self.layers else self.all


@torch.inference_mode()
def mean(trained: Recogniser, start: Recogniser, shares: Shares) -> dict[str, Tensor]:
    """The state of the mean. Raises DownstreamError for recognisers of other shapes or characters."""
    new, old = trained.state_dict(), start.state_dict()
    shapes = ({name: tuple(value.shape) for name, value in state.items()} for state in (new, old))
    if trained.characters != start.characters or next(shapes) != next(shapes):
        raise DownstreamError("the recognisers have other characters or other shapes, so their weights have no mean")
    return {
        name: torch.lerp(old[name], value, shares.of(name)) if value.is_floating_point() else value.clone()
        for name, value in new.items()
    }


def average(model: Path, head: Path, start_model: Path, start_head: Path, out: Path, shares: Shares) -> None:
    """Write OUT/model and OUT/head. A start with layers at 50 Hz is squeezed if the fine-tuned encoder is."""
    trained = load_head(load_model(model), head)
    encoder = load_model(start_model)
    if squeeze_of(trained.encoder) > squeeze_of(encoder):
        encoder = squeezed(encoder)
    start = load_head(encoder, start_head)
    trained.load_state_dict(mean(trained, start, shares))
    text = f"mean with its start, {shares.all:g} of it"
    if shares.layers:
        text += f" ({shares.lowest:g} in the lowest {shares.layers} layers)"
    origin = {"init": {"kind": text, "source_sha256": model_sha256(model)}, "fine_tuned": "ctc"}
    save_recogniser(trained, out / "model", out / "head", out.name, model, origin)
