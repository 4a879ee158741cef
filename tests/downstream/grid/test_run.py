"""The grid: every cell once, complete cells kept, failed ones reported without harm to the others."""

from __future__ import annotations

import csv
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from corpora.files import only_writer, read_json
from downstream.__main__ import main
from downstream.grid import run as benchmark
from downstream.grid.plan import Grid, Part, Settings
from downstream.score import results

SIZES = {"train": 18, "dev": 6, "test": 6}
FAST = {"problem.train.total_steps": 20, "problem.train.eval_step": 10, "learning_rates": [1e-2]}


@pytest.fixture
def data(make_set: Callable[..., Path]) -> Path:
    return make_set("ser", SIZES).parent


def grid(data: Path, exp: Path, models: Path, **changes: object) -> None:
    options = {
        "task": "ser",
        "recipe": "toy",
        "data_dir": data,
        "exp_dir": exp,
        "upstreams": ["fbank", "tiny_a"],
        "models_dir": models,
        "seeds": [0, 1],
        "overrides": FAST,
        "jobs": 1,
        "device": "cpu",
    }
    benchmark.run(**{**options, **changes})


def stable(path: Path) -> list[dict[str, str]]:
    """Rows without their time."""
    return [{**row, "wall_s": ""} for row in results.read_rows(path)]


