"""The thirteen stages after the environment: what each reads, makes, and calls.

The numbers are those of `run.sh --help`. A stage is a record; `egs.pipeline.run` decides which of them run. Libraries
are imported when a stage runs, so that looking at stamps costs nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.files import atomic_dir, sha256_file, write_text
from egs.pipeline.foreign import WEIGHTS, file_sha256, weights_of
from egs.pipeline.graph import MADE_BY, dependencies, plan
from egs.pipeline.recipe import LOCAL_UPSTREAMS, TASKS, Recipe
from egs.pipeline.sources import StageError, prepare
from egs.pipeline.training import EXPORT_NAME, label_set, train, write_shards
from upstream.config import S3PRL

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
RANDOM = "random_l"
TASK_STAGES = {10: "asr", 11: "ser", 12: "did"}
SPLITS = ("train", "dev")


@dataclass(frozen=True)
class Job:
    """One recipe and where it works: `data` and `exp` are the recipe's own folders, `jobs` counts processes, `command`
    is what the user typed or would type to get here, without a range of stages; `takes_stages`: whether it can have
    one; `called`: how messages name a script that is not the root's run.sh."""

    recipe: Recipe
    data: Path
    exp: Path
    jobs: int = 1
    command: str = "./run.sh"
    called: str = ""
    takes_stages: bool = True

    @property
    def again(self) -> str:
        """What goes on from here, with the options that it was started with: others would make something else."""
        return f"{self.called} with the same options" if self.called else self.command

    @property
    def models(self) -> Path:
        """The folder of exported model directories."""
        return self.exp / "models"

    @property
    def shards(self) -> Path:
        """The training audio of a recipe that wants shards."""
        return self.exp / "shards"

    def model_dir(self, source: str) -> Path:
        """A model that the recipe names: made by one of its stages, or a path."""
        return self.exp / source / "model" if source in self.recipe.pretrain else Path(source)


# A stage of the thirteen by its number, what else a recipe makes by its name.
Place = int | str


@dataclass(frozen=True)
class Stage:
    """`number`: one of the thirteen; `key`: the name of what is made within it for this recipe alone, else empty;
    `needs`: places whose results it reads; `settings`: what its stamp covers (None: nothing to do for this recipe);
    `outputs`: what must exist; `content`: the files that later stages read; `work`: folders to reset before it starts
    from nothing; `run`: the work itself; `shared`: whether the processes of torchrun or srun share it;
    `write_shards`: makes the shards that it reads, where the recipe wants them, in one process."""

    number: int
    title: str
    needs: Callable[[Recipe], tuple[Place, ...]]
    settings: Callable[[Job], Any]
    outputs: Callable[[Job], list[Path]]
    content: Callable[[Job], list[Path]]
    work: Callable[[Job], list[Path]]
    run: Callable[[Job], None]
    key: str = ""
    shared: bool = False
    write_shards: Callable[[Job], None] | None = None

    @property
    def place(self) -> Place:
        """Under which its stamp and its log are kept."""
        return self.key or self.number


def prepare_corpora(job: Job) -> None:
    """Stage 1: data directories of every set and split."""
    prepare(job.recipe, job.data, job.jobs)


def _units_stage(key: str, title: str, number: int | None = None) -> Stage:
    def settings(job: Job) -> Any:
        config = job.recipe.units[key]
        return dataclasses.asdict(config) | _models(job, [config.source])

    def run(job: Job) -> None:
        from upstream.units.label import make_units

        config = job.recipe.units[key]
        if config.source != "mfcc" and not config.source.startswith(S3PRL):
            config = dataclasses.replace(config, source=str(job.model_dir(config.source)))
        make_units({split: job.data / "ssl" / split for split in SPLITS}, job.exp / "units" / key, config)

    def content(job: Job) -> list[Path]:
        folder = job.exp / "units" / key
        return [folder / f"{split}.bin" for split in SPLITS]

    return Stage(
        number=number or MADE_BY[key],
        key="" if key in MADE_BY else key,
        title=title,
        needs=lambda recipe: _needs(recipe, key),
        settings=settings,
        outputs=lambda job: [
            job.exp / "units" / key / "codebook.safetensors",
            *content(job),
            *(job.exp / "units" / key / f"{split}.json" for split in SPLITS),
        ],
        content=content,
        work=lambda job: [job.exp / "units" / key],
        run=run,
        shared=True,
    )


def _models(job: Job, sources: Iterable[str | None]) -> dict[str, Any]:
    """What settings hold of models from elsewhere; nothing where there are none."""
    found = weights_of(job.recipe, sources)
    return {"models": found} if found else {}


def _place(key: str) -> Place:
    return MADE_BY.get(key, key)


