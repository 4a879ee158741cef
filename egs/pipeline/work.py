"""Do the work of a recipe's stages: prepare corpora, make units, train, export, probe, report.

Functions import the large libraries themselves, so that checks of complete stages start fast.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora import registry
from corpora.files import atomic_dir, tree_fingerprint, write_text
from corpora.schema import flatten, nearest
from downstream.protocols import TASKS
from egs.pipeline.recipe import Recipe, iteration, prepared_options
from upstream.config import S3PRL
from upstream.names import EXPORT_NAMES, LOCAL_UPSTREAMS, RANDOM

if TYPE_CHECKING:
    from upstream.units.units import LabelSet

log = logging.getLogger(__name__)

DOWNLOADS = Path(__file__).resolve().parents[2] / "downloads"
SPLITS = ("train", "dev")
MODEL_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md")


class StageError(RuntimeError):
    """A stage cannot run; the message says what to do."""


@dataclass(frozen=True)
class Job:
    """One recipe and its folders.

    data, exp: the recipe's own folders; jobs: number of processes; command: the command line of this run, without a
    range of stages; called: name of the script in messages, where it is not the root's run.sh; takes_stages: whether
    the command takes --stage; downloads: folder of fetched corpora.
    """

    recipe: Recipe
    data: Path
    exp: Path
    jobs: int = 1
    command: str = "./run.sh"
    called: str = ""
    takes_stages: bool = True
    downloads: Path = DOWNLOADS

    @property
    def again(self) -> str:
        """The command that resumes this run."""
        return f"{self.called} with the same options" if self.called else self.command

    @property
    def models(self) -> Path:
        """The folder of exported model directories."""
        return self.exp / "models"

    @property
    def shards(self) -> Path:
        """The shards of training audio, for a recipe that trains from shards."""
        return self.exp / "shards"

    def model_dir(self, source: str) -> Path:
        """The model directory of a run of the recipe; any other `source` is a path itself."""
        return self.exp / source / "model" if source in self.recipe.pretrain else Path(source)


# Stage 1: corpora


def source_folders(job: Job) -> dict[str, Path | None]:
    """The folder that each corpus variable names; None where it is unset. A download need not exist yet."""
    folders: dict[str, Path | None] = {}
    prepared = (registry.load(corpus).INFO.variable for corpus in job.recipe.corpora.prepare)
    for variable in (*job.recipe.corpora.sources, *prepared):
        value = os.environ.get(variable, "").strip()
        if value == "downloads":
            folders[variable] = job.downloads / variable.lower()
        else:
            folders[variable] = Path(value).expanduser() if value else None
    return folders


def fingerprints(job: Job) -> dict[str, str] | None:
    """Fingerprints (file names and sizes) of the source folders and of the data directories that `ssl` joins; None
    where a folder is absent, so that it cannot be compared."""
    folders, config = source_folders(job), job.recipe.corpora
    if config.module == "ssl":
        from corpora.sets.ssl import parse_set

        for key in ("sets", "held_out"):
            for entry in config.options.get(key) or []:
                folders[entry] = job.data.parent / parse_set(entry)[0]
    marks = {}
    for name, folder in folders.items():
        if folder is None or not folder.is_dir():
            return None
        marks[name] = tree_fingerprint(folder)
    return marks


def prepare_corpora(job: Job) -> None:
    """Stage 1: write the recipe's data directories. Raises StageError for an unknown option or an absent folder."""
    recipe, config = job.recipe, job.recipe.corpora
    module = importlib.import_module(f"corpora.sets.{config.module}")
    accepted = inspect.signature(module.prepare).parameters
    for key in config.options:
        if key not in accepted:
            raise StageError(
                f"egs/{recipe.name}/recipe.yaml: unknown key `corpora.options.{key}`{nearest(key, accepted)} "
                f"(corpora.sets.{config.module}.prepare takes {', '.join(accepted)})"
            )
    options = dict(config.options)
    if "jobs" in accepted:
        options["jobs"] = job.jobs
    found = _existing_sources(job)
    for corpus in config.prepare:
        own = registry.load(corpus)
        folder = found[own.INFO.variable]
        log.info("%s from %s", corpus, folder)
        own.prepare(folder, job.data.parent / corpus, **{"jobs": job.jobs, **prepared_options(config, corpus)})
    if config.sources:
        options["sources"] = {variable: found[variable] for variable in config.sources}
    if config.module == "ssl":
        for key in ("sets", "held_out"):
            options[key] = [str(job.data.parent / entry) for entry in options.get(key) or []]
    module.prepare(job.data, **options)


