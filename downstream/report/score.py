"""The SUPERB-like score: 0 is `fbank`, 1000 a stated reference upstream."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from downstream.report.boards import FBANK
from downstream.report.cells import Cell, Key
from downstream.report.columns import Column, columns_of
from downstream.report.comparisons import paired_draws
from downstream.report.rows import Setting, metric_info, upstream_order
from downstream.report.text import Table
from downstream.score.metrics import superb_score
from downstream.score.stats import central


@dataclass(frozen=True)
class Scores:
    """Scores of the upstreams that were run in every column used; `columns` are those, `left` says why others are
    not among them."""

    reference: str
    columns: list[Column]
    values: dict[str, float]
    left: list[str]


def scores(cells: dict[Key, Cell], group: list[Setting], reference: str) -> Scores | None:
    """Scores over the headline columns of a group; None where `fbank` or the reference was not run.

    A column in which the reference is not shown to be better than `fbank` is left out: it would divide by about 0.
    """
    used: list[Column] = []
    left: list[str] = []
    columns = columns_of(cells, set(group))
    for column in columns:
        values = column.cells(cells)
        if FBANK not in values or reference not in values:
            continue
        drawn = paired_draws({name: values[name] for name in (FBANK, reference)})
        sign = metric_info(column.metric).sign
        if drawn is None:
            left.append(f"{column.heading}: {reference} and {FBANK} cannot be paired")
        elif central(sign * (drawn[1][reference] - drawn[1][FBANK]))[0] <= 0:
            left.append(f"{column.heading}: {reference} is not shown to be better than {FBANK} there")
        else:
            used.append(column)
    if not used and not left:
        return None
    tables = [(column, column.cells(cells)) for column in used]
    names = upstream_order(set.intersection(*(set(values) for _, values in tables))) if tables else []

    def of(name: str) -> dict[str, dict[str, float]]:
        by_task: dict[str, dict[str, float]] = defaultdict(dict)
        for column, values in tables:
            by_task[column.setting.task][column.heading] = values[name].value
        return by_task

    values = {name: superb_score(of(name), of(FBANK), of(reference)) for name in names}
    return Scores(reference, used, values, left)


def table(found: Scores) -> Table:
    """The scores for people."""
    rows = [[name, f"{value:.0f}"] for name, value in found.values.items()]
    notes = [
        f"1000 / tasks x sum over tasks of the mean over columns of (m - {FBANK}) / ({found.reference} - {FBANK}): "
        f"{FBANK} has 0 and {found.reference} 1000 by definition; made of {', '.join(c.heading for c in found.columns)}"
    ]
    notes += [f"left out of the score: {line}" for line in found.left]
    return Table(f"SUPERB-like score, reference {found.reference}", ["upstream", "score"], rows, notes)


def bars(found: Scores) -> dict[str, float]:
    """Length of each score's bar in percent of the longest; nothing below 0."""
    longest = max([1000.0, *found.values.values()])
    return {name: float(np.clip(100 * value / longest, 0, 100)) for name, value in found.values.items()}
