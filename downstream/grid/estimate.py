"""Estimate time and disk space of a grid from three timed training steps per kind of cell and one timed extraction."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corpora.audio import SAMPLE_RATE
from downstream.grid.plan import POOLED, UNCACHED, Cell, Resources, Work
from downstream.probe import cache, quiet_import
from downstream.probe.cache import Info
from downstream.upstreams import BASELINES, Upstream

_STEPS = 3
_ITEMS = 256
_NOISE_S = 10.0
# Cost of a step through the upstream, in forward passes.
_WITH_GRADIENT = 3.0


@dataclass(frozen=True)
class Estimate:
    """Cost of one upstream: bytes of new features, seconds to compute them, seconds of its cells; None if unknown."""

    upstream: str
    cells: int
    disk: int | None = None
    features_s: float | None = None
    cells_s: float | None = None


def describe(work: Sequence[Work], complete: int, exp_dir: Path, device: str, jobs: int | None) -> str:
    """The plan of a grid as text, with time and disk space of each upstream; nothing is written or downloaded."""
    lines = [f"{complete} cells are complete, {sum(len(cells) for _, cells in work)} are to run"]
    if not work:
        return lines[0]
    resources = Resources.of(device, jobs)
    found = [_estimate(upstream, cells, Path(exp_dir), resources) for upstream, cells in work]
    lines.append(f"{'upstream':<18}{'cells':>7}{'features':>12}{'to extract':>12}{'to train':>12}")
    for each in found:
        values = ((each.disk, cache.size_text), (each.features_s, clock), (each.cells_s, clock))
        shown = "".join(f"{'?' if value is None else text(value):>12}" for value, text in values)
        lines.append(f"{each.upstream:<18}{each.cells:>7}{shown}")
    if unknown := [each.upstream for each in found if each.disk is None]:
        lines.append(f"not in the sums: {', '.join(unknown)}; S3PRL downloads the weights when the grid runs")
    disk = sum(each.disk or 0 for each in found)
    folder = Path(exp_dir)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    lines.append(f"disk: {cache.size_text(disk)} of features, {cache.size_text(free)} free in {folder}")
    if disk > free:
        lines.append("  too little: features that do not fit are computed at every step instead; see --cache_gb")
    seconds = sum((each.features_s or 0.0) + (each.cells_s or 0.0) for each in found)
    lines.append(
        f"time: about {clock(seconds / resources.processes)} with {resources.processes} processes of "
        f"{resources.threads} threads on {', '.join(resources.devices)}; {clock(seconds)} in one process"
    )
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """Seconds for people: 45 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _estimate(upstream: Upstream, cells: Sequence[Cell], exp_dir: Path, resources: Resources) -> Estimate:
    if upstream.path is None and upstream.entry not in BASELINES:
        return Estimate(upstream.name, len(cells))
    import torch

    with quiet_import():
        from downstream.probe.probe import UpstreamExtractor

    torch.set_num_threads(resources.threads)
    device = resources.devices[0]
    extractor = UpstreamExtractor(upstream, device)
    noise = np.random.default_rng(0).standard_normal(int(_NOISE_S * SAMPLE_RATE)).astype(np.float32)
    extractor([noise[:SAMPLE_RATE]])
    begin = time.monotonic()
    extractor([noise])
    factor = (time.monotonic() - begin) / _NOISE_S  # seconds per second of audio
    disk, features_s = 0, 0.0
    for kind, normalised in {cell.kind for cell in cells if cell.kind[0] != UNCACHED}:
        folder = cache.folder_of(exp_dir / "cache", upstream) / (f"{kind}_normalised" if normalised else kind)
        stored = {key for path in folder.glob("[!.]*/keys.json") for key in cache.read_listing(path.parent)["keys"]}
        items = {item.key: item for cell in cells if cell.kind == (kind, normalised) for item in cell.data.items}
        missing = [item for key, item in items.items() if key not in stored]
        disk += sum(cache.bytes_of(item, kind, extractor.info) for item in missing)
        features_s += factor * sum(item.samples for item in missing) / SAMPLE_RATE
    seconds: dict[tuple[str, ...], float] = {}
    for cell in cells:
        same_cost = (cell.task, cell.protocol.tag, cell.tuning.tag, cell.budget)
        if same_cost not in seconds:
            seconds[same_cost] = _cell_seconds(cell, extractor.info, device, factor)
    total = sum(seconds[cell.task, cell.protocol.tag, cell.tuning.tag, cell.budget] for cell in cells)
    return Estimate(upstream.name, len(cells), disk, features_s, total)


