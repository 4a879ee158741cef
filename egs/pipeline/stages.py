"""List the stages of a recipe, each with its inputs, settings and outputs.

From this list `egs.pipeline.run` decides which stages are complete; `egs.pipeline.work` does the work. The numbers are
those of `run.sh --help`; stage 0, the environment, is not in the list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.files import cached_sha256
from downstream.protocols import TASKS
from egs.pipeline import work
from egs.pipeline.recipe import STAGE_OF, Recipe, build_order, dependencies
from egs.pipeline.work import SPLITS, Job
from upstream.config import settings_of

ROOT = Path(__file__).resolve().parents[2]
LAST = 13
WEIGHTS = "model.safetensors"

# Number of a stage, or name of an additional unit set or model.
StageId = int | str


@dataclass(frozen=True)
class Stage:
    """One stage.

    number, title: as in `run.sh --help`
    key: the unit set or model that it makes, if any
    needs: stages whose results it reads
    settings: the part of the configuration that decides its outputs; None where the recipe leaves the stage out
    outputs: files and folders that must exist
    content: files that later stages read
    run: the work
    work_dirs: folders to delete before it starts from scratch
    kept_in: for units and runs, the folder that keeps the outputs of every configuration, in `<key>-<digest>`
    link: for units and runs, the link to the current outputs
    incremental: whether the work itself keeps the finished parts that are still valid
    shared: whether the processes of torchrun or srun share the work
    write_shards: writes the shards that the stage reads, if the recipe trains from shards; one process does it
    """

    number: int
    title: str
    needs: Callable[[Recipe], tuple[StageId, ...]]
    settings: Callable[[Job], Any]
    outputs: Callable[[Job], list[Path]]
    content: Callable[[Job], list[Path]]
    run: Callable[[Job], None]
    key: str = ""
    work_dirs: Callable[[Job], list[Path]] = lambda job: []
    kept_in: str = ""
    link: Callable[[Job], Path] | None = None
    incremental: bool = False
    shared: bool = False
    write_shards: Callable[[Job], None] | None = None

    @property
    def id(self) -> StageId:
        """The number of the stage, or the key of an additional unit set or model. It names the stage's log."""
        return _id(self.key) if self.key else self.number


def file_name(stage: StageId) -> str:
    """Two digits for a number, a name as it is."""
    return f"{stage:02d}" if isinstance(stage, int) else stage


def _id(key: str) -> StageId:
    return STAGE_OF.get(key, key)


def _needs(recipe: Recipe, key: str) -> tuple[StageId, ...]:
    needed = {1, *map(_id, dependencies(recipe, key))}
    return (*sorted(n for n in needed if isinstance(n, int)), *sorted(n for n in needed if isinstance(n, str)))


def _units_stage(key: str, title: str, number: int) -> Stage:
    def settings(job: Job) -> Any:
        config = job.recipe.units[key]
        return settings_of(config) | _outside_models(job.recipe, [config.source])

    def folder(job: Job) -> Path:
        return job.exp / "units" / key

    def content(job: Job) -> list[Path]:
        return [folder(job) / f"{split}.bin" for split in SPLITS]

    return Stage(
        number=number,
        title=title,
        key=key,
        needs=lambda recipe: _needs(recipe, key),
        settings=settings,
        outputs=lambda job: [
            folder(job) / "codebook.safetensors",
            *content(job),
            *(folder(job) / f"{split}.json" for split in SPLITS),
        ],
        content=content,
        run=lambda job: work.make_units(job, key),
        kept_in="units",
        link=folder,
        shared=True,
    )


def _model_stage(key: str, title: str, number: int) -> Stage:
    def settings(job: Job) -> Any:
        run = job.recipe.pretrain[key]
        geometry = job.recipe.family[run.geometry].facts()
        own = {"geometry": geometry, "init": dataclasses.asdict(run.init), "train": settings_of(run.train)}
        # A list, because the order says which set is the main one, and digests sort the keys of mappings.
        own |= {"units": list(run.units.items())}
        own |= {"regression": dataclasses.asdict(run.regression) if run.regression else None}
        if job.recipe.shards is not None:
            own["shards"] = dataclasses.asdict(job.recipe.shards)
        sources = [run.init.source, run.regression.source if run.regression else None]
        return own | _outside_models(job.recipe, sources)

    def folder(job: Job) -> Path:
        return job.exp / key

    return Stage(
        number=number,
        title=title,
        key=key,
        needs=lambda recipe: _needs(recipe, key),
        settings=settings,
        outputs=lambda job: [folder(job) / "model" / name for name in ("config.json", WEIGHTS)],
        content=lambda job: [folder(job) / "model" / WEIGHTS],
        run=lambda job: work.train(job, key),
        kept_in="runs",
        link=folder,
        shared=True,
        write_shards=lambda job: work.write_shards(job, key),
    )


