"""Which stages run: stamps, forced ranges, kills, locks. The work of a stage is replaced by writing its outputs."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from egs.__main__ import _job, _parser
from egs.pipeline.recipe import load_recipe
from egs.pipeline.run import Range, Walk, _claim_data
from egs.pipeline.sources import StageError
from egs.pipeline.stages import STAGES, Job, stage, stages_of
from egs.pipeline.stamps import RecipeLocked, Stamp, StampFolder, content_digest, locked, why_incomplete

ALL = list(range(1, 14))

# Writes what a stage should make, by a plan that the test wrote; the content follows from settings and inputs, as real
# outputs do, unless SAME says otherwise.
FAKE = """
    import json, os, signal, sys
    from pathlib import Path

    base, number = Path(sys.argv[1]), sys.argv[2]
    plan = json.loads((base / "plan.json").read_text())[number]
    with open(base / "ran", "a") as ran:
        ran.write(number + "\\n")
    stamps = [base / f"exp/.stamps/stage_{needed:02d}.json" for needed in plan["needs"]]
    text = plan["settings"] + "".join(json.loads(stamp.read_text())["result"] for stamp in stamps)
    for name in plan["outputs"] + plan["content"]:
        path = Path(name)
        if not path.suffix:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("same" if os.environ.get("SAME") else text)
        if os.environ.get("KILL") == number:
            os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("FAIL") == number:
        sys.exit("error: no such luck")
"""


class House:
    """A place to walk the stages of `mini` with the fake work."""

    def __init__(self, base: Path) -> None:
        self.base = base
        (base / "fake.py").write_text(textwrap.dedent(FAKE))

    def job(self, *overrides: str) -> Job:
        return Job(load_recipe("mini", overrides), self.base / "data", self.base / "exp")

    def walk(self, *overrides: str, stages: Range | None = None) -> list[int]:
        """Walk, and return the stages that did run."""
        job = self.job(*overrides)
        plan = {
            this.number: {
                "needs": this.needs(job.recipe),
                "settings": json.dumps(this.settings(job)),
                "outputs": [str(path) for path in this.outputs(job)],
                "content": [str(path) for path in this.content(job)],
            }
            for this in STAGES
            if this.settings(job) is not None
        }
        (self.base / "plan.json").write_text(json.dumps(plan))
        (self.base / "ran").write_text("")
        ran = Walk(job).run(stages or Range(), [sys.executable, "-S", str(self.base / "fake.py"), str(self.base)])
        assert self.ran() == ran
        return ran

    def ran(self) -> list[int]:
        return [int(line) for line in (self.base / "ran").read_text().split()]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_everything_runs_once(house: House) -> None:
    assert house.walk() == ALL
    before = {path: path.stat().st_mtime_ns for path in house.base.rglob("*") if path.is_file()}
    assert house.walk() == []
    after = {path: path.stat().st_mtime_ns for path in house.base.rglob("*") if path.is_file()}
    changed = {path.name for path in after if before.get(path) != after[path]}
    assert changed <= {"ran", "lock", "plan.json"}


def test_a_change_redoes_the_stage_and_its_dependants_only(house: House) -> None:
    house.walk()
    assert house.walk("tasks.ser.seeds=[7]") == [11, 13]
    assert house.walk("tasks.ser.seeds=[7]") == []
    hst = ["tasks.ser.seeds=[7]", "pretrain.hst.steps=7"]
    assert house.walk(*hst) == [8, 9, 10, 11, 12, 13]
    assert house.walk(*hst, "units.it2.k=7") == [4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert house.walk(*hst, "units.it2.k=7", "corpora.options.scale=0.5") == ALL


def test_a_change_without_effect_stops_there(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAME", "1")
    house.walk()
    assert house.walk("pretrain.hl_it1.steps=7") == [3]


def test_an_output_that_was_deleted_is_made_again(house: House) -> None:
    house.walk()
    (house.base / "exp/hs/model/model.safetensors").unlink()
    assert house.walk() == [7]


def test_an_explicit_stage_runs_again_and_nothing_else(house: House) -> None:
    house.walk()
    assert house.walk(stages=Range(7, 8, explicit=True)) == [7, 8]
    (aside,) = house.base.glob("exp/hs.old-*")
    assert (aside / "model/model.safetensors").is_file(), "a trained model is never just deleted"
    assert house.walk() == [], "the same outcome leaves the later stages complete"


def test_weights_from_elsewhere_count_by_what_they_hold(house: House, tmp_path: Path) -> None:
    """Checkpoints of one architecture have one size, whatever they hold."""
    model = tmp_path / "elsewhere"
    model.mkdir()
    weights = model / "model.safetensors"
    weights.write_text("first")
    paths = [f"units.it1.source={model}", f"pretrain.hs.init={{kind: model, source: {model}}}"]
    for overrides, redone in (
        (paths[:1], ALL[1:]),
        (paths[1:], [7, 9, 10, 11, 12, 13]),
        ([f"upstreams=[fbank,mine={model}]"], [10, 11, 12, 13]),
        ([f"tasks.ser.upstreams=[fbank,mine={model}]"], [11, 13]),
    ):
        house.walk(*overrides)
        os.utime(weights)
        assert house.walk(*overrides) == []
        weights.write_text({"first": "other", "other": "first"}[weights.read_text()])
        assert house.walk(*overrides) == redone


def test_a_slip_and_its_correction_cost_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished units and models come back with the configuration that they were made from; so does what was under way,
    and what a second rerun of one configuration sets aside stands beside the first."""
    right, slip = ["units.it2.k=7", "pretrain.hl_it2.steps=9"], ["units.it2.k=8"]
    house.walk(*right)
    marks = {name: house.base / "exp" / name / "mark" for name in ("units/it2", "hl_it2")}
    for mark in marks.values():
        mark.write_text("paid for")
    monkeypatch.setenv("FAIL", "5")
    with pytest.raises(StageError):
        house.walk(*slip)
    (house.base / "exp/hl_it2/checkpoints").mkdir(exist_ok=True)
    (house.base / "exp/hl_it2/checkpoints/last.pt").write_text("of the slip")
    assert not any(mark.exists() for mark in marks.values())
    monkeypatch.delenv("FAIL")
    house.walk(*right)
    assert all(mark.read_text() == "paid for" for mark in marks.values())
    house.walk(*slip, stages=Range(1, 5))
    assert (house.base / "exp/hl_it2/checkpoints/last.pt").read_text() == "of the slip"
    for number in range(3):
        (house.base / "exp/hl_it2/mark").write_text(f"slip {number}")
        house.walk(*slip, stages=Range(5, 5, explicit=True))
    assert len([*house.base.glob("exp/hl_it2.old-*")]) == 4, "the right one, and three of the slip"
    house.walk(*right)
    (house.base / "exp/hl_it2/mark").write_text("the later one")
    house.walk(*slip, stages=Range(1, 5))
    assert not (house.base / "exp/hl_it2/mark").exists(), "the latest of the slip, which had no mark"
    house.walk(*right)
    assert (house.base / "exp/hl_it2/mark").read_text() == "the later one"


