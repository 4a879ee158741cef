"""Tables as text."""

from __future__ import annotations

from pathlib import Path

from corpora.files import write_csv
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


def test_names_cannot_become_html_or_columns_in_markdown(tmp_path: Path):
    table = Table("t", ["a|b", "<b>"], [["<script>x</script>", "1 & 2 | 3"]], ["<i>note"])
    text = table.markdown()
    assert "<script>" not in text and "<b>" not in text and "<i>" not in text
    assert "&lt;script>x&lt;/script>" in text and r"1 &amp; 2 \| 3" in text and r"a\|b" in text
    write_csv(tmp_path / "x.csv", ["a", "b"], [{"a": "=1+1", "b": -0.5}])
    assert (tmp_path / "x.csv").read_text(encoding="utf-8") == "a,b\n'=1+1,-0.5\n"
