"""Group results into columns of measurements (one per upstream), with intervals from the saved predictions.

All upstreams of a column are resampled with the same draws of speakers, so any difference between them is paired. That
includes contrasts of three, such as a student's loss against a tenth of its teacher's gain.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from downstream import DownstreamError
from downstream.grid import budgets
from downstream.report.rows import (
    HEADLINE,
    METRICS,
    Metric,
    Result,
    Setting,
    metric_info,
    task_order,
    upstream_order,
)
from downstream.report.runs import find_in_run
from downstream.score import metrics, stats
from downstream.score.results import Prediction, read_predictions

# A metric that is computed again may differ from results.csv by rounding only.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class UnitCounts:
    """Counts of one upstream on one split for one metric: seed -> (units, d), all folds together.

    The units of resampling are speakers, or utterances if there is only one speaker. `utterances` repeats the id of an
    utterance that several folds test.
    """

    metric: str
    speakers: tuple[str, ...]
    utterances: tuple[str, ...]
    counts: dict[int, np.ndarray]
    correct: dict[int, np.ndarray] = field(default_factory=dict)  # accuracies only: seed -> (N,) booleans, by id

    def values(self) -> dict[int, float]:
        """The metric of each seed, a share."""
        return {seed: float(metrics.from_counts(self.metric, c.sum(0))) for seed, c in self.counts.items()}

    def mean(self, seeds: Sequence[int] | None = None) -> float:
        """The metric, averaged over seeds (default: all)."""
        values = self.values()
        return float(np.mean([values[seed] for seed in (sorted(values) if seeds is None else seeds)]))

    def draws(self, seeds: Sequence[int] | None = None, *, size: int = stats.DRAWS) -> np.ndarray:
        """Bootstrap draws of `mean`, (size,): units are resampled, seeds are not."""
        chosen = sorted(self.counts) if seeds is None else seeds
        weights = stats.resample(len(self.counts[chosen[0]]), draws=size)
        return np.mean([metrics.from_counts(self.metric, weights @ self.counts[seed]) for seed in chosen], axis=0)


@dataclass
class Predictions:
    """Predictions of every run; each file is read once."""

    exp_dir: Path
    _read: dict[str, list[Prediction] | None] = field(default_factory=dict)

    def of(self, run_dir: str) -> list[Prediction] | None:
        """Predictions of a run, or None without a file."""
        if run_dir not in self._read:
            path = find_in_run(self.exp_dir, run_dir, "predictions.csv")
            self._read[run_dir] = None if path is None else read_predictions(path)
        return self._read[run_dir]

    def counts(self, rows: Sequence[Result]) -> UnitCounts | None:
        """Counts behind the rows of one upstream, setting, split and metric.

        None if predictions are missing or the seeds were tested on different utterances. Raises DownstreamError if the
        predictions do not give the value in results.csv.
        """
        metric = rows[0].metric
        if metric not in metrics.METRICS:
            return None
        by_seed: dict[int, list[Prediction]] = defaultdict(list)
        for row in rows:
            own = [p for p in self.of(row.run_dir) or () if p.split == row.split]
            if not own:
                return None
            _check(row, own)
            by_seed[row.seed] += own
        runs = {seed: sorted(run, key=lambda p: p.utt_id) for seed, run in by_seed.items()}
        tested = {seed: sorted((p.utt_id, p.speaker) for p in run) for seed, run in runs.items()}
        first = next(iter(tested.values()))
        if any(other != first for other in tested.values()):
            return None
        labels = sorted({text for run in runs.values() for p in run for text in (p.reference, p.hypothesis)})
        correct = {}
        if metric in metrics.ACCURACIES:
            correct = {seed: np.array([p.reference == p.hypothesis for p in run]) for seed, run in runs.items()}
        return UnitCounts(
            metric,
            speakers=tuple(sorted({speaker for _, speaker in first})),
            utterances=tuple(utt_id for utt_id, _ in first),
            counts={seed: _sums(metric, run, labels) for seed, run in runs.items()},
            correct=correct,
        )


def _sums(metric: str, run: list[Prediction], labels: list[str]) -> np.ndarray:
    """Counts per speaker (per utterance if there is one speaker), in the same order for every upstream."""
    columns = zip(*((p.speaker, p.reference, p.hypothesis) for p in run), strict=True)
    return stats.by_unit(stats.score(metric, *columns, labels))[1]


def _check(row: Result, predictions: list[Prediction]) -> None:
    references, hypotheses = zip(*((p.reference, p.hypothesis) for p in predictions), strict=True)
    value = float(metrics.from_counts(row.metric, metrics.counts(row.metric, references, hypotheses).sum(0)))
    if not abs(value - row.value) <= TOLERANCE:
        raise DownstreamError(
            f"{row.run_dir}: its predictions give {row.metric} {value:.6f} on {row.split}, but results.csv says "
            f"{row.value:.6f}; run it again"
        )


@dataclass(frozen=True)
class Measurement:
    """A metric of one upstream (a share, not percent) with its 95 % interval by speaker.

    Folds are pooled: the predictions of all folds of a seed are scored as one test set. Seeds are averaged. The
    interval resamples speakers (utterances if there is one speaker) and not seeds. Without predictions (`counts` is
    None) the value is the mean of the rows, and only a single row keeps its interval.
    """

    value: float
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    folds: int
    utterances: int
    rows: tuple[Result, ...]
    counts: UnitCounts | None

    @property
    def spread(self) -> float:
        """Standard deviation over seeds, a share; 0 for one seed."""
        if self.counts is not None:
            values = list(self.counts.values().values())
        else:
            values = [np.mean([row.value for row in self.rows if row.seed == seed]) for seed in self.seeds]
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Column:
    """One metric of one setting and test split: upstream -> measurement, in the order of every table.

    `heading` names the column among its neighbours.
    """

    setting: Setting
    split: str
    metric: str
    heading: str
    values: dict[str, Measurement]

    @property
    def info(self) -> Metric:
        """Label and direction of the metric."""
        return metric_info(self.metric)


def make_columns(rows: Iterable[Result], predictions: Predictions) -> list[Column]:
    """Every column of the results: by task, setting, split, then metric in the order of METRICS."""
    grouped: dict[tuple[Setting, str, str], dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[row.setting, row.split, row.metric][row.upstream].append(row)
    columns = []
    for setting in task_order({setting for setting, *_ in grouped}):
        for split, metric in sorted((s, m) for st, s, m in grouped if st == setting):
            own = grouped[setting, split, metric]
            values = {name: _measure(own[name], predictions) for name in upstream_order(set(own))}
            columns.append(Column(setting, split, metric, _heading(setting, split, metric), values))
    rank = {name: i for i, name in enumerate(METRICS)}
    place = {setting: i for i, setting in enumerate(task_order({c.setting for c in columns}))}
    return sorted(columns, key=lambda c: (place[c.setting], c.split, rank.get(c.metric, len(rank)), c.metric))


def _measure(rows: list[Result], predictions: Predictions) -> Measurement:
    rows = sorted(rows, key=lambda r: (r.seed, r.fold or 0))
    counts = predictions.counts(rows)
    seeds = tuple(sorted({row.seed for row in rows}))
    low = high = None
    if counts is not None:
        value, utterances = counts.mean(), len(counts.utterances)
        low, high = stats.central(counts.draws())
    else:
        value = float(np.mean([row.value for row in rows]))
        utterances = sum(row.n for row in rows if row.seed == seeds[0])
        if len(rows) == 1:
            low, high = rows[0].ci_low, rows[0].ci_high
    folds = len({row.fold for row in rows if row.fold is not None})
    return Measurement(value, low, high, seeds, folds, utterances, tuple(rows), counts)


def _heading(setting: Setting, split: str, metric: str) -> str:
    """Task, name of the split if it has one, metric, and an arrow to the better direction."""
    info = metric_info(metric)
    name = "" if split == "test" else f" {split.removeprefix('test_')}"
    return f"{setting.short()}{name} {info.label} {info.arrow}"


def headline_columns(columns: Sequence[Column]) -> list[Column]:
    """One column for each setting and split: that of the headline metric. Equal headings get their protocol."""
    by_split: dict[tuple[Setting, str], dict[str, Column]] = defaultdict(dict)
    for column in columns:
        by_split[column.setting, column.split][column.metric] = column
    chosen = []
    for (setting, _), own in by_split.items():
        known = [metric for metric in HEADLINE.get(setting.task, ()) if metric in own]
        chosen.append(own[known[0] if known else min(own)])
    count = Counter(column.heading for column in chosen)
    return [c if count[c.heading] == 1 else replace(c, heading=f"{c.heading} ({c.setting.protocol})") for c in chosen]


def comparable_settings(settings: set[Setting]) -> list[list[Setting]]:
    """Groups of settings that may share a table: one setting of each task, the same fine-tuning and label budget.

    So no column mixes protocols. Frozen probes on all labels come first.
    """

    def depth(setting: Setting) -> tuple:
        return not setting.is_probe, setting.finetune, tuple(-x for x in budgets.rank(setting.budget))

    groups: list[list[Setting]] = []
    for setting in sorted(task_order(settings), key=depth):
        for group in groups:
            if depth(group[0]) == depth(setting) and all(setting.task != other.task for other in group):
                group.append(setting)
                break
        else:
            groups.append([setting])
    return groups


def mixed_settings(columns: Iterable[Column]) -> list[str]:
    """A warning for each task whose rows have several settings (such as protocols), with the upstreams of each.

    Rows of different fine-tuning or label budgets are meant to differ: no warning.
    """
    by_task: dict[tuple[str, ...], dict[Setting, set[str]]] = defaultdict(lambda: defaultdict(set))
    for column in columns:
        setting = column.setting
        by_task[setting.task, setting.finetune, setting.budget][setting] |= set(column.values)
    sentences = []
    for (task, *_), settings in sorted(by_task.items()):
        if len(settings) > 1:
            listed = "; ".join(
                f"{s.describe()}: {', '.join(upstream_order(settings[s]))}" for s in task_order(set(settings))
            )
            sentences.append(
                f"{task.upper()} has rows of {len(settings)} settings, in separate tables and not comparable ({listed})"
            )
    return sentences


@dataclass(frozen=True)
class Pairing:
    """Measurements of one column over the seeds that they share: values, and bootstrap draws of the same speakers."""

    seeds: tuple[int, ...]
    values: dict[str, float]
    draws: dict[str, np.ndarray]


def pair(measurements: dict[str, Measurement]) -> Pairing | str:
    """Pair measurements of one column, or say why they cannot be paired."""
    for name, measurement in measurements.items():
        if measurement.counts is None:
            return f"{name}: no predictions, or none of this metric"
    counts = {name: measurement.counts for name, measurement in measurements.items()}
    first_name, first = next(iter(counts.items()))
    for name, own in counts.items():
        if own.utterances != first.utterances:
            return f"{name} and {first_name} were tested on different utterances"
        if own.speakers != first.speakers:
            return f"{name} and {first_name} were tested on different speakers"
    seeds = tuple(sorted(set.intersection(*(set(m.seeds) for m in measurements.values()))))
    if not seeds:
        return "no seed in common"
    return Pairing(
        seeds,
        {name: own.mean(seeds) for name, own in counts.items()},
        {name: own.draws(seeds) for name, own in counts.items()},
    )