@pytest.mark.parametrize("way", [{"explicit": True}, {"anew": True}, None])
def test_what_was_to_be_made_again_does_not_come_back(
    house: House, monkeypatch: pytest.MonkeyPatch, way: dict[str, bool] | None
) -> None:
    """Also when the new attempt dies before it has made anything: --force is what changed code needs."""
    house.walk("pretrain.hs.steps=9")
    house.walk()
    (house.base / "exp/hs/mark").write_text("of the old code")
    for aside in house.base.glob("exp/hs.old-*"):
        (aside / "mark").write_text("of the old code")
    job = house.job()
    if way is None:
        (house.base / "exp/hs/model/model.safetensors").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("egs.pipeline.run._run", lambda *_: (_ for _ in ()).throw(StageError("no GPU")))
        with pytest.raises(StageError, match="no GPU"):
            Walk(job).run(Range(7, 7, **(way or {})), [sys.executable])
        if way:
            with pytest.raises(StageError, match="no GPU"):
                changed = house.job("pretrain.hs.steps=9")
                Walk(changed).run(Range(7, 7, anew=True), [sys.executable])
    house.walk()
    assert not (house.base / "exp/hs/mark").exists()
    if way:
        house.walk("pretrain.hs.steps=9")
        assert not (house.base / "exp/hs/mark").exists()