def _needs(recipe: Recipe, key: str) -> tuple[Place, ...]:
    places = {1, *map(_place, dependencies(recipe, key))}
    return (*sorted(p for p in places if isinstance(p, int)), *sorted(p for p in places if isinstance(p, str)))


def _model_stage(key: str, title: str, number: int | None = None) -> Stage:
    def settings(job: Job) -> Any:
        run = job.recipe.pretrain[key]
        geometry = job.recipe.family[run.geometry].facts()
        own = {"geometry": geometry, "init": dataclasses.asdict(run.init), "train": dataclasses.asdict(run.train)}
        # As a list: the order says which set is the main one, and digests sort the keys of mappings.
        own |= {"units": list(run.units.items())}
        own |= {"regression": dataclasses.asdict(run.regression) if run.regression else None}
        if job.recipe.shards is not None:
            own["shards"] = dataclasses.asdict(job.recipe.shards)
        return own | _models(job, [run.init.source, run.regression.source if run.regression else None])

    return Stage(
        number=number or MADE_BY[key],
        key="" if key in MADE_BY else key,
        title=title,
        needs=lambda recipe: _needs(recipe, key),
        settings=settings,
        outputs=lambda job: [job.exp / key / "model" / name for name in ("config.json", "model.safetensors")],
        content=lambda job: [job.exp / key / "model" / "model.safetensors"],
        work=lambda job: [job.exp / key],
        run=lambda job: train(job, key),
        shared=True,
        write_shards=lambda job: write_shards(job, key),
    )


def _trained(recipe: Recipe) -> dict[str, str]:
    """Every model that the recipe trains, and the name under which it is exported."""
    return EXPORT_NAME | {key: key for key in recipe.pretrain if key not in EXPORT_NAME}


def _exports(job: Job) -> list[str]:
    return [*_trained(job.recipe).values(), RANDOM, *job.recipe.local_upstreams]


def export(job: Job) -> None:
    """Stage 9: one model directory per upstream below `models/`, and what each costs."""
    from upstream.tools.cost import measure, table

    for key, name in _trained(job.recipe).items():
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
    from upstream.model.modeldir import save_model
    from upstream.pretrain.init import initial_model
    from upstream.pretrain.train import training_utterances

    recipe = job.recipe
    seed = recipe.pretrain["hl_it1"].train.seed
    sets = [label_set(job, name, weight) for name, weight in recipe.pretrain["hl_it1"].units.items()]
    utterances, _ = training_utterances(job.data / "ssl", sets, "train")
    geometry = recipe.family[recipe.pretrain["hl_it1"].geometry]
    model = initial_model(geometry, utterances, InitConfig(), seed)
    card = {
        "name": RANDOM,
        "recipe": recipe.name,
        "iteration": 0,
        "geometry": geometry.facts(),
        "front_end": geometry.front_end,
        "init": {"kind": "random", "seed": seed},
    }
    save_model(model.eval(), job.models / RANDOM, card)


def _export_settings(job: Job) -> Any:
    marks = {name: [str(path), file_sha256(path / WEIGHTS)] for name, path in job.recipe.local_upstreams.items()}
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
            **_models(job, [name for name in upstreams(job.recipe) if "=" in name]),
        }

    def run(job: Job) -> None:
        from downstream.grid.run import run as benchmark

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
            overrides=dict(dotted(config.overrides)),
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


def dotted(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings under dotted keys, as a protocol takes its overrides."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")
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
        # Without what is empty, so that data made before there was such a key is still complete.
        settings=lambda job: {k: v for k, v in dataclasses.asdict(job.recipe.corpora).items() if k != "prepare" or v},
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
        needs=lambda recipe: (1, *(_place(key) for key in _trained(recipe))),
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
        outputs=lambda job: [job.exp / "RESULTS.md", job.exp / "report" / "index.html", job.exp / "results.txt"],
        content=lambda job: [job.exp / "RESULTS.md"],
        work=lambda job: [],
        run=report,
    ),
)


def stage(number: int) -> Stage:
    """The stage of a number, 1 to 13."""
    return STAGES[number - 1]


def stages_of(recipe: Recipe) -> list[Stage]:
    """The thirteen stages and what the recipe makes within them besides, in the order in which they run."""
    order = plan(recipe)
    return [
        part
        for this in STAGES
        for part in ([_part(recipe, key, this) for key in order[this.number]] if this.number in order else [this])
    ]


def _part(recipe: Recipe, key: str, host: Stage) -> Stage:
    if key in MADE_BY:
        return host
    if key in recipe.units:
        return _units_stage(key, f"units {key}", host.number)
    return _model_stage(key, f"training {key}", host.number)
