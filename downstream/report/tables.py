"""Tables as text (terminal, Markdown), and the tables of metrics, model costs and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pandas
from tabulate import tabulate

from downstream.report.columns import Column, Measurement
from downstream.report.rows import Result, task_order, upstream_order
from downstream.report.runs import ProbeRun


@dataclass
class Table:
    """Header, rows of strings, and notes below; the first column is aligned to the left, the others to the right."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def terminal(self) -> str:
        """Title, aligned columns, notes."""
        return "\n".join([self.title, self._text(self.header, self.rows, "simple"), *self.notes])

    def markdown(self) -> str:
        """The table with pipes, and the notes as a list. Names and texts cannot become HTML or further columns."""
        header, *rows = [[plain(text).replace("|", "\\|") for text in row] for row in (self.header, *self.rows)]
        notes = ["", *(f"- {plain(note)}" for note in self.notes)] if self.notes else []
        return "\n".join([self._text(header, rows, "pipe"), *notes])

    def _text(self, header: list[str], rows: list[list[str]], form: str) -> str:
        align = ["left"] + ["right"] * (len(header) - 1)
        return tabulate(rows, header, form, disable_numparse=True, colalign=align if rows else None)


def plain(text: str) -> str:
    """Text for Markdown that is shown as it is: a tag inside it is not HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def percent(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A share as percent with one decimal, with its interval if given; a dash for None."""
    if value is None:
        return "-"
    if low is None or high is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def signed(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.1f}"


def difference(value: float, low: float, high: float) -> str:
    """A difference of shares in percentage points, with its interval."""
    return f"{signed(value)} [{signed(low)}, {signed(high)}]"


def number(value: float | None, digits: int = 1) -> str:
    """A number with fixed digits; a dash for None or NaN."""
    return "-" if pandas.isna(value) else f"{value:.{digits}f}"


@dataclass(frozen=True)
class UpstreamFacts:
    """Facts about an upstream besides its results; None if they were not measured."""

    front_end: str = ""
    iteration: str = ""
    params_m: float | None = None
    macs_g_per_s: float | None = None
    delta_s: float | None = None
    rtf_cpu: float | None = None


def read_costs(path: Path) -> list[dict[str, str]]:
    """Rows of compression.csv; empty before stage 9 has run."""
    return pandas.read_csv(path, dtype=str, keep_default_na=False).to_dict("records") if path.is_file() else []


def upstream_facts(rows: Sequence[Result], costs: Sequence[dict[str, str]]) -> dict[str, UpstreamFacts]:
    """Facts of each upstream, from compression.csv if it has them, else from the result rows."""
    known: dict[str, UpstreamFacts] = {}
    for row in rows:
        facts = UpstreamFacts(row.front_end, row.iteration, row.params_m, row.macs_g_per_s, rtf_cpu=row.rtf_cpu)
        known.setdefault(row.upstream, facts)
    for cost in costs:
        name = cost["upstream"]
        if name in known:
            numbers = {k: float(cost[k]) for k in ("params_m", "macs_g_per_s", "delta_s", "rtf_cpu") if cost.get(k)}
            known[name] = UpstreamFacts(cost.get("front_end", ""), cost.get("iteration", ""), **numbers)
    return known


def metrics_table(columns: Sequence[Column]) -> Table:
    """Every metric of one setting: a row for each upstream, a column for each split and metric."""
    names = upstream_order({name for column in columns for name in column.values})
    header = ["upstream", "seeds", "folds", "n", *(column.heading for column in columns)]
    rows = []
    for name in names:
        own = [(column.split, column.values[name]) for column in columns if name in column.values]
        seeds = " ".join(map(str, sorted({seed for _, measurement in own for seed in measurement.seeds})))
        folds = max(measurement.folds for _, measurement in own)
        utterances = sum({split: measurement.utterances for split, measurement in own}.values())
        shown = [_with_spread(column.values.get(name)) for column in columns]
        rows.append([name, seeds, str(folds or "-"), str(utterances), *shown])
    notes = ["± is the standard deviation over seeds; the folds of a seed are pooled before scoring"]
    if any(measurement.counts is None for column in columns for measurement in column.values.values()):
        notes.append("some values are means of the rows of results.csv, because their predictions are missing")
    return Table(columns[0].setting.describe(), header, rows, notes)


def _with_spread(measurement: Measurement | None) -> str:
    if measurement is None:
        return "-"
    spread = f" ±{100 * measurement.spread:.1f}" if len(measurement.seeds) > 1 else ""
    return percent(measurement.value, measurement.low, measurement.high) + spread


