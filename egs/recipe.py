"""Recipes: plain dataclasses, read from YAML and `key=value` overrides; an unknown key names the nearest known one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpora.records import RecordError as RecipeError
from corpora.records import check_keys, convert, nearest, record
from upstream.config import InitConfig, PretrainConfig, TargetConfig
from upstream.family import FAMILY, Geometry

EGS = Path(__file__).resolve().parent
UNITS = ("it1", "it2", "student")
MODELS = ("hl_it1", "hl_it2", "hs", "hst")
MEMBER_OF = {"hl_it1": "hl", "hl_it2": "hl", "hs": "hs", "hst": "hst"}
UNITS_OF = {"hl_it1": "it1", "hl_it2": "it2", "hs": "student", "hst": "student"}
TASKS = ("asr", "ser", "did")
LOCAL_UPSTREAMS = ("hubert", "xlsr")
UPSTREAMS = ("fbank", "random_l", "harness_l_it1", "harness_l", "harness_s", "harness_st", *LOCAL_UPSTREAMS)
# A model may read what an earlier stage made, never a later one.
MADE_BEFORE = {
    "it1": (),
    "hl_it1": (),
    "it2": ("hl_it1",),
    "hl_it2": ("hl_it1",),
    "student": ("hl_it1", "hl_it2"),
    "hs": ("hl_it1", "hl_it2"),
    "hst": ("hl_it1", "hl_it2", "hs"),
}


@dataclass(frozen=True)
class CorporaConfig:
    """`corpora.<module>.prepare(out_dir, **options)`; `sources` are environment variables that name corpus folders."""

    module: str
    sources: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelRun:
    """One pre-training run: where the weights start, and how they are trained."""

    init: InitConfig
    train: PretrainConfig


@dataclass(frozen=True)
class TaskConfig:
    """One downstream task on `data/<recipe>/<task>`. `folds` takes the first so many of `fold1`, `fold2`, ... there;
    `upstreams` replaces the recipe's list; `overrides` are keys of the protocol with other values; `finetune` and
    `budgets` as `--finetune` and `--budget` of `python -m downstream benchmark`."""

    protocol: str = "light"
    seeds: list[int] = field(default_factory=lambda: [0])
    folds: int | None = None
    upstreams: list[str] | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    finetune: list[str] = field(default_factory=lambda: ["probe"])
    budgets: list[str] = field(default_factory=lambda: ["all"])


@dataclass(frozen=True)
class Recipe:
    """Everything that `run.sh` needs to know about one set of corpora."""

    name: str
    corpora: CorporaConfig
    family: dict[str, Geometry]
    units: dict[str, TargetConfig]
    pretrain: dict[str, ModelRun]
    tasks: dict[str, TaskConfig]
    upstreams: list[str]
    local_upstreams: dict[str, Path]


def known_recipes() -> list[str]:
    """Names for `--recipe`."""
    return sorted(path.parent.name for path in EGS.glob("*/recipe.yaml"))


def load_recipe(name: str, overrides: Iterable[str] = (), local_upstreams: Mapping[str, Path] | None = None) -> Recipe:
    """Read `egs/<name>/recipe.yaml` with `key=value` overrides. Raises RecipeError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = EGS / name / "recipe.yaml"
    if not path.is_file():
        known = known_recipes()
        raise RecipeError(f"no recipe named `{name}`{nearest(name, known)} (known: {', '.join(known)})")
    overrides = list(overrides)
    for item in overrides:
        if "=" not in item:
            raise RecipeError(f"--set {item}: write it as key=value, for instance pretrain.hl_it1.steps=2000")
    where = f"egs/{name}/recipe.yaml" + (f" with {' '.join(overrides)}" if overrides else "")
    try:
        tree = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(overrides))
        mapping = OmegaConf.to_container(tree, resolve=True)
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise RecipeError(f"{where}: {error}") from error
    return build_recipe(mapping, name=name, where=where, local_upstreams=dict(local_upstreams or {}))


