"""The whole of `mini` at a tiny size, as a user runs it: from an empty folder to the report, again, and killed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TINY = [
    "corpora.options.scale=0.05",
    "pretrain.common={batch_seconds: 8, crop_seconds: 4, lr: 0.001, valid_every: 4, seed: 0}",
    "pretrain.hl_it1={steps: 24}",
    "pretrain.hl_it2={steps: 4, init: {kind: model, source: hl_it1}}",
    "pretrain.hs={steps: 4, init: {kind: every_nth, source: hl_it2}}",
    "pretrain.hst={steps: 4, init: {kind: first_n, source: hl_it2}}",
    "units.it1={source: mfcc, k: 16}",
    "units.it2={source: hl_it1, layer: 3, k: 16}",
    "units.student={source: hl_it2, layer: 3, pca: 8, k: 16}",
    *(
        f"tasks.{task}={{protocol: light, seeds: [0], overrides: {{problem: {{train: {steps}}}}}}}"
        for task, steps in (
            ("asr", "{total_steps: 8, eval_step: 8}"),
            ("ser", "{total_steps: 20, eval_step: 20}"),
            ("did", "{total_steps: 20, eval_step: 20}"),
        )
    ),
]
UPSTREAMS = {"fbank", "random_l", "harness_l_it1", "harness_l", "harness_s", "harness_st"}
VARYING = {"wall_s", "rtf_cpu"}


class Project:
    """A folder for data and experiments, and the command line that uses it."""

    def __init__(self, base: Path, root: Path) -> None:
        self.base, self.root = base, root
        self.exp = base / "exp/mini"
        # Models this small gain nothing from a second thread, which costs much on a busy machine.
        self.environment = {**os.environ, "HARNESS_VENV": sys.prefix, "OMP_NUM_THREADS": "1"}

    def command(self, *arguments: str) -> list[str]:
        settings = [part for item in TINY for part in ("--set", item)]
        folders = ["--data", str(self.base / "data"), "--exp", str(self.base / "exp")]
        # One process per task: starting a second one costs more than its share of the work.
        return [str(self.root / "run.sh"), *folders, "--jobs", "1", *settings, *arguments]

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1500,
        )
        assert done.returncode == 0, done.stdout[-5000:]
        return done.stdout

    def kill_when(self, ready: Callable[[], bool], *arguments: str) -> None:
        """Start, and kill -9 as soon as `ready` says so."""
        with subprocess.Popen(
            self.command(*arguments), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            deadline = time.monotonic() + 600
            while not ready():
                assert process.poll() is None, "the stage ended before it could be killed"
                assert time.monotonic() < deadline, "the stage did not start"
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)

    def rows(self) -> list[dict[str, str]]:
        with open(self.exp / "results.csv", encoding="utf-8", newline="") as stream:
            return [{k: v for k, v in row.items() if k not in VARYING} for row in csv.DictReader(stream)]

    def times(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.base.rglob("*") if path.is_file()}


def states(output: str) -> dict[int, str]:
    """State of each stage in the output of a run: `complete`, `starting`, `resuming`."""
    found = {}
    for line in output.splitlines():
        _, marker, text = line.partition(") stage ")
        number, _, rest = text.strip().partition(" ")
        state = rest.rpartition(": ")[2].split(" (")[0]
        if marker and number.isdigit() and state in ("complete", "starting", "resuming"):
            found[int(number)] = state
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, root: Path) -> tuple[Project, str]:
    """The pipeline after one undisturbed run, and what that printed. Tests of this module may run in any order."""
    project = Project(tmp_path_factory.mktemp("pipeline"), root)
    output = project.run()
    assert (project.exp / "results.txt").read_text(encoding="utf-8") in output
    return project, output


def test_from_an_empty_folder_to_the_report(finished: tuple[Project, str]) -> None:
    project, output = finished
    assert states(output) == dict.fromkeys(range(1, 14), "starting")
    rows = project.rows()
    for task in ("asr", "ser", "did"):
        assert {row["upstream"] for row in rows if row["task"] == task} == UPSTREAMS
    assert all(0 <= float(row["value"]) for row in rows)
    assert all((project.exp / row["run_dir"]).is_dir() or Path(row["run_dir"]).is_dir() for row in rows)
    for name in ("RESULTS.md", "compression.csv", "report/index.html", "report/quality_params.png"):
        assert (project.exp / name).stat().st_size > 0
    assert "SYNTHETIC SPEECH" in output and "harness_st" in output
    for folder in ("hl_it1", "hl_it2", "hs", "hst"):
        assert (project.exp / folder / "model/model.safetensors").is_file()
    for number in range(1, 14):
        assert (project.exp / f"logs/stage_{number:02d}.log").is_file()
        assert (project.exp / f"logs/stage_{number:02d}.command").is_file()


def test_a_second_run_does_nothing_and_shows_the_table(finished: tuple[Project, str]) -> None:
    project, _ = finished
    before, started = project.times(), time.monotonic()
    output = project.run()
    seconds = time.monotonic() - started
    assert states(output) == dict.fromkeys(range(1, 14), "complete")
    changed = {path.name for path, when in project.times().items() if before.get(path) != when}
    assert changed <= {".run.lock", ".run.pid"}
    assert (project.exp / "results.txt").read_text(encoding="utf-8") in output
    assert seconds < 20, f"{seconds:.0f} s for nothing"


def test_another_configuration_keeps_the_first_and_the_first_is_found_again(finished: tuple[Project, str]) -> None:
    project, _ = finished
    folder, models = (project.exp / "hst").resolve(), project.exp / "models/harness_st"
    states_of_hst = states(project.run("--stop_stage", "9", "--set", "pretrain.hst.steps=5"))
    assert states_of_hst == dict.fromkeys(range(1, 8), "complete") | {8: "starting", 9: "starting"}
    assert (project.exp / "hst").resolve() != folder and models.resolve() == (project.exp / "hst/model").resolve()
    assert states(project.run("--stop_stage", "9")) == dict.fromkeys(range(1, 9), "complete") | {9: "starting"}
    assert (project.exp / "hst").resolve() == folder and models.resolve() == folder / "model"


def test_an_explicit_stage_reruns_and_later_ones_stay(finished: tuple[Project, str]) -> None:
    project, _ = finished
    rows = project.rows()
    assert states(project.run("--stage", "8", "--stop_stage", "8")) == {8: "starting"}
    assert set(states(project.run()).values()) == {"complete"}, "the same seed gives the same student"
    assert project.rows() == rows


@pytest.mark.parametrize(
    ("number", "record", "begun"),
    [
        (3, "hl_it1/done.json", "hl_it1/checkpoints/last.pt"),
        (6, "units/student/done.json", "units/student/*"),
        (10, ".done/stage_10.json", "probes/asr_light/*/*/cell.json"),
    ],
)
def test_killed_and_started_again_ends_the_same(
    finished: tuple[Project, str], number: int, record: str, begun: str
) -> None:
    project, _ = finished
    rows, done = project.rows(), project.exp / record
    old = {path: path.stat().st_mtime_ns for path in project.exp.glob(begun)}

    def has_begun() -> bool:
        return not done.exists() and any(old.get(path) != path.stat().st_mtime_ns for path in project.exp.glob(begun))

    project.kill_when(has_begun, "--stage", str(number), "--stop_stage", str(number))
    assert not done.exists()
    output = project.run()
    expected = dict.fromkeys(range(1, 14), "complete") | {number: "resuming"}
    if number == 10:
        expected[13] = "starting"  # the report shows the times of the runs, too
    assert states(output) == expected, "bit for bit the same outcome, or later stages would have run"
    assert project.rows() == rows
    if number == 3:
        assert "training steps 0 to 24" not in output, "it resumed from its checkpoint"
    if number == 10:
        assert "already complete" in output
