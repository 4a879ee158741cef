"""Render the page `report/index.html`: sortable tables and inline figures, by the template page.html.j2.

The page needs no other file and no network; its Content-Security-Policy forbids both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from downstream.report import claims, drawing
from downstream.report.claims import Comparison
from downstream.report.contents import Contents
from downstream.report.drawing import Figure
from downstream.report.leaderboard import FACTS, Entry, Leaderboard, SuperbScores
from downstream.report.provenance import SYNTHETIC_BANNER
from downstream.report.rows import metric_info
from downstream.report.runs import ProbeRun
from downstream.report.tables import Table, percent, signed

_HERE = Path(__file__).parent
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(?![\w.])")
# Figures of the section on cost, and the labels of their tabs.
_COSTS = {"quality_params": "parameters", "quality_macs": "multiply-accumulates", "quality_rtf": "real-time factor"}
ALL_LABELS = "all"
_TEXT_FACTS = ("front_end", "iteration")
_FACTS = (*(key for key in FACTS if key not in _TEXT_FACTS), *_TEXT_FACTS)


@dataclass(frozen=True)
class HtmlColumn:
    """A column: `name` is its name in filters; `descending` is the direction of the first click."""

    label: str
    name: str = ""
    numeric: bool = False
    descending: bool = False


@dataclass(frozen=True)
class HtmlCell:
    """A cell: its text, its sort key (empty: missing), and the details around the text.

    `marked` reserves space for marks, so that the numbers of a column stay aligned.
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
class HtmlTable:
    """A sortable table; with a `filter` (an example of one) it has a filter field too."""

    key: str
    caption: str
    heads: list[HtmlColumn]
    rows: list[list[HtmlCell]]
    notes: Sequence[str] = ()
    filter: str = ""
    tall: bool = False


@dataclass(frozen=True)
class HtmlPlot:
    """A figure: SVG of each panel, and the legend as (label, series number, marker)."""

    name: str
    title: str
    caption: str
    panels: list[str]
    legend: list[tuple[str, int, str]] = field(default_factory=list)


def render(contents: Contents, panels: dict[str, list[str]]) -> str:
    """The page as one string; `panels` maps the name of a figure to the SVG of its panels."""
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
        leaderboards=[_leaderboard(item, i) for i, item in enumerate(contents.leaderboards, 1)],
        marks=list(dict.fromkeys(mark for item in contents.leaderboards for mark in item.marks())),
        claims=_claims(contents.comparisons),
        claim_notes=claims.comparison_table([], contents.unpaired).notes,
        shown=sum(c.verdict == "shown" for c in contents.comparisons),
        costs=[(name, plots[key]) for key, name in _COSTS.items() if key in plots],
        compression=plots.get("compression"),
        losses=plain("losses", claims.loss_table(contents.losses)) if contents.losses else None,
        scores=_scores(contents.scores) if contents.scores else None,
        metrics=[plain(f"metrics{i}", table) for i, table in enumerate(contents.metrics, 1)],
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


def plain(key: str, table: Table) -> HtmlTable:
    """A table of strings; columns of numbers sort as numbers, `-` is a missing value."""
    columns = list(zip(*table.rows, strict=True)) if table.rows else [()] * len(table.header)
    numeric = [_is_numeric(column) for column in columns]
    heads = [
        HtmlColumn(label, _name(label), number, label.endswith("↑"))
        for label, number in zip(table.header, numeric, strict=True)
    ]
    rows = [[_cell(text, number) for text, number in zip(row, numeric, strict=True)] for row in table.rows]
    return HtmlTable(key, table.title, heads, rows, table.notes)


def _is_numeric(column: Sequence[str]) -> bool:
    present = [text for text in column if text not in ("-", "")]
    return all(_NUMBER.match(text) for text in present)


def _cell(text: str, numeric: bool) -> HtmlCell:
    if text in ("-", ""):
        return HtmlCell("–" if text == "-" else text)
    if not numeric:
        return HtmlCell(text, text)
    found = _NUMBER.match(text)
    return HtmlCell(found[0], found[0], text[found.end() :].strip())


