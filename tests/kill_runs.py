"""Kill runs with SIGKILL at random moments, and compare their results with those of an undisturbed run.

    python tests/kill_runs.py --work /tmp/kills [--runs 5] [--kills 100] [--tiny] [--espnet] [--seed 0] [--jobs 2]

Runs `./run.sh` on the recipe mini, `--runs` times, each in its own folders below --work. With --espnet the recipe
`egs/mini/asr1` is killed too, as one run more. The kills are spread evenly over the runs. A kill comes at a random
moment: between zero and the time that an undisturbed run takes, divided by the kills of a run, times two, so that the
kills reach all stages. Half of the kills of run.sh end the whole group of processes, the other half only the first
process, whose children must then end by themselves (below the shell scripts of ESPnet's recipes they do not). A run
that is complete before it has its kills begins again in another folder.

Compared: all values of results.csv but times, all model weights and units byte for byte, and the scores of ESPnet.
Prints one line for each kill (run, seconds, last line of the log), and a summary; exits with 1 if anything differs.
HARNESS_VENV names the environment. --tiny trains a few steps on little speech, to try the script.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compare_trees import results, unit_files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from corpora.files import sha256_file  # noqa: E402

_STEPS = {"hl_it1": 24, "hl_it2": 8, "hs": 4, "hst": 4}
TINY = [  # values of --set
    "corpora.options.scale=0.05",
    *(f"pretrain.common.{own}" for own in ("batch_seconds=8", "crop_seconds=4", "valid_every=4")),
    *(f"pretrain.{name}.steps={steps}" for name, steps in _STEPS.items()),
    *(f"units.{name}.k=16" for name in ("it1", "it2", "student")),
    "units.student.pca=8",
    "tasks.asr.overrides.problem.train={total_steps: 8, eval_step: 8}",
    *(f"tasks.{task}.overrides.problem.train={{total_steps: 20, eval_step: 20}}" for task in ("ser", "did")),
]


@dataclass(frozen=True)
class Kind:
    """What is run: `command(folder)`, and `facts(folder)`, which two complete runs must share.

    needs: beginnings of keys that the facts of a complete run hold, so that a comparison cannot become an empty one.
    """

    name: str
    command: Callable[[Path], list[str]]
    facts: Callable[[Path], dict[str, str]]
    children_end: bool  # when only the first process is killed
    needs: tuple[str, ...] = ()


def mini(args: argparse.Namespace) -> Kind:
    settings = [word for value in (TINY if args.tiny else []) for word in ("--set", value)]

    def command(folder: Path) -> list[str]:
        places = ["--data", str(folder / "data"), "--exp", str(folder / "exp"), "--jobs", str(args.jobs)]
        return [str(ROOT / "run.sh"), "--stop_stage", str(args.stop_stage), *places, *settings]

    def facts(folder: Path) -> dict[str, str]:
        exp = folder / "exp" / "mini"
        table = exp / "results.csv"
        found = {f"results {key}": value for key, value in results(table).items()} if table.is_file() else {}
        # Not the codebook: it also holds the modification times of its audio.
        units = unit_files(exp / "units").items()
        found |= {f"units {key}": value for key, value in units if key.endswith(".bin")}
        models = {path.parent.name: path for path in exp.glob("*/model") if path.is_dir()}
        return found | {f"weights {name}": sha256_file(path / "model.safetensors") for name, path in models.items()}

    needs = ("units ", "weights ", "results ") if args.stop_stage >= 13 else ()
    return Kind("mini", command, facts, children_end=True, needs=needs)


def espnet(args: argparse.Namespace, data: Path) -> Kind:
    """Stages 2 to 8 of the recipe, on the data of a run of mini."""
    epochs = ["--set", "max_epoch=3"] if args.tiny else []

    def command(folder: Path) -> list[str]:
        places = ["--data", str(data / "asr"), "--exp", str(folder), "--nj", str(args.jobs)]
        return [str(ROOT / "egs" / "mini" / "asr1" / "run.sh"), "--stage", "2", *places, *epochs]

    def facts(folder: Path) -> dict[str, str]:
        found = sorted([*folder.glob("*/decode_*/*/scores.csv"), *folder.glob("*/decode_*/*/hypotheses.tsv")])
        return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in found}

    return Kind("espnet", command, facts, children_end=False)


def start(kind: Kind, folder: Path) -> subprocess.Popen:
    """Start a run in a group of processes of its own; its output is appended to `<folder>/log`."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            kind.command(folder), stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )


