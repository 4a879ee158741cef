"""Probe all rows of a study, compare each with the base row or those under its `against`, write a table and figures."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.files import write_csv, write_text
from corpora.schema import flatten
from egs.pipeline.study import Study, describe
from egs.pipeline.work import Job
from upstream.names import EXPORT_NAMES

if TYPE_CHECKING:
    from downstream.report.claims import Comparison
    from downstream.report.columns import Column
    from downstream.report.drawing import Figure
    from downstream.report.rows import Result
    from downstream.report.tables import Table

log = logging.getLogger(__name__)

FOLDER = "study"


@dataclass(frozen=True)
class StudyRow:
    """One row of study.csv: a variant in one column, its difference to `against`, and its costs.

    Values and differences are shares with 95 % intervals; differences are positive if the row is better. `verdict`:
    `better` or `worse` if the interval of the difference excludes 0. A variant that is compared with several others has
    one row for each.
    """

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
    """Train and score the missing probes of all rows and context upstreams, on every task of the recipe."""
    from downstream.grid.run import run as benchmark
    from upstream.tools.cost import measure

    models = _models(study, job)
    exp = job.exp / FOLDER
    measure(models, exp / "compression.csv")
    names = [name for name in study.config.upstreams if name not in study.recipe.pretrain]
    names += [f"{name}={path}" for name, path in models.items()]
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
            overrides=flatten(config.overrides),
            jobs=job.jobs,
        )


def _runs(study: Study) -> dict[str, str]:
    """Name in the tables -> pre-training run of the recipe: context models, then the rows."""
    context = [name for name in study.config.upstreams if name in study.recipe.pretrain]
    return {EXPORT_NAMES.get(name, name): name for name in context} | {row: study.run_of(row) for row in study.rows}


def _models(study: Study, job: Job) -> dict[str, Path]:
    """Name in the tables -> model directory."""
    return {name: job.model_dir(run) for name, run in _runs(study).items()}


def _names(study: Study) -> list[str]:
    """Names in the tables, in their order: context, then the rows."""
    return [*(EXPORT_NAMES.get(name, name) for name in study.config.upstreams), *study.rows]


def write_results(study: Study, job: Job, stale: Mapping[str, str] | None = None) -> str:
    """Write study.csv, STUDY.md and the figures from the stored results; return the table as text.

    `stale` rows (row -> reason) are left out with a note, and so are results of protocols or weights other than the
    current ones. Raises DownstreamError if results are missing or contradict their predictions.
    """
    from downstream import DownstreamError
    from downstream.report import drawing
    from downstream.report.claims import compare
    from downstream.report.columns import Predictions, headline_columns, make_columns
    from downstream.report.rows import is_test, read_rows

    exp = job.exp / FOLDER
    names = _names(study)
    found = [row for row in read_rows(exp / "results.csv") if is_test(row.split) and row.upstream in names]
    rows, notes = _current(study, job, found, dict(stale or {}))
    if not rows:
        raise DownstreamError(f"{exp / 'results.csv'}: no row of a test split yet" + "".join(f"; {n}" for n in notes))
    columns = headline_columns(make_columns(rows, Predictions(exp)))
    comparisons, unpaired = compare(
        columns,
        study.recipe.name,
        lambda present: [(n, o, "") for n in sorted(present) for o in study.compared_with(n) if o in present],
    )
    first, further = _rows(study, job, columns, comparisons)
    write_csv(exp / "study.csv", [field.name for field in dataclasses.fields(StudyRow)], [*first, *further])
    drawing.save(_intervals_figure(study, first, columns), exp)
    curves = curves_figure(study, job, [row for row in study.rows if row not in (stale or {})])
    if curves is not None:
        drawing.save(curves, exp)
    notes += _further_notes(further)
    notes += [f"not compared: {item.name}: {item.reason}" for item in unpaired]
    table = _table(study, first, columns, notes)
    write_text(exp / "STUDY.md", _page(study, job, table.markdown(), curves=curves is not None))
    return table.terminal()


def _current(study: Study, job: Job, rows: list[Result], stale: dict[str, str]) -> tuple[list[Result], list[str]]:
    """Drop rows measured with other weights or protocols, and stale ones; a note for each."""
    from downstream import protocols
    from downstream.grid.plan import read_cell
    from downstream.upstreams import UpstreamMissing, resolve

    tags = {
        task: protocols.load(task, config.protocol, flatten(config.overrides)).tag
        for task, config in study.recipe.tasks.items()
    }
    keys = {}
    for name, path in _models(study, job).items():
        with contextlib.suppress(UpstreamMissing):
            keys[name] = resolve(f"{name}={path}", job.models).key

    def reason_to_drop(row: Result) -> str:
        if row.upstream in stale:
            return stale[row.upstream]
        if row.setting.protocol != tags.get(row.setting.task):
            return f"{row.setting.task.upper()} was measured with protocol {row.setting.protocol}"
        measured = read_cell(Path(row.run_dir)).get("upstream_key")
        if measured is not None and row.upstream in keys and measured != keys[row.upstream]:
            return f"{row.setting.task.upper()} was measured with other weights"
        return ""

    reasons = [reason_to_drop(row) for row in rows]
    dropped = dict.fromkeys((row.upstream, reason) for row, reason in zip(rows, reasons, strict=True) if reason)
    notes = [f"left out: {name}: {reason}" for name, reason in dropped]
    return [row for row, reason in zip(rows, reasons, strict=True) if not reason], notes


def _rows(
    study: Study, job: Job, columns: Sequence[Column], comparisons: Sequence[Comparison]
) -> tuple[list[StudyRow], list[StudyRow]]:
    """One row for each variant and column with its first comparison, and the rows of further comparisons."""
    from upstream.model.family import macs_per_second, parameters

    runs = _runs(study)
    first: list[StudyRow] = []
    further: list[StudyRow] = []
    for column in columns:
        key = (column.setting.task, column.split, column.metric)
        compared = {(c.upstream, c.against): c for c in comparisons if (c.task, c.split, c.metric) == key}
        for name in _names(study):
            if name not in column.values:
                continue
            measured, others = column.values[name], study.compared_with(name)
            run = study.recipe.pretrain[runs[name]] if name in runs else None
            geometry = study.recipe.family[run.geometry] if run else None
            trained = name in study.rows
            row = StudyRow(
                row=name,
                changes=describe(study.rows[name]) if trained else "context",
                task=column.setting.task,
                split=column.split,
                metric=column.metric,
                value=round(measured.value, 6),
                ci_low=None if measured.low is None else round(measured.low, 6),
                ci_high=None if measured.high is None else round(measured.high, 6),
                seeds=len(measured.seeds),
                **_difference(compared.get((name, others[0])) if others else None),
                params_m=round(parameters(geometry) / 1e6, 4) if geometry else None,
                macs_g_per_s=round(macs_per_second(geometry) / 1e9, 4) if geometry else None,
                steps=run.train.steps if run and trained else None,
                train_s=_seconds(job.exp / runs[name] / "metrics.csv") if trained else None,
            )
            first.append(row)
            further += [
                dataclasses.replace(row, **_difference(compared[name, other]))
                for other in others[1:]
                if (name, other) in compared
            ]
    return first, further


def _difference(comparison: Comparison | None) -> dict[str, Any]:
    """The fields of a StudyRow about a comparison."""
    if comparison is None:
        empty = ("speakers", "difference", "diff_low", "diff_high")
        return dict.fromkeys(empty) | {"against": "", "verdict": ""}
    low, high = comparison.ci_low, comparison.ci_high
    return {
        "speakers": comparison.speakers,
        "against": comparison.against,
        "difference": comparison.difference,
        "diff_low": low,
        "diff_high": high,
        "verdict": "better" if low > 0 else "worse" if high < 0 else "not shown",
    }


def _seconds(path: Path) -> float | None:
    """Wall time of a training run in seconds, from its metrics.csv."""
    import pandas

    seconds = pandas.read_csv(path)["seconds"] if path.is_file() else ()
    return float(seconds.iloc[-1]) if len(seconds) else None


def _with_verdict(row: StudyRow) -> str:
    from downstream.report.tables import difference

    verdict = "" if row.verdict == "not shown" else f" {row.verdict}"
    return difference(row.difference, row.diff_low, row.diff_high) + verdict


def _further_notes(further: Sequence[StudyRow]) -> list[str]:
    """A note for each further comparison of a row."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in further:
        text = f"{row.task.upper()} {row.split} {_with_verdict(row)}"
        found.setdefault((row.row, row.against), []).append(text)
    return [f"{name} against {other}: {'; '.join(texts)}" for (name, other), texts in found.items()]


