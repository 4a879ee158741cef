"""The corpora that can be prepared: their facts, their options, and where to get them."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from corpora.files import CorpusError
from corpora.schema import nearest

# One name a line: `corpora/datasets/<name>.py` holds `INFO` and `prepare`. A module is imported when it is used.
ASR = (
    "arabic_speech_commands",
    "arabic_speech_corpus",
    "arvoice",
    "arzen",
    "callhome_egyptian",
    "casablanca",
    "clartts",
    "common_voice",
    "everyayah",
    "fleurs",
    "gale",
    "iwslt22_tunisian",
    "masc",
    "mediaspeech",
    "mgb2",
    "mgb3",
    "mgb5",
    "mixat",
    "mtedx",
    "omani",
    "qasr",
    "sada",
    "tunswitch",
    "verse_clips",
)
DIALECT_ID = (
    "adi5",
    "adi17",
    "adi20",
    "madis5",
    "nadi",
)  # fmt: skip
EMOTION = (
    "anad",
    "baved",
    "eaed",
    "eyase",
    "ksuemotions",
    "sertus",
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
    """Facts about a corpus.

    name: name of the module.  tasks: asr, ssl, ser, did.  hours: as published, None where no number is published.
    access: open, form, or paid.  by_hand: how to get the parts that `download` does not fetch, empty if it fetches
    everything.  layout: expected files, on one line.  recordings: published number of audio files.  published:
    published number of utterances of each set that `prepare` writes; a set without a published number is not listed.
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


def load(name: str) -> ModuleType:
    """The module of a corpus. Raises KeyError for an unknown name."""
    if name not in MODULES:
        raise KeyError(name)
    return importlib.import_module(f"corpora.datasets.{name}")


def options(module: ModuleType) -> dict[str, inspect.Parameter]:
    """The options of a corpus: keyword arguments of its `prepare`, by name."""
    parameters = inspect.signature(module.prepare).parameters
    return {name: own for name, own in parameters.items() if own.kind is inspect.Parameter.KEYWORD_ONLY}


def parse_options(module: ModuleType, settings: Iterable[str]) -> dict[str, Any]:
    """Keyword arguments of `prepare` from `key=value` strings, converted as its annotations say.

    A tuple is written with commas, a truth value as true or false, None as an empty value. Raises CorpusError.
    """
    from pydantic import TypeAdapter, ValidationError  # takes 0.2 s to import

    known = options(module)
    hints = typing.get_type_hints(module.prepare)
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise CorpusError(f"--set {setting}: expected key=value")
        if key not in known:
            raise CorpusError(
                f"--set {setting}: {module.INFO.name} has no option {key!r}{nearest(key, known)}; it takes "
                f"{', '.join(known)}"
            )
        try:
            values[key] = TypeAdapter(hints[key]).validate_python(_plain_value(hints[key], text))
        except ValidationError as error:
            raise CorpusError(f"--set {setting}: {error.errors()[0]['msg']}") from None
    return values


def _plain_value(hint: Any, text: str) -> str | list[str] | None:
    """The text of an option as pydantic expects it for the type: a list for a tuple, None for an empty value."""
    types = (hint, *typing.get_args(hint))
    if not text and type(None) in types:
        return None
    if any(typing.get_origin(own) is tuple for own in types):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def can_be_fetched(name: str) -> bool:
    """Whether the corpus is known and has a `download` function."""
    return name in MODULES and hasattr(load(name), "download")


def how_to_get(info: CorpusInfo) -> str:
    """How to get a corpus: with `downloads`, by hand, or both."""
    fetched = f"--corpus downloads (or {info.variable}=downloads) fetches it" if can_be_fetched(info.name) else ""
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


def corpus_error(corpus_dir: Path, info: CorpusInfo, expected: str = "") -> CorpusError:
    """The error for a folder that is missing, empty or of another layout: expected, found, and what to do.

    expected: the missing part, where only a part of the layout is missing.
    """
    if not corpus_dir.exists():
        found = "nothing: there is no such folder"
    elif not corpus_dir.is_dir():
        found = "a file"
    else:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in corpus_dir.iterdir())
        found = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        found = found or "an empty folder"
    return CorpusError(
        f"{corpus_dir}: expected {expected or info.layout}; found {found}. Name the folder that holds the corpus "
        f"(--corpus, or {info.variable}= in the recipe's db.sh or in the environment). Get it: {how_to_get(info)}"
    )
