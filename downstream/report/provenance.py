"""Facts for the header of a report (date, versions, commits, hardware), and a list of the missing results."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path

from tabulate import tabulate

from corpora import machine
from downstream.protocols import TASKS
from downstream.report.rows import SYNTHETIC, Result
from downstream.score.results import commit
from upstream.names import FBANK, STANDARD_UPSTREAMS

PACKAGES = ("torch", "torchaudio", "transformers", "espnet-s3prl", "espnet", "lightning", "scikit-learn", "jiwer")
SYNTHETIC_BANNER = (
    "SYNTHETIC SPEECH: a speech synthesiser made every recording of this recipe. The numbers show that the software "
    "works; they say nothing about the quality of a model on speech."
)


def environment() -> dict[str, str]:
    """Date, versions and hardware."""
    versions = {"Python": platform.python_version(), **machine.versions(PACKAGES)}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "hardware": hardware(),
    }


def facts(rows: list[Result], command: str) -> dict[str, str]:
    """Header of RESULTS.md and of the page. For equal results, code and machine only the date differs."""
    commits = sorted({row.commit for row in rows if row.commit})
    found = environment()
    return {
        "date": found["date"],
        "command": command,
        "commit": commit(),
        "commits of the rows": ", ".join(commits) or "unknown",
        "versions": found["versions"],
        "hardware": found["hardware"],
    }


def facts_table(shown: dict[str, str]) -> str:
    """Facts as a Markdown table."""
    return tabulate(shown.items(), ("", ""), "pipe", disable_numparse=True)


def hardware() -> str:
    """Processor, cores that this process may use, memory, GPU."""
    import torch

    memory = machine.memory_bytes()
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    size = f", {memory / 2**30:.0f} GiB memory" if memory else ""
    return f"{machine.cpu_name()}, {machine.cores()} cores{size}, {gpu}"


def is_synthetic(recipe: str, rows: list[Result]) -> bool:
    """Whether the results are from synthetic speech."""
    return recipe in SYNTHETIC or any(row.setting.corpus in SYNTHETIC for row in rows)


def missing(rows: list[Result], exp_dir: Path, recipe: str, left_out: dict[str, str]) -> list[str]:
    """One line for each task or upstream without results: the reason, and how to add it."""
    lines = []
    run = f"./run.sh --recipe {recipe}"
    present = {(row.setting.task, row.upstream) for row in rows}
    tasks = [t for t in TASKS if any(task == t for task, _ in present)]
    for task in TASKS:
        if task not in tasks:
            stage = TASKS[task].stage
            how = f"no rows in results.csv; run `{run} --stage {stage} --stop_stage {stage}`"
            lines.append(f"{task.upper()} is missing: {left_out.get(task, how)}")
    others = [name for name in left_out if name not in STANDARD_UPSTREAMS and name not in TASKS]
    for name in (*STANDARD_UPSTREAMS, *others):
        lacking = [t for t in tasks if (t, name) not in present]
        if not lacking:
            continue
        folder = exp_dir / "models" / name
        stages = ", ".join(str(TASKS[t].stage) for t in lacking)
        if name in left_out:
            reason = left_out[name]
        elif name != FBANK and not (folder / "config.json").is_file():
            reason = f"no model directory {folder}; run stage 9 (`{run} --stop_stage 9`)"
        else:
            reason = f"no results; add it to the recipe's upstreams and run stage {stages}"
        lines.append(f"{name} is missing from {', '.join(t.upper() for t in lacking)}: {reason}")
    return lines
