"""Recipes: plain dataclasses, read from YAML and `key=value` overrides; an unknown key names the nearest known one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpora import registry
from corpora.files import CorpusError as RecipeError
from corpora.schema import check_keys, convert, nearest, record
from egs.pipeline.graph import MADE_BY, GraphError, plan
from upstream.config import S3PRL, InitConfig, PretrainConfig, RegressionConfig, TargetConfig
from upstream.model.family import FAMILY, Geometry

EGS = Path(__file__).resolve().parents[1]
# What every recipe has; it may name more of each.
FAMILY_MEMBERS = ("hl", "hs", "hst")
UNITS = ("it1", "it2", "student")
MODELS = ("hl_it1", "hl_it2", "hs", "hst")
MEMBER_OF = {"hl_it1": "hl", "hl_it2": "hl", "hs": "hs", "hst": "hst"}
UNITS_OF = {"hl_it1": "it1", "hl_it2": "it2", "hs": "student", "hst": "student"}
RESERVED = ("units", "models", "logs", "probes", "cache", "study", "shards", "report")  # folders of exp/<recipe>
TASKS = ("asr", "ser", "did")
LOCAL_UPSTREAMS = ("hubert", "xlsr")
UPSTREAMS = ("fbank", "random_l", "harness_l_it1", "harness_l", "harness_s", "harness_st", *LOCAL_UPSTREAMS)


@dataclass(frozen=True)
class CorporaConfig:
    """`corpora.<module>.prepare(out_dir, **options)`; `sources` are environment variables that name corpus folders.

    `prepare` names corpora of `corpora.registry`, each with its options, that are written beside the recipe's data
    first, into `data/<corpus>`; the `sets` and `held_out` of the module `ssl` count from there (`mgb2/train`).
    """

    module: str
    sources: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    prepare: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardsConfig:
    """Training reads shards in place of single files; `codec` is flac or opus (lossy), `minutes` the audio of one."""

    codec: str = "flac"
    minutes: float = 60.0

    def __post_init__(self) -> None:
        if self.codec not in ("flac", "opus"):
            raise ValueError(f"codec `{self.codec}` is unknown; choose flac or opus")
        if self.minutes <= 0:
            raise ValueError(f"minutes={self.minutes} must be positive")


@dataclass(frozen=True)
class ModelRun:
    """One pre-training run: where the weights start, how they are trained, the member of the family that is built, the
    label sets that it predicts with the weight of each (the first is the main one), and the features if it does."""

    init: InitConfig
    train: PretrainConfig
    geometry: str
    units: dict[str, float]
    regression: RegressionConfig | None = None


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
    shards: ShardsConfig | None = None


def known_recipes() -> list[str]:
    """Names for `--recipe`."""
    return sorted(path.parent.name for path in EGS.glob("*/recipe.yaml"))


def load_recipe(
    name: str,
    overrides: Iterable[str] = (),
    local_upstreams: Mapping[str, Path] | None = None,
    config: Path | None = None,
) -> Recipe:
    """Read `egs/<name>/recipe.yaml`, or the schedule `config`, with `key=value` overrides. Raises RecipeError."""
    mapping, where = recipe_mapping(name, overrides, config)
    return build_recipe(mapping, name=name, where=where, local_upstreams=dict(local_upstreams or {}))


def recipe_mapping(name: str, overrides: Iterable[str] = (), config: Path | None = None) -> tuple[Any, str]:
    """What `egs/<name>/recipe.yaml` (or `config`) with overrides holds, unchecked, and how to call it in messages."""
    path = EGS / name / "recipe.yaml" if config is None else config
    if config is None and not path.is_file():
        known = known_recipes()
        raise RecipeError(f"no recipe named `{name}`{nearest(name, known)} (known: {', '.join(known)})")
    overrides = list(overrides)
    where = f"egs/{name}/recipe.yaml" if config is None else str(config)
    where += f" with {' '.join(overrides)}" if overrides else ""
    return read_yaml(path, overrides, where), where


def read_yaml(path: Path, overrides: Iterable[str], where: str) -> Any:
    """A YAML file with `key=value` overrides as plain containers. Raises RecipeError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    overrides = list(overrides)
    for item in overrides:
        if "=" not in item:
            raise RecipeError(f"--set {item}: write it as key=value, for instance pretrain.hl_it1.steps=2000")
    try:
        tree = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(overrides))
        return OmegaConf.to_container(tree, resolve=True)
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise RecipeError(f"{where}: {error}") from error


