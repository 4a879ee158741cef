"""Report on `results.csv`: terminal tables, RESULTS.md, comparisons.csv, and the page with plots and LaTeX tables."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from corpora.files import atomic_dir, write_csv, write_text

if TYPE_CHECKING:
    from downstream.report.contents import Contents


def build(
    exp_dir: Path,
    recipe: str,
    *,
    left_out: dict[str, str] | None = None,
    command: str | None = None,
    reference: str | None = None,
) -> None:
    """Print the tables of `<exp_dir>/results.csv`; write RESULTS.md, comparisons.csv and `report/`.

    `report/` holds the page index.html (which needs no other file), tables.tex, and every figure as PNG and SVG.
    `left_out` maps an upstream or task without results to the reason. `reference` is the upstream with a
    SUPERB-like score of 1000 (default: `harness_l`). The sources are results.csv, the files of its runs,
    compression.csv, and the metrics.csv of pre-training runs. Raises DownstreamError if results.csv is missing, broken,
    or contradicts its predictions.
    """
    from downstream.report import claims, drawing, latex, page
    from downstream.report.contents import gather
    from downstream.report.provenance import SYNTHETIC_BANNER
    from upstream.names import TEACHER

    exp_dir = Path(exp_dir)
    command = command or f"./run.sh --recipe {recipe}"
    contents = gather(exp_dir, recipe, left_out or {}, command, reference or TEACHER)
    columns = [field.name for field in fields(claims.Comparison)]
    write_csv(exp_dir / "comparisons.csv", columns, contents.comparisons)
    with atomic_dir(exp_dir / "report") as folder:
        panels = {figure.name: drawing.save(figure, folder) for figure in contents.figures}
        write_text(folder / "tables.tex", latex.render(contents))
        write_text(folder / "index.html", page.render(contents, panels))
    images = {figure.name: f"report/{figure.name}.png" for figure in contents.figures}
    write_text(exp_dir / "RESULTS.md", _markdown(contents, images))

    shown = [SYNTHETIC_BANNER] if contents.synthetic else []
    shown += [*contents.warnings, *(item.table().terminal() for item in contents.leaderboards)]
    if contents.comparisons or contents.unpaired:
        headlines = claims.headlines(contents.comparisons)
        shown.append(claims.comparison_table(headlines, contents.unpaired).terminal())
    shown += [table.terminal() for table in contents.times]
    if contents.missing:
        shown.append("\n".join(contents.missing))
    shown.append(
        f"{exp_dir / 'RESULTS.md'}: every metric and the costs\n"
        f"{exp_dir / 'report' / 'index.html'}: the page with all tables, plots, decoded examples and runs"
    )
    print("\n\n".join(shown))


def _markdown(contents: Contents, images: dict[str, str]) -> str:
    """RESULTS.md; `images` maps names of figures to paths.

    For two identical runs only the header and the last section differ.
    """
    from downstream.report.claims import comparison_table
    from downstream.report.provenance import SYNTHETIC_BANNER, facts_table
    from downstream.report.tables import plain

    parts = [f"# Results of the recipe `{contents.recipe}`"]
    if contents.synthetic:
        parts.append(f"> **{SYNTHETIC_BANNER}**")
    parts.append(facts_table(contents.facts | {"command": f"`{contents.facts['command']}`"}))
    parts += [f"**{plain(line)}**" for line in contents.warnings]
    for item in contents.leaderboards:
        parts += [f"## {plain(item.title)}", item.table().markdown()]
    if "quality_params" in images:
        parts.append(f"![Quality against parameters]({images['quality_params']})")
    parts.append("## Every metric")
    for table in contents.metrics:
        parts += [f"### {plain(table.title)}", table.markdown()]
    if contents.comparisons or contents.unpaired:
        table = comparison_table(contents.comparisons, contents.unpaired)
        parts += [f"## {plain(table.title)}", table.markdown()]
    if contents.costs is not None:
        parts += [f"## {contents.costs.title}", contents.costs.markdown()]
    if "training" in images:
        parts += ["## Training", f"![Masked accuracy over steps]({images['training']})"]
    if contents.missing:
        parts += ["## Missing results", "\n".join(f"- {plain(line)}" for line in contents.missing)]
    if contents.times:
        parts += [
            "## Times",
            "Times differ from run to run. All other sections except the header are the same in every run.",
        ]
        parts += [part for table in contents.times for part in (f"### {plain(table.title)}", table.markdown())]
    return "\n\n".join(parts) + "\n"
