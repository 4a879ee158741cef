"""Test differences between two upstreams by paired bootstrap over speakers: comparisons, and losses by compression."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from downstream.report.columns import Column, Pairing, headline_columns, pair
from downstream.report.rows import metric_info
from downstream.report.tables import Table, UpstreamFacts, difference, signed
from downstream.score.stats import bootstrap_p, central, combined_p, mcnemar
from upstream.names import BASELINES, STUDENTS, TEACHER, TEACHER_ITERATION_1

# Largest loss by compression (or from one iteration to the next): this share of the gain over a baseline.
TOLERATED_LOSS = 0.10


@dataclass(frozen=True)
class Comparison:
    """A claim about two upstreams; differences are shares, positive if `upstream` is better.

    Claim `better`: the 95 % interval of the difference lies above 0. Claim `keeps 90 % of the gain over <baseline>`:
    the interval of the difference plus a tenth of the gain of `against` over the baseline lies above 0. `gain_kept` is
    the share of that gain that `upstream` has. `p` is the p-value of the difference, by `test`.
    """

    recipe: str
    task: str
    corpus: str
    split: str
    protocol: str
    metric: str
    upstream: str
    against: str
    claim: str
    baseline: str
    difference: float
    ci_low: float
    ci_high: float
    p: float
    test: str
    gain_kept: float | None
    verdict: str
    seeds: str
    speakers: int
    utterances: int


@dataclass(frozen=True)
class Unpaired:
    """A comparison that cannot be computed, and the reason."""

    name: str
    reason: str


Pairs = Callable[[set[str]], Iterable[tuple[str, str, str]]]


def default_pairs(names: set[str]) -> Iterator[tuple[str, str, str]]:
    """(upstream, against, baseline): the teacher against the baselines, then the students' share of its gain.

    The baseline is empty for the claim `better`.
    """
    if TEACHER not in names:
        return
    # A student must keep the gain over the first baseline that has results.
    baselines = [name for name in BASELINES if name in names]
    for baseline in baselines:
        yield TEACHER, baseline, ""
    for baseline in baselines[:1]:
        if TEACHER_ITERATION_1 in names:
            yield TEACHER, TEACHER_ITERATION_1, baseline
        for student in STUDENTS:
            if student in names:
                yield student, TEACHER, baseline


def compare(
    columns: Sequence[Column], recipe: str, pairs: Pairs = default_pairs
) -> tuple[list[Comparison], list[Unpaired]]:
    """Comparisons in the headline metrics (ASR: in WER too), and those that cannot be computed.

    `pairs` gives (upstream, against, baseline) for the upstreams of a column.
    """
    comparisons: list[Comparison] = []
    unpaired: list[Unpaired] = []
    for column in _compared(columns):
        for upstream, against, baseline in pairs(set(column.values)):
            found = pair({name: column.values[name] for name in (upstream, against, baseline) if name})
            if isinstance(found, str):
                name = f"{column.setting.task.upper()} {column.split} {column.metric}: {upstream} against {against}"
                unpaired.append(Unpaired(name, found))
            else:
                comparisons.append(_comparison(column, found, recipe, upstream, against, baseline))
    return comparisons, unpaired


def _compared(columns: Sequence[Column]) -> Iterator[Column]:
    for column in headline_columns(columns):
        yield column
        for other in columns:
            same = (other.setting, other.split) == (column.setting, column.split)
            if same and column.setting.task == "asr" and other.metric == "wer" != column.metric:
                yield other


def _comparison(
    column: Column, pairing: Pairing, recipe: str, upstream: str, against: str, baseline: str
) -> Comparison:
    value = {name: column.info.sign * v for name, v in pairing.values.items()}
    draws = {name: column.info.sign * d for name, d in pairing.draws.items()}
    low, high = central(draws[upstream] - draws[against])
    one, two = (column.values[name].counts for name in (upstream, against))
    if one.correct and two.correct:
        p, test = combined_p([mcnemar(one.correct[seed], two.correct[seed]) for seed in pairing.seeds]), "McNemar"
    else:
        p, test = bootstrap_p(draws[upstream] - draws[against]), "bootstrap"
    kept = None
    if baseline:
        gain = value[against] - value[baseline]
        tolerated = TOLERATED_LOSS * (draws[against] - draws[baseline])
        shown = gain > 0 and central(draws[upstream] - draws[against] + tolerated)[0] > 0
        kept = (value[upstream] - value[baseline]) / gain if gain > 0 else None
    else:
        shown = low > 0
    return Comparison(
        recipe=recipe,
        task=column.setting.task,
        corpus=column.setting.corpus,
        split=column.split,
        protocol=column.setting.protocol,
        metric=column.metric,
        upstream=upstream,
        against=against,
        claim=f"keeps {1 - TOLERATED_LOSS:.0%} of the gain over {baseline}" if baseline else "better",
        baseline=baseline,
        difference=round(value[upstream] - value[against], 6),
        ci_low=round(low, 6),
        ci_high=round(high, 6),
        p=float(f"{p:.4g}"),
        test=test,
        gain_kept=None if kept is None else round(kept, 4),
        verdict="shown" if shown else "not shown",
        seeds=" ".join(map(str, pairing.seeds)),
        speakers=len(one.speakers),
        utterances=len(one.utterances),
    )


def headlines(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons in the first metric of each setting and split, for the terminal."""
    first: dict[tuple[str, ...], str] = {}
    for c in comparisons:
        first.setdefault((c.task, c.corpus, c.protocol, c.split), c.metric)
    return [c for c in comparisons if first[c.task, c.corpus, c.protocol, c.split] == c.metric]


