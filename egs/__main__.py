"""Run the stages of a recipe (`run`, called by run.sh), show their state, estimate their cost, compare variants.

python -m egs run --recipe mini
python -m egs show --recipe mini
python -m egs study --recipe open_arabic
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import platform
import shlex
import shutil
import sys
import traceback
from pathlib import Path

from corpora.command import Parser, fail, number, one_line, whole
from corpora.files import CorpusError
from corpora.machine import cores, memory_bytes, versions
from egs.pipeline.process import die_with_parent
from egs.pipeline.recipe import STAGE_OF, Recipe, load_recipe
from egs.pipeline.run import CHANGED, Launchers, Range, Runner
from egs.pipeline.stages import LAST, StageId, file_name, stages_of
from egs.pipeline.study import Study, load_study
from egs.pipeline.work import Job, StageError
from upstream.distributed import place
from upstream.model.rate import check_directory
from upstream.names import LOCAL_UPSTREAMS

log = logging.getLogger("egs")

SHOWN = (
    "torch",
    "torchaudio",
    "transformers",
    "lightning",
    "espnet-s3prl",
    "espnet",
    "lhotse",
    "scikit-learn",
    "jiwer",
)
GIB = 2**30


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, 1 when a stage fails, 2 for a wrong option, recipe or key, 130 when interrupted."""
    try:
        args = command_line().parse_args(argv)
    except CorpusError as error:
        return fail("egs", error)
    logging.basicConfig(
        format="%(asctime)s (%(module)s:%(lineno)d) %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        level=logging.INFO,
        stream=sys.stdout,
    )
    try:
        if args.command == "check":
            return _check()
        if args.command == "study":
            return _study(args)
        job = job_of(args)
        return {"run": _run, "stage": _stage, "show": _show, "estimate": _estimate}[args.command](job, args)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from here", file=sys.stderr)
        return 130
    except ValueError as error:  # CorpusError and its like
        return fail("egs", error)
    except Exception as error:  # StageError; OSError: for instance a full disk or a read-only folder
        return fail("egs", error, 1, output=args.exp)


