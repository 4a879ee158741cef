"""Where a model's weights start: from scratch, from a model of the same shape, or from a deeper teacher's layers."""

from __future__ import annotations

import logging

import torch
from transformers import HubertModel

from upstream.config import InitConfig
from upstream.modeldir import load_model

log = logging.getLogger(__name__)


class InitError(ValueError):
    """A model cannot start from the source that was named."""


def layer_choice(kind: str, student: int, teacher: int) -> list[int]:
    """Which teacher layers (0-based) a student of `student` layers starts from.

    `every_nth` spreads them evenly and ends on the teacher's top layer; `first_n` takes the lowest.
    """
    if student > teacher:
        raise InitError(f"a student of {student} layers cannot start from the {teacher} layers of its teacher")
    if kind == "first_n":
        return list(range(student))
    return [((i + 1) * teacher) // student - 1 for i in range(student)]


@torch.no_grad()
def initialise(model: HubertModel, config: InitConfig) -> list[str]:
    """Copy weights into `model` in place; returns the names of what was copied, empty for `random`.

    Everything whose shape differs stays random, except for kind `model`, where all of it must fit.
    Prediction heads are never copied: their units differ from one iteration to the next.
    """
    if config.kind == "random":
        return []
    source = load_model(config.source)
    theirs = source.state_dict()
    if config.kind == "model":
        layers = list(range(len(source.encoder.layers)))
    else:
        layers = layer_choice(config.kind, len(model.encoder.layers), len(source.encoder.layers))
    origin = {f"encoder.layers.{i}.": f"encoder.layers.{layer}." for i, layer in enumerate(layers)}
    copied, left = [], []
    for name, tensor in model.state_dict().items():
        prefix = ".".join(name.split(".")[:3]) + "."
        name_there = origin.get(prefix, prefix) + name.removeprefix(prefix) if prefix in origin else name
        value = theirs.get(name_there)
        if value is not None and value.shape == tensor.shape:
            tensor.copy_(value)
            copied.append(name)
        else:
            left.append(name)
    if config.kind == "model" and (left or len(source.encoder.layers) != len(model.encoder.layers)):
        raise InitError(
            f"{config.source} has another geometry than the model that should continue it; "
            f"first tensor that does not fit: {left[0] if left else 'number of layers'}"
        )
    if not any(name.startswith("encoder.layers.") for name in copied):
        log.warning("init %s from %s: no Transformer layer fits, they stay random", config.kind, config.source)
    log.info("init %s from %s: %d tensors copied, %d random", config.kind, config.source, len(copied), len(left))
    return copied