def _table(study: Study, rows: Sequence[StudyRow], columns: Sequence[Column], notes: list[str]) -> Table:
    from downstream.report.tables import Table, number, percent

    header = ["row", "changes", "params (M)", "GMAC/s", "train (min)", "against"]
    header += [title for column in columns for title in (column.heading, "difference")]
    lines = []
    for name in dict.fromkeys(row.row for row in rows):
        own = {(row.task, row.split, row.metric): row for row in rows if row.row == name}
        one = next(iter(own.values()))
        line = [name, one.changes, number(one.params_m, 2), number(one.macs_g_per_s, 3)]
        line.append(number(None if one.train_s is None else one.train_s / 60))
        line.append(next((row.against for row in own.values() if row.against), "-"))
        for column in columns:
            row = own.get((column.setting.task, column.split, column.metric))
            line.append(percent(row.value, row.ci_low, row.ci_high) if row else "-")
            line.append(_with_verdict(row) if row and row.difference is not None else "-")
        lines.append(line)
    speakers = {f"{row.task.upper()} {row.split}": row.speakers for row in rows if row.speakers}
    counts = [f"{test} {n}{', resampled by utterance' if n == 1 else ''}" for test, n in speakers.items()]
    notes = [
        "values in percent with 95 % intervals; differences to the row under `against` in percentage points, positive "
        "if the row is better: paired bootstrap over speakers of the mean over seeds; with fewer than about ten "
        "speakers the interval is too narrow" + (f" (speakers: {'; '.join(counts)})" if counts else ""),
        "better or worse: the interval excludes 0. It is not corrected for the number of rows: one of twenty rows "
        "without an effect is expected to be called better or worse",
        "one pre-training run per row: the variance between runs (seed, order of batches) is in no interval",
        *notes,
    ]
    many = f"{len(study.rows)} variant{'s' if len(study.rows) > 1 else ''}"
    return Table(f"Study of {study.recipe.name}: {study.config.run} in {many}", header, lines, notes)


