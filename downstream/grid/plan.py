"""Plan a grid of probes: its cells (one trained head each), their folders and keys, and the parts of an array job."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from corpora.files import CorpusError, read_json, sha256_json
from corpora.machine import cores
from corpora.schema import nearest
from downstream import DownstreamError
from downstream.grid import budgets
from downstream.grid.budgets import Budget
from downstream.probe import finetune
from downstream.probe.data import TaskData, folds_of, load_task
from downstream.probe.finetune import PROBE, Tuning
from downstream.protocols import FORM, Protocol, load
from downstream.score import metrics
from downstream.upstreams import Upstream

POOLED, UNCACHED = "pooled", ""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One head to train on a given upstream; complete when its run directory holds `cell.json` with its key."""

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
    def title(self) -> str:
        """Its name in messages, without the upstream."""
        parts = [self.task, *([] if self.tuning.frozen else [self.tuning.tag]), *([self.budget] if self.budget else [])]
        return f"{' '.join(parts)} seed {self.seed}" + ("" if self.fold is None else f" fold {self.fold}")

    @property
    def kind(self) -> tuple[str, bool]:
        """Kind of stored features (pooled, frames, or none), and whether their frames are normalised."""
        config = self.protocol.config
        if config["cached"] is None or not self.tuning.frozen:
            return UNCACHED, False
        return config["cached"], bool(config["problem"]["build_featurizer"]["normalize"])

    @property
    def is_complete(self) -> bool:
        found = read_cell(self.run_dir) if (self.run_dir / "predictions.csv").is_file() else {}
        return found.get("key") == self.key and isinstance(found.get("rows"), list)


def read_cell(run_dir: Path) -> dict[str, Any]:
    """The content of `cell.json`; empty if there is none, or if it is damaged, which a warning says."""
    path = Path(run_dir) / "cell.json"
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise CorpusError(f"{path}: not the record of a probe")
    except (CorpusError, OSError) as error:
        logger.warning("%s; this probe counts as not trained (delete its folder %s to be rid of it)", error, run_dir)
        return {}
    return content


@dataclass(frozen=True)
class Grid:
    """All settings of a grid. Data directories are `<data_dir>/<task>/{train,dev,test*}`, or the same in `fold<k>`."""

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
        """Labelled data of every task, fold and budget. Raises DownstreamError."""
        found = []
        for task in self.tasks:
            protocol = load(task, self.protocol, self.overrides)
            for name in protocol.config["metrics"]:
                if name not in (*metrics.METRICS, metrics.CAVG):
                    raise DownstreamError(f"`metrics`: unknown metric `{name}`{nearest(str(name), metrics.METRICS)}")
            for fold, data in _read(task, Path(self.data_dir), protocol, self.folds):
                for budget in self.budgets:
                    train = budgets.select(data.splits["train"], budget, by_label=task != "asr")
                    part = replace(data, splits={**data.splits, "train": train})
                    found.append((protocol, fold, budget, part))
        return found

    def cells(
        self, upstream: Upstream, sets: Sequence[tuple[Protocol, int | None, Budget | None, TaskData]]
    ) -> list[Cell]:
        """Every cell of one upstream; an upstream without weights is not fine-tuned."""
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


Work = tuple[Upstream, tuple[Cell, ...]]


@dataclass(frozen=True)
class Part:
    """Part `index` (from 1) of `count` of a grid; disjoint parts cover the grid, on any machine."""

    index: int = 1
    count: int = 1

    def pick(self, cells: Sequence[Cell], start: int) -> tuple[list[Cell], int]:
        """The cells of this part, and the next group number; groups are numbered from `start` and taken in turn."""
        own = []
        for group in groups(cells):
            if start % self.count == self.index - 1:
                own += group
            start += 1
        return own, start