def build_recipe(mapping: Any, *, name: str, where: str, local_upstreams: dict[str, Path]) -> Recipe:
    """Check a mapping as YAML gives it and make it a Recipe. Raises RecipeError."""
    known = ("corpora", "family", "units", "pretrain", "tasks", "upstreams")
    check_keys(mapping, known, where, "")
    for key in known:
        if key not in mapping:
            raise RecipeError(f"{where}: `{key}` is missing")
    upstreams = [*_upstreams(mapping["upstreams"], where, "upstreams"), *local_upstreams]
    recipe = Recipe(
        name=name,
        corpora=record(CorporaConfig, mapping["corpora"], where, "corpora"),
        family=_family(mapping["family"], where),
        units={
            key: record(TargetConfig, entry, where, f"units.{key}")
            for key, entry in _with_common(mapping["units"], UNITS, where, "units").items()
        },
        pretrain={
            key: _model_run(entry, where, f"pretrain.{key}")
            for key, entry in _with_common(mapping["pretrain"], MODELS, where, "pretrain").items()
        },
        tasks=_tasks(mapping["tasks"], where),
        upstreams=upstreams,
        local_upstreams=local_upstreams,
    )
    _check_sources(recipe, where)
    return recipe


def _with_common(section: Any, names: tuple[str, ...], where: str, prefix: str) -> dict[str, dict[str, Any]]:
    """Entries with the section's `common` values underneath."""
    check_keys(section, ("common", *names), where, prefix)
    missing = [name for name in names if name not in section]
    if missing:
        raise RecipeError(f"{where}: `{prefix}.{missing[0]}` is missing")
    merged = {}
    for name in names:
        for part in ("common", name):
            if not isinstance(section.get(part) or {}, dict):
                raise RecipeError(f"{where}: `{prefix}.{part}` must be a mapping")
        merged[name] = {**(section.get("common") or {}), **(section[name] or {})}
    return merged


def _family(section: Any, where: str) -> dict[str, Geometry]:
    check_keys(section, ("hl", "hs", "hst"), where, "family")
    family = {}
    for member in ("hl", "hs", "hst"):
        entry = section.get(member)
        entry = {"geometry": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or "geometry" not in entry:
            raise RecipeError(f"{where}: `family.{member}` must name a geometry ({', '.join(FAMILY)})")
        base = FAMILY.get(entry["geometry"])
        if base is None:
            raise RecipeError(
                f"{where}: `family.{member}`: no geometry named `{entry['geometry']}`"
                f"{nearest(entry['geometry'], FAMILY)} (known: {', '.join(FAMILY)})"
            )
        changes = {key: value for key, value in entry.items() if key != "geometry"}
        fields = {**dataclasses.asdict(base), **changes}
        family[member] = record(Geometry, fields, where, f"family.{member}")
    return family


def _model_run(entry: dict[str, Any], where: str, prefix: str) -> ModelRun:
    train = {key: value for key, value in entry.items() if key != "init"}
    known = ["init", *(f.name for f in dataclasses.fields(PretrainConfig))]
    check_keys(entry, known, where, prefix)
    return ModelRun(
        init=record(InitConfig, entry.get("init", {}), where, f"{prefix}.init"),
        train=record(PretrainConfig, train, where, prefix),
    )


def _tasks(section: Any, where: str) -> dict[str, TaskConfig]:
    check_keys(section or {}, TASKS, where, "tasks")
    tasks = {}
    for task in TASKS:
        if task in (section or {}):
            tasks[task] = record(TaskConfig, section[task] or {}, where, f"tasks.{task}")
            _upstreams(tasks[task].upstreams or [], where, f"tasks.{task}.upstreams")
    return tasks


def _upstreams(names: Any, where: str, prefix: str) -> list[str]:
    names = convert(list[str], names, where, prefix)
    for name in names:
        if name not in UPSTREAMS:
            near, known = nearest(name, UPSTREAMS), ", ".join(UPSTREAMS)
            raise RecipeError(f"{where}: `{prefix}`: unknown upstream `{name}`{near} (known: {known})")
    return names


def _check_sources(recipe: Recipe, where: str) -> None:
    """A source that names a model of the recipe must name one that an earlier stage makes."""
    sources = {f"units.{key}": (key, config.source) for key, config in recipe.units.items()}
    sources |= {f"pretrain.{key}.init": (key, run.init.source) for key, run in recipe.pretrain.items()}
    for prefix, (key, source) in sources.items():
        if source in (None, "mfcc") or source in MADE_BEFORE[key]:
            continue
        if source in MODELS or not Path(str(source)).is_dir():
            allowed = [*(("mfcc",) if prefix.startswith("units") else ()), *MADE_BEFORE[key]]
            raise RecipeError(
                f"{where}: `{prefix}.source`: `{source}` is neither made by an earlier stage "
                f"({', '.join(allowed) or 'none'}) nor a model directory"
            )
