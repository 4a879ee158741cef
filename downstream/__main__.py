"""Compare upstreams on the three tasks, report, and use the trained heads.

python -m downstream benchmark --recipe mini --data data/mini --exp exp/mini --upstreams fbank,harness_l
python -m downstream report --recipe mini --exp exp/mini
python -m downstream traits --models HL=exp/my/models/harness_l,HST=... --data data/my/traits --out exp/my/traits
python -m downstream transcribe talk.mp3 --model exp/mini/probes/asr_light/harness_st/seed0/head
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from corpora.datadir import DataDirError
from corpora.files import TooManyBadFiles
from corpora.schema import nearest
from downstream import answers
from downstream.grid import run as benchmark
from downstream.grid.plan import parse_shard
from downstream.protocols import TASKS, parse_overrides

UPSTREAMS = "fbank,random_l,harness_l_it1,harness_l,harness_s,harness_st"


class UsageError(ValueError):
    """An option that is unknown or has no meaning."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see python -m downstream --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it is done, 1 when cells or files failed, 2 after one line that says what is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except benchmark.BenchmarkError as error:
        print(f"downstream: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except (ValueError, OSError, DataDirError, TooManyBadFiles) as error:
        print(f"downstream: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("downstream: interrupted; complete cells are kept, the same command goes on", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    parser = _parser()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option[2:] for option in parser.options if option.startswith("--")]
        name = unknown[0].partition("=")[0]
        raise UsageError(f"unknown option {name}{nearest(name.lstrip('-'), known, '--')}")
    if parsed.command == "report":
        from downstream import report

        report.build(parsed.exp, parsed.recipe, reference=parsed.reference)
        return 0
    if parsed.command == "traits":
        return _traits(parsed)
    if parsed.command in (*answers.TASKS, "find"):
        return answers.run(parsed)
    benchmark.run_tasks(
        _names(parsed.tasks, "--tasks", TASKS),
        parsed.recipe,
        parsed.data,
        parsed.exp,
        _names(parsed.upstreams, "--upstreams"),
        parsed.models or parsed.exp / "models",
        parsed.protocol,
        [_number(seed, "--seeds") for seed in _names(parsed.seeds, "--seeds")],
        parsed.folds,
        parse_overrides(parsed.set),
        finetune=_names(parsed.finetune, "--finetune"),
        budgets=_names(parsed.budget, "--budget"),
        jobs=parsed.jobs,
        device=parsed.device,
        shard=None if parsed.shard is None else parse_shard(parsed.shard),
        cache_gb=parsed.cache_gb,
        dry_run=parsed.dry_run,
    )
    return 0


def _traits(parsed: argparse.Namespace) -> int:
    from downstream import traits

    models = {}
    for entry in _names(parsed.models, "--models"):
        name, _, path = entry.partition("=")
        if not path or name in models:
            raise UsageError(f"--models: `{entry}`: NAME=DIR is needed, every name once")
        models[name] = Path(path)
    against = _names(parsed.against, "--against") if parsed.against else []
    probes = traits.probe_models(models, parsed.data, against=against, reference=next(iter(models)))
    words = ["--models", parsed.models, "--data", str(parsed.data), "--out", str(parsed.out)]
    words += ["--against", parsed.against] if parsed.against else []
    print(traits.write(probes, parsed.out, shlex.join(["python", "-m", "downstream", "traits", *words])))
    return 0


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m downstream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    grid = commands.add_parser(
        "benchmark",
        help="train and score the probes that are missing",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    grid.add_argument("--recipe", required=True, help="name in the table")
    grid.add_argument("--data", type=Path, required=True, help="holds <task>/{train,dev,test*} or <task>/fold<k>/...")
    grid.add_argument("--exp", type=Path, required=True, help="results.csv, probes/ and cache/ go here")
    grid.add_argument("--models", type=Path, default=None, help="folder of model directories (None: <exp>/models)")
    grid.add_argument("--upstreams", default=UPSTREAMS, help="comma-separated; fbank, a model directory, or name=path")
    grid.add_argument("--tasks", default=",".join(TASKS), help="comma-separated")
    grid.add_argument("--protocol", default="light", help="downstream/<task>/<protocol>.yaml")
    grid.add_argument("--seeds", default="0,1,2", help="comma-separated")
    grid.add_argument("--folds", type=int, default=None, help="the first so many folds (None: all there are)")
    grid.add_argument("--jobs", type=int, default=None, help="processes (None: one a core, one on a GPU)")
    grid.add_argument(
        "--finetune",
        default="probe",
        help="what learns beside the head, comma-separated: probe (nothing), top-K layers, lora-R (rank), full",
    )
    grid.add_argument(
        "--budget", default="all", help="labelled training speech, comma-separated: 10min, 1h, a share (0.1), all"
    )
    grid.add_argument("--device", default="auto", help="auto, cpu, cuda (processes take the GPUs in turn) or cuda:N")
    grid.add_argument("--shard", default=None, metavar="I/N", help="part I of N, for array jobs (None: all)")
    grid.add_argument(
        "--cache_gb", type=float, default=None, help="most GB of stored features; oldest go first (None: the disk)"
    )
    grid.add_argument("--dry_run", action="store_true", help="print the plan with its time and disk, start nothing")
    grid.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a protocol value")
    page = commands.add_parser(
        "report",
        help="tables, plots and the page report/index.html from results.csv",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    page.add_argument("--recipe", required=True, help="name in the table")
    page.add_argument("--exp", type=Path, required=True, help="folder of results.csv; the page goes to its report/")
    page.add_argument("--reference", default="harness_l", help="has 1000 in the SUPERB-like score, where fbank has 0")
    kept = commands.add_parser(
        "traits",
        help="what models keep besides the words: linear probes for speaker and language on every hidden state",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    kept.add_argument("--models", required=True, metavar="NAME=DIR,...", help="model directories; ΔS is to the first")
    kept.add_argument("--data", type=Path, required=True, help="holds {speaker,language}/{train,test}")
    kept.add_argument("--out", type=Path, required=True, help="TRAITS.md, traits.csv and traits.png go here")
    kept.add_argument("--against", default=None, metavar="NAMES", help="the models that the others are compared with")
    predictors = answers.add_commands(commands)
    every = (grid, page, kept, *predictors)
    parser.options = [option for p in every for action in p._actions for option in action.option_strings]
    return parser


def _names(text: str, option: str, known: Sequence[str] = ()) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option} is empty")
    for name in names:
        if known and name not in known:
            raise UsageError(f"{option}: unknown `{name}`{nearest(name, known)} (known: {', '.join(known)})")
    return names


def _number(text: str, option: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"{option}: `{text}` is not a whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
