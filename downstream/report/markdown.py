"""RESULTS.md: the tables and two plots, as text that a repository can show."""

from __future__ import annotations

from downstream.report import comparisons
from downstream.report.contents import Contents
from downstream.report.provenance import SYNTHETIC_BANNER


def render(contents: Contents, images: dict[str, str]) -> str:
    """The text; `images` maps names of figures to their paths. What differs between two identical runs stands in its
    header and its last section only."""
    shown = contents.facts | {"command": f"`{contents.facts['command']}`"}
    parts = [f"# Results of the recipe `{contents.recipe}`"]
    if contents.synthetic:
        parts.append(f"> **{SYNTHETIC_BANNER}**")
    parts.append("\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in shown.items())]))
    parts += [f"**{line}**" for line in contents.warnings]
    for board in contents.boards:
        parts += [f"## {board.title}", board.table().markdown()]
    if "quality_params" in images:
        parts.append(f"![Quality against parameters]({images['quality_params']})")
    parts.append("## Every metric")
    for table in contents.tasks:
        parts += [f"### {table.title}", table.markdown()]
    if contents.made or contents.unpaired:
        table = comparisons.table(contents.made, contents.unpaired)
        parts += [f"## {table.title}", table.markdown()]
    if contents.costs is not None:
        parts += [f"## {contents.costs.title}", contents.costs.markdown()]
    if "training" in images:
        parts += ["## Training", f"![Masked accuracy over steps]({images['training']})"]
    if contents.left:
        parts += ["## Left out", "\n".join(f"- {line}" for line in contents.left)]
    if contents.times:
        parts += ["## Times", "These differ from run to run; nothing else here but the header does."]
        parts += [part for table in contents.times for part in (f"### {table.title}", table.markdown())]
    return "\n\n".join(parts) + "\n"
