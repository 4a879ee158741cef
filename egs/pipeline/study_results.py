"""The end of a study: probes of every row, and one table with intervals of the differences to the base row, or to the
row that a row names."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.files import atomic_file, read_json, write_text
from egs.pipeline.study import Study, describe
from egs.pipeline.work import EXPORT_NAME, Job, dotted

if TYPE_CHECKING:
    from downstream.report.comparisons import Comparison
    from downstream.report.rows import Row

log = logging.getLogger(__name__)

FOLDER = "study"


@dataclass(frozen=True)
class Line:
    """One row of the study in one column: its value and 95 % interval as shares, its difference to `against` in the
    same draws (positive where it is better), and what it cost. `verdict`: `better` or `worse` where the interval of the
    difference lies on one side of 0. A row that is compared with several has a line for each."""

    row: str
    changes: str
    task: str
    split: str
    metric: str
    value: float
    ci_low: float | None
    ci_high: float | None
    seeds: int
    speakers: int | None
    against: str
    difference: float | None
    diff_low: float | None
    diff_high: float | None
    verdict: str
    params_m: float | None
    macs_g_per_s: float | None
    steps: int | None
    train_s: float | None


def run_probes(study: Study, job: Job) -> None:
    """Train and score the probes of all rows and of the context, on every task of the recipe; what is complete is
    kept."""
    from downstream.grid.run import run as benchmark
    from upstream.tools.cost import measure

    models = _models(study, job)
    exp = job.exp / FOLDER
    measure(models, exp / "compression.csv")
    names = [*(name for name in study.config.upstreams if name not in study.recipe.pretrain), *_named(models)]
    for task, config in study.recipe.tasks.items():
        benchmark(
            task=task,
            recipe=study.recipe.name,
            data_dir=job.data,
            exp_dir=exp,
            upstreams=names,
            models_dir=job.models,
            protocol=config.protocol,
            seeds=study.config.seeds or config.seeds,
            folds=config.folds,
            overrides=dict(dotted(config.overrides)),
            jobs=job.jobs,
        )


def _models(study: Study, job: Job) -> dict[str, Path]:
    """Name in the tables -> model directory."""
    context = [name for name in study.config.upstreams if name in study.recipe.pretrain]
    models = {EXPORT_NAME.get(name, name): job.model_dir(name) for name in context}
    return models | {row: job.model_dir(study.run_of(row)) for row in study.rows}


def _named(models: dict[str, Path]) -> list[str]:
    return [f"{name}={path}" for name, path in models.items()]


def write_results(study: Study, job: Job, stale: Mapping[str, str] | None = None) -> str:
    """Write study.csv, STUDY.md and the figures from what is there; returns the table as text.

    Rows that are `stale` (with the reason why) are left out with a note, and so is what was measured with another
    protocol or other weights than those of now. Raises ReportError when results are missing or do not agree with their
    predictions.
    """
    from downstream.report import comparisons
    from downstream.report.cells import make_cells
    from downstream.report.columns import columns_of
    from downstream.report.evidence import Predictions
    from downstream.report.rows import ReportError, is_test, read_rows

    exp = job.exp / FOLDER
    shown = {*study.rows, *(EXPORT_NAME.get(name, name) for name in study.config.upstreams)}
    found = [r for r in read_rows(exp / "results.csv") if is_test(r.split) and r.upstream in shown]
    rows, notes = _valid(study, job, found, dict(stale or {}))
    if not rows:
        raise ReportError(f"{exp / 'results.csv'}: no row of a test split yet" + "".join(f"; {n}" for n in notes))
    cells = make_cells(rows, Predictions(exp))
    made, left = comparisons.compare(
        cells,
        study.recipe.name,
        lambda names: [(n, other, "") for n in sorted(names) for other in study.compared_with(n) if other in names],
    )
    compared = {(c.task, c.split, c.metric, c.upstream, c.against): c for c in made}
    columns = list(dict.fromkeys((c.setting.task, c.split, c.metric) for c in columns_of(cells)))
    lines, further = _lines(study, job, cells, compared, columns)
    with atomic_file(exp / "study.csv") as path, open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [f.name for f in dataclasses.fields(Line)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(line) for line in [*lines, *further])
    _draw(study, lines, columns, exp / "study.png")
    curves = _draw_curves(study, job, [row for row in study.rows if row not in (stale or {})], exp / "curves.png")
    notes += _told(further)
    notes += [f"left out: {item.what}: {item.reason}" for item in left]
    text = _table(study, lines, columns, notes)
    write_text(exp / "STUDY.md", _page(study, job, text.markdown(), curves=curves))
    return text.terminal()


def _valid(study: Study, job: Job, rows: list[Row], stale: dict[str, str]) -> tuple[list[Row], list[str]]:
    """What was measured of the models and with the protocols of now, and notes on the rest."""
    from downstream import protocols
    from downstream.upstreams import UpstreamMissing, resolve

    tags = {
        task: protocols.load(task, config.protocol, dict(dotted(config.overrides))).tag
        for task, config in study.recipe.tasks.items()
    }
    keys = {}
    for name, path in _models(study, job).items():
        with contextlib.suppress(UpstreamMissing):
            keys[name] = resolve(f"{name}={path}", job.models).key

    def why(row: Row) -> str:
        if row.upstream in stale:
            return stale[row.upstream]
        if row.setting.protocol != tags.get(row.setting.task):
            return f"{row.setting.task.upper()} was measured with protocol {row.setting.protocol}"
        cell = Path(row.run_dir) / "cell.json"
        measured = read_json(cell).get("upstream_key") if cell.is_file() else None
        if measured is not None and row.upstream in keys and measured != keys[row.upstream]:
            return f"{row.setting.task.upper()} was measured with other weights"
        return ""

    reasons = [why(row) for row in rows]
    left = dict.fromkeys((row.upstream, reason) for row, reason in zip(rows, reasons, strict=True) if reason)
    notes = [f"left out: {name}: {reason}" for name, reason in left]
    return [row for row, reason in zip(rows, reasons, strict=True) if not reason], notes


def _lines(
    study: Study,
    job: Job,
    cells: dict[Any, Any],
    compared: dict[tuple[str, str, str, str, str], Comparison],
    columns: list[tuple[str, str, str]],
) -> tuple[list[Line], list[Line]]:
    """A line for each row and column with the first difference, and those of further differences."""
    from upstream.model.family import macs_per_second, parameters

    runs = {EXPORT_NAME.get(name, name): name for name in study.config.upstreams if name in study.recipe.pretrain}
    runs |= {row: study.run_of(row) for row in study.rows}
    order = [*(EXPORT_NAME.get(name, name) for name in study.config.upstreams), *study.rows]
    lines: list[Line] = []
    further: list[Line] = []
    for task, split, metric in columns:
        column = {u: cell for (st, sp, m, u), cell in cells.items() if (st.task, sp, m) == (task, split, metric)}
        for name in order:
            if name not in column:
                continue
            cell, others = column[name], study.compared_with(name)
            found = {other: c for other in others if (c := compared.get((task, split, metric, name, other)))}
            first = others[0] if others and others[0] in found else ""
            run = study.recipe.pretrain[runs[name]] if name in runs else None
            geometry = study.recipe.family[run.geometry] if run else None
            trained = name in study.rows
            line = Line(
                row=name,
                changes=describe(study.rows[name]) if name in study.rows else "context",
                task=task,
                split=split,
                metric=metric,
                value=round(cell.value, 6),
                ci_low=None if cell.low is None else round(cell.low, 6),
                ci_high=None if cell.high is None else round(cell.high, 6),
                seeds=len(cell.seeds),
                **_compared(first, found.get(first)),
                params_m=round(parameters(geometry) / 1e6, 4) if geometry else None,
                macs_g_per_s=round(macs_per_second(geometry) / 1e9, 4) if geometry else None,
                steps=run.train.steps if run and trained else None,
                train_s=_seconds(job.exp / runs[name] / "metrics.csv") if trained else None,
            )
            lines.append(line)
            further += [dataclasses.replace(line, **_compared(o, c)) for o, c in found.items() if o != first]
    return lines, further


def _compared(against: str, difference: Comparison | None) -> dict[str, Any]:
    """The fields of a Line that hold a difference."""
    return {
        "speakers": difference.speakers if difference else None,
        "against": against,
        "difference": difference.difference if difference else None,
        "diff_low": difference.ci_low if difference else None,
        "diff_high": difference.ci_high if difference else None,
        "verdict": _verdict(difference),
    }


def _told(further: list[Line]) -> list[str]:
    """A note for each further comparison of a row."""
    found: dict[tuple[str, str], list[str]] = {}
    for line in further:
        where = f"{line.task.upper()} {line.split} {_interval(line)}"
        found.setdefault((line.row, line.against), []).append(where)
    return [f"{row} against {other}: {'; '.join(told)}" for (row, other), told in found.items()]


def _interval(line: Line) -> str:
    """A difference with its interval and verdict."""
    from downstream.report.text import signed

    mark = "" if line.verdict == "not shown" else f" {line.verdict}"
    return f"{signed(line.difference)} [{signed(line.diff_low)}, {signed(line.diff_high)}]{mark}"


def _verdict(difference: Comparison | None) -> str:
    if difference is None:
        return ""
    return "better" if difference.ci_low > 0 else "worse" if difference.ci_high < 0 else "not shown"


def _seconds(path: Path) -> float | None:
    """Wall time of a training run."""
    if not path.is_file():
        return None
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return float(rows[-1]["seconds"]) if rows else None


def _table(study: Study, lines: list[Line], columns: list[tuple[str, str, str]], notes: list[str]) -> Any:
    from downstream.report.rows import metric_info
    from downstream.report.text import Table, number, percent

    titles = [
        f"{task.upper()} {split} {metric_info(metric).label} {'↑' if metric_info(metric).sign > 0 else '↓'}"
        for task, split, metric in columns
    ]
    header = ["row", "changes", "params (M)", "GMAC/s", "train (min)", "against"]
    header += [title for name in titles for title in (name, "difference")]
    rows = []
    for name in dict.fromkeys(line.row for line in lines):
        own = {(line.task, line.split, line.metric): line for line in lines if line.row == name}
        first = next(iter(own.values()))
        cells = [name, first.changes, number(first.params_m, 2), number(first.macs_g_per_s, 3)]
        cells.append(number(None if first.train_s is None else first.train_s / 60))
        cells.append(next((line.against for line in own.values() if line.against), "-"))
        for column in columns:
            line = own.get(column)
            if line is None or line.difference is None:
                cells += [percent(line.value, line.ci_low, line.ci_high) if line else "-", "-"]
                continue
            cells += [percent(line.value, line.ci_low, line.ci_high), _interval(line)]
        rows.append(cells)
    people = {f"{line.task.upper()} {line.split}": line.speakers for line in lines if line.speakers}
    told = [f"{where} {count}{', whose utterances are drawn' if count == 1 else ''}" for where, count in people.items()]
    notes = [
        "values in percent with 95 % intervals; differences to the row under `against` in percentage points, positive "
        "where the row is better, by paired bootstrap over speakers of the mean over seeds; with fewer than about ten "
        "speakers it is too narrow" + (f" (speakers: {'; '.join(told)})" if told else ""),
        "better or worse: the interval lies on one side of 0. It is not corrected for the number of rows: of twenty "
        "rows that change nothing, one is expected to look different",
        "one pre-training run a row: its own chance (seed, order of batches) is in no interval",
        *notes,
    ]
    many = f"{len(study.rows)} variant{'s' if len(study.rows) > 1 else ''}"
    return Table(f"Study of {study.recipe.name}: {study.config.run} in {many}", header, rows, notes)


def _page(study: Study, job: Job, table: str, *, curves: bool) -> str:
    from downstream.report.provenance import SYNTHETIC_BANNER
    from downstream.report.rows import SYNTHETIC
    from downstream.revision import commit

    parts = [f"# Study of `{study.recipe.name}`: `{study.config.run}` at equal budget"]
    if study.recipe.corpora.module in SYNTHETIC:
        parts.append(SYNTHETIC_BANNER)
    common = describe(study.config.common)
    parts.append(f"Command: `{job.command}` (commit {commit()}). Every row: {common}; its changes are in the table.")
    parts += [table, "![every row with its intervals](study.png)"]
    if curves:
        parts.append(
            "![dev accuracy on masked frames](curves.png)\n\nAccuracies of rows with other units (another k, layer or "
            "PCA) cannot be compared with each other."
        )
    return "\n\n".join(parts) + "\n"


def _draw(study: Study, lines: list[Line], columns: list[tuple[str, str, str]], path: Path) -> None:
    """Every row with its interval, one panel a column; the dotted line is the base row, a cross the row that a row is
    compared with where that is another."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from downstream.report.rows import metric_info

    order = list(dict.fromkeys(line.row for line in lines))[::-1]
    figure = Figure(figsize=(1.5 + 4 * len(columns), 1.5 + 0.28 * len(order)), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, column in zip(figure.subplots(1, len(columns), squeeze=False, sharey=True)[0], columns, strict=True):
        own = {line.row: line for line in lines if (line.task, line.split, line.metric) == column}
        for line in own.values():
            value = 100 * line.value
            low = value if line.ci_low is None else 100 * line.ci_low
            high = value if line.ci_high is None else 100 * line.ci_high
            colour = {"better": "C2", "worse": "C3"}.get(line.verdict, "C0")
            bars = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axis.errorbar([value], [order.index(line.row)], xerr=bars, fmt="o", color=colour, capsize=2, markersize=4)
            if line.against not in ("", study.config.base):
                axis.plot([100 * own[line.against].value], [order.index(line.row)], "x", color="grey", markersize=5)
            if line.row == study.config.base:
                axis.axvline(value, color="grey", linestyle=":", linewidth=1)
        info = metric_info(column[2])
        axis.set_yticks(range(len(order)), order)
        better = "more" if info.sign > 0 else "less"
        axis.set_xlabel(f"{column[0].upper()} {column[1]} {info.label} (%), {better} is better")
        axis.grid(alpha=0.3, axis="x")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})


def _draw_curves(study: Study, job: Job, rows: list[str], path: Path) -> bool:
    """Dev accuracy on masked frames over steps, a line for each of the rows that predicts units; False without one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from downstream.report.figures import read_curve

    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    drawn = 0
    for row in rows:
        metrics = job.exp / study.run_of(row) / "metrics.csv"
        if not study.recipe.pretrain[study.run_of(row)].units or not metrics.is_file():
            continue
        curve = read_curve(metrics)
        kind = drawn // 10 % 3  # there are ten colours
        style = {"linestyle": ("-", "--", ":")[kind], "marker": ".x+"[kind]}
        axis.plot(curve["step"], [100 * v for v in curve["valid_masked_accuracy"]], label=row, **style)
        drawn += 1
    if not drawn:
        return False
    axis.set_xlabel("step")
    axis.set_ylabel("dev accuracy on masked frames (%)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})
    return True
