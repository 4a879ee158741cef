"""Walk the stages of a recipe: skip what is complete, run the rest one process each, stamp what has finished.

A process of its own gives every stage the same start (random state, threads, memory) whether it follows another one or
goes on after a kill.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from corpora.files import read_json, sha256_json, write_json, write_text
from egs.pipeline.sources import StageError, fingerprints, source_folders
from egs.pipeline.stages import STAGES, TASK_STAGES, Job, Place, Stage, stages_of
from egs.pipeline.stamps import Stamp, StampFolder, content_digest, file_name, locked, why_incomplete

log = logging.getLogger(__name__)

# S3PRL calls what torchaudio 2.8 still has and deprecates, at every import and in every worker.
QUIET = "ignore:torchaudio._backend:UserWarning"
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl
PAID_FOR = ("model", "checkpoints/last.pt", "codebook.safetensors")  # one of them in a folder: hours went into it
PROGRESS_EVERY = 30.0  # seconds between progress lines where the output is not a terminal


@dataclass(frozen=True)
class Range:
    """Stages to walk. `explicit`: the first one was asked for, so complete ones run again; `anew`: nothing that was
    begun is continued."""

    first: int = 1
    last: int = len(STAGES)
    explicit: bool = False
    anew: bool = False


@dataclass(frozen=True)
class Launchers:
    """Words that start a stage's Python in place of the interpreter: `shared` for the stages that several processes
    work on (torchrun, srun), `alone` for the others. Empty: this interpreter, here."""

    alone: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    def commands(self, job: Job, this: Stage, command: Sequence[str]) -> list[list[str]]:
        """What a stage starts, one after the other; `command` begins with an interpreter."""

        def started(words: tuple[str, ...], *arguments: str) -> list[str]:
            return [*(words or command[:1]), *command[1:], *arguments]

        sharded = job.recipe.shards is not None and this.write_shards is not None
        first = [started(self.alone, "--shards")] if sharded else []
        return [*first, started(self.shared if this.shared else self.alone)]


class Walk:
    """The state of one recipe's stages, as its stamps tell it."""

    def __init__(self, job: Job, launchers: Launchers | None = None) -> None:
        self.job = job
        self.launchers = launchers or Launchers()
        self.stamps = StampFolder(job.exp / ".stamps")
        self._sources: dict[str, str] | None = None
        self._reasons: dict[Place, str | None] = {}
        self.stages = {this.place: this for this in stages_of(job.recipe)}

    def run(self, stages: Range, child: Sequence[str], places: Collection[Place] | None = None) -> list[Place]:
        """Bring every stage of the range up to date; returns those that had to run. Raises StageError or RecipeLocked.

        `child` is the command (an interpreter first) that runs one stage when its number, or the name of what it makes,
        is appended; with `--shards` behind it, the one that writes the shards that it reads. `places` leaves out all
        others of the range.
        """
        ran = []
        with locked(self.stamps.folder):
            for place, this in self.stages.items():
                if not stages.first <= this.number <= stages.last or (places is not None and place not in places):
                    continue
                if self._bring_up_to_date(this, stages, [*child, str(place)]):
                    ran.append(place)
        return ran

    def incomplete(self, place: Place) -> str | None:
        """Why a stage has to run; None when it is complete or the recipe has nothing for it to do."""
        if place not in self._reasons:
            self._reasons[place] = self._incomplete(self.stages[place])
        return self._reasons[place]

    def _incomplete(self, this: Stage) -> str | None:
        if this.settings(self.job) is None:
            return None
        digest = self._digest(this)
        if digest.reason:
            return digest.reason
        return why_incomplete(self.stamps.read(this.place), digest.value, this.outputs(self.job))

    def _digest(self, this: Stage) -> _Digest:
        """Digest of what goes into a stage, from its settings and the results of the stages it needs."""
        inputs: dict[str, str] = {}
        for needed in this.needs(self.job.recipe):
            reason = self.incomplete(needed)
            stamp = self.stamps.read(needed)
            if reason or stamp is None:
                return _Digest("", f"it needs stage {needed} ({self.stages[needed].title}): {reason}")
            inputs[str(needed)] = stamp.result
        covered: dict[str, Any] = {"stage": this.place, "settings": this.settings(self.job), "inputs": inputs}
        if this.number == 1:
            covered["sources"] = self._source_marks()
        return _Digest(sha256_json(covered), None)

    def _source_marks(self) -> dict[str, str] | None:
        """Fingerprints of the corpora; where they are not at hand, those of the last time they were."""
        if self._sources is None:
            path = self.stamps.folder / "sources.json"
            self._sources = fingerprints(self.job.recipe, self.job.data)
            if self._sources is None and path.is_file():
                self._sources = read_json(path)
        return self._sources

    def _bring_up_to_date(self, this: Stage, stages: Range, command: list[str]) -> bool:
        job, label = self.job, f"stage {this.number:2d}  {this.title}"
        if this.settings(job) is None:
            log.info("%s: recipe %s has none, left out", label, job.recipe.name)
            return False
        digest = self._digest(this)
        if digest.reason:
            raise StageError(
                f"stage {this.number} ({this.title}) cannot start: {digest.reason}; {job.again}, without --stage, "
                "makes it"
            )
        reason = self.incomplete(this.place)
        if reason is None and not (stages.explicit or stages.anew):
            log.info("%s: complete", label)
            return False
        resumable = reason is not None and not stages.anew
        continues = resumable and self.stamps.begun(this.place) == digest.value
        reason = reason or ("asked for with --stage" if stages.explicit else "asked for with --force")
        log.info("%s: %s (%s)", label, "going on" if continues else "starting", reason)
        if this.number == 1 and not continues:
            _claim_data(job, digest.value)
        made_from = self.stamps.reopen(this.place)
        if not continues:
            _reset(job, this, made_from, digest.value, anew=stages.explicit or stages.anew)
        self.stamps.begin(this.place, digest.value)
        if resumable:
            _take_back(job, this, digest.value)
        started = time.monotonic()
        for part in self.launchers.commands(job, this, command):
            _run(job, this, part)
        seconds = round(time.monotonic() - started, 1)
        missing = [str(path) for path in this.outputs(job) if not path.exists()]
        if missing:
            raise StageError(f"stage {this.number} ({this.title}) ended without {', '.join(missing)}")
        self._reasons.clear()
        if this.number == 1:  # a download may have brought the sources into being
            self._sources = fingerprints(job.recipe, job.data)
            write_json(self.stamps.folder / "sources.json", self._sources)
            digest = self._digest(this)
        self.stamps.finish(
            this.place,
            Stamp(
                digest=digest.value,
                result=content_digest(this.content(job)),
                outputs=tuple(str(path) for path in this.outputs(job)),
                finished=datetime.now().isoformat(timespec="seconds"),
                seconds=seconds,
            ),
        )
        log.info("%s: done in %.0f s", label, seconds)
        return True


