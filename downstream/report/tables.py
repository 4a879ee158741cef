"""The tables of the report, drawn from cells: the leaderboards, one table per task, costs, and times."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from downstream.report.cells import Cell, Key
from downstream.report.rows import HEADLINE, TASKS, Row, Setting, metric_info, upstream_order
from downstream.report.text import Table, number, percent

FBANK_NOTE = "fbank: S3PRL's log-mel features, 100 frames per second (every other upstream gives 50); no parameters"


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
        known.setdefault(row.upstream, Model(row.front_end, row.iteration, row.params_m, row.macs_g_per_s))
    for cost in costs:
        name = cost["upstream"]
        if name in known:
            numbers = {k: float(cost[k]) for k in ("params_m", "macs_g_per_s", "delta_s", "rtf_cpu") if cost.get(k)}
            known[name] = Model(cost.get("front_end", ""), cost.get("iteration", ""), **numbers)
    return known


def task_order(settings: set[Setting]) -> list[Setting]:
    rank = {task: i for i, task in enumerate(TASKS)}
    return sorted(settings, key=lambda s: (rank.get(s.task, len(rank)), s))


def headline(setting: Setting, metrics: set[str]) -> str:
    """The metric that stands for a task."""
    known = [m for m in HEADLINE.get(setting.task, ()) if m in metrics]
    return known[0] if known else sorted(metrics)[0]


def split_settings(settings: set[Setting]) -> list[list[Setting]]:
    """Settings that may stand side by side: one per task in each group, so that no column mixes protocols."""
    groups: list[list[Setting]] = []
    for setting in task_order(settings):
        for group in groups:
            if all(setting.task != other.task for other in group):
                group.append(setting)
                break
        else:
            groups.append([setting])
    return groups


def mixed_protocols(cells: dict[Key, Cell]) -> list[str]:
    """One sentence per task whose rows do not share a setting, naming who has which."""
    by_task: dict[str, dict[Setting, set[str]]] = defaultdict(lambda: defaultdict(set))
    for setting, _, _, upstream in cells:
        by_task[setting.task][setting].add(upstream)
    sentences = []
    for task, settings in sorted(by_task.items()):
        if len(settings) > 1:
            who = "; ".join(
                f"{s.describe()}: {', '.join(upstream_order(settings[s]))}" for s in task_order(set(settings))
            )
            sentences.append(
                f"{task.upper()} has rows of {len(settings)} settings, shown apart and not comparable ({who})"
            )
    return sentences


def leaderboard(cells: dict[Key, Cell], group: list[Setting], known: dict[str, Model], title: str) -> Table:
    """Rows = upstreams; columns = parameters, compression, MACs, and each test split's headline metric."""
    columns = []
    for setting in group:
        splits = sorted({s for st, s, _, _ in cells if st == setting})
        metrics = {m for st, _, m, _ in cells if st == setting}
        columns += [(setting, split, headline(setting, metrics)) for split in splits]
    names = upstream_order({u for st, _, _, u in cells if st in group})
    header = ["upstream", "front end", "it.", "params (M)", "ΔS (%)", "GMAC/s"]
    header += [_column(setting, split, metric) for setting, split, metric in columns]
    rows = []
    for name in names:
        m = known.get(name, Model())
        facts = [
            name,
            m.front_end or "-",
            m.iteration or "-",
            number(m.params_m, 2),
            number(m.delta_s),
            number(m.macs_g_per_s, 3),
        ]
        rows.append(facts + [_show(cells.get((setting, split, metric, name))) for setting, split, metric in columns])
    notes = [setting.describe() for setting in group]
    notes.append(
        "value [95 % interval by speaker, by utterance where there is one speaker], all in percent; "
        "↓ less is better, ↑ more is better"
    )
    if "fbank" in names:
        notes.append(FBANK_NOTE)
    notes += _coverage_notes({k: c for k, c in cells.items() if k[0] in group})
    return Table(title, header, rows, notes)


