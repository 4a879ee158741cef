"""Label budgets: nested, the same every time, and fair to speakers and classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from downstream import DownstreamError
from downstream.grid import budgets
from downstream.grid.budgets import Budget
from downstream.probe.data import LabelledUtterance


def items(count: int = 400) -> list[LabelledUtterance]:
    generator = np.random.default_rng(0)
    found = []
    for number in range(count):
        speaker = f"s{int(generator.choice(5, p=[0.4, 0.3, 0.1, 0.1, 0.1]))}"
        label = "ابت"[int(generator.integers(3))]
        samples = int(generator.integers(8_000, 80_000))
        found.append(
            LabelledUtterance(f"{speaker}-{number:04d}", speaker, label, Path("x"), None, None, samples, str(number))
        )
    return sorted(found, key=lambda item: item.utt_id)


def seconds(chosen: list[LabelledUtterance]) -> float:
    return sum(item.samples for item in chosen) / 16000


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("10min", Budget("10min", seconds=600)),
        ("1h", Budget("1h", seconds=3600)),
        ("1.5 h", Budget("1.5h", seconds=5400)),
        ("90s", Budget("90s", seconds=90)),
        ("0.1", Budget("0.1", share=0.1)),
        ("all", None),
        ("1.0", None),
    ],
)
def test_budgets_are_read(text: str, budget: Budget | None):
    assert budgets.parse(text) == budget


def test_budgets_have_an_order_and_a_form_for_people():
    assert budgets.in_order({"", "1h", "0.5", "10min", "10h", "0.05", "90s"}) == [
        "0.05",
        "0.5",
        "90s",
        "10min",
        "1h",
        "10h",
        "",
    ]
    assert [budgets.shown(text) for text in ("", "all", "0.05", "10min")] == ["all", "all", "5 %", "10min"]


@pytest.mark.parametrize("text", ["10", "0", "-1h", "ten", "1d", "0min"])
def test_other_texts_are_refused(text: str):
    with pytest.raises(DownstreamError, match=f"`{text.lower()}`"):
        budgets.parse(text)


@pytest.mark.parametrize("by_label", [True, False])
def test_smaller_budgets_lie_within_larger_ones(by_label: bool):
    everything = items()
    previous: set[str] = set()
    for text in ("30s", "60s", "2min", "0.3", "0.6", "all"):
        budget = budgets.parse(text)
        chosen = budgets.select(everything, budget, by_label=by_label)
        assert chosen == budgets.select(everything[::-1], budget, by_label=by_label)[::-1]
        names = {item.utt_id for item in chosen}
        assert previous < names
        previous = names
        if budget and budget.seconds:
            assert budget.seconds - 5 < seconds(chosen) <= budget.seconds
    assert len(previous) == 400


@given(st.lists(st.integers(1, 200), min_size=2, max_size=12), st.floats(0.05, 1), st.floats(0.05, 1))
def test_nesting_holds_for_any_lengths(lengths: list[int], one: float, other: float):
    """A short clip that still fits after a long one did not must not get in: the next budget would lose it."""
    own = [
        LabelledUtterance(f"s-{i:02d}", "s", "ا", Path("x"), None, None, n * 100, str(i)) for i, n in enumerate(lengths)
    ]

    def names(share: float) -> set[str]:
        try:
            return {item.utt_id for item in budgets.select(own, Budget("b", share=share), by_label=False)}
        except DownstreamError:  # not even the first one fits
            return set()

    small, large = sorted((one, other))
    assert names(small) <= names(large)


def test_each_speaker_and_class_keeps_its_share():
    everything = items(2000)
    chosen = budgets.select(everything, budgets.parse("0.2"), by_label=True)
    for field in ("speaker", "label"):
        whole, part = (Counter(getattr(i, field) for i in x) for x in (everything, chosen))
        for name, count in whole.items():
            assert part[name] / count == pytest.approx(0.2, abs=0.03)


def test_budgets_that_cannot_be_met_are_refused():
    with pytest.raises(DownstreamError, match="10h: .* min"):
        budgets.select(items(), budgets.parse("10h"), by_label=True)
    with pytest.raises(DownstreamError, match="3s"):
        budgets.select(items(), budgets.parse("3s"), by_label=True)
