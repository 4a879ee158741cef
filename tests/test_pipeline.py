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


class House:
    """A folder for data and experiments, and the command line that works in it."""

    def __init__(self, base: Path, root: Path) -> None:
        self.base, self.root = base, root
        self.exp = base / "exp/mini"
        # Models this small gain nothing from a second thread, and a machine that is busy loses much by it.
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
                assert time.monotonic() < deadline, "the stage did not get going"
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)

    def rows(self) -> list[dict[str, str]]:
        with open(self.exp / "results.csv", encoding="utf-8", newline="") as stream:
            return [{k: v for k, v in row.items() if k not in VARYING} for row in csv.DictReader(stream)]

    def times(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.base.rglob("*") if path.is_file()}


def states(output: str) -> dict[int, str]:
    """What the run said about each stage: `complete`, `starting`, `going on`."""
    found = {}
    for line in output.splitlines():
        _, marker, text = line.partition(") stage ")
        number, _, rest = text.strip().partition(" ")
        state = rest.rpartition(": ")[2].split(" (")[0]
        if marker and number.isdigit() and state in ("complete", "starting", "going on"):
            found[int(number)] = state
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, root: Path) -> tuple[House, str]:
    """The pipeline after one undisturbed run, and what that printed."""
    house = House(tmp_path_factory.mktemp("pipeline"), root)
    return house, house.run()


def test_from_an_empty_folder_to_the_report(finished: tuple[House, str]) -> None:
    house, output = finished
    assert states(output) == dict.fromkeys(range(1, 14), "starting")
    rows = house.rows()
    for task in ("asr", "ser", "did"):
        assert {row["upstream"] for row in rows if row["task"] == task} == UPSTREAMS
    assert all(0 <= float(row["value"]) for row in rows)
    assert all((house.exp / row["run_dir"]).is_dir() or Path(row["run_dir"]).is_dir() for row in rows)
    for name in ("RESULTS.md", "compression.csv", "report/index.html", "report/quality_params.png"):
        assert (house.exp / name).stat().st_size > 0
    assert "SYNTHETIC SPEECH" in output and "harness_st" in output
    for folder in ("hl_it1", "hl_it2", "hs", "hst"):
        assert (house.exp / folder / "model/model.safetensors").is_file()
    for number in range(1, 14):
        assert (house.exp / f"logs/stage_{number:02d}.log").is_file()
        assert (house.exp / f"logs/stage_{number:02d}.command").is_file()


def test_a_second_run_does_nothing_and_shows_the_table(finished: tuple[House, str]) -> None:
    house, first = finished
    before, started = house.times(), time.monotonic()
    output = house.run()
    seconds = time.monotonic() - started
    assert states(output) == dict.fromkeys(range(1, 14), "complete")
    changed = {path.name for path, when in house.times().items() if before.get(path) != when}
    assert changed <= {"lock"}
    table = (house.exp / "results.txt").read_text(encoding="utf-8")
    assert table in first and table in output
    assert seconds < 20, f"{seconds:.0f} s for nothing"


def test_an_explicit_stage_reruns_and_later_ones_stay(finished: tuple[House, str]) -> None:
    house, _ = finished
    rows = house.rows()
    assert states(house.run("--stage", "8", "--stop_stage", "8")) == {8: "starting"}
    assert set(states(house.run()).values()) == {"complete"}, "the same seed gives the same student"
    assert house.rows() == rows


@pytest.mark.parametrize(
    ("number", "begun"),
    [
        (3, "hl_it1/checkpoints/last.pt"),
        (6, "units/student/*"),
        (10, "probes/asr_light/*/*/cell.json"),
    ],
)
def test_killed_and_started_again_ends_the_same(finished: tuple[House, str], number: int, begun: str) -> None:
    house, _ = finished
    rows, stamp = house.rows(), house.exp / f".stamps/stage_{number:02d}.json"
    old = {path: path.stat().st_mtime_ns for path in house.exp.glob(begun)}

    def has_begun() -> bool:
        return not stamp.exists() and any(old.get(path) != path.stat().st_mtime_ns for path in house.exp.glob(begun))

    house.kill_when(has_begun, "--stage", str(number), "--stop_stage", str(number))
    assert not stamp.exists()
    output = house.run()
    expected = dict.fromkeys(range(1, 14), "complete") | {number: "going on"}
    if number == 10:
        expected[13] = "starting"  # the report shows the times of the runs, too
    assert states(output) == expected, "bit for bit the same outcome, or later stages would have run"
    assert house.rows() == rows
    if number == 3:
        assert "training steps 0 to 24" not in output, "it went on from its checkpoint"
    if number == 10:
        assert "complete already" in output
