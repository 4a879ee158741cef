"""From `results.csv` to what people read: terminal tables, RESULTS.md, comparisons.csv, and the page."""

from __future__ import annotations

from pathlib import Path

from corpora.files import atomic_dir, write_text


def build(
    exp_dir: Path,
    recipe: str,
    *,
    left_out: dict[str, str] | None = None,
    command: str | None = None,
    reference: str | None = None,
) -> None:
    """Print the tables of `<exp_dir>/results.csv`; write RESULTS.md, comparisons.csv, and `report/`: index.html, which
    needs no other file, tables.tex, and every figure as PNG and SVG.

    `left_out` maps an upstream or task that the recipe wanted and could not have to the reason; `reference` is the
    upstream that has 1000 in the SUPERB-like score (default: `harness_l`). Nothing is shown that is not in results.csv,
    in what its runs left, in compression.csv, or in the metrics.csv of the training runs. Raises ReportError when
    results.csv is missing, broken, or does not agree with its predictions.
    """
    from downstream.report import comparisons, drawing, html, latex, markdown
    from downstream.report.contents import gather
    from downstream.report.provenance import SYNTHETIC_BANNER

    exp_dir = Path(exp_dir)
    command = command or f"./run.sh --recipe {recipe}"
    contents = gather(exp_dir, recipe, left_out or {}, command, reference or comparisons.TEACHER)
    comparisons.write(contents.made, exp_dir / "comparisons.csv")
    with atomic_dir(exp_dir / "report") as folder:
        panels = {figure.name: drawing.save(figure, folder) for figure in contents.figures}
        write_text(folder / "tables.tex", latex.render(contents))
        write_text(folder / "index.html", html.render(contents, panels))
    images = {figure.name: f"report/{figure.name}.png" for figure in contents.figures}
    write_text(exp_dir / "RESULTS.md", markdown.render(contents, images))

    shown = [SYNTHETIC_BANNER] if contents.synthetic else []
    shown += [*contents.warnings, *(board.table().terminal() for board in contents.boards)]
    if contents.made or contents.unpaired:
        shown.append(comparisons.table(comparisons.headlines(contents.made), contents.unpaired).terminal())
    shown += [table.terminal() for table in contents.times]
    if contents.left:
        shown.append("\n".join(contents.left))
    shown.append(
        f"{exp_dir / 'RESULTS.md'} holds every metric and the costs\n"
        f"{exp_dir / 'report' / 'index.html'} is the page: all of it, with plots, decoded examples, and every run"
    )
    print("\n\n".join(shown))
