"""The estimate of a grid: stored features cost nothing, steps are those of the protocol's head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from downstream.grid import estimate
from downstream.grid.plan import Grid
from downstream.probe import cache
from downstream.upstreams import resolve

SIZES = {"train": 18, "dev": 6, "test": 6}


@pytest.mark.slow
def test_stored_features_are_not_counted_again(make_set: Callable[..., Path], tiny_models: Path, tmp_path: Path):
    from downstream.probe.probe import UpstreamExtractor

    data = make_set("ser", SIZES).parent
    exp = tmp_path / "exp"
    grid = Grid(("ser",), "toy", data, exp, seeds=(0, 1))
    upstream = resolve("tiny_a", tiny_models)
    cells = tuple(grid.cells(upstream, grid.sets()))
    before = estimate.describe([(upstream, cells)], 0, exp, "cpu", 1)
    items = cells[0].data.items
    cache.prepare(exp / "cache", upstream, "pooled", items, lambda: UpstreamExtractor(upstream, "cpu"), normalised=True)
    after = estimate.describe([(upstream, cells)], 0, exp, "cpu", 1)
    assert "disk: 0 B" not in before and "disk: 0 B" in after


@pytest.mark.parametrize("task", ["asr", "ser"])
def test_a_step_has_a_batch_of_the_protocol(task: str, make_set: Callable[..., Path], tmp_path: Path):
    data = make_set(task, SIZES).parent
    grid = Grid((task,), "toy", data, tmp_path / "exp", seeds=(0,))
    (cell,) = grid.cells(resolve("fbank", tmp_path), grid.sets())
    seconds, audio_s = estimate.step_seconds(cell, cache.Info(layers=1, width=240, stride=160), "cpu")
    whole_s = sum(item.samples for item in cell.data.splits["train"]) / 16000
    assert 0 < seconds < 60 and 0 < audio_s <= whole_s + 1e-6