def parse_part(text: str) -> Part:
    """Read `i/n`. Raises DownstreamError."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise DownstreamError(f"--shard: `{text}` is not of the form i/n with 1 <= i <= n")
    return Part(int(index), int(count))


@dataclass(frozen=True)
class Settings:
    """Settings that all cells of a grid share; `started` is the start of the command, in seconds since 1970."""

    recipe: str
    exp_dir: Path
    device: str
    command: str
    started: float
    cache_bytes: int | None = None
    processes: int = 1


@dataclass(frozen=True)
class Event:
    """A message of a running grid.

    `kind` is `note` (current step, for the progress bar), `say` (a line for the terminal), `rows` (results of one
    finished cell) or `failed` (an error in `text`); `cells` is the number of cells that are finished or failed.
    """

    kind: str
    text: str = ""
    cells: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Resources:
    """Number of processes, threads in each, and the devices that the processes take in turn."""

    processes: int
    threads: int
    devices: tuple[str, ...]

    @classmethod
    def of(cls, device: str, jobs: int | None) -> Resources:
        """`device` is auto, cpu, cuda (all GPUs) or cuda:N; without `jobs`, one process per core, or one per GPU.

        Raises DownstreamError for a device that this machine does not have, and for fewer than one process.
        """
        if jobs is not None and jobs < 1:
            raise DownstreamError(f"--jobs {jobs}: give 1 or more processes")
        available = cores()
        devices = devices_of(device)
        wanted = jobs if jobs is not None else available if devices == ("cpu",) else len(devices)
        asked = os.environ.get("OMP_NUM_THREADS", "")
        # It does not depend on the remaining work: a resumed run must use as many threads as before.
        threads = int(asked) if asked.isdecimal() else max(1, available // wanted)
        return cls(wanted, threads, devices)


def devices_of(asked: str) -> tuple[str, ...]:
    """The devices that `auto`, `cpu`, `cuda` or `cuda:N` names. Raises DownstreamError for one that is not there."""
    if asked == "cpu":
        return ("cpu",)
    name, _, number = asked.partition(":")
    if asked != "auto" and (name != "cuda" or asked != "cuda" and not number.isdecimal()):
        raise DownstreamError(f"--device {asked}: unknown; choose auto, cpu, cuda or cuda:N")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked != "auto" and int(number or 0) >= count:
        found = f"only {count} GPUs" if count else "no GPU"
        raise DownstreamError(f"--device {asked}: PyTorch sees {found}; use --device cpu or auto")
    if number:
        return (asked,)
    return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)


def groups(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Cells that are trained together: all seeds of one fold on pooled features, otherwise each cell alone."""
    together: dict[object, list[Cell]] = {}
    for number, cell in enumerate(cells):
        pooled = cell.kind[0] == POOLED
        own = (cell.task, cell.fold, cell.budget, cell.protocol.hash) if pooled else number
        together.setdefault(own, []).append(cell)
    yield from together.values()


def parse_tunings(names: Sequence[str]) -> tuple[Tuning, ...]:
    """Kinds of fine-tuning from their names, each once."""
    return tuple(dict.fromkeys(finetune.parse(name) for name in names))


def parse_budgets(names: Sequence[str]) -> tuple[Budget | None, ...]:
    """Label budgets from their names, each once."""
    return tuple(dict.fromkeys(budgets.parse(name) for name in names))


def _read(task: str, data_dir: Path, protocol: Protocol, folds: int | None) -> list[tuple[int | None, TaskData]]:
    folder = data_dir / task
    if not folder.is_dir():
        raise DownstreamError(
            f"{task}: no data directory {folder}; make the corpus (./run.sh --stage 1 --stop_stage 1), or leave "
            f"{task} out of --tasks"
        )
    present = folds_of(folder)
    if not present:
        return [(None, load_task(folder, protocol))]
    wanted = present if folds is None else list(range(1, folds + 1))
    absent = sorted(set(wanted) - set(present))
    if absent:
        raise DownstreamError(f"{task}: {folder} has folds {present}, but not fold{absent[0]}; lower --folds")
    return [(fold, load_task(folder / f"fold{fold}", protocol)) for fold in wanted]
