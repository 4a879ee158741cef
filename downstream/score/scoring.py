"""From the predictions of a run to its rows: every metric of the protocol on every test set, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from corpora.audio import SAMPLE_RATE
from downstream.probe.data import Item
from downstream.score import metrics, stats
from downstream.score.results import Prediction
from downstream.score.stats import Scored


@dataclass(frozen=True)
class Score:
    """A metric on one test set: a share, its 95 % interval by speaker, and the utterances that it was taken on."""

    metric: str
    value: float
    low: float
    high: float
    n: int


def score_split(
    names: Sequence[str],
    predictions: Sequence[Prediction],
    items: Mapping[str, Item],
    log_likelihoods: Mapping[str, Sequence[float]] | None = None,
    labels: Sequence[str] = (),
    bins_s: Sequence[float] = (),
) -> list[Score]:
    """Scores of one test set; `items` by utterance id.

    `cavg` among the names needs `log_likelihoods` of each utterance in the order of `labels`. Several transcriptions of
    an item add `mr_wer`; `bins_s`, ends of duration bins in seconds, add the accuracy in each bin.
    """
    speakers, references, hypotheses = zip(*((p.speaker, p.reference, p.hypothesis) for p in predictions), strict=True)
    found = []
    for name in names:
        if name == metrics.CAVG:
            table = np.array([log_likelihoods[p.utt_id] for p in predictions])
            decisions = metrics.accepted(table)
            found.append(_score(name, speakers, metrics.cavg_counts(references, decisions, labels)))
            continue
        scored = stats.score(name, speakers, references, hypotheses)
        interval = stats.bootstrap_ci(scored, name)
        value = metrics.value(name, references, hypotheses)
        found.append(Score(name, value, interval.low, interval.high, len(predictions)))
    if any(items[p.utt_id].others for p in predictions):
        texts = [[p.reference, *items[p.utt_id].others] for p in predictions]
        found.append(_score(metrics.MULTI_REFERENCE, speakers, metrics.multi_reference_counts(texts, hypotheses)))
    for name, low, high in _bins(bins_s):
        inside = [p for p in predictions if low <= items[p.utt_id].samples / SAMPLE_RATE < high]
        if inside:
            rows = np.array([(p.reference == p.hypothesis, 1) for p in inside], dtype=np.float64)
            found.append(_score(name, [p.speaker for p in inside], rows))
    return found


def _score(name: str, speakers: Sequence[str], counts: np.ndarray) -> Score:
    scored = Scored(tuple(speakers), counts)
    interval = stats.bootstrap_ci(scored, name)
    return Score(name, float(metrics.from_counts(name, counts.sum(0))), interval.low, interval.high, len(counts))


def _bins(ends: Sequence[float]) -> list[tuple[str, float, float]]:
    edges = [0.0, *ends, float("inf")]
    found = []
    for low, high in zip(edges, edges[1:], strict=False) if ends else ():
        if not low:
            name = f"under_{high:g}s"
        else:
            name = f"over_{low:g}s" if high == float("inf") else f"{low:g}s_to_{high:g}s"
        found.append((f"accuracy_{name}", low, high))
    return found
