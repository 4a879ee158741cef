"""Intervals and tests: people are drawn, not utterances, because the clips of one speaker stand or fall together.

A metric is a function of counts that add up (`downstream.metrics`), so all draws are one matrix product:
(draws, speakers) x (speakers, counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from downstream.metrics import counts, from_counts

DRAWS = 10_000


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
    unit, sums = by_unit(run)
    values = from_counts(metric, resample(len(sums), draws=draws, seed=seed) @ sums)
    return Interval(*central(values, level), unit)


def by_unit(run: Scored) -> tuple[str, np.ndarray]:
    """What is resampled, and the counts of each such unit, (units, d): speakers by name; utterances as they come
    where one speaker is all."""
    names = sorted(set(run.speakers))
    if len(names) < 2:
        return "utterance", run.counts
    index = {name: number for number, name in enumerate(names)}
    total = np.zeros((len(names), run.counts.shape[1]))
    np.add.at(total, [index[name] for name in run.speakers], run.counts)
    return "speaker", total


def resample(units: int, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each unit is drawn in each draw, (draws, units); two systems with the same weights are paired."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)


def central(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Ends of the central interval of bootstrap values."""
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """How much higher a metric is in the first of two runs, with its interval and the probability of chance.

    `p` is two-sided; `test` names what gave it.
    """

    value: float
    low: float
    high: float
    p: float
    test: str


def paired_bootstrap(
    first: Scored, second: Scored, metric: str, *, draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> Difference:
    """Two runs over the same utterances, resampled together by speaker; for error rates and any other metric.

    `p` is twice the share of draws on the other side of 0 (at least 1 / draws). Raises ValueError for different
    utterances.
    """
    _check_paired(first, second)
    unit, one = by_unit(first)
    _, two = by_unit(second)
    weights = resample(len(one), draws=draws, seed=seed)
    values = from_counts(metric, weights @ one) - from_counts(metric, weights @ two)
    values = values[~np.isnan(values)]
    plain = float(from_counts(metric, one.sum(0)) - from_counts(metric, two.sum(0)))
    tail = min((values <= 0).mean(), (values >= 0).mean())
    p = float(min(1.0, max(2 * tail, 1 / draws)))
    return Difference(plain, *central(values, level), p, f"paired bootstrap by {unit}")


def mcnemar(
    references: Sequence[str], first: Sequence[str], second: Sequence[str]
) -> Difference:
    """Exact McNemar test of two classifiers on the same utterances; the interval is a normal one of the difference.

    It takes utterances for independent; where few speakers say many of them, `permutation` is the honest test.
    """
    from scipy.stats import binomtest

    one = np.array([r == h for r, h in zip(references, first, strict=True)])
    two = np.array([r == h for r, h in zip(references, second, strict=True)])
    only_one, only_two = int((one & ~two).sum()), int((two & ~one).sum())
    p = binomtest(only_one, only_one + only_two).pvalue if only_one + only_two else 1.0
    count = len(one)
    value = (only_one - only_two) / count
    deviation = np.sqrt(max(only_one + only_two - (only_one - only_two) ** 2 / count, 0.0)) / count
    return Difference(value, value - 1.96 * deviation, value + 1.96 * deviation, float(p), "exact McNemar")


def permutation(
    first: Scored, second: Scored, metric: str, *, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """Permutation test of any metric: under chance the two runs could be swapped for each speaker.

    The interval is that of `paired_bootstrap`. Raises ValueError for different utterances.
    """
    bootstrap = paired_bootstrap(first, second, metric, draws=draws, seed=seed)
    unit, one = by_unit(first)
    _, two = by_unit(second)
    generator = np.random.default_rng(seed)
    swap = generator.integers(0, 2, (draws, len(one))).astype(np.float64)
    left, right = swap @ two + (1 - swap) @ one, swap @ one + (1 - swap) @ two
    values = from_counts(metric, left) - from_counts(metric, right)
    extreme = np.abs(values) >= abs(bootstrap.value) - 1e-12
    p = float((extreme.sum() + 1) / (draws + 1))
    return Difference(bootstrap.value, bootstrap.low, bootstrap.high, p, f"permutation by {unit}")


def _check_paired(first: Scored, second: Scored) -> None:
    if first.speakers != second.speakers or first.counts.shape != second.counts.shape:
        raise ValueError("the two runs were not scored on the same utterances in the same order, with the same labels")
