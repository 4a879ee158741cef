"""Processes of a grid: each does one upstream at a time, on its own GPU where there are some."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from downstream.grid.plan import Cell, groups
from downstream.upstreams import Upstream

if TYPE_CHECKING:
    from downstream.grid.run import Settings

Work = tuple[Upstream, tuple[Cell, ...]]


@dataclass(frozen=True)
class Event:
    """What a worker tells: `note` what it does, `say` a line to keep, `rows` of a cell that is done, `failed` cells."""

    kind: str
    text: str = ""
    cells: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Machine:
    """Cores and GPUs that this process may use, and how many processes and threads a grid gets of them.

    `devices` are dealt out to the processes in turn.
    """

    processes: int
    threads: int
    devices: tuple[str, ...]

    @classmethod
    def of(cls, device: str, jobs: int | None) -> Machine:
        """`device` is auto, cpu, cuda (all that there are) or cuda:N; without `jobs` one process a core, or a GPU."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        devices = _devices(device)
        wanted = jobs if jobs is not None else cores if devices == ("cpu",) else len(devices)
        asked = os.environ.get("OMP_NUM_THREADS", "")
        # Not from the work that is left: a run that was killed must go on with as many threads as before.
        threads = int(asked) if asked.isdecimal() else max(1, cores // wanted)
        return cls(wanted, threads, devices)


def run_jobs(work: Sequence[Work], settings: Settings, jobs: int | None) -> Iterator[Event]:
    """Run all cells and yield events; with one job in this process, else in spawned ones that end with it."""
    machine = Machine.of(settings.device, jobs)
    work = spread(work, machine.processes)
    processes = min(len(work), machine.processes)
    settings = replace(settings, processes=processes)
    if processes <= 1:
        for upstream, cells in work:
            yield from _in_this_process(upstream, cells, settings, machine)
        return
    context = multiprocessing.get_context("spawn")
    tasks, events = context.Queue(), context.Queue()
    # The longest first, so that none is left over at the end.
    for upstream, cells in sorted(work, key=lambda entry: -_weight(entry[0])):
        tasks.put((upstream, cells))
    for _ in range(processes):
        tasks.put(None)
    workers = [
        context.Process(
            target=_serve,
            args=(tasks, events, settings, machine.threads, machine.devices[i % len(machine.devices)], os.getpid()),
            daemon=True,
        )
        for i in range(processes)
    ]
    for worker in workers:
        worker.start()
    try:
        yield from _collect(workers, events, sum(len(cells) for _, cells in work))
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def spread(work: Sequence[Work], processes: int) -> list[Work]:
    """Split upstreams with many cells while processes would be idle; cells that are trained together stay so.

    Those that share an upstream share its features, and the work of computing them.
    """
    parts = [(upstream, list(groups(cells))) for upstream, cells in work]
    while len(parts) < processes:
        largest = max(range(len(parts)), key=lambda i: len(parts[i][1]), default=None)
        if largest is None or len(parts[largest][1]) < 2:
            break
        upstream, own = parts.pop(largest)
        parts[largest:largest] = [(upstream, own[::2]), (upstream, own[1::2])]
    return [(upstream, tuple(cell for group in own for cell in group)) for upstream, own in parts]


def _collect(workers: list[Any], events: Any, pending: int) -> Iterator[Event]:
    while pending:
        try:
            event = events.get(timeout=1.0)
        except queue.Empty:
            if any(worker.is_alive() for worker in workers):
                continue
            codes = ", ".join(str(worker.exitcode) for worker in workers)
            yield Event(
                "failed", f"worker processes ended early (exit codes {codes}); -9 means too little memory", pending
            )
            return
        pending -= event.cells
        yield event


def _serve(tasks: Any, events: Any, settings: Settings, threads: int, device: str, parent: int) -> None:
    """The loop of a spawned process; it ends itself when its parent is gone, however that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    from downstream.grid.workers import run_upstream

    while (task := tasks.get()) is not None:
        run_upstream(*task, settings, threads, device, events.put)


def _in_this_process(
    upstream: Upstream, cells: tuple[Cell, ...], settings: Settings, machine: Machine
) -> Iterator[Event]:
    from downstream.grid.workers import run_upstream

    events: queue.Queue[Event | None] = queue.Queue()
    # A thread, so that the bar moves while cells run.
    problem: list[BaseException] = []

    def work() -> None:
        try:
            run_upstream(upstream, cells, settings, machine.threads, machine.devices[0], events.put)
        except BaseException as error:
            problem.append(error)
        finally:
            events.put(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while (event := events.get()) is not None:
        yield event
    thread.join()
    if problem:
        raise problem[0]


def _devices(asked: str) -> tuple[str, ...]:
    if asked not in ("auto", "cuda"):
        return (asked,)
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        if asked == "cuda":
            raise ValueError("--device cuda: no GPU is visible to PyTorch; use --device cpu")
        return ("cpu",)
    return tuple(f"cuda:{number}" for number in range(count))


def _weight(upstream: Upstream) -> int:
    weights = None if upstream.path is None else upstream.path / "model.safetensors"
    return weights.stat().st_size if weights is not None and weights.is_file() else 0
