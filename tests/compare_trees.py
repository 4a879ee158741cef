"""Compare two checkouts on one machine, before and after a change that must not alter any number.

    python tests/compare_trees.py OLD NEW [--recipe mini]
    python tests/compare_trees.py OLD NEW --only options

For outputs, both checkouts have run `./run.sh --recipe mini` on this machine. Prints one line per difference; exits
with 1 if there is one. Compared:

    data directories and audio, unit files, model weights    byte for byte
    hidden states of every model on fixed noise              equal, computed by each checkout's own code
    results.csv                                              all columns that do not depend on time or place
    options of every command                                 names, defaults, choices, and whether they are required
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
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

# Prints the arguments of the parsers that answer `--help`, as JSON: command -> argument -> default, choices, required.
# It runs each command up to its help text, so it needs to know nothing about the modules of the checkout.
PARSERS = """
import argparse, contextlib, io, json, os, runpy, sys

class Shown(BaseException):
    pass

def show(parser, file=None):
    raise Shown(parser)

def text(value):
    return str(value).replace(os.getcwd(), ".")

argparse.ArgumentParser.print_help = show
package, *commands = sys.argv[1:]
found = {}
for command in commands or [""]:
    sys.argv = [package, *command.split(), "--help"]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            runpy.run_module(package, run_name="__main__", alter_sys=True)
    except SystemExit:
        continue
    except Shown as shown:
        parser = shown.args[0]
    arguments = found[command] = {} if command else {"commands": "[]"}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            if not command:
                arguments["commands"] = json.dumps(list(action.choices))
        elif not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
            choices = "any" if action.choices is None else ",".join(map(text, action.choices))
            name = "/".join(action.option_strings) or action.metavar or action.dest
            arguments[name] = f"default={text(action.default)} choices={choices} required={action.required}"
print(json.dumps(found))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--only", choices=("outputs", "options"), help="compare only these (default: both)")
    args = parser.parse_args()
    outputs: dict[str, Callable[[Path], dict[str, str]]] = {
        "data": lambda tree: data_files(tree / "data" / args.recipe),
        "units": lambda tree: unit_files(tree / "exp" / args.recipe / "units"),
        "weights": lambda tree: weights(tree / "exp" / args.recipe / "models"),
        "hidden states": lambda tree: hidden_states(tree, Path("exp", args.recipe, "models")),
        "results": lambda tree: results(tree / "exp" / args.recipe / "results.csv"),
    }
    pairs = {}
    if args.only != "options":
        pairs |= {title: (facts(args.old), facts(args.new)) for title, facts in outputs.items()}
    if args.only != "outputs":
        pairs["options"] = options(args.old, args.new)
    differences = []
    for title, (old, new) in pairs.items():
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


def options(old: Path, new: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Options of run.sh, and of every command and sub-command that either checkout has, in the old and the new one."""
    found = [shell_options(tree / "run.sh") for tree in (old, new)]
    for package in PACKAGES:
        whole = [parsers(tree, package, []) for tree in (old, new)]
        commands = {name for facts in whole for name in json.loads(facts[""].pop("commands"))}
        for tree, facts, own in zip((old, new), whole, found, strict=True):
            for command, arguments in {**facts, **parsers(tree, package, sorted(commands))}.items():
                where = f"{package} {command}".strip()
                own |= {f"{where} {argument}": text for argument, text in arguments.items() if argument != "commands"}
    return found[0], found[1]


def parsers(tree: Path, package: str, commands: list[str]) -> dict[str, dict[str, str]]:
    """Arguments of the parser of a package (""), or of those of its commands, as PARSERS prints them."""
    return json.loads(run(tree, "-c", PARSERS, package, *commands).splitlines()[-1])


def shell_options(script: Path) -> dict[str, str]:
    """Options in the help text of a shell script, with the values that the script assigns to their variables."""
    text = script.read_text(encoding="utf-8")
    values = dict(re.findall(r"^(\w+)=(\S*)", text, flags=re.M))
    names = re.findall(r"^ +--([a-z]\w*) ", text, flags=re.M)
    return {f"{script.name} --{name}": f"default={values.get(name, 'none')}" for name in names}


def run(tree: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=tree, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{tree}: python {arguments[:3]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
