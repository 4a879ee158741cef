"""Read a recipe from YAML and `key=value` overrides, check it, and order its units and models by what they need.

Stages 2 to 8 make the units and models that every recipe has. Additional units and models are made just before the
first stage that needs them, and in stage 8 if no other entry needs them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import corpora
from corpora import registry
from corpora.files import CorpusError
from corpora.names import check_name
from corpora.schema import Problems, check_keys, convert, flatten, nearest, record
from downstream import protocols
from downstream.protocols import TASKS
from upstream.config import S3PRL, InitConfig, PretrainConfig, RegressionConfig, TargetConfig
from upstream.errors import UpstreamError
from upstream.model.family import FAMILY, Geometry
from upstream.model.rate import check_directory
from upstream.names import LOCAL_UPSTREAMS, SHIPPED, STANDARD_UPSTREAMS

EGS = Path(__file__).resolve().parents[1]
# Every recipe has these, and may have more of each.
FAMILY_MEMBERS = ("hl", "hs", "hst")
UNITS = ("it1", "it2", "student")
MODELS = ("hl_it1", "hl_it2", "hs", "hst")
STAGE_OF = {"it1": 2, "hl_it1": 3, "it2": 4, "hl_it2": 5, "student": 6, "hs": 7, "hst": 8}
LAST_TRAINING_STAGE = 8
MEMBER_OF = {"hl_it1": "hl", "hl_it2": "hl", "hs": "hs", "hst": "hst"}
UNITS_OF = {"hl_it1": "it1", "hl_it2": "it2", "hs": "student", "hst": "student"}
# Names of other folders in exp/<recipe>
RESERVED = ("units", "runs", "models", "logs", "probes", "cache", "study", "shards", "report")
UPSTREAMS = (*STANDARD_UPSTREAMS, *LOCAL_UPSTREAMS, *SHIPPED)


@dataclass(frozen=True)
class CorporaConfig:
    """`corpora.<module>.prepare(out_dir, **options)`; `sources` are environment variables that name corpus folders.

    `prepare` names corpora of `corpora.registry`, each with its options. They are prepared first, into `data/<corpus>`
    beside the recipe's data; the `sets` and `held_out` of the module `ssl` are folders there (`mgb2/train`).
    """

    module: str
    sources: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    prepare: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardsConfig:
    """Training reads shards instead of single files. `codec`: flac or opus (lossy); `minutes`: audio in one shard."""

    codec: str = "flac"
    minutes: float = 60.0

    def __post_init__(self) -> None:
        if self.codec not in ("flac", "opus"):
            raise ValueError(f"codec `{self.codec}` is unknown; choose flac or opus")
        if self.minutes <= 0:
            raise ValueError(f"minutes={self.minutes} must be positive")


@dataclass(frozen=True)
class ModelRun:
    """One pre-training run.

    init: initial weights; train: optimisation; geometry: member of the family; units: label sets to predict, each with
    its weight (the first is the main one); regression: features to predict, if any.
    """

    init: InitConfig
    train: PretrainConfig
    geometry: str
    units: dict[str, float]
    regression: RegressionConfig | None = None


@dataclass(frozen=True)
class TaskConfig:
    """One downstream task on `data/<recipe>/<task>`.

    folds: use only `fold1` to `fold<folds>`; upstreams: replaces the recipe's list; overrides: other values for keys
    of the protocol; finetune, budgets: as `--finetune` and `--budget` of `python -m downstream benchmark`.
    """

    protocol: str = "light"
    seeds: list[int] = field(default_factory=lambda: [0])
    folds: int | None = None
    upstreams: list[str] | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    finetune: list[str] = field(default_factory=lambda: ["probe"])
    budgets: list[str] = field(default_factory=lambda: ["all"])

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"seeds is {self.seeds}; give at least one, and none below 0")
        if self.folds is not None and self.folds < 1:
            raise ValueError(f"folds is {self.folds}; it must be at least 1")


@dataclass(frozen=True)
class Recipe:
    """One recipe: corpora, models of the family, units, pre-training runs, tasks, and the upstreams to compare."""

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


def corpus_sets() -> list[str]:
    """Modules of `corpora.sets` that prepare the data of a recipe."""
    folder = Path(corpora.__file__).parent / "sets"
    return sorted(path.stem for path in folder.glob("[a-z]*.py") if "def prepare(" in path.read_text(encoding="utf-8"))


def load_recipe(
    name: str,
    overrides: Iterable[str] = (),
    local_upstreams: Mapping[str, Path] | None = None,
    config: Path | None = None,
) -> Recipe:
    """Read `egs/<name>/recipe.yaml`, or the schedule `config`, with `key=value` overrides. Raises CorpusError."""
    mapping, where = recipe_mapping(name, overrides, config)
    return build_recipe(mapping, name=name, where=where, local_upstreams=dict(local_upstreams or {}))


def recipe_mapping(name: str, overrides: Iterable[str] = (), config: Path | None = None) -> tuple[Any, str]:
    """The unchecked content of `egs/<name>/recipe.yaml` (or `config`) with overrides, and its name for messages."""
    check_name(name, "--recipe")
    path = EGS / name / "recipe.yaml" if config is None else config
    if config is None and not path.is_file():
        known = known_recipes()
        raise CorpusError(f"no recipe named `{name}`{nearest(name, known)} (known: {', '.join(known)})")
    overrides = list(overrides)
    where = f"egs/{name}/recipe.yaml" if config is None else str(config)
    where += f" with {' '.join(overrides)}" if overrides else ""
    return read_yaml(path, overrides, where), where


def read_yaml(path: Path, overrides: Iterable[str], where: str) -> Any:
    """A YAML file with `key=value` overrides as plain containers. Raises CorpusError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    overrides = list(overrides)
    for item in overrides:
        if "=" not in item:
            raise CorpusError(f"--set {item}: write it as key=value, for instance pretrain.hl_it1.steps=2000")
    try:
        tree = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(overrides))
        return OmegaConf.to_container(tree, resolve=True)
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise CorpusError(f"{where}: {error}") from error