def _name(label: str) -> str:
    """Name of a column in filters: letters, digits and _ only."""
    return re.sub(r"\W+", "_", label.lower()).strip("_")


def _leaderboard(item: Leaderboard, place: int) -> HtmlTable:
    # Results come first, because a phone shows the first columns only.
    heads = [HtmlColumn("upstream", "upstream")]
    heads += [HtmlColumn(c.heading, _name(c.heading), True, c.info.sign > 0) for c in item.columns]
    heads += [HtmlColumn(FACTS[key], _name(FACTS[key]), key not in _TEXT_FACTS) for key in _FACTS]
    rows = []
    for name in item.upstreams:
        cells = [HtmlCell(name, name, kind="name")]
        cells += [_value(item, name, i) for i in range(len(item.columns))]
        facts = item.facts(name)
        cells += [_cell(facts[key], key not in _TEXT_FACTS) for key in _FACTS]
        rows.append(cells)
    return HtmlTable(f"leaderboard{place}", item.title, heads, rows, item.notes, "e.g. harness_s")


def _value(item: Leaderboard, name: str, place: int) -> HtmlCell:
    entry = item.entries.get((name, place))
    if entry is None:
        return HtmlCell("–")
    measured, column = entry.measurement, item.columns[place]
    detail = "" if measured.low is None else f"[{100 * measured.low:.1f}, {100 * measured.high:.1f}]"
    seeds = " ".join(map(str, measured.seeds))
    runs = f"{len(measured.rows)} runs, seeds {seeds}, {measured.utterances} utterances"
    query = f"upstream:{name} task:{column.setting.task} protocol:{column.setting.protocol}"
    query += f" budget:{column.setting.budget or ALL_LABELS}"
    if column.setting.finetune:
        query += f" finetune:{column.setting.finetune}"
    return HtmlCell(
        f"{100 * measured.value:.1f}",
        f"{measured.value:.6f}",
        detail,
        entry.marks,
        "best" if entry.best else "",
        query,
        f"{name}, {column.heading}: {runs}; click to list them",
        _whisker(entry, [item.entries.get((other, place)) for other in item.upstreams]),
        marked=True,
    )


def _whisker(entry: Entry, others: list[Entry | None]) -> tuple[float, float, float] | None:
    """Left end, width and value of an interval, in percent of the range of all intervals of the column."""
    own = entry.measurement
    known = [e.measurement for e in others if e is not None and e.measurement.low is not None]
    if own.low is None or not known:
        return None
    low, high = min(m.low for m in known), max(m.high for m in known)
    if high <= low:
        return None

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    return place(own.low), round(place(own.high) - place(own.low), 2), min(100.0, max(0.0, place(own.value)))


def _claims(comparisons: list[Comparison]) -> HtmlTable | None:
    if not comparisons:
        return None
    heads = [
        HtmlColumn(*column)
        for column in (
            ("upstream", "upstream"), ("against", "against"), ("task", "task"), ("split", "split"),
            ("metric", "metric"), ("difference", "difference", True, True), ("p", "p", True),
            ("gain kept (%)", "kept", True, True), ("claim", "claim"), ("verdict", "verdict"),
            ("resampled", "resampled", True), ("protocol", "protocol"),
        )
    ]  # fmt: skip
    rows = [
        [
            HtmlCell(c.upstream, c.upstream, kind="name"),
            HtmlCell(c.against, c.against),
            HtmlCell(c.task.upper(), c.task),
            HtmlCell(c.split, c.split),
            HtmlCell(metric_info(c.metric).label, c.metric),
            HtmlCell(signed(c.difference), str(c.difference), f"[{signed(c.ci_low)}, {signed(c.ci_high)}]"),
            HtmlCell(claims.p_label(c.p), str(c.p), c.test),
            HtmlCell("–") if c.gain_kept is None else HtmlCell(f"{100 * c.gain_kept:.0f}", str(c.gain_kept)),
            HtmlCell(c.claim, c.claim, kind="claim"),
            HtmlCell(c.verdict, c.verdict, kind="yes" if c.verdict == "shown" else "no"),
            HtmlCell(*_resampled(c)),
            HtmlCell(c.protocol, c.protocol),
        ]
        for c in comparisons
    ]
    return HtmlTable("claims", "Comparisons", heads, rows, (), "e.g. harness_s verdict:shown", tall=True)


