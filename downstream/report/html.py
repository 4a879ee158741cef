"""The page `report/index.html`: contents as grids of fields and inline figures, put into page.html.j2.

The page needs no other file and no network; its Content-Security-Policy forbids both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from downstream.report import comparisons, compression, drawing, score
from downstream.report.boards import FACTS, Board, Entry
from downstream.report.comparisons import Comparison
from downstream.report.contents import Contents
from downstream.report.drawing import Figure
from downstream.report.provenance import SYNTHETIC_BANNER
from downstream.report.rows import metric_info
from downstream.report.runs import Run
from downstream.report.text import Table, percent, signed

_HERE = Path(__file__).parent
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(?![\w.])")
# Shown in their own sections; what is left of a report's figures goes where its name says.
_COSTS = {"quality_params": "parameters", "quality_macs": "multiply-accumulates", "quality_rtf": "real-time factor"}
ALL_LABELS = "all"
_TEXT_FACTS = ("front_end", "iteration")
_FACTS = (*(key for key in FACTS if key not in _TEXT_FACTS), *_TEXT_FACTS)


@dataclass(frozen=True)
class Head:
    """A column of a grid: `name` is what a filter calls it, `descending` how its first click sorts."""

    label: str
    name: str = ""
    numeric: bool = False
    descending: bool = False


@dataclass(frozen=True)
class Field:
    """A cell of a grid: its text, what it sorts by (empty: it is missing), and what stands around the text.

    `marked` keeps room for marks, so that the numbers of a column stay below each other.
    """

    text: str
    key: str = ""
    detail: str = ""
    marks: str = ""
    kind: str = ""
    query: str = ""
    tip: str = ""
    whisker: tuple[float, float, float] | None = None
    marked: bool = False


@dataclass(frozen=True)
class Grid:
    """A table that sorts, and filters where it has an example of a `filter`."""

    key: str
    caption: str
    heads: list[Head]
    rows: list[list[Field]]
    notes: Sequence[str] = ()
    filter: str = ""
    tall: bool = False


@dataclass(frozen=True)
class Plot:
    """A figure of the page: SVG of each panel, and the legend as (label, series number, marker)."""

    name: str
    title: str
    caption: str
    panels: list[str]
    legend: list[tuple[str, int, str]] = field(default_factory=list)


def render(contents: Contents, panels: dict[str, list[str]]) -> str:
    """The page as one string; `panels` holds those of each figure as SVG, by its name."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    plots = {figure.name: _plot(figure, panels[figure.name]) for figure in contents.figures}
    commands = list(dict.fromkeys(run.command for run in contents.runs if run.command))
    return environment.get_template("page.html.j2").render(
        contents=contents,
        banner=SYNTHETIC_BANNER if contents.synthetic else "",
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        boards=[_board(board, i) for i, board in enumerate(contents.boards, 1)],
        marks=list(dict.fromkeys(mark for board in contents.boards for mark in board.marks())),
        claims=_claims(contents.made),
        claim_notes=comparisons.table([], contents.unpaired).notes,
        shown=sum(c.verdict == "shown" for c in contents.made),
        costs=[(name, plots[key]) for key, name in _COSTS.items() if key in plots],
        compression=plots.get("compression"),
        losses=plain("losses", compression.table(contents.losses)) if contents.losses else None,
        scores=_scores(contents.scores) if contents.scores else None,
        tasks=[plain(f"task{i}", table) for i, table in enumerate(contents.tasks, 1)],
        weights=plots.get("layer_weights"),
        confusions=[plot for name, plot in plots.items() if name.startswith("confusion_")],
        learning=plots.get("learning"),
        training=plots.get("training"),
        budgets=plots.get("budgets"),
        cost_table=plain("costs", contents.costs) if contents.costs is not None else None,
        times=[plain(f"times{i}", table) for i, table in enumerate(contents.times, 1)],
        runs=_runs(contents.runs, commands),
        commands=commands,
        files=[f"{name}.{suffix}" for name in plots for suffix in ("svg", "png")],
    )


