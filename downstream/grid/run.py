"""Run a grid of probes, upstreams x tasks x folds x seeds, in several processes; complete cells are skipped.

<exp>/results.csv                                   a row per cell, test set and metric
<exp>/probes/<task>_<protocol>[_<finetune>][_<budget>]/<upstream>/seed<k>[_fold<j>]/
    command config.yaml log predictions.csv curve.csv layer_weights.json cell.json head/
    scores.csv confusion_<test>.csv (SER, DID)   tensorboard/ (where S3PRL's loop trained)
<exp>/probes/.../<upstream>/search[_fold<j>]/       dev values of all learning rates, where short runs choose the rate
<exp>/cache/                                        stored features, computed again when deleted
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from downstream import DownstreamError
from downstream.grid.budgets import Budget
from downstream.grid.plan import (
    Cell,
    Event,
    Grid,
    Part,
    Resources,
    Settings,
    Work,
    groups,
    parse_budgets,
    parse_tunings,
    read_cell,
)
from downstream.grid.worker import Send, run_upstream
from downstream.probe.data import TaskData
from downstream.protocols import Protocol
from downstream.score import results
from downstream.upstreams import Upstream, UpstreamMissing, resolve


class BenchmarkError(DownstreamError):
    """Cells failed, or there is nothing to run; complete cells are kept."""


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
    part: Part | None = None,
    cache_gb: float | None = None,
    dry_run: bool = False,
) -> None:
    """Fill `<exp_dir>/results.csv`: upstreams x tasks x fine-tunings x budgets x seeds (x folds where data has folds).

    `folds` takes the first N folds (default: all). An upstream without weights is left out, with one line that gives
    the reason. `part` runs a part of the grid; several commands may write to the table at once. `cache_gb` limits the
    stored features (GB). `dry_run` prints the plan and trains nothing.

    Raises UpstreamMissing for `name=path` without a model at the path, DownstreamError for data or options that cannot
    be used, and BenchmarkError at the end if cells failed.
    """
    started = time.time()
    exp_dir = Path(exp_dir)
    if not seeds:
        raise BenchmarkError("no seeds; give at least one")
    grid = Grid(
        tuple(tasks), recipe, Path(data_dir), exp_dir, protocol, tuple(seeds), folds, dict(overrides or {}),
        parse_tunings(finetune), parse_budgets(budgets),
    )  # fmt: skip
    if cache_gb is not None and not cache_gb > 0:
        raise DownstreamError(f"--cache_gb {cache_gb:g}: give a positive number")
    Resources.of(device, jobs)  # refuses what this machine cannot do before anything is read
    available = _available(upstreams, Path(models_dir))
    sets = grid.sets()
    _report_left_out(sets)
    work: list[Work] = []
    complete: list[Cell] = []
    number = 0
    for upstream in available:
        own, number = (part or Part()).pick(grid.cells(upstream, sets), number)
        if not own and not all(tuning.frozen for tuning in grid.tunings) and upstream.path is None:
            _say(f"left out: {upstream.name} has no weights to fine-tune")
        todo = []
        for cell in own:
            (complete if cell.is_complete else todo).append(cell)
        if todo:
            work.append((upstream, tuple(todo)))
    if dry_run:
        from downstream.grid.estimate import describe

        print(describe(work, len(complete), exp_dir, device, jobs))
        return
    _drop_stale(recipe, available, complete, [cell for _, cells in work for cell in cells], exp_dir)
    _restore(complete, exp_dir)
    if complete:
        _say(f"{len(complete)} cells are already complete")
    if not work:
        return
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    cache_bytes = None if cache_gb is None else int(cache_gb * 1e9)
    _run(work, Settings(recipe, exp_dir, device, command, started, cache_bytes), jobs)


def _run(work: Sequence[Work], settings: Settings, jobs: int | None) -> None:
    count = sum(len(cells) for _, cells in work)
    table = settings.exp_dir / "results.csv"
    _say(f"{count} cells to run: {', '.join(f'{u.name} {len(c)}' for u, c in work)}")
    failed = []
    with tqdm(total=count, desc="probes", unit="cell", dynamic_ncols=True, mininterval=0.5) as bar:
        for event in run_jobs(work, settings, jobs):
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
                failed += [event.text] * event.cells
                tqdm.write(event.text, file=sys.stderr)
    if failed:
        raise BenchmarkError(
            f"{len(failed)} of {count} cells failed, the others are in {table}; the same command runs the failed cells "
            f"again. First: {failed[0]}"
        )


def _available(names: Sequence[str], models_dir: Path) -> list[Upstream]:
    found = []
    for name in names:
        try:
            found.append(resolve(name, models_dir))
        except UpstreamMissing as error:
            if "=" in name:  # a wrong path of the user, not a model that a later stage makes
                raise
            _say(f"left out: {error}")
    if not found:
        raise BenchmarkError(f"none of the upstreams {', '.join(names)} is available (see the lines above)")
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
    """Remove rows of these tasks and upstreams that are no longer valid.

    Not valid are rows of cells that will run again, and rows of other seeds or folds that come from other weights or
    another protocol.
    """
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
        found = read_cell(run_dir)
        return found.get("upstream_key") != keys[row["upstream"]] or row["protocol"] != protocol.tag

    results.drop(path, {row["run_dir"] for row in results.read_rows(path) if stale(row)})


def _restore(cells: Sequence[Cell], exp_dir: Path) -> None:
    """Write the rows of complete cells that are missing from results.csv, or have older sizes and speeds there."""
    path = exp_dir / "results.csv"
    stored = {(r["run_dir"], r["split"], r["metric"]): r for r in results.read_rows(path)}
    lost: list[dict[str, str]] = []
    for cell in cells:
        rows = _with_model_columns(read_cell(cell.run_dir)["rows"], exp_dir)
        rows = [results.as_text(row) for row in rows]
        if any(stored.get((r["run_dir"], r["split"], r["metric"])) != r for r in rows):
            lost += rows
    if lost:
        results.upsert(path, lost)


def _with_model_columns(rows: list[dict[str, Any]], exp_dir: Path) -> list[dict[str, Any]]:
    """Rows with the sizes and speeds in the present compression.csv."""
    models = results.model_columns(exp_dir)
    return [row | models.get(row["upstream"], {}) for row in rows]


def run_jobs(work: Sequence[Work], settings: Settings, jobs: int | None) -> Iterator[Event]:
    """Run all cells and yield their events: one job in this process, several in spawned processes.

    A process runs one upstream after the other. If it dies, the cells of its upstream fail, and a new process takes the
    next upstream; `concurrent.futures` would end all processes.
    """
    resources = Resources.of(settings.device, jobs)
    work = spread(work, resources.processes)
    count = min(len(work), resources.processes)
    settings = replace(settings, processes=count)
    events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
    # Large upstreams first, so that no long job is left for the end.
    todo = deque(sorted(work, key=lambda entry: -_weight(entry[0])) if count > 1 else work)
    processes: list[multiprocessing.Process] = []
    take = _take_here if count == 1 else _take_in_process

    def thread(device: str) -> None:
        try:
            take(todo, settings, resources.threads, device, events.put, processes)
        except BaseException as error:
            events.put(error)
        finally:
            events.put(None)

    for number in range(count):
        device = resources.devices[number % len(resources.devices)]
        threading.Thread(target=thread, args=(device,), daemon=True).start()
    try:
        while count:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                count -= 1
            else:
                yield event
    finally:
        todo.clear()
        for process in processes:
            process.terminate()
            process.join()


def spread(work: Sequence[Work], processes: int) -> list[Work]:
    """Split upstreams with many cells until every process has work; cells that are trained together stay together.

    Processes with the same upstream share the work of computing its features.
    """
    parts = [(upstream, list(groups(cells))) for upstream, cells in work]
    while len(parts) < processes:
        largest = max(range(len(parts)), key=lambda i: len(parts[i][1]), default=None)
        if largest is None or len(parts[largest][1]) < 2:
            break
        upstream, own = parts.pop(largest)
        parts[largest:largest] = [(upstream, own[::2]), (upstream, own[1::2])]
    return [(upstream, tuple(cell for group in own for cell in group)) for upstream, own in parts]


def _weight(upstream: Upstream) -> int:
    weights = None if upstream.path is None else upstream.path / "model.safetensors"
    return weights.stat().st_size if weights is not None and weights.is_file() else 0


def _take_here(todo: deque[Work], settings: Settings, threads: int, device: str, send: Send, _: list) -> None:
    while todo:
        run_upstream(*todo.popleft(), settings, threads, device, send)


def _take_in_process(
    todo: deque[Work], settings: Settings, threads: int, device: str, send: Send, processes: list
) -> None:
    """Let a spawned process run one entry of `todo` after the other; replace it if it dies."""
    context = multiprocessing.get_context("spawn")
    process = pipe = None
    while True:
        try:
            upstream, cells = todo.popleft()
        except IndexError:
            break
        if process is None:
            pipe, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, settings, threads, device, os.getpid()), daemon=True)
            process.start()
            theirs.close()  # so that `recv` fails when the process ends
            processes.append(process)
        pending = len(cells)
        try:
            pipe.send((upstream, cells))
            while (event := pipe.recv()) is not None:
                pending -= event.cells
                send(event)
        except (EOFError, OSError):
            process.join()
            text = f"its process ended early (exit code {process.exitcode}; -9: probably out of memory)"
            send(Event("failed", f"{upstream.name}: {text}", pending))
            process = None
    if process is not None:
        pipe.close()


def _serve(pipe: Any, settings: Settings, threads: int, device: str, parent: int) -> None:
    """Run the upstreams that come through the pipe; the process ends when its parent ends, also by a kill."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    while True:
        try:
            upstream, cells = pipe.recv()
        except EOFError:
            return
        run_upstream(upstream, cells, settings, threads, device, pipe.send)
        pipe.send(None)


def _say(line: str) -> None:
    """Print a line on standard error. It is not logged as well, because a stage shows its log on the terminal too."""
    print(line, file=sys.stderr, flush=True)
