"""`python -m egs run|stage|show|check`: what run.sh calls; `python -m egs study`: variants of one run, compared."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import traceback
from pathlib import Path

from egs.pipeline.graph import MADE_BY
from egs.pipeline.recipe import Recipe, RecipeError, load_recipe
from egs.pipeline.run import Launchers, Range, Walk, die_with_parent
from egs.pipeline.sources import StageError
from egs.pipeline.stages import STAGES, Job, Place, stages_of
from egs.pipeline.stamps import CHANGED, RecipeLocked, file_name
from egs.pipeline.study import Study, load_study
from upstream.distributed import place as process_place

log = logging.getLogger("egs")


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, 1 when a stage fails, 2 for a wrong option, recipe or key, 130 when interrupted."""
    args = _parser().parse_args(argv)
    logging.basicConfig(
        format="%(asctime)s (%(module)s:%(lineno)d) %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        level=logging.INFO,
        stream=sys.stdout,
    )
    if args.command == "check":
        from egs.pipeline.machine import describe

        for line in describe():
            log.info(line)
        return 0
    try:
        if args.command == "study":
            return _study(args)
        job = _job(args)
        return {"run": _run, "stage": _stage, "show": _show, "estimate": _estimate}[args.command](job, args)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (StageError, RecipeLocked) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # of this process itself: a full disk, a folder that may not be written
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m egs", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="versions, cores, memory, disk and GPU", allow_abbrev=False)
    for name, text in (
        ("run", "walk the stages of a recipe"),
        ("stage", "the work of one stage, without looking at stamps (what `run` starts)"),
        ("show", "which stages are complete"),
        ("estimate", "hours, memory and disk that the schedule will need, by arithmetic (docs/scale.md)"),
        ("study", "the variants of egs/<recipe>/study.yaml, trained, probed and compared; goes on where it was"),
    ):
        command = commands.add_parser(name, help=text, allow_abbrev=False)
        command.add_argument("--recipe", default="mini", help="folder below egs/ (default: mini)")
        if name != "study":
            command.add_argument("--config", type=Path, help="the schedule, instead of egs/<recipe>/recipe.yaml")
            command.add_argument("--called", default="", help="the script that the user started, for messages")
            command.add_argument("--hubert", type=Path, help="a HuBERT in Transformers form to compare with")
            command.add_argument("--xlsr", type=Path, help="an XLS-R in Transformers form to compare with")
        command.add_argument("--data", type=Path, default=Path("data"), help="default: data")
        command.add_argument("--exp", type=Path, default=Path("exp"), help="default: exp")
        command.add_argument("--jobs", type=int, help="processes that prepare data (default: number of cores)")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a recipe value")
        if name == "run":
            command.add_argument("--stage", type=int, help="first stage; runs again what is complete")
            command.add_argument("--stop_stage", type=int, default=len(STAGES), help="last stage (default: 13)")
            command.add_argument("--force", action="store_true", help="start the stages from nothing")
            for option, what in (("train", "units and training"), ("prepare", "the other stages and shards")):
                text = f"words that start Python for {what} (torchrun, srun), instead of this interpreter"
                command.add_argument(f"--{option}_launcher", default="", metavar="WORDS", help=text)
        if name == "estimate":
            command.add_argument("--hours", type=float, required=True, help="of audio in the training set")
            command.add_argument("--ranks", type=int, default=1, help="GPUs (default: 1)")
            command.add_argument("--peak", type=float, default=989.0, help="dense bf16 TFLOP/s of one (default: 989)")
            command.add_argument("--mfu", type=float, default=0.25, help="share of it that is reached (default: 0.25)")
            command.add_argument("--price", type=float, default=0.0, help="of a GPU hour (default: none)")
        if name == "study":
            command.add_argument("--rows", help="comma-separated rows to work on beside the base row (default: all)")
            only = command.add_mutually_exclusive_group()
            only.add_argument("--report", action="store_true", help="tables and figures from what is there, no work")
            only.add_argument("--dry_run", action="store_true", help="say what there is to make, start nothing")
        if name == "stage":
            command.add_argument("--shards", action="store_true", help="write the shards that the stage reads")
            command.add_argument("--study", action="store_true", help="the place is one of the recipe's study.yaml")
            command.add_argument("place", metavar="N", help="a number, or the name of what the recipe makes besides")
    return parser


def _job(args: argparse.Namespace) -> Job:
    local = {}
    for name in ("hubert", "xlsr"):
        path = getattr(args, name)
        if path is not None:
            if not path.is_dir():
                raise RecipeError(f"--{name} {path}: no such folder")
            local[name] = path.resolve()
    if getattr(args, "study", False):
        recipe = load_study(args.recipe, args.set, local).recipe
    else:
        recipe = load_recipe(args.recipe, args.set, local, args.config)
    return _job_of(recipe, args, "python -m egs run".split() if args.called else ["./run.sh"])


def _job_of(recipe: Recipe, args: argparse.Namespace, command: list[str], *, takes_stages: bool = True) -> Job:
    from egs.pipeline.machine import cores

    return Job(
        recipe=recipe,
        data=args.data / recipe.name,
        exp=args.exp / recipe.name,
        jobs=args.jobs or cores(),
        command=shlex.join([*command, *_shared_arguments(args)]),
        called=getattr(args, "called", ""),
        takes_stages=takes_stages,
    )


