"""One cell of a table: rows of one upstream, setting, split and metric, put together over seeds and folds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from downstream.report.evidence import Evidence, Predictions
from downstream.report.rows import Row, Setting
from downstream.score.stats import central


@dataclass(frozen=True)
class Cell:
    """A metric (a share, not percent) with its 95 % interval by speaker.

    Folds are pooled: the predictions of all folds of a seed are scored as one test set. Seeds are averaged.
    The interval resamples speakers (utterances where there is one speaker) and not seeds. Without predictions
    the value is the mean of the rows, and only a single row keeps its interval.
    """

    value: float
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    folds: int
    utterances: int
    pooled: bool
    rows: tuple[Row, ...]
    evidence: Evidence | None

    @property
    def spread(self) -> float:
        """Standard deviation over seeds, a share; 0 for one seed."""
        values = list(self.seed_values().values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    def seed_values(self) -> dict[int, float]:
        """The metric of each seed, a share."""
        if self.evidence is not None:
            return self.evidence.values()
        by_seed: dict[int, list[float]] = defaultdict(list)
        for row in self.rows:
            by_seed[row.seed].append(row.value)
        return {seed: float(np.mean(values)) for seed, values in by_seed.items()}


Key = tuple[Setting, str, str, str]  # setting, split, metric, upstream


def make_cells(rows: list[Row], predictions: Predictions) -> dict[Key, Cell]:
    """Group rows into cells."""
    groups: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.setting, row.split, row.metric, row.upstream].append(row)
    return {
        key: _cell(sorted(group, key=lambda r: (r.seed, r.fold or 0)), predictions) for key, group in groups.items()
    }


def _cell(rows: list[Row], predictions: Predictions) -> Cell:
    evidence = predictions.evidence(rows)
    seeds = tuple(sorted({row.seed for row in rows}))
    low = high = None
    if evidence is not None:
        value, utterances = evidence.mean(), len(evidence.utterances)
        low, high = central(evidence.draws())
    else:
        value = float(np.mean([row.value for row in rows]))
        utterances = sum(row.n for row in rows if row.seed == seeds[0])
        if len(rows) == 1:
            low, high = rows[0].ci_low, rows[0].ci_high
    folds = len({row.fold for row in rows if row.fold is not None})
    return Cell(value, low, high, seeds, folds, utterances, evidence is not None, tuple(rows), evidence)
