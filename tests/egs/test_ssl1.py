"""Every ssl1 recipe: links to the template, a command line that egs accepts, and one run for real, on two processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora import registry
from corpora.files import CorpusError
from egs.__main__ import command_line
from egs.pipeline.recipe import load_recipe
from egs.pipeline.run import CHANGED, Range, Runner
from egs.pipeline.stages import Stage
from egs.pipeline.work import Job

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.parent for path in ROOT.glob("egs/*/ssl1/run.sh"))
SCHEDULES = sorted(ROOT.glob("egs/*/ssl1/conf/*.yaml"))
LINKS = {"ssl.sh": "TEMPLATE/ssl1/ssl.sh", **{name: f"TEMPLATE/{name}" for name in ("path.sh", "cmd.sh", "db.sh")}}

TINY = """
corpora:
  module: ssl
  prepare:
    common_voice: {splits: [train, dev], text_profile: none}
    librispeech: {parts: [train-clean-5]}
  options:
    sets: [common_voice/train, librispeech/train-clean-5]
    held_out: [common_voice/dev]
    dev_share: 0.2
    min_seconds: 0.1
shards: {minutes: 0.2}
family:
  hl: {geometry: mini_hl, layers: 2, width: 32, heads: 2, ffn: 64, pos_conv_groups: 4, pos_conv_kernel: 8}
  hs: {geometry: mini_hl, layers: 1, width: 32, heads: 2, ffn: 64, pos_conv_groups: 4, pos_conv_kernel: 8}
  hst: {geometry: mini_hl, layers: 1, width: 16, heads: 2, ffn: 32, pos_conv_groups: 4, pos_conv_kernel: 8}
units:
  common: {k: 8}
  it1: {source: mfcc}
  it2: {source: hl_it1, layer: 1}
  student: {source: hl_it2, layer: 1, pca: 8}
pretrain:
  common: {steps: 6, batch_seconds: 4.0, crop_seconds: 2.0, valid_every: 3, precision: fp32, compile: "off"}
  hl_it1: {init: {kind: random}}
  hl_it2: {init: {kind: model, source: hl_it1}}
  hs: {init: {kind: every_nth, source: hl_it2}}
  hst: {init: {kind: project, source: hl_it2, minutes: 0.1}}
