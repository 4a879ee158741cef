"""Tables as text."""

from __future__ import annotations

from downstream.report.tables import Table, difference, number, percent


def test_columns_are_aligned_and_markdown_keeps_its_columns():
    table = Table("title", ["name", "value"], [["a|b", "1.0"], ["c", "-"]], ["a note"])
    title, header, _, first, second, note = table.terminal().splitlines()
    assert (title, note) == ("title", "a note") and len({len(line) for line in (header, first, second)}) == 1
    lines = table.markdown().splitlines()
    assert r"a\|b" in lines[2] and lines[-1] == "- a note"
    assert all(line.replace(r"\|", "").count("|") == 3 for line in lines[:4])


def test_numbers_of_tables():
    assert percent(0.123) == "12.3" and percent(0.5, 0.25, 0.75) == "50.0 [25.0, 75.0]" and percent(None) == "-"
    assert difference(-0.1, -0.2, 0.05) == "-10.0 [-20.0, +5.0]"
    assert number(None) == number(float("nan")) == "-" and number(1.25, 2) == "1.25"