def stage_number(text: str) -> int:
    """The number of a stage, 0 to 13."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 2 and int(text) <= LAST):
        raise argparse.ArgumentTypeError(f"a stage is a number from 0 to {LAST}, not {text!r}")
    return int(text)


def command_line() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = Parser(prog="python -m egs", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="versions, cores, memory, disk and GPU", allow_abbrev=False)
    for name, text in (
        ("run", "run the stages of a recipe that are not complete"),
        ("stage", "do the work of one stage, complete or not (`run` starts this)"),
        ("show", "which stages are complete"),
        ("estimate", "hours, memory and disk that the schedule will need (docs/scale.md explains the formulas)"),
        ("study", "train, probe and compare the variants of egs/<recipe>/study.yaml; resumes"),
    ):
        command = commands.add_parser(name, help=text, allow_abbrev=False)
        command.add_argument("--recipe", default="mini", help="folder below egs/ (default: mini)")
        if name != "study":
            command.add_argument("--config", type=Path, help="the schedule, instead of egs/<recipe>/recipe.yaml")
            command.add_argument("--called", default="", help="the script that the user started, for messages")
            command.add_argument("--hubert", type=Path, help="also compare with this HuBERT (Transformers form)")
            command.add_argument("--xlsr", type=Path, help="also compare with this XLS-R (Transformers form)")
        command.add_argument("--data", type=Path, default=Path("data"), help="default: data")
        command.add_argument("--exp", type=Path, default=Path("exp"), help="default: exp")
        command.add_argument("--jobs", type=whole(1), help="processes that prepare data (default: number of cores)")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a recipe value")
        if name == "run":
            command.add_argument("--stage", type=stage_number, help="first stage; complete stages run again")
            command.add_argument("--stop_stage", type=stage_number, default=LAST, help="last stage (default: 13)")
            command.add_argument("--force", action="store_true", help="run the stages from scratch")
            for option, work in (("train", "units and training"), ("prepare", "the other stages and shards")):
                text = f"command that starts Python for {work} (torchrun, srun), instead of this interpreter"
                command.add_argument(f"--{option}_launcher", default="", metavar="WORDS", help=text)
        if name == "estimate":
            command.add_argument(
                "--hours", type=number(0, above=True), required=True, help="hours of audio in the training set"
            )
            command.add_argument("--ranks", type=whole(1), default=1, help="GPUs (default: 1)")
            command.add_argument(
                "--peak", type=number(0, above=True), default=989.0, help="dense bf16 TFLOP/s of one GPU (default: 989)"
            )
            command.add_argument(
                "--mfu",
                type=number(0, 1, above=True),
                default=0.25,
                help="share of the peak that is reached (default: 0.25)",
            )
            command.add_argument("--price", type=number(0), default=0.0, help="price of a GPU hour (default: none)")
        if name == "study":
            command.add_argument("--rows", help="comma-separated rows, in addition to the base row (default: all)")
            only = command.add_mutually_exclusive_group()
            only.add_argument(
                "--report", action="store_true", help="write tables and figures of finished rows; train nothing"
            )
            only.add_argument(
                "--dry_run", action="store_true", help="list missing units, models and probes; start nothing"
            )
        if name == "stage":
            command.add_argument("--shards", action="store_true", help="write the shards that the stage reads")
            command.add_argument("--study", action="store_true", help="the stage belongs to the recipe's study.yaml")
            command.add_argument("id", metavar="N", help="a number, or the name of an additional unit set or model")
    return parser


def job_of(args: argparse.Namespace) -> Job:
    """The recipe and its folders that the options of run, stage, show or estimate name. Raises CorpusError."""
    local = {}
    for name in LOCAL_UPSTREAMS:
        path = getattr(args, name)
        if path is not None:
            if not path.is_dir():
                raise CorpusError(f"--{name} {path}: no such folder")
            check_directory(path)
            local[name] = path.resolve()
    if getattr(args, "study", False):
        recipe = load_study(args.recipe, args.set, local).recipe
    else:
        recipe = load_recipe(args.recipe, args.set, local, args.config)
    return _make_job(recipe, args, "python -m egs run".split() if args.called else ["./run.sh"])


def _make_job(recipe: Recipe, args: argparse.Namespace, command: list[str], *, takes_stages: bool = True) -> Job:
    return Job(
        recipe=recipe,
        data=args.data / recipe.name,
        exp=args.exp / recipe.name,
        jobs=args.jobs or cores(),
        command=shlex.join([*command, *shared_arguments(args)]),
        called=getattr(args, "called", ""),
        takes_stages=takes_stages,
    )


def shared_arguments(args: argparse.Namespace) -> list[str]:
    """The options that `run` passes on to the process of each stage."""
    shared = ["--recipe", args.recipe]
    for name, default in {"data": Path("data"), "exp": Path("exp"), "jobs": None}.items():
        if getattr(args, name) != default:
            shared += [f"--{name}", str(getattr(args, name))]
    for name in (*LOCAL_UPSTREAMS, "config", "called"):
        if getattr(args, name, None):
            shared += [f"--{name}", str(getattr(args, name))]
    for item in args.set:
        shared += ["--set", item]
    return shared


def _run(job: Job, args: argparse.Namespace) -> int:
    child = [sys.executable, "-m", "egs", "stage", *shared_arguments(args)]
    first = 1 if args.stage is None else args.stage
    if first > args.stop_stage:
        raise CorpusError(f"--stage {first} is above --stop_stage {args.stop_stage}: no stage to run")
    launchers = Launchers(*(_words(args, f"{work}_launcher") for work in ("prepare", "train")))
    ran = Runner(job, launchers).run(Range(first, args.stop_stage, args.stage is not None, args.force), child)
    if args.stop_stage == LAST and LAST not in ran:
        print((job.exp / "results.txt").read_text(encoding="utf-8"), end="")
    return 0


def _words(args: argparse.Namespace, option: str) -> tuple[str, ...]:
    """The words of a command that an option gives."""
    try:
        return tuple(shlex.split(getattr(args, option)))
    except ValueError as error:
        raise CorpusError(f"--{option} {getattr(args, option)}: {error}") from None


def _study(args: argparse.Namespace) -> int:
    study = load_study(args.recipe, args.set, {}, args.rows.split(",") if args.rows else None)
    rows = ["--rows", args.rows] if args.rows else []
    job = _make_job(study.recipe, args, [*"python -m egs study".split(), *rows], takes_stages=False)
    wanted: list[StageId] = [1, *(STAGE_OF.get(key, key) for key in study.wanted())]
    if not args.report:
        # A separate Runner: a Runner keeps the states that it read, and another process may complete stages meanwhile.
        print(_plan(study, Runner(job), wanted), flush=True)
    if args.dry_run:
        return 0
    from egs.pipeline.study_results import run_probes, write_results

    if not args.report:
        child = [sys.executable, "-m", "egs", "stage", "--study", *shared_arguments(args)]
        Runner(job).run(Range(), child, wanted)
    runner = Runner(job)
    reasons = {row: runner.incomplete(study.run_of(row)) or "" for row in study.rows}
    try:
        if not args.report:
            run_probes(study, job)
        # A row is stale only if its own inputs changed: a deleted corpus or model does not change results.
        print(write_results(study, job, {row: why for row, why in reasons.items() if why.endswith(CHANGED)}))
    except (ValueError, RuntimeError) as error:
        raise StageError(f"{error}. The same command resumes from here.") from error
    return 0


def _plan(study: Study, runner: Runner, wanted: list[StageId]) -> str:
    """The rows of a study, its missing units and models, and its probes."""
    recipe = study.recipe
    lines = [f"study of {recipe.name}: {len(study.rows)} rows ({', '.join(study.rows)})"]
    missing = [runner.stages[stage].title for stage in wanted if runner.incomplete(stage)]
    lines.append(f"  to make: {'; '.join(missing)}" if missing else "  units and models: complete")
    context = f" and {', '.join(study.config.upstreams)}" if study.config.upstreams else ""
    for task, config in recipe.tasks.items():
        seeds = study.config.seeds or config.seeds
        folds = f", {config.folds} folds" if config.folds else ""
        many = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}{folds}"
        lines.append(f"  then the missing {task} probes of every row{context}: {config.protocol}, {many}")
    return "\n".join(lines)


def _show(job: Job, args: argparse.Namespace) -> int:
    runner = Runner(job)
    for name, stage in runner.stages.items():
        if stage.settings(job) is None:
            state = "left out: the recipe does not have it"
        else:
            state = runner.incomplete(name) or "complete"
        print(f"{stage.number:3d}  {stage.title:28s} {state}")
    return 0


def _estimate(job: Job, args: argparse.Namespace) -> int:
    from egs.pipeline.estimate import Machine, estimate, table

    machine = Machine(args.ranks, args.peak * 1e12, args.mfu, args.price)
    print(table(estimate(job.recipe, args.hours, machine), machine))
    return 0


def _stage(job: Job, args: argparse.Namespace) -> int:
    die_with_parent()
    name = int(args.id) if args.id.isdecimal() else args.id
    stage = {stage.id: stage for stage in stages_of(job.recipe)}.get(name)
    if stage is None:
        raise CorpusError(f"stage {args.id}: recipe {job.recipe.name} has no stage of this number or name")
    if not place().is_first:
        logging.getLogger().setLevel(logging.WARNING)  # only the first process logs
    work = stage.write_shards if args.shards else stage.run
    if work is None:
        raise CorpusError(f"stage {args.id}: it reads no shards")
    try:
        work(job)
    except (StageError, KeyboardInterrupt):
        raise
    except Exception as error:
        # The user sees one line; the traceback is for debugging.
        path = job.exp / "logs" / f"stage_{file_name(stage.id)}.traceback"
        with contextlib.suppress(OSError):  # on a full disk too, the user reads what happened
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(traceback.format_exc(), encoding="utf-8")
        known = isinstance(error, ValueError | OSError)
        kind = "" if known else f"{type(error).__name__}: "
        raise StageError(f"{kind}{one_line(error, job.exp)} (traceback: {path})") from error
    return 0


def _check() -> int:
    """Log versions, cores, memory, disk and GPU."""
    import torch

    found = versions(SHOWN)
    memory = memory_bytes()
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    log.info("Python %s on %s %s", platform.python_version(), platform.system(), platform.machine())
    log.info("packages: %s", ", ".join(f"{name} {found.get(name, 'missing')}" for name in SHOWN))
    log.info(
        "cores %d, memory %s, free disk %.0f GiB, GPU %s",
        cores(),
        f"{memory / GIB:.1f} GiB" if memory else "unknown",
        shutil.disk_usage(Path.cwd()).free / GIB,
        ", ".join(f"{g.name} ({g.total_memory / GIB:.0f} GiB)" for g in gpus) or "none (everything runs on the CPU)",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
