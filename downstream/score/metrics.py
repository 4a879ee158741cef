"""Metrics of the three tasks: values from jiwer and scikit-learn, and additive counts for the bootstrap.

Every value is a share, not a percentage. `counts` gives one row of counts per utterance. Rows add up over utterances,
speakers and folds, and a metric is a function of their sum, so a bootstrap needs only sums (`downstream.score.stats`).

    wer, cer                  micro: all edits over all reference words or characters
    wer_macro, cer_macro      mean of the rates of the utterances
    mr_wer                    against several transcriptions of the same speech (MGB-3, MGB-5)
    wa = accuracy, ua, macro_f1
    cavg                      average detection cost of NIST's language recognition evaluations, from scores
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from downstream import DownstreamError

ERROR_RATES = ("wer", "cer", "wer_macro", "cer_macro")
ACCURACIES = ("wa", "accuracy")
CLASS_METRICS = (*ACCURACIES, "ua", "macro_f1")
# Metrics that `value` and `counts` compute from references and hypotheses.
METRICS = (*ERROR_RATES, *CLASS_METRICS)
MULTI_REFERENCE = "mr_wer"
CAVG = "cavg"


def tidy(text: str, profile: str = "none") -> str:
    """Text as it is scored: normalised by a profile of `corpora.text`, with single spaces."""
    from corpora.text import normalise

    return " ".join(normalise(text, profile).split())


def value(metric: str, references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """The metric of a whole test set.

    `wer` and `cer` are micro averages: edits over reference length, all utterances together (jiwer). `wer_macro` and
    `cer_macro` are means of the rates of the utterances (jiwer). `wa` and `accuracy` are the share of correct
    utterances, `ua` the mean recall of the classes in the references, `macro_f1` the mean F1 of the classes in
    references or hypotheses (scikit-learn). Raises DownstreamError without utterances, and for an error rate where all
    references are empty.
    """
    _check(metric, references, hypotheses)
    if metric in ERROR_RATES:
        import jiwer

        words = metric.startswith("wer")
        unit = str.split if words else len
        if not any(unit(reference) for reference in references):
            raise DownstreamError(f"{metric}: all {len(references)} references are empty")
        rate = jiwer.wer if words else jiwer.cer
        if metric.endswith("_macro"):
            pairs = zip(references, hypotheses, strict=True)
            return float(np.mean([rate(r, h) for r, h in pairs]))
        return float(rate(list(references), list(hypotheses)))
    from sklearn import metrics

    if metric in ACCURACIES:
        return float(metrics.accuracy_score(references, hypotheses))
    if metric == "ua":
        present = sorted(set(references))
        return float(metrics.recall_score(references, hypotheses, labels=present, average="macro", zero_division=0))
    return float(metrics.f1_score(references, hypotheses, average="macro", zero_division=0))


def counts(
    metric: str, references: Sequence[str], hypotheses: Sequence[str], labels: Sequence[str] | None = None
) -> np.ndarray:
    """Counts of each utterance: (N, 2) edits and reference length (macro: rate and 1), or (N, C * C) one-hot confusion
    matrices.

    `labels` fixes the classes and their order (default: the classes that occur). Give compared systems the same labels.
    """
    _check(metric, references, hypotheses)
    if metric in ERROR_RATES:
        from rapidfuzz.distance import Levenshtein

        words = metric.startswith("wer")
        pairs = [(r.split(), h.split()) if words else (r, h) for r, h in zip(references, hypotheses, strict=True)]
        if metric.endswith("_macro"):
            # For an empty reference jiwer's rate is the number of inserted words.
            rates = [Levenshtein.distance(r, h) / max(1, len(r)) for r, h in pairs]
            return np.array([(rate, 1) for rate in rates], dtype=np.float64)
        return np.array([(Levenshtein.distance(r, h), len(r)) for r, h in pairs], dtype=np.float64)
    names = sorted({*references, *hypotheses}) if labels is None else list(labels)
    index = {label: number for number, label in enumerate(names)}
    rows = np.zeros((len(references), len(names) ** 2))
    cells = [index[r] * len(names) + index[h] for r, h in zip(references, hypotheses, strict=True)]
    rows[np.arange(len(rows)), cells] = 1
    return rows


def from_counts(metric: str, sums: np.ndarray) -> np.ndarray:
    """The metric of summed counts (..., d) -> (...); NaN where the sums are zero.

    Means over classes leave out a class that does not occur in a resampled set. All metrics that are not over classes
    are the ratio of two sums.
    """
    if metric == CAVG:
        return _cavg(sums)
    if metric not in CLASS_METRICS:
        return _ratio(sums[..., 0], sums[..., 1])
    classes = round(sums.shape[-1] ** 0.5)
    confusion = sums.reshape(*sums.shape[:-1], classes, classes)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    references, hypotheses = confusion.sum(-1), confusion.sum(-2)
    if metric in ACCURACIES:
        return _ratio(hits.sum(-1), references.sum(-1))
    if metric == "ua":
        return _mean_defined(_ratio(hits, references))
    return _mean_defined(_ratio(2 * hits, references + hypotheses))


def multi_reference_counts(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> np.ndarray:
    """Errors and words of each utterance, (N, 2), against all of its transcriptions.

    After Ali et al., "Multi-reference evaluation for dialectal speech recognition" (ANLP 2015): a recognised word is
    right if any transcription has it at this position. Each transcription is aligned with the hypothesis (jiwer).
    Errors are the words that are wrong in all alignments, plus the smallest number of deletions; they are divided by
    the number of words of the transcription with the lowest WER. With one transcription this is WER; with several it is
    never above the lowest WER.
    """
    import jiwer

    if len(references) != len(hypotheses):
        raise DownstreamError(f"{MULTI_REFERENCE}: {len(references)} references but {len(hypotheses)} hypotheses")
    rows = []
    for texts, hypothesis in zip(references, hypotheses, strict=True):
        right = np.zeros(len(hypothesis.split()), bool)
        deleted, lengths = [], []
        for text in texts:
            found = jiwer.process_words(text, hypothesis)
            for chunk in found.alignments[0]:
                right[chunk.hyp_start_idx : chunk.hyp_end_idx] |= chunk.type == "equal"
            deleted.append(found.deletions)
            lengths.append((found.wer, len(text.split())))
        rows.append((int((~right).sum()) + min(deleted), min(lengths)[1]))
    return np.array(rows, dtype=np.float64)


def confusion(references: Sequence[str], hypotheses: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Counts (C, C); rows: reference, columns: prediction, both in the order of `labels`."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(references, hypotheses, labels=list(labels))


def accepted(log_likelihoods: np.ndarray) -> np.ndarray:
    """Detection decisions (N, C) from log likelihoods (N, C), which may be shifted by a constant for each utterance.

    A class is accepted if it is at least as likely as the mean of the other classes: NIST's threshold for a target
    probability of one half and equal costs.
    """
    scores = np.asarray(log_likelihoods, dtype=np.float64)
    likelihoods = np.exp(scores - scores.max(axis=1, keepdims=True))
    others = (likelihoods.sum(axis=1, keepdims=True) - likelihoods) / (scores.shape[1] - 1)
    return likelihoods >= others


def cavg_counts(references: Sequence[str], decisions: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """(N, C * C + C): the accepted classes in the row of the reference class, then the reference class one-hot."""
    index = {label: number for number, label in enumerate(labels)}
    classes = len(labels)
    rows = np.zeros((len(references), classes + 1, classes))
    true = [index[reference] for reference in references]
    rows[np.arange(len(rows)), true] = decisions
    rows[np.arange(len(rows)), classes, true] = 1
    return rows.reshape(len(rows), -1)


def _cavg(sums: np.ndarray) -> np.ndarray:
    """NIST LRE (2007 plan, section 4.1, closed set): mean over targets of half the misses and half the false alarms."""
    classes = round((-1 + (1 + 4 * sums.shape[-1]) ** 0.5) / 2)
    shaped = sums.reshape(*sums.shape[:-1], classes + 1, classes)
    rates = _ratio(shaped[..., :classes, :], np.repeat(shaped[..., classes, :, None], classes, axis=-1))
    own = np.eye(classes, dtype=bool)
    misses = 1 - np.diagonal(rates, axis1=-2, axis2=-1)
    alarms = _mean_defined(np.swapaxes(np.where(own, np.nan, rates), -1, -2))
    return _mean_defined(0.5 * misses + 0.5 * alarms)


def superb_score(
    values: Mapping[str, Mapping[str, float]],
    baseline: Mapping[str, Mapping[str, float]],
    reference: Mapping[str, Mapping[str, float]],
) -> float:
    """A SUPERB-like score from task -> metric -> share of an upstream, of fbank, and of a reference upstream.

    `1000 / |T| * sum_t mean_m (m - fbank) / (reference - fbank)` (SUPERB's challenge): fbank scores 0 and the reference
    1000, also for error rates. Raises DownstreamError if a value is missing or the reference equals fbank.
    """
    parts = []
    for task, metrics in reference.items():
        ratios = []
        for metric, best in metrics.items():
            try:
                own, base = values[task][metric], baseline[task][metric]
            except KeyError:
                raise DownstreamError(f"score: {task} {metric} is missing") from None
            if best == base:
                raise DownstreamError(f"score: the reference does not differ from fbank in {task} {metric}")
            ratios.append((own - base) / (best - base))
        parts.append(np.mean(ratios))
    if not parts:
        raise DownstreamError("score: no task")
    return float(1000 * np.mean(parts))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=bottom > 0)


def _mean_defined(values: np.ndarray) -> np.ndarray:
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1).astype(float))


def _check(metric: str, references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if metric not in METRICS:
        raise DownstreamError(f"metric `{metric}` is unknown; choose from {', '.join(METRICS)}")
    if len(references) != len(hypotheses):
        raise DownstreamError(f"{metric}: {len(references)} references but {len(hypotheses)} hypotheses")
    if not len(references):
        raise DownstreamError(f"{metric}: no utterances to score")
