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
from downstream.asr.recogniser import Recogniser, check_weights, load_head, save_recogniser
from upstream.model.card import lineage
from upstream.model.encoder import squeeze_of, squeezed
from upstream.model.modeldir import load_model, model_sha256


@dataclass(frozen=True)
class Shares:
    """The share of the fine-tuned weights: `share`, and `lower_share` in the lowest `lower` layers.

    Raises DownstreamError for a share outside of 0 to 1, and for a negative number of layers.
    """

    share: float = 0.5
    lower: int = 0
    lower_share: float = 0.5

    def __post_init__(self) -> None:
        for name, value in (("--share", self.share), ("--lower-share", self.lower_share)):
            if not 0 <= value <= 1:
                raise DownstreamError(f"{name} {value:g}: give 0 (the start) to 1 (the fine-tuned weights)")
        if self.lower < 0:
            raise DownstreamError(f"--lower {self.lower}: give a number of layers, 0 or more")

    def of(self, tensor: str) -> float:
        """The share of a tensor of the recogniser, by its name."""
        layer = re.search(r"\blayers\.(\d+)\.", tensor)
        return self.lower_share if layer and int(layer[1]) < self.lower else self.share


@torch.inference_mode()
def mean(trained: Recogniser, start: Recogniser, shares: Shares) -> dict[str, Tensor]:
    """The state of the mean. Raises DownstreamError for recognisers of other shapes or characters."""
    if trained.characters != start.characters:
        raise DownstreamError("the two heads write other characters, so their weights have no mean")
    if len({getattr(own.encoder.config, "cmvn", False) for own in (trained, start)}) > 1:
        raise DownstreamError("only one of the two encoders has cmvn, so their weights have no mean")
    new, old = trained.state_dict(), start.state_dict()
    for name in sorted(new.keys() | old.keys()):
        sizes = [tuple(state[name].shape) if name in state else None for state in (new, old)]
        if sizes[0] != sizes[1]:
            raise DownstreamError(
                f"`{name}` is {sizes[0]} in the one, {sizes[1]} in the other; the weights have no mean"
            )
    return {
        name: torch.lerp(old[name], value, shares.of(name)) if value.is_floating_point() else value.clone()
        for name, value in new.items()
    }


def average(model: Path, head: Path, start_model: Path, start_head: Path, out: Path, shares: Shares) -> None:
    """Write OUT/model and OUT/head. A start with layers at 50 Hz is squeezed if the fine-tuned encoder is.

    Raises DownstreamError for a head of other weights than its model's, and for recognisers without a mean.
    """
    folders = {path.resolve() for path in (model, head, start_model, start_head)}
    if folders & {(out / part).resolve() for part in ("model", "head")}:
        raise DownstreamError(f"--out {out}: the mean would replace one of the recognisers that it is made from")
    keys = {folder: model_sha256(folder) for folder in (model, start_model)}
    check_weights(head, keys[model], model, "--model")
    check_weights(start_head, keys[start_model], start_model, "--start-model")
    trained, encoder = load_head(load_model(model), head), load_model(start_model)
    if shares.lower > trained.encoder.config.num_hidden_layers:
        raise DownstreamError(f"--lower {shares.lower}: {model} has {trained.encoder.config.num_hidden_layers} layers")
    if squeeze_of(trained.encoder) > squeeze_of(encoder):
        encoder = squeezed(encoder)
    trained.load_state_dict(mean(trained, load_head(encoder, start_head), shares))
    text = f"mean: {shares.share:g} of this one, {1 - shares.share:g} of its start {keys[start_model][:12]}"
    if shares.lower:
        text += f"; lowest {shares.lower} layers {shares.lower_share:g} and {1 - shares.lower_share:g}"
    facts = {"init": {"kind": text, "source_sha256": keys[model]}, "fine_tuned": "ctc"}
    facts["lineage"] = lineage([], str(model), str(start_model))
    save_recogniser(trained, out / "model", out / "head", out.name, model, facts)
