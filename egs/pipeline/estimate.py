"""Estimate hours, memory and disk of every stage of a schedule. docs/scale.md explains the formulas.

operations of a step = seconds of audio x MACs per second x 6     (2 forward, 4 backward; 8 with checkpointing)
operations of units  = seconds of audio x MACs per second up to the layer x 2
wall time            = operations / (processes x peak x MFU)
memory of a GPU      = 16 bytes x parameters + kept activations x seconds of audio of a batch
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from corpora.audio import SAMPLE_RATE
from downstream.report.tables import Table
from egs.pipeline.recipe import Recipe
from egs.pipeline.stages import stages_of
from upstream.model.family import CONV_STRIDES, HOP, Geometry, macs_per_second, parameters

STATE_BYTES = 16  # a parameter: weight, gradient and AdamW's two moments, 32 bits each
CHECKPOINT_BYTES = 12  # a parameter in last.pt and previous.pt: weight and moments
UNIT_BYTES = 2 * SAMPLE_RATE // HOP * 3600  # an hour of labels
UNITS_CLIP = 15.0  # seconds of a typical utterance; only the cost of attention depends on it
# Bytes that autograd keeps in every frame per value of a layer's width and of its FFN, and per output of a convolution;
# `python -m bench.activations` measures them on HL, HS and HST.
LAYER_BYTES, FFN_BYTES, CONV_BYTES = 60, 16, 6.3
SHARD_BYTES = {"flac": 67.5e6, "opus": 12e6}  # an hour of read speech, as `upstream.pretrain.shards` writes it


@dataclass(frozen=True)
class Machine:
    """`ranks` GPUs; `peak`: dense bf16 operations per second of one; `mfu`: share reached; `price` of a GPU hour."""

    ranks: int = 8
    peak: float = 989e12
    mfu: float = 0.25
    price: float = 0.0

    def hours(self, operations: float) -> float:
        """Wall time."""
        return operations / (self.ranks * self.peak * self.mfu) / 3600


@dataclass(frozen=True)
class StageCost:
    """One stage: wall time in hours, hours of audio processed, memory of one GPU and disk in bytes."""

    name: str
    hours: float
    shown: float
    memory: float
    disk: float


def kept_bytes(g: Geometry) -> float:
    """Bytes of activations that the backward pass needs per second of audio in bf16, without checkpointing."""
    frames = SAMPLE_RATE / HOP
    kept = g.layers * frames * (LAYER_BYTES * g.width + FFN_BYTES * g.ffn)
    if g.front_end == "waveform":
        rate = float(SAMPLE_RATE)
        for stride in CONV_STRIDES:
            rate /= stride
            kept += CONV_BYTES * rate * g.conv_channels
    return kept


def estimate(recipe: Recipe, hours: float, machine: Machine) -> list[StageCost]:
    """Every units and training stage of a schedule on `hours` of audio, in the order in which they run.

    MFCC units, which are computed on the CPU, count as 0 hours. Stages 1 and 9 are not included.
    """
    costs = []
    for stage in stages_of(recipe):
        if stage.key in recipe.units:
            costs.append(_units(recipe, stage.key, hours, machine))
        elif stage.key in recipe.pretrain:
            costs.append(_training(recipe, stage.key, machine))
    if recipe.shards is not None:
        costs.append(
            StageCost(f"shards ({recipe.shards.codec})", 0.0, hours, 0.0, hours * SHARD_BYTES[recipe.shards.codec])
        )
    return costs


def _units(recipe: Recipe, key: str, hours: float, machine: Machine) -> StageCost:
    config = recipe.units[key]
    operations, memory = 0.0, 0.0
    if config.source in recipe.pretrain:
        g = recipe.family[recipe.pretrain[config.source].geometry]
        layer = round(2 * g.layers / 3) if config.layer is None else config.layer
        operations = 2 * hours * 3600 * macs_per_second(dataclasses.replace(g, layers=max(1, layer)), UNITS_CLIP)
        memory = 4 * parameters(g)
    return StageCost(f"units {key}", machine.hours(operations), hours, memory, hours * UNIT_BYTES)


def _training(recipe: Recipe, key: str, machine: Machine) -> StageCost:
    run = recipe.pretrain[key]
    g, train = recipe.family[run.geometry], run.train
    seconds = train.steps * train.accumulate * train.batch_seconds * machine.ranks
    passes = 8 if train.checkpointing else 6
    operations = passes * seconds * macs_per_second(g, train.crop_seconds)
    if run.regression is not None and run.regression.source in recipe.pretrain:
        teacher = recipe.family[recipe.pretrain[run.regression.source].geometry]
        operations += 2 * seconds * macs_per_second(teacher, train.crop_seconds)
    kept = kept_bytes(g) / (g.layers if train.checkpointing else 1)
    memory = STATE_BYTES * parameters(g) + kept * train.batch_seconds
    disk = (2 * CHECKPOINT_BYTES + 4 + 4) * parameters(g)  # last, previous, best, model
    return StageCost(key, machine.hours(operations), seconds / 3600, memory, disk)


def table(costs: list[StageCost], machine: Machine) -> str:
    """A Markdown table of the stages and their sum."""
    total = StageCost(
        "all", *(sum(getattr(c, name) for c in costs) for name in ("hours", "shown")), max(c.memory for c in costs),
        sum(c.disk for c in costs),
    )  # fmt: skip
    header = ["stage", "wall (h)", "GPU hours", "audio (h)", "memory of a GPU (GB)", "disk (GB)"]
    rows = [
        [
            *(c.name, f"{c.hours:.1f}", f"{c.hours * machine.ranks:.0f}", f"{c.shown:,.0f}"),
            *(f"{c.memory / 1e9:.1f}", f"{c.disk / 1e9:.1f}"),
        ]
        for c in (*costs, total)
    ]
    text = Table("", header, rows).markdown()
    if machine.price:
        text += f"\n\n{total.hours * machine.ranks * machine.price:,.0f} at {machine.price:g} a GPU hour"
    return text
