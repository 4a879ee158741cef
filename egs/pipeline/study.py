"""Read a study: one pre-training run of a recipe in many variants at equal budget, compared by downstream results.

`egs/<recipe>/study.yaml`:

    run: hst                    # every row is this run of the recipe with other values
    base: base                  # the row that all others are compared with
    upstreams: [fbank, hl_it2]  # also in the tables: S3PRL's baselines, or models of the recipe
    common: {steps: 2000}       # values of every row
    rows:
      base: {}
      no_pca: {units: {pca: null}}               # changes of the run's main units
      two_layers: {units: [{}, {layer: 2}]}      # several label sets, each changes of the main units (and `weight`)
      waveform: {geometry: {front_end: waveform}}
      masked_only: {unmasked_weight: 0.0}        # any value of a run: init, regression, ...
      small: {units: {k: 10}}
      small_16: {units: {k: 10, pca: 16}, against: small}  # compared with that row, not with the base row
      other: {init: {kind: project, source: hl_it2}, against: [base, hl_it2]}  # with two; hl_it2 is of `upstreams`

Rows become additional runs of the recipe. They share corpora, teacher and equal units; complete ones are skipped.
Results: `exp/<recipe>/study/{results.csv,study.csv,STUDY.md,study.png,curves.png}`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpora.files import CorpusError, sha256_json
from corpora.names import check_name
from corpora.schema import check_keys, nearest, record
from egs.pipeline.recipe import EGS, Recipe, build_recipe, dependencies, read_yaml, recipe_mapping
from upstream.config import PretrainConfig, TargetConfig
from upstream.names import EXPORT_NAMES

log = logging.getLogger(__name__)

PREFIX = "study_"  # of the names of rows among the recipe's runs, and of their folders
SET = "study."  # prefix of overrides of study.yaml


@dataclass(frozen=True)
class StudyConfig:
    """Content of `study.yaml`; `seeds` replaces the seeds of the tasks."""

    run: str
    rows: dict[str, Any]
    base: str = "base"
    common: dict[str, Any] = field(default_factory=dict)
    upstreams: list[str] = field(default_factory=list)
    seeds: list[int] | None = None


@dataclass(frozen=True)
class Study:
    """A recipe with an additional run for every row.

    `rows`: the changes of each row. `against`: for each row except the base row, the rows or upstreams to compare with.
    """

    recipe: Recipe
    config: StudyConfig
    rows: dict[str, dict[str, Any]]
    against: dict[str, tuple[str, ...]]

    def run_of(self, row: str) -> str:
        """Name of a row among the recipe's runs."""
        return PREFIX + row

    def compared_with(self, row: str) -> tuple[str, ...]:
        """Names in the tables that a row (or a context upstream) is compared with; none for the base row."""
        if row == self.config.base:
            return ()
        others = self.against.get(row, (self.config.base,))
        return tuple(name if name in self.config.rows else EXPORT_NAMES.get(name, name) for name in others)

    def wanted(self) -> list[str]:
        """Units and models of the recipe that rows and context need, in the order of their dependencies."""
        found: list[str] = []

        def add(key: str) -> None:
            if key not in found:
                for needed in dependencies(self.recipe, key):
                    add(needed)
                found.append(key)

        for name in self.config.upstreams:
            if name in self.recipe.pretrain:
                add(name)
        for row in self.rows:
            add(self.run_of(row))
        return found


def load_study(
    name: str,
    overrides: Iterable[str] = (),
    local_upstreams: Mapping[str, Path] | None = None,
    only: Iterable[str] | None = None,
) -> Study:
    """Read `egs/<name>/{recipe,study}.yaml`; overrides with the prefix `study.` change study.yaml.

    `only` names the rows to keep, besides the base row and the rows that they are compared with. Raises CorpusError.
    """
    overrides = list(overrides)
    mapping, where = recipe_mapping(name, [item for item in overrides if not item.startswith(SET)])
    path = EGS / name / "study.yaml"
    if not path.is_file():
        have = sorted(p.parent.name for p in EGS.glob("*/study.yaml"))
        raise CorpusError(f"recipe {name} has no study.yaml (recipes with one: {', '.join(have) or 'none'})")
    own = [item.removeprefix(SET) for item in overrides if item.startswith(SET)]
    place = f"egs/{name}/study.yaml" + (f" with {' '.join(SET + item for item in own)}" if own else "")
    config = record(StudyConfig, read_yaml(path, own, place), place)
    if config.base not in config.rows:
        raise CorpusError(f"{place}: the base row `{config.base}` is not among the rows ({', '.join(config.rows)})")
    rows = _rows(config, place)
    against = {row: _against(config, row, place) for row in rows if row != config.base}
    chosen = _chosen(config, against, only, place)
    if not isinstance(mapping, dict) or config.run not in (mapping.get("pretrain") or {}):
        raise CorpusError(f"{place}: `run`: the recipe has no run `{config.run}`")
    base = build_recipe(mapping, name=name, where=where, local_upstreams=dict(local_upstreams or {}))
    expanded = {key: dict(mapping[key] or {}) for key in ("family", "units", "pretrain")}
    for row, changes in rows.items():
        _add_row(base, expanded, config, row, changes, place)
    for upstream in config.upstreams:
        from downstream.upstreams import BASELINES

        if upstream not in BASELINES and upstream not in base.pretrain:
            known = ", ".join([*BASELINES[:1], *base.pretrain])
            raise CorpusError(f"{place}: `upstreams`: `{upstream}` is no baseline and no model of the recipe ({known})")
    recipe = build_recipe({**mapping, **expanded}, name=name, where=place, local_upstreams=base.local_upstreams)
    return Study(recipe, config, {row: rows[row] for row in chosen}, against)


