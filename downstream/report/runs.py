"""What a run directory left besides its predictions: command, layer weights, learning curve, choice on dev.

Each file is read where it is and done without where it is not: an older run has less to show, not wrong rows.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from corpora.files import read_json
from downstream.report.rows import ReportError, Row, Setting


def find_in_run(exp_dir: Path, run_dir: str, name: str) -> Path | None:
    """A file of a run, or None where it is not there.

    `exp_dir` is <root>/exp/<recipe>: a run directory is relative to the root, to `exp_dir`, or absolute.
    """
    if not run_dir:
        return None
    for base in (Path(), Path(exp_dir).parent.parent, Path(exp_dir)):
        path = base / run_dir / name
        if path.is_file():
            return path
    return None


@dataclass(frozen=True)
class Curve:
    """Training loss and the dev metric that chose the checkpoint, over steps; None where a step has no value."""

    steps: list[float]
    loss: list[float | None]
    dev: list[float | None]
    dev_metric: str


@dataclass(frozen=True)
class GridTime:
    """The command that a run was part of: when it began (seconds since 1970), after how many seconds the run was
    complete, and the processes at work."""

    started: float
    wall_s: float
    processes: int


@dataclass(frozen=True)
class Run:
    """One trained head: its rows (a row for each test split and metric), and what its directory tells."""

    upstream: str
    setting: Setting
    seed: int
    fold: int | None
    rows: tuple[Row, ...]
    command: str = ""
    dev: dict[str, float] = field(default_factory=dict)
    extraction_s: float | None = None  # of `wall_s`, for features that were not in the cache
    grid: GridTime | None = None
    weights: tuple[float, ...] = ()
    normalised: bool = False  # the states, before they were summed
    curve: Curve | None = None

    @property
    def run_dir(self) -> str:
        return self.rows[0].run_dir

    @property
    def lr(self) -> float | None:
        return self.rows[0].lr

    @property
    def wall_s(self) -> float | None:
        return self.rows[0].wall_s

    @property
    def head_s(self) -> float | None:
        """Seconds of training and scoring, without those of the features."""
        known = self.wall_s is not None and self.extraction_s is not None
        return max(0.0, self.wall_s - self.extraction_s) if known else None


def read_runs(rows: list[Row], exp_dir: Path) -> list[Run]:
    """The runs behind `rows` in the order of the rows. Raises ReportError naming a file that cannot be read."""
    grouped: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.upstream, row.setting, row.seed, row.fold].append(row)
    return [_run(key, tuple(group), exp_dir) for key, group in grouped.items()]


def _run(key: tuple[str, Setting, int, int | None], rows: tuple[Row, ...], exp_dir: Path) -> Run:
    def found(name: str) -> Path | None:
        return find_in_run(exp_dir, rows[0].run_dir, name)

    command, stored, weights, curve = map(found, ("command", "cell.json", "layer_weights.json", "curve.csv"))
    cell = {} if stored is None else read_json(stored)
    return Run(
        *key,
        rows,
        command="" if command is None else command.read_text(encoding="utf-8").strip(),
        dev=cell.get("dev", {}),
        extraction_s=cell.get("extraction_s"),
        grid=GridTime(**cell["grid"]) if "grid" in cell else None,
        weights=() if weights is None else _weights(weights),
        normalised=weights is not None and bool(read_json(weights).get("normalised")),
        curve=None if curve is None else _curve(curve, rows[0].lr),
    )


def _weights(path: Path) -> tuple[float, ...]:
    """`weights` of layer_weights.json: shares of the hidden states in the layer sum."""
    try:
        weights = tuple(float(value) for value in read_json(path)["weights"])
    except (KeyError, TypeError, ValueError):
        raise ReportError(f"{path}: no list `weights`; run this cell again") from None
    if weights and not math.isclose(sum(weights), 1, abs_tol=1e-3):
        raise ReportError(f"{path}: the layer weights add up to {sum(weights):.4f} and not to 1; run this cell again")
    return weights


def _curve(path: Path, lr: float | None) -> Curve | None:
    """curve.csv (lr, step, train_loss, metric, dev): the part of the learning rate that was chosen."""
    with open(path, encoding="utf-8", newline="") as stream:
        records = list(csv.DictReader(stream))
    try:
        own = [r for r in records if lr is None or math.isclose(float(r["lr"]), lr, rel_tol=1e-6)]
        metric = next((r["metric"] for r in own if r["metric"]), "")
        return (
            Curve(
                steps=[float(r["step"]) for r in own],
                loss=[float(r["train_loss"]) if r["train_loss"] else None for r in own],
                dev=[float(r["dev"]) if r["dev"] else None for r in own],
                dev_metric=metric,
            )
            if own
            else None
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"column {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ReportError(f"{path}: not a learning curve ({what}); run this cell again") from None
