"""Where a recipe's corpora come from: folders that environment variables name (`egs/<recipe>/db.sh`), or downloads."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
from pathlib import Path

from corpora import registry
from corpora.files import tree_fingerprint
from corpora.schema import nearest
from egs.pipeline.recipe import Recipe, prepared_options

log = logging.getLogger(__name__)

DOWNLOADS = Path(__file__).resolve().parents[2] / "downloads"


class StageError(RuntimeError):
    """A stage cannot run; the message says what to do."""


def source_folders(recipe: Recipe) -> dict[str, Path | None]:
    """The folder that each corpus variable names; None where it is unset, or a folder that is yet to be downloaded."""
    folders: dict[str, Path | None] = {}
    prepared = (registry.load(corpus).INFO.variable for corpus in recipe.corpora.prepare)
    for variable in (*recipe.corpora.sources, *prepared):
        value = os.environ.get(variable, "").strip()
        if value == "downloads":
            folders[variable] = DOWNLOADS / variable.lower()
        else:
            folders[variable] = Path(value).expanduser() if value else None
    return folders


def fingerprints(recipe: Recipe, data: Path) -> dict[str, str] | None:
    """Names and sizes of the files of every source, and of the data directories that `ssl` joins; None where one is not
    at hand, so that it cannot be compared."""
    marks = {}
    for variable, folder in source_folders(recipe).items():
        if folder is None or not folder.is_dir():
            return None
        marks[variable] = tree_fingerprint(folder)
    if recipe.corpora.module == "ssl":
        from corpora.sets.ssl import parse_set

        for key in ("sets", "held_out"):
            for entry in recipe.corpora.options.get(key) or []:
                folder = data.parent / parse_set(entry)[0]
                if not folder.is_dir():
                    return None
                marks[entry] = tree_fingerprint(folder)
    return marks


def prepare(recipe: Recipe, data: Path, jobs: int) -> None:
    """Write the recipe's data directories below `data`. Raises StageError for an option or folder that is not there."""
    config = recipe.corpora
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
        options["jobs"] = jobs
    found = _sources_at_hand(recipe)
    for corpus in config.prepare:
        own = registry.load(corpus)
        log.info("%s from %s", corpus, found[own.INFO.variable])
        own.prepare(
            found[own.INFO.variable], data.parent / corpus, **{"jobs": jobs, **prepared_options(config, corpus)}
        )
    if config.sources:
        options["sources"] = {variable: found[variable] for variable in config.sources}
    if config.module == "ssl":
        for key in ("sets", "held_out"):
            options[key] = [str(data.parent / entry) for entry in options.get(key) or []]
    module.prepare(data, **options)


def _sources_at_hand(recipe: Recipe) -> dict[str, Path]:
    found = {}
    for variable, folder in source_folders(recipe).items():
        place = f"egs/{recipe.name}/{'ssl1/' * bool(recipe.corpora.prepare)}db.sh or the environment"
        if folder is None:
            raise StageError(
                f"{variable} is not set: name the corpus's folder in {place}, or write `downloads` to fetch it"
            )
        if os.environ[variable].strip() == "downloads":
            folder = registry.load(variable.lower()).download(folder.parent)
        if not folder.is_dir():
            raise StageError(f"{variable}={folder}: no such folder; correct it in {place}")
        if not any(folder.iterdir()):
            raise StageError(f"{variable}={folder}: the folder is empty; correct it in {place}")
        found[variable] = folder
    return found