@dataclass(frozen=True)
class _Digest:
    value: str
    reason: str | None  # why there is none yet


def _claim_data(job: Job, digest: str) -> None:
    """See to it that stage 1 deletes nothing but what stage 1 of this experiment made, and note that it is ours.

    The note lies beside the data folder, `.<name>.owner.json`. Raises StageError for a folder that somebody else
    filled, or that holds a corpus.
    """
    for variable, folder in source_folders(job.recipe).items():
        if folder is not None and folder.resolve().is_relative_to(job.data.resolve()):
            raise StageError(
                f"{variable}={folder} lies inside {job.data}, which stage 1 fills; move the corpus, or use "
                "another --data"
            )
    note = job.data.with_name(f".{job.data.name}.owner.json")
    claim = {"exp": str(job.exp.resolve()), "digest": digest}
    if job.data.is_dir() and any(job.data.iterdir()):
        owner = read_json(note) if note.is_file() else None
        if owner is None:
            raise StageError(f"{job.data} holds files that no run.sh made; move them away, or use another --data")
        if owner["exp"] != claim["exp"]:
            raise StageError(f"{job.data} was made for {owner['exp']}; use another --data")
    write_json(note, claim)


def _reset(job: Job, this: Stage, made_from: str, digest: str, *, anew: bool) -> None:
    """Make room for a stage that starts from nothing; units and training that were paid for are moved aside, not
    deleted.

    What belongs to another configuration waits for it under its digest (`_take_back`); what is to be made again,
    because somebody asked for it or an output is missing, is never taken for the new one. The runs of a task are kept
    unless it was asked for again: each of them knows what it was made from, so a grid that grew costs only what is new.
    """
    if this.number in TASK_STAGES and not anew:
        return
    for folder in this.work(job):
        if anew and _aside(folder, digest).is_dir():
            _retire(_aside(folder, digest))
        if not folder.exists():
            continue
        if any((folder / name).exists() for name in PAID_FOR):
            aside = _aside(folder, made_from)
            if aside.exists():  # an earlier one of this configuration: the later one is to come back
                _retire(aside)
            folder.rename(aside)
            if made_from == digest:
                aside = _retire(aside)
            log.info("  what was made there is now %s", aside)
        else:
            log.info("  deleting what was in %s", folder)
            shutil.rmtree(folder)


def _retire(aside: Path) -> Path:
    """Give what was set aside a name under which nobody looks for it; returns that."""
    numbers = (aside.with_name(f"{aside.name}-replaced{number or ''}") for number in itertools.count())
    return aside.rename(next(path for path in numbers if not path.exists()))


def _take_back(job: Job, this: Stage, digest: str) -> None:
    """Where there is nothing, take what was made from the same configuration and inputs before and was moved aside."""
    for folder in this.work(job):
        if not folder.exists() and _aside(folder, digest).is_dir():
            _aside(folder, digest).rename(folder)
            log.info("  taking back what was made of the same configuration and inputs before: %s", folder)


def _aside(folder: Path, digest: str) -> Path:
    return folder.with_name(f"{folder.name}.old-{digest[:12] or 'unknown'}")


def _run(job: Job, this: Stage, command: list[str]) -> None:
    logs = job.exp / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    stem = logs / f"stage_{file_name(this.place)}"
    options = f" --stage {this.number} --stop_stage {this.number}" if job.takes_stages else ""
    write_text(stem.with_suffix(".command"), f"{job.command}{options}\n")
    write_json(stem.with_suffix(".json"), this.settings(job))
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": str(shutil.get_terminal_size().columns),
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", QUIET),
    }
    with (
        open(stem.with_suffix(".log"), "ab") as log_file,
        # Stages see to it themselves as well: between them and this process there may be a launcher.
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
    what = f"was killed by signal {-status}" if status < 0 else f"failed with exit status {status}"
    if status == -9:
        what += " (when nobody sent it: out of memory, see dmesg)"
    free = shutil.disk_usage(job.exp).free
    full = f" The disk of {job.exp} is full: {free // 2**20} MB free." if free < 200 * 2**20 else ""
    raise StageError(
        f"stage {this.number} ({this.title}) {what}.{full} Log: {stem.with_suffix('.log')}. "
        f"{job.again} goes on from here."
    )


def tee(source: BinaryIO, log_file: BinaryIO) -> None:
    """Copy a child's output to the terminal as it comes, and to a log without the redrawn progress lines.

    Where the output is no terminal, a progress line appears every half minute.
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
    """On Linux, let the kernel end this process when its parent dies: a new run must not meet an old one at work."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
