"""Draw figures: all panels in one PNG and one SVG file for papers, and each panel as inline SVG for the page.

In the page the colours of a panel are CSS variables, so that it follows the reader's light or dark theme. Its text
stays text, so that it can be selected and searched, and the browser shapes Arabic.
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

# In the page each of these colours becomes the CSS variable of its name.
INK, MUTED, RULE, PAPER = "#1b2430", "#5b6675", "#d5dae1", "#ffffff"
SERIES = ("#5a6472", "#b5541c", "#7a4fb5", "#0b6aa8", "#0a7a55", "#b3285e", "#8a6a00", "#3d4fb8", "#17808a", "#7d4a32")
BETTER, WORSE = SERIES[4], SERIES[5]  # significant differences
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper"} | {c: f"s{i}" for i, c in enumerate(SERIES)}
# Largest size of a panel in pixels per point; beyond it, its letters are larger than the text of the page.
_LARGEST = 1.45
# Margin of a panel in the page, in points: the reader's font may be wider than ours.
_MARGIN = 4.0
_MARKERS = "osD^vP*Xhp"
_LINE_STYLES = ("-", "--", ":")

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
    """One pair of axes. `draw(axes)` fills it and returns its tool tips: {gid of an artist: text}."""

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
    """Colour of a series."""
    return SERIES[number % len(SERIES)]


def marker(number: int) -> str:
    """Marker of a series, for readers who cannot distinguish the colours."""
    return _MARKERS[number % len(_MARKERS)]


def line_style(number: int) -> str:
    """Line style of a series: colours and markers repeat after ten series."""
    return _LINE_STYLES[number // len(_MARKERS) % len(_LINE_STYLES)]


def save(figure: Figure, folder: Path) -> list[str]:
    """Write `<folder>/<name>.png` and `.svg` with all panels; return each panel as an SVG element for the page.

    Equal figures give equal files. Every panel is drawn and laid out once. Ids inside the SVG elements are unique
    among figures of different names.
    """
    import matplotlib as mpl

    columns = min(figure.columns, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    width = max(panel.size[0] for panel in figure.panels) * columns
    height = max(panel.size[1] for panel in figure.panels) * rows + 0.9
    with mpl.rc_context(_STYLE | {"svg.hashsalt": figure.name, "svg.fonttype": "path"}):
        canvas = _canvas(max(width, 5.0), height)
        grid = canvas.subplots(rows, columns, squeeze=False).ravel()
        tips = []
        for axes, panel in zip(grid, figure.panels, strict=False):
            tips.append(panel.draw(axes))
            axes.set_title(panel.title)
        for axes in grid[len(figure.panels) :]:
            axes.remove()
        if figure.legend:
            handles = [_handle(label, number) for label, number in figure.legend.items()]
            canvas.legend(handles=handles, loc="outside lower center", ncols=min(6, max(3, 2 * columns), len(handles)))
        title = canvas.suptitle(figure.title, fontsize=11, x=0.01, ha="left", color=MUTED)
        canvas.get_layout_engine().execute(canvas)
        canvas.set_layout_engine("none")
        # No version and date, so that equal figures give equal files. `savefig` would do layout and drawing twice.
        with atomic_file(folder / f"{figure.name}.png") as temporary:
            canvas.set_dpi(150)
            canvas.canvas.print_png(temporary, metadata={"Software": None})
        with atomic_file(folder / f"{figure.name}.svg") as temporary:
            _print_svg(canvas, temporary, {"Date": None, "Creator": None})
        drawn = canvas.axes
        around = [title, *canvas.legends, canvas.patch]
        return [
            _alone(canvas, axes, [*drawn, *around], panel, f"{figure.name}{number}", own)
            for number, (axes, panel, own) in enumerate(zip(drawn, figure.panels, tips, strict=True))
        ]


def _alone(canvas: Any, axes: Any, artists: list[Any], panel: Panel, key: str, tips: dict[str, str]) -> str:
    """One panel of a figure after layout, for the page; `key` makes its ids unique."""
    import matplotlib as mpl

    for artist in artists:
        artist.set_visible(artist is axes)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": key, "svg.fonttype": "none"}):
        _print_svg(canvas, buffer, {"Date": None, "Creator": None, "Format": None, "Type": None})
    box = axes.get_tightbbox().padded(_MARGIN)
    left, top = box.x0, 72 * canvas.get_figheight() - box.y1
    return _for_page(buffer.getvalue(), panel.alt, (left, top, box.width, box.height), tips)


def _canvas(width: float, height: float) -> Any:
    """A figure without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas


def _print_svg(canvas: Any, file: Path | io.StringIO, metadata: dict[str, None]) -> None:
    """Write SVG. It sets the figure to 72 dots per inch: its pixels are then the units of the SVG."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(canvas).print_svg(file, metadata=metadata)


def _handle(label: str, number: int) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour(number), marker=marker(number), linestyle=line_style(number), label=label)


def _for_page(svg: str, alt: str, box: tuple[float, float, float, float], tips: dict[str, str]) -> str:
    svg = svg[svg.index("<svg") :].rstrip()
    # A <style> inside would apply to the whole page.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    for code, name in _VARIABLES.items():
        svg = svg.replace(code, f"var(--{name})")
    # Only style properties can hold variables; Matplotlib's text uses attributes too.
    svg = re.sub(r'(fill|stroke)="(var\(--\w+\))"', r'style="\1: \2"', svg)
    svg = re.sub(r"font: (\d*\.?\d+)px [^;\"]*", r"font-size: \1px", svg)

    def group(found: re.Match) -> str:
        # Ids of groups (`axes_1`) repeat in every figure; nothing refers to them, so they are removed.
        gid, rest = found.groups()
        return f'<g class="tip"{rest}><title>{escape(tips[gid])}</title>' if gid in tips else f"<g{rest}>"

    svg = re.sub(r'<g id="([^"]*)"([^>]*)>', group, svg)
    style = f"max-width:{_LARGEST * box[2]:.0f}px"
    view = " ".join(f"{value:.1f}" for value in box)
    head = f'<svg class="plot" role="img" aria-label="{escape(alt)}" viewBox="{view}" style="{style}">'
    return re.sub(r"<svg[^>]*>", head, svg, count=1)
