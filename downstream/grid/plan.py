"""What a grid consists of: its cells, where each lies, which are complete, and which part of it a shard runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from corpora.files import read_json, sha256_json
from downstream.grid import budgets
from downstream.grid.budgets import Budget
from downstream.probe import finetune
from downstream.probe.data import TaskData, TaskDataError, folds_of, load_task
from downstream.probe.finetune import PROBE, Tuning
from downstream.protocols import Protocol, load
from downstream.upstreams import Upstream

# Bump when the code that makes a number changes its meaning.
FORM = 2
POOLED, FRAMES, UNCACHED = "pooled", "frames", ""


@dataclass(frozen=True)
class Cell:
    """One head to train: everything but the upstream, which cells are grouped by."""

    task: str
    seed: int
    fold: int | None
    data: TaskData
    protocol: Protocol
    tuning: Tuning
    budget: str
    run_dir: Path
    key: str

    @property
    def place(self) -> str:
        parts = [self.task, *([] if self.tuning.frozen else [self.tuning.tag]), *([self.budget] if self.budget else [])]
        return f"{' '.join(parts)} seed {self.seed}" + ("" if self.fold is None else f" fold {self.fold}")

    @property
    def kind(self) -> tuple[str, bool]:
        """Features that the cell is trained on (pooled, frames, or none stored), and whether frames are normalised."""
        config = self.protocol.config
        if config["cached"] is None or not self.tuning.frozen:
            return UNCACHED, False
        return config["cached"], bool(config["problem"]["build_featurizer"]["normalize"])

    @property
    def is_complete(self) -> bool:
        path = self.run_dir / "cell.json"
        return path.is_file() and (self.run_dir / "predictions.csv").is_file() and read_json(path)["key"] == self.key


@dataclass(frozen=True)
class Grid:
    """What is to be measured. Data directories are `<data_dir>/<task>/{train,dev,test*}` or under `fold<k>`."""

    tasks: tuple[str, ...]
    recipe: str
    data_dir: Path
    exp_dir: Path
    protocol: str = "light"
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    tunings: tuple[Tuning, ...] = (PROBE,)
    budgets: tuple[Budget | None, ...] = (None,)

    def sets(self) -> list[tuple[Protocol, int | None, Budget | None, TaskData]]:
        """Labelled data of every task, fold and budget. Raises TaskDataError, ProtocolError or BudgetError."""
        found = []
        for task in self.tasks:
            protocol = load(task, self.protocol, self.overrides)
            for fold, data in _read(task, Path(self.data_dir), protocol, self.folds):
                for budget in self.budgets:
                    train = budgets.select(data.splits["train"], budget, by_label=task != "asr")
                    part = replace(data, splits={**data.splits, "train": train})
                    found.append((protocol, fold, budget, part))
        return found

    def cells(
        self, upstream: Upstream, sets: Sequence[tuple[Protocol, int | None, Budget | None, TaskData]]
    ) -> list[Cell]:
        """Every cell of one upstream; upstreams without weights are probed only."""
        tunings = [t for t in self.tunings if t.frozen or upstream.path is not None]
        return [
            self._cell(upstream, protocol, fold, budget, data, tuning, seed)
            for tuning in tunings
            for protocol, fold, budget, data in sets
            for seed in self.seeds
        ]

    def _cell(
        self,
        upstream: Upstream,
        protocol: Protocol,
        fold: int | None,
        budget: Budget | None,
        data: TaskData,
        tuning: Tuning,
        seed: int,
    ) -> Cell:
        tag = "" if budget is None else budget.tag
        parts = [f"{protocol.task}_{protocol.name}", "" if tuning.frozen else tuning.tag, tag]
        name = f"seed{seed}" + ("" if fold is None else f"_fold{fold}")
        run_dir = Path(self.exp_dir) / "probes" / "_".join(filter(None, parts)) / upstream.name / name
        key = sha256_json([FORM, protocol.hash, upstream.key, data.hash, seed, fold, tuning.tag])
        return Cell(protocol.task, seed, fold, data, protocol, tuning, tag, run_dir, key)


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 1) of `count` of a grid; the parts are disjoint, together complete, and never move."""

    index: int = 1
    count: int = 1

    def pick(self, cells: Sequence[Cell], start: int) -> tuple[list[Cell], int]:
        """The cells of this part, dealt out by groups from number `start` on, and the next number."""
        own = []
        for group in groups(cells):
            if start % self.count == self.index - 1:
                own += group
            start += 1
        return own, start


def parse_shard(text: str) -> Shard:
    """Read `i/n`. Raises ValueError."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ValueError(f"--shard: `{text}` is not of the form i/n with 1 <= i <= n")
    return Shard(int(index), int(count))


def groups(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Cells that are trained together: the seeds of one fold where features are pooled, else each alone."""
    together: dict[object, list[Cell]] = {}
    for number, cell in enumerate(cells):
        pooled = cell.kind[0] == POOLED
        own = (cell.task, cell.fold, cell.budget, cell.protocol.hash) if pooled else number
        together.setdefault(own, []).append(cell)
    yield from together.values()


def parse_tunings(names: Sequence[str]) -> tuple[Tuning, ...]:
    """Kinds of fine-tuning by name, without repetition."""
    return tuple(dict.fromkeys(finetune.parse(name) for name in names))


def parse_budgets(names: Sequence[str]) -> tuple[Budget | None, ...]:
    """Label budgets by name, without repetition."""
    return tuple(dict.fromkeys(budgets.parse(name) for name in names))


def _read(task: str, data_dir: Path, protocol: Protocol, folds: int | None) -> list[tuple[int | None, TaskData]]:
    folder = data_dir / task
    if not folder.is_dir():
        raise TaskDataError(
            f"{task}: no data directory {folder}; make the corpus (./run.sh --stage 1 --stop_stage 1), or leave "
            f"{task} out of --tasks"
        )
    present = folds_of(folder)
    if not present:
        return [(None, load_task(folder, protocol))]
    wanted = present if folds is None else list(range(1, folds + 1))
    absent = sorted(set(wanted) - set(present))
    if absent:
        raise TaskDataError(f"{task}: {folder} has folds {present}, fold{absent[0]} is not there; lower --folds")
    return [(fold, load_task(folder / f"fold{fold}", protocol)) for fold in wanted]
