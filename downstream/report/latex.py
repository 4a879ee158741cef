r"""tables.tex: the leaderboards and the compression table in LaTeX (`\usepackage{booktabs,amssymb}`)."""

from __future__ import annotations

from downstream.report.boards import FACTS, Board, Entry
from downstream.report.contents import Contents
from downstream.report.text import Table

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
_TRACED = ("command", "commits of the rows", "versions")
_MARKS = {"▲": r"\blacktriangle", "▼": r"\blacktriangledown", "†": r"\dagger", "‡": r"\ddagger"}


def escape(text: str) -> str:
    """Text that LaTeX sets as it stands; line ends become spaces."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))


def render(contents: Contents) -> str:
    """The whole file; a comment at its top says where the numbers are from."""
    head = [
        r"% \usepackage{booktabs,amssymb} in the preamble.",
        *(f"% {key}: {' '.join(contents.facts[key].split())}" for key in _TRACED),
    ]
    if contents.synthetic:
        head.append("% SYNTHETIC SPEECH: the numbers say nothing about the quality of a model on speech.")
    parts = ["\n".join(head), *(_board(board, number) for number, board in enumerate(contents.boards, 1))]
    if contents.costs is not None:
        parts.append(_plain(contents.costs, "compression", contents.label))
    return "\n\n".join(parts) + "\n"


def _board(board: Board, number: int) -> str:
    facts = [key for key in FACTS if any(board.facts(name)[key] != "-" for name in board.upstreams)]
    header = ["upstream", *(FACTS[key] for key in facts), *(column.heading for column in board.columns)]
    rows = []
    for name in board.upstreams:
        known = board.facts(name)
        shown = [_numeral(known[key]) for key in facts]
        shown += [_entry(board.entries.get((name, place))) for place in range(len(board.columns))]
        rows.append([escape(name), *shown])
    caption = escape(f"{board.title}. In percent, with 95 % bootstrap intervals; the best of a column is bold.")
    if board.marks():
        caption += " " + ", ".join(f"${_MARKS[mark]}$ {escape(meaning)}" for mark, meaning in board.marks())
        caption += r" (95\,\% interval of the paired difference without 0; not corrected for several comparisons)."
    settings = dict.fromkeys(column.setting for column in board.columns)
    caption += " " + escape("; ".join(setting.describe() for setting in settings)) + "."
    return _table(header, rows, caption, f"tab:results{number}", f"ll{'r' * (len(header) - 2)}")


def _entry(entry: Entry | None) -> str:
    if entry is None:
        return "--"
    cell = entry.cell
    value = f"{100 * cell.value:.1f}"
    if entry.best:
        value = rf"\textbf{{{value}}}"
    if cell.low is not None and cell.high is not None:
        value += rf" {{\scriptsize [{100 * cell.low:.1f}, {100 * cell.high:.1f}]}}"
    marks = "".join(_MARKS[mark] for mark in entry.marks)
    return value + (f"$^{{{marks}}}$" if marks else "")


def _numeral(text: str) -> str:
    if text == "-":
        return "--"
    return f"${text}$" if text.startswith("-") else escape(text)


def _plain(table: Table, label: str, where: str) -> str:
    rows = [[escape(row[0]), *(_numeral(cell) for cell in row[1:])] for row in table.rows]
    caption = escape(f"{table.title}: {where}. {'; '.join(table.notes)}.")
    return _table(table.header, rows, caption, f"tab:{label}", "l" * 2 + "r" * (len(table.header) - 2))


def _table(header: list[str], rows: list[list[str]], caption: str, label: str, align: str) -> str:
    def line(cells: list[str]) -> str:
        return "    " + " & ".join(cells) + r" \\"

    return "\n".join(
        [
            r"\begin{table*}[t]",
            r"  \centering\small",
            rf"  \caption{{{caption}}}",
            rf"  \label{{{label}}}",
            rf"  \begin{{tabular}}{{{align}}}",
            r"    \toprule",
            line([escape(cell) for cell in header]),
            r"    \midrule",
            *map(line, rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table*}",
        ]
    )