def _shared_arguments(args: argparse.Namespace) -> list[str]:
    shared = ["--recipe", args.recipe]
    for name, default in {"data": Path("data"), "exp": Path("exp"), "jobs": None}.items():
        if getattr(args, name) != default:
            shared += [f"--{name}", str(getattr(args, name))]
    for name in ("hubert", "xlsr", "config", "called"):
        if getattr(args, name, None):
            shared += [f"--{name}", str(getattr(args, name))]
    for item in args.set:
        shared += ["--set", item]
    return shared


def _run(job: Job, args: argparse.Namespace) -> int:
    child = [sys.executable, "-m", "egs", "stage", *_shared_arguments(args)]
    first = 1 if args.stage is None else args.stage
    launchers = Launchers(*(tuple(shlex.split(words)) for words in (args.prepare_launcher, args.train_launcher)))
    ran = Walk(job, launchers).run(Range(first, args.stop_stage, args.stage is not None, args.force), child)
    if args.stop_stage == len(STAGES) and len(STAGES) not in ran:
        print((job.exp / "results.txt").read_text(encoding="utf-8"), end="")
    return 0


def _study(args: argparse.Namespace) -> int:
    study = load_study(args.recipe, args.set, {}, args.rows.split(",") if args.rows else None)
    rows = ["--rows", args.rows] if args.rows else []
    job = _job_of(study.recipe, args, [*"python -m egs study".split(), *rows], takes_stages=False)
    places: list[Place] = [1, *(MADE_BY.get(key, key) for key in study.wanted())]
    if not args.report:
        # A walk of its own: what it found must not outlive the moment, since another process may be at work.
        print(_plan(study, Walk(job), places), flush=True)
    if args.dry_run:
        return 0
    from egs.pipeline.study_results import run_probes, write_results

    if not args.report:
        child = [sys.executable, "-m", "egs", "stage", "--study", *_shared_arguments(args)]
        Walk(job).run(Range(), child, places)
    walk = Walk(job)
    reasons = {row: walk.incomplete(study.run_of(row)) or "" for row in study.rows}
    try:
        if not args.report:
            run_probes(study, job)
        # What is no longer there, corpora or another model, says nothing about the results.
        print(write_results(study, job, {row: why for row, why in reasons.items() if why.endswith(CHANGED)}))
    except (ValueError, RuntimeError) as error:
        raise StageError(f"{error}. The same command goes on from here.") from error
    return 0


def _plan(study: Study, walk: Walk, places: list[Place]) -> str:
    """What a study consists of, which units and models are still to be made, and its probes."""
    recipe = study.recipe
    lines = [f"study of {recipe.name}: {len(study.rows)} rows ({', '.join(study.rows)})"]
    missing = [walk.stages[place].title for place in places if walk.incomplete(place)]
    lines.append(f"  to make: {'; '.join(missing)}" if missing else "  units and models: complete")
    context = f" and {', '.join(study.config.upstreams)}" if study.config.upstreams else ""
    for task, config in recipe.tasks.items():
        seeds = study.config.seeds or config.seeds
        folds = f", {config.folds} folds" if config.folds else ""
        many = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}{folds}"
        lines.append(f"  then the {task} probes that are missing of every row{context}: {config.protocol}, {many}")
    return "\n".join(lines)


def _show(job: Job, args: argparse.Namespace) -> int:
    walk = Walk(job)
    for place, this in walk.stages.items():
        if this.settings(job) is None:
            state = "left out: the recipe has none"
        else:
            state = walk.incomplete(place) or "complete"
        print(f"{this.number:3d}  {this.title:28s} {state}")
    return 0


def _estimate(job: Job, args: argparse.Namespace) -> int:
    from egs.pipeline.estimate import Machine, estimate, table

    if min(args.hours, args.ranks, args.peak, args.mfu) <= 0 or args.mfu > 1 or args.price < 0:
        raise RecipeError("estimate: --hours, --ranks, --peak and --mfu must be positive, --mfu at most 1")
    machine = Machine(args.ranks, args.peak * 1e12, args.mfu, args.price)
    print(table(estimate(job.recipe, args.hours, machine), machine))
    return 0


def _stage(job: Job, args: argparse.Namespace) -> int:
    die_with_parent()
    place = int(args.place) if args.place.isdecimal() else args.place
    this = {part.place: part for part in stages_of(job.recipe)}.get(place)
    if this is None:
        raise RecipeError(f"stage {args.place}: recipe {job.recipe.name} has none of this number or name")
    if not process_place().is_first:
        logging.getLogger().setLevel(logging.WARNING)  # what all of them do, one of them tells
    try:
        (this.write_shards if args.shards else this.run)(job)
    except (StageError, KeyboardInterrupt):
        raise
    except Exception as error:
        # What went wrong in one line for everybody; where, for whoever has to look into the code.
        place = job.exp / "logs" / f"stage_{file_name(this.place)}.traceback"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(traceback.format_exc(), encoding="utf-8")
        raise StageError(f"{type(error).__name__}: {error} (traceback: {place})") from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
