"""From saved predictions to values and bootstrap draws: counts per speaker, folds put together.

All upstreams of a column are resampled with the same draws, so that any difference between them is paired;
that includes contrasts of three, such as a student's loss against a tenth of its teacher's gain.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from downstream.report.rows import ReportError, Row
from downstream.report.runs import find_in_run
from downstream.score import stats
from downstream.score.metrics import ACCURACIES, METRICS, counts, from_counts
from downstream.score.results import Prediction, read_predictions

# A recomputed metric may differ from the stored one by its rounding only.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Evidence:
    """Counts of one upstream on one split, for one metric: seed -> (units, d), folds put together.

    The units are speakers; where there is one speaker, they are utterances. `utterances` names each as often as folds
    test it.
    """

    metric: str
    speakers: tuple[str, ...]
    utterances: tuple[str, ...]
    counts: dict[int, np.ndarray]
    right: dict[int, np.ndarray] = field(default_factory=dict)  # of accuracies: which utterances, (N,), by id

    @property
    def unit(self) -> str:
        """What is resampled: `speaker` or `utterance`."""
        return "speaker" if len(self.speakers) > 1 else "utterance"

    def values(self) -> dict[int, float]:
        """The metric of each seed, a share."""
        return {seed: float(from_counts(self.metric, c.sum(0))) for seed, c in self.counts.items()}

    def mean(self, seeds: list[int] | None = None) -> float:
        """The metric, averaged over seeds (default: all)."""
        values = self.values()
        return float(np.mean([values[seed] for seed in (sorted(values) if seeds is None else seeds)]))

    def draws(self, seeds: list[int] | None = None, *, size: int = stats.DRAWS) -> np.ndarray:
        """Bootstrap of `mean`, (size,): the units are drawn, the seeds are not."""
        chosen = sorted(self.counts) if seeds is None else seeds
        weights = stats.resample(len(self.counts[chosen[0]]), draws=size)
        return np.mean([from_counts(self.metric, weights @ self.counts[seed]) for seed in chosen], axis=0)


@dataclass
class Predictions:
    """The predictions of every run, read once."""

    exp_dir: Path
    _read: dict[str, list[Prediction] | None] = field(default_factory=dict)

    def of(self, run_dir: str) -> list[Prediction] | None:
        """What a run predicted, or None when the file is not there."""
        if run_dir not in self._read:
            path = find_in_run(self.exp_dir, run_dir, "predictions.csv")
            self._read[run_dir] = None if path is None else read_predictions(path)
        return self._read[run_dir]

    def evidence(self, rows: list[Row]) -> Evidence | None:
        """Counts behind the rows of one upstream, setting, split and metric; None where predictions are
        missing or the seeds were not tested on the same utterances.

        Raises ReportError when predictions do not give the value that stands in results.csv.
        """
        metric = rows[0].metric
        if metric not in METRICS:
            return None
        by_seed: dict[int, list[Prediction]] = defaultdict(list)
        for row in rows:
            own = [p for p in self.of(row.run_dir) or () if p.split == row.split]
            if not own:
                return None
            _check(row, own)
            by_seed[row.seed] += own
        tested = {seed: sorted((p.utt_id, p.speaker) for p in run) for seed, run in by_seed.items()}
        first = next(iter(tested.values()))
        if any(other != first for other in tested.values()):
            return None
        speakers = tuple(sorted({speaker for _, speaker in first}))
        labels = sorted({x for run in by_seed.values() for p in run for x in (p.reference, p.hypothesis)})
        sums = {seed: _sums(metric, run, labels) for seed, run in by_seed.items()}
        right = {seed: _right(run) for seed, run in by_seed.items()} if metric in ACCURACIES else {}
        return Evidence(metric, speakers, tuple(utt_id for utt_id, _ in first), sums, right)


def _sums(metric: str, run: list[Prediction], labels: list[str]) -> np.ndarray:
    """Counts per speaker, or per utterance where there is one speaker, in the same order for every upstream."""
    run = sorted(run, key=lambda p: p.utt_id)
    columns = zip(*((p.speaker, p.reference, p.hypothesis) for p in run), strict=True)
    return stats.by_unit(stats.score(metric, *columns, labels))[1]


def _right(run: list[Prediction]) -> np.ndarray:
    return np.array([p.reference == p.hypothesis for p in sorted(run, key=lambda p: p.utt_id)])


def _check(row: Row, predictions: list[Prediction]) -> None:
    rows = counts(row.metric, [p.reference for p in predictions], [p.hypothesis for p in predictions])
    value = float(from_counts(row.metric, rows.sum(0)))
    if not abs(value - row.value) <= TOLERANCE:
        raise ReportError(
            f"{row.run_dir}: its predictions give {row.metric} {value:.6f} on {row.split}, but results.csv says "
            f"{row.value:.6f}; run this cell again"
        )
