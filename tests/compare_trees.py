"""Compare two checkouts on one machine, before and after a change that must not alter any number.

    python tests/compare_trees.py OLD NEW [--recipe mini]

Both checkouts have run `./run.sh --recipe mini` on this machine. Prints one line per difference; exits with 1 if there
is one. Compared: data directories and audio, unit files and model weights (byte for byte), hidden states of every model
on fixed noise (equal, computed by each checkout's own code), results.csv (all columns that do not depend on time or
place), and the option names and defaults of every command.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

VARYING = {"wall_s", "rtf_cpu", "commit", "run_dir"}
PACKAGES = ("corpora", "upstream", "downstream", "downstream.espnet", "egs")
HIDDEN_STATES = """
import hashlib, pathlib, sys, torch, upstream
from transformers import AutoModel
upstream.register("transformers")
torch.set_num_threads(1)
noise = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    if (folder / "model.safetensors").exists():
        with torch.inference_mode():
            states = AutoModel.from_pretrained(folder).eval()(noise, output_hidden_states=True).hidden_states
        print(folder.name, hashlib.sha256(b"".join(s.numpy().tobytes() for s in states)).hexdigest())
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--recipe", default="mini")
    args = parser.parse_args()
    differences = []
    for title, facts in (
        ("data", lambda tree: data_files(tree / "data" / args.recipe)),
        ("units", lambda tree: unit_files(tree / "exp" / args.recipe / "units")),
        ("weights", lambda tree: weights(tree / "exp" / args.recipe / "models")),
        ("hidden states", lambda tree: hidden_states(tree, Path("exp", args.recipe, "models"))),
        ("results", lambda tree: results(tree / "exp" / args.recipe / "results.csv")),
        ("options", options),
    ):
        old, new = facts(args.old), facts(args.new)
        found = [
            f"{title}: {key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        print(f"{title}: {len(old)} compared, {len(found)} differ")
        if not old:
            found.append(f"{title}: nothing to compare in {args.old}")
        differences += found
    print(*differences, sep="\n")
    return 1 if differences else 0


def data_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every table and audio file; paths inside wav.scp are cut down to those below the checkout."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in (".json", ".lock") and not path.name.startswith("."):
            content = path.read_bytes()
            if path.name == "wav.scp":
                content = re.sub(rb"\S*/data/", b"data/", content)
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()[:16]
    return found


def unit_files(folder: Path) -> dict[str, str]:
    """SHA-256 of the integers of every unit set, `<set>/<split>` as key. Links are followed."""
    return {
        f"{units.name}/{path.relative_to(units)}": hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for units in visible(folder)
        for path in sorted(units.rglob("*"))
        if path.suffix in (".npy", ".bin", ".u16", ".safetensors")
    }


def weights(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()[:16]
        for path in visible(folder)
        if (path / "model.safetensors").exists()
    }


def visible(folder: Path) -> Iterator[Path]:
    """The folders below `folder` that carry a name alone: no digest of a configuration, no dot."""
    return (p for p in sorted(folder.iterdir()) if p.is_dir() and not re.search(r"^\.|-[0-9a-f]{6,}$|\.old", p.name))


def hidden_states(tree: Path, models: Path) -> dict[str, str]:
    lines = run(tree, "-c", HIDDEN_STATES, str(models)).splitlines()
    return dict(line.split() for line in lines if re.fullmatch(r"\S+ [0-9a-f]{64}", line))


def results(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    key = ("upstream", "task", "split", "metric", "seed", "fold", "protocol", "finetune", "budget")
    return {
        "/".join(row[k] for k in key): ",".join(f"{k}={v}" for k, v in row.items() if k not in VARYING) for row in rows
    }


def options(tree: Path) -> dict[str, str]:
    """Option names and defaults of every command and sub-command, from its help."""
    found = {"run.sh": described((tree / "run.sh").read_text(encoding="utf-8"))}
    for package in PACKAGES:
        text = run(tree, "-m", package, "--help")
        commands = re.search(r"\{([\w,-]+)\}", text)
        found[package] = described(text)
        for command in commands.group(1).split(",") if commands else []:
            found[f"{package} {command}"] = described(run(tree, "-m", package, command, "--help"))
    return found


def described(text: str) -> str:
    defaults = re.findall(r"(--[\w-]+)(?:(?!\n\s*--).)*?\(default: ([^)]*)\)", text, flags=re.S)
    names = sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)))
    return " ".join(names) + " | " + " ".join(f"{name}={' '.join(value.split())}" for name, value in sorted(defaults))


def run(tree: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=tree, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{tree}: python {arguments[:3]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
