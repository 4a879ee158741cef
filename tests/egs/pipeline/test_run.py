"""Which stages run: records, forced ranges, changed configurations, kills, the lock. Fake work replaces the stages'."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from egs.__main__ import command_line, job_of
from egs.pipeline.recipe import load_recipe
from egs.pipeline.run import CHANGED, Done, Range, Runner, check_data_owner, content_digest, in_use
from egs.pipeline.stages import file_name
from egs.pipeline.work import Job, StageError, link

ALL = list(range(1, 14))
FURTHER = ["units.low.source=hl_it2", "pretrain.hst_low.geometry=hst", "pretrain.hst_low.units=[low]"]

# Writes the outputs of a stage by a plan that the test wrote. As of real outputs, their content follows from settings
# and inputs, unless SAME is set.
FAKE = """
    import json, os, signal, sys
    from pathlib import Path

    base, stage = Path(sys.argv[1]), sys.argv[2]
    plan = json.loads((base / "plan.json").read_text())[stage]
    with open(base / "ran", "a") as ran:
        ran.write(stage + "\\n")
    text = plan["settings"] + "".join(Path(path).read_text() for path in plan["inputs"])
    for name in sorted(plan["outputs"], key=lambda name: bool(Path(name).suffix)):
        path = Path(name)
        if not path.suffix:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("same" if os.environ.get("SAME") else text)
        if os.environ.get("KILL") == stage:
            os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("FAIL") == stage:
        sys.exit("error: no such luck")
"""


class Project:
    """Folders in which the fake work runs the stages of `mini`."""

    def __init__(self, base: Path) -> None:
        self.base, self.exp = base, base / "exp"
        (base / "fake.py").write_text(textwrap.dedent(FAKE))

    def job(self, *overrides: str) -> Job:
        return Job(load_recipe("mini", overrides), self.base / "data", self.exp)

    def run(self, *overrides: str, stages: Range | None = None, only: set[int | str] | None = None) -> list[int | str]:
        """Run the stages; returns those that were not complete."""
        return self.run_job(self.job(*overrides), stages, only)

    def run_job(self, job: Job, stages: Range | None = None, only: set[int | str] | None = None) -> list[int | str]:
        runner = Runner(job)
        plan = {
            str(name): {
                "settings": json.dumps(stage.settings(job)),
                "inputs": [
                    str(path if path.suffix else path / "ssl/train/wav.scp")
                    for needed in stage.needs(job.recipe)
                    for path in runner.stages[needed].content(job)
                ],
                "outputs": [str(path) for path in dict.fromkeys([*stage.outputs(job), *stage.content(job)])],
            }
            for name, stage in runner.stages.items()
            if stage.settings(job) is not None
        }
        (self.base / "plan.json").write_text(json.dumps(plan))
        (self.base / "ran").write_text("")
        ran = runner.run(stages or Range(), [sys.executable, "-S", str(self.base / "fake.py"), str(self.base)], only)
        assert self.ran() == [str(name) for name in ran]
        return ran

    def ran(self) -> list[str]:
        return (self.base / "ran").read_text().split()

    def times(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.base.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_everything_runs_once(project: Project) -> None:
    assert project.run() == ALL
    before = project.times()
    assert project.run() == []
    changed = {path.name for path, when in project.times().items() if before.get(path) != when}
    assert changed <= {"ran", ".run.lock", ".run.pid", "plan.json"}


@pytest.mark.slow
def test_a_change_reruns_the_stage_and_its_dependants_only(project: Project) -> None:
    project.run()
    assert project.run("tasks.ser.seeds=[7]") == [11, 13]
    assert project.run("tasks.ser.seeds=[7]") == []
    hst = ["tasks.ser.seeds=[7]", "pretrain.hst.steps=7"]
    assert project.run(*hst) == ALL[7:]
    assert project.run(*hst, "units.it2.k=7") == ALL[3:]
    assert project.run(*hst, "units.it2.k=7", "corpora.options.scale=0.5") == ALL


def test_a_change_without_effect_stops_there(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAME", "1")
    project.run()
    assert project.run("pretrain.hl_it1.steps=7") == [3]


@pytest.mark.slow
def test_an_earlier_configuration_finds_its_units_and_models(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong option and its correction cost no training; the links always point to the current configuration."""
    project.run()
    folders = {name: (project.exp / name).resolve() for name in ("units/it2", "hl_it2", "hst")}
    assert folders["units/it2"].parent == project.exp / "units" and folders["hst"].parent == project.exp / "runs"
    before = {path: when for path, when in project.times().items() if "runs" in path.parts or "units" in path.parts}
    assert project.run("units.it2.k=7") == ALL[3:]
    assert all((project.exp / name).resolve() != folder for name, folder in folders.items())
    assert project.run(stages=Range(last=8)) == []
    assert {name: (project.exp / name).resolve() for name in folders} == folders
    assert all(project.times()[path] == when for path, when in before.items())
    # Exports, probes and report are of one configuration only.
    assert project.run() == ALL[8:]


