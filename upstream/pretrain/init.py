"""Where a model's weights start: from scratch, from a model of the same shape, from a deeper teacher's layers as they
are, from their projection to a smaller width, or from the layers of a published encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import HubertModel

from corpora.audio import SAMPLE_RATE
from corpora.batches import length_batches, random_share
from corpora.datadir import Utterance
from corpora.source_audio import read_utterance
from upstream.config import InitConfig
from upstream.model.modeldir import load_model

BATCH_SECONDS = 40.0  # of padded audio in one pass of the teacher that is projected

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
def initialise(
    model: HubertModel, config: InitConfig, utterances: Sequence[Utterance] = (), *, seed: int = 0
) -> list[str]:
    """Copy weights into `model` in place; returns the names of what was set, empty for `random`.

    Everything whose shape differs stays random, except for kind `model`, where all of it must fit, and `project`,
    which changes shapes; that one looks at the source's activations on a sample of `utterances`, and at its weights
    alone where there are none. Prediction heads are never copied: their units differ from one iteration to the next.
    """
    if config.kind == "random":
        return []
    if config.kind == "foreign":
        from upstream.pretrain.foreign import copy_layers

        return copy_layers(model, config.source, config.layers)
    source = load_model(config.source)
    theirs = source.state_dict()
    if config.kind == "model":
        layers = list(range(len(source.encoder.layers)))
    else:
        choice = config.layers if config.kind == "project" else config.kind
        layers = layer_choice(choice, len(model.encoder.layers), len(source.encoder.layers))
    origin = {f"encoder.layers.{i}.": f"encoder.layers.{layer}." for i, layer in enumerate(layers)}
    ours = model.state_dict()
    values: dict[str, Tensor | None] = {}
    for name, tensor in ours.items():
        prefix = ".".join(name.split(".")[:3]) + "."
        name_there = origin.get(prefix, prefix) + name.removeprefix(prefix) if prefix in origin else name
        value = theirs.get(name_there)
        values[name] = value if value is not None and value.shape == tensor.shape else None
    # A module is copied whole or not at all: a bias, or the gain of a weight norm, means nothing beside random weights.
    partial = {_module_of(name) for name, value in values.items() if value is None}
    left = [name for name in ours if _module_of(name) in partial]
    copied = [name for name in ours if _module_of(name) not in partial]
    for name in copied:
        ours[name].copy_(values[name])
    if config.kind == "project":
        copied = sorted({*copied, *_project(model, source, layers, config, utterances, seed)})
        left = [name for name in model.state_dict() if name not in copied]
    if config.kind == "model" and (left or len(source.encoder.layers) != len(model.encoder.layers)):
        raise InitError(
            f"{config.source} has another geometry than the model that should continue it; "
            f"first tensor that does not fit: {left[0] if left else 'number of layers'}"
        )
    if not any(name.startswith("encoder.layers.") for name in copied):
        log.warning("init %s from %s: no Transformer layer fits, they stay random", config.kind, config.source)
    log.info("init %s from %s: %d tensors copied, %d random", config.kind, config.source, len(copied), len(left))
    return copied


def _module_of(name: str) -> str:
    """The module that holds a tensor, whatever parametrises it."""
    return name.partition(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0] or name


def _project(
    model: HubertModel,
    source: HubertModel,
    layers: Sequence[int],
    config: InitConfig,
    utterances: Sequence[Utterance],
    seed: int,
) -> list[str]:
    from upstream.pretrain.projection import from_weights, measure, project

    if not source.config.do_stable_layer_norm:
        raise InitError(
            f"{config.source} norms after its layers (as HuBERT-Base does); init `project` needs norms before them"
        )
    sample = _sample(utterances, config.minutes, seed)
    statistics = measure(source, layers, _batches(sample)) if sample else from_weights(source, layers)
    return project(model, source, layers, statistics, seed=seed)


def _sample(utterances: Sequence[Utterance], minutes: float, seed: int) -> list[Utterance]:
    """Random utterances of at most so many minutes in all, at least one; none for 0 minutes."""
    if minutes <= 0:
        return []
    rng = np.random.default_rng([seed, 4])
    return [utterances[i] for i in random_share([u.samples for u in utterances], minutes * 60 * SAMPLE_RATE, rng)]


def _batches(utterances: Sequence[Utterance]) -> Iterator[list[Tensor]]:
    rows = length_batches([u.samples for u in utterances], BATCH_SECONDS * SAMPLE_RATE)
    for row in tqdm(rows, desc="teacher's activations", unit="batch", mininterval=1.0):
        batch = [utterances[i] for i in row]
        yield [torch.from_numpy(read_utterance(u)) for u in batch]
