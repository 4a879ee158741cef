"""Collect the contents of a report, from which RESULTS.md, the page, the LaTeX tables and the terminal are printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from downstream import DownstreamError
from downstream.grid import budgets
from downstream.report import plots, provenance
from downstream.report.claims import Comparison, CompressionLoss, Unpaired, compare, compression_losses
from downstream.report.columns import Predictions, comparable_settings, make_columns, mixed_settings
from downstream.report.drawing import Figure
from downstream.report.examples import Example, examples
from downstream.report.leaderboard import Leaderboard, SuperbScores, leaderboard, superb_scores
from downstream.report.rows import check_recipe, is_test, read_rows, task_order
from downstream.report.runs import ProbeRun, read_runs
from downstream.report.tables import Table, cost_table, metrics_table, read_costs, time_tables, upstream_facts
from upstream.names import TEACHER


@dataclass(frozen=True)
class Contents:
    """The contents of a report; a field without results is None or empty."""

    recipe: str
    label: str
    synthetic: bool
    facts: dict[str, str]
    warnings: list[str]
    leaderboards: list[Leaderboard]
    metrics: list[Table]
    comparisons: list[Comparison]
    unpaired: list[Unpaired]
    losses: list[CompressionLoss]
    scores: SuperbScores | None
    costs: Table | None
    times: list[Table]
    missing: list[str]
    runs: list[ProbeRun]
    figures: list[Figure]
    examples: list[Example]


def gather(exp_dir: Path, recipe: str, left_out: dict[str, str], command: str, reference: str = TEACHER) -> Contents:
    """Read results.csv, compression.csv, the run directories and the metrics of pre-training below `exp_dir`.

    Raises DownstreamError if results.csv is missing, broken, or contradicts the predictions of its runs.
    """
    path = exp_dir / "results.csv"
    rows = [row for row in read_rows(path) if is_test(row.split)]
    if not rows:
        raise DownstreamError(f"{path}: no row of a test split; run stages 10 to 12")
    check_recipe(path, recipe)
    upstreams = {row.upstream for row in rows}
    if reference != TEACHER and reference not in upstreams:
        raise DownstreamError(
            f"reference `{reference}` has no row in {path}; choose from {', '.join(sorted(upstreams))}"
        )
    synthetic = provenance.is_synthetic(recipe, rows)
    label = f"{recipe} (synthetic speech)" if synthetic else recipe
    predictions = Predictions(exp_dir)
    columns = make_columns(rows, predictions)
    costs = read_costs(exp_dir / "compression.csv")
    known = upstream_facts(rows, costs)
    settings = task_order({column.setting for column in columns})
    groups = [[column for column in columns if column.setting in group] for group in comparable_settings(set(settings))]
    runs = read_runs(rows, exp_dir)
    # Smaller label budgets have their own figure; the other figures compare upstreams trained on all labels.
    full = [column for column in columns if budgets.parse(column.setting.budget) is None] or columns
    full_runs = [run for run in runs if any(run.setting == column.setting for column in full)]
    losses = compression_losses(full, known)
    comparisons, unpaired = compare(columns, recipe)
    figures = [
        *(plots.quality(full, known, cost, label) for cost in plots.COSTS),
        plots.compression(losses, label, synthetic=synthetic),
        plots.label_budgets(columns, label),
        plots.layer_weights(full_runs, label),
        *plots.confusions(full_runs, predictions, label),
        plots.learning(full_runs, label),
        plots.training(exp_dir, label),
    ]
    numbered = [f", table {i} of {len(groups)}" if len(groups) > 1 else "" for i in range(1, len(groups) + 1)]
    return Contents(
        recipe=recipe,
        label=label,
        synthetic=synthetic,
        facts=provenance.facts(rows, command),
        warnings=mixed_settings(columns),
        leaderboards=[
            leaderboard(group, known, f"Results of {label}{part}") for group, part in zip(groups, numbered, strict=True)
        ],
        metrics=[metrics_table([column for column in columns if column.setting == own]) for own in settings],
        comparisons=comparisons,
        unpaired=unpaired,
        losses=losses,
        scores=superb_scores(groups[0], reference),
        costs=cost_table(costs) if costs else None,
        times=time_tables(runs, costs),
        missing=provenance.missing(rows, exp_dir, recipe, left_out),
        runs=runs,
        figures=[figure for figure in figures if figure is not None],
        examples=examples(full_runs, predictions, TEACHER),
    )