def build_recipe(mapping: Any, *, name: str, where: str, local_upstreams: dict[str, Path]) -> Recipe:
    """A Recipe from the mapping that YAML gives. Raises CorpusError."""
    known = ("corpora", "family", "units", "pretrain", "tasks", "upstreams")
    check_keys(mapping, (*known, "shards"), where, "")
    for key in known:
        if key not in mapping:
            raise CorpusError(f"{where}: `{key}` is missing")
    pretrain, members = (mapping[key] if isinstance(mapping[key], dict) else {} for key in ("pretrain", "family"))
    further = [key for key in pretrain if key not in ("common", *MODELS)]
    problems = Problems(where)
    parts: dict[str, Any] = {"units": {}, "pretrain": {}, "shards": None}
    with problems.collect():
        parts["upstreams"] = [*_upstreams(mapping["upstreams"], where, "upstreams", further), *local_upstreams]
    with problems.collect():
        parts["corpora"] = record(CorporaConfig, mapping["corpora"], where, "corpora")
        if (module := parts["corpora"].module) not in (known := corpus_sets()):
            raise CorpusError(
                f"{where}: `corpora.module`: no module `{module}`{nearest(module, known)} ({', '.join(known)})"
            )
    with problems.collect():
        parts["tasks"] = _tasks(mapping["tasks"], where, further)
    if mapping.get("shards"):
        with problems.collect():
            parts["shards"] = record(ShardsConfig, mapping["shards"], where, "shards")
    with problems.collect():
        for key, entry in _with_common(mapping["units"], UNITS, where, "units").items():
            with problems.collect():
                parts["units"][key] = record(TargetConfig, entry, where, f"units.{key}")
    with problems.collect():
        parts["family"] = _family(mapping["family"], where)
    with problems.collect():
        for key, entry in _with_common(mapping["pretrain"], MODELS, where, "pretrain").items():
            with problems.collect():
                own = parts.get("family", dict.fromkeys([*FAMILY_MEMBERS, *members]))
                parts["pretrain"][key] = _model_run(key, entry, where, own)
    problems.check()
    recipe = Recipe(name=name, local_upstreams=local_upstreams, **parts)
    _check_prepared(recipe, where)
    _check_sources(recipe, where)
    return recipe


