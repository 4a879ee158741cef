"""Check names that become files or folders: of upstreams, runs, units, corpora, splits, utterances, readers, tags.

python -m corpora.names tag=NAME test_set=NAME     # for scripts: exit status 2 and one line for a name to refuse
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from corpora.files import CorpusError

# Most file systems allow 255 bytes; digests, suffixes and the names of temporary files are added.
LONGEST = 180
# Of hidden files, of options, and of formulas in programs that open tables.
_FIRST = ".-=+@~"


def check_name(name: Any, what: str) -> str:
    """Return `name` if it can be the name of one file or folder. `what` says in the message whose name it is.

    Raises CorpusError for a name that is empty, leads to another folder, holds a control character or bytes that are
    not UTF-8, begins with one of . - = + @ ~, begins or ends with a space, or is longer than 180 bytes.
    """
    problem = _problem(name)
    if problem:
        shown = repr(name) if len(str(name)) <= LONGEST else f"{str(name)[:40]!r}..."
        raise CorpusError(f"{what} {shown}: {problem}; it names a file or folder, so choose another name")
    return name


def _problem(name: Any) -> str:
    if not isinstance(name, str) or not name:
        return "not a name" if name else "the name is empty"
    for mark in "/\\":
        if mark in name:
            return f"a name must not hold {mark}"
    if name[0] in _FIRST:
        return f"a name must not begin with {name[0]}"
    if name != name.strip():
        return "a name must not begin or end with a space"
    bad = next((character for character in name if not character.isprintable()), "")
    if bad:
        return f"a name must not hold the character U+{ord(bad):04X}"
    if len(name.encode()) > LONGEST:
        return f"a name must have at most {LONGEST} bytes"
    return ""


def main(arguments: Sequence[str]) -> int:
    """Check every `what=name`; returns 0, or 2 after one line for the first name that is refused."""
    for argument in arguments:
        what, _, name = argument.partition("=")
        try:
            check_name(name, f"--{what}")
        except CorpusError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