def test_an_unfinished_configuration_is_resumed_later(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.run()
    with monkeypatch.context() as patch, pytest.raises(StageError):
        patch.setenv("FAIL", "7")
        project.run("pretrain.hs.steps=7")
    checkpoint = project.exp / "hs/checkpoint"
    checkpoint.write_text("step 3")
    project.run(stages=Range(last=8))
    assert not checkpoint.exists()
    project.run("pretrain.hs.steps=7", stages=Range(last=8))
    assert checkpoint.read_text() == "step 3"


def test_one_stage_reads_the_outputs_of_its_own_configuration(project: Project) -> None:
    project.run(stages=Range(last=6))
    units = (project.exp / "units/student").resolve()
    project.run("units.student.k=7", stages=Range(last=6))
    assert (project.exp / "units/student").resolve() != units
    assert project.run(stages=Range(7, 7, explicit=True)) == [7]
    assert (project.exp / "units/student").resolve() == units


def test_a_deleted_output_is_made_again_in_its_folder(project: Project) -> None:
    project.run()
    (project.exp / "hs/checkpoint").write_text("last step")
    (project.exp / "hs/model/model.safetensors").unlink()
    assert project.run() == [7]
    assert (project.exp / "hs/checkpoint").exists()


@pytest.mark.parametrize("way", [{"explicit": True}, {"from_scratch": True}])
@pytest.mark.slow
def test_a_stage_that_was_asked_for_runs_again_from_nothing(
    project: Project, way: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the new attempt fails at once: --force is for changed code, so earlier output must not be reused."""
    project.run()
    (project.exp / "hs/mark").write_text("of the old code")
    with monkeypatch.context() as patch, pytest.raises(StageError):
        patch.setenv("FAIL", "7")
        project.run(stages=Range(7, 7, **way))
    (kept,) = project.exp.glob("runs/hs-*/mark")
    assert kept.parent.name.endswith(".1"), "a trained model is never just deleted"
    assert project.run() == [7], "the same outcome leaves the later stages complete"
    assert not (project.exp / "hs/mark").exists()
    assert project.run(stages=Range(7, 8, **way)) == [7, 8]
    assert len([*project.exp.glob("runs/hs-*")]) == 3


def test_force_discards_an_unfinished_attempt_and_stage_resumes_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = project.exp / "hs/checkpoints/last.pt"
    monkeypatch.setenv("FAIL", "7")
    for stages, kept in ((Range(), True), (Range(7, 7, explicit=True), True), (Range(7, 7, from_scratch=True), False)):
        with pytest.raises(StageError):
            project.run()
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text("step 100")
        with pytest.raises(StageError):
            project.run(stages=stages)
        assert checkpoint.exists() is kept, stages


@pytest.mark.slow
def test_external_weights_count_by_their_content(project: Project, tmp_path: Path) -> None:
    """Checkpoints of one architecture all have the same size."""
    model = tmp_path / "elsewhere"
    model.mkdir()
    weights = model / "model.safetensors"
    weights.write_text("first")
    paths = [f"units.it1.source={model}", f"pretrain.hs.init={{kind: model, source: {model}}}"]
    for overrides, redone in (
        (paths[:1], ALL[1:]),
        (paths[1:], [7, *ALL[8:]]),
        ([f"upstreams=[fbank,mine={model}]"], ALL[9:]),
        ([f"tasks.ser.upstreams=[fbank,mine={model}]"], [11, 13]),
    ):
        weights.write_text("first")
        project.run(*overrides)
        os.utime(weights)
        assert project.run(*overrides) == []
        weights.write_text("other")
        assert project.run(*overrides) == redone


def test_stop_stage_alone_forces_nothing(project: Project) -> None:
    assert project.run(stages=Range(1, 4)) == [1, 2, 3, 4]
    assert project.run(stages=Range(1, 5)) == [5]


def test_a_stage_without_its_inputs_names_the_missing_one(project: Project) -> None:
    project.run(stages=Range(1, 2))
    with pytest.raises(StageError, match=r"stage 4 .*stage 3 \(teacher HL, iteration 1\)"):
        project.run(stages=Range(4, 4, explicit=True))


def test_a_task_that_the_recipe_lacks_is_left_out(project: Project) -> None:
    job = project.job()
    del job.recipe.tasks["did"]
    assert project.run_job(job) == [*ALL[:11], 13]


@pytest.mark.parametrize("number", [1, 3, 6, 10, 13])
@pytest.mark.slow
def test_a_killed_stage_is_not_complete_and_resumes(
    project: Project, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KILL", str(number))
    with pytest.raises(StageError, match=rf"stage {number} .*signal 9"):
        project.run()
    assert project.ran() == [str(n) for n in ALL[:number]]
    runner = Runner(project.job())
    assert runner.incomplete(number) == "not finished yet"
    assert any(path.exists() for path in runner.stages[number].outputs(project.job())), "it was killed while writing"
    monkeypatch.delenv("KILL")
    with caplog.at_level("INFO"):
        assert project.run() == ALL[number - 1 :]
    if number != 13:
        assert f"stage {number:2d}  {runner.stages[number].title}: resuming" in caplog.text


@pytest.mark.parametrize("number", [1, 7, 9, 11])
@pytest.mark.slow
def test_a_killed_rerun_is_not_complete(project: Project, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    project.run()
    with monkeypatch.context() as patch, pytest.raises(StageError):
        patch.setenv("KILL", str(number))
        project.run(stages=Range(number, number, explicit=True))
    assert number in project.run()


def test_half_deleted_data_is_never_resumed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.run(stages=Range(1, 2))

    def killed(folder: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        project.run("corpora.options.scale=0.5", stages=Range(1, 2))
    assert not (project.base / "data").exists()
    for overrides in ([], ["corpora.options.scale=0.5"]):
        assert Runner(project.job(*overrides)).incomplete(1)
    assert project.run("corpora.options.scale=0.5", stages=Range(1, 2)) == [1, 2]
    assert not (project.base / ".data.deleted").exists()


def test_probes_survive_a_grid_that_grows_but_not_a_forced_one(project: Project) -> None:
    project.run()
    run = project.exp / "probes/ser_light/fbank/seed0/predictions.csv"
    run.parent.mkdir(parents=True)
    run.write_text("")
    assert project.run("tasks.ser.seeds=[0,1]") == [11, 13]
    assert run.exists()
    assert project.run("tasks.ser.seeds=[0,1]", stages=Range(11, 11, explicit=True)) == [11]
    assert not run.exists()


def test_every_stage_writes_command_configuration_and_log(project: Project) -> None:
    project.run(stages=Range(1, 3))
    logs = project.exp / "logs"
    assert (logs / "stage_03.command").read_text() == "./run.sh --stage 3 --stop_stage 3\n"
    assert '"steps"' in (logs / "stage_03.json").read_text()
    assert (logs / "stage_03.log").exists()


def test_the_command_that_resumes_repeats_the_options() -> None:
    """Other options would name another configuration."""
    given = ["--recipe", "mini", "--exp", "my exp", "--set", "pretrain.hs.steps=9"]
    args = command_line().parse_args(["run", *given, "--stage", "3"])
    assert job_of(args).again == "./run.sh --recipe mini --exp 'my exp' --set pretrain.hs.steps=9"
    args = command_line().parse_args(["run", *given, "--called", "egs/mini/ssl1/run.sh"])
    assert "egs/mini/ssl1/run.sh" in job_of(args).again


def test_a_failing_stage_shows_its_message_and_its_log(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("FAIL", "2")
    with pytest.raises(StageError, match=r"stage 2 .*exit status 1.*stage_02\.log"):
        project.run()
    assert b"no such luck" in (project.exp / "logs/stage_02.log").read_bytes()
    assert b"no such luck" in capfdbinary.readouterr().out


def test_two_runs_on_one_recipe_are_refused(tmp_path: Path, root: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from egs.pipeline.run import in_use\n"
        "with in_use(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=root, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        for _ in range(2):
            with pytest.raises(StageError, match=rf"\b{other.pid}\b"), in_use(tmp_path):
                pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        with in_use(tmp_path):
            assert (tmp_path / ".run.pid").read_text() == f"{os.getpid()}\n"


def test_a_stage_dies_with_its_run(root: Path) -> None:
    """kill -9 of run.sh must not leave a stage at work beside the next run."""
    if sys.platform != "linux":
        pytest.skip("the parent-death signal is Linux's")
    stage_code = (
        "import time; from egs.pipeline.process import die_with_parent; die_with_parent(); "
        "import os; print(os.getpid(), flush=True); time.sleep(60)"
    )
    run_code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stage_code!r}])"
    with subprocess.Popen([sys.executable, "-c", run_code], cwd=root, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        run.kill()
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the stage is still running")


@pytest.mark.parametrize("content", ['{"digest": "abc"', '{"digest": "abc"}', "[]"])
def test_a_damaged_record_counts_as_none(project: Project, content: str) -> None:
    project.run(stages=Range(1, 3))
    (project.exp / "hl_it1/done.json").write_text(content)
    assert Done.read(project.exp / "hl_it1/done.json") is None
    assert Runner(project.job()).incomplete(3) == "not finished yet"


def test_the_reason_of_an_incomplete_stage(project: Project) -> None:
    project.run(stages=Range(1, 8))
    assert Runner(project.job()).incomplete(8) is None
    assert Runner(project.job("pretrain.hst.steps=7")).incomplete(8) == CHANGED
    assert Runner(project.job("units.student.k=7")).incomplete(8).endswith(CHANGED)
    (project.exp / "hst/model/config.json").unlink()
    assert "config.json" in Runner(project.job()).incomplete(8)


def test_content_digest_covers_text_and_audio(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "text").write_text("u1 نعم\n")
    (folder / "a.wav").write_text("one")
    digests = [content_digest([folder])]
    (folder / "a.wav").write_text("two")
    digests.append(content_digest([folder]))
    (folder / "text").write_text("u1 نعَم\n")
    digests.append(content_digest([folder]))
    assert len(set(digests)) == 3
    with pytest.raises(FileNotFoundError):
        content_digest([tmp_path / "nothing"])


def test_stage_1_deletes_only_data_that_it_made(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    job = project.job()
    job.data.mkdir()
    recording = job.data / "recording.wav"
    recording.write_bytes(b"years of work")
    with pytest.raises(StageError, match="holds files"):
        project.run()
    recording.unlink()
    project.run(stages=Range(1, 1))
    check_data_owner(job)
    with pytest.raises(StageError, match=str(job.exp)):
        check_data_owner(dataclasses.replace(job, exp=project.base / "other"))
    for variable in ("ARABIC_SPEECH_COMMANDS", "EVERYAYAH", "FREE_SPOKEN_DIGITS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("BAVED", str(job.data / "raw" / "BAVED"))
    with pytest.raises(StageError, match="BAVED=.* lies inside"):
        check_data_owner(dataclasses.replace(job, recipe=load_recipe("open_arabic")))


def test_a_link_is_replaced_and_a_folder_is_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    path = tmp_path / "models/m"
    assert link(path, tmp_path / "runs/a") and link(path, tmp_path / "runs/b")
    assert not link(path, tmp_path / "runs/b"), "it is there already"
    assert os.readlink(path) == "../runs/b"
    (tmp_path / "folder").mkdir()
    with pytest.raises(StageError, match="folder"):
        link(tmp_path / "folder", tmp_path / "runs/a")


@pytest.mark.slow
def test_a_further_student_is_made_once(project: Project) -> None:
    """A change of it reruns itself and the stages that read it, never the students of the same stage."""
    assert project.run(*FURTHER, only={1, 2, 3, 4, 5, "low"}) == [1, 2, 3, 4, 5, "low"]
    assert project.run(*FURTHER) == [6, 7, 8, "hst_low", *range(9, 14)]
    assert project.run(*FURTHER) == []
    assert project.run(*FURTHER, "pretrain.hst_low.steps=7") == ["hst_low", *range(9, 14)]
    changed = (*FURTHER, "pretrain.hst_low.steps=7", "units.low.k=50")
    assert project.run(*changed) == ["low", "hst_low", *range(9, 14)]
    assert project.run(*changed, stages=Range(8, 8, explicit=True)) == ["low", 8, "hst_low"]


@pytest.mark.slow
def test_an_experiment_of_an_earlier_version_is_taken_over(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had one folder a run (`exp/hs`) and all records in `.stamps`, and copies in models/."""
    monkeypatch.setenv("FAIL", "8")
    with pytest.raises(StageError):
        project.run()
    runner, old = Runner(project.job()), project.exp / ".stamps"
    begun = runner.state(8).digest
    (project.exp / ".done").rename(old)
    for name, stage in runner.stages.items():
        if stage.link is None or not (path := stage.link(project.job())).is_symlink():
            continue
        folder = path.resolve()
        path.unlink()
        if (folder / "done.json").exists():
            (folder / "done.json").rename(old / f"stage_{file_name(name)}.json")
        else:
            (old / f"stage_{file_name(name)}.begun").write_text(f"{begun}\n")
        folder.rename(path)
    (project.exp / "hst/checkpoint").write_text("step 3")
    monkeypatch.delenv("FAIL")
    assert project.run() == ALL[7:]
    assert (project.exp / "hst").is_symlink() and (project.exp / "hst/checkpoint").read_text() == "step 3"
