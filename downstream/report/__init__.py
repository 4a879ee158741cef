"""From `results.csv` to what people read: terminal tables, RESULTS.md, comparisons.csv, and the plots."""

from __future__ import annotations

from pathlib import Path

from corpora.files import write_text


def build(exp_dir: Path, recipe: str, *, left_out: dict[str, str] | None = None, command: str | None = None) -> None:
    """Print the tables of `<exp_dir>/results.csv` and write RESULTS.md, comparisons.csv, quality.png,
    training.png.

    `left_out` maps an upstream or task that the recipe wanted and could not have to the reason. Nothing is
    shown that is not in results.csv, in the predictions of its runs, in compression.csv, or in the
    metrics.csv of the training runs. Raises ReportError when results.csv is missing, broken, or does not
    agree with its predictions.
    """
    from downstream.report import comparisons, figures, page, tables
    from downstream.report.cells import make_cells
    from downstream.report.evidence import Predictions
    from downstream.report.rows import SYNTHETIC, ReportError, is_test, read_rows

    exp_dir = Path(exp_dir)
    rows = [row for row in read_rows(exp_dir / "results.csv") if is_test(row.split)]
    if not rows:
        raise ReportError(f"{exp_dir / 'results.csv'}: no row of a test split; run stages 10 to 12")
    synthetic = recipe in SYNTHETIC or any(row.setting.corpus in SYNTHETIC for row in rows)
    label = f"{recipe} (synthetic speech)" if synthetic else recipe
    cells = make_cells(rows, Predictions(exp_dir))
    costs = tables.read_costs(exp_dir / "compression.csv")
    known = tables.models(rows, costs)

    groups = tables.split_settings({key[0] for key in cells})
    titles = [
        f"Results of {label}" + (f", table {i} of {len(groups)}" if len(groups) > 1 else "")
        for i in range(1, len(groups) + 1)
    ]
    boards = [tables.leaderboard(cells, group, known, title) for group, title in zip(groups, titles, strict=True)]
    task_tables = [tables.task_table(cells, setting) for setting in tables.task_order({key[0] for key in cells})]
    made, unpaired = comparisons.compare(cells, recipe)
    compared = comparisons.table(made, unpaired) if made or unpaired else None
    cost = tables.cost_table(costs) if costs else None
    times = tables.time_table(rows, costs)
    warnings = tables.mixed_protocols(cells)
    left = page.missing(rows, exp_dir, recipe, left_out or {})

    comparisons.write(made, exp_dir / "comparisons.csv")
    images = {}
    if figures.quality(cells, known, exp_dir / "quality.png", f"Quality against parameters: {label}"):
        images["quality"] = "quality.png"
    if figures.training(exp_dir, exp_dir / "training.png", f"Masked accuracy: {label}"):
        images["training"] = "training.png"
    text = page.render(
        recipe=recipe,
        command=command or f"./run.sh --recipe {recipe}",
        synthetic=synthetic,
        rows=rows,
        warnings=warnings,
        boards=boards,
        tasks=task_tables,
        costs=cost,
        comparisons=compared,
        times=times,
        images=images,
        left=left,
    )
    write_text(exp_dir / "RESULTS.md", text)

    shown = [page.SYNTHETIC_BANNER] if synthetic else []
    shown += [*warnings, *(t.terminal() for t in boards)]
    if compared is not None:
        shown.append(comparisons.table(comparisons.headlines(made), unpaired).terminal())
    shown.append(times.terminal())
    if left:
        shown.append("\n".join(left))
    shown.append(f"{exp_dir / 'RESULTS.md'} holds every metric, the costs and the plots")
    print("\n\n".join(shown))