def plain(key: str, table: Table) -> Grid:
    """A table of strings as a grid: a column of numbers sorts by them, `-` is missing."""
    columns = list(zip(*table.rows, strict=True)) if table.rows else [()] * len(table.header)
    numeric = [_is_numeric(column) for column in columns]
    heads = [
        Head(label, _name(label), number, label.endswith("↑"))
        for label, number in zip(table.header, numeric, strict=True)
    ]
    rows = [[_field(text, number) for text, number in zip(row, numeric, strict=True)] for row in table.rows]
    return Grid(key, table.title, heads, rows, table.notes)


def _is_numeric(column: Sequence[str]) -> bool:
    present = [text for text in column if text not in ("-", "")]
    return all(_NUMBER.match(text) for text in present)


def _field(text: str, numeric: bool) -> Field:
    if text in ("-", ""):
        return Field("–" if text == "-" else text)
    if not numeric:
        return Field(text, text)
    found = _NUMBER.match(text)
    return Field(found[0], found[0], text[found.end() :].strip())


def _name(label: str) -> str:
    """The name of a column in a filter: letters and digits only."""
    return re.sub(r"\W+", "_", label.lower()).strip("_")


def _board(board: Board, place: int) -> Grid:
    # What was measured comes first: on a phone the rest is to the right of the screen.
    heads = [Head("upstream", "upstream")]
    heads += [Head(c.heading, _name(c.heading), True, metric_info(c.metric).sign > 0) for c in board.columns]
    heads += [Head(FACTS[key], _name(FACTS[key]), key not in _TEXT_FACTS) for key in _FACTS]
    rows = []
    for name in board.upstreams:
        fields = [Field(name, name, kind="name")]
        fields += [_value(board, name, i) for i in range(len(board.columns))]
        facts = board.facts(name)
        fields += [_field(facts[key], key not in _TEXT_FACTS) for key in _FACTS]
        rows.append(fields)
    return Grid(f"board{place}", board.title, heads, rows, board.notes, "e.g. harness_s")


def _value(board: Board, name: str, place: int) -> Field:
    entry = board.entries.get((name, place))
    if entry is None:
        return Field("–")
    cell, column = entry.cell, board.columns[place]
    detail = "" if cell.low is None else f"[{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
    seeds = f"{len(cell.rows)} runs, seeds {' '.join(map(str, cell.seeds))}, {cell.utterances} utterances"
    query = f"upstream:{name} task:{column.setting.task} protocol:{column.setting.protocol}"
    query += f" budget:{column.setting.budget or ALL_LABELS}"
    if column.setting.finetune:
        query += f" finetune:{column.setting.finetune}"
    return Field(
        f"{100 * cell.value:.1f}",
        f"{cell.value:.6f}",
        detail,
        entry.marks,
        "best" if entry.best else "",
        query,
        f"{name}, {column.heading}: {seeds}; shows these runs",
        _whisker(entry, [board.entries.get((other, place)) for other in board.upstreams]),
        marked=True,
    )


def _whisker(entry: Entry, others: list[Entry | None]) -> tuple[float, float, float] | None:
    """Left end, width and middle of an interval, in percent of what the intervals of the column span."""
    cell = entry.cell
    spans = [e.cell for e in others if e is not None and e.cell.low is not None]
    if cell.low is None or not spans:
        return None
    low, high = min(c.low for c in spans), max(c.high for c in spans)
    if high <= low:
        return None

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    return place(cell.low), round(place(cell.high) - place(cell.low), 2), min(100.0, max(0.0, place(cell.value)))