def last_line(folder: Path) -> str:
    lines = (folder / "log").read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:100]


def finish(kind: Kind, folder: Path) -> float:
    """Run to the end; returns the seconds. Exits with the log's name if the run fails."""
    begin = time.monotonic()
    if start(kind, folder).wait():
        sys.exit(
            f"{kind.name}: the run failed: {folder / 'log'}: {last_line(folder)}\n{shlex.join(kind.command(folder))}"
        )
    return time.monotonic() - begin


def time_of(kind: Kind, quiet: Path) -> float:
    """Seconds of an undisturbed run. A complete one of an earlier start of this script is used again."""
    note = quiet / "seconds"
    if not note.is_file():
        shutil.rmtree(quiet, ignore_errors=True)
        seconds = finish(kind, quiet)
        note.write_text(f"{seconds:.1f}\n", encoding="ascii")
    return float(note.read_text(encoding="ascii"))


def kill(process: subprocess.Popen, alone: bool) -> None:
    """Kill the group, or only its first process, whose children must end by themselves within a minute."""
    if not alone:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    for _ in range(600):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    sys.exit(f"processes of group {process.pid} still run a minute after their parent was killed")


def disturbed(kind: Kind, folder: Path, kills: int, seconds: float, draw: random.Random) -> list[Path]:
    """Complete runs that were killed `kills` times in all; returns their folders."""
    done, folders = 0, [folder]
    while done < kills:
        process = start(kind, folders[-1])
        wait = draw.uniform(0, 2 * seconds / kills)
        try:
            if process.wait(timeout=wait):
                sys.exit(f"{kind.name}: failed after {done} kills: {folders[-1] / 'log'}: {last_line(folders[-1])}")
            folders.append(folder.with_name(f"{folder.name}_{len(folders)}"))
        except subprocess.TimeoutExpired:
            kill(process, kind.children_end and draw.random() < 0.5)
            done += 1
            print(f"{folders[-1].name} kill {done:3d} after {wait:6.1f} s: {last_line(folders[-1])}", flush=True)
    finish(kind, folders[-1])
    return folders


def compare(kind: Kind, quiet: Path, folders: list[Path]) -> list[str]:
    expected = kind.facts(quiet)
    if not expected:
        return [f"{quiet}: nothing to compare"]
    found = [
        f"{quiet}: no {need.strip()} to compare" for need in kind.needs if not any(k.startswith(need) for k in expected)
    ]
    for folder in folders:
        own = kind.facts(folder)
        for key in sorted(expected.keys() | own.keys()):
            if expected.get(key) != own.get(key):
                found.append(f"{folder.name}: {key}: {expected.get(key, 'absent')} -> {own.get(key, 'absent')}")
    print(f"{kind.name}: {len(folders)} disturbed runs, {len(expected)} values and files compared, {len(found)} differ")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for all runs; undisturbed ones are kept there")
    parser.add_argument("--runs", type=int, default=5, help="runs of mini (default: 5)")
    parser.add_argument("--kills", type=int, default=100, help="in all (default: 100)")
    parser.add_argument("--stop_stage", type=int, default=13, help="last stage of mini (default: 13)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--espnet", action="store_true", help="kill a run of egs/mini/asr1 too")
    args = parser.parse_args()
    work = args.work.resolve()
    draw = random.Random(args.seed)
    count = args.runs + args.espnet
    shares = [args.kills // count + (number < args.kills % count) for number in range(count)]
    kinds = [(mini(args), [f"mini{number}" for number in range(args.runs)])]
    if args.espnet:
        kinds.append((espnet(args, work / "mini_quiet" / "data" / "mini"), ["espnet0"]))
    differences = []
    for kind, names in kinds:
        quiet = work / f"{kind.name}_quiet"
        seconds = time_of(kind, quiet)
        print(f"{kind.name}: an undisturbed run takes {seconds:.0f} s", flush=True)
        for name in names:
            shutil.rmtree(work / name, ignore_errors=True)
            folders = disturbed(kind, work / name, shares.pop(0), seconds, draw)
            found = compare(kind, quiet, folders)
            differences += found
            for folder in folders if not found else []:
                shutil.rmtree(folder)
    print(*differences, f"{args.kills} kills, {len(differences)} differences", sep="\n")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
