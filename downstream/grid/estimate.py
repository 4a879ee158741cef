"""The plan of a grid before it runs: cells, disk and time, from measurements of a few seconds on this machine."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpora.audio import SAMPLE_RATE
from corpora.files import read_json
from downstream.grid.plan import UNCACHED, Cell
from downstream.grid.pool import Machine, Work
from downstream.probe import cache
from downstream.probe.cache import Info
from downstream.report.runs import find_in_run
from downstream.score import results
from downstream.upstreams import Upstream

# Gradients through the upstream cost about two forward passes more.
_BACKWARD = 3.0


@dataclass(frozen=True)
class Estimate:
    """What one upstream will take: bytes of features to be stored, seconds to make them, seconds of its cells; None
    where nobody can know before its weights are here."""

    upstream: str
    cells: int
    disk: int | None = None
    features_s: float | None = None
    cells_s: float | None = None


def describe(work: Sequence[Work], complete: int, exp_dir: Path, device: str, jobs: int | None) -> str:
    """The plan as text; measures each upstream on noise and each kind of head on a few steps, nothing with S3PRL."""
    lines = [f"{complete} cells are complete, {sum(len(cells) for _, cells in work)} are to run"]
    if not work:
        return lines[0]
    machine = Machine.of(device, jobs)
    found = [_estimate(upstream, cells, Path(exp_dir), machine) for upstream, cells in work]
    lines.append(f"{'upstream':<18}{'cells':>7}{'features':>12}{'to extract':>12}{'to train':>12}")
    for each in found:
        shown = ["?" if x is None else f(x) for x, f in ((each.disk, cache.size_text), (each.features_s, clock),
                                                         (each.cells_s, clock))]  # fmt: skip
        lines.append(f"{each.upstream:<18}{each.cells:>7}" + "".join(f"{text:>12}" for text in shown))
    if unknown := [each.upstream for each in found if each.disk is None]:
        lines.append(f"not in the sums: {', '.join(unknown)}; S3PRL fetches the weights when the grid runs")
    disk = sum(each.disk or 0 for each in found)
    folder = Path(exp_dir)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    lines.append(f"disk: {cache.size_text(disk)} of features, {cache.size_text(free)} free in {folder}")
    if disk > free:
        lines.append("  too little: features that find no place are computed at every step instead; see --cache_gb")
    seconds = sum((each.features_s or 0.0) + (each.cells_s or 0.0) for each in found)
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

    from downstream.grid import rehearsal

    torch.set_num_threads(machine.threads)
    device = machine.devices[0]
    measured = rehearsal.extraction(upstream, device)
    if measured is None:
        return Estimate(upstream.name, len(cells))
    info, factor = measured
    disk, features_s = 0, 0.0
    for kind in {cell.kind for cell in cells if cell.kind[0] != UNCACHED}:
        folder = cache.folder_of(exp_dir / "cache", upstream) / (kind[0] + ("_normalised" if kind[1] else ""))
        stored = {key for path in folder.glob("[!.]*/keys.json") for key in read_json(path)["keys"]}
        items = {item.key: item for cell in cells if cell.kind == kind for item in cell.data.items}
        missing = [item for key, item in items.items() if key not in stored]
        disk += sum(cache.bytes_of(item, kind[0], info) for item in missing)
        features_s += factor * sum(item.samples for item in missing) / SAMPLE_RATE
    past = results.read_rows(exp_dir / "results.csv")
    seconds: dict[tuple, float] = {}
    total = 0.0
    for cell in cells:
        own = (cell.task, cell.protocol.tag, cell.tuning.tag, cell.budget)
        if own not in seconds:
            if known := list(_past(past, exp_dir, upstream, own)):
                seconds[own] = statistics.median(known)
            else:
                seconds[own] = _measure(cell, info, device, factor)
        total += seconds[own]
    return Estimate(upstream.name, len(cells), disk, features_s, total)


def _past(rows: Sequence[dict[str, str]], exp_dir: Path, upstream: Upstream, own: tuple) -> Iterator[float]:
    """Seconds of training and scoring in earlier cells of this kind."""
    for row in rows:
        if (row["task"], row["protocol"], row["finetune"], row["budget"]) == own and row["upstream"] == upstream.name:
            path = find_in_run(exp_dir, row["run_dir"], "cell.json")
            yield float(row["wall_s"]) - (0.0 if path is None else read_json(path).get("extraction_s", 0.0))


def _measure(cell: Cell, info: Info, device: str, factor: float) -> float:
    """Seconds of a cell of this kind: its steps, and the passes over dev and test; `factor`: s a second of audio."""
    from downstream.grid.rehearsal import step_seconds

    config = cell.protocol.config
    step, audio_s = step_seconds(cell, info, device)
    if cell.kind[0] == UNCACHED:  # the upstream adds its own time
        step += audio_s * factor * (1.0 if cell.tuning.frozen else _BACKWARD)
    train = config["problem"]["train"]
    rates = len(config["learning_rates"])
    share = config["search_share"]
    runs = rates if share is None or rates == 1 else 1 + share * rates
    passes = train["total_steps"] // train["eval_step"] * runs + 1
    seen = sum(i.samples for i in cell.data.splits["dev"]) / SAMPLE_RATE
    evaluation = passes * seen / max(audio_s, 1e-9) * step / _BACKWARD
    return runs * train["total_steps"] * train["gradient_accumulate"] * step + evaluation
