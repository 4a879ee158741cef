"""Label budgets as they stand in results.csv: `10min`, `1h`, a fraction such as `0.1`, or everything."""

from __future__ import annotations

import re

_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_FULL = ("", "all", "full", "1", "1.0")


def is_full(budget: str) -> bool:
    """Whether every label was used."""
    return budget.lower() in _FULL


def shown(budget: str) -> str:
    """A budget as people read it; fractions as percent."""
    if is_full(budget):
        return "all"
    if re.fullmatch(r"0?\.\d+", budget):
        return f"{100 * float(budget):g} %"
    return budget


def rank(budget: str) -> tuple[int, float, str]:
    """A sort key: fractions, then durations, then what is neither, then everything."""
    if is_full(budget):
        return 3, 0.0, budget
    found = re.fullmatch(r"(\d*\.?\d+) ?([a-z]*)", budget.lower())
    if found and found[2] in _UNITS:
        return 1, float(found[1]) * _UNITS[found[2]], budget
    if found and not found[2]:
        return 0, float(found[1]), budget
    return 2, 0.0, budget


def in_order(budgets: set[str]) -> list[str]:
    """Budgets from the smallest to everything."""
    return sorted(budgets, key=rank)
