"""Marks of significant differences, and the SUPERB-like score."""

from __future__ import annotations

from dataclasses import replace

import pytest

from downstream import DownstreamError
from downstream.report.leaderboard import leaderboard, superb_scores
from downstream.score import metrics


def test_the_score_is_the_formula_and_skips_columns_without_a_gain(columns):
    found = superb_scores(columns, "harness_l")
    assert found.values["fbank"] == 0 and found.values["harness_l"] == pytest.approx(1000) and found.skipped == []
    value = {
        (column.setting.task, name): measurement.value
        for column in columns
        if column.metric in ("cer", "ua")
        for name, measurement in column.values.items()
    }
    by_hand = [
        (value[task, "harness_st"] - value[task, "fbank"]) / (value[task, "harness_l"] - value[task, "fbank"])
        for task in ("asr", "ser")
    ]
    assert found.values["harness_st"] == pytest.approx(500 * sum(by_hand))
    other = {"fbank": "harness_l", "harness_l": "fbank"}
    swapped = [
        replace(column, values={name: column.values[other.get(name, name)] for name in column.values})
        if column.setting.task == "ser" else column
        for column in columns
    ]  # fmt: skip
    found = superb_scores(swapped, "harness_l")
    assert [column.setting.task for column in found.columns] == ["asr"]
    assert len(found.skipped) == 1 and "SER UA" in found.skipped[0] and "fbank" in found.skipped[0]
    assert superb_scores(columns, "hubert") is None


def test_the_score_of_superb():
    # SUPERB-like, by hand: ASR halves the way to the reference, SER overshoots by a quarter.
    own, base, best = {"asr": {"wer": 0.3}, "ser": {"ua": 0.75}}, {"asr": {"wer": 0.5}, "ser": {"ua": 0.5}}, None
    best = {"asr": {"wer": 0.1}, "ser": {"ua": 0.7}}
    assert metrics.superb_score(own, base, best) == pytest.approx(1000 * (0.5 + 1.25) / 2)
    with pytest.raises(DownstreamError, match="asr|ser"):
        metrics.superb_score(own, base, base)


def test_marks_are_significant_differences(columns, known):
    found = leaderboard(columns, known, "title")
    marks = {name: found.entries[name, 0].marks for name in found.upstreams}
    assert marks == {"fbank": "", "harness_l": "▲", "harness_s": "▲", "harness_st": "▲†"}
    assert found.entries["harness_l", 0].best and not found.entries["harness_st", 0].best
    assert found.marks() == [("▲", "better than fbank"), ("†", "worse than harness_l")]