def _outside_models(recipe: Recipe, sources: Iterable[str | None]) -> dict[str, Any]:
    """`models`: the SHA-256 of the weights of every source that is a path (also `NAME=PATH` and `s3prl:NAME=PATH`);
    None for absent weights; an empty mapping without such a source.

    With these hashes a stage depends on the content of external weights, not on their path alone.
    """
    found: dict[str, str | None] = {}
    for source in sources:
        if source is None or source == "mfcc" or source in recipe.pretrain:
            continue
        path = Path(source.partition("=")[2] or source)
        if path.exists():
            found[source] = _file_sha256(path / WEIGHTS if path.is_dir() else path)
        elif "=" in source:
            found[source] = None
    return {"models": found} if found else {}


def _file_sha256(path: Path) -> str | None:
    """The SHA-256 of a file, None where it does not exist."""
    return cached_sha256(path) if path.is_file() else None


def _corpora_settings(job: Job) -> Any:
    # An empty `prepare` is left out: data of versions without this key stay complete.
    return {k: v for k, v in dataclasses.asdict(job.recipe.corpora).items() if k != "prepare" or v}


def _export_settings(job: Job) -> Any:
    marks = {name: [str(path), _file_sha256(path / WEIGHTS)] for name, path in job.recipe.local_upstreams.items()}
    return {"seed": job.recipe.pretrain["hl_it1"].train.seed, "local_upstreams": marks}


def _exported(job: Job) -> list[Path]:
    return [job.models / name / WEIGHTS for name in work.exports(job.recipe)]


def _task_stage(number: int, task: str) -> Stage:
    def settings(job: Job) -> Any:
        if task not in job.recipe.tasks:
            return None
        config = job.recipe.tasks[task]
        upstreams = work.compared_upstreams(job.recipe, task)
        protocol = ROOT / "downstream" / task / f"{config.protocol}.yaml"
        return {
            **dataclasses.asdict(config),
            "upstreams": upstreams,
            "protocol_sha256": _file_sha256(protocol),
            **_outside_models(job.recipe, [name for name in upstreams if "=" in name]),
        }

    def probes(job: Job) -> list[Path]:
        return [job.exp / "probes" / f"{task}_{job.recipe.tasks[task].protocol}"]

    return Stage(
        number=number,
        title=task.upper(),
        needs=lambda recipe: (1, 9),
        settings=settings,
        outputs=lambda job: [job.exp / "results.csv", *probes(job)],
        content=lambda job: [job.exp / "results.csv"],
        run=lambda job: work.probe(job, task),
        work_dirs=probes,
        incremental=True,
    )


STAGES: tuple[Stage, ...] = (
    Stage(
        number=1,
        title="corpora",
        needs=lambda recipe: (),
        settings=_corpora_settings,
        outputs=lambda job: [job.data / "ssl" / split / "wav.scp" for split in SPLITS],
        content=lambda job: [job.data],
        run=work.prepare_corpora,
        work_dirs=lambda job: [job.data],
    ),
    _units_stage("it1", "units, iteration 1", 2),
    _model_stage("hl_it1", "teacher HL, iteration 1", 3),
    _units_stage("it2", "units, iteration 2", 4),
    _model_stage("hl_it2", "teacher HL, iteration 2", 5),
    _units_stage("student", "student units", 6),
    _model_stage("hs", "distil HS", 7),
    _model_stage("hst", "distil HST", 8),
    Stage(
        number=9,
        title="export, compression table",
        needs=lambda recipe: (1, *(_id(key) for key in work.trained(recipe))),
        settings=_export_settings,
        outputs=lambda job: [job.exp / "compression.csv", *_exported(job)],
        content=_exported,
        run=work.export,
        work_dirs=lambda job: [job.models],
    ),
    *(_task_stage(task.stage, name) for name, task in TASKS.items()),
    Stage(
        number=LAST,
        title="report",
        needs=lambda recipe: (9, *(task.stage for name, task in TASKS.items() if name in recipe.tasks)),
        settings=lambda job: {},
        outputs=lambda job: [job.exp / "RESULTS.md", job.exp / "report" / "index.html", job.exp / "results.txt"],
        content=lambda job: [job.exp / "RESULTS.md"],
        run=work.report,
    ),
)


def stages_of(recipe: Recipe) -> list[Stage]:
    """The stages 1 to 13 and the recipe's further units and models, in the order in which they run."""
    order = build_order(recipe)
    stages: list[Stage] = []
    for stage in STAGES:
        for key in order.get(stage.number, [stage.key]):
            if key == stage.key:
                stages.append(stage)
            elif key in recipe.units:
                stages.append(_units_stage(key, f"units {key}", stage.number))
            else:
                stages.append(_model_stage(key, f"training {key}", stage.number))
    return stages
