r"""Write tables.tex: the leaderboards and the compression table in LaTeX (`\usepackage{booktabs,amssymb}`)."""

from __future__ import annotations

import pandas

from downstream.report.contents import Contents
from downstream.report.leaderboard import FACTS, Entry, Leaderboard
from downstream.report.tables import Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "Δ": r"$\Delta$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
    "−": "$-$",
    **{character: "\\" + character for character in "&%$#_{}"},
}
_HEADER_FACTS = ("command", "commits of the rows", "versions")
_MARKS = {"▲": r"\blacktriangle", "▼": r"\blacktriangledown", "†": r"\dagger", "‡": r"\ddagger"}


def escape(text: str) -> str:
    """Escape characters that LaTeX would interpret; line ends become spaces."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))


def render(contents: Contents) -> str:
    """The whole file; comments at its top give command, commits and versions of the numbers."""
    head = [
        r"% \usepackage{booktabs,amssymb} in the preamble.",
        *(f"% {key}: {' '.join(contents.facts[key].split())}" for key in _HEADER_FACTS),
    ]
    if contents.synthetic:
        head.append("% SYNTHETIC SPEECH: the numbers say nothing about the quality of a model on speech.")
    parts = ["\n".join(head), *(_leaderboard(item, number) for number, item in enumerate(contents.leaderboards, 1))]
    if contents.costs is not None:
        parts.append(_plain(contents.costs, "compression", contents.label))
    return "\n\n".join(parts) + "\n"


def _leaderboard(item: Leaderboard, number: int) -> str:
    facts = [key for key in FACTS if any(item.facts(name)[key] != "-" for name in item.upstreams)]
    header = ["upstream", *(FACTS[key] for key in facts), *(column.heading for column in item.columns)]
    rows = []
    for name in item.upstreams:
        known = item.facts(name)
        shown = [_numeral(known[key]) for key in facts]
        shown += [_entry(item.entries.get((name, place))) for place in range(len(item.columns))]
        rows.append([escape(name), *shown])
    caption = escape(f"{item.title}. In percent, with 95 % bootstrap intervals; the best of a column is bold.")
    if item.marks():
        caption += " " + ", ".join(f"${_MARKS[mark]}$ {escape(meaning)}" for mark, meaning in item.marks())
        caption += r" (95\,\% interval of the paired difference without 0; not corrected for several comparisons)."
    settings = dict.fromkeys(column.setting for column in item.columns)
    caption += " " + escape("; ".join(setting.describe() for setting in settings)) + "."
    return _table(header, rows, caption, f"tab:results{number}")


def _entry(entry: Entry | None) -> str:
    if entry is None:
        return "--"
    measured = entry.measurement
    value = f"{100 * measured.value:.1f}"
    if entry.best:
        value = rf"\textbf{{{value}}}"
    if measured.low is not None and measured.high is not None:
        value += rf" {{\scriptsize [{100 * measured.low:.1f}, {100 * measured.high:.1f}]}}"
    marks = "".join(_MARKS[mark] for mark in entry.marks)
    return value + (f"$^{{{marks}}}$" if marks else "")


def _numeral(text: str) -> str:
    if text == "-":
        return "--"
    return f"${text}$" if text.startswith("-") else escape(text)


def _plain(table: Table, label: str, source: str) -> str:
    rows = [[escape(row[0]), *map(_numeral, row[1:])] for row in table.rows]
    caption = escape(f"{table.title}: {source}. {'; '.join(table.notes)}.")
    return _table(table.header, rows, caption, f"tab:{label}")


def _table(header: list[str], rows: list[list[str]], caption: str, label: str) -> str:
    """A floating table over both columns of a page; the first two columns are aligned to the left."""
    style = pandas.DataFrame(rows, columns=[escape(name) for name in header]).style.hide(axis="index")
    style = style.set_table_styles([{"selector": "small", "props": ":;"}])
    return style.to_latex(
        environment="table*",
        position="t",
        position_float="centering",
        column_format="ll" + "r" * (len(header) - 2),
        caption=caption,
        label=label,
        hrules=True,
    ).rstrip()
