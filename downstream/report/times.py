"""How long things took, all that two identical runs differ in: upstreams, their features and heads, whole grids."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timezone

from downstream.report.columns import task_order
from downstream.report.rows import Setting, upstream_order
from downstream.report.runs import Run
from downstream.report.text import Table, number


def time_tables(runs: list[Run], costs: list[dict[str, str]]) -> list[Table]:
    """Real-time factors, seconds of each upstream in each task, and of each grid; what nobody measured has no table."""
    found = [_factors(costs), _runs(runs), _grids(runs)]
    return [table for table in found if table.rows]


def _factors(costs: list[dict[str, str]]) -> Table:
    rtf = {c["upstream"]: f"{float(c['rtf_cpu']):.4f}" for c in costs}
    notes = [
        f"RTF: seconds of work per second of audio, median of {c.get('runs', '?')} runs on {c.get('seconds', '?')} s, "
        f"CPU, {c.get('threads', '?')} threads, batch 1"
        for c in costs[:1]
    ]
    rows = [[name, rtf[name]] for name in upstream_order(set(rtf))]
    return Table("Speed of the upstreams", ["upstream", "RTF"], rows, notes)


def _runs(runs: list[Run]) -> Table:
    grouped: dict[tuple[Setting, str], list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.setting, run.upstream].append(run)
    rows = []
    for setting in task_order({run.setting for run in runs}):
        where = " ".join([setting.short(), *([setting.budget] if setting.budget else [])])
        for name in upstream_order({upstream for own, upstream in grouped if own == setting}):
            own = grouped[setting, name]
            features, heads = _sum([run.extraction_s for run in own]), _sum([run.head_s for run in own])
            each = None if heads is None else heads / len(own)
            whole = _sum([run.wall_s for run in own])
            rows.append([name, where, setting.protocol, str(len(own)), *map(number, (features, heads, each, whole))])
    header = ["upstream", "task", "protocol", "runs", "features (s)", "heads (s)", "a head (s)", "wall (s)"]
    notes = [
        "runs: seeds x folds, their times added up, whatever ran beside them",
        "features: what the cache did not hold was computed, and shared out among the runs that use it; about 0 from a "
        "warm cache. heads: training with its search, and scoring",
    ]
    return Table("Time of the runs", header, rows, notes)


def _grids(runs: list[Run]) -> Table:
    """Every command that left runs: from its start to its last complete run, which holds after a kill, too."""
    grouped: dict[float, list[Run]] = defaultdict(list)
    for run in runs:
        if run.grid is not None:
            grouped[run.grid.started].append(run)
    rows = []
    for started, own in sorted(grouped.items()):
        tasks = "+".join(dict.fromkeys(s.task.upper() for s in task_order({run.setting for run in own})))
        when = datetime.fromtimestamp(started, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        sums = _sum([run.extraction_s for run in own]), _sum([run.head_s for run in own])
        wall = max(run.grid.wall_s for run in own)
        processes = max(run.grid.processes for run in own)
        rows.append([tasks, when, str(len(own)), str(processes), *map(number, (*sums, wall))])
    header = ["task", "started", "runs", "processes", "features (s)", "heads (s)", "wall (s)"]
    notes = [
        "wall: from the start of the command to its last complete run, with reading data and loading libraries; it may "
        "be less than features and heads together where several processes share them"
    ]
    return Table("Time of the grids", header, rows, notes)


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
