"""Plain dataclasses from what YAML or `key=value` gives; keys and types are checked, errors name the nearest key."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")
# Below, a suggestion has nothing to do with what was meant.
_ALIKE = 0.6


class RecordError(ValueError):
    """A configuration that cannot be used; the message names the place, the key, and what is known."""


def nearest(name: str, known: Iterable[str], mark: str = "") -> str:
    """`; the nearest known one is ...` for an error message, empty where nothing is near; `mark` stands before the
    name.

    Of dotted names the last parts must be alike, too: what they have in common before that says nothing.
    """

    def last(text: str) -> str:
        return text.rpartition(".")[2]

    known = list(known)
    for close in difflib.get_close_matches(str(name), known, n=max(1, len(known)), cutoff=_ALIKE):
        if difflib.SequenceMatcher(None, last(close), last(str(name))).ratio() >= _ALIKE:
            return f"; the nearest known one is `{mark}{close}`"
    return ""


def check_keys(mapping: Any, known: Iterable[str], where: str, prefix: str) -> None:
    """Raise RecordError for what is not a mapping, or for its first unknown key."""
    known = list(known)
    if not isinstance(mapping, dict):
        raise RecordError(f"{where}: {f'`{prefix}`' if prefix else 'it'} must be a mapping with {', '.join(known)}")
    for key in mapping:
        if key not in known:
            full = f"{prefix}.{key}" if prefix else str(key)
            raise RecordError(f"{where}: unknown key `{full}`{nearest(key, known)} (known: {', '.join(known)})")


def record(cls: type[T], mapping: Any, where: str, prefix: str = "") -> T:
    """A dataclass from a mapping. Raises RecordError for unknown or missing keys and wrong types, and locates what the
    dataclass itself refuses; `where` names the file, `prefix` the section within it."""
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    check_keys(mapping, [f.name for f in fields], where, prefix)
    dot = f"{prefix}." if prefix else ""
    for f in fields:
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in mapping:
            raise RecordError(f"{where}: `{dot}{f.name}` is missing")
    values = {key: convert(hints[key], value, where, f"{dot}{key}") for key, value in mapping.items()}
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise RecordError(f"{where}: `{prefix or cls.__name__}`: {error}") from error


def convert(hint: Any, value: Any, where: str, key: str) -> Any:
    """The value as the annotation wants it: an int may stand for a float, nothing else is bent. Raises RecordError."""
    if hint is Any:
        return value
    origin, parameters = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for option in parameters:
            if _fits(option, value):
                return convert(option, value, where, key)
    elif _fits(hint, value):
        if origin is list:
            return [convert(parameters[0], item, where, f"{key}[{i}]") for i, item in enumerate(value)]
        if hint is float:
            return float(value)
        return value
    wanted = hint.__name__ if isinstance(hint, type) and origin is None else str(hint)
    raise RecordError(f"{where}: `{key}` must be {wanted}, not `{value}` ({type(value).__name__})")


def _fits(hint: Any, value: Any) -> bool:
    if hint in (None, type(None)):
        return value is None
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, typing.get_origin(hint) or hint)
