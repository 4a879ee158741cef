"""What compression costs each task: the loss of each student relative to the teacher that it was made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from downstream.report.cells import Cell, Key
from downstream.report.columns import Column, columns_of
from downstream.report.comparisons import TEACHER, paired_draws
from downstream.report.rows import metric_info
from downstream.report.tables import Model
from downstream.report.text import Table, signed
from downstream.score.stats import central


@dataclass(frozen=True)
class Loss:
    """A student's relative loss in one column, a share of the teacher's value; positive where it is worse."""

    column: Column
    upstream: str
    delta_s: float
    value: float
    low: float
    high: float


def losses(cells: dict[Key, Cell], known: dict[str, Model]) -> list[Loss]:
    """Every student (ΔS > 0) against `harness_l` in every column in which the two can be paired."""
    made = []
    for column in columns_of(cells):
        values = column.cells(cells)
        if TEACHER not in values:
            continue
        for name, cell in values.items():
            delta = known.get(name, Model()).delta_s
            if name == TEACHER or not delta or delta <= 0:
                continue
            drawn = paired_draws({name: cell, TEACHER: values[TEACHER]})
            if drawn is None:
                continue
            value, draws = drawn
            sign = metric_info(column.metric).sign
            if not value[TEACHER] or not np.all(draws[TEACHER]):
                continue  # relative to nothing
            low, high = central(sign * (draws[TEACHER] - draws[name]) / draws[TEACHER])
            relative = sign * (value[TEACHER] - value[name]) / value[TEACHER]
            made.append(Loss(column, name, delta, relative, low, high))
    return made


def table(made: list[Loss]) -> Table:
    """The losses for people, in percent."""
    rows = [
        [loss.upstream, f"{loss.delta_s:.1f}", loss.column.heading, signed(loss.value),
         f"[{signed(loss.low)}, {signed(loss.high)}]"]
        for loss in made
    ]  # fmt: skip
    return Table("What compression costs", ["upstream", "ΔS (%)", "column", "relative loss (%)", "95 % interval"], rows)
