"""Figures as panels: together in one PNG and SVG file for papers, one by one inside the page.

In the page a panel is inline SVG whose colours are CSS variables, so that it follows the reader's light or dark
theme, and whose text is text: it can be selected, searched, and shapes Arabic.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from corpora.files import atomic_file

# Each of these colours occurs for one purpose only: in the page it becomes the CSS variable of that name.
INK, MUTED, RULE, PAPER = "#1b2430", "#5b6675", "#d5dae1", "#ffffff"
SERIES = ("#5a6472", "#b5541c", "#7a4fb5", "#0b6aa8", "#0a7a55", "#b3285e", "#8a6a00", "#3d4fb8", "#17808a", "#7d4a32")
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper"} | {c: f"s{i}" for i, c in enumerate(SERIES)}
# A panel may grow to so many pixels a point: beyond, its letters would be larger than the text around it.
_LARGEST = 1.45
_MARKERS = "osD^vP*Xhp"

_STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "grid.color": RULE,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `draw(axes)` fills it and returns what stands in tool tips: {gid: text}."""

    title: str
    draw: Callable[[Any], dict[str, str]]
    alt: str
    size: tuple[float, float] = (4.1, 3.2)  # inches


@dataclass(frozen=True)
class Figure:
    """Panels under one title; `legend` maps labels to series numbers and is drawn once."""

    name: str
    title: str
    caption: str
    panels: list[Panel]
    legend: dict[str, int] = field(default_factory=dict)
    columns: int = 3


def colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def marker(number: int) -> str:
    """A shape for each series: colour alone does not tell series apart for everyone."""
    return _MARKERS[number % len(_MARKERS)]


def save(figure: Figure, folder: Path) -> list[Path]:
    """Write `<folder>/<name>.png` and `.svg` with all panels; two identical figures give identical files."""
    import matplotlib as mpl

    columns = min(figure.columns, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    width = max(panel.size[0] for panel in figure.panels) * columns
    height = max(panel.size[1] for panel in figure.panels) * rows + 0.9
    with mpl.rc_context(_STYLE | {"svg.hashsalt": figure.name, "svg.fonttype": "path"}):
        canvas = _canvas(max(width, 5.0), height)
        grid = canvas.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(grid, figure.panels, strict=False):
            panel.draw(axes)
            axes.set_title(panel.title)
        for axes in grid[len(figure.panels) :]:
            axes.remove()
        if figure.legend:
            handles = [_handle(label, number) for label, number in figure.legend.items()]
            canvas.legend(handles=handles, loc="outside lower center", ncols=min(6, max(3, 2 * columns), len(handles)))
        canvas.suptitle(figure.title, fontsize=11, x=0.01, ha="left", color=MUTED)
        # Laid out once for both files: it costs as much as drawing them.
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")
        paths = []
        # Without the writer's version and date two identical runs give identical files.
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            paths.append(folder / f"{figure.name}.{suffix}")
            with atomic_file(paths[-1]) as temporary:
                canvas.savefig(temporary, dpi=150, metadata=metadata)
    return paths


def inline(panel: Panel, key: str) -> str:
    """A panel as an SVG element; `key` must be unique within the page, since it makes the ids."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE | {"svg.hashsalt": key, "svg.fonttype": "none"}):
        canvas = _canvas(*panel.size)
        axes = canvas.subplots()
        tips = panel.draw(axes)
        axes.set_title(panel.title)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _for_page(buffer.getvalue(), panel, key, tips)


def _canvas(width: float, height: float) -> Any:
    """A figure that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas


def _handle(label: str, number: int) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour(number), marker=marker(number), linestyle="-", label=label)


def _for_page(svg: str, panel: Panel, key: str, tips: dict[str, str]) -> str:
    svg = svg[svg.index("<svg") :].rstrip()
    # A <style> inside would hold for the whole page.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    for code, name in _VARIABLES.items():
        svg = svg.replace(code, f"var(--{name})")
    # Presentation attributes take no variables, style properties do; Matplotlib's text uses both.
    svg = re.sub(r'(fill|stroke)="(var\(--\w+\))"', r'style="\1: \2"', svg)
    svg = re.sub(r"font: (\d*\.?\d+)px [^;\"]*", r"font-size: \1px", svg)

    def group(found: re.Match) -> str:
        # Names of groups (`axes_1`) are the same in every figure, ids must not be; nothing refers to them.
        gid, rest = found.groups()
        return f'<g class="tip"{rest}><title>{escape(tips[gid])}</title>' if gid in tips else f"<g{rest}>"

    svg = re.sub(r'<g id="([^"]*)"([^>]*)>', group, svg)
    width, height = (72 * inches for inches in panel.size)
    style = f"max-width:{_LARGEST * width:.0f}px"
    box = f"0 0 {width:g} {height:g}"
    head = f'<svg class="plot" role="img" aria-label="{escape(panel.alt)}" viewBox="{box}" style="{style}">'
    return re.sub(r"<svg[^>]*>", head, svg, count=1)
