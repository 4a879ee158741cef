"""Bootstrap over speakers: intervals and tests, because the clips of one speaker are not independent.

A metric is a function of counts that add up (`downstream.score.metrics`), so all draws are one matrix product:
(draws, speakers) x (speakers, counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from downstream.score.metrics import counts, from_counts

DRAWS = 10_000


@dataclass(frozen=True)
class Scored:
    """Counts of one system in one run over a test set: speakers (N,) and counts (N, d), one row per utterance."""

    speakers: tuple[str, ...]
    counts: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A central interval; `unit` names the resampled unit: `speaker`, or `utterance` for a test set of one speaker."""

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
    """Counts of one run; for metrics over classes, give both systems of a comparison the same `labels`."""
    return Scored(tuple(speakers), counts(metric, references, hypotheses, labels))


def bootstrap_ci(run: Scored, metric: str, *, draws: int = DRAWS, seed: int = 0, level: float = 0.95) -> Interval:
    """Percentile interval of a metric over resampled speakers; the same seed gives the same interval.

    A test set of one speaker is resampled by utterance; the interval then does not cover other speakers.
    """
    unit, sums = by_unit(run)
    values = from_counts(metric, resample(len(sums), draws=draws, seed=seed) @ sums)
    return Interval(*central(values, level), unit)


def by_unit(run: Scored) -> tuple[str, np.ndarray]:
    """The resampled unit, and counts (units, d): one row per speaker in the order of their names, or one row per
    utterance where there is only one speaker."""
    names = sorted(set(run.speakers))
    if len(names) < 2:
        return "utterance", run.counts
    index = {name: number for number, name in enumerate(names)}
    total = np.zeros((len(names), run.counts.shape[1]))
    np.add.at(total, [index[name] for name in run.speakers], run.counts)
    return "speaker", total


def resample(units: int, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Number of times that each draw contains each unit, (draws, units); the same weights for two systems pair them."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)


def central(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Ends of the central interval of bootstrap values."""
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p of a difference from its paired bootstrap draws: twice the smaller share on one side of 0, at least
    one draw."""
    values = differences[~np.isnan(differences)]
    tail = min((values <= 0).mean(), (values >= 0).mean())
    return float(min(1.0, max(2 * tail, 1 / len(values))))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p of the exact McNemar test; `first` and `second` (N,) are True where a classifier was right.

    The test assumes independent utterances. With few speakers and many utterances, use the bootstrap by speaker.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    different = only_first + only_second
    return float(binomtest(only_first, different).pvalue) if different else 1.0


def combined_p(values: Sequence[float]) -> float:
    """One p from several p on the same utterances, valid for any dependence: n / k times the k-th smallest of n (Rüger
    1978), with k in the middle."""
    ordered = sorted(values)
    middle = (len(ordered) + 1) // 2
    return min(1.0, len(ordered) / middle * ordered[middle - 1])
