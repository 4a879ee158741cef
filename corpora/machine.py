"""This machine: its cores, memory, processor and package versions, and a parallel map over its cores."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")

_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")


def cores(cgroup: Path = _CGROUP) -> int:
    """Number of cores that this process may use: its CPU affinity and, in a container, the CPU quota.

    cgroup: folder of the control group (cgroup v2).
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        return min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or its quota is `max`
        return count


def memory_bytes(cgroup: Path = _CGROUP) -> int | None:
    """Memory in bytes that this process may use, at most the container's limit; None where the system reports none."""
    limits = []
    try:
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError):
        pass
    try:
        limits.append(int((cgroup / "memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no control group, or its limit is `max`
        pass
    return min(limits) if limits else None


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """Name of the processor as Linux reports it, elsewhere its architecture."""
    try:
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed version of each package by name; packages that are not installed are left out."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int,
    label: str,
    unit: str = "file",
    fewest: int = 64,
) -> Iterator[Result]:
    """Results of `function` over `items`, in order, with a progress bar, computed in `jobs` processes.

    With fewer than `fewest` items everything runs in this process: spawning processes would take longer than the work.
    Processes are spawned, not forked, since the caller may hold threads. A process that dies raises
    BrokenProcessPool; the caller does not wait for it.
    """
    bar = {"total": len(items), "desc": label, "unit": unit, "mininterval": 0.5}
    if jobs <= 1 or len(items) < fewest:
        yield from tqdm(map(function, items), **bar)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        chunk = max(1, min(64, len(items) // (4 * jobs)))
        yield from tqdm(pool.map(function, items, chunksize=chunk), **bar)