tasks: {}
upstreams: []
"""
MODEL = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md")
MADE = [
    *(f"data/tiny/ssl/{split}/{name}" for split in ("train", "dev") for name in ("wav.scp", "utt2lang", "sources.tsv")),
    *(f"data/tiny/{name}" for name in ("summary.json", "excluded.tsv")),
    *(f"data/{name}/summary.json" for name in ("common_voice", "librispeech")),
    *(f"exp/tiny/units/{units}/{name}" for units in ("it1", "it2", "student")
      for name in ("codebook.safetensors", "train.bin", "train.json", "dev.bin", "dev.json", "report.json")),
    *(f"exp/tiny/{run}/{name}" for run in ("hl_it1", "hl_it2", "hs", "hst") for name in ("metrics.csv", "config.json")),
    *(f"exp/tiny/models/{model}/{name}"
      for model in ("harness_l_it1", "harness_l", "harness_s", "harness_st", "random_l") for name in MODEL),
    *(f"exp/tiny/shards/{name}" for name in ("train.json", "train/recording.000000.tar", "train/units.000000.tar")),
    "exp/tiny/compression.csv",
]  # fmt: skip


def _noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal(2 * 16000)
    soundfile.write(path, samples, 16000)


def _common_voice(root: Path) -> Path:
    """Clips of their own speakers; sentences with diacritics, lists with Windows line ends."""
    for split, clips in (("train", range(10)), ("dev", range(10, 12))):
        rows = ["client_id\tpath\tsentence"]
        for clip in clips:
            _noise(root / "ar/clips" / f"c{clip}.wav", clip)
            rows.append(f"{clip:016x}\tc{clip}.wav\tقَالَ الوَلَدُ كلامًا {'ابتثجحخدذرزس'[clip]}")
        (root / "ar" / f"{split}.tsv").write_text("\r\n".join(rows) + "\r\n", encoding="utf-8", newline="")
    return root


def _librispeech(root: Path) -> Path:
    for chapter in range(5):
        folder = root / "train-clean-5" / str(10 + chapter) / "1"
        names = [f"{10 + chapter}-1-{number:04d}" for number in range(2)]
        for number, name in enumerate(names):
            _noise(folder / f"{name}.flac", 100 + 10 * chapter + number)
        text = "".join(f"{name} THE WORDS OF {name[-1]} AND {chapter}\n" for name in names)
        (folder / f"{10 + chapter}-1.trans.txt").write_text(text)
    return root


def _run_words(lines: list[str]) -> list[str]:
    [line] = lines
    words = shlex.split(line)
    assert words[:3] == ["-m", "egs", "run"]
    return words[2:]


def test_there_are_recipes() -> None:
    assert {"harness", "mini", "open_arabic"} <= {recipe.parent.name for recipe in RECIPES}
    assert {"ssl_8gpu.yaml", "ssl_1gpu.yaml"} <= {path.name for path in SCHEDULES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_every_recipe_runs_all_stages(recipe: Path, call, calls) -> None:
    for name, target in LINKS.items():
        if name == "db.sh" and not (recipe / name).exists():
            continue
        assert (recipe / name).is_symlink() and (recipe / name).resolve() == ROOT / "egs" / target
    done = call(recipe)
    assert done.returncode == 0, done.stderr
    args = command_line().parse_args(_run_words(calls(done)))
    assert (args.recipe, args.stage, args.stop_stage, args.jobs) == (recipe.parent.name, None, 9, 4)
    assert (args.data, args.exp, args.called) == (ROOT / "data", ROOT / "exp", f"egs/{recipe.parent.name}/ssl1/run.sh")
    schedule = load_recipe(args.recipe, config=args.config)
    names = {registry.load(name).INFO.variable for name in schedule.corpora.prepare} | {*schedule.corpora.sources}
    if names:
        listed = re.findall(r"^([A-Z0-9_]+)=\$\{\1:-\}", (recipe / "db.sh").read_text(), re.MULTILINE)
        assert names <= set(listed)


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda path: path.name)
def test_every_schedule_trains_the_family_without_what_is_scored(path: Path) -> None:
    schedule = load_recipe(path.parents[2].name, config=path)
    assert {name: g.name for name, g in schedule.family.items()} == {"hl": "hl", "hs": "hs", "hst": "hst"}
    options = schedule.corpora.options
    corpora = {name: registry.load(name).INFO for name in schedule.corpora.prepare}
    used = [entry.split("/") for entry in options["sets"]]
    assert {corpus for corpus, _ in used} == set(corpora)
    assert {language for info in corpora.values() for language in info.languages} == {"ar", "en"}
    assert not any("dev" in split or "test" in split for _, split in used)
    for name, info in corpora.items():
        scored = {split for split in info.published if ("dev" in split or "test" in split) and split != "dev-clean-2"}
        assert {f"{name}/{split}" for split in scored} <= set(options["held_out"])


def test_options_reach_the_command(call, calls, tmp_path: Path) -> None:
    done = call(
        ROOT / "egs/harness/ssl1", "--config=conf/ssl_1gpu.yaml", "--stage", "2", "--stop-stage", "5", "--force",
        "--jobs", "2", "--ranks", "3", "--data", str(tmp_path / "my data"), "--exp", "../exp",
        "--set", "pretrain.hs.steps=7",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    args = command_line().parse_args(_run_words(calls(done)))
    assert (args.stage, args.stop_stage, args.force, args.jobs) == (2, 5, True, 2)
    assert args.config == ROOT / "egs/harness/ssl1/conf/ssl_1gpu.yaml"
    assert args.data == tmp_path / "my data" and args.exp == ROOT / "egs/harness/exp"
    assert args.set == ["pretrain.hs.steps=7"] and args.prepare_launcher == ""
    assert args.train_launcher == "python -m torch.distributed.run --standalone --nproc_per_node 3"


def test_jobs_go_to_slurm(call, calls) -> None:
    done = call(ROOT / "egs/harness/ssl1", "--ranks", "8", "--num_nodes", "2", cmd_backend="slurm")
    assert done.returncode == 0, done.stderr
    args = command_line().parse_args(_run_words(calls(done)))
    assert args.prepare_launcher.startswith("srun ") and args.prepare_launcher.endswith(" python")
    assert args.train_launcher.startswith("srun ") and args.train_launcher.endswith(" python")
    assert "--nodes 2 --ntasks-per-node 8 --gres gpu:8" in args.train_launcher


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rank", "2"], "--rank "),
        (["--stage", "10"], "0 to 9"),
        (["--ranks", "0"], "--ranks 0"),
        (["--config", "conf/none.yaml"], "no such file"),
        (["--num_nodes", "2"], "needs cmd_backend=slurm"),
    ],
)
def test_an_error_names_the_option(call, arguments: list[str], message: str) -> None:
    done = call(ROOT / "egs/harness/ssl1", *arguments)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("corpora.prepare.mbg2={}", "`corpora.prepare.mbg2`.*`mgb2`"),
        ("corpora.prepare.gigaspeech.subst=L", "subst.*`subset`"),
        ("shards.hours=1", "`shards.hours`"),
    ],
)
def test_a_schedule_that_is_wrong_is_refused(change: str, message: str) -> None:
    path = ROOT / "egs/harness/ssl1/conf/ssl_8gpu.yaml"
    with pytest.raises(CorpusError, match=message):
        load_recipe("harness", [change], config=path)


def test_a_launcher_ends_with_its_run(tmp_path: Path) -> None:
    """torchrun outlives its parent: without care it would keep training beside the next run."""
    launcher = tmp_path / "launcher.sh"
    launcher.write_text(f"echo $$ >{tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 100\n")
    command = [sys.executable, "-m", "egs", "run", "--recipe", "mini", "--data", str(tmp_path / "data"), "--exp"]
    command += [str(tmp_path / "exp"), "--prepare_launcher", f"bash {launcher}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").is_file():
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        run.kill()
    pid, deadline = int((tmp_path / "pid").read_text()), time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").is_file() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, "the launcher is still running"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages 1 to 3 of a tiny schedule through the script: two corpora, units and training on two processes, shards."""
    base = tmp_path_factory.mktemp("ssl1")
    (base / "tiny.yaml").write_text(TINY)
    env = {
        **os.environ, "HARNESS_VENV": sys.prefix, "OMP_NUM_THREADS": "1", "cmd_backend": "local",
        "COMMON_VOICE": str(_common_voice(base / "my corpora/cv")),
        "LIBRISPEECH": str(_librispeech(base / "my corpora/LibriSpeech")),
    }  # fmt: skip
    done = subprocess.run(
        ["./run.sh", "--recipe", "tiny", "--config", str(base / "tiny.yaml"), "--data", str(base / "data"), "--exp",
         str(base / "exp"), "--nj", "1", "--ranks", "2", "--stop_stage", "3"],
        cwd=ROOT / "egs/harness/ssl1", env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    return base


@pytest.mark.slow
def test_two_processes_share_units_and_training(tiny: Path) -> None:
    log = (tiny / "exp/tiny/logs/stage_02.log").read_text()
    assert log.count("fitting k=8") == 1, "one process fits and tells"
    units = json.loads((tiny / "exp/tiny/units/it1/report.json").read_text())
    assert units["splits"]["train"]["utterances"] > 10
    card = json.loads((tiny / "exp/tiny/hl_it1/model/config.json").read_text())["harness"]
    one = 6 * 4.0 / 3600
    assert one * 1.5 < sum(card["hours_shown"].values()) <= 2 * one + 1e-3, "two processes, a batch a step each"
    assert set(card["hours_shown"]) == {"ar", "en"}


@pytest.mark.slow
def test_the_schedule_ends_with_its_models(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other stages in this process, as each new one would import torch again; then every file is there."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    ran = []

    def run(job: Job, stage: Stage, command: list[str]) -> None:
        ran.append((stage.number, command[-1] == "--shards"))
        (stage.write_shards if command[-1] == "--shards" else stage.run)(job)

    schedule = load_recipe("tiny", config=tiny / "tiny.yaml")
    # The folders of the corpora are not named here, which must not matter once they are prepared.
    monkeypatch.delenv("COMMON_VOICE", raising=False)
    job = Job(schedule, tiny / "data/tiny", tiny / "exp/tiny")
    Runner(job, run_command=run).run(Range(last=9), ["python"])
    shards = [(number, first) for number in (5, 7, 8) for first in (True, False)]
    assert ran == [(4, False), *shards[:2], (6, False), *shards[2:], (9, False)]
    assert [name for name in MADE if not (tiny / name).is_file()] == []
    origin = json.loads((tiny / "exp/tiny/shards/train.json").read_text())["units"]
    assert set(origin) == {"student"}, "the labels of the last run"
    held, train, dev = (
        {line.split(maxsplit=1)[1] for line in (tiny / "data" / folder / "wav.scp").read_text().splitlines()}
        for folder in ("common_voice/dev", "tiny/ssl/train", "tiny/ssl/dev")
    )
    assert len(held) == 2 and held.isdisjoint(train | dev) and train.isdisjoint(dev) and len(train | dev) == 20
    assert Runner(job).run(Range(last=9), ["python"]) == []


@pytest.mark.slow
def test_a_changed_data_directory_is_noticed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in (("COMMON_VOICE", "cv"), ("LIBRISPEECH", "LibriSpeech")):
        monkeypatch.setenv(name, str(tiny / "my corpora" / folder))
    job = Job(load_recipe("tiny", config=tiny / "tiny.yaml"), tiny / "data/tiny", tiny / "exp/tiny")
    assert Runner(job).incomplete(1) is None
    text = tiny / "data/librispeech/train-clean-5/text"
    text.write_text(text.read_text() + "another line\n")
    assert Runner(job).incomplete(1) == CHANGED