def _cell_seconds(cell: Cell, info: Info, device: str, factor: float) -> float:
    """Seconds of one cell: the steps of all its learning rates, and the passes over dev and test."""
    config = cell.protocol.config
    step, audio_s = step_seconds(cell, info, device)
    if cell.kind[0] == UNCACHED:
        step += audio_s * factor * (1.0 if cell.tuning.frozen else _WITH_GRADIENT)
    train = config["problem"]["train"]
    rates, share = len(config["learning_rates"]), config["search_share"]
    runs = rates if share is None or rates == 1 else 1 + share * rates
    passes = train["total_steps"] // train["eval_step"] * runs + 1
    dev_s = sum(item.samples for item in cell.data.splits["dev"]) / SAMPLE_RATE
    evaluation = passes * dev_s / max(audio_s, 1e-9) * step / _WITH_GRADIENT
    return runs * train["total_steps"] * train["gradient_accumulate"] * step + evaluation


class _RandomFeatures:
    """Random features with the shapes of an upstream; training on them takes as long as on real ones."""

    def __init__(self, info: Info, kind: str, samples: dict[str, int]):
        self.info, self.kind, self.samples = info, kind, samples
        self.random = np.random.default_rng(0)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.random.standard_normal((self.info.layers, self.info.width), np.float32)

    def packed(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        shape = (self.info.layers, self.info.frames(self.samples[key]), self.info.width)
        return self.random.standard_normal(shape, np.float32).astype(np.float16), np.ones(shape[0], np.float32)


def step_seconds(cell: Cell, info: Info, device: str) -> tuple[float, float]:
    """Seconds of a training step of the cell's head on stored features, and seconds of audio in its batch."""
    with quiet_import():
        from downstream.probe.probe import CachedDataset
        from downstream.probe.train import problem_of

    conf: dict[str, Any] = cell.protocol.config["problem"]
    problem = problem_of(cell.task)
    arguments = problem.task_arguments(problem.describe(cell.data.splits["train"]))
    items = cell.data.splits["train"][:_ITEMS]
    # A classifier reads the mean over time; with streamed frames the upstream takes most of the time.
    kind = "frames" if cell.task == "asr" else POOLED
    features = _RandomFeatures(info, kind, {item.key: item.samples for item in items})
    dataset = CachedDataset(items, problem.targets(items, arguments), features)
    model = problem.build_model(
        build_model=conf["build_model"],
        model_output_size=problem.output_size(arguments),
        build_upstream={"cached": asdict(info) | {"normalised": cell.kind[1]}},
        build_featurizer=conf["build_featurizer"],
        build_downstream=conf["build_downstream"],
    )
    task = problem.build_task(model=model, **arguments).to(device).train()
    optimizer = problem.build_optimizer(conf["build_optimizer"], list(model.parameters()))
    batches = list(problem.sampler(dataset, conf["build_batch_sampler"], "train", 0))
    chosen = [batches[number * len(batches) // (_STEPS + 1)] for number in range(_STEPS + 1)]
    begin = 0.0
    for number, rows in enumerate(chosen):
        batch = dataset.__getitems__(rows)
        if number == 1:  # the first step also allocates memory
            begin = time.monotonic()
        on_device = {key: value.to(device) if hasattr(value, "to") else value for key, value in batch.items()}
        loss, _ = task("train", **on_device)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the GPU
    seconds = (time.monotonic() - begin) / _STEPS
    return seconds, sum(items[row].samples for rows in chosen[1:] for row in rows) / SAMPLE_RATE / _STEPS
