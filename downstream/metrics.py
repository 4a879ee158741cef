"""The metrics of the three tasks: corpus values from jiwer and scikit-learn, and the counts behind them.

Every value is a share, not a percentage. `counts` gives what a metric is made of, one row an utterance: rows add
up over utterances, speakers and folds, so that a bootstrap needs sums only (`downstream.stats`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

ERROR_RATES = ("wer", "cer")
CLASS_METRICS = ("wa", "accuracy", "ua", "macro_f1")
METRICS = (*ERROR_RATES, *CLASS_METRICS)


class MetricError(ValueError):
    """Predictions that cannot be scored; the message says why."""


def tidy(text: str, profile: str = "none") -> str:
    """Text in the form in which it is scored: the profile of `corpora.text`, single spaces."""
    from corpora.text import normalise

    return " ".join(normalise(text, profile).split())


def value(metric: str, references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """The metric of a whole test set.

    `wer` and `cer` are micro averages (edits over reference length, all utterances together; jiwer), `wa` and
    `accuracy` the share of correct utterances, `ua` the mean recall of the classes that the references hold,
    `macro_f1` the mean F1 of the classes in references or hypotheses (scikit-learn). Raises MetricError for no
    utterances and for error rates of empty references.
    """
    _check(metric, references, hypotheses)
    if metric in ERROR_RATES:
        import jiwer

        unit = str.split if metric == "wer" else len
        if not any(unit(reference) for reference in references):
            raise MetricError(f"{metric}: all {len(references)} references are empty, nothing to divide by")
        process = jiwer.process_words if metric == "wer" else jiwer.process_characters
        return float(getattr(process(list(references), list(hypotheses)), metric))
    from sklearn import metrics

    if metric in ("wa", "accuracy"):
        return float(metrics.accuracy_score(references, hypotheses))
    if metric == "ua":
        present = sorted(set(references))
        return float(
            metrics.recall_score(references, hypotheses, labels=present, average="macro", zero_division=0)
        )
    return float(metrics.f1_score(references, hypotheses, average="macro", zero_division=0))


def counts(
    metric: str, references: Sequence[str], hypotheses: Sequence[str], labels: Sequence[str] | None = None
) -> np.ndarray:
    """What the metric is made of: (N, 2) edits and reference length, or (N, C * C) one-hot confusion matrices.

    `labels` fixes the classes and their order (default: those that occur); two systems that are to be compared
    need the same.
    """
    _check(metric, references, hypotheses)
    if metric in ERROR_RATES:
        from rapidfuzz.distance import Levenshtein

        words = metric == "wer"
        pairs = [(r.split(), h.split()) if words else (r, h) for r, h in zip(references, hypotheses, strict=True)]
        return np.array([(Levenshtein.distance(r, h), len(r)) for r, h in pairs], dtype=np.float64)
    names = sorted({*references, *hypotheses}) if labels is None else list(labels)
    index = {label: number for number, label in enumerate(names)}
    rows = np.zeros((len(references), len(names) ** 2))
    cells = [index[r] * len(names) + index[h] for r, h in zip(references, hypotheses, strict=True)]
    rows[np.arange(len(rows)), cells] = 1
    return rows


def from_counts(metric: str, sums: np.ndarray) -> np.ndarray:
    """The metric of summed counts (..., d) -> (...); NaN where nothing was counted.

    A class that a resampled set does not hold is left out of the mean over classes.
    """
    if metric in ERROR_RATES:
        return _ratio(sums[..., 0], sums[..., 1])
    classes = round(sums.shape[-1] ** 0.5)
    confusion = sums.reshape(*sums.shape[:-1], classes, classes)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    references, hypotheses = confusion.sum(-1), confusion.sum(-2)
    if metric in ("wa", "accuracy"):
        return _ratio(hits.sum(-1), references.sum(-1))
    if metric == "ua":
        return _mean_defined(_ratio(hits, references))
    return _mean_defined(_ratio(2 * hits, references + hypotheses))


def superb_score(
    values: Mapping[str, Mapping[str, float]],
    baseline: Mapping[str, Mapping[str, float]],
    reference: Mapping[str, Mapping[str, float]],
) -> float:
    """A SUPERB-like score: task -> metric -> share, of an upstream, of fbank, and of a stated reference upstream.

    `1000 / |T| * sum_t mean_m (m - fbank) / (reference - fbank)` (SUPERB's challenge): fbank has 0 and the reference
    1000, for error rates too. Raises MetricError where a value is missing or the reference equals fbank.
    """
    parts = []
    for task, metrics in reference.items():
        ratios = []
        for metric, best in metrics.items():
            try:
                own, base = values[task][metric], baseline[task][metric]
            except KeyError:
                raise MetricError(f"score: {task} {metric} is missing") from None
            if best == base:
                raise MetricError(f"score: the reference does not differ from fbank in {task} {metric}")
            ratios.append((own - base) / (best - base))
        parts.append(np.mean(ratios))
    if not parts:
        raise MetricError("score: no task")
    return float(1000 * np.mean(parts))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=bottom > 0)


def _mean_defined(values: np.ndarray) -> np.ndarray:
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1).astype(float))


def _check(metric: str, references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if metric not in METRICS:
        raise MetricError(f"metric `{metric}` is unknown; choose from {', '.join(METRICS)}")
    if len(references) != len(hypotheses):
        raise MetricError(f"{metric}: {len(references)} references but {len(hypotheses)} hypotheses")
    if not len(references):
        raise MetricError(f"{metric}: no utterances to score")
