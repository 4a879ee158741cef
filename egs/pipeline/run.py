"""Run the stages of a recipe: skip complete ones, run each other one in its own process, and record finished ones.

A stage is complete when its record (`done.json`) holds the digest of its settings and of the results of the stages that
it needs, and its outputs exist. The record also holds the `result`: a digest of the files that later stages read. So a
stage that runs again with the same outcome leaves later stages complete.

Units and training runs keep the outputs of every configuration, each in a folder with the digest in its name:

    exp/<recipe>/units/student-3f2a91b0/{codebook.safetensors, ..., done.json}
    exp/<recipe>/units/student -> student-3f2a91b0         link to the current one
    exp/<recipe>/runs/hst-81c07d5e/{checkpoints, model, ..., done.json}
    exp/<recipe>/hst -> runs/hst-81c07d5e                  link to the current one
    exp/<recipe>/.done/stage_10.json                       records of the other stages

A changed configuration gets another folder, and an earlier configuration finds its folder again. Each stage runs in its
own process, so that its random state, threads and memory are the same in a first and in a resumed run.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import Timeout

from corpora.files import locked, read_json, sha256_file, sha256_json, write_json
from egs.pipeline.process import run_process
from egs.pipeline.stages import LAST, Stage, StageId, file_name, stages_of
from egs.pipeline.work import Job, StageError, fingerprints, link, source_folders

log = logging.getLogger(__name__)

CHANGED = "its configuration or inputs changed"
_DIGITS = 8  # of a digest in the name of a folder


@dataclass(frozen=True)
class Range:
    """Numbers of the first and last stage. explicit: the first one was named, so complete stages run again;
    from_scratch: unfinished outputs are not resumed."""

    first: int = 1
    last: int = LAST
    explicit: bool = False
    from_scratch: bool = False


@dataclass(frozen=True)
class Launchers:
    """Commands that start Python for a stage, instead of this interpreter: `shared` for stages of several processes
    (torchrun, srun), `alone` for the others."""

    alone: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    def commands(self, job: Job, stage: Stage, command: Sequence[str]) -> list[list[str]]:
        """The commands of a stage, to be run one after the other; `command` begins with an interpreter."""

        def started(words: tuple[str, ...], *arguments: str) -> list[str]:
            return [*(words or command[:1]), *command[1:], *arguments]

        sharded = job.recipe.shards is not None and stage.write_shards is not None
        first = [started(self.alone, "--shards")] if sharded else []
        return [*first, started(self.shared if stage.shared else self.alone)]


@dataclass(frozen=True)
class Done:
    """The record of a finished stage: digests of its inputs and of its results, end time, wall time in seconds."""

    digest: str
    result: str
    finished: str
    seconds: float

    @classmethod
    def read(cls, path: Path) -> Done | None:
        """The record in a file; None if the file is missing or damaged."""
        try:
            fields = read_json(path)
            return cls(*(fields[name] for name in ("digest", "result", "finished", "seconds")))
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class State:
    """Whether a stage is complete. digest: of its inputs, None if a stage that it needs is incomplete; reason: why it
    has to run, None if it is complete; result: digest of its results, if it is complete."""

    digest: str | None
    reason: str | None
    result: str = ""


class Runner:
    """The stages of one recipe: which are complete, and how to complete the others."""

    def __init__(
        self,
        job: Job,
        launchers: Launchers | None = None,
        run_command: Callable[[Job, Stage, list[str]], None] | None = None,
    ) -> None:
        self.job = job
        self.launchers = launchers or Launchers()
        self.run_command = run_command or run_process
        self.stages = {stage.id: stage for stage in stages_of(job.recipe)}
        self._records = job.exp / ".done"
        self._sources: dict[str, str] | None = None
        self._states: dict[StageId, State] = {}

    def run(self, stages: Range, child: Sequence[str], only: Collection[StageId] | None = None) -> list[StageId]:
        """Complete every stage of the range; returns those that had to run. Raises StageError.

        `child` is a command (an interpreter first) that runs the stage whose id is appended to it; with `--shards`
        after that, it writes the shards that the stage reads. `only` restricts the range to these stages.
        """
        ran = []
        with in_use(self.job.exp):
            self._adopt_old_folders()
            for stage in self.stages.values():
                self._point_link(stage)
            for name, stage in self.stages.items():
                in_range = stages.first <= stage.number <= stages.last and (only is None or name in only)
                if in_range and self._complete(stage, stages, [*child, str(name)]):
                    ran.append(name)
        return ran

    def incomplete(self, stage: StageId) -> str | None:
        """Why a stage has to run; None when it is complete or the recipe leaves it out."""
        return self.state(stage).reason

    def state(self, stage: StageId) -> State:
        """Whether a stage is complete."""
        if stage not in self._states:
            self._states[stage] = self._find_state(self.stages[stage])
        return self._states[stage]

    def _find_state(self, stage: Stage) -> State:
        settings = stage.settings(self.job)
        if settings is None:
            return State(None, None)
        inputs = {}
        for needed in stage.needs(self.job.recipe):
            state = self.state(needed)
            if state.reason:
                return State(None, f"it needs stage {needed} ({self.stages[needed].title}): {state.reason}")
            inputs[str(needed)] = state.result
        covered: dict[str, Any] = {"stage": stage.id, "settings": settings, "inputs": inputs}
        if stage.number == 1:
            covered["sources"] = self._source_marks()
        digest = sha256_json(covered)
        done = Done.read(self._record(stage, digest))
        if done is None:
            return State(digest, CHANGED if self._has_other(stage, digest) else "not finished yet")
        if done.digest != digest:
            return State(digest, CHANGED)
        missing = next((path for path in self._outputs(stage, digest) if not path.exists()), None)
        return State(digest, f"{missing} is missing" if missing else None, done.result)

    def _has_other(self, stage: Stage, digest: str) -> bool:
        """Whether a stage is finished under another configuration, and not begun under this one."""
        if stage.link is None or self._folder(stage, digest).exists():
            return False
        pattern = f"{stage.key}-{_DIGITS * '[0-9a-f]'}/done.json"
        return any((self.job.exp / stage.kept_in).glob(pattern))

    def _folder(self, stage: Stage, digest: str) -> Path:
        return self.job.exp / stage.kept_in / f"{stage.key}-{digest[:_DIGITS]}"

    def _record(self, stage: Stage, digest: str) -> Path:
        if stage.link is not None:
            return self._folder(stage, digest) / "done.json"
        return self._records / f"stage_{file_name(stage.id)}.json"

    def _outputs(self, stage: Stage, digest: str) -> list[Path]:
        """The outputs under one digest, in their folder and not through the link."""
        outputs = stage.outputs(self.job)
        if stage.link is None:
            return outputs
        return [self._folder(stage, digest) / path.relative_to(stage.link(self.job)) for path in outputs]

    def _source_marks(self) -> dict[str, str] | None:
        """Fingerprints of the corpora; if their folders are absent, those of the last run that had them."""
        if self._sources is None:
            path = self._records / "sources.json"
            self._sources = fingerprints(self.job)
            if self._sources is None and path.is_file():
                self._sources = read_json(path)
        return self._sources

    def _point_link(self, stage: Stage) -> None:
        """Let the link of a complete stage point to the outputs of this configuration."""
        state = self.state(stage.id)
        if stage.link is not None and state.digest is not None and state.reason is None:
            folder = self._folder(stage, state.digest)
            if link(stage.link(self.job), folder):
                log.info("stage %2d  %s: link set to %s", stage.number, stage.title, folder)

    def _complete(self, stage: Stage, stages: Range, command: list[str]) -> bool:
        job, label = self.job, f"stage {stage.number:2d}  {stage.title}"
        if stage.settings(job) is None:
            log.info("%s: left out, recipe %s does not have it", label, job.recipe.name)
            return False
        state = self.state(stage.id)
        if state.digest is None:
            raise StageError(
                f"stage {stage.number} ({stage.title}) cannot start: {state.reason}; run {job.again} without --stage"
            )
        if state.reason is None and not (stages.explicit or stages.from_scratch):
            self._point_link(stage)
            log.info("%s: complete", label)
            return False
        resumes = state.reason is not None and not stages.from_scratch and self._is_begun(stage, state.digest)
        reason = state.reason or ("asked for with --stage" if stages.explicit else "asked for with --force")
        log.info("%s: %s (%s)", label, "resuming" if resumes else "starting", reason)
        self._make_room(stage, state.digest, resumes=resumes, again=stages.explicit or stages.from_scratch)
        started = time.monotonic()
        for part in self.launchers.commands(job, stage, command):
            self.run_command(job, stage, part)
        seconds = round(time.monotonic() - started, 1)
        missing = [str(path) for path in stage.outputs(job) if not path.exists()]
        if missing:
            raise StageError(f"stage {stage.number} ({stage.title}) ended but did not write {', '.join(missing)}")
        self._states.clear()
        digest = state.digest
        if stage.number == 1:  # a download may have created the sources
            self._sources = fingerprints(job)
            write_json(self._records / "sources.json", self._sources)
            digest = self.state(1).digest
            assert digest is not None
            self._states.clear()
        result = content_digest(stage.content(job))
        done = Done(digest, result, datetime.now().isoformat(timespec="seconds"), seconds)
        write_json(self._record(stage, digest), asdict(done))
        log.info("%s: done in %.0f s", label, seconds)
        return True

    def _is_begun(self, stage: Stage, digest: str) -> bool:
        """Whether an unfinished attempt with these inputs can be resumed."""
        if stage.link is not None:
            return self._folder(stage, digest).is_dir()
        if stage.number == 1:
            note = _owner_note(self.job)
            return note.is_file() and read_json(note)["digest"] == digest
        begun = not self._record(stage, digest).exists() and any(path.exists() for path in stage.work_dirs(self.job))
        return begun and stage.incremental

    def _make_room(self, stage: Stage, digest: str, *, resumes: bool, again: bool) -> None:
        """Prepare the folders of a stage, and remove its record, so that an interrupted stage never counts as complete.

        Units and training runs are renamed, not deleted. Probes are deleted only with --stage or --force: each probe
        records its own inputs, so only the missing ones are trained.
        """
        job = self.job
        if stage.number == 1:
            check_data_owner(job)
        if stage.link is not None:
            folder = self._folder(stage, digest)
            if folder.exists() and not resumes:
                names = (folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
                log.info("  earlier output renamed to %s", folder.rename(next(n for n in names if not n.exists())))
            folder.mkdir(parents=True, exist_ok=True)
        self._record(stage, digest).unlink(missing_ok=True)
        if stage.link is not None:
            link(stage.link(job), folder)
        elif not resumes and (again or not stage.incremental):
            for folder in stage.work_dirs(job):
                _delete(folder)
        if stage.number == 1:
            write_json(_owner_note(job), {"exp": str(job.exp.resolve()), "digest": digest})

    def _adopt_old_folders(self) -> None:
        """Move the outputs of an earlier version, finished or not, into the present layout. That version had one folder
        per unit set and run, and its records in `.stamps`."""
        old = self.job.exp / ".stamps"
        if not old.is_dir() or self._records.exists():
            return
        for stage in self.stages.values():
            if stage.link is None or (path := stage.link(self.job)).is_symlink() or not path.is_dir():
                continue
            record, begun = (old / f"stage_{file_name(stage.id)}.{suffix}" for suffix in ("json", "begun"))
            done = Done.read(record)
            digest = done.digest if done else "unknown"
            if done is None and begun.is_file():
                digest = begun.read_text(encoding="utf-8").strip()
            folder = self._folder(stage, digest)
            folder.parent.mkdir(exist_ok=True)
            path.rename(folder)
            if done:
                write_json(folder / "done.json", asdict(done))
            log.info("%s, made by an earlier version, moved to %s", path, folder)
        old.rename(self._records)
        self._states.clear()


def content_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over names and contents of files; a folder counts with every file below it.

    Raises FileNotFoundError for a path that does not exist.
    """
    digest = hashlib.sha256()
    for path in paths:
        if path.is_dir():
            files = sorted(Path(folder) / name for folder, _, names in os.walk(path) for name in names)
        else:
            files = [path]
        for file in files:
            name = file.relative_to(path) if file != path else Path(file.name)
            digest.update(f"{path.name}/{name.as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


@contextmanager
def in_use(exp: Path) -> Iterator[None]:
    """Hold the lock of an experiment folder, `.run.lock` in it. Raises StageError, naming the process that holds it."""
    holder = exp / ".run.pid"
    try:
        with locked(exp / "run", timeout=0):
            holder.write_text(f"{os.getpid()}\n", encoding="ascii")
            yield
    except Timeout:
        pid = holder.read_text(encoding="ascii").strip() if holder.is_file() else "unknown"
        raise StageError(f"{exp} is in use by process {pid}: wait for it, or stop it (kill {pid})") from None


def check_data_owner(job: Job) -> None:
    """Check that stage 1 of this experiment wrote `job.data`, because stage 1 deletes that folder.

    The file `.<name>.owner.json` beside the data folder names the experiment. Raises StageError for a folder of another
    origin, and for one that holds a corpus.
    """
    for variable, folder in source_folders(job).items():
        if folder is not None and folder.resolve().is_relative_to(job.data.resolve()):
            raise StageError(
                f"{variable}={folder} lies inside {job.data}, which stage 1 fills; move the corpus, or use "
                "another --data"
            )
    if job.data.is_dir() and any(job.data.iterdir()):
        note = _owner_note(job)
        owner = read_json(note) if note.is_file() else None
        if owner is None:
            raise StageError(
                f"{job.data} holds files that stage 1 did not write; move them away, or use another --data"
            )
        if owner["exp"] != str(job.exp.resolve()):
            raise StageError(f"{job.data} was made for {owner['exp']}; use another --data")


def _owner_note(job: Job) -> Path:
    return job.data.with_name(f".{job.data.name}.owner.json")


def _delete(folder: Path) -> None:
    """Delete a folder in two steps, so that a half-deleted one never has its name."""
    trash = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(trash, ignore_errors=True)
    if folder.exists():
        log.info("  deleting %s", folder)
        folder.rename(trash)
        shutil.rmtree(trash)
