"""Initialise a model: random, from the same geometry, from layers of a deeper teacher or their projection, or from
layers of Whisper.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import HubertModel

from corpora.audio import SAMPLE_RATE
from corpora.batches import random_share
from corpora.datadir import Utterance
from corpora.files import BadFileTally
from upstream.config import InitConfig
from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder
from upstream.model.family import Geometry
from upstream.model.frontend import LogMelFrontEnd
from upstream.model.modeldir import load_model
from upstream.model.states import batches_of, count_unreadable, read_all

BATCH_SECONDS = 40.0  # of padded audio in one pass of the projected teacher
STATISTICS_UTTERANCES = 400  # for the mean and deviation of the log-mel bands

log = logging.getLogger(__name__)


def initial_model(
    geometry: Geometry | None,
    utterances: Sequence[Utterance],
    init: InitConfig,
    seed: int,
    wavs: Iterable[np.ndarray] | None = None,
) -> HubertModel:
    """The model before its first step; with init `random` also the random baseline of the benchmark.

    Without a geometry it is the source as it is, also a HuBERT, wav2vec 2.0 or XLS-R of other software.
    Log-mel statistics come from a sample of the utterances, or from `wavs` if given, unless the source has them.
    """
    torch.manual_seed(seed)
    if geometry is None:
        return _continued(init.source)
    model = build_encoder(geometry)
    copied = initialise(model, init, utterances, seed=seed)
    front_end = model.feature_extractor
    if isinstance(front_end, LogMelFrontEnd) and not front_end.cmvn and "feature_extractor.mean" not in copied:
        set_log_mel_statistics(model, sample_waveforms(utterances, seed) if wavs is None else wavs)
    return model


def _continued(source: str) -> HubertModel:
    model = load_model(source)
    if not hasattr(model, "masked_spec_embed"):  # fine-tuned models may lack it, and mask nothing
        model.config.mask_time_prob = 0.05
        model.masked_spec_embed = torch.nn.Parameter(torch.empty(model.config.hidden_size).uniform_())
    return model


def sample_waveforms(utterances: Sequence[Utterance], seed: int) -> Iterator[np.ndarray]:
    """The waveforms (N,) of a random sample of utterances. Raises UpstreamError if none is readable."""
    chosen = np.random.default_rng([seed, 3]).permutation(len(utterances))[:STATISTICS_UTTERANCES]
    unreadable: dict[str, str] = {}
    for _, (wav,) in read_all([[utterances[i]] for i in chosen], unreadable):
        yield wav
    for utt_id, reason in unreadable.items():
        log.warning("utterance %s is left out: %s", utt_id, reason)
    if unreadable and len(unreadable) == len(chosen):
        utt_id, reason = next(iter(unreadable.items()))
        raise UpstreamError(f"no audio for log-mel statistics; the first is utterance {utt_id}: {reason}")


@torch.no_grad()
def set_log_mel_statistics(model: HubertModel, wavs: Iterable[np.ndarray]) -> None:
    """Set the front end's mean and deviation of each log-mel band over some training audio."""
    front_end = model.feature_extractor
    total = square = torch.zeros(front_end.mean.shape[0], dtype=torch.float64)
    frames = 0
    for wav in wavs:
        x = front_end.log_mel(torch.from_numpy(wav)[None])[0].double()
        total, square, frames = total + x.sum(0), square + x.square().sum(0), frames + len(x)
    mean = total / frames
    front_end.set_statistics(mean.float(), (square / frames - mean.square()).clamp(min=0).sqrt().float())


def layer_choice(kind: str, student: int, teacher: int) -> list[int]:
    """Teacher layers (0-based) that a student of `student` layers starts from.

    `every_nth` spreads them evenly and ends on the teacher's top layer; `first_n` takes the lowest.
    """
    if student > teacher:
        raise UpstreamError(f"a student of {student} layers cannot start from the {teacher} layers of its teacher")
    if kind == "first_n":
        return list(range(student))
    return [((i + 1) * teacher) // student - 1 for i in range(student)]


@torch.no_grad()
def initialise(
    model: HubertModel, config: InitConfig, utterances: Sequence[Utterance] = (), *, seed: int = 0
) -> list[str]:
    """Copy weights into `model` in place; returns the names of the tensors that were set (none for `random`).

    A tensor of another shape stays random. Exceptions: for kind `model` all shapes must agree, and `project` changes
    shapes; it measures the source's activations on a sample of `utterances`, or without any uses its weights alone.
    Prediction heads are never copied: their units differ between iterations.
    """
    if config.kind == "random":
        return []
    if config.kind == "foreign":
        from upstream.pretrain.foreign import copy_layers

        return copy_layers(model, config.source, config.layers)
    source = load_model(config.source)
    ours_normalised, theirs_normalised = (getattr(m.config, "cmvn", False) for m in (model, source))
    if ours_normalised != theirs_normalised:
        raise UpstreamError(
            f"{config.source} {'has' if theirs_normalised else 'lacks'} cmvn, the model that starts from it "
            f"{'has' if ours_normalised else 'lacks'} it: the same weights would read bands of another scale"
        )
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
    # A module is copied whole or not at all: a bias, or the gain of a weight norm, is useless with random weights.
    partial = {_module_of(name) for name, value in values.items() if value is None}
    left = [name for name in ours if _module_of(name) in partial]
    copied = [name for name in ours if _module_of(name) not in partial]
    for name in copied:
        ours[name].copy_(values[name])
    if config.kind == "project":
        copied = sorted({*copied, *_project(model, source, layers, config, utterances, seed)})
        left = [name for name in model.state_dict() if name not in copied]
    if config.kind == "model" and (left or len(source.encoder.layers) != len(model.encoder.layers)):
        raise UpstreamError(
            f"{config.source} has another geometry than the model that continues it; "
            f"first tensor of another shape: {left[0] if left else 'number of layers'}"
        )
    if not any(name.startswith("encoder.layers.") for name in copied):
        log.warning("init %s from %s: no Transformer layer fits, they stay random", config.kind, config.source)
    log.info("init %s from %s: %d tensors copied, %d random", config.kind, config.source, len(copied), len(left))
    return copied


def _module_of(name: str) -> str:
    """The module of a tensor, also of a parametrised one."""
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
        raise UpstreamError(
            f"{config.source} norms after its layers (as HuBERT-Base does); init `project` needs norms before them"
        )
    sample = _sample(utterances, config.minutes, seed)
    statistics = measure(source, layers, _batches(sample)) if sample else from_weights(source, layers)
    return project(model, source, layers, statistics, seed=seed)


def _sample(utterances: Sequence[Utterance], minutes: float, seed: int) -> list[Utterance]:
    """Random utterances of at most `minutes` in all, at least one; none for 0 minutes."""
    if minutes <= 0:
        return []
    rng = np.random.default_rng([seed, 4])
    return [utterances[i] for i in random_share([u.samples for u in utterances], minutes * 60 * SAMPLE_RATE, rng)]


def _batches(utterances: Sequence[Utterance]) -> Iterator[list[Tensor]]:
    unreadable: dict[str, str] = {}
    batches = tqdm(batches_of(utterances, BATCH_SECONDS), desc="teacher's activations", unit="batch", mininterval=1.0)
    for _, wavs in read_all(batches, unreadable):
        yield [torch.from_numpy(wav) for wav in wavs]
    count_unreadable(BadFileTally(len(utterances)), utterances, unreadable)
