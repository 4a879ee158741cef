"""Run one command of a stage in its own process, with its output on the terminal and in a log."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import BinaryIO

from corpora.files import write_json, write_text
from egs.pipeline.stages import Stage, file_name
from egs.pipeline.work import Job, StageError

PROGRESS_EVERY = 30.0  # seconds between progress lines if the output is not a terminal
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl


def run_process(job: Job, stage: Stage, command: list[str]) -> None:
    """Run a command of a stage, with its output on the terminal and in a log. Raises StageError where it fails."""
    logs = job.exp / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    stem = logs / f"stage_{file_name(stage.id)}"
    options = f" --stage {stage.number} --stop_stage {stage.number}" if job.takes_stages else ""
    write_text(stem.with_suffix(".command"), f"{job.command}{options}\n")
    write_json(stem.with_suffix(".json"), stage.settings(job))
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": str(shutil.get_terminal_size().columns),
    }
    with (
        open(stem.with_suffix(".log"), "ab") as log_file,
        # Each stage calls die_with_parent itself as well: a launcher may stand between it and this process.
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, preexec_fn=die_with_parent
        ) as process,
    ):
        assert process.stdout is not None
        try:
            tee(process.stdout, log_file)
        except BaseException:
            process.terminate()
            raise
    status = process.returncode
    if status == 0:
        return
    end = f"was killed by signal {-status}" if status < 0 else f"failed with exit status {status}"
    if status == -9:
        end += " (if you did not stop it: out of memory, see dmesg)"
    free = shutil.disk_usage(job.exp).free
    full = f" The disk of {job.exp} is full: {free // 2**20} MB free." if free < 200 * 2**20 else ""
    raise StageError(
        f"stage {stage.number} ({stage.title}) {end}.{full} Log: {stem.with_suffix('.log')}. "
        f"{job.again} resumes from here."
    )


def tee(source: BinaryIO, log_file: BinaryIO) -> None:
    """Copy a child's output to the terminal as it comes, and to a log without redrawn progress lines.

    If the output is not a terminal, a progress line appears every half minute.
    """
    terminal = sys.stdout.isatty()
    pending, last_progress = b"", time.monotonic()
    while chunk := os.read(source.fileno(), 65536):
        if terminal:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            line = line.rstrip(b"\r").rpartition(b"\r")[2] + b"\n"
            log_file.write(line)
            if not terminal:
                sys.stdout.buffer.write(line)
        log_file.flush()
        if b"\r" in pending:
            shown, _, rest = pending.rstrip(b"\r").rpartition(b"\r")
            current = rest or shown
            if not terminal and current and time.monotonic() - last_progress > PROGRESS_EVERY:
                sys.stdout.buffer.write(current + b"\n")
                last_progress = time.monotonic()
            pending = b"\r" + current
        if not terminal:
            sys.stdout.buffer.flush()
    if pending:
        log_file.write(pending.rpartition(b"\r")[2] + b"\n")
        if not terminal:
            sys.stdout.buffer.write(pending.rpartition(b"\r")[2] + b"\n")
            sys.stdout.buffer.flush()


def die_with_parent() -> None:
    """On Linux, let the kernel end this process when its parent dies: an old run must not write beside a new one."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
