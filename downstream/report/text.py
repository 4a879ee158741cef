"""Tables as text: aligned columns for the terminal, pipes for Markdown."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field


@dataclass
class Table:
    """Header, rows of strings, and notes that stand below; the first column is aligned to the left."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def terminal(self) -> str:
        """Columns aligned by what a terminal shows."""
        widths = [max(_width(line[i]) for line in [self.header, *self.rows]) for i in range(len(self.header))]

        def line(cells: list[str]) -> str:
            padded = [_pad(cell, width, left=i == 0) for i, (cell, width) in enumerate(zip(cells, widths, strict=True))]
            return "  ".join(padded).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([self.title, line(self.header), rule, *map(line, self.rows), *self.notes])

    def markdown(self) -> str:
        def line(cells: list[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        align = "|" + "|".join(["---"] + ["---:"] * (len(self.header) - 1)) + "|"
        notes = ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join([line(self.header), align, *map(line, self.rows), *notes])


def _width(text: str) -> int:
    """Columns that a terminal uses: combining marks take none."""
    return sum(not unicodedata.combining(c) for c in text)


def _pad(text: str, width: int, *, left: bool) -> str:
    space = " " * (width - _width(text))
    return text + space if left else space + text


def percent(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A share as percent with one decimal, with its interval where there is one; a dash for nothing."""
    if value is None:
        return "-"
    if low is None or high is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def signed(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.1f}"


def number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