@pytest.mark.slow
def test_a_grid_its_rows_and_run_directories(
    data: Path, tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    exp = tmp_path / "exp"
    exp.mkdir()
    (exp / "compression.csv").write_text(
        "upstream,front_end,iteration,params_m,macs_g_per_s,delta_s,rtf_cpu\ntiny_a,logmel,1,0.1,0.2,,0.003\n"
    )
    grid(data, exp, tiny_models, upstreams=["fbank", "tiny_a", "harness_l"])
    assert "left out: harness_l:" in capsys.readouterr().err
    rows = results.read_rows(exp / "results.csv")
    assert len(rows) == 2 * 2 * 3  # upstreams, seeds, metrics
    row = next(r for r in rows if r["upstream"] == "tiny_a" and r["metric"] == "ua" and r["seed"] == "1")
    assert (row["task"], row["split"], row["n"], row["fold"], row["finetune"]) == ("ser", "test", "6", "", "probe")
    assert (row["params_m"], row["front_end"], row["head"], row["lr"]) == ("0.1", "logmel", "linear256", "0.01")
    assert row["protocol"].startswith("light@") and len(row["protocol"]) == 14
    assert 0 <= float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"]) <= 1
    run_dir = Path(row["run_dir"])
    assert run_dir == exp / "probes" / "ser_light" / "tiny_a" / "seed1"
    assert {p.name for p in run_dir.iterdir()} == {
        "command", "config.yaml", "log", "predictions.csv", "curve.csv", "layer_weights.json", "scores.csv",
        "confusion_test.csv", "cell.json", "head",
    }  # fmt: skip
    predictions = results.read_predictions(run_dir / "predictions.csv")
    assert len(predictions) == 6
    share = sum(p.reference == p.hypothesis for p in predictions) / 6
    wa = next(r for r in rows if r["run_dir"] == row["run_dir"] and r["metric"] == "wa")
    assert float(wa["value"]) == pytest.approx(share, abs=1e-5)


def test_lines_appear_once_where_the_log_is_shown_too(
    data: Path, tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    with pytest.raises(benchmark.BenchmarkError, match="harness_l"):
        grid(data, tmp_path / "exp", tiny_models, upstreams=["harness_l"])
    assert (capsys.readouterr().err + caplog.text).count("left out: harness_l:") == 1


def test_a_cell_reports_its_share_of_the_extraction(
    data: Path, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Extraction is slowed down: the first run reports its time, the second finds stored features."""
    from downstream.probe.probe import UpstreamExtractor

    extract = UpstreamExtractor.__call__

    def slow(self: UpstreamExtractor, waves: list) -> list:
        time.sleep(0.2)
        return extract(self, waves)

    monkeypatch.setattr(UpstreamExtractor, "__call__", slow)
    cells = {}
    for seed in (0, 1):
        begin = time.time()
        grid(data, tmp_path / "exp", tiny_models, upstreams=["tiny_a"], seeds=[seed])
        run = tmp_path / "exp" / "probes" / "ser_light" / "tiny_a" / f"seed{seed}"
        cells[seed] = cell = read_json(run / "cell.json")
        assert cell["grid"]["processes"] == 1 and begin <= cell["grid"]["started"]
        assert cell["extraction_s"] < cell["grid"]["wall_s"] <= time.time() - begin
    assert cells[1]["extraction_s"] < 0.2 < cells[0]["extraction_s"]
    assert float(cells[0]["rows"][0]["wall_s"]) > cells[0]["extraction_s"]


def test_complete_cells_are_kept_and_lost_rows_restored(data: Path, tiny_models: Path, tmp_path: Path):
    exp = tmp_path / "exp"
    grid(data, exp, tiny_models)
    before = (exp / "results.csv").read_bytes()
    times = {p: p.stat().st_mtime_ns for p in exp.rglob("cell.json")}
    grid(data, exp, tiny_models)
    assert {p: p.stat().st_mtime_ns for p in exp.rglob("cell.json")} == times
    (exp / "results.csv").unlink()
    grid(data, exp, tiny_models)
    assert (exp / "results.csv").read_bytes() == before
    # a cell that was cut off before its last file is run again and ends as it did
    (exp / "probes" / "ser_light" / "fbank" / "seed1" / "cell.json").unlink()
    old = stable(exp / "results.csv")
    grid(data, exp, tiny_models)
    assert stable(exp / "results.csv") == old


def test_another_protocol_or_label_runs_again(data: Path, tiny_models: Path, tmp_path: Path):
    exp = tmp_path / "exp"
    grid(data, exp, tiny_models, upstreams=["fbank"], seeds=[0])
    cell = exp / "probes" / "ser_light" / "fbank" / "seed0" / "cell.json"
    first = read_json(cell)["key"]
    grid(data, exp, tiny_models, upstreams=["fbank"], seeds=[0], overrides={**FAST, "learning_rates": [1e-3]})
    second = read_json(cell)["key"]
    rows = results.read_rows(exp / "results.csv")
    assert len(rows) == 3 and {r["lr"] for r in rows} == {"0.001"}  # no rows without predictions
    labels = data / "ser" / "test" / "utt2emotion"
    labels.write_text(labels.read_text(encoding="utf-8").replace("sad", "calm"), encoding="utf-8")
    grid(data, exp, tiny_models, upstreams=["fbank"], seeds=[0], overrides={**FAST, "learning_rates": [1e-3]})
    assert len({first, second, read_json(cell)["key"]}) == 3


def test_folds(make_set: Callable[..., Path], tiny_models: Path, tmp_path: Path):
    base = make_set("ser", SIZES)
    folder = tmp_path / "folded" / "ser"
    for fold in (1, 2):
        (folder / f"fold{fold}").mkdir(parents=True)
        for split in SIZES:
            (folder / f"fold{fold}" / split).symlink_to(base / split)
    grid(folder.parent, tmp_path / "exp", tiny_models, upstreams=["fbank"], seeds=[0], folds=2)
    rows = results.read_rows(tmp_path / "exp" / "results.csv")
    assert {(r["fold"], Path(r["run_dir"]).name) for r in rows} == {("1", "seed0_fold1"), ("2", "seed0_fold2")}
    with pytest.raises(ValueError, match="fold3"):
        grid(folder.parent, tmp_path / "exp", tiny_models, folds=3)


def test_a_broken_upstream_fails_alone(data: Path, tiny_models: Path, tmp_path: Path):
    import shutil

    from safetensors.torch import load_file, save_file

    models = tmp_path / "models"
    shutil.copytree(tiny_models, models)
    weights = models / "tiny_b" / "model.safetensors"
    state = load_file(weights)
    state = {k: v * float("nan") if "final_layer_norm" in k else v for k, v in state.items()}
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(benchmark.BenchmarkError, match="2 of 4 .*tiny_b.*NaN"):
        grid(data, tmp_path / "exp", models, upstreams=["tiny_b", "fbank"])
    assert {r["upstream"] for r in results.read_rows(tmp_path / "exp" / "results.csv")} == {"fbank"}


def test_no_upstream_no_task_no_seed(data: Path, tiny_models: Path, tmp_path: Path):
    with pytest.raises(benchmark.BenchmarkError, match="harness_l, harness_s"):
        grid(data, tmp_path / "exp", tiny_models, upstreams=["harness_l", "harness_s"])
    with pytest.raises(benchmark.BenchmarkError, match="fbank"):
        grid(data, tmp_path / "exp", tiny_models, upstreams=["fbank", "fbank"])
    with pytest.raises(ValueError, match="did: .* --tasks"):
        grid(data, tmp_path / "exp", tiny_models, task="did")
    with pytest.raises(benchmark.BenchmarkError, match="seeds"):
        grid(data, tmp_path / "exp", tiny_models, seeds=[])


COMMAND = ["benchmark", "--recipe", "toy", "--upstreams", "fbank,tiny_a", "--tasks", "ser", "--device", "cpu"]
FAST_OPTIONS = [f"--set={key}={value}" for key, value in FAST.items()]


@pytest.mark.parametrize(
    "case",
    [
        (["--sede=1"], "--sede", "`--seeds`"),
        (["--verbose"], "--verbose\n"),
        (["--tasks", "asr,sre"], "--tasks", "`sre`", "`ser`"),
        (["--tasks", "speech"], "--tasks", "`speech` (known: asr, ser, did)"),
        (["--seeds", "one"], "`one`"),
        (["--set", "min_mss=3"], "`min_ms`"),
        (["--set", "problem.train.colour=3"], "ser/light", "`problem.train.colour`\n"),
        (["--finetune", "adapters"], "`adapters` (known:"),
        (["--finetune", "top2"], "`top2`", "`top-2`"),
        (["--protocol", "heavy"], "ser `heavy`"),
        (["--folds", "x"], "--folds"),
        (["--upstreams", "fbank,xlsr=/no/where"], "xlsr:", "/no/where"),
    ],
)
def test_errors_of_the_command_are_one_line(case: tuple, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    arguments, *tokens = case
    assert main([*COMMAND, "--data", str(data), "--exp", str(tmp_path / "exp"), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("downstream: error:") and all(token in f"{error}\n" for token in tokens)
    assert not (tmp_path / "exp").exists()


@pytest.mark.slow
def test_a_killed_process_fails_its_own_cells_only(data: Path, tiny_models: Path, tmp_path: Path):
    """Two processes, three upstreams: one process is killed, and a new one takes the third upstream."""
    from downstream.upstreams import resolve

    set_of = Grid(("ser",), "toy", data, tmp_path / "exp", seeds=(0,), overrides=FAST)
    upstreams = [resolve(name, tiny_models) for name in ("tiny_a", "tiny_b", "fbank")]
    work = [(upstream, tuple(set_of.cells(upstream, set_of.sets()))) for upstream in upstreams]
    settings = Settings("toy", tmp_path / "exp", "cpu", "command", time.time())
    events = []
    for event in benchmark.run_jobs(work, settings, 2):
        if not events:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        events.append(event)
    failed = [event for event in events if event.kind == "failed"]
    assert [event.cells for event in failed] == [1] and "-9" in failed[0].text
    names = {event.rows[0]["upstream"] for event in events if event.kind == "rows"}
    assert len(names) == 2 and failed[0].text.partition(":")[0] not in names


@pytest.mark.slow
def test_a_killed_run_of_two_processes_resumes_to_the_same_table(
    data: Path, tiny_models: Path, root: Path, tmp_path: Path
):
    exp = tmp_path / "exp"
    seeds = range(20)
    killed = subprocess.Popen(
        [sys.executable, "-m", "downstream", *COMMAND, "--data", data, "--models", tiny_models, "--exp", exp]
        + ["--seeds", ",".join(map(str, seeds)), "--jobs", "2", *FAST_OPTIONS],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (exp / "results.csv").is_file() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(3)  # its processes notice the death of their parent and end
    done = {p: p.stat().st_mtime_ns for p in exp.rglob("cell.json")}
    assert 0 < len(done) < 40
    time.sleep(1)
    assert {p: p.stat().st_mtime_ns for p in exp.rglob("cell.json")} == done
    grid(data, exp, tiny_models, seeds=seeds)
    assert {p: p.stat().st_mtime_ns for p in done} == done
    grid(data, tmp_path / "whole", tiny_models, seeds=seeds)
    drop = {"run_dir": "", "commit": ""}
    whole = stable(tmp_path / "whole" / "results.csv")
    assert [r | drop for r in stable(exp / "results.csv")] == [r | drop for r in whole]


def test_rows_of_older_weights_leave_the_table(data: Path, tiny_models: Path, tmp_path: Path):
    """Seed 1 of the old weights must not be averaged with seed 0 of the new weights; valid rows stay."""
    exp, models = tmp_path / "exp", tmp_path / "models"
    shutil.copytree(tiny_models / "tiny_a", models / "m")
    grid(data, exp, models, upstreams=["m", "fbank"])
    shutil.rmtree(models / "m")
    shutil.copytree(tiny_models / "tiny_b", models / "m")
    grid(data, exp, models, upstreams=["m", "fbank"], seeds=[0])
    left = {(row["upstream"], row["seed"]) for row in results.read_rows(exp / "results.csv")}
    assert left == {("m", "0"), ("fbank", "0"), ("fbank", "1")}


def test_parts_fill_one_table(data: Path, tiny_models: Path, tmp_path: Path):
    """Two array jobs at once: every row once, none lost."""
    from concurrent.futures import ThreadPoolExecutor

    whole = tmp_path / "whole"
    grid(data, whole, tiny_models)
    exp = tmp_path / "exp"
    for index in (1, 2):
        grid(data, exp, tiny_models, part=Part(index, 2))
    drop = {"run_dir": "", "commit": ""}
    assert [r | drop for r in stable(exp / "results.csv")] == [r | drop for r in stable(whole / "results.csv")]
    rows = results.read_rows(whole / "results.csv")
    path = tmp_path / "table.csv"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: results.upsert(path, [row | {"run_dir": row["run_dir"] + row["metric"]}]), rows))
    assert len(results.read_rows(path)) == len(rows)


_PLAN = """
import sys
from downstream.__main__ import main

def heavy(names):
    return sorted(names & {name.partition(".")[0] for name in sys.modules})

for arguments in (["--help"], ["benchmark", "--help"], ["transcribe", "--help"]):
    try:
        main(arguments)
    except SystemExit:
        pass
print("help imports", heavy({"s3prl", "espnet2", "nltk", "torch", "transformers"}))
print("status", main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_writes_nothing(
    data: Path, make_set: Callable[..., Path], tiny_models: Path, root: Path, tmp_path: Path
):
    """In a process of its own: help must not wait for the import of S3PRL or PyTorch."""
    make_set("asr", SIZES)
    exp = tmp_path / "exp"
    command = [*COMMAND, "--data", data, "--models", tiny_models, "--exp", exp, "--finetune=probe,lora-2", "--dry_run"]
    command[command.index("--tasks") + 1] = "ser,asr"
    command[command.index("--upstreams") + 1] = "fbank,tiny_a,hubert_base"
    environment = {k: v for k, v in os.environ.items() if k != "HARNESS_BASELINES"} | {"HARNESS_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _PLAN, *command], cwd=root, env=environment, capture_output=True, text=True, timeout=300
    )
    printed = done.stdout
    assert "help imports []" in printed and "status 0" in printed, done.stderr
    assert re.search(r"\b0 .*\b24\b", printed)  # fbank has no weights to tune
    assert re.search(r"tiny_a +12 +[\d.]+ [kM]B +[\d.]+ \w+ +[\d.]+ \w+", printed), printed
    assert re.search(r"fbank +6 +[\d.]+ [kM]B +[\d.]+ \w+ +[\d.]+ \w+", printed), printed
    assert re.search(r"hubert_base +6 +\? +\? +\?", printed) and re.search(r": hubert_base;", printed)
    assert re.search(r"disk: [\d.]+ [kM]B of features, [\d.]+ GB free", printed)
    assert not exp.exists()


@pytest.mark.slow
def test_features_that_do_not_fit_are_computed_at_every_step(
    data: Path, tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    grid(data, tmp_path / "stored", tiny_models, upstreams=["tiny_a"])
    grid(data, tmp_path / "streams", tiny_models, upstreams=["tiny_a"], cache_gb=1e-6)
    assert re.search("--cache_gb .*1.0 kB", capsys.readouterr().err)
    assert not list((tmp_path / "streams" / "cache").glob("*/*/[!.]*/keys.json"))
    drop = {"run_dir": "", "commit": ""}
    tables = [[r | drop for r in stable(tmp_path / x / "results.csv")] for x in ("stored", "streams")]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_fine_tuning_and_budgets_have_rows_of_their_own(data: Path, tiny_models: Path, tmp_path: Path):
    exp = tmp_path / "exp"
    grid(data, exp, tiny_models, upstreams=["fbank", "tiny_a"], seeds=[0], finetune=["probe", "top-1"],
         budgets=["0.5", "all"])  # fmt: skip
    rows = {(r["upstream"], r["finetune"], r["budget"]) for r in results.read_rows(exp / "results.csv")}
    kinds = {("tiny_a", f, b) for f in ("probe", "top-1") for b in ("0.5", "")}
    assert rows == kinds | {("fbank", "probe", "0.5"), ("fbank", "probe", "")}
    delta = exp / "probes" / "ser_light_top-1_0.5" / "tiny_a" / "seed0" / "head" / "delta.safetensors"
    assert delta.is_file()


def test_the_files_of_a_run_directory(make_set: Callable[..., Path], tiny_models: Path, tmp_path: Path):
    data = make_set("did", SIZES).parent
    exp = tmp_path / "exp"
    grid(data, exp, tiny_models, task="did", upstreams=["tiny_a"], seeds=[0], overrides={
        **FAST, "learning_rates": [1e-3, 1e-2], "problem.train.log_step": 5, "duration_bins_s": [0.425],
    })  # fmt: skip
    rows = {r["metric"]: r for r in results.read_rows(exp / "results.csv")}
    assert set(rows) == {"accuracy", "macro_f1", "ua", "cavg", "accuracy_under_0.425s", "accuracy_over_0.425s"}
    assert int(rows["accuracy_under_0.425s"]["n"]) + int(rows["accuracy_over_0.425s"]["n"]) == 6
    run_dir = Path(rows["ua"]["run_dir"])
    weights = read_json(run_dir / "layer_weights.json")
    assert sum(weights["weights"]) == pytest.approx(1, abs=1e-5) and weights["layers"] == [0, 1, 2]
    with open(run_dir / "curve.csv", encoding="utf-8", newline="") as stream:
        curve = list(csv.DictReader(stream))
    assert [(c["lr"], c["step"]) for c in curve] == [(lr, str(s)) for lr in ("0.001", "0.01") for s in (5, 10, 15, 20)]
    assert all(c["train_loss"] for c in curve)
    assert [c["dev"] != "" for c in curve] == [False, True, False, True] * 2
    chosen = read_json(run_dir / "cell.json")["dev"]
    assert set(chosen) == {"0.001", "0.01"}
    best = max(float(c["dev"]) for c in curve if c["dev"] and c["lr"] == f"{float(rows['ua']['lr']):g}")
    assert best == pytest.approx(max(chosen.values()), abs=1e-5)
    predictions = results.read_predictions(run_dir / "predictions.csv")
    with open(run_dir / "confusion_test.csv", encoding="utf-8", newline="") as stream:
        table = {row.pop("said"): {k: int(v) for k, v in row.items()} for row in csv.DictReader(stream)}
    assert sum(sum(row.values()) for row in table.values()) == 6
    assert sum(table[label][label] for label in table) == sum(p.reference == p.hypothesis for p in predictions)
    with open(run_dir / "scores.csv", encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            posteriors = {label: float(row[label]) for label in table}
            assert sum(math.exp(v) for v in posteriors.values()) == pytest.approx(1, abs=1e-3)
            said = next(p.hypothesis for p in predictions if p.utt_id == row["utt_id"])
            assert said == max(posteriors, key=posteriors.get)


@pytest.mark.slow
def test_short_runs_choose_the_rate_once_for_all_seeds(
    make_set: Callable[..., Path], tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from downstream.probe.train import Trainer

    data = make_set("asr", SIZES).parent
    exp = tmp_path / "exp"
    tried: list[tuple] = []
    real = Trainer.train

    def counted(self: object, lr: float, seed: int, folder: Path, conf: dict | None = None) -> object:
        tried.append((lr, seed, (conf or self.conf)["train"]["total_steps"]))
        return real(self, lr, seed, folder, conf)

    monkeypatch.setattr(Trainer, "train", counted)
    small = {
        "learning_rates": [1e-9, 3e-3],
        "problem.train.total_steps": 40,
        "problem.train.eval_step": 40,
        "problem.build_downstream.model_conf.hidden_size": [16],
    }
    for _ in range(2):
        grid(data, exp, tiny_models, task="asr", upstreams=["tiny_a"], overrides=small)
    lrs = {float(row["lr"]) for row in results.read_rows(exp / "results.csv")}
    assert len(lrs) == 1
    chosen = lrs.pop()
    assert tried == [(1e-9, 0, 10), (3e-3, 0, 10), (chosen, 0, 40), (chosen, 1, 40)]
    dev = read_json(exp / "probes" / "asr_light" / "tiny_a" / "search" / "search.json")["dev"]
    assert read_json(exp / "probes" / "asr_light" / "tiny_a" / "seed1" / "cell.json")["dev"] == dev


@pytest.mark.parametrize("content", ["", "[]", '{"key": 1}'])
@pytest.mark.slow
def test_a_damaged_record_of_a_cell_is_named_and_the_cell_runs_again(
    data: Path, tiny_models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
):
    grid(data, tmp_path / "exp", tiny_models, upstreams=["fbank"])
    before = stable(tmp_path / "exp" / "results.csv")
    first, second = (
        tmp_path / "exp" / "probes" / "ser_light" / "fbank" / f"seed{seed}" / "cell.json" for seed in (0, 1)
    )
    kept = second.stat().st_mtime_ns
    first.write_text(content)
    grid(data, tmp_path / "exp", tiny_models, upstreams=["fbank"])
    assert stable(tmp_path / "exp" / "results.csv") == before and second.stat().st_mtime_ns == kept
    assert read_json(first)["rows"] and (str(first) in caplog.text or content.startswith("{"))


def test_a_cell_that_another_command_trains_fails_alone_and_says_why(
    data: Path, tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    run_dir = tmp_path / "exp" / "probes" / "ser_light" / "fbank" / "seed0"
    with (
        only_writer(run_dir),
        pytest.raises(benchmark.BenchmarkError, match=f"seed0 is in use by process {os.getpid()}"),
    ):
        grid(data, tmp_path / "exp", tiny_models, upstreams=["fbank"])
    assert {row["seed"] for row in results.read_rows(tmp_path / "exp" / "results.csv")} == {"1"}
    assert not list(tmp_path.rglob(".seed*.lock"))