def _resampled(c: Comparison) -> tuple[str, str, str]:
    count, unit = (c.speakers, "speakers") if c.speakers > 1 else (c.utterances, "utterances")
    return str(count), str(count), unit


def _scores(found: SuperbScores) -> HtmlTable:
    table, lengths = found.table(), found.bars()
    rows = [
        [
            HtmlCell(name, name, kind="name"),
            HtmlCell(f"{value:.0f}", f"{value:.3f}", whisker=(0.0, lengths[name], -1.0)),
        ]
        for name, value in found.values.items()
    ]
    heads = [HtmlColumn("upstream", "upstream"), HtmlColumn("score ↑", "score", True, True)]
    return HtmlTable("scores", table.title, heads, rows, table.notes)


def _runs(runs: list[ProbeRun], commands: list[str]) -> HtmlTable:
    heads = [
        HtmlColumn(*column)
        for column in (
            ("upstream", "upstream"), ("task", "task"), ("seed", "seed", True), ("fold", "fold", True),
            ("results (%)", "results"), ("lr", "lr", True), ("fine-tuning", "finetune"), ("labels", "budget"),
            ("protocol", "protocol"), ("features (s)", "features", True), ("wall (s)", "wall", True),
            ("commit", "commit"), ("command", "command"), ("run directory", "run_dir"),
        )
    ]  # fmt: skip
    rows = []
    for run in runs:
        setting = run.setting
        number = commands.index(run.command) + 1 if run.command else 0
        rows.append(
            [
                HtmlCell(run.upstream, run.upstream, kind="name"),
                HtmlCell(setting.task.upper(), setting.task),
                HtmlCell(str(run.seed), str(run.seed)),
                HtmlCell("–") if run.fold is None else HtmlCell(str(run.fold), str(run.fold)),
                HtmlCell(_results(run), _results(run), kind="wide"),
                HtmlCell("–") if run.lr is None else HtmlCell(f"{run.lr:g}", str(run.lr), tip=_dev(run)),
                HtmlCell(setting.finetune or "–", setting.finetune),
                HtmlCell(setting.budget or ALL_LABELS, setting.budget or ALL_LABELS),
                HtmlCell(setting.protocol, setting.protocol),
                _seconds(run.extraction_s),
                _seconds(run.wall_s),
                HtmlCell(run.rows[0].commit or "–", run.rows[0].commit, kind="code"),
                HtmlCell(f"C{number}" if number else "–", f"C{number}" if number else "", tip=run.command),
                HtmlCell(run.run_dir or "–", run.run_dir, kind="code"),
            ]
        )
    example = "e.g. upstream:harness_s task:ser seed:0"
    return HtmlTable("runs", "Every run behind the numbers", heads, rows, (), example, tall=True)


def _results(run: ProbeRun) -> str:
    parts = []
    for split in sorted({row.split for row in run.rows}):
        shown = ", ".join(f"{metric_info(r.metric).label} {percent(r.value)}" for r in run.rows if r.split == split)
        parts.append(f"{split}: {shown}")
    return "; ".join(parts)


def _seconds(value: float | None) -> HtmlCell:
    return HtmlCell("–") if value is None else HtmlCell(f"{value:.1f}", str(value))


def _dev(run: ProbeRun) -> str:
    """Dev value of every learning rate that was tried."""
    return ", ".join(f"lr {rate}: dev {value:.4f}" for rate, value in run.dev.items())


def _plot(figure: Figure, panels: list[str]) -> HtmlPlot:
    legend = [(label, number % len(drawing.SERIES), drawing.marker(number)) for label, number in figure.legend.items()]
    return HtmlPlot(figure.name, figure.title, figure.caption, panels, legend)