def _page(study: Study, job: Job, table: str, *, curves: bool) -> str:
    from downstream.report.provenance import SYNTHETIC_BANNER
    from downstream.report.rows import SYNTHETIC
    from downstream.score.results import commit

    parts = [f"# Study of `{study.recipe.name}`: `{study.config.run}` at equal budget"]
    if study.recipe.corpora.module in SYNTHETIC:
        parts.append(SYNTHETIC_BANNER)
    common = describe(study.config.common)
    parts.append(f"Command: `{job.command}` (commit {commit()}). Every row: {common}; the table shows its changes.")
    parts += [table, "![every row with its intervals](study.png)"]
    if curves:
        parts.append(
            "![dev accuracy on masked frames](curves.png)\n\nAccuracies of rows with different units (k, layer or PCA) "
            "are not comparable."
        )
    return "\n\n".join(parts) + "\n"


def _intervals_figure(study: Study, rows: Sequence[StudyRow], columns: Sequence[Column]) -> Figure:
    """Every row with its interval, one panel for each column.

    The dotted line is the base row; a cross marks the row that a row is compared with, if it is not the base row.
    """
    from downstream.report.drawing import Figure, IntervalRow, interval_panel

    order = list(dict.fromkeys(row.row for row in rows))
    panels = []
    for column in columns:
        key = (column.setting.task, column.split, column.metric)
        own = {row.row: row for row in rows if (row.task, row.split, row.metric) == key}
        points = [
            IntervalRow(
                row.row,
                row.value,
                row.ci_low,
                row.ci_high,
                row.verdict,
                own[row.against].value if row.against not in ("", study.config.base) else None,
            )
            for row in own.values()
        ]
        better = "higher" if column.info.sign > 0 else "lower"
        label = f"{column.setting.task.upper()} {column.split} {column.info.label} (%), {better} is better"
        panels.append(interval_panel(points, order, label, study.config.base))
    return Figure("study", f"Study of {study.recipe.name}", "", panels, columns=len(panels))


def curves_figure(study: Study, job: Job, rows: Sequence[str]) -> Figure | None:
    """Dev accuracy on masked frames over steps, a line for each row that predicts units; None without one."""
    from downstream.report.drawing import Figure, line_panel
    from downstream.report.plots import read_accuracies

    lines = {}
    for row in rows:
        metrics = job.exp / study.run_of(row) / "metrics.csv"
        if study.recipe.pretrain[study.run_of(row)].units and metrics.is_file():
            curve = read_accuracies(metrics)
            lines[row] = curve["step"], [100 * value for value in curve["valid_masked_accuracy"]]
    if not lines:
        return None
    numbers = {name: i for i, name in enumerate(lines)}
    panel = line_panel(" ", lines, numbers, "step", "dev accuracy on masked frames (%)", (9.0, 5.0))
    return Figure("curves", f"Pre-training curves of the study of {study.recipe.name}", "", [panel], numbers)