def build_recipe(mapping: Any, *, name: str, where: str, local_upstreams: dict[str, Path]) -> Recipe:
    """Check a mapping as YAML gives it and make it a Recipe. Raises RecipeError."""
    known = ("corpora", "family", "units", "pretrain", "tasks", "upstreams")
    check_keys(mapping, (*known, "shards"), where, "")
    for key in known:
        if key not in mapping:
            raise RecipeError(f"{where}: `{key}` is missing")
    further = [key for key in mapping["pretrain"] or {} if key not in ("common", *MODELS)]
    upstreams = [*_upstreams(mapping["upstreams"], where, "upstreams", further), *local_upstreams]
    family = _family(mapping["family"], where)
    recipe = Recipe(
        name=name,
        corpora=record(CorporaConfig, mapping["corpora"], where, "corpora"),
        family=family,
        units={
            key: record(TargetConfig, entry, where, f"units.{key}")
            for key, entry in _with_common(mapping["units"], UNITS, where, "units").items()
        },
        pretrain={
            key: _model_run(key, entry, where, family)
            for key, entry in _with_common(mapping["pretrain"], MODELS, where, "pretrain").items()
        },
        tasks=_tasks(mapping["tasks"], where, further),
        upstreams=upstreams,
        local_upstreams=local_upstreams,
        shards=record(ShardsConfig, mapping["shards"], where, "shards") if mapping.get("shards") else None,
    )
    _check_prepared(recipe, where)
    _check_sources(recipe, where)
    return recipe


def _with_common(section: Any, names: tuple[str, ...], where: str, prefix: str) -> dict[str, dict[str, Any]]:
    """Entries with the section's `common` values underneath: those of `names`, which must be there, and others."""
    if not isinstance(section, dict):
        check_keys(section, ("common", *names), where, prefix)
    missing = [name for name in names if name not in section]
    if missing:
        raise RecipeError(f"{where}: `{prefix}.{missing[0]}` is missing")
    merged = {}
    for name in [*names, *(key for key in section if key not in ("common", *names))]:
        if not str(name).isidentifier():
            raise RecipeError(f"{where}: `{prefix}.{name}`: letters, digits and _ only, it names a folder")
        for part in ("common", name):
            if not isinstance(section.get(part) or {}, dict):
                raise RecipeError(f"{where}: `{prefix}.{part}` must be a mapping")
        merged[name] = {**(section.get("common") or {}), **(section[name] or {})}
    return merged


def _family(section: Any, where: str) -> dict[str, Geometry]:
    if not isinstance(section, dict):
        check_keys(section, FAMILY_MEMBERS, where, "family")
    family = {}
    for member in dict.fromkeys([*FAMILY_MEMBERS, *section]):
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


def _model_run(key: str, entry: dict[str, Any], where: str, family: Mapping[str, Geometry]) -> ModelRun:
    prefix = f"pretrain.{key}"
    own = ("geometry", "units", "weights", "init", "regression")
    check_keys(entry, [*own, *(f.name for f in dataclasses.fields(PretrainConfig))], where, prefix)
    geometry = entry.get("geometry", MEMBER_OF.get(key))
    if geometry is None:
        raise RecipeError(
            f"{where}: `{prefix}.geometry` is missing: a further run names a member of the family "
            f"({', '.join(family)}){nearest(key, MODELS)}"
        )
    if geometry not in family:
        raise RecipeError(
            f"{where}: `{prefix}.geometry`: `{geometry}` is no member of the family{nearest(geometry, family)} "
            f"(known: {', '.join(family)})"
        )
    regression = entry.get("regression")
    if regression is not None:
        regression = record(RegressionConfig, regression, where, f"{prefix}.regression")
    return ModelRun(
        init=record(InitConfig, entry.get("init", {}), where, f"{prefix}.init"),
        train=record(PretrainConfig, {k: v for k, v in entry.items() if k not in own}, where, prefix),
        geometry=geometry,
        units=_label_sets(key, entry, where, prefix, needed=regression is None),
        regression=regression,
    )


def _label_sets(key: str, entry: dict[str, Any], where: str, prefix: str, *, needed: bool) -> dict[str, float]:
    default = [UNITS_OF[key]] if key in UNITS_OF else []
    names = convert(list[str], entry.get("units", default), where, f"{prefix}.units")
    if needed and not names:
        raise RecipeError(f"{where}: `{prefix}.units` is empty, and without `regression` there is nothing to learn")
    if len(set(names)) < len(names):
        raise RecipeError(f"{where}: `{prefix}.units` names the same units twice")
    weights = entry.get("weights") or {}
    check_keys(weights, names, where, f"{prefix}.weights")
    sets = {name: convert(float, weights.get(name, 1.0), where, f"{prefix}.weights.{name}") for name in names}
    for name, weight in sets.items():
        if weight <= 0:
            raise RecipeError(f"{where}: `{prefix}.weights.{name}`={weight} must be positive")
    return sets


