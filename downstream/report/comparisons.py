"""The claims that a run is to support or not: paired bootstrap by speaker, the same draws for both sides."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from corpora.files import atomic_file
from downstream.report.cells import Cell, Key
from downstream.report.columns import headline, task_order
from downstream.report.evidence import Evidence
from downstream.report.rows import Setting, metric_info
from downstream.report.text import Table, signed
from downstream.score.stats import bootstrap_p, central, combined_p, mcnemar

TEACHER = "harness_l"
STUDENTS = ("harness_s", "harness_st")
BASELINES = ("fbank", "random_l")  # gains that must be kept are those over the first that is there
# What compression or another iteration may cost: this share of the larger or earlier model's gain over a baseline.
TOLERATED_LOSS = 0.10


@dataclass(frozen=True)
class Comparison:
    """A claim about two upstreams; differences are shares, positive where `upstream` is better.

    `better`: the interval of the difference lies above 0. `keeps 90 % of the gain over <baseline>`: so does
    the interval of the difference plus a tenth of what `against` gains over the baseline; `gain_kept` is the
    share of that gain that `upstream` has. `p` is that of no difference, by `test`.
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
class LeftOut:
    """A comparison that cannot be made, and why."""

    what: str
    reason: str


Pairs = Callable[[set[str]], Iterable[tuple[str, str, str]]]


def compare(cells: dict[Key, Cell], recipe: str, pairs: Pairs | None = None) -> tuple[list[Comparison], list[LeftOut]]:
    """Every comparison that the cells allow, and those that they do not.

    `pairs` gives (upstream, against, baseline) for the upstreams of a column, the baseline empty for a plain `better`;
    by default the teacher against its baselines and the students against the teacher.
    """
    made: list[Comparison] = []
    left: list[LeftOut] = []
    for setting, split, metric in _columns(cells):
        column = {u: c for (st, sp, m, u), c in cells.items() if (st, sp, m) == (setting, split, metric)}
        for upstream, against, baseline in (pairs or _pairs)(set(column)):
            wanted = {name: column[name] for name in (upstream, against, baseline) if name}
            reason = _unpaired(wanted)
            if reason:
                what = f"{setting.task.upper()} {split} {metric}: {upstream} against {against}"
                left.append(LeftOut(what, reason))
                continue
            made.append(_comparison(wanted, setting, split, metric, recipe, upstream, against, baseline))
    return made, left


def headlines(made: list[Comparison]) -> list[Comparison]:
    """The comparisons in the first metric of their column: what fits on a terminal."""
    first: dict[tuple[str, ...], str] = {}
    for c in made:
        first.setdefault((c.task, c.corpus, c.protocol, c.split), c.metric)
    return [c for c in made if first[c.task, c.corpus, c.protocol, c.split] == c.metric]


def _columns(cells: dict[Key, Cell]) -> list[tuple[Setting, str, str]]:
    """Setting, split and headline metric; for ASR the other error rate as well."""
    columns = []
    for setting in task_order({key[0] for key in cells}):
        for split in sorted({s for st, s, _, _ in cells if st == setting}):
            metrics = {m for st, s, m, _ in cells if st == setting and s == split}
            first = headline(setting, metrics)
            rest = sorted(metrics & {"wer"} - {first}) if setting.task == "asr" else []
            columns += [(setting, split, metric) for metric in [first, *rest]]
    return columns


def _pairs(names: set[str]) -> Iterator[tuple[str, str, str]]:
    """(upstream, against, baseline); the baseline is empty for a plain `better`."""
    if TEACHER not in names:
        return
    baselines = [b for b in BASELINES if b in names]
    for baseline in baselines:
        yield TEACHER, baseline, ""
    for baseline in baselines[:1]:
        if "harness_l_it1" in names:
            yield TEACHER, "harness_l_it1", baseline
        for student in STUDENTS:
            if student in names:
                yield student, TEACHER, baseline


def _unpaired(wanted: dict[str, Cell]) -> str:
    """Why these cells cannot be paired; empty where they can."""
    for name, cell in wanted.items():
        if cell.evidence is None:
            return f"{name}: no predictions, or none of this metric"
    first_name, first = next(iter(wanted.items()))
    for name, cell in wanted.items():
        if cell.evidence.utterances != first.evidence.utterances:
            return f"{name} and {first_name} were tested on different utterances"
        if cell.evidence.speakers != first.evidence.speakers:
            return f"{name} and {first_name} were tested on different speakers"
    if not _common_seeds(wanted):
        return "no seed in common"
    return ""


