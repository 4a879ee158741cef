"""Draw figures: all panels in one PNG and one SVG file for papers, and each panel as inline SVG for the page.

In the page the colours of a panel are CSS variables, so that it follows the reader's light or dark theme. Its text
stays text, so that it can be selected and searched, and the browser shapes Arabic.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np

from corpora.files import atomic_file
from downstream.report.tables import percent

# In the page each of these colours becomes the CSS variable of its name.
INK, MUTED, RULE, PAPER = "#1b2430", "#5b6675", "#d5dae1", "#ffffff"
SERIES = ("#5a6472", "#b5541c", "#7a4fb5", "#0b6aa8", "#0a7a55", "#b3285e", "#8a6a00", "#3d4fb8", "#17808a", "#7d4a32")
BETTER, WORSE = SERIES[4], SERIES[5]  # significant differences
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper"} | {c: f"s{i}" for i, c in enumerate(SERIES)}
# Largest size of a panel in pixels per point: above it, letters of a panel are larger than the page's text.
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


Draw = Callable[[Any], dict[str, str]]


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `draw(axes)` fills it and returns its tool tips: {gid of an artist: text}."""

    title: str
    draw: Draw
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
        _show_as_written(canvas)
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


def _show_as_written(canvas: Any) -> None:
    """Take no text between two dollar signs for a formula, except numbers of a logarithmic axis."""
    from matplotlib.text import Text

    for axes in canvas.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels(which="both")  # makes the labels
    for text in canvas.findobj(Text):
        text.set_parse_math(False)
    for axes in canvas.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                for label in axis.get_ticklabels(which="both"):
                    label.set_parse_math(True)


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
        gid, rest = unescape(found[1]), found[2]
        return f'<g class="tip"{rest}><title>{escape(tips[gid])}</title>' if gid in tips else f"<g{rest}>"

    svg = re.sub(r'<g id="([^"]*)"([^>]*)>', group, svg)
    style = f"max-width:{_LARGEST * box[2]:.0f}px"
    view = " ".join(f"{value:.1f}" for value in box)
    head = f'<svg class="plot" role="img" aria-label="{escape(alt)}" viewBox="{view}" style="{style}">'
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)  # a backslash in `head` is text


@dataclass(frozen=True)
class IntervalPoint:
    """A share with its 95 % interval (None: not drawn), at `place` of the other axis."""

    place: float
    value: float
    low: float | None
    high: float | None


def draw_interval(
    axes: Any, point: IntervalPoint, tint: str, shape: str, *, gid: str | None = None, horizontal: bool = False
) -> None:
    """Draw a value in percent and its interval; `horizontal`: values on the x axis."""
    value = 100 * point.value
    x, y = (value, point.place) if horizontal else (point.place, value)
    if point.low is not None:
        bars = [[max(0.0, value - 100 * point.low)], [max(0.0, 100 * point.high - value)]]
        side = {"xerr" if horizontal else "yerr": bars}
        axes.errorbar([x], [y], **side, fmt="none", ecolor=tint, elinewidth=1.1, capsize=2.5, zorder=2)
    axes.plot([x], [y], shape, color=tint, markersize=6.5, gid=gid, zorder=3)


@dataclass(frozen=True)
class IntervalRow:
    """One row of `interval_panel`: a value with its interval (shares), `verdict` better, worse or other.

    `against` is the value that it is compared with, drawn as a cross.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    verdict: str = ""
    against: float | None = None


def interval_panel(rows: Sequence[IntervalRow], order: Sequence[str], x_label: str, base: str | None) -> Panel:
    """Rows of values with horizontal intervals, in `order` from the top; a dotted line marks the row `base`."""
    place = {name: i for i, name in enumerate(order)}
    tints = {"better": BETTER, "worse": WORSE}

    def draw(axes: Any) -> dict[str, str]:
        tips = {}
        for row in rows:
            gid, tint = f"tip-{row.name}", tints.get(row.verdict, colour(3))
            point = IntervalPoint(place[row.name], row.value, row.low, row.high)
            draw_interval(axes, point, tint, "o", gid=gid, horizontal=True)
            tips[gid] = f"{row.name}: {percent(row.value, row.low, row.high)} % {row.verdict}".strip()
            if row.against is not None:
                axes.plot([100 * row.against], [place[row.name]], "x", color=MUTED, markersize=5)
            if row.name == base:
                axes.axvline(100 * row.value, color=MUTED, linestyle=":", linewidth=1)
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlabel(x_label)
        axes.grid(axis="x", linewidth=0.6)
        return tips

    return Panel(" ", draw, f"{x_label} of each row, with 95 % intervals", (4.0 + 1.5, 1.5 + 0.28 * len(order)))


def line_panel(
    title: str,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    numbers: Mapping[str, int],
    x_label: str,
    y_label: str,
    size: tuple[float, float] = (5.5, 4.0),
) -> Panel:
    """One line (x, y) for each name, in the style of its series number."""

    def draw(axes: Any) -> dict[str, str]:
        for name, (xs, ys) in lines.items():
            n = numbers[name]
            axes.plot(xs, ys, line_style(n), color=colour(n), marker=marker(n), markersize=4, linewidth=1.3,
                      gid=f"tip-{n}")  # fmt: skip
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(linewidth=0.6)
        return {f"tip-{numbers[name]}": name for name in lines}

    return Panel(title, draw, f"{y_label} over {x_label}", size)


def point_panel(
    title: str,
    points: Mapping[str, IntervalPoint],
    numbers: Mapping[str, int],
    x_label: str,
    y_label: str,
    size: tuple[float, float] = (5.5, 4.0),
) -> Panel:
    """One value with its interval for each name, in the style of its series number."""

    def draw(axes: Any) -> dict[str, str]:
        for name, point in points.items():
            gid = f"tip-{numbers[name]}"
            draw_interval(axes, point, colour(numbers[name]), marker(numbers[name]), gid=gid)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(linewidth=0.6)
        return {f"tip-{numbers[n]}": f"{n}: {percent(p.value, p.low, p.high)} %" for n, p in points.items()}

    return Panel(title, draw, f"{y_label} over {x_label}, with 95 % intervals", size)


def heat_map(
    axes: Any, values: np.ndarray, rows: list[str], columns: list[str], *, numbered: bool, top: float | None = None
) -> None:
    """Coloured fields of percent (NaN stays empty), `numbered`: with the value inside."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("shades", ["#eef3f8", "#8db8d8", "#2f79ae", "#0c3c63"])
    limit = top or float(np.nanmax(values)) or 1.0
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=shades, vmin=0, vmax=limit, edgecolors=PAPER, linewidth=1.5)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values) if numbered else ():
        if not np.isnan(value):
            # Fields and their numbers keep their colours in the light and the dark theme.
            tint = "#fefefe" if value > 0.5 * limit else "#101822"
            axes.text(column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", color=tint, fontsize=9)
