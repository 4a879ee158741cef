"""Label budgets of results.csv."""

from __future__ import annotations

from downstream.report import rows


def test_label_budgets_are_sorted_by_size():
    assert sorted({"", "1h", "10min", "0.5", "10h", "0.05", "90s"}, key=rows.budget_rank) == [
        "0.05", "0.5", "90s", "10min", "1h", "10h", ""
    ]  # fmt: skip
    assert [rows.budget_label(b) for b in ("0.05", "10min", "", "all")] == ["5 %", "10min", "all", "all"]
