"""A table of bad command lines and bad files over every command: exit status 2, one line with the offending token and
without a traceback, and nothing written. Commands run in this process; S3PRL is never imported."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import HubertConfig, HubertModel

from corpora import registry
from corpora.audio import write_audio
from corpora.datadir import Utterance, write_datadir

ROOT = Path(__file__).resolve().parents[1]
GRID = "benchmark --recipe r --data data --exp exp --upstreams fbank --tasks ser"
TRAIN = "pretrain --data data --units units --out out --geometry mini_hst"

# Command line -> the token that its message must hold. A file or folder that is named exists only if `files` makes it.
CORPORA = {
    "": "expected the name of a corpus",
    "bogus": "`bogus`",
    "--lst": "--lst",
    "baved": "--corpus",
    "baved --corpus nowhere": "--out",
    "baved --corpus nowhere --out out --jobs 0": "'0'",
    "baved --corpus nowhere --out out --jobs -1": "'-1'",
    "baved --corpus nowhere --out out --jobs many": "'many'",
    "baved --corpus nowhere --out out --seed -1": "'-1'",
    "baved --corpus nowhere --out out --set folds": "folds",
    "baved --corpus nowhere --out out --set nofolds=3": "nofolds",
    "baved --corpus nowhere --out out --set folds=three": "folds=three",
    "baved --corpus notes.txt --out out": "notes.txt",
    "baved --corpus damaged.tar.gz --out out": "damaged.tar.gz",
    "baved --corpus damaged.zip --out out": "damaged.zip",
    "fleurs --corpus downloads --out out": "fleurs",
    "eyase --corpus good --out good": "--out good: lies in the corpus folder good",
    "eyase --corpus . --out data/eyase": "--out data/eyase: lies in the corpus folder .",
    "mini": "--out",
    "mini --out out --scale 0": "'0'",
    "mini --out out --scale -1": "'-1'",
    "mini --out out --scale nan": "'nan'",
    "mini --out notes.txt/data": "notes.txt",
    "ssl --out out": "--from",
    "ssl --out out --from nowhere": "nowhere",
    "ssl --out out --from data --max-seconds -1": "'-1'",
    "ssl --out out --from data --dev-share 2": "'2'",
    "ssl --out out --from data --min-text-words 0": "'0'",
    "table notes.txt --out notes.txt": "notes.txt is a file",
    "table notes.txt --out notes.txt/mine": "notes.txt is a file",
    "validate": "dir",
    "validate nowhere": "nowhere",
    "validate empty": "empty",
    "validate notes.txt": "notes.txt",
    "cuts nowhere --out cuts.jsonl": "nowhere",
    "cuts good --out cuts.txt": "cuts.txt",
    "cuts huge --out cuts.jsonl": "100000000000000000000",
    "cuts endless --out cuts.jsonl": "1e20",
    "cuts folder_for_file --out cuts.jsonl": "folder_for_file/wav.scp",
} | {f"{name} --corpus {bad} --out out": bad for name in registry.MODULES for bad in ("nowhere", "empty")}

UPSTREAM = {
    "": "command",
    "bogus": "'bogus'",
    "units": "--data",
    "units --data nowhere --out out": "nowhere",
    "units --data data --out notes.txt": "notes.txt is a file",
    "units --data data --out out k": "`k`",
    "units --data data --out out k=0": "`k`",
    "units --data data --out out k=many": "`many`",
    "units --data data --out out kk=3": "`kk`",
    "units --data data --out out seed=1.5 layer=-1": "`layer`",
    "units --data data --out out fit_hours=-1 batch_seconds=.inf": "`batch_seconds`",
    "units --data data --out out k=[": "k=[",
    "units --data data --out out k=${k}": "k=${k}",
    "units --data data --out out source=nowhere": "nowhere",
    "units --data data --out out --import-km nowhere k=5 --km-rate 0": "'0'",
    "units --data data --out out --import-km nowhere": "k=",
    "pretrain": "--data",
    TRAIN.replace("mini_hst", "tiny"): "'tiny'",
    f"{TRAIN} lr=-1 steps=0 crop=3": "`lr`",
    f"{TRAIN} lr=fast": "`fast`",
    f"{TRAIN} lr=.nan": "`lr`",
    f"{TRAIN} batch_seconds=1 crop_seconds=4": "crop_seconds",
    f"{TRAIN} precision=fp8": "`precision`",
    f"{TRAIN} --init every_nth": "every_nth",
    f"{TRAIN} --init-minutes 3": "--init-minutes",
    f"{TRAIN} --init-minutes x": "'x'",
    f"{TRAIN} --teacher m --teacher-layers a": "a",
    f"{TRAIN} --teacher-weight 2": "--teacher-weight",
    f"{TRAIN} --units units:-1": "weight -1",
    f"{TRAIN} --units units:nan": "weight nan",
    "pretrain --data data --out out --geometry mini_hst": "--units",
    "pretrain --data nowhere --units units --out out --geometry mini_hst": "nowhere",
    "pretrain --data data --units nowhere --out out --geometry mini_hst": "nowhere",
    "shards --data nowhere --out out": "nowhere",
    "shards --data data --out out --jobs 0": "'0'",
    "shards --data data --out out --shard-minutes 0": "'0'",
    "shards --data data --out out --codec mp3": "'mp3'",
    "sweep --data nowhere --model mfcc --out out": "nowhere",
    "sweep --data data --model mfcc --k 3,x --out out": "3,x",
    "sweep --data data --model mfcc --minutes -1 --out out": "'-1'",
    "sweep --data data --model mfcc --layer -1 --out out": "'-1'",
    "info": "model",
    "info nowhere": "nowhere",
    "info empty": "config.json",
    "info notes.txt": "notes.txt",
    "info model_list": "model_list/config.json",
    "info model_type": "['hubert']",
    "info model_deep": "model_deep/config.json",
    "info model_deeper": "model_deeper/config.json",
    "info model_digits": "model_digits/config.json",
    "info model_latin": "model_latin/config.json",
    "info model_broken": "line 1",
    "info model_bare": "model.safetensors",
    "info model_torn": "model_torn",
    "lineage nowhere": "nowhere",
    "lineage model_card": "harness",
    "lineage model_name": "harness.name",
    "lineage model_units": "harness.units",
    "compare nowhere nowhere --audio good": "nowhere",
    "compare model_list model_list --audio good --frames 0": "'0'",
    "export nowhere --out m.onnx": "nowhere",
    "export model_list --out m.onnx --format tflite": "'tflite'",
    "import nowhere --out out": "nowhere",
    "import notes.txt --out out": "notes.txt",
    "import model_25hz --out model_25hz": "would be replaced by its import",
    "import model_25hz --out good": "--out good: it is replaced as a whole",
    "import model_25hz --out .": "would be replaced by its import",
    "import notes.txt --out out --kind keras": "keras",
    "import notes.txt --out out --heads 0": "'0'",
    "push nowhere OWNER/NAME": "nowhere",
    "cost nowhere --out cost.csv": "nowhere",
    "units --data data --out out source=model_25hz": "model_25hz: the encoder gives 25 frames per second",
    "sweep --data data --model model_25hz --out out": "model_25hz: the encoder gives 25 frames per second",
    "compare model_25hz model_25hz --audio good --out out": "25 frames per second",
    "export model_25hz --out m.onnx": "25 frames per second",
    "import model_25hz --out out": "25 frames per second",
    "push model_25hz OWNER/NAME": "25 frames per second",
    "cost model_25hz --out cost.csv": "25 frames per second",
    "pretrain --data data --out out --geometry mini_hst --teacher model_25hz --teacher-layers 1": "25 frames per",
}

DOWNSTREAM = {
    "": "command",
    "bogus": "'bogus'",
    "benchmark": "--recipe",
    f"{GRID} --sed 3": "--sed",
    f"{GRID} --seeds x": "`x`",
    f"{GRID} --seeds ,": "--seeds",
    f"{GRID} --jobs -2": "'-2'",
    f"{GRID} --folds 0": "'0'",
    f"{GRID} --device tpu": "'tpu'",
    f"{GRID} --device cuda:99": "cuda:99",
    f"{GRID} --cache_gb -1": "'-1'",
    f"{GRID} --shard 3/2": "`3/2`",
    f"{GRID} --protocol heavy": "`heavy`",
    f"{GRID} --protocol ../asr/light": "'../asr/light'",
    f"{GRID} --finetune everything": "`everything`",
    f"{GRID} --budget soon": "`soon`",
    f"{GRID} --budget=-1h": "`-1h`",
    f"{GRID} --set learning_rates=fast --dry_run": "`learning_rates`",
    f"{GRID} --set learning_rates=[fast] --dry_run": "'fast'",
    f"{GRID} --set learning_rates=[-0.1] --set min_ms=-1 --dry_run": "`min_ms`",
    f"{GRID} --set learning_rates=[.nan] --dry_run": "nan",
    f"{GRID} --set problem.train.total_steps=ten --dry_run": "'ten'",
    f"{GRID} --set problem.train.eval_step=0 --dry_run": "eval_step",
    f"{GRID} --set max_left_out=7 --dry_run": "`max_left_out`",
    f"{GRID} --set metrics=[bleu] --dry_run": "`bleu`",
    f"{GRID} --set nonsense --dry_run": "`nonsense`",
    f"{GRID} --set no.such=1 --dry_run": "`no.such`",
    f"{GRID} --set min_ms={{ --dry_run": "min_ms={",
    "benchmark --recipe ../r --data data --exp exp": "'../r'",
    "benchmark --recipe r --data nowhere --exp exp --upstreams fbank --tasks ser": "nowhere",
    "benchmark --recipe r --data data --exp exp --tasks kws": "`kws`",
    "benchmark --recipe r --data data --exp exp --upstreams ../../../evil=model_list": "'../../../evil'",
    "benchmark --recipe r --data data --exp exp --upstreams .hidden=model_list": "'.hidden'",
    "benchmark --recipe r --data data --exp exp --upstreams mine=nowhere": "nowhere",
    "benchmark --recipe r --data data --exp exp --upstreams mine=model_bare": "model.safetensors",
    "benchmark --recipe r --data data --exp exp --upstreams mine=model_25hz": "25 frames per second",
    "traits --models HL=model_25hz --data data --out out": "25 frames per second",
    "report --recipe r": "--exp",
    "report --recipe r --exp nowhere": "nowhere",
    "report --recipe r --exp results_broken": "results.csv",
    "traits --models HL --data data --out out": "`HL`",
    "traits --models HL=nowhere --data data --out out": "data",
    "traits --models ../HL=nowhere --data data --out out": "'../HL'",
    "transcribe": "AUDIO",
    "transcribe good.wav --model nowhere": "nowhere",
    "transcribe good.wav --model nowhere --out good.wav": "--out good.wav: this command reads good.wav",
    "emotion good.wav notes.txt --model nowhere --out ./notes.txt": "this command reads notes.txt",
    "transcribe good.wav --out empty": "empty: a folder, which a file cannot replace",
    "transcribe ''": "expected a path, got an empty one",
    "score --hypotheses hyp --references ref --utt2spk notes.txt": "1 of 1 utterances have no speaker, as s0",
    "score --hypotheses hyp --references ref --out hyp": "--out hyp: this command reads hyp",
    "score --hypotheses hyp --references ref --out ref": "--out ref: this command reads ref",
    "transcribe empty --model nowhere": "empty",
    "transcribe good.wav --model head_list": "head_list",
    "transcribe good.wav --model head_ser": "emotion",
    "transcribe good.wav --model head_path": "'../../evil'",
    "transcribe good.wav --model head_lost": "lost",
    "emotion good.wav --model head_ser --device gpu": "'gpu'",
    "dialect good.wav --model head_ser --format xml": "'xml'",
}

ESPNET = {
    "": "step",
    "bogus": "`bogus`",
    "dump": "--data",
    "dump --data nowhere --out out": "nowhere",
    "dump --data good --out out": "text",
    "dump --data good --out out --speeds fast": "fast",
    "dump --data good --out out --speeds 9": "9",
    "dump --data good --out out --jobs 0": "'0'",
    "dump --data good --out out --min_seconds 3 --max_seconds 1": "3",
    "dump --data good --out out --min_seconds -1": "'-1'",
    "dump --data named --out out --text_profile nosuch": "nosuch",
    "tokens --data nowhere --out out": "nowhere",
    "tokens --data named --out out --pieces 0": "'0'",
    "tokens --data named --out out --type word": "word",
    "config --base nowhere --out train.yaml": "nowhere",
    "config --base notes.txt --out train.yaml": "notes.txt",
    "config --base broken.yaml --out train.yaml": "broken.yaml",
    "config --base good.yaml --set a --out train.yaml": "a",
    "config --base good.yaml --set max_epoch=many --out train.yaml": "max_epoch=many",
    "config --base good.yaml --set optim_conf.lr=-1 --out train.yaml": "optim_conf.lr=-1",
    "config --base good.yaml --upstream u --upstream_path model_25hz --out train.yaml": "25 frames per second",
    "shapes --data named --tokens nowhere --config good.yaml --out out": "nowhere",
    "lm_text --data named --tokens nowhere --out out": "nowhere",
    "decode --data nowhere --train_config f --model_file f --inference_config f --out out": "nowhere",
    "decode --data named --train_config f --model_file f --inference_config f --gpus -1 --out out": "'-1'",
    "score --system a --data nowhere --hypotheses notes.txt --out out": "nowhere",
    "score --system a --data named --hypotheses nowhere --out out": "nowhere",
    "results --exp nowhere --title t": "nowhere",
}

EGS = {
    "": "command",
    "bogus": "'bogus'",
    "run --stage x": "'x'",
    "run --stage 14": "'14'",
    "run --stage 9 --stop_stage 3": "--stage 9",
    "run --jobs 0": "'0'",
    "run --recipe nosuch": "`nosuch`",
    "run --recipe ../mini": "'../mini'",
    "run --recipe r --config nowhere": "nowhere",
    "run --recipe r --config broken.yaml": "broken.yaml",
    "run --recipe r --config notes.txt": "notes.txt",
    "run --hubert nowhere": "nowhere",
    "run --set units": "units",
    "run --set units=3": "`units`",
    "run --set pretrain=3": "`pretrain`",
    "run --set pretrain.hs.lr=-1 --set units.it1.k=0 --set tasks.ser.folds=x": "`tasks.ser.folds`",
    "run --set pretrain.hs.lr=fast": "`fast`",
    "run --set upstreams=[../../../../evil=model_list]": "'../../../../evil'",
    "run --set tasks.ser.upstreams=[a/b=model_list]": "'a/b'",
    "run --set tasks.ser.protocol=../asr/light": "'../asr/light'",
    "run --set family.hs.heads=0 --set family.hs.geometry=mini_hs": "heads",
    "run --set tasks.ser.overrides.learning_rates=[fast] --set tasks.did.overrides.min_ms=-1": "`min_ms`",
    "run --set tasks.ser.overrides.problem.train.total_step=9": "total_step",
    "run --set tasks.ser.seeds=[-1]": "-1",
    "run --set tasks.ser.budgets=[soon]": "`soon`",
    "run --set family.hs=big": "`big`",
    "run --set corpora.module=nosuch": "nosuch",
    'run --train_launcher "srun \'"': "srun",
    "run --hubert model_25hz": "25 frames per second",
    "run --set units.it1.source=model_25hz": "`units.it1.source`: model_25hz: the encoder gives 25 frames per second",
    "show --recipe nosuch": "`nosuch`",
    "estimate": "--hours",
    "estimate --hours -5": "'-5'",
    "estimate --hours 5 --ranks 0": "'0'",
    "estimate --hours 5 --mfu 2": "'2'",
    "stage": "N",
    "stage 77": "77",
    "study --recipe nosuch": "`nosuch`",
    "study --recipe mini --rows nosuch": "`rows.nosuch`",
}

SCRIPTS = {
    "run.sh stray": "stray",
    "run.sh --bogus": "--bogus",
    "run.sh --stage": "--stage",
    "run.sh --stage x": "--stage x",
    "run.sh --stage 99": "--stage 99",
    "run.sh --stage 9 --stop_stage 3": "--stage 9",
    "run.sh --jobs 0": "--jobs 0",
    "run.sh --force maybe": "maybe",
    "run.sh --recipe nosuch": "nosuch",
    "run.sh --recipe ../egs/mini": "../egs/mini",
    "egs/mini/asr1/run.sh --nj -1": "--nj -1",
    "egs/mini/asr1/run.sh --stage 9": "--stage 9",
    "egs/mini/asr1/run.sh --use_lm perhaps": "perhaps",
    "egs/mini/asr1/run.sh --tag ../../evil --stage 7 --exp EXP": "'../../evil'",
    "egs/mini/asr1/run.sh --test_sets ../x --stage 7 --exp EXP": "'../x'",
    "egs/baved/ser1/run.sh --folds x": "--folds x",
    "egs/baved/ser1/run.sh --sed 3": "--sed",
    "egs/adi5/did1/run.sh --stop_stage 4": "--stop_stage 4",
    "egs/mini/ssl1/run.sh --ranks 0": "--ranks 0",
    "egs/mini/ssl1/run.sh --config nowhere": "nowhere",
}

MODULES = {
    "corpora": CORPORA,
    "upstream": UPSTREAM,
    "downstream": DOWNSTREAM,
    "downstream.espnet": ESPNET,
    "egs": EGS,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files and folders that the table names."""
    root = tmp_path_factory.mktemp("bad")
    (root / "empty").mkdir()
    (root / "notes.txt").write_text("just: [a note\n")
    for name in ("hyp", "ref"):
        (root / name).write_text("s0 نعم\n", encoding="utf-8")
    (root / "broken.yaml").write_text("a: [1\n")
    (root / "good.yaml").write_text("max_epoch: 3\noptim_conf: {lr: 0.001}\n")
    (root / "damaged.tar.gz").write_bytes(b"\x1f\x8b" + bytes(100))
    (root / "damaged.zip").write_bytes(b"PK\x03\x04" + bytes(20) + b"PK\x05\x06" + b"\xff" * 18)
    write_audio(root / "good.wav", np.full(16000, 0.1))
    good = [Utterance(f"s{n}", f"s{n}", root / "good.wav", 16000) for n in range(2)]
    write_datadir(root / "good", good)
    write_datadir(root / "named", [Utterance("s0", "s0", root / "good.wav", 16000, text="نعم")])
    for split in ("train", "dev"):
        write_datadir(root / "data" / split, good)
    write_datadir(root / "huge", good)
    (root / "huge" / "utt2num_samples").write_text("s0 100000000000000000000\ns1 16000\n")
    write_datadir(root / "endless", good)
    (root / "endless" / "segments").write_text("s0 s0 0 1e20\ns1 s1 0 1\n")
    (root / "endless" / "utt2num_samples").unlink()
    write_datadir(root / "folder_for_file", good)
    (root / "folder_for_file" / "wav.scp").unlink()
    (root / "folder_for_file" / "wav.scp").mkdir()
    hubert = {"model_type": "hubert"}
    models: dict[str, str | bytes] = {
        "list": "[]",
        "type": json.dumps({"model_type": ["hubert"]}),
        "deep": '{"a": ' * 60 + "1" + "}" * 60,
        "deeper": '{"a": ' * 100_000 + "1" + "}" * 100_000,
        "digits": '{"model_type": ' + "9" * 5000 + "}",
        "latin": '{"name": "é"}'.encode("latin-1"),
        "broken": "{",
        "bare": json.dumps(hubert),
        "torn": json.dumps(hubert),
        "card": json.dumps(hubert | {"harness": "text"}),
        "name": json.dumps(hubert | {"harness": {"name": 5}}),
        "units": json.dumps(hubert | {"harness": {"name": "x", "units": "many"}}),
    }
    for name, content in models.items():
        folder = root / f"model_{name}"
        folder.mkdir()
        (folder / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        if name != "bare":
            (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    torch.manual_seed(0)
    slow = HubertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=[8] * 7,
        conv_stride=[5, 2, 2, 2, 2, 2, 4], num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    HubertModel(slow).save_pretrained(root / "model_25hz")
    (root / "model_25hz" / "preprocessor_config.json").write_text('{"do_normalize": false}')
    head = {"task": "asr", "protocol": "p", "upstream": "lost", "upstream_key": "k", "build": {}}
    for name, content in {
        "list": [],
        "ser": head | {"task": "ser"},
        "path": head | {"upstream": "../../evil"},
        "lost": head,
    }.items():
        (root / f"head_{name}").mkdir()
        (root / f"head_{name}" / "head.json").write_text(json.dumps(content))
        (root / f"head_{name}" / "head.safetensors").write_bytes(b"")
    (root / "results_broken").mkdir()
    (root / "results_broken" / "results.csv").write_text("a,b\n1,2\n")
    return root


def snapshot(root: Path) -> dict[str, int]:
    """Every file and folder below a folder, with its time of modification."""
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} | {
        f"{path.relative_to(root)}/": 0 for path in root.rglob("*") if path.is_dir()
    }


def wrong(status: int, printed: str, token: str) -> str:
    """What is wrong with the answer to a bad command line; empty if nothing is."""
    lines = [line for line in printed.splitlines() if line.strip()]
    if status != 2:
        return f"exit status {status}: {printed}"
    if len(lines) != 1 or "Traceback" in printed:
        return f"{len(lines)} lines: {printed}"
    if "a defect of this program" in printed:
        return f"an unexpected exception: {printed}"
    return "" if token in printed else f"`{token}` is not named: {printed}"


@pytest.mark.parametrize("module", MODULES)
def test_every_bad_input_gets_one_line_and_writes_nothing(module: str, files: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(files)
    for variable in ("HARNESS_MODELS", "HARNESS_TRACEBACK"):
        monkeypatch.delenv(variable, raising=False)
    main = importlib.import_module(f"{module}.__main__").main
    before, found = snapshot(files), {}
    for line, token in MODULES[module].items():
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
            try:
                status = main(shlex.split(line))
            except SystemExit as exit_:  # of argparse, after --help only
                status = f"SystemExit {exit_.code}"
            except Exception as error:
                status = f"{type(error).__name__}: {error}"
        problem = wrong(status, printed.getvalue(), token)
        if (after := snapshot(files)) != before:
            problem += f" wrote {sorted(set(after.items()) ^ set(before.items()))}"
            before = after
        if problem:
            found[line] = problem
    assert not found, "\n".join(f"{module} {line} -> {problem}" for line, problem in found.items())


def test_every_bad_option_of_a_script_gets_one_line_and_writes_nothing(tmp_path: Path):
    environment = {**os.environ, "HARNESS_VENV": os.environ.get("HARNESS_VENV", str(ROOT / ".venv"))}
    found = {}
    for line, token in SCRIPTS.items():
        words = shlex.split(line.replace("EXP", str(tmp_path / "exp")))
        script = ROOT / words[0]
        done = subprocess.run(
            ["bash", f"./{script.name}", *words[1:]],
            cwd=script.parent, env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        if problem := wrong(done.returncode, done.stderr, token):
            found[line] = problem
    assert not found, "\n".join(f"{line} -> {problem}" for line, problem in found.items())
    assert not (tmp_path / "exp").exists()