def p_label(p: float) -> str:
    """A probability as shown in tables."""
    return "<0.001" if p < 1e-3 else f"{p:.3f}"


def comparison_table(comparisons: Sequence[Comparison], unpaired: Sequence[Unpaired]) -> Table:
    """The comparisons in percentage points."""
    header = ["upstream", "against", "column", "difference [95 % interval]", "p", "resampled"]
    header += ["gain kept", "claim", "verdict"]
    rows = [
        [
            *(c.upstream, c.against, f"{c.task.upper()} {c.split} {metric_info(c.metric).label}"),
            difference(c.difference, c.ci_low, c.ci_high),
            f"{p_label(c.p)} {c.test}",
            f"{c.speakers} speakers" if c.speakers > 1 else f"{c.utterances} utterances",
            "-" if c.gain_kept is None else f"{100 * c.gain_kept:.0f} %",
            *(c.claim, c.verdict),
        ]
        for c in comparisons
    ]
    notes = [
        "difference in percentage points, positive if the upstream is better; paired bootstrap of the mean over seeds",
        "p: p-value of the difference. bootstrap: twice the share of draws on the other side of 0. "
        "McNemar: the exact test, for accuracies, over all seeds by Rüger's inequality; it assumes independent "
        "utterances, so trust the interval if few speakers have many utterances each",
        "resampled: speakers, or utterances if all are of one speaker; the interval then does not cover other "
        "speakers. With fewer than about ten speakers a bootstrap interval is too narrow",
        "gain kept: gain of the upstream over the baseline in its claim, as a share of the gain of `against`",
        "shown: the interval of the difference lies above 0 (better), or the interval of the difference plus a tenth "
        f"of the gain of `against` lies above 0 (keeps {1 - TOLERATED_LOSS:.0%})",
    ]
    notes += [f"not compared: {item.name}: {item.reason}" for item in unpaired]
    return Table("Comparisons", header, rows, notes)


@dataclass(frozen=True)
class CompressionLoss:
    """A student's loss relative to the teacher in one column: a share of the teacher's value, positive if worse."""

    column: Column
    upstream: str
    delta_s: float
    value: float
    low: float
    high: float


def compression_losses(columns: Sequence[Column], facts: dict[str, UpstreamFacts]) -> list[CompressionLoss]:
    """Loss of every student (ΔS > 0) against `harness_l` in every headline column in which they can be paired."""
    losses = []
    for column in headline_columns(columns):
        if TEACHER not in column.values:
            continue
        for name, measurement in column.values.items():
            delta = facts.get(name, UpstreamFacts()).delta_s
            if name == TEACHER or not delta or delta <= 0:
                continue
            found = pair({name: measurement, TEACHER: column.values[TEACHER]})
            if isinstance(found, str):
                continue
            value, teacher = found.values[TEACHER], found.draws[TEACHER]
            if not value or not np.all(teacher):
                continue  # no relative loss against 0
            sign = column.info.sign
            low, high = central(sign * (teacher - found.draws[name]) / teacher)
            losses.append(CompressionLoss(column, name, delta, sign * (value - found.values[name]) / value, low, high))
    return losses


def loss_table(losses: Sequence[CompressionLoss]) -> Table:
    """The losses in percent."""
    header = ["upstream", "ΔS (%)", "column", "relative loss (%)", "95 % interval"]
    rows = [
        [loss.upstream, f"{loss.delta_s:.1f}", loss.column.heading, signed(loss.value),
         f"[{signed(loss.low)}, {signed(loss.high)}]"]
        for loss in losses
    ]  # fmt: skip
    return Table("Loss by compression", header, rows)