def _against(config: StudyConfig, row: str, where: str) -> tuple[str, ...]:
    """The rows or context upstreams that a row is compared with."""
    given = (config.rows[row] or {}).get("against", config.base)
    others = tuple(given) if isinstance(given, list) else (given,)
    known = [name for name in (*config.rows, *config.upstreams) if name != row]
    for other in others:
        if other not in known:
            near = nearest(str(other), known)
            raise CorpusError(f"{where}: `rows.{row}.against`: `{other}` is not another row or upstream{near}")
    if not others or len(set(others)) < len(others):
        raise CorpusError(f"{where}: `rows.{row}.against`: give names of other rows or upstreams, each once")
    return others


def _rows(config: StudyConfig, where: str) -> dict[str, dict[str, Any]]:
    """Every row with its changes of the run."""
    own = ("geometry", "units", "weights", "init", "regression", "against")
    rows: dict[str, dict[str, Any]] = {}
    for name, changes in config.rows.items():
        if not str(name).isidentifier():
            raise CorpusError(f"{where}: `rows.{name}`: letters, digits and _ only, it names a folder")
        check_name(name, f"{where}: `rows`:")
        check_keys(changes or {}, [*own, *(f.name for f in dataclasses.fields(PretrainConfig))], where, f"rows.{name}")
        rows[name] = {key: value for key, value in (changes or {}).items() if key != "against"}
    return rows


def _chosen(
    config: StudyConfig, against: Mapping[str, tuple[str, ...]], only: Iterable[str] | None, where: str
) -> list[str]:
    """The rows to train: those in `only`, the base row, and the rows that they are compared with."""
    names = list(config.rows) if only is None else [config.base, *only]
    check_keys(dict.fromkeys(names), config.rows, where, "rows")
    for name in names:
        names += [other for other in against.get(name, ()) if other in config.rows and other not in names]
    return list(dict.fromkeys(names))


def _add_row(
    base: Recipe, expanded: dict[str, Any], config: StudyConfig, row: str, changes: dict[str, Any], where: str
) -> None:
    """Add a row to the sections of the recipe: its geometry, its units if they are new, its run."""
    run = base.pretrain[config.run]
    entry = {**(expanded["pretrain"][config.run] or {}), **config.common}
    entry |= {"geometry": run.geometry, "units": list(run.units), "weights": dict(run.units)}
    entry |= {key: value for key, value in changes.items() if key not in ("geometry", "units")}
    if "units" in changes and "weights" in changes:
        raise CorpusError(f"{where}: `rows.{row}`: new units have their own `weight`; leave `weights` out")
    if changes.get("geometry"):
        geometry = expanded["family"][run.geometry]
        geometry = {"geometry": geometry} if isinstance(geometry, str) else geometry
        entry["geometry"] = PREFIX + row
        expanded["family"][PREFIX + row] = {**geometry, **changes["geometry"]}
    if "units" in changes:
        main = next(iter(run.units))
        sets = changes["units"] if isinstance(changes["units"], list) else [changes["units"]]
        names, weights = [], {}
        for number, given in enumerate(sets):
            if not isinstance(given, dict):
                raise CorpusError(f"{where}: `rows.{row}.units` must be a mapping of changes, or a list of them")
            check_keys(given, ["weight", *(f.name for f in dataclasses.fields(TargetConfig))], where,
                       f"rows.{row}.units[{number}]")  # fmt: skip
            values = {key: value for key, value in given.items() if key != "weight"}
            name = _units(expanded["units"], main, values)
            names.append(name)
            weights[name] = given.get("weight", 1.0)
        entry["units"], entry["weights"] = names, weights
    expanded["pretrain"][PREFIX + row] = entry


def _units(section: dict[str, Any], main: str, changes: dict[str, Any]) -> str:
    """Name of the main units with these changes; added to the section if new.

    The name lists the differences from the main units, so that equal units have one name in any order of the rows.
    """
    values = {**(section[main] or {}), **changes}
    for name, known in section.items():
        if name != "common" and (known or {}) == values:
            return name
    main_values = section[main] or {}
    different = {k: v for k, v in changes.items() if k not in main_values or main_values[k] != v}
    label = "_".join(f"{key}_{value}" for key, value in sorted(different.items()))
    name = f"{PREFIX}units_" + "".join(c if c.isalnum() else "_" for c in label)
    if name in section or len(name) > 60:
        name = f"{PREFIX}units_{sha256_json(values)[:10]}"
    section[name] = values
    return name


def describe(changes: Mapping[str, Any]) -> str:
    """The changes of a row in one line."""
    return json.dumps(changes, ensure_ascii=False)[1:-1].replace('"', "") or "-"