def paired_draws(cells: dict[str, Cell]) -> tuple[dict[str, float], dict[str, np.ndarray]] | None:
    """Values and bootstrap draws of cells of one column over the seeds that they share, or None where the cells cannot
    be paired; the draws of all are of the same speakers."""
    if _unpaired(cells):
        return None
    seeds = _common_seeds(cells)
    evidence = {name: cell.evidence for name, cell in cells.items()}
    return {n: e.mean(seeds) for n, e in evidence.items()}, {n: e.draws(seeds) for n, e in evidence.items()}


def _common_seeds(cells: dict[str, Cell]) -> list[int]:
    return sorted(set.intersection(*(set(cell.seeds) for cell in cells.values())))


def _comparison(
    cells: dict[str, Cell],
    setting: Setting,
    split: str,
    metric: str,
    recipe: str,
    upstream: str,
    against: str,
    baseline: str,
) -> Comparison:
    seeds = _common_seeds(cells)
    sign = metric_info(metric).sign
    values, drawn = paired_draws(cells)
    value = {name: sign * v for name, v in values.items()}
    draws = {name: sign * d for name, d in drawn.items()}
    low, high = central(draws[upstream] - draws[against])
    p, test = _chance(cells[upstream].evidence, cells[against].evidence, seeds, draws[upstream] - draws[against])
    kept = None
    if baseline:
        gain = value[against] - value[baseline]
        tolerated = TOLERATED_LOSS * (draws[against] - draws[baseline])
        shown = gain > 0 and central(draws[upstream] - draws[against] + tolerated)[0] > 0
        kept = (value[upstream] - value[baseline]) / gain if gain > 0 else None
    else:
        shown = low > 0
    evidence = cells[upstream].evidence
    return Comparison(
        recipe=recipe,
        task=setting.task,
        corpus=setting.corpus,
        split=split,
        protocol=setting.protocol,
        metric=metric,
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
        seeds=" ".join(map(str, seeds)),
        speakers=len(evidence.speakers),
        utterances=len(evidence.utterances),
    )


def _chance(one: Evidence, two: Evidence, seeds: list[int], differences: np.ndarray) -> tuple[float, str]:
    """The probability of such a difference where there is none, and the test that says so: McNemar's for accuracies."""
    if one.right and two.right:
        return combined_p([mcnemar(one.right[seed], two.right[seed]) for seed in seeds]), "McNemar"
    return bootstrap_p(differences), "bootstrap"


def shown_p(p: float) -> str:
    """A probability for people."""
    return "<0.001" if p < 1e-3 else f"{p:.3f}"


def write(comparisons: list[Comparison], path: Path) -> None:
    """Write comparisons.csv, whole or not at all; differences as shares."""
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(Comparison)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(c) for c in comparisons)


def table(comparisons: list[Comparison], left: list[LeftOut]) -> Table:
    """The comparisons for people, in percentage points."""
    header = ["upstream", "against", "column", "difference", "95 % interval", "p", "units"]
    header += ["gain kept", "claim", "verdict"]
    rows = [
        [
            *(c.upstream, c.against, f"{c.task.upper()} {c.split} {metric_info(c.metric).label}"),
            *(signed(c.difference), f"[{signed(c.ci_low)}, {signed(c.ci_high)}]"),
            f"{shown_p(c.p)} {c.test}",
            f"{c.speakers} speakers" if c.speakers > 1 else f"{c.utterances} utterances",
            "-" if c.gain_kept is None else f"{100 * c.gain_kept:.0f} %",
            *(c.claim, c.verdict),
        ]
        for c in comparisons
    ]
    notes = [
        "difference in percentage points, positive where the upstream is better; paired bootstrap of the mean "
        "over seeds",
        "p: of no difference. bootstrap: twice the share of its draws on the other side of 0. McNemar: the exact test, "
        "for accuracies, of all seeds by Rüger's inequality; it takes utterances for independent, so that the interval "
        "is meant where few speakers say many of them",
        "units: what is resampled; utterances where all are of one speaker, which says nothing about other speakers. "
        "With fewer than about ten speakers a bootstrap interval is too narrow",
        "gain kept: what the upstream gains over the baseline of its claim, as a share of what the other gains",
        "shown: the interval of the difference lies above 0 (better), or so does that of the difference plus a "
        f"tenth of the other's gain (keeps {1 - TOLERATED_LOSS:.0%})",
    ]
    notes += [f"left out: {item.what}: {item.reason}" for item in left]
    return Table("Comparisons", header, rows, notes)
