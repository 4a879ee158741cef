"""Every did1 and ser1 recipe: links to the template, a command line that its commands accept, and two run for real."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora import registry
from corpora.__main__ import main as corpora_main
from downstream.__main__ import build_parser
from downstream.__main__ import main as downstream_main

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.parent for task in ("did1", "ser1") for path in ROOT.glob(f"egs/*/{task}/run.sh"))


def _words(lines: list[str]) -> list[list[str]]:
    """(module, arguments...) of `-m module arguments`."""
    return [shlex.split(line)[1:] for line in lines]


def _clip(path: Path, seed: int, seconds: float = 0.3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(int(16000 * seconds))
    soundfile.write(path, 0.05 * np.sin(np.arange(len(noise)) * (1 + seed % 7) / 10) + 0.01 * noise, 16000)


def _baved(root: Path) -> Path:
    for speaker in range(6):
        for emotion in range(3):
            name = f"{speaker}-m-2{speaker}-0-{emotion}-{speaker * 3 + emotion}.wav"
            _clip(root / "0" / name, 10 * speaker + emotion)
    return root


def _adi5(root: Path) -> Path:
    for place, dialect in enumerate(("EGY", "GLF", "LAV", "MSA", "NOR")):
        mark = hashlib.md5(dialect.encode()).hexdigest()
        for number in range(3):
            seed = 100 * place + 10 * number
            _clip(root / "train/wav" / dialect / f"{dialect}{number:06d}.wav", seed)
            _clip(root / "dev/wav" / dialect / f"{mark}__{number}.0_{number}.3.wav", seed + 1)
            _clip(root / "test/wav" / dialect / f"{mark[::-1]}_M_{number:04d}_{number}.0_{number}.3.wav", seed + 2)
    return root


def test_there_are_recipes() -> None:
    names = {f"{recipe.parent.name}/{recipe.name}" for recipe in RECIPES}
    assert {"adi5/did1", "adi17/did1", "baved/ser1", "ksuemotions/ser1"} <= names


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
@pytest.mark.slow
def test_every_recipe_runs_all_stages(recipe: Path, call, calls, tmp_path: Path) -> None:
    task = recipe.name.removesuffix("1")
    links = {name: f"TEMPLATE/{name}" for name in ("path.sh", "cmd.sh", "db.sh")}
    links[f"{task}.sh"] = f"TEMPLATE/{recipe.name}/{task}.sh"
    for name, target in links.items():
        assert (recipe / name).is_symlink() and (recipe / name).resolve() == ROOT / "egs" / target
    corpus = re.search(r"--corpus (\w+)", (recipe / "run.sh").read_text())[1]
    module = registry.load(corpus)
    assert task in module.INFO.tasks and corpus == recipe.parent.name
    assert f"{module.INFO.variable}=${{{module.INFO.variable}:-}}" in (recipe / "db.sh").read_text()
    done = call(recipe, "--exp", str(tmp_path / "exp"), **{module.INFO.variable: "/a corpus"})
    assert done.returncode == 0, done.stderr
    prepare, probes, report = _words(calls(done))
    assert prepare[:4] == ["corpora", corpus, "--corpus", "/a corpus"]
    assert prepare[4:6] == ["--out", str(ROOT / "data" / corpus / task)]
    assert probes[:2] == ["downstream", "benchmark"] and report[:2] == ["downstream", "report"]
    parsed = build_parser().parse_args(probes[1:])
    assert (parsed.recipe, parsed.tasks, parsed.data) == (corpus, task, ROOT / "data" / corpus)
    assert (ROOT / "downstream" / task / f"{parsed.protocol}.yaml").is_file()
    assert build_parser().parse_args(report[1:]).exp == tmp_path / "exp"


@pytest.mark.parametrize(("name", "tree"), [("baved/ser1", _baved), ("adi5/did1", _adi5)], ids=["ser1", "did1"])
@pytest.mark.slow
def test_a_recipe_runs_on_a_tiny_tree(name: str, tree, call, calls, tmp_path: Path, monkeypatch) -> None:
    """The commands of the script, in this process: each new one would import S3PRL again."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    corpus, task = name.split("/")[0], name[-4:-1]
    options = ["--data", str(tmp_path / "data"), "--exp", str(tmp_path / "exp"), "--protocol", "light", "--seeds", "0"]
    options += ["--nj", "1", "--device", "cpu", "--set", "problem.train.total_steps=2"]
    options += ["--set", "problem.train.eval_step=1"]
    if task == "ser":
        options += ["--corpus_options", "folds=2", "--folds", "1"]
    variable = registry.load(corpus).INFO.variable
    done = call(ROOT / "egs" / name, *options, **{variable: str(tree(tmp_path / "corpus"))})
    assert done.returncode == 0, done.stderr
    mains = {"corpora": corpora_main, "downstream": downstream_main}
    for module, *arguments in _words(calls(done)):
        assert mains[module](arguments) == 0, arguments
    made = {"ser": ["fold1/train", "fold2/test", "protocol.json"], "did": ["train", "dev", "test", "summary.json"]}
    assert all((tmp_path / "data" / task / part).exists() for part in made[task])
    rows = (tmp_path / "exp/results.csv").read_text().splitlines()
    assert len(rows) > 1 and all(row.startswith(f"{corpus},fbank,") for row in rows[1:])
    assert "fbank" in (tmp_path / "exp/RESULTS.md").read_text()
    assert (tmp_path / "exp/command").read_text().startswith(f"./run.sh --corpus {corpus} --data ")


def test_options_reach_their_commands(call, calls, tmp_path: Path) -> None:
    done = call(
        ROOT / "egs/adi17/did1", "--stage=1", "--exp", str(tmp_path), "--upstreams", "fbank,hl=/m/hl",
        "--models", "/m", "--corpus_options", "shared=keep labels={split}.txt", "--finetune", "probe,lora-8",
        "--budget", "1h", "--jobs", "2", ADI17="/c",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    prepare, probes, _ = _words(calls(done))
    assert prepare[-6:] == ["--jobs", "2", "--set", "shared=keep", "--set", "labels={split}.txt"]
    assert registry.parse_options(registry.load("adi17"), prepare[-3::2]) == {"shared": "keep", "labels": "{split}.txt"}
    text = " ".join(probes)
    assert "--upstreams fbank,hl=/m/hl" in text and "--models /m --finetune probe,lora-8 --budget 1h" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--upstrems", "x"], "--upstrems"),
        (["--stage", "4"], "0 to 3"),
        (["--stop_stage", "1"], "BAVED is not set"),
    ],
)
def test_an_error_names_the_option(call, arguments: list[str], message: str) -> None:
    done = call(ROOT / "egs/baved/ser1", *arguments)
    assert done.returncode == 2 and message in done.stderr