def _claims(made: list[Comparison]) -> Grid | None:
    if not made:
        return None
    heads = [
        Head("upstream", "upstream"), Head("against", "against"), Head("task", "task"), Head("split", "split"),
        Head("metric", "metric"), Head("difference", "difference", True, True), Head("p", "p", True),
        Head("gain kept (%)", "kept", True, True), Head("claim", "claim"),
        Head("verdict", "verdict"), Head("units", "units", True), Head("protocol", "protocol"),
    ]  # fmt: skip
    rows = [
        [
            Field(c.upstream, c.upstream, kind="name"),
            Field(c.against, c.against),
            Field(c.task.upper(), c.task),
            Field(c.split, c.split),
            Field(metric_info(c.metric).label, c.metric),
            Field(signed(c.difference), str(c.difference), f"[{signed(c.ci_low)}, {signed(c.ci_high)}]"),
            Field(comparisons.shown_p(c.p), str(c.p), c.test),
            Field("–") if c.gain_kept is None else Field(f"{100 * c.gain_kept:.0f}", str(c.gain_kept)),
            Field(c.claim, c.claim, kind="claim"),
            Field(c.verdict, c.verdict, kind="yes" if c.verdict == "shown" else "no"),
            Field(*_units(c)),
            Field(c.protocol, c.protocol),
        ]
        for c in made
    ]
    return Grid("claims", "Comparisons", heads, rows, (), "e.g. harness_s verdict:shown", tall=True)


def _units(c: Comparison) -> tuple[str, str, str]:
    count, what = (c.speakers, "speakers") if c.speakers > 1 else (c.utterances, "utterances")
    return str(count), str(count), what


def _scores(found: score.Scores) -> Grid:
    table, lengths = score.table(found), score.bars(found)
    rows = [
        [Field(name, name, kind="name"), Field(f"{value:.0f}", f"{value:.3f}", whisker=(0.0, lengths[name], -1.0))]
        for name, value in found.values.items()
    ]
    heads = [Head("upstream", "upstream"), Head("score ↑", "score", True, True)]
    return Grid("scores", table.title, heads, rows, table.notes)


def _runs(runs: list[Run], commands: list[str]) -> Grid:
    heads = [
        Head("upstream", "upstream"), Head("task", "task"), Head("seed", "seed", True), Head("fold", "fold", True),
        Head("results (%)", "results"), Head("lr", "lr", True), Head("fine-tuning", "finetune"),
        Head("labels", "budget"), Head("protocol", "protocol"),
        Head("features (s)", "features", True), Head("wall (s)", "wall", True),
        Head("commit", "commit"), Head("command", "command"), Head("run directory", "run_dir"),
    ]  # fmt: skip
    rows = []
    for run in runs:
        setting = run.setting
        where = commands.index(run.command) + 1 if run.command else 0
        rows.append(
            [
                Field(run.upstream, run.upstream, kind="name"),
                Field(setting.task.upper(), setting.task),
                Field(str(run.seed), str(run.seed)),
                Field("–") if run.fold is None else Field(str(run.fold), str(run.fold)),
                Field(_results(run), _results(run), kind="wide"),
                Field("–") if run.lr is None else Field(f"{run.lr:g}", str(run.lr), tip=_dev(run)),
                Field(setting.finetune or "–", setting.finetune),
                Field(setting.budget or ALL_LABELS, setting.budget or ALL_LABELS),
                Field(setting.protocol, setting.protocol),
                _seconds(run.extraction_s),
                _seconds(run.wall_s),
                Field(run.rows[0].commit or "–", run.rows[0].commit, kind="code"),
                Field(f"C{where}" if where else "–", f"C{where}" if where else "", tip=run.command),
                Field(run.run_dir or "–", run.run_dir, kind="code"),
            ]
        )
    what = "e.g. upstream:harness_s task:ser seed:0"
    return Grid("runs", "Every run behind the numbers", heads, rows, (), what, tall=True)


def _results(run: Run) -> str:
    parts = []
    for split in sorted({row.split for row in run.rows}):
        shown = ", ".join(f"{metric_info(r.metric).label} {percent(r.value)}" for r in run.rows if r.split == split)
        parts.append(f"{split}: {shown}")
    return "; ".join(parts)


def _seconds(value: float | None) -> Field:
    return Field("–") if value is None else Field(f"{value:.1f}", str(value))


def _dev(run: Run) -> str:
    """The dev values of every learning rate, from which this one was chosen."""
    return ", ".join(f"lr {rate}: dev {value:.4f}" for rate, value in run.dev.items())


def _plot(figure: Figure, panels: list[str]) -> Plot:
    legend = [(label, number % len(drawing.SERIES), drawing.marker(number)) for label, number in figure.legend.items()]
    return Plot(figure.name, figure.title, figure.caption, panels, legend)