def _tasks(section: Any, where: str, further: Iterable[str]) -> dict[str, TaskConfig]:
    check_keys(section or {}, TASKS, where, "tasks")
    tasks = {}
    for task in TASKS:
        if task in (section or {}):
            tasks[task] = record(TaskConfig, section[task] or {}, where, f"tasks.{task}")
            _upstreams(tasks[task].upstreams or [], where, f"tasks.{task}.upstreams", further)
    return tasks


def _upstreams(names: Any, where: str, prefix: str, further: Iterable[str]) -> list[str]:
    names = convert(list[str], names, where, prefix)
    allowed = [*UPSTREAMS, *further]
    for name in names:
        label, given, path = name.partition("=")
        if given and label and path:  # a model of somebody else's; the grid says whether it can be read
            continue
        if name not in allowed:
            near, known = nearest(name, allowed), ", ".join(allowed)
            raise RecipeError(
                f"{where}: `{prefix}`: unknown upstream `{name}`{near} (known: {known}, and any NAME=MODEL_DIR)"
            )
    return names


def prepared_options(config: CorporaConfig, corpus: str) -> dict[str, Any]:
    """The options under which a corpus is prepared, as its module takes them. Raises ValueError."""

    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return ",".join(map(text, value))
        return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)

    settings = (config.prepare[corpus] or {}).items()
    return registry.parse_options(registry.load(corpus), [f"{key}={text(value)}" for key, value in settings])


def _check_prepared(recipe: Recipe, where: str) -> None:
    """The corpora that are prepared first must be known, with options that they take."""
    for corpus in recipe.corpora.prepare:
        prefix = f"corpora.prepare.{corpus}"
        if corpus not in registry.MODULES:
            near = nearest(corpus, registry.MODULES)
            raise RecipeError(f"{where}: `{prefix}`: no such corpus{near} (all: python -m corpora --list)")
        if corpus == recipe.name:
            raise RecipeError(f"{where}: `{prefix}`: recipe and corpus have one name, and one folder; use another name")
        if not isinstance(recipe.corpora.prepare[corpus] or {}, dict):
            raise RecipeError(f"{where}: `{prefix}` must be a mapping of the corpus's options, empty for none")
        try:
            prepared_options(recipe.corpora, corpus)
        except ValueError as error:
            raise RecipeError(f"{where}: `{prefix}`: {str(error).removeprefix('--set ')}") from error


def _check_sources(recipe: Recipe, where: str) -> None:
    """Every name must be known, and what it names be made before it is needed."""
    taken = [name for name in recipe.pretrain if name in (*RESERVED, *UPSTREAMS)]
    if taken:
        raise RecipeError(f"{where}: `pretrain.{taken[0]}`: this name means something else in exp/; choose another")
    both = sorted(set(recipe.units) & set(recipe.pretrain))
    if both:
        raise RecipeError(f"{where}: `{both[0]}` names both units and a run; choose another name for one of them")
    used = {name for run in recipe.pretrain.values() for name in run.units}
    for key, run in recipe.pretrain.items():
        for name in run.units:
            if name not in recipe.units:
                known = ", ".join(recipe.units)
                raise RecipeError(
                    f"{where}: `pretrain.{key}.units`: no units named `{name}`{nearest(name, recipe.units)} "
                    f"(known: {known})"
                )
    for name in recipe.units:
        if name not in used and name not in UNITS:
            raise RecipeError(
                f"{where}: no run has the units `{name}`{nearest(name, UNITS)}; remove them, or name them under "
                "`pretrain.<run>.units`"
            )
    sources = {f"units.{key}": (key, config.source) for key, config in recipe.units.items()}
    sources |= {f"pretrain.{key}.init": (key, run.init.source) for key, run in recipe.pretrain.items()}
    sources |= {
        f"pretrain.{key}.regression": (key, run.regression.source)
        for key, run in recipe.pretrain.items()
        if run.regression
    }
    for prefix, (key, source) in sources.items():
        of_units = prefix.startswith("units")
        if source is None or of_units and (source == "mfcc" or source.startswith(S3PRL)):
            continue
        before = _made_before(recipe, key)
        if source in before:
            continue
        if source in recipe.pretrain or not Path(source).is_dir():
            allowed = [*(("mfcc",) if of_units else ()), *before]
            raise RecipeError(
                f"{where}: `{prefix}.source`: `{source}` is neither made by an earlier stage "
                f"({', '.join(allowed) or 'none'}) nor a model directory"
            )
    try:
        plan(recipe)
    except GraphError as error:
        raise RecipeError(f"{where}: {error}") from error


def _made_before(recipe: Recipe, key: str) -> list[str]:
    """The models that a thing may be made from: for one of the thirteen stages those of earlier stages, and further
    ones; whether these can be made in time, `plan` finds out."""
    further = [name for name in recipe.pretrain if name not in MADE_BY and name != key]
    limit = MADE_BY.get(key, max(MADE_BY.values()) + 1)
    return [*(name for name in MODELS if MADE_BY[name] < limit), *further]
