"""Time candidates in alternating runs, and print a table."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from tabulate import tabulate

from corpora.machine import cpu_name


def hardware() -> str:
    """Processor or GPU, threads, and the versions of PyTorch and Python."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f"{cpu_name()}, {torch.get_num_threads()} threads"
    return f"{device}; torch {torch.__version__}, Python {platform.python_version()}"


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternate(candidates: Mapping[str, Callable[[], object]], runs: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each candidate in `runs` rounds. Every round runs all, so that a slow minute affects all."""
    for work in candidates.values():
        for _ in range(warm_up):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(runs):
        for name, work in candidates.items():
            synchronise()
            start = time.perf_counter()
            work()
            synchronise()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each candidate's runs."""
    return {name: statistics.median(row) for name, row in seconds.items()}


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table with numbers aligned to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    align = ["left"] + ["right"] * (len(head) - 1)
    print(tabulate(cells, list(head), "pipe", disable_numparse=True, colalign=align if rows else None))
