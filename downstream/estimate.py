"""The plan of a grid before it runs: cells, disk and time, from measurements of a few seconds on this machine."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from corpora.audio import SAMPLE_RATE
from corpora.files import read_json
from downstream import cache, results
from downstream.cache import Info
from downstream.data import Item
from downstream.plan import POOLED, UNCACHED, Cell
from downstream.pool import Machine, Work
from downstream.upstreams import Upstream
from downstream.workers import quiet

_NOISE_S = 10.0
_STEPS = 3
_ITEMS = 256
# Gradients through the upstream cost about two forward passes more.
_BACKWARD = 3.0


@dataclass(frozen=True)
class Estimate:
    """What one upstream will take: bytes of features to be stored, seconds to make them, seconds of its cells."""

    upstream: str
    cells: int
    disk: int
    features_s: float
    cells_s: float


class Noise:
    """Features of no utterance in particular, in the shapes of `downstream.cache.Features`."""

    def __init__(self, info: Info, kind: str, normalised: bool, items: Sequence[Item]):
        self.info, self.kind, self.normalised = info, kind, normalised
        self.frames = {item.key: info.frames(item.samples) for item in items}
        self.generator = np.random.default_rng(0)

    def usable(self, items: Sequence[Item]) -> list[Item]:
        return list(items)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.generator.standard_normal((self.info.layers, self.info.width), np.float32)

    def packed(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        shape = (self.info.layers, self.frames[key], self.info.width)
        scale = np.ones(self.info.layers, np.float32)
        return self.generator.standard_normal(shape, np.float32).astype(np.float16), scale


def describe(work: Sequence[Work], complete: int, exp_dir: Path, machine: Machine) -> str:
    """The plan as text; measures each upstream on noise and each kind of head on a few steps."""
    lines = [f"{complete} cells are complete, {sum(len(cells) for _, cells in work)} are to run"]
    found = [_estimate(upstream, cells, Path(exp_dir), machine) for upstream, cells in work]
    if not found:
        return lines[0]
    lines.append(f"{'upstream':<18}{'cells':>7}{'features':>12}{'to extract':>12}{'to train':>12}")
    for each in found:
        lines.append(
            f"{each.upstream:<18}{each.cells:>7}{cache.size_text(each.disk):>12}{clock(each.features_s):>12}"
            f"{clock(each.cells_s):>12}"
        )
    disk = sum(each.disk for each in found)
    folder = Path(exp_dir)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    lines.append(f"disk: {cache.size_text(disk)} of features, {cache.size_text(free)} free in {folder}")
    if disk > free:
        lines.append("  too little: features that find no place are computed at every step instead; see --cache_gb")
    seconds = sum(each.features_s + each.cells_s for each in found)
    lines.append(
        f"time: about {clock(seconds / machine.processes)} with {machine.processes} processes of {machine.threads} "
        f"threads on {', '.join(machine.devices)}; most of it in one process: {clock(seconds)}"
    )
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """Seconds for people: 45 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _estimate(upstream: Upstream, cells: Sequence[Cell], exp_dir: Path, machine: Machine) -> Estimate:
    import torch

    with quiet():
        from downstream.probe import UpstreamExtractor

    torch.set_num_threads(machine.threads)
    device = machine.devices[0]
    with quiet():
        extractor = UpstreamExtractor(upstream, device)
    wave = np.random.default_rng(0).standard_normal(int(_NOISE_S * SAMPLE_RATE)).astype(np.float32)
    extractor([wave[:SAMPLE_RATE]])
    begin = time.monotonic()
    extractor([wave])
    factor = (time.monotonic() - begin) / _NOISE_S
    disk, features_s = 0, 0.0
    for kind in {cell.kind for cell in cells if cell.kind[0] != UNCACHED}:
        folder = cache.folder_of(exp_dir / "cache", upstream) / (kind[0] + ("_normalised" if kind[1] else ""))
        stored = {key for path in folder.glob("[!.]*/keys.json") for key in read_json(path)["keys"]}
        items = {item.key: item for cell in cells if cell.kind == kind for item in cell.data.items}
        missing = [item for key, item in items.items() if key not in stored]
        disk += sum(cache.bytes_of(item, kind[0], extractor.info) for item in missing)
        features_s += factor * sum(item.samples for item in missing) / SAMPLE_RATE
    past = results.read_rows(exp_dir / "results.csv")
    seconds: dict[tuple, float] = {}
    total = 0.0
    for cell in cells:
        own = (cell.task, cell.protocol.tag, cell.tuning.tag, cell.budget)
        if own not in seconds:
            if known := list(_past(past, upstream, own)):
                seconds[own] = statistics.median(known)
            else:
                seconds[own] = _measure(upstream, cell, extractor.info, device, factor)
        total += seconds[own]
    return Estimate(upstream.name, len(cells), disk, features_s, total)


def _past(rows: Sequence[dict[str, str]], upstream: Upstream, own: tuple) -> Iterator[float]:
    for row in rows:
        if (row["task"], row["protocol"], row["finetune"], row["budget"]) == own and row["upstream"] == upstream.name:
            yield float(row["wall_s"])


def _measure(upstream: Upstream, cell: Cell, info: Info, device: str, factor: float) -> float:
    """Seconds of a cell of this kind: its steps, and the passes over dev and test; `factor`: s a second of audio."""
    from downstream.cell import step_seconds

    config = cell.protocol.config
    splits = {name: items[:_ITEMS] for name, items in cell.data.splits.items()}
    data = replace(cell.data, splits=splits)
    kind, normalised = cell.kind
    # Where features stream, the head is measured on frames, and the upstream adds its own time.
    noise: Any = Noise(info, kind or "frames", normalised, data.items)
    if not kind and cell.task != "asr":
        noise = Noise(info, POOLED, normalised, data.items)
    step, audio_s = step_seconds(data, upstream, noise, cell.protocol, device, _STEPS)
    if not kind:
        step += audio_s * factor * (1.0 if cell.tuning.frozen else _BACKWARD)
    train = config["problem"]["train"]
    rates = len(config["learning_rates"])
    share = config["search_share"]
    runs = rates if share is None or rates == 1 else 1 + share * rates
    passes = train["total_steps"] // train["eval_step"] * runs + 1
    seen = sum(i.samples for i in cell.data.splits["dev"]) / SAMPLE_RATE
    evaluation = passes * seen / max(audio_s, 1e-9) * step / _BACKWARD
    return runs * train["total_steps"] * train["gradient_accumulate"] * step + evaluation