def _existing_sources(job: Job) -> dict[str, Path]:
    """The source folders, downloaded where the variable says `downloads`. Raises StageError for one that is absent."""
    found = {}
    where = f"egs/{job.recipe.name}/{'ssl1/' * bool(job.recipe.corpora.prepare)}db.sh or the environment"
    for variable, folder in source_folders(job).items():
        if folder is None:
            fetched = ", or write `downloads` there to fetch it" if registry.can_be_fetched(variable.lower()) else ""
            raise StageError(f"{variable} is not set: name the corpus's folder in {where}{fetched}")
        if os.environ[variable].strip() == "downloads":
            if not registry.can_be_fetched(variable.lower()):
                raise StageError(f"{variable}=downloads: this speech cannot be fetched; name its folder in {where}")
            folder = registry.load(variable.lower()).download(folder.parent)
        if not folder.is_dir():
            raise StageError(f"{variable}={folder}: no such folder; correct it in {where}")
        if not any(folder.iterdir()):
            raise StageError(f"{variable}={folder}: the folder is empty; correct it in {where}")
        found[variable] = folder
    return found


# Stages 2 to 8: units and pre-training


def make_units(job: Job, key: str) -> None:
    """Fit a codebook and label the training and validation audio with it, or resume."""
    from upstream.units.label import make_units

    config = job.recipe.units[key]
    if config.source != "mfcc" and not config.source.startswith(S3PRL):
        config = dataclasses.replace(config, source=str(job.model_dir(config.source)))
    make_units({split: job.data / "ssl" / split for split in SPLITS}, job.exp / "units" / key, config)


def train(job: Job, key: str) -> None:
    """Train one model of the recipe, or resume its training."""
    from upstream.model.family import delta_s
    from upstream.pretrain.train import pretrain

    # At every start Lightning logs devices and advertisements.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    recipe, run = job.recipe, job.recipe.pretrain[key]
    geometry = recipe.family[run.geometry]
    init, regression = run.init, run.regression
    if init.source is not None:
        init = dataclasses.replace(init, source=str(job.model_dir(init.source)))
    if regression is not None:
        regression = dataclasses.replace(regression, source=str(job.model_dir(regression.source)))
    card = {
        "name": EXPORT_NAMES.get(key, key),
        "recipe": recipe.name,
        "iteration": iteration(recipe, key),
        "data": {"corpora": recipe.corpora.module, "sources": recipe.corpora.sources},
        "init_source": run.init.source,
        "delta_s": round(delta_s(geometry, recipe.family["hl"]), 4),
    }
    shards = None if recipe.shards is None else job.shards
    data, sets = job.data / "ssl", label_sets(job, key)
    pretrain(geometry, data, sets, job.exp / key, run.train, init, card, regression=regression, shards=shards)


def write_shards(job: Job, key: str) -> None:
    """Write the training audio as shards with the labels of a run; audio that is already in shards is kept."""
    from upstream.pretrain.train import shard_training_data

    config = job.recipe.shards
    assert config is not None
    seconds = 60 * config.minutes
    data, sets = job.data / "ssl", label_sets(job, key)
    shard_training_data(data, sets, job.shards, codec=config.codec, shard_seconds=seconds, jobs=job.jobs)


def label_sets(job: Job, key: str) -> list[LabelSet]:
    """The label sets of a run. `upstream` refuses units of another model, layer, PCA, k or cmvn than the recipe."""
    from upstream.model.modeldir import model_sha256
    from upstream.units.units import LabelSet

    sets = []
    for name, weight in job.recipe.pretrain[key].units.items():
        config = job.recipe.units[name]
        expected: dict[str, Any] = {"k": config.k, "cmvn": config.cmvn}
        if config.layer is not None:
            expected["layer"] = config.layer
        if config.pca is None or config.pca >= 1:  # the data decide how many dimensions a share of variance takes
            expected["pca_dim"] = config.pca
        if not config.source.startswith(S3PRL):  # only S3PRL can read the weights of its upstreams
            expected["model_sha256"] = None if config.source == "mfcc" else model_sha256(job.model_dir(config.source))
        sets.append(LabelSet(name, job.exp / "units" / name, weight, expected))
    return sets


# Stage 9: export


def trained(recipe: Recipe) -> dict[str, str]:
    """Every model that the recipe trains, and the name under which it is exported."""
    return EXPORT_NAMES | {key: key for key in recipe.pretrain if key not in EXPORT_NAMES}


