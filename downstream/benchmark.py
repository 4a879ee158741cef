"""The grid: upstreams x tasks x folds x seeds, every cell independent, skipped when complete.

    <exp>/results.csv                                   a row per cell, test set and metric
    <exp>/probes/<task>_<protocol>/<upstream>/seed<k>[_fold<j>]/
        command config.yaml log predictions.csv cell.json head/ tensorboard/
    <exp>/cache/                                        features, made again when deleted
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from corpora.files import read_json, sha256_json
from downstream import results
from downstream.data import TaskData, TaskDataError, folds_of, load_task
from downstream.protocols import Protocol, load
from downstream.upstreams import Upstream, UpstreamMissing, resolve

logger = logging.getLogger(__name__)

# Bump when the code that makes a number changes its meaning.
_FORM = 1


class BenchmarkError(RuntimeError):
    """Cells that failed, or nothing to run; what is complete stands."""


@dataclass(frozen=True)
class Cell:
    """One head to train: everything but the upstream, which cells are grouped by."""

    task: str
    seed: int
    fold: int | None
    data: TaskData
    protocol: Protocol
    run_dir: Path
    key: str

    @property
    def place(self) -> str:
        return f"{self.task} seed {self.seed}" + ("" if self.fold is None else f" fold {self.fold}")


@dataclass(frozen=True)
class Settings:
    """What all cells of a grid share."""

    recipe: str
    exp_dir: Path
    corpus: str
    device: str
    command: str


@dataclass(frozen=True)
class Job:
    """All cells of one upstream that are to be run; one process does one job."""

    upstream: Upstream
    cells: tuple[Cell, ...]
    settings: Settings


def run(
    task: str,
    recipe: str,
    data_dir: Path,
    exp_dir: Path,
    upstreams: Sequence[str],
    models_dir: Path,
    protocol: str = "light",
    seeds: Sequence[int] = (0, 1, 2),
    folds: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    jobs: int | None = None,
    device: str = "auto",
) -> None:
    """Fill `<exp_dir>/results.csv` with one task: upstreams x seeds (x folds, where the data has them).

    Data directories are `<data_dir>/<task>/{train,dev,test*}` or `<data_dir>/<task>/fold<k>/...`; `folds` takes the
    first so many (default: all). An upstream that cannot be had is left out with a line that says why. Raises
    TaskDataError or ProtocolError for input that cannot be used, and BenchmarkError at the end when cells failed.
    """
    run_tasks([task], recipe, data_dir, exp_dir, upstreams, models_dir, protocol, seeds, folds, overrides,
              jobs=jobs, device=device)  # fmt: skip


def run_tasks(
    tasks: Sequence[str],
    recipe: str,
    data_dir: Path,
    exp_dir: Path,
    upstreams: Sequence[str],
    models_dir: Path,
    protocol: str = "light",
    seeds: Sequence[int] = (0, 1, 2),
    folds: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    jobs: int | None = None,
    device: str = "auto",
) -> None:
    """`run` for several tasks with one progress bar; features of one upstream serve all of them."""
    exp_dir = Path(exp_dir)
    available = _available(upstreams, Path(models_dir))
    if not seeds:
        raise BenchmarkError("no seeds; give at least one")
    sets = [
        (load(task, protocol, overrides), fold, data)
        for task in tasks
        for fold, data in _read(task, Path(data_dir), load(task, protocol, overrides), folds)
    ]
    _report_left_out(sets)
    settings = Settings(recipe, exp_dir, recipe, device, shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    work: list[tuple[Upstream, list[Cell]]] = []
    complete: list[Cell] = []
    for upstream in available:
        cells = [
            _cell(upstream, config, fold, data, seed, exp_dir) for config, fold, data in sets for seed in seeds
        ]
        todo = []
        for cell in cells:
            (complete if _is_complete(cell) else todo).append(cell)
        if todo:
            work.append((upstream, todo))
    _drop_stale(recipe, available, complete, [cell for _, cells in work for cell in cells], exp_dir)
    _restore(complete, exp_dir)
    if complete:
        _say(f"{len(complete)} cells are complete already")
    if not work:
        return
    from downstream.workers import run_jobs

    count = sum(len(cells) for _, cells in work)
    _say(f"{count} cells to run: {', '.join(f'{u.name} {len(c)}' for u, c in work)}")
    failed = []
    with tqdm(total=count, desc="probes", unit="cell", dynamic_ncols=True, mininterval=0.5) as bar:
        for event in run_jobs([(upstream, tuple(cells)) for upstream, cells in work], settings, jobs):
            if event.kind == "note":
                bar.set_postfix_str(event.text)
                continue
            if event.kind == "say":
                tqdm.write(event.text, file=sys.stderr)
                continue
            bar.update(event.cells)
            if event.kind == "rows":
                results.upsert(exp_dir / "results.csv", _with_model_columns(event.rows, exp_dir))
            else:
                failed.append(event.text)
                tqdm.write(event.text, file=sys.stderr)
    if failed:
        raise BenchmarkError(
            f"{len(failed)} of {count} cells failed, the others are in {exp_dir / 'results.csv'}; the same command "
            f"runs the failed ones again. First: {failed[0]}"
        )


def _available(names: Sequence[str], models_dir: Path) -> list[Upstream]:
    found = []
    for name in names:
        try:
            found.append(resolve(name, models_dir))
        except UpstreamMissing as error:
            _say(f"left out: {error}")
    if not found:
        raise BenchmarkError(f"none of the upstreams {', '.join(names)} can be had (see the lines above)")
    doubled = {u.name for u in found if sum(v.name == u.name for v in found) > 1}
    if doubled:
        raise BenchmarkError(f"upstream {sorted(doubled)[0]} is named twice")
    return found


def _read(
    task: str, data_dir: Path, protocol: Protocol, folds: int | None
) -> list[tuple[int | None, TaskData]]:
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


def _report_left_out(sets: Sequence[tuple[Protocol, int | None, TaskData]]) -> None:
    for protocol, fold, data in sets:
        count = sum(len(names) for names in data.left_out.values())
        if count:
            where = protocol.task if fold is None else f"{protocol.task} fold {fold}"
            _say(f"{where}: {count} utterances left out for every upstream (listed in each run's log)")


def _cell(
    upstream: Upstream, protocol: Protocol, fold: int | None, data: TaskData, seed: int, exp_dir: Path
) -> Cell:
    name = f"seed{seed}" + ("" if fold is None else f"_fold{fold}")
    run_dir = exp_dir / "probes" / f"{protocol.task}_{protocol.name}" / upstream.name / name
    key = sha256_json([_FORM, protocol.hash, upstream.key, data.hash, seed, fold])
    return Cell(protocol.task, seed, fold, data, protocol, run_dir, key)


def _is_complete(cell: Cell) -> bool:
    path = cell.run_dir / "cell.json"
    return (
        path.is_file()
        and (cell.run_dir / "predictions.csv").is_file()
        and read_json(path)["key"] == cell.key
    )


def _drop_stale(
    recipe: str, upstreams: Sequence[Upstream], complete: Sequence[Cell], todo: Sequence[Cell], exp_dir: Path
) -> None:
    """Remove rows that no longer hold for these tasks and upstreams: of cells that are to be run again, and of seeds
    or folds that are not asked for now and were run with other weights or another protocol."""
    path = exp_dir / "results.csv"
    keys = {upstream.name: upstream.key for upstream in upstreams}
    protocols = {cell.task: cell.protocol for cell in [*complete, *todo]}
    valid = {cell.run_dir.resolve() for cell in complete}
    again = {cell.run_dir.resolve() for cell in todo}

    def stale(row: dict[str, str]) -> bool:
        protocol = protocols.get(row["task"])
        name = row["protocol"].partition("@")[0]
        if row["recipe"] != recipe or row["upstream"] not in keys or protocol is None or name != protocol.name:
            return False
        run_dir = Path(row["run_dir"]).resolve()
        if run_dir in valid or run_dir in again:
            return run_dir in again
        found = read_json(run_dir / "cell.json") if (run_dir / "cell.json").is_file() else {}
        return found.get("upstream_key") != keys[row["upstream"]] or row["protocol"] != protocol.tag

    results.drop(path, {row["run_dir"] for row in results.read_rows(path) if stale(row)})


def _restore(cells: Sequence[Cell], exp_dir: Path) -> None:
    """Put the rows of complete cells back where results.csv lacks them, or holds older sizes and speeds."""
    path = exp_dir / "results.csv"
    stored = {(r["run_dir"], r["split"], r["metric"]): r for r in results.read_rows(path)}
    lost: list[dict[str, str]] = []
    for cell in cells:
        rows = _with_model_columns(read_json(cell.run_dir / "cell.json")["rows"], exp_dir)
        rows = [results.as_text(row) for row in rows]
        if any(stored.get((r["run_dir"], r["split"], r["metric"])) != r for r in rows):
            lost += rows
    if lost:
        results.upsert(path, lost)


def _with_model_columns(rows: list[dict[str, Any]], exp_dir: Path) -> list[dict[str, Any]]:
    """Rows with sizes and speeds as compression.csv has them now."""
    models = results.model_columns(exp_dir)
    return [row | models.get(row["upstream"], {}) for row in rows]


def _say(line: str) -> None:
    logger.info("%s", line)
    print(line, file=sys.stderr, flush=True)
