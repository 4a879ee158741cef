"""Bootstrap intervals: people are drawn, not utterances, because the clips of one speaker stand or fall together.

A metric is a function of counts that add up (`downstream.metrics`), so all draws are one matrix product:
(draws, speakers) x (speakers, counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from downstream.metrics import counts, from_counts

DRAWS = 1000


@dataclass(frozen=True)
class Scored:
    """Counts of one system in one run over a test set: speakers (N,) and counts (N, d), one row an utterance."""

    speakers: tuple[str, ...]
    counts: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A central interval; `unit` is what was resampled, `speaker`, or `utterance` where there is one speaker."""

    low: float
    high: float
    unit: str


@dataclass(frozen=True)
class Difference:
    """Metric of `a` minus metric of `b`, means over runs, with its interval over resampled speakers."""

    delta: float
    low: float
    high: float
    unit: str


def score(
    metric: str,
    speakers: Sequence[str],
    references: Sequence[str],
    hypotheses: Sequence[str],
    labels: Sequence[str] | None = None,
) -> Scored:
    """Counts of one run; give both systems of a comparison the same `labels` for the metrics over classes."""
    return Scored(tuple(speakers), counts(metric, references, hypotheses, labels))


def bootstrap_ci(
    run: Scored, metric: str, *, draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile interval of a metric over resampled speakers; the same seed gives the same interval.

    A test set of one speaker is resampled by utterance: the interval then says nothing about other speakers.
    """
    unit, (sums,) = _by_unit([run])
    values = from_counts(metric, _weights(len(sums), draws, seed) @ sums)
    return Interval(*_central(values, level), unit)


def paired_bootstrap(
    a: Sequence[Scored],
    b: Sequence[Scored],
    metric: str,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Difference of two systems, each with one Scored a training seed (folds put together), same speakers drawn.

    The metric is taken per run and averaged over the runs of a system, as tables do. Raises ValueError when the
    two were not tested on the same utterances of the same speakers.
    """
    if not a or not b:
        raise ValueError("paired bootstrap: a system without runs")
    layout = sorted(a[0].speakers)
    for run in (*a, *b):
        if sorted(run.speakers) != layout:
            raise ValueError(
                f"paired bootstrap: runs were tested on different speakers or numbers of utterances "
                f"({len(layout)} and {len(run.speakers)} utterances)"
            )
    unit, sums = _by_unit([*a, *b])
    weights = _weights(len(sums[0]), draws, seed)

    def difference(weight: np.ndarray) -> np.ndarray:
        per_run = [from_counts(metric, weight @ s) for s in sums]
        return np.mean(per_run[: len(a)], axis=0) - np.mean(per_run[len(a) :], axis=0)

    delta = float(difference(np.ones(len(sums[0]))))
    return Difference(delta, *_central(difference(weights), level), unit)


def _by_unit(runs: Sequence[Scored]) -> tuple[str, list[np.ndarray]]:
    """Counts summed per speaker, speakers in one order for all runs; per utterance where one speaker is all."""
    names = sorted(set(runs[0].speakers))
    if len(names) < 2:
        return "utterance", [run.counts for run in runs]
    index = {name: number for number, name in enumerate(names)}
    sums = []
    for run in runs:
        total = np.zeros((len(names), run.counts.shape[1]))
        np.add.at(total, [index[name] for name in run.speakers], run.counts)
        sums.append(total)
    return "speaker", sums


def _weights(units: int, draws: int, seed: int) -> np.ndarray:
    """How often each unit is drawn in each draw, (draws, units)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)


def _central(values: np.ndarray, level: float) -> tuple[float, float]:
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)
