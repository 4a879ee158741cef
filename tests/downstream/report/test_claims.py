"""Losses by compression."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest

from downstream.report.claims import compression_losses


def test_relative_losses_are_those_of_a_plain_bootstrap(columns, known, fake_results):
    losses = compression_losses(columns, known)
    assert {(loss.upstream, loss.column.setting.task) for loss in losses} == {
        (name, task) for name in ("harness_s", "harness_st") for task in ("asr", "ser")
    }
    loss = next(x for x in losses if x.upstream == "harness_st" and x.column.setting.task == "asr")
    assert loss.column.metric == "cer" and loss.delta_s == 86.7

    def rates(upstream: str, weights: np.ndarray) -> np.ndarray:
        found = []
        for seed in (0, 1):
            sums = np.zeros((8, 2))
            for p in fake_results.predict("asr", fake_results.ERRORS[upstream], seed, None):
                out = jiwer.process_characters(p.reference, p.hypothesis)
                edits = out.substitutions + out.deletions + out.insertions
                sums[int(p.speaker[1:])] += edits, out.hits + out.substitutions + out.deletions
            drawn = weights @ sums
            found.append(drawn[:, 0] / drawn[:, 1])
        return np.mean(found, axis=0)

    weights = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=10_000)
    once = np.ones((1, 8))
    student, teacher = rates("harness_st", once)[0], rates("harness_l", once)[0]
    assert loss.value == pytest.approx(student / teacher - 1, abs=1e-9) and loss.value > 0.5
    draws = rates("harness_st", weights) / rates("harness_l", weights) - 1
    assert (loss.low, loss.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=1e-9)
    accuracy = next(x for x in losses if x.upstream == "harness_st" and x.column.setting.task == "ser")
    assert 0 < accuracy.low < accuracy.value < accuracy.high < 1, "a lower UA is a loss too"