def cost_table(costs: Sequence[dict[str, str]]) -> Table:
    """Sizes and multiply-accumulates of the models; the same in every run."""
    header = ["upstream", "front end", "it.", "layers x width", "params (M)", "ΔS (%)", "GMAC/s"]
    rows = [
        [
            *(c["upstream"], c.get("front_end") or "-", c.get("iteration") or "-"),
            f"{c.get('layers', '?')} x {c.get('width', '?')}",
            *(f"{float(c['params_m']):.2f}", f"{float(c['delta_s']):.1f}", f"{float(c['macs_g_per_s']):.3f}"),
        ]
        for c in costs
    ]
    notes = ["ΔS: parameters saved against HL; GMAC/s: per second of audio, 10 s clip"]
    return Table("Compression", header, rows, notes)


def time_tables(runs: Sequence[ProbeRun], costs: Sequence[dict[str, str]]) -> list[Table]:
    """Times, which differ from run to run: real-time factors, seconds of each upstream and task, and of each command.

    A table without measurements is left out.
    """
    found = [_speed_table(costs)]
    if runs:
        columns = ("setting", "upstream", "extraction_s", "head_s", "wall_s")
        frame = pandas.DataFrame([{name: getattr(run, name) for name in columns} for run in runs])
        frame["grid"] = [run.grid for run in runs]
        found += [_run_table(frame), _grid_table(frame)]
    return [table for table in found if table.rows]


def _speed_table(costs: Sequence[dict[str, str]]) -> Table:
    rtf = {c["upstream"]: f"{float(c['rtf_cpu']):.4f}" for c in costs}
    notes = [
        f"RTF: seconds of computing per second of audio, median of {c.get('runs', '?')} runs on "
        f"{c.get('seconds', '?')} s, CPU, {c.get('threads', '?')} threads, batch 1"
        for c in costs[:1]
    ]
    rows = [[name, rtf[name]] for name in upstream_order(set(rtf))]
    return Table("Speed of the upstreams", ["upstream", "RTF"], rows, notes)


def _sums(frame: pandas.DataFrame) -> list[float | None]:
    """Seconds of features, heads and whole runs; None if no run of the frame has them."""
    columns = frame[["extraction_s", "head_s", "wall_s"]].astype(float)
    return [None if pandas.isna(total) else float(total) for total in columns.sum(min_count=1)]


def _run_table(frame: pandas.DataFrame) -> Table:
    rows = []
    groups = {key: own for key, own in frame.groupby(["setting", "upstream"], sort=False)}
    for setting in task_order({setting for setting, _ in groups}):
        task = " ".join([setting.short(), *([setting.budget] if setting.budget else [])])
        for name in upstream_order({upstream for other, upstream in groups if other == setting}):
            own = groups[setting, name]
            features, heads, whole = _sums(own)
            each = None if heads is None else heads / len(own)
            rows.append([name, task, setting.protocol, str(len(own)), *map(number, (features, heads, each, whole))])
    header = ["upstream", "task", "protocol", "runs", "features (s)", "heads (s)", "a head (s)", "wall (s)"]
    notes = [
        "runs: seeds x folds; their times are added up, also if the runs were in parallel",
        "features: computing the features that the cache did not hold, divided among the runs that use them; about 0 "
        "from a warm cache. heads: training with its search, and scoring",
    ]
    return Table("Time of the runs", header, rows, notes)


def _grid_table(frame: pandas.DataFrame) -> Table:
    """Times of every benchmark command: from its start to its last complete run (also after a kill)."""
    frame = frame[frame["grid"].notna()]
    rows = []
    for started, own in frame.groupby(frame["grid"].map(lambda grid: grid.started)):
        tasks = "+".join(dict.fromkeys(s.task.upper() for s in task_order(set(own["setting"]))))
        when = datetime.fromtimestamp(started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        features, heads, _ = _sums(own)
        wall = max(grid.wall_s for grid in own["grid"])
        processes = max(grid.processes for grid in own["grid"])
        rows.append([tasks, when, str(len(own)), str(processes), *map(number, (features, heads, wall))])
    header = ["task", "started", "runs", "processes", "features (s)", "heads (s)", "wall (s)"]
    notes = [
        "wall: from the start of the command to its last complete run, including loading data and libraries; with "
        "several processes it may be less than features and heads together"
    ]
    return Table("Time of the grids", header, rows, notes)
