"""Every asr1 recipe: its files are links to the template, and its command line reaches every stage."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from corpora import registry

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.parent for path in ROOT.glob("egs/*/asr1/run.sh"))
LINKS = {"asr.sh": "TEMPLATE/asr1/asr.sh", **{name: f"TEMPLATE/{name}" for name in ("path.sh", "cmd.sh", "db.sh")}}


def test_there_are_recipes() -> None:
    assert {"mini", "open_arabic", "everyayah", "mgb2"} <= {recipe.parent.name for recipe in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
@pytest.mark.slow
def test_every_recipe_runs_all_stages(recipe: Path, call, calls, tmp_path: Path) -> None:
    for name, target in LINKS.items():
        if (recipe / name).exists() or name != "db.sh":
            assert (recipe / name).resolve() == ROOT / "egs" / target
    corpus = re.search(r"--corpus (\w+)", (recipe / "run.sh").read_text())[1]
    own_data = (recipe / "local" / "data.sh").is_file()
    variables = {} if own_data else {registry.load(corpus).INFO.variable: "/a corpus"}
    first = "2" if own_data else "1"
    done = call(recipe, "--stage", first, "--exp", str(tmp_path / "exp"), **variables)
    assert done.returncode == 0, done.stderr
    lines = calls(done)
    steps = [words[2] for line in lines if (words := line.split())[1] == "downstream.espnet"]
    sets = steps.count("decode")
    assert sets >= 1
    expected = ["dump"] * (2 + sets) + ["tokens", "config", "shapes", "shapes"]
    assert steps == [*expected, "decode", *["decode"] * (sets - 1), *["score"] * sets, "results"]
    if not own_data:
        assert lines[1].startswith(f"-m corpora {corpus} --corpus /a\\ corpus ")
    for option in ("--base", "--inference_config"):
        for value in re.findall(rf"{option} (\S+)", done.stdout):
            assert (recipe / value).is_file(), value
    log = next((tmp_path / "exp").glob("*/train.log")).read_text()
    assert "downstream.espnet asr_train --ngpu 0" in log and "--resume true" in log


def test_options_reach_their_commands(call, calls, tmp_path: Path) -> None:
    recipe = ROOT / "egs/everyayah/asr1"
    done = call(
        recipe, "--stage=2", "--exp", str(tmp_path), "--upstream", "harness_custom", "--upstream_path",
        "/m/hst", "--finetune", "--token_type", "bpe", "--pieces", "99", "--speeds", "0.9,1", "--set", "max_epoch=3",
        "--jobs", "2",
        "--lm_config", "conf/train_lm.yaml", "--ngpu", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = "\n".join(calls(done))
    assert "--upstream harness_custom --upstream_path /m/hst --finetune" in text and "--set max_epoch=3" in text
    assert "--speeds 0.9\\,1" in text and "--type bpe --pieces 99" in text
    assert "lm_train --ngpu 1 --config conf/train_lm.yaml" in text and "--bpemodel" in text
    assert "--lm_config" in text and "--jobs 2 --gpus 1" in text
    assert (tmp_path / "hst_finetuned_train_asr_ctc_bpe99_sp").is_dir()


def test_espnet_names_of_options_are_aliases(call, calls, tmp_path: Path) -> None:
    recipe = ROOT / "egs/everyayah/asr1"
    ours = [
        "--pieces",
        "99",
        "--speeds",
        "0.9,1.0,1.1",
        "--tag",
        "mine",
        "--nj",
        "2",
        "--lm_config",
        "conf/train_lm.yaml",
    ]
    theirs = ["--nbpe", "99", "--speed_perturb_factors", "0.9 1.0 1.1", "--asr_tag", "mine", "--inference_nj", "2"]
    theirs += ["--use_lm", "true"]
    common = ["--stage", "2", "--exp", str(tmp_path), "--token_type", "bpe"]
    first, second = (calls(call(recipe, *common, *options)) for options in (ours, theirs))
    assert first == second and "--pieces 99" in "\n".join(first) and "lm_train" in "\n".join(first)
    without = call(recipe, *common, "--lm_config", "conf/train_lm.yaml", "--use_lm", "false")
    assert without.returncode == 0 and "lm_train" not in without.stdout
    assert call(recipe, *common, "--use_lm", "perhaps").returncode == 2


def test_jobs_go_to_slurm(call, calls, tmp_path: Path) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift 2; done\necho "SRUN $*"\nexec "$@"\n')
    srun.chmod(0o755)
    env = {"PATH": f"{srun.parent}:/usr/bin:/bin", "EVERYAYAH": "/c", "cmd_backend": "slurm"}
    done = call(ROOT / "egs/everyayah/asr1", "--exp", str(tmp_path / "exp"), "--ngpu", "2", **env)
    assert done.returncode == 0, done.stderr
    assert "SRUN python -m corpora everyayah" in done.stdout
    assert "SRUN python -m downstream.espnet asr_train --ngpu 2" in next(tmp_path.glob("exp/*/train.log")).read_text()
    assert "--launcher srun\\ --job-name\\ decode" in done.stdout
    done = call(ROOT / "egs/everyayah/asr1", EVERYAYAH="/c", cmd_backend="pbs")
    assert done.returncode == 2 and "cmd_backend pbs is unknown" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--upstrem", "x"], "--upstrem"),
        (["--stage", "9"], "0 to 8"),
        (["--finetune=perhaps"], "true or false"),
        (["--stop_stage", "1"], "EVERYAYAH is not set"),
    ],
)
def test_an_error_names_the_option(call, arguments: list[str], message: str) -> None:
    done = call(ROOT / "egs/everyayah/asr1", *arguments)
    assert done.returncode == 2 and message in done.stderr
