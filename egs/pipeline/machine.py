"""What this machine and environment are, in a few lines."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

SHOWN = ("torch", "torchaudio", "transformers", "lightning", "s3prl", "espnet", "lhotse", "scikit-learn", "jiwer")
GIB = 2**30


def cores() -> int:
    """Processors that this process may use: affinity and, in a container, the CPU quota."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        available = min(available, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass  # no control group, or no quota in it
    return available


def memory_bytes() -> int | None:
    """Memory that this process may use; None where the system does not say."""
    limits = []
    try:
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError):
        pass
    try:
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):
        pass
    return min(limits) if limits else None


def accelerator() -> str:
    """Names and memory of the GPUs that torch sees, or that there is none."""
    import torch

    if not torch.cuda.is_available():
        return "none (everything runs on the CPU)"
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return ", ".join(f"{device.name} ({device.total_memory / GIB:.0f} GiB)" for device in devices)


def describe() -> list[str]:
    """Lines for stage 0: versions, cores, memory, disk, GPU."""
    versions = []
    for name in SHOWN:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} missing")
    memory = memory_bytes()
    free = shutil.disk_usage(Path.cwd()).free
    return [
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
        "packages: " + ", ".join(versions),
        f"cores {cores()}, memory {f'{memory / GIB:.1f} GiB' if memory else 'unknown'}, "
        f"free disk {free / GIB:.0f} GiB, GPU {accelerator()}",
    ]
