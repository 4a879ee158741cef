"""Checks of option values that several corpora take."""

from __future__ import annotations

import re
from collections.abc import Collection

from corpora.files import CorpusError


def check_choice(option: str, value: str, known: Collection[str]) -> None:
    """Raise CorpusError unless the option has one of its known values."""
    if value not in known:
        raise CorpusError(f"{option}={value!r}: expected one of {', '.join(known)}")


def compile_pattern(option: str, pattern: str, *groups: str, flags: int = 0) -> re.Pattern[str]:
    """Compile an option that is a regular expression. Raise CorpusError for a missing group or a wrong expression."""
    try:
        compiled = re.compile(pattern, flags)
    except re.error as error:
        raise CorpusError(f"{option}={pattern!r}: not a regular expression: {error}") from error
    for group in groups:
        if group not in compiled.groupindex:
            raise CorpusError(f"{option}={pattern!r}: the pattern has no group (?P<{group}>...)")
    return compiled
