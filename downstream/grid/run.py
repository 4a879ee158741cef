"""The grid: upstreams x tasks x folds x seeds, every cell independent, skipped when complete.

<exp>/results.csv                                   a row per cell, test set and metric
<exp>/probes/<task>_<protocol>[_<finetune>][_<budget>]/<upstream>/seed<k>[_fold<j>]/
    command config.yaml log predictions.csv curve.csv layer_weights.json cell.json head/
    scores.csv confusion_<test>.csv (SER, DID)   tensorboard/ (where S3PRL's loop trained)
<exp>/probes/.../<upstream>/search[_fold<j>]/       dev values of all learning rates, where they are tried first
<exp>/cache/                                        features, made again when deleted
"""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from corpora.files import read_json
from downstream.grid.budgets import Budget
from downstream.grid.plan import Cell, Grid, Shard, parse_budgets, parse_tunings
from downstream.grid.pool import run_jobs
from downstream.probe.data import TaskData
from downstream.protocols import Protocol
from downstream.score import results
from downstream.upstreams import Upstream, UpstreamMissing, resolve

logger = logging.getLogger(__name__)


class BenchmarkError(RuntimeError):
    """Cells that failed, or nothing to run; what is complete stands."""


@dataclass(frozen=True)
class Settings:
    """What all cells of a grid share; `started` is when its command began, in seconds since 1970."""

    recipe: str
    exp_dir: Path
    device: str
    command: str
    started: float
    cache_bytes: int | None = None
    processes: int = 1


def run(task: str, recipe: str, data_dir: Path, exp_dir: Path, upstreams: Sequence[str], models_dir: Path,
        protocol: str = "light", **options: Any) -> None:  # fmt: skip
    """`run_tasks` for one task."""
    run_tasks([task], recipe, data_dir, exp_dir, upstreams, models_dir, protocol, **options)


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
    finetune: Sequence[str] = ("probe",),
    budgets: Sequence[str] = ("all",),
    jobs: int | None = None,
    device: str = "auto",
    shard: Shard | None = None,
    cache_gb: float | None = None,
    dry_run: bool = False,
) -> None:
    """Fill `<exp_dir>/results.csv`: upstreams x tasks x fine-tunings x budgets x seeds (x folds where there are some).

    `folds` takes the first so many (default: all). A name that cannot be had is left out, and a line says why. `shard`
    runs a part of the grid; several may write at once. `cache_gb` bounds the stored features (GB); `dry_run` prints the
    plan and starts nothing. Raises UpstreamMissing for `name=path` with no model at the path, TaskDataError,
    ProtocolError, FinetuneError or BudgetError for input that cannot be used, and BenchmarkError at the end when cells
    failed.
    """
    started = time.time()
    exp_dir = Path(exp_dir)
    if not seeds:
        raise BenchmarkError("no seeds; give at least one")
    grid = Grid(
        tuple(tasks), recipe, Path(data_dir), exp_dir, protocol, tuple(seeds), folds, dict(overrides or {}),
        parse_tunings(finetune), parse_budgets(budgets),
    )  # fmt: skip
    available = _available(upstreams, Path(models_dir))
    sets = grid.sets()
    _report_left_out(sets)
    work: list[tuple[Upstream, list[Cell]]] = []
    complete: list[Cell] = []
    number = 0
    for upstream in available:
        own, number = (shard or Shard()).pick(grid.cells(upstream, sets), number)
        if not own and not all(tuning.frozen for tuning in grid.tunings) and upstream.path is None:
            _say(f"left out: {upstream.name} has no weights to fine-tune")
        todo = []
        for cell in own:
            (complete if cell.is_complete else todo).append(cell)
        if todo:
            work.append((upstream, todo))
    if dry_run:
        from downstream.grid.estimate import describe

        print(describe(work, len(complete), exp_dir, device, jobs))
        return
    _drop_stale(recipe, available, complete, [cell for _, cells in work for cell in cells], exp_dir)
    _restore(complete, exp_dir)
    if complete:
        _say(f"{len(complete)} cells are complete already")
    if not work:
        return
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    cache_bytes = None if cache_gb is None else int(cache_gb * 1e9)
    _run(work, Settings(recipe, exp_dir, device, command, started, cache_bytes), jobs)


def _run(work: list[tuple[Upstream, list[Cell]]], settings: Settings, jobs: int | None) -> None:
    count = sum(len(cells) for _, cells in work)
    table = settings.exp_dir / "results.csv"
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
                results.upsert(table, _with_model_columns(event.rows, settings.exp_dir))
            else:
                failed.append(event.text)
                tqdm.write(event.text, file=sys.stderr)
    if failed:
        raise BenchmarkError(
            f"{len(failed)} of {count} cells failed, the others are in {table}; the same command "
            f"runs the failed ones again. First: {failed[0]}"
        )


def _available(names: Sequence[str], models_dir: Path) -> list[Upstream]:
    found = []
    for name in names:
        try:
            found.append(resolve(name, models_dir))
        except UpstreamMissing as error:
            if "=" in name:  # a path is given by hand: a slip, not a model that is still to be made
                raise
            _say(f"left out: {error}")
    if not found:
        raise BenchmarkError(f"none of the upstreams {', '.join(names)} can be had (see the lines above)")
    doubled = {u.name for u in found if sum(v.name == u.name for v in found) > 1}
    if doubled:
        raise BenchmarkError(f"upstream {sorted(doubled)[0]} is named twice")
    return found


def _report_left_out(sets: Sequence[tuple[Protocol, int | None, Budget | None, TaskData]]) -> None:
    for protocol, fold, budget, data in sets:
        if budget is not None:
            continue
        count = sum(len(names) for names in data.left_out.values())
        if count:
            where = protocol.task if fold is None else f"{protocol.task} fold {fold}"
            _say(f"{where}: {count} utterances left out for every upstream (listed in each run's log)")


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
