"""The tables of the report that need no marks: every metric of a task, and costs."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from downstream.report.cells import Cell, Key
from downstream.report.columns import heading
from downstream.report.rows import METRICS, Row, Setting, upstream_order
from downstream.report.text import Table, percent


@dataclass(frozen=True)
class Model:
    """What is known of an upstream apart from its results; None where nothing was measured."""

    front_end: str = ""
    iteration: str = ""
    params_m: float | None = None
    macs_g_per_s: float | None = None
    delta_s: float | None = None
    rtf_cpu: float | None = None


def read_costs(path: Path) -> list[dict[str, str]]:
    """The rows of compression.csv, or none where stage 9 has not run."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def models(rows: list[Row], costs: list[dict[str, str]]) -> dict[str, Model]:
    """Facts per upstream: from compression.csv where it has them, else from the result rows."""
    known: dict[str, Model] = {}
    for row in rows:
        facts = Model(row.front_end, row.iteration, row.params_m, row.macs_g_per_s, rtf_cpu=row.rtf_cpu)
        known.setdefault(row.upstream, facts)
    for cost in costs:
        name = cost["upstream"]
        if name in known:
            numbers = {k: float(cost[k]) for k in ("params_m", "macs_g_per_s", "delta_s", "rtf_cpu") if cost.get(k)}
            known[name] = Model(cost.get("front_end", ""), cost.get("iteration", ""), **numbers)
    return known


def task_table(cells: dict[Key, Cell], setting: Setting) -> Table:
    """Every metric of a task: rows = upstreams, columns = splits and metrics."""
    own = {k: c for k, c in cells.items() if k[0] == setting}
    order = {name: i for i, name in enumerate(METRICS)}
    columns = sorted({(s, m) for _, s, m, _ in own}, key=lambda x: (x[0], order.get(x[1], len(order)), x[1]))
    names = upstream_order({u for *_, u in own})
    header = ["upstream", "seeds", "folds", "n", *(heading(setting, s, m) for s, m in columns)]
    rows = []
    for name in names:
        mine = [own[setting, s, m, name] for s, m in columns if (setting, s, m, name) in own]
        seeds = " ".join(map(str, sorted({seed for cell in mine for seed in cell.seeds})))
        # one split counted once, whatever the number of its metrics
        n = sum({k[1]: c.utterances for k, c in own.items() if k[3] == name}.values())
        shown = [_show(own.get((setting, s, m, name))) for s, m in columns]
        rows.append([name, seeds, str(max(c.folds for c in mine) or "-"), str(n), *shown])
    notes = ["± is the standard deviation over seeds; folds of a seed are pooled before scoring"]
    if any(not c.pooled for c in own.values()):
        notes.append("some cells are means of the rows of results.csv, because their predictions are not there")
    return Table(setting.describe(), header, rows, notes)


def cost_table(costs: list[dict[str, str]]) -> Table:
    """Compression: all that is the same in every run."""
    header = ["upstream", "front end", "it.", "layers x width", "params (M)", "ΔS (%)", "GMAC/s"]
    rows = [
        [
            *(c["upstream"], c.get("front_end") or "-", c.get("iteration") or "-"),
            f"{c.get('layers', '?')} x {c.get('width', '?')}",
            *(f"{float(c['params_m']):.2f}", f"{float(c['delta_s']):.1f}", f"{float(c['macs_g_per_s']):.3f}"),
        ]
        for c in costs
    ]
    return Table(
        "Compression",
        header,
        rows,
        ["ΔS: parameters saved against HL; GMAC/s: per second of audio, 10 s clip"],
    )


def _show(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    spread = f" ±{100 * cell.spread:.1f}" if len(cell.seeds) > 1 else ""
    return percent(cell.value, cell.low, cell.high) + spread
