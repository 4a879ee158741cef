"""What a recipe makes from what: its units and models as a graph, and the stage in which each of them is made.

The thirteen stages make the units and models that every recipe has. Whatever else a recipe names is made just before
the first stage that needs it; what nothing needs (a further student, say) is made in stage 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egs.pipeline.recipe import Recipe

MADE_BY = {"it1": 2, "hl_it1": 3, "it2": 4, "hl_it2": 5, "student": 6, "hs": 7, "hst": 8}
LAST = 8


class GraphError(ValueError):
    """Something is needed before it can be made."""


def dependencies(recipe: Recipe, key: str) -> tuple[str, ...]:
    """The units and models of the recipe that a thing is made from, in the order in which it names them."""
    if key in recipe.units:
        sources = [recipe.units[key].source]
    else:
        run = recipe.pretrain[key]
        sources = [*run.units, run.init.source, run.regression.source if run.regression else None]
    return tuple(dict.fromkeys(s for s in sources if s in recipe.units or s in recipe.pretrain))


def plan(recipe: Recipe) -> dict[int, list[str]]:
    """Stage number -> what it makes, in order. Raises GraphError where a thing would come after what needs it."""
    keys = [*recipe.units, *recipe.pretrain]
    users: dict[str, list[str]] = {key: [] for key in keys}
    for key in keys:
        for needed in dependencies(recipe, key):
            users[needed].append(key)
    hosts: dict[str, int] = {}
    for key in keys:
        _host(key, users, hosts, ())
    for key in keys:
        for needed in dependencies(recipe, key):
            if hosts[needed] > hosts[key]:
                raise GraphError(
                    f"`{key}` is needed in stage {hosts[key]}, but made from `{needed}`, "
                    f"which stage {hosts[needed]} makes"
                )
    stages: dict[int, list[str]] = {}
    for number in range(2, LAST + 1):
        here = [key for key in keys if hosts[key] == number]
        stages[number] = []
        for key in here:
            _append(recipe, key, here, stages[number], ())
    return stages


def _host(key: str, users: Mapping[str, list[str]], hosts: dict[str, int], above: tuple[str, ...]) -> int:
    if key in above:
        raise GraphError(f"`{key}` is made from itself: {' <- '.join([*above[above.index(key) :], key])}")
    if key not in hosts:
        below = [_host(user, users, hosts, (*above, key)) for user in users[key]]
        hosts[key] = MADE_BY.get(key) or min(below, default=LAST)
    return hosts[key]


def _append(recipe: Recipe, key: str, here: list[str], done: list[str], above: tuple[str, ...]) -> None:
    """`key` after what it needs of the same stage (there is no cycle: `_host` walked the same edges)."""
    if key in done:
        return
    for needed in dependencies(recipe, key):
        if needed in here and needed not in above:
            _append(recipe, needed, here, done, (*above, key))
    done.append(key)


def iteration(recipe: Recipe, model: str) -> int:
    """1 for a model trained on MFCC units or on those of a foreign model, else one more than the model behind its
    units or features."""
    run = recipe.pretrain[model]
    sources = [recipe.units[name].source for name in run.units]
    sources += [run.regression.source] if run.regression else []
    return 1 + max((iteration(recipe, s) for s in sources if s in recipe.pretrain), default=0)
