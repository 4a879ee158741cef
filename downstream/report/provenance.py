"""What a reader needs to trust a table: date, versions, commits, hardware, and what is not in it."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from downstream.report.rows import STANDARD_UPSTREAMS, TASKS, Row
from downstream.score.results import commit

PACKAGES = ("torch", "torchaudio", "transformers", "s3prl", "espnet", "lightning", "scikit-learn", "jiwer")
SYNTHETIC_BANNER = (
    "SYNTHETIC SPEECH: a speech synthesiser made every recording of this recipe. The numbers show that the "
    "machinery works; they say nothing about the quality of a model on speech."
)
STAGE_OF = {"asr": 10, "ser": 11, "did": 12}


def facts(rows: list[Row], command: str) -> dict[str, str]:
    """What stands in the header of RESULTS.md and of the page; the date is the only thing that two reports of the same
    results, code and machine differ in."""
    commits = sorted({row.commit for row in rows if row.commit})
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "commit": commit(),
        "commits of the rows": ", ".join(commits) or "unknown",
        "versions": versions(),
        "hardware": hardware(),
    }


def versions() -> str:
    """Python and the packages that decide a result; what is not installed is left out."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def hardware() -> str:
    """Processor, cores that this process may use, memory, GPU."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB memory"
    return f"{model}, {cores} cores{memory}, {_gpu()}"


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"


def missing(rows: list[Row], exp_dir: Path, recipe: str, left_out: dict[str, str]) -> list[str]:
    """One line per task or upstream without results, with the reason and how to add it."""
    lines = []
    run = f"./run.sh --recipe {recipe}"
    present = {(row.setting.task, row.upstream) for row in rows}
    tasks = [t for t in TASKS if any(task == t for task, _ in present)]
    for task in TASKS:
        if task not in tasks:
            stage = STAGE_OF[task]
            how = f"no rows in results.csv; `{run} --stage {stage} --stop_stage {stage}` makes them"
            lines.append(f"{task.upper()} is left out: {left_out.get(task, how)}")
    others = [name for name in left_out if name not in STANDARD_UPSTREAMS and name not in TASKS]
    for name in (*STANDARD_UPSTREAMS, *others):
        lacking = [t for t in tasks if (t, name) not in present]
        if not lacking:
            continue
        folder = exp_dir / "models" / name
        stages = ", ".join(str(STAGE_OF[t]) for t in lacking)
        if name in left_out:
            reason = left_out[name]
        elif name != "fbank" and not (folder / "config.json").is_file():
            reason = f"no model directory {folder}; stage 9 (`{run} --stop_stage 9`) makes it"
        else:
            reason = f"it was not run there; name it among the recipe's upstreams and run stage {stages}"
        lines.append(f"{name} is left out of {', '.join(t.upper() for t in lacking)}: {reason}")
    return lines
