"""Training runs of a recipe: what a run's entry says, as `upstream.pretrain.train` takes it."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from egs.pipeline.graph import iteration
from upstream.config import S3PRL

if TYPE_CHECKING:
    from egs.pipeline.stages import Job
    from upstream.units.units import LabelSet

EXPORT_NAME = {"hl_it1": "harness_l_it1", "hl_it2": "harness_l", "hs": "harness_s", "hst": "harness_st"}


def train(job: Job, key: str) -> None:
    """Train one model of the recipe, or go on with it."""
    from upstream.model.family import delta_s
    from upstream.pretrain.train import pretrain

    # Lightning tells of its devices and its maker's products at every start.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    recipe, run = job.recipe, job.recipe.pretrain[key]
    geometry = recipe.family[run.geometry]
    init, regression = run.init, run.regression
    if init.source is not None:
        init = dataclasses.replace(init, source=str(job.model_dir(init.source)))
    if regression is not None:
        regression = dataclasses.replace(regression, source=str(job.model_dir(regression.source)))
    card = {
        "name": EXPORT_NAME.get(key, key),
        "recipe": recipe.name,
        "iteration": iteration(recipe, key),
        "data": {"corpora": recipe.corpora.module, "sources": recipe.corpora.sources},
        "init_source": run.init.source,
        "delta_s": round(delta_s(geometry, recipe.family["hl"]), 4),
    }
    sets = [label_set(job, name, weight) for name, weight in run.units.items()]
    shards = None if recipe.shards is None else job.shards
    data = job.data / "ssl"
    pretrain(geometry, data, sets, job.exp / key, run.train, init, card, regression=regression, shards=shards)


def write_shards(job: Job, key: str) -> None:
    """The training part as shards with the labels of a run; audio that is there already stays."""
    from upstream.pretrain.train import shard_training_data

    config = job.recipe.shards
    assert config is not None
    sets = [label_set(job, name, weight) for name, weight in job.recipe.pretrain[key].units.items()]
    shard_training_data(
        job.data / "ssl", sets, job.shards, codec=config.codec, shard_seconds=60 * config.minutes, jobs=job.jobs
    )


def label_set(job: Job, name: str, weight: float) -> LabelSet:
    """Units of the recipe, to be refused when they are of another model, layer, PCA or k than the recipe says."""
    from upstream.model.modeldir import model_sha256
    from upstream.units.units import LabelSet

    config = job.recipe.units[name]
    expected: dict[str, Any] = {"k": config.k}
    if config.layer is not None:
        expected["layer"] = config.layer
    if config.pca is None or config.pca >= 1:  # how many dimensions a share of variance takes, the data says
        expected["pca_dim"] = config.pca
    if not config.source.startswith(S3PRL):  # whose weights only S3PRL can look at
        expected["model_sha256"] = None if config.source == "mfcc" else model_sha256(job.model_dir(config.source))
    return LabelSet(name, job.exp / "units" / name, weight, expected)
