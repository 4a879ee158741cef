"""Which corpora can be prepared, and what has to be known about each before it is."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from corpora.schema import nearest

# One name a line: `corpora/datasets/<name>.py` holds `INFO` and `prepare`. Imported only when it is used or listed.
ASR = (
    "arabic_speech_commands",
    "arabic_speech_corpus",
    "callhome_egyptian",
    "casablanca",
    "common_voice",
    "everyayah",
    "fleurs",
    "gale",
    "masc",
    "mgb2",
    "mgb3",
    "mgb5",
    "qasr",
    "sada",
)
DIALECT_ID = (
    "adi5",
    "adi17",
    "adi20",
    "nadi",
)  # fmt: skip
EMOTION = (
    "anad",
    "baved",
    "eaed",
    "eyase",
    "ksuemotions",
)  # fmt: skip
ENGLISH = (
    "free_spoken_digits",
    "gigaspeech",
    "librispeech",
    "tedlium3",
    "voxpopuli",
)  # fmt: skip
MODULES: tuple[str, ...] = (*ASR, *DIALECT_ID, *EMOTION, *ENGLISH)


@dataclass(frozen=True)
class CorpusInfo:
    """What a corpus is, how it is obtained, and what its folder looks like.

    name: the module's name.  tasks: what it is used for (asr, ssl, ser, did).  hours: as published, None where nobody
    says.  access: open, form, or paid.  by_hand: what is fetched by hand, and from where; empty where `downloads`
    fetches all of it.  layout: the files that are expected, on one line.  recordings: audio files as the publisher
    counts them.  published: likewise the utterances of every set of data that `prepare` writes; a set without a
    published count is not named.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    hours: float | None
    licence: str
    access: str
    by_hand: str
    layout: str
    languages: tuple[str, ...] = ("ar",)
    recordings: int | None = None
    published: Mapping[str, int] = field(default_factory=dict)

    @property
    def variable(self) -> str:
        """The environment variable that names the corpus's folder in a recipe."""
        return self.name.upper()


class OptionError(ValueError):
    """An option of a corpus that does not exist, or a value that it cannot take."""


def load(name: str) -> ModuleType:
    """The module of a corpus; KeyError when there is none of that name."""
    if name not in MODULES:
        raise KeyError(name)
    return importlib.import_module(f"corpora.datasets.{name}")


def options(module: ModuleType) -> dict[str, inspect.Parameter]:
    """What `prepare` of a module takes beyond the folders, by name."""
    parameters = inspect.signature(module.prepare).parameters
    return {name: own for name, own in parameters.items() if own.kind is inspect.Parameter.KEYWORD_ONLY}


def parse_options(module: ModuleType, settings: typing.Iterable[str]) -> dict[str, Any]:
    """Keyword arguments of `prepare` from `key=value` strings, converted as its annotations say.

    A tuple is written with commas, a truth value as true or false, None as an empty value. Raises OptionError.
    """
    known = options(module)
    hints = typing.get_type_hints(module.prepare)
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise OptionError(f"--set {setting}: expected key=value")
        if key not in known:
            raise OptionError(
                f"--set {setting}: {module.INFO.name} has no option {key!r}{nearest(key, known)}; it takes "
                f"{', '.join(known)}"
            )
        try:
            values[key] = _parse(hints[key], text)
        except ValueError as error:
            raise OptionError(f"--set {setting}: {error}") from None
    return values


def _parse(hint: Any, text: str) -> Any:
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if not text and type(None) in parts:
            return None
        return _parse(next(part for part in parts if part is not type(None)), text)
    if typing.get_origin(hint) is tuple:
        return tuple(_parse(parts[0], part.strip()) for part in text.split(",") if part.strip())
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"expected true or false, found {text!r}")
        return text.lower() == "true"
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise ValueError(f"expected a number, found {text!r}") from None
    return hint(text) if hint in (str, Path) else text


def how_to_get(info: CorpusInfo) -> str:
    """How a corpus is obtained: `downloads` where we can fetch it, by hand, or both."""
    from corpora.download import DOWNLOADS  # it loads the modules that it fetches

    fetched = f"--corpus downloads (or {info.variable}=downloads) fetches it" if info.name in DOWNLOADS else ""
    return "; ".join(filter(None, [fetched, info.by_hand]))


def describe(info: CorpusInfo) -> str:
    """A paragraph of `--list`: title, tasks, hours, licence, access, how to get it, and the expected layout."""
    hours = "hours not published" if info.hours is None else f"{info.hours:g} h"
    return (
        f"{info.name}  {info.title}\n"
        f"    {', '.join(info.tasks)}; {'+'.join(info.languages)}; {hours}; {info.licence}; access: {info.access}\n"
        f"    get it: {how_to_get(info)}\n"
        f"    layout: {info.layout}\n"
        f"    variable: {info.variable}"
    )
