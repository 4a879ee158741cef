"""Check keys and types of configurations read from YAML or `key=value`; errors name the nearest known key."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from corpora.files import CorpusError

if TYPE_CHECKING:
    from pydantic import ValidationError

T = TypeVar("T")
_SIMILARITY = 0.6  # from 0 to 1: less similar names are not suggested


def nearest(name: str, known: Iterable[str], mark: str = "") -> str:
    """`; the nearest known one is ...` for an error message, or an empty string where no known name is similar.

    mark: written before the name, such as `--`. Of dotted names the last parts must be similar as well, since related
    keys have the same first parts.
    """

    def last(text: str) -> str:
        return text.rpartition(".")[2]

    known = list(known)
    for close in difflib.get_close_matches(str(name), known, n=max(1, len(known)), cutoff=_SIMILARITY):
        if difflib.SequenceMatcher(None, last(close), last(str(name))).ratio() >= _SIMILARITY:
            return f"; the nearest known one is `{mark}{close}`"
    return ""


def check_keys(mapping: Any, known: Iterable[str], where: str, prefix: str) -> None:
    """Raise CorpusError if `mapping` is not a mapping or has an unknown key."""
    known = list(known)
    if not isinstance(mapping, dict):
        raise CorpusError(f"{where}: {f'`{prefix}`' if prefix else 'it'} must be a mapping with {', '.join(known)}")
    for key in mapping:
        if key not in known:
            full = f"{prefix}.{key}" if prefix else str(key)
            raise CorpusError(f"{where}: unknown key `{full}`{nearest(key, known)} (known: {', '.join(known)})")


def flatten(tree: Mapping[str, Any], *, lists: bool = False) -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys. Empty mappings are values.

    lists: number the items of lists in the keys; otherwise a list is a value.
    """

    def leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
        inner = isinstance(node, Mapping) or lists and isinstance(node, list)
        if not inner or not node:
            yield key, node
            return
        for name, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from leaves(value, f"{key}.{name}" if key else str(name))

    return dict(leaves(tree, "")) if tree else {}


def record(cls: type[T], mapping: Any, where: str, prefix: str = "") -> T:
    """Make a dataclass (pydantic's or the standard library's) from a mapping, with strict types.

    An int is accepted for a float, a list for a tuple; nothing else is converted. where: the file, for messages.
    prefix: the section inside the file. Raises CorpusError for unknown or missing keys, for wrong types, and for
    values that the dataclass itself refuses.
    """
    check_keys(mapping, [field.name for field in dataclasses.fields(cls)], where, prefix)  # type: ignore[arg-type]
    return _validate(cls, mapping, where, prefix, cls.__name__)


def convert(hint: Any, value: Any, where: str, key: str) -> Any:
    """Check one value against a type, with the rules of `record`. Raises CorpusError."""
    return _validate(hint, value, where, key, key)


def _validate(hint: Any, value: Any, where: str, key: str, name: str) -> Any:
    from pydantic import TypeAdapter, ValidationError  # takes 0.2 s to import

    try:
        # Strict JSON: unlike strict Python objects it accepts a mapping for a dataclass, and a list for a tuple.
        return TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        raise CorpusError(f"{where}: {_describe(error, value, key, name)}") from None


def _describe(error: ValidationError, value: Any, key: str, name: str) -> str:
    """The first problem, with its key and the value found."""
    entries = error.errors(include_url=False)
    first = entries[0]
    place, found = _locate(first["loc"], value, key)
    if first["type"] == "missing":
        return f"`{place}{'.' if place else ''}{first['loc'][-1]}` is missing"
    if first["type"] == "value_error":
        return f"`{place or name}`: {first['ctx']['error']}"
    # A union reports one problem for each of its types.
    reasons = dict.fromkeys(entry["msg"] for entry in entries if _locate(entry["loc"], value, key)[0] == place)
    wanted = " or ".join(reason.removeprefix("Input should be ") for reason in reasons).replace("array", "list")
    return f"`{place or name}` must be {wanted}, not `{found}` ({type(found).__name__})"


def _locate(steps: Iterable[int | str], value: Any, key: str) -> tuple[str, Any]:
    """Follow pydantic's location into `value`: (dotted key, value there). It ends with names of types in a union."""
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            break
        key = f"{key}[{step}]" if isinstance(step, int) else f"{key}.{step}" if key else str(step)
    return key, value