def task_table(cells: dict[Key, Cell], setting: Setting) -> Table:
    """Every metric of a task: rows = upstreams, columns = splits and metrics."""
    own = {k: c for k, c in cells.items() if k[0] == setting}
    order = {name: i for i, name in enumerate(("cer", "wer", "ua", "wa", "accuracy", "macro_f1"))}
    columns = sorted({(s, m) for _, s, m, _ in own}, key=lambda x: (x[0], order.get(x[1], len(order)), x[1]))
    names = upstream_order({u for *_, u in own})
    header = ["upstream", "seeds", "folds", "n", *(_column(setting, s, m) for s, m in columns)]
    rows = []
    for name in names:
        mine = [own[setting, s, m, name] for s, m in columns if (setting, s, m, name) in own]
        seeds = " ".join(map(str, sorted({seed for cell in mine for seed in cell.seeds})))
        # one split counted once, whatever the number of its metrics
        n = sum({k[1]: c.utterances for k, c in own.items() if k[3] == name}.values())
        shown = [_show(own.get((setting, s, m, name)), spread=True) for s, m in columns]
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


def time_table(rows: list[Row], costs: list[dict[str, str]]) -> Table:
    """What differs between two identical runs: real-time factors and wall times."""
    rtf = {c["upstream"]: c for c in costs}
    tasks = [t for t in TASKS if any(r.setting.task == t for r in rows)]
    names = upstream_order({r.upstream for r in rows} | set(rtf))
    body = []
    for name in names:
        walls = []
        for task in tasks:
            runs = {r.run_dir: r.wall_s for r in rows if r.upstream == name and r.setting.task == task}
            walls.append("-" if not runs or None in runs.values() else f"{sum(runs.values()):.0f}")
        factor = f"{float(rtf[name]['rtf_cpu']):.4f}" if name in rtf else "-"
        body.append([name, factor, *walls])
    notes = []
    if costs:
        c = costs[0]
        notes.append(
            f"RTF: seconds of work per second of audio, median of {c.get('runs', '?')} runs on "
            f"{c.get('seconds', '?')} s, CPU, {c.get('threads', '?')} threads, batch 1"
        )
    return Table("Times", ["upstream", "RTF", *(f"{t.upper()} wall (s)" for t in tasks)], body, notes)


def _column(setting: Setting, split: str, metric: str) -> str:
    info = metric_info(metric)
    where = "" if split == "test" else f" {split.removeprefix('test_')}"
    return f"{setting.task.upper()}{where} {info.label} {'↑' if info.sign > 0 else '↓'}"


def _show(cell: Cell | None, *, spread: bool = False) -> str:
    if cell is None:
        return "-"
    shown = percent(cell.value, cell.low, cell.high)
    if spread and len(cell.seeds) > 1:
        shown += f" ±{100 * cell.spread:.1f}"
    return shown


def _coverage_notes(cells: dict[Key, Cell]) -> list[str]:
    """Who has fewer seeds or folds than others of the same column, and so another kind of mean."""
    most: dict[tuple[Setting, str, str], tuple[set[int], int]] = {}
    for (setting, split, metric, _), cell in cells.items():
        seeds, folds = most.get((setting, split, metric), (set(), 0))
        most[setting, split, metric] = (seeds | set(cell.seeds), max(folds, cell.folds))
    notes = set()
    for (setting, split, metric, upstream), cell in cells.items():
        seeds, folds = most[setting, split, metric]
        if lacking := sorted(seeds - set(cell.seeds)):
            names = ", ".join(map(str, lacking))
            notes.add(f"{upstream}: {setting.task.upper()} lacks seed {names} that others have")
        if len(cell.rows) < folds * len(cell.seeds):
            done = f"{len(cell.rows)} of {folds * len(cell.seeds)} runs over seeds and folds"
            notes.add(f"{upstream}: {setting.task.upper()} has only {done}")
    return sorted(notes)
