"""Read the files of run directories besides predictions: command, layer weights, learning curve, dev values, times.

Every file is optional: older runs have fewer of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pandas

from corpora.files import read_json
from downstream import DownstreamError
from downstream.grid.plan import read_cell
from downstream.report.rows import Result, Setting


def find_in_run(exp_dir: Path, run_dir: str, name: str) -> Path | None:
    """Path of a file of a run, or None if it does not exist.

    `exp_dir` is <root>/exp/<recipe>. The run directory is absolute, or relative to the root or to `exp_dir`.
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
    """The dev metric that chose the checkpoint, over training steps."""

    steps: list[float]
    dev: list[float]
    dev_metric: str


@dataclass(frozen=True)
class GridTime:
    """Times of the benchmark command of a run: start (s since 1970), seconds until the run was complete, processes."""

    started: float
    wall_s: float
    processes: int


@dataclass(frozen=True)
class ProbeRun:
    """One trained head: its rows (one for each test split and metric), and the files of its directory."""

    upstream: str
    setting: Setting
    seed: int
    fold: int | None
    rows: tuple[Result, ...]
    command: str = ""
    dev: dict[str, float] = field(default_factory=dict)
    extraction_s: float | None = None  # part of `wall_s`: features that the cache did not hold
    grid: GridTime | None = None
    weights: tuple[float, ...] = ()
    normalised: bool = False  # whether the states are normalised before the sum
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
        """Seconds of training and scoring without feature extraction; None if unknown."""
        known = self.wall_s is not None and self.extraction_s is not None
        return max(0.0, self.wall_s - self.extraction_s) if known else None


def read_runs(rows: list[Result], exp_dir: Path) -> list[ProbeRun]:
    """Runs of the rows, in the order of the rows. Raises DownstreamError naming a broken file."""
    grouped: dict[tuple, list[Result]] = defaultdict(list)
    for row in rows:
        grouped[row.upstream, row.setting, row.seed, row.fold].append(row)
    return [_run(key, tuple(group), exp_dir) for key, group in grouped.items()]


def _run(key: tuple[str, Setting, int, int | None], rows: tuple[Result, ...], exp_dir: Path) -> ProbeRun:
    def found(name: str) -> Path | None:
        return find_in_run(exp_dir, rows[0].run_dir, name)

    command, stored, weights, curve = map(found, ("command", "cell.json", "layer_weights.json", "curve.csv"))
    cell = {} if stored is None else read_cell(stored.parent)
    return ProbeRun(
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
        raise DownstreamError(f"{path}: no list `weights`; run it again") from None
    if weights and not math.isclose(sum(weights), 1, abs_tol=1e-3):
        raise DownstreamError(f"{path}: the layer weights add up to {sum(weights):.4f} and not to 1; run it again")
    return weights


def _curve(path: Path, lr: float | None) -> Curve | None:
    """Dev values in curve.csv (lr, step, train_loss, metric, dev) at the chosen learning rate; None without any."""
    try:
        frame = pandas.read_csv(path, float_precision="round_trip")
        if lr is not None:
            frame = frame[[math.isclose(value, lr, rel_tol=1e-6) for value in frame["lr"]]]
        frame = frame[frame["dev"].notna()]
        if frame.empty:
            return None
        steps, dev = (frame[name].astype(float).tolist() for name in ("step", "dev"))
        return Curve(steps, dev, str(frame["metric"].dropna().iloc[0]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = f"column {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DownstreamError(f"{path}: not a learning curve ({reason}); run it again") from None
