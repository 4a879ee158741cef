"""The thirteen stages after the environment: what each reads, makes, and calls.

The numbers are those of `run.sh --help`. A stage is a record; `egs.walk` decides which of them run. Libraries are
imported when a stage runs, so that looking at stamps costs nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.files import atomic_dir, sha256_file, write_text
from egs.recipe import LOCAL_UPSTREAMS, MEMBER_OF, TASKS, UNITS_OF, Recipe
from egs.sources import StageError, prepare
from egs.stamps import content_digest

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
ITERATION = {"hl_it1": 1, "hl_it2": 2, "hs": 3, "hst": 3}
EXPORT_NAME = {"hl_it1": "harness_l_it1", "hl_it2": "harness_l", "hs": "harness_s", "hst": "harness_st"}
RANDOM = "random_l"
# The stage that makes a thing which a recipe may name as a source.
MADE_BY = {"it1": 2, "hl_it1": 3, "it2": 4, "hl_it2": 5, "student": 6, "hs": 7, "hst": 8}
TASK_STAGES = {10: "asr", 11: "ser", 12: "did"}
SPLITS = ("train", "dev")


@dataclass(frozen=True)
class Job:
    """One recipe and where it works: `data` and `exp` are the recipe's own folders, `jobs` counts processes, `command`
    is what the user would type to get here."""

    recipe: Recipe
    data: Path
    exp: Path
    jobs: int = 1
    command: str = "./run.sh"

    @property
    def models(self) -> Path:
        """The folder of exported model directories."""
        return self.exp / "models"

    def model_dir(self, source: str) -> Path:
        """A model that the recipe names: made by one of its stages, or a path."""
        return self.exp / source / "model" if source in MADE_BY else Path(source)


@dataclass(frozen=True)
class Stage:
    """`needs`: stages whose results it reads; `settings`: what its stamp covers (None: nothing to do for this recipe);
    `outputs`: what must exist; `content`: the files that later stages read; `work`: folders to reset before it starts
    from nothing; `run`: the work itself."""

    number: int
    title: str
    needs: Callable[[Recipe], tuple[int, ...]]
    settings: Callable[[Job], Any]
    outputs: Callable[[Job], list[Path]]
    content: Callable[[Job], list[Path]]
    work: Callable[[Job], list[Path]]
    run: Callable[[Job], None]


def prepare_corpora(job: Job) -> None:
    """Stage 1: data directories of every set and split."""
    prepare(job.recipe, job.data, job.jobs)


def _units_stage(key: str, title: str) -> Stage:
    def settings(job: Job) -> Any:
        return dataclasses.asdict(job.recipe.units[key])

    def run(job: Job) -> None:
        from upstream.targets.make import make_units

        config = job.recipe.units[key]
        if config.source != "mfcc":
            config = dataclasses.replace(config, source=str(job.model_dir(config.source)))
        make_units({split: job.data / "ssl" / split for split in SPLITS}, job.exp / "units" / key, config)

    def content(job: Job) -> list[Path]:
        folder = job.exp / "units" / key
        return [folder / f"{split}.bin" for split in SPLITS]

    def needs(recipe: Recipe) -> tuple[int, ...]:
        return _with_sources((1,), recipe.units[key].source)

    return Stage(
        number=MADE_BY[key],
        title=title,
        needs=needs,
        settings=settings,
        outputs=lambda job: [
            job.exp / "units" / key / "codebook.safetensors",
            *content(job),
            *(job.exp / "units" / key / f"{split}.json" for split in SPLITS),
        ],
        content=content,
        work=lambda job: [job.exp / "units" / key],
        run=run,
    )


def _with_sources(needs: tuple[int, ...], *sources: str | None) -> tuple[int, ...]:
    return tuple(sorted({*needs, *(MADE_BY[source] for source in sources if source in MADE_BY)}))


def _model_stage(key: str, title: str) -> Stage:
    units_key = UNITS_OF[key]

    def settings(job: Job) -> Any:
        run = job.recipe.pretrain[key]
        geometry = dataclasses.asdict(job.recipe.family[MEMBER_OF[key]])
        return {"geometry": geometry, "init": dataclasses.asdict(run.init), "train": dataclasses.asdict(run.train)}

    def run(job: Job) -> None:
        from upstream.family import delta_s
        from upstream.modeldir import model_sha256
        from upstream.pretrain import pretrain

        # Lightning tells of its devices and its maker's products at every start.
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        recipe = job.recipe
        geometry, model_run = recipe.family[MEMBER_OF[key]], recipe.pretrain[key]
        init = model_run.init
        if init.source is not None:
            init = dataclasses.replace(init, source=str(job.model_dir(init.source)))
        card = {
            "name": EXPORT_NAME[key],
            "recipe": recipe.name,
            "iteration": ITERATION[key],
            "data": {"corpora": recipe.corpora.module, "sources": recipe.corpora.sources},
            "units_source": recipe.units[units_key].source,
            "init_source": model_run.init.source,
            "delta_s": round(delta_s(geometry, recipe.family["hl"]), 2),
        }
        source = recipe.units[units_key].source
        units = {
            "k": recipe.units[units_key].k,
            "model_sha256": None if source == "mfcc" else model_sha256(job.model_dir(source)),
        }
        folders = job.data / "ssl", job.exp / "units" / units_key, job.exp / key
        pretrain(geometry, *folders, model_run.train, init, card, expected_units=units)

    return Stage(
        number=MADE_BY[key],
        title=title,
        needs=lambda recipe: _with_sources((1, MADE_BY[units_key]), recipe.pretrain[key].init.source),
        settings=settings,
        outputs=lambda job: [job.exp / key / "model" / name for name in ("config.json", "model.safetensors")],
        content=lambda job: [job.exp / key / "model" / "model.safetensors"],
        work=lambda job: [job.exp / key],
        run=run,
    )


def _exports(job: Job) -> list[str]:
    return [*EXPORT_NAME.values(), RANDOM, *job.recipe.local_upstreams]


def export(job: Job) -> None:
    """Stage 9: one model directory per upstream below `models/`, and what each costs."""
    from upstream.compression import measure, table

    for key, name in EXPORT_NAME.items():
        _copy_model(job.exp / key / "model", job.models / name)
    _save_random(job)
    for name, path in job.recipe.local_upstreams.items():
        if not (path / "model.safetensors").is_file():
            raise StageError(
                f"--{name} {path}: no model.safetensors there; a folder in Transformers form is needed "
                "(HubertModel.save_pretrained writes one; pickled weights are never loaded)"
            )
        _copy_model(path, job.models / name)
    log.info("measuring parameters, MACs and time of %d models on the CPU", len(_exports(job)))
    rows = measure({name: job.models / name for name in _exports(job)}, job.exp / "compression.csv")
    print(table(rows), flush=True)


def _copy_model(source: Path, target: Path) -> None:
    with atomic_dir(target) as temporary:
        for name in ("config.json", "model.safetensors", "preprocessor_config.json", "README.md"):
            if (source / name).is_file():
                shutil.copyfile(source / name, temporary / name)


def _save_random(job: Job) -> None:
    """HL before its first step: the seed, and for log-mel the statistics, of iteration 1."""
    from upstream.config import InitConfig
    from upstream.modeldir import save_model
    from upstream.pretrain import initial_model, training_utterances

    recipe = job.recipe
    seed = recipe.pretrain["hl_it1"].train.seed
    utterances, _ = training_utterances(job.data / "ssl", job.exp / "units" / "it1", "train")
    model = initial_model(recipe.family["hl"], utterances, InitConfig(), seed)
    card = {
        "name": RANDOM,
        "recipe": recipe.name,
        "iteration": 0,
        "geometry": dataclasses.asdict(recipe.family["hl"]),
        "front_end": recipe.family["hl"].front_end,
        "init": {"kind": "random", "seed": seed},
    }
    save_model(model.eval(), job.models / RANDOM, card)


def _export_settings(job: Job) -> Any:
    marks = {}
    for name, path in job.recipe.local_upstreams.items():
        weights = path / "model.safetensors"
        marks[name] = [str(path), weights.stat().st_size if weights.is_file() else None]
    return {"seed": job.recipe.pretrain["hl_it1"].train.seed, "local_upstreams": marks}


def _task_stage(number: int, task: str) -> Stage:
    def upstreams(recipe: Recipe) -> list[str]:
        own = recipe.tasks[task].upstreams
        return recipe.upstreams if own is None else [*own, *recipe.local_upstreams]

    def settings(job: Job) -> Any:
        if task not in job.recipe.tasks:
            return None
        config = job.recipe.tasks[task]
        protocol = ROOT / "downstream" / task / f"{config.protocol}.yaml"
        return {
            **dataclasses.asdict(config),
            "upstreams": upstreams(job.recipe),
            "protocol_sha256": sha256_file(protocol) if protocol.is_file() else None,
        }

    def run(job: Job) -> None:
        from downstream.benchmark import run as benchmark

        config = job.recipe.tasks[task]
        benchmark(
            task=task,
            recipe=job.recipe.name,
            data_dir=job.data,
            exp_dir=job.exp,
            upstreams=upstreams(job.recipe),
            models_dir=job.models,
            protocol=config.protocol,
            seeds=config.seeds,
            folds=config.folds,
            overrides=dict(_dotted(config.overrides)),
            finetune=config.finetune,
            budgets=config.budgets,
            jobs=job.jobs,
        )

    def runs(job: Job) -> list[Path]:
        return [job.exp / "probes" / f"{task}_{job.recipe.tasks[task].protocol}"]

    return Stage(
        number=number,
        title=task.upper(),
        needs=lambda recipe: (1, 9),
        settings=settings,
        outputs=lambda job: [job.exp / "results.csv", *runs(job)],
        content=lambda job: [job.exp / "results.csv"],
        work=runs,
        run=run,
    )


def _dotted(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings under dotted keys, as a protocol takes its overrides."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def report(job: Job) -> None:
    """Stage 13: tables, page and plot from results.csv; `results.txt` keeps what is printed, for the next run."""
    from downstream.report import build

    absent = [task for task in TASKS if task not in job.recipe.tasks]
    left_out = {task: f"recipe {job.recipe.name} has no corpus for it" for task in absent}
    for name in LOCAL_UPSTREAMS:
        if name not in job.recipe.local_upstreams:
            left_out[name] = f"no weights at hand; `./run.sh --recipe {job.recipe.name} --{name} PATH` adds it"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        build(job.exp, job.recipe.name, left_out=left_out, command=job.command)
    write_text(job.exp / "results.txt", printed.getvalue())
    print(printed.getvalue(), end="", flush=True)


def _report_needs(recipe: Recipe) -> tuple[int, ...]:
    return (9, *(number for number, task in TASK_STAGES.items() if task in recipe.tasks))


STAGES: tuple[Stage, ...] = (
    Stage(
        number=1,
        title="corpora",
        needs=lambda recipe: (),
        settings=lambda job: dataclasses.asdict(job.recipe.corpora),
        outputs=lambda job: [job.data / "ssl" / split / "wav.scp" for split in SPLITS],
        content=lambda job: [job.data],
        work=lambda job: [job.data],
        run=prepare_corpora,
    ),
    _units_stage("it1", "units, iteration 1"),
    _model_stage("hl_it1", "teacher HL, iteration 1"),
    _units_stage("it2", "units, iteration 2"),
    _model_stage("hl_it2", "teacher HL, iteration 2"),
    _units_stage("student", "student units"),
    _model_stage("hs", "distil HS"),
    _model_stage("hst", "distil HST"),
    Stage(
        number=9,
        title="export, compression table",
        needs=lambda recipe: (1, 3, 5, 7, 8),
        settings=_export_settings,
        outputs=lambda job: [
            job.exp / "compression.csv",
            *(job.models / name / "model.safetensors" for name in _exports(job)),
        ],
        content=lambda job: [job.models / name / "model.safetensors" for name in _exports(job)],
        work=lambda job: [job.models],
        run=export,
    ),
    *(_task_stage(number, task) for number, task in TASK_STAGES.items()),
    Stage(
        number=13,
        title="report",
        needs=_report_needs,
        settings=lambda job: {},
        outputs=lambda job: [job.exp / "RESULTS.md", job.exp / "results.txt"],
        content=lambda job: [job.exp / "RESULTS.md"],
        work=lambda job: [],
        run=report,
    ),
)


def stage(number: int) -> Stage:
    """The stage of a number, 1 to 13."""
    return STAGES[number - 1]


def result(job: Job, number: int) -> str:
    """Digest of what later stages read from a finished stage."""
    return content_digest(stage(number).content(job))
