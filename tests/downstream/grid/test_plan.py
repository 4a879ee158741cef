"""Parts of a grid: disjoint, together complete, the same on every machine; work spread over processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from downstream.grid.plan import Cell, Grid, Part, parse_budgets, parse_part
from downstream.grid.run import spread
from downstream.probe.finetune import PROBE, Tuning
from downstream.upstreams import Upstream

FBANK = Upstream("fbank", "fbank", None, "0" * 64, batched=False)
MODEL = Upstream("model", "harness_custom", Path("model"), "1" * 64, batched=True)


@pytest.fixture
def grid(make_set: Callable[..., Path], tmp_path: Path) -> Grid:
    sizes = {"train": 18, "dev": 6, "test": 6}
    for task in ("asr", "ser"):
        make_set(task, sizes)
    return Grid(
        ("asr", "ser"),
        "toy",
        tmp_path / "data",
        tmp_path / "exp",
        seeds=(0, 1, 2),
        tunings=(PROBE, Tuning("lora", 4)),
        budgets=parse_budgets(["0.5", "all"]),
    )


def names(cells: list[Cell]) -> list[str]:
    return [str(cell.run_dir) for cell in cells]


def test_parts_are_disjoint_and_cover_the_grid(grid: Grid):
    sets = grid.sets()
    whole = [name for upstream in (FBANK, MODEL) for name in names(grid.cells(upstream, sets))]
    assert len(whole) == len(set(whole)) == 2 * 2 * 3 * (1 + 2)
    parts = []
    for index in (1, 2, 3):
        number, own = 0, []
        for upstream in (FBANK, MODEL):
            cells, number = Part(index, 3).pick(grid.cells(upstream, sets), number)
            own += names(cells)
        parts.append(own)
    assert sorted(sum(parts, [])) == sorted(whole)
    assert min(len(part) for part in parts) > 0


@pytest.mark.parametrize("text", ["3/2", "0/2", "1", "a/b", "1/"])
def test_impossible_parts_are_refused(text: str):
    with pytest.raises(ValueError, match=f"`{text}`"):
        parse_part(text)
    assert parse_part("2/4") == Part(2, 4)


def test_cells_have_different_folders_and_keys(grid: Grid):
    cells = grid.cells(MODEL, grid.sets())
    assert len({cell.key for cell in cells}) == len(cells)
    places = {cell.run_dir.parent.parent.name for cell in cells if cell.task == "ser"}
    assert places == {"ser_light", "ser_light_0.5", "ser_light_lora-4", "ser_light_lora-4_0.5"}
    half = next(cell for cell in cells if cell.budget == "0.5" and cell.task == "ser")
    full = next(cell for cell in cells if cell.budget == "" and cell.task == "ser")
    assert half.data.splits["test"] == full.data.splits["test"]
    assert 0 < len(half.data.splits["train"]) <= len(full.data.splits["train"]) / 2


def test_features_of_a_fine_tuned_upstream_are_never_stored(grid: Grid):
    for cell in grid.cells(MODEL, grid.sets()):
        expected = {"asr": "frames", "ser": "pooled"}[cell.task] if cell.tuning.frozen else ""
        assert cell.kind[0] == expected


def test_a_large_upstream_is_split_over_idle_processes(grid: Grid):
    cells = tuple(grid.cells(MODEL, grid.sets()))
    work = spread([(FBANK, cells[:3]), (MODEL, cells)], 4)
    assert len(work) == 4
    assert sorted(names([c for u, own in work for c in own])) == sorted(names([*cells[:3], *cells]))
    seeds_together = [[c.seed for c in own if c.task == "ser" and c.tuning.frozen and not c.budget] for _, own in work]
    assert sorted(map(len, seeds_together)) == [0, 0, 0, 3] or sorted(map(len, seeds_together))[-1] == 3
    assert spread([(FBANK, cells[:1])], 8) == [(FBANK, cells[:1])]