def exports(recipe: Recipe) -> list[str]:
    """The names below `models/`."""
    return [*trained(recipe).values(), RANDOM, *recipe.local_upstreams]


def export(job: Job) -> None:
    """Stage 9: one model directory per upstream below `models/`, and the cost of each in compression.csv.

    A model of the recipe is a link to the model directory of its training run.
    """
    from upstream.tools.cost import measure, table

    for key, name in trained(job.recipe).items():
        link(job.models / name, (job.exp / key).resolve() / "model")
    _save_random(job)
    for name, path in job.recipe.local_upstreams.items():
        if not (path / "model.safetensors").is_file():
            raise StageError(
                f"--{name} {path}: no model.safetensors there; a folder in Transformers form is needed "
                "(HubertModel.save_pretrained writes one; pickled weights are never loaded)"
            )
        with atomic_dir(job.models / name) as temporary:
            for file in MODEL_FILES:
                if (path / file).is_file():
                    shutil.copyfile(path / file, temporary / file)
    names = exports(job.recipe)
    log.info("measuring parameters, MACs and time of %d models on the CPU", len(names))
    rows = measure({name: job.models / name for name in names}, job.exp / "compression.csv")
    print(table(rows), flush=True)


def link(path: Path, target: Path) -> bool:
    """Make `path` a relative symbolic link to `target`, replacing an earlier link in one step; False where it is one
    already. Raises StageError where `path` is a folder."""
    relative = os.path.relpath(target.resolve(), path.parent.resolve())
    if path.is_symlink() and os.readlink(path) == relative:
        return False
    if path.exists() and not path.is_symlink():
        raise StageError(
            f"{path} is a folder, but run.sh makes a link of this name; move the folder away, or use another --exp"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(relative, target_is_directory=True)
    os.replace(temporary, path)
    return True


def _save_random(job: Job) -> None:
    """HL before its first step, with the seed (and for log-mel the statistics) of iteration 1."""
    from upstream.config import InitConfig
    from upstream.model.modeldir import save_model
    from upstream.pretrain.init import initial_model
    from upstream.pretrain.train import training_utterances

    recipe, run = job.recipe, job.recipe.pretrain["hl_it1"]
    utterances, _ = training_utterances(job.data / "ssl", label_sets(job, "hl_it1"), "train")
    geometry = recipe.family[run.geometry]
    model = initial_model(geometry, utterances, InitConfig(), run.train.seed)
    card = {
        "name": RANDOM,
        "recipe": recipe.name,
        "iteration": 0,
        "geometry": geometry.facts(),
        "front_end": geometry.front_end,
        "init": {"kind": "random", "seed": run.train.seed},
    }
    save_model(model.eval(), job.models / RANDOM, card)


# Stages 10 to 13: probes and report


def compared_upstreams(recipe: Recipe, task: str) -> list[str]:
    """The upstreams that are compared on a task."""
    own = recipe.tasks[task].upstreams
    return recipe.upstreams if own is None else [*own, *recipe.local_upstreams]


def probe(job: Job, task: str) -> None:
    """Train and score the probes of one task; finished probes of the same configuration and weights are kept."""
    from downstream.grid.run import run as benchmark

    config = job.recipe.tasks[task]
    benchmark(
        task=task,
        recipe=job.recipe.name,
        data_dir=job.data,
        exp_dir=job.exp,
        upstreams=compared_upstreams(job.recipe, task),
        models_dir=job.models,
        protocol=config.protocol,
        seeds=config.seeds,
        folds=config.folds,
        overrides=flatten(config.overrides),
        finetune=config.finetune,
        budgets=config.budgets,
        jobs=job.jobs,
    )


def report(job: Job) -> None:
    """Stage 13: tables, page and plots from results.csv; `results.txt` keeps the printed table for later runs."""
    from downstream.report import build

    absent = [task for task in TASKS if task not in job.recipe.tasks]
    left_out = {task: f"recipe {job.recipe.name} has no corpus for it" for task in absent}
    for name in LOCAL_UPSTREAMS:
        if name not in job.recipe.local_upstreams:
            left_out[name] = f"no weights given; `./run.sh --recipe {job.recipe.name} --{name} PATH` adds it"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        build(job.exp, job.recipe.name, left_out=left_out, command=job.command)
    write_text(job.exp / "results.txt", printed.getvalue())
    print(printed.getvalue(), end="", flush=True)