def test_a_stamp_is_gone_before_anything_is_deleted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.walk(stages=Range(1, 2))

    def killed(folder: Path) -> None:
        assert StampFolder(house.base / "exp/.stamps").read(1) is None, "a half-deleted folder must not pass"
        raise KeyboardInterrupt

    monkeypatch.setattr("egs.pipeline.run.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        house.walk("corpora.options.scale=0.5", stages=Range(1, 2))
    monkeypatch.undo()
    assert house.walk("corpora.options.scale=0.5", stages=Range(1, 2))[0] == 1


def test_stop_stage_alone_forces_nothing(house: House) -> None:
    assert house.walk(stages=Range(1, 4)) == [1, 2, 3, 4]
    assert house.walk(stages=Range(1, 5)) == [5]


def test_a_stage_without_its_inputs_says_which(house: House) -> None:
    house.walk(stages=Range(1, 2))
    with pytest.raises(StageError, match=r"stage 4 .* needs stage 3 \(teacher HL, iteration 1\): not finished yet"):
        house.walk(stages=Range(4, 4, explicit=True))


def test_a_task_that_the_recipe_lacks_is_left_out(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = house.job()
    del job.recipe.tasks["did"]
    monkeypatch.setattr(house, "job", lambda *overrides: job)
    with caplog.at_level("INFO"):
        ran = house.walk()
    assert 12 not in ran and 13 in ran
    assert "recipe mini has none, left out" in caplog.text


@pytest.mark.parametrize("number", [1, 3, 6, 10, 13])
def test_a_killed_stage_has_no_stamp_and_goes_on(
    house: House, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KILL", str(number))
    with pytest.raises(StageError, match=rf"stage {number} .*killed by signal 9"):
        house.walk()
    stamps = StampFolder(house.base / "exp/.stamps")
    assert stamps.read(number) is None
    assert house.ran() == ALL[:number]
    left = [path for path in stage(number).outputs(house.job()) if path.exists()]
    assert left, "the kill came after something was written"
    monkeypatch.delenv("KILL")
    with caplog.at_level("INFO"):
        assert house.walk() == ALL[number - 1 :]
    assert f"stage {number:2d}  {stage(number).title}: going on" in caplog.text


def test_a_killed_rerun_is_not_taken_for_the_run_before(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.walk()
    monkeypatch.setenv("KILL", "7")
    with pytest.raises(StageError):
        house.walk(stages=Range(7, 7, explicit=True))
    monkeypatch.delenv("KILL")
    assert house.walk() == [7]


def test_what_was_begun_is_kept_unless_it_belongs_to_another_configuration(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = house.base / "exp/hs/checkpoints/last.pt"
    monkeypatch.setenv("FAIL", "7")
    for overrides, stages, kept in (
        ([], Range(), True),
        ([], Range(7, 7, explicit=True), True),
        ([], Range(7, 7, anew=True), False),
        (["pretrain.hs.steps=7"], Range(), False),
    ):
        with pytest.raises(StageError, match="exit status 1"):
            house.walk(stages=Range())
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text("step 100")
        with pytest.raises(StageError, match="exit status 1"):
            house.walk(*overrides, stages=stages)
        assert (checkpoint.exists()) is kept, (overrides, stages)


def test_probe_runs_survive_a_grid_that_grows_but_not_a_forced_one(house: House) -> None:
    house.walk()
    run = house.base / "exp/probes/ser_light/fbank/seed0/predictions.csv"
    run.parent.mkdir(parents=True)
    run.write_text("")
    assert house.walk("tasks.ser.seeds=[0,1]") == [11, 13]
    assert run.exists()
    assert house.walk("tasks.ser.seeds=[0,1]", stages=Range(11, 11, explicit=True)) == [11]
    assert not run.exists()


def test_every_stage_writes_command_configuration_and_log(house: House) -> None:
    house.walk(stages=Range(1, 3))
    logs = house.base / "exp/logs"
    assert (logs / "stage_03.command").read_text().startswith("./run.sh")
    assert "--stage 3 --stop_stage 3" in (logs / "stage_03.command").read_text()
    assert '"steps"' in (logs / "stage_03.json").read_text()
    assert (logs / "stage_03.log").exists()


def test_what_goes_on_is_what_was_started() -> None:
    """With the options: without them something else would be made, and what there is set aside."""
    given = ["--recipe", "mini", "--exp", "my exp", "--set", "pretrain.hs.steps=9"]
    parsed = _parser().parse_args(["run", *given, "--stage", "3"])
    assert _job(parsed).again == "./run.sh --recipe mini --exp 'my exp' --set pretrain.hs.steps=9"
    called = _parser().parse_args(["run", *given, "--called", "egs/mini/ssl1/run.sh"])
    assert _job(called).again == "egs/mini/ssl1/run.sh with the same options"


def test_a_failing_stage_shows_its_message_and_its_log(
    house: House, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("FAIL", "2")
    with pytest.raises(StageError, match=r"stage 2 .*exit status 1.*stage_02\.log.*goes on from here"):
        house.walk()
    assert b"no such luck" in (house.base / "exp/logs/stage_02.log").read_bytes()
    assert b"no such luck" in capfdbinary.readouterr().out


def test_two_runs_on_one_recipe_are_refused(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "exp/.stamps"
    code = (
        "import sys, time; from pathlib import Path; from egs.pipeline.stamps import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, folder], cwd=root, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(RecipeLocked, match=f"in use by process {other.pid}"), locked(folder):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        with locked(folder):
            assert (folder / "lock").read_text() == f"{os.getpid()}\n"


def test_a_stage_dies_with_its_run(root: Path) -> None:
    """kill -9 of run.sh must not leave a stage at work that the next run would meet."""
    if sys.platform != "linux":
        pytest.skip("the parent-death signal is Linux's")
    stage_code = (
        "import time; from egs.pipeline.run import die_with_parent; die_with_parent(); "
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
    pytest.fail("the stage lives on")


def test_a_damaged_stamp_counts_as_none(tmp_path: Path) -> None:
    stamps = StampFolder(tmp_path)
    stamps.begin(3, "abc")
    assert stamps.begun(3) == "abc" and stamps.read(3) is None
    stamps.finish(3, Stamp("abc", "result", ("a",), "now", 1.0))
    assert stamps.begun(3) is None and stamps.read(3) == Stamp("abc", "result", ("a",), "now", 1.0)
    (tmp_path / "stage_03.json").write_text('{"digest": "abc"')
    assert stamps.read(3) is None
    (tmp_path / "stage_03.json").write_text('{"digest": "abc"}')
    assert stamps.read(3) is None


def test_complete_means_the_same_digest_and_all_outputs(tmp_path: Path) -> None:
    made, stamp = tmp_path / "made", Stamp("abc", "result", (), "now", 1.0)
    made.write_text("")
    assert why_incomplete(stamp, "abc", [made]) is None
    assert why_incomplete(None, "abc", [made]) == "not finished yet"
    assert why_incomplete(stamp, "abd", [made]) == "its configuration or inputs changed"
    assert "is missing" in (why_incomplete(stamp, "abc", [made, tmp_path / "other"]) or "")


def test_content_digest_sees_text_and_audio(tmp_path: Path) -> None:
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


def test_stage_1_deletes_nothing_that_it_did_not_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(load_recipe("mini"), tmp_path / "data" / "mini", tmp_path / "exp" / "mini")
    job.data.mkdir(parents=True)
    (job.data / "recording.wav").write_bytes(b"years of work")
    with pytest.raises(StageError, match="holds files that no run.sh made"):
        _claim_data(job, "digest")
    (job.data / "recording.wav").unlink()
    _claim_data(job, "digest")
    (job.data / "made").write_text("by stage 1")
    _claim_data(job, "another digest")
    other = dataclasses.replace(job, exp=tmp_path / "other" / "mini")
    with pytest.raises(StageError, match="was made for .*exp/mini; use another --data"):
        _claim_data(other, "digest")
    for variable in ("ARABIC_SPEECH_COMMANDS", "EVERYAYAH", "FREE_SPOKEN_DIGITS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("BAVED", str(job.data / "raw" / "BAVED"))
    with pytest.raises(StageError, match="BAVED=.* lies inside"):
        _claim_data(dataclasses.replace(job, recipe=load_recipe("open_arabic")), "digest")


def test_what_a_recipe_makes_besides_is_walked_once_and_by_itself(house: House) -> None:
    """A further student: its change redoes itself and what reads it, and never the students of the stage it is in."""
    low = ["units.low.source=hl_it2", "pretrain.hst_low.geometry=hst", "pretrain.hst_low.units=[low]"]
    job = house.job(*low)
    plan = {
        str(this.place): {
            "needs": [],
            "settings": json.dumps(this.settings(job)),
            "outputs": [str(path) for path in this.outputs(job)],
            "content": [str(path) for path in this.content(job)],
        }
        for this in stages_of(job.recipe)
    }

    def walk(*overrides: str, stages: Range | None = None, places: set[int | str] | None = None) -> list[int | str]:
        job = house.job(*low, *overrides)
        for this in stages_of(job.recipe):
            plan[str(this.place)]["settings"] = json.dumps(this.settings(job))
        (house.base / "plan.json").write_text(json.dumps(plan))
        child = [sys.executable, "-S", str(house.base / "fake.py"), str(house.base)]
        return Walk(job).run(stages or Range(), child, places)

    assert walk(places={1, 2, 3, 4, 5, "low"}) == [1, 2, 3, 4, 5, "low"]
    assert walk() == [6, 7, 8, "hst_low", *range(9, 14)]
    # The fake work of stage 9 gives the same whatever it reads, so that later stages stay complete.
    assert walk() == []
    assert walk("pretrain.hst_low.steps=7") == ["hst_low", 9]
    changed = ("pretrain.hst_low.steps=7", "units.low.k=50")
    assert walk(*changed) == ["low", "hst_low"]
    assert walk(*changed, stages=Range(8, 8, explicit=True)) == ["low", 8, "hst_low"]