def _with_common(section: Any, names: tuple[str, ...], where: str, prefix: str) -> dict[str, dict[str, Any]]:
    """Entries of a section, each completed by the section's `common` values. `names` are required entries."""
    if not isinstance(section, dict):
        check_keys(section, ("common", *names), where, prefix)
    missing = [name for name in names if name not in section]
    if missing:
        raise CorpusError(f"{where}: `{prefix}.{missing[0]}` is missing")
    merged = {}
    for name in [*names, *(key for key in section if key not in ("common", *names))]:
        if not str(name).isidentifier():
            raise CorpusError(f"{where}: `{prefix}.{name}`: letters, digits and _ only, it names a folder")
        check_name(name, f"{where}: `{prefix}`:")
        for part in ("common", name):
            if not isinstance(section.get(part) or {}, dict):
                raise CorpusError(f"{where}: `{prefix}.{part}` must be a mapping")
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
            raise CorpusError(f"{where}: `family.{member}` must name a geometry ({', '.join(FAMILY)})")
        base = FAMILY.get(entry["geometry"])
        if base is None:
            raise CorpusError(
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
        raise CorpusError(
            f"{where}: `{prefix}.geometry` is missing: a further run names a member of the family "
            f"({', '.join(family)}){nearest(key, MODELS)}"
        )
    if geometry not in family:
        raise CorpusError(
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
        raise CorpusError(f"{where}: `{prefix}.units` is empty, and `regression` is not set, so the run has no target")
    if len(set(names)) < len(names):
        raise CorpusError(f"{where}: `{prefix}.units` names the same units twice")
    weights = entry.get("weights") or {}
    check_keys(weights, names, where, f"{prefix}.weights")
    sets = {name: convert(float, weights.get(name, 1.0), where, f"{prefix}.weights.{name}") for name in names}
    for name, weight in sets.items():
        if weight <= 0:
            raise CorpusError(f"{where}: `{prefix}.weights.{name}`={weight} must be positive")
    return sets


def _tasks(section: Any, where: str, further: Iterable[str]) -> dict[str, TaskConfig]:
    check_keys(section or {}, TASKS, where, "tasks")
    tasks = {}
    problems = Problems(where)
    for task in TASKS:
        if task in (section or {}):
            with problems.collect():
                tasks[task] = record(TaskConfig, section[task] or {}, where, f"tasks.{task}")
                _upstreams(tasks[task].upstreams or [], where, f"tasks.{task}.upstreams", further)
                _check_probes(task, tasks[task], where)
    problems.check()
    return tasks


def _check_probes(task: str, config: TaskConfig, where: str) -> None:
    """Read the protocol of a task with its overrides, so that a wrong value is found before hours of training."""
    check_name(config.protocol, f"{where}: `tasks.{task}.protocol`")
    try:
        protocols.load(task, config.protocol, flatten(config.overrides))
        if config.finetune != ["probe"] or config.budgets != ["all"]:
            from downstream.grid.plan import parse_budgets, parse_tunings  # takes a second to import

            parse_tunings(config.finetune)
            parse_budgets(config.budgets)
    except ValueError as error:
        raise CorpusError(f"{where}: `tasks.{task}`: {error}") from None


def _upstreams(names: Any, where: str, prefix: str, further: Iterable[str]) -> list[str]:
    names = convert(list[str], names, where, prefix)
    allowed = [*UPSTREAMS, *further]
    for name in names:
        label, given, path = name.partition("=")
        if given and label and path:  # a model from outside the recipe; the grid checks that it can be read
            check_name(label, f"{where}: `{prefix}`: upstream")
            continue
        if name not in allowed:
            near, known = nearest(name, allowed), ", ".join(allowed)
            raise CorpusError(
                f"{where}: `{prefix}`: unknown upstream `{name}`{near} (known: {known}, and any NAME=MODEL_DIR)"
            )
    return names


def prepared_options(config: CorporaConfig, corpus: str) -> dict[str, Any]:
    """The options with which a corpus is prepared, as its module takes them. Raises ValueError."""

    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return ",".join(map(text, value))
        return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)

    settings = (config.prepare[corpus] or {}).items()
    return registry.parse_options(registry.load(corpus), [f"{key}={text(value)}" for key, value in settings])


def _check_prepared(recipe: Recipe, where: str) -> None:
    """Check that the corpora under `prepare` exist and take the options given there."""
    for corpus in recipe.corpora.prepare:
        prefix = f"corpora.prepare.{corpus}"
        if corpus not in registry.MODULES:
            near = nearest(corpus, registry.MODULES)
            raise CorpusError(f"{where}: `{prefix}`: no such corpus{near} (all: python -m corpora --list)")
        if corpus == recipe.name:
            raise CorpusError(
                f"{where}: `{prefix}`: recipe and corpus have the same name, and so the same folder; rename the recipe"
            )
        if not isinstance(recipe.corpora.prepare[corpus] or {}, dict):
            raise CorpusError(f"{where}: `{prefix}` must be a mapping of the corpus's options, empty for none")
        try:
            prepared_options(recipe.corpora, corpus)
        except ValueError as error:
            raise CorpusError(f"{where}: `{prefix}`: {str(error).removeprefix('--set ')}") from error


def _check_sources(recipe: Recipe, where: str) -> None:
    """Check that every unit set and model that the recipe refers to exists, and is made before it is needed."""
    taken = [name for name in recipe.pretrain if name in (*RESERVED, *UPSTREAMS)]
    if taken:
        raise CorpusError(f"{where}: `pretrain.{taken[0]}`: this name is taken in exp/; choose another")
    both = sorted(set(recipe.units) & set(recipe.pretrain))
    if both:
        raise CorpusError(f"{where}: `{both[0]}` names both units and a run; rename one of them")
    used = {name for run in recipe.pretrain.values() for name in run.units}
    for key, run in recipe.pretrain.items():
        for name in run.units:
            if name not in recipe.units:
                known = ", ".join(recipe.units)
                raise CorpusError(
                    f"{where}: `pretrain.{key}.units`: no units named `{name}`{nearest(name, recipe.units)} "
                    f"(known: {known})"
                )
    for name in recipe.units:
        if name not in used and name not in UNITS:
            raise CorpusError(
                f"{where}: no run uses the units `{name}`{nearest(name, UNITS)}; remove them, or name them under "
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
            raise CorpusError(
                f"{where}: `{prefix}.source`: `{source}` is neither made by an earlier stage "
                f"({', '.join(allowed) or 'none'}) nor a model directory"
            )
        try:
            check_directory(source)
        except UpstreamError as error:
            raise CorpusError(f"{where}: `{prefix}.source`: {error}") from None
    build_order(recipe, where)


def _made_before(recipe: Recipe, key: str) -> list[str]:
    """The models that an entry may use: those of earlier stages, and additional ones (`build_order` checks that
    these can be made in time)."""
    further = [name for name in recipe.pretrain if name not in STAGE_OF and name != key]
    limit = STAGE_OF.get(key, LAST_TRAINING_STAGE + 1)
    return [*(name for name in MODELS if STAGE_OF[name] < limit), *further]


def dependencies(recipe: Recipe, key: str) -> tuple[str, ...]:
    """The units and models of the recipe that an entry uses."""
    if key in recipe.units:
        sources = [recipe.units[key].source]
    else:
        run = recipe.pretrain[key]
        sources = [*run.units, run.init.source, run.regression.source if run.regression else None]
    return tuple(dict.fromkeys(s for s in sources if s in recipe.units or s in recipe.pretrain))


def build_order(recipe: Recipe, where: str = "recipe") -> dict[int, list[str]]:
    """Stage number -> the units and models that it makes, in order. Raises CorpusError for a cycle, and for an entry
    that would be made after a stage that needs it."""
    keys = [*recipe.units, *recipe.pretrain]
    needs = {key: dependencies(recipe, key) for key in keys}
    try:
        sorted_keys = [*TopologicalSorter(needs).static_order()]
    except CycleError as error:
        # graphlib lists a cycle from a dependency to the entry that needs it.
        raise CorpusError(f"{where}: `{error.args[1][0]}` is made from itself: {' -> '.join(error.args[1])}") from None
    stage = {key: STAGE_OF.get(key, LAST_TRAINING_STAGE) for key in keys}
    for key in reversed(sorted_keys):
        for needed in needs[key]:
            if needed not in STAGE_OF:
                stage[needed] = min(stage[needed], stage[key])
            elif stage[needed] > stage[key]:
                raise CorpusError(
                    f"{where}: `{key}` is needed in stage {stage[key]}, but made from `{needed}`, "
                    f"which stage {stage[needed]} makes"
                )
    order: dict[int, list[str]] = {number: [] for number in range(2, LAST_TRAINING_STAGE + 1)}

    def add(key: str) -> None:
        if key not in order[stage[key]]:
            for needed in needs[key]:
                if stage[needed] == stage[key]:
                    add(needed)
            order[stage[key]].append(key)

    for key in keys:
        add(key)
    return order


def iteration(recipe: Recipe, model: str) -> int:
    """The iteration of a model: one more than that of the model behind its units or features, 1 for MFCC units and
    units of a model from outside the recipe."""
    run = recipe.pretrain[model]
    sources = [recipe.units[name].source for name in run.units]
    sources += [run.regression.source] if run.regression else []
    return 1 + max((iteration(recipe, s) for s in sources if s in recipe.pretrain), default=0)
