"""Everything that a report shows, gathered once: RESULTS.md, the page, the LaTeX tables and the terminal draw it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from downstream.report import budgets, compression, decoded, figures, heatmaps, provenance, score, tables
from downstream.report.boards import Board, leaderboard
from downstream.report.cells import make_cells
from downstream.report.columns import mixed_protocols, split_settings, task_order
from downstream.report.comparisons import TEACHER, Comparison, LeftOut, compare
from downstream.report.drawing import Figure
from downstream.report.evidence import Predictions
from downstream.report.rows import SYNTHETIC, ReportError, check_recipe, is_test, read_rows
from downstream.report.runs import Run, read_runs
from downstream.report.text import Table
from downstream.report.times import time_tables


@dataclass(frozen=True)
class Contents:
    """What there is to show; None or empty where a run has nothing of a kind."""

    recipe: str
    label: str
    synthetic: bool
    facts: dict[str, str]
    warnings: list[str]
    boards: list[Board]
    tasks: list[Table]
    made: list[Comparison]
    unpaired: list[LeftOut]
    losses: list[compression.Loss]
    scores: score.Scores | None
    costs: Table | None
    times: list[Table]
    left: list[str]
    runs: list[Run]
    figures: list[Figure]
    examples: list[decoded.Example]


def gather(exp_dir: Path, recipe: str, left_out: dict[str, str], command: str, reference: str = TEACHER) -> Contents:
    """Read results.csv, compression.csv, the run directories and the metrics of training below `exp_dir`.

    Raises ReportError when results.csv is missing, broken, or does not agree with the predictions of its runs.
    """
    rows = [row for row in read_rows(exp_dir / "results.csv") if is_test(row.split)]
    if not rows:
        raise ReportError(f"{exp_dir / 'results.csv'}: no row of a test split; run stages 10 to 12")
    check_recipe(exp_dir / "results.csv", recipe)
    if reference != TEACHER and reference not in {row.upstream for row in rows}:
        known = ", ".join(sorted({row.upstream for row in rows}))
        raise ReportError(f"reference `{reference}` has no row in {exp_dir / 'results.csv'}; choose from {known}")
    synthetic = recipe in SYNTHETIC or any(row.setting.corpus in SYNTHETIC for row in rows)
    label = f"{recipe} (synthetic speech)" if synthetic else recipe
    predictions = Predictions(exp_dir)
    cells = make_cells(rows, predictions)
    costs = tables.read_costs(exp_dir / "compression.csv")
    known = tables.models(rows, costs)
    settings = {key[0] for key in cells}
    groups = split_settings(settings)
    boards = [
        leaderboard(cells, group, known, f"Results of {label}" + _place(i, len(groups)))
        for i, group in enumerate(groups, 1)
    ]
    runs = read_runs(rows, exp_dir)
    # Label budgets have a figure of their own; elsewhere they would stand beside what saw every label.
    largest = {key: cell for key, cell in cells.items() if budgets.is_full(key[0].budget)} or cells
    detailed = [run for run in runs if any(run.setting == key[0] for key in largest)]
    losses = compression.losses(largest, known)
    made, unpaired = compare(cells, recipe)
    found = [
        *(figures.quality(largest, known, cost, label) for cost in figures.COSTS),
        figures.compression(losses, label, synthetic),
        figures.label_budgets(cells, label),
        heatmaps.layer_weights(detailed, label),
        *heatmaps.confusions(detailed, predictions, label),
        figures.learning(detailed, label),
        figures.training(exp_dir, label),
    ]
    return Contents(
        recipe=recipe,
        label=label,
        synthetic=synthetic,
        facts=provenance.facts(rows, command),
        warnings=mixed_protocols(cells),
        boards=boards,
        tasks=[tables.task_table(cells, setting) for setting in task_order(settings)],
        made=made,
        unpaired=unpaired,
        losses=losses,
        scores=score.scores(cells, groups[0], reference),
        costs=tables.cost_table(costs) if costs else None,
        times=time_tables(runs, costs),
        left=provenance.missing(rows, exp_dir, recipe, left_out),
        runs=runs,
        figures=[figure for figure in found if figure is not None],
        examples=decoded.examples(detailed, predictions, TEACHER),
    )


def _place(number: int, count: int) -> str:
    return f", table {number} of {count}" if count > 1 else ""
