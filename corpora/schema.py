"""Check keys and types of configurations read from YAML or `key=value`; errors are reported together."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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


class Problems:
    """Collects the errors of several checks, so that all of them are reported at once."""

    def __init__(self, where: str):
        """where: the file or command line that all of them concern."""
        self.where = where
        self.found: list[str] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep an error of the block instead of raising it."""
        try:
            yield
        except ValueError as error:
            self.found.append(str(error))

    def check(self) -> None:
        """Raise CorpusError with all errors, if there are any; `where` stands only before the first one."""
        if self.found:
            first, *others = dict.fromkeys(self.found)
            raise CorpusError("; ".join([first, *(text.removeprefix(f"{self.where}: ") for text in others)]))


def check_keys(mapping: Any, known: Iterable[str], where: str, prefix: str) -> None:
    """Raise CorpusError if `mapping` is not a mapping or has unknown keys."""
    known = list(known)
    if not isinstance(mapping, dict):
        raise CorpusError(f"{where}: {f'`{prefix}`' if prefix else 'it'} must be a mapping with {', '.join(known)}")
    if unknown := [key for key in mapping if key not in known]:
        named = [f"`{f'{prefix}.' if prefix else ''}{key}`{nearest(key, known)}" for key in unknown]
        raise CorpusError(f"{where}: unknown key {', '.join(named)} (known: {', '.join(known)})")


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
    fields = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    problems = Problems(where)
    with problems.collect():
        check_keys(mapping, fields, where, prefix)
    if isinstance(mapping, dict):
        with problems.collect():
            made = _validate(cls, {k: v for k, v in mapping.items() if k in fields}, where, prefix, cls.__name__)
    problems.check()
    return made


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
    """All problems, each with its key and the value found."""
    lines: dict[str, None] = {}
    entries = [(*_locate(entry["loc"], value, key), entry) for entry in error.errors(include_url=False)]
    for place, found, entry in entries:
        if entry["type"] == "missing":
            lines[f"`{place}{'.' if place else ''}{entry['loc'][-1]}` is missing"] = None
        elif entry["type"] == "value_error":
            lines[f"`{place or name}`: {entry['ctx']['error']}"] = None
        else:
            # A union reports one problem for each of its types.
            reasons = dict.fromkeys(other["msg"] for where, _, other in entries if where == place)
            wanted = " or ".join(reason.removeprefix("Input should be ") for reason in reasons).replace("array", "list")
            shown = text if len(text := str(found)) <= 80 else f"{text[:80]}..."
            lines[f"`{place or name}` must be {wanted}, not `{shown}` ({type(found).__name__})"] = None
    return "; ".join(lines)


def _locate(steps: Iterable[int | str], value: Any, key: str) -> tuple[str, Any]:
    """Follow pydantic's location into `value`: (dotted key, value there). It ends with names of types in a union."""
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            break
        key = f"{key}[{step}]" if isinstance(step, int) else f"{key}.{step}" if key else str(step)
    return key, value
