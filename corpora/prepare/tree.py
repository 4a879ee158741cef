"""Find the files of a corpus as people have them: other case, decomposed names, and without the files of a system.

A tree that was copied through macOS has decomposed names (NFD) and `._*` files; one from an LDC disc or a Windows
machine is in upper case. Names are compared composed (NFC) and without regard to case; an exact name is taken first.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import unicodedata
from pathlib import Path, PurePosixPath

from corpora.files import CorpusError

_SYSTEM = ("thumbs.db", "desktop.ini", "__macosx")


def is_visible(name: str) -> bool:
    """Whether a file or folder belongs to a corpus: it is not hidden, and not an index file of a system."""
    return not name.startswith(".") and name.lower() not in _SYSTEM


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """The visible files below a folder whose path matches a glob (`*`, `?`, `**`), sorted; links are followed.

    A link to a folder that holds it is left out: it would give every file again, under forty names.
    """
    expression = _expression(pattern)
    deep = "**" in pattern
    depth = pattern.count("/")
    found = []
    above = {str(folder): (os.path.realpath(folder),)}  # the folders from the top to each one, without links
    for parent, folders, names in os.walk(folder, followlinks=True):
        place = Path(parent).relative_to(folder)
        folders[:] = [name for name in folders if is_visible(name)] if deep or len(place.parts) < depth else []
        here, chain = list(folders), above.pop(parent)
        for name in here:
            path = os.path.join(parent, name)
            real = os.path.realpath(path) if os.path.islink(path) else os.path.join(chain[-1], name)
            if real in chain:
                folders.remove(name)
            else:
                above[path] = (*chain, real)
        for name in names:
            path = place / name
            if is_visible(name) and expression.fullmatch(_plain(path.as_posix())) and (folder / path).is_file():
                found.append(folder / path)
    return sorted(found)


def find_path(folder: Path, name: str) -> Path:
    """The file or folder `name`, a path inside `folder`, under the spelling that the disk has.

    The path as asked if there is no such entry. Raises CorpusError if the names of two entries differ in case only.
    """
    path = folder / name
    if path.exists():
        return path
    here = folder
    for part in PurePosixPath(name).parts:
        if (here / part).exists():
            here = here / part
            continue
        alike = _entries(here).get(_plain(part), [])
        if not alike:
            return path
        if len(alike) > 1:
            raise CorpusError(f"{here}: {' and '.join(alike)} both stand for {part}; keep one of them")
        here = here / alike[0]
    return here


def _entries(folder: Path) -> dict[str, list[str]]:
    """Plain name -> names of the visible entries of a folder."""
    return _listed(folder, folder.stat().st_mtime_ns) if folder.is_dir() else {}


@functools.lru_cache(maxsize=64)
def _listed(folder: Path, modified_ns: int) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name in sorted(filter(is_visible, os.listdir(folder))):
        names.setdefault(_plain(name), []).append(name)
    return names


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _expression(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression of plain names."""
    parts = []
    for part in _plain(pattern).split("/"):
        if part == "**":
            parts.append("(?:[^/]+/)*")
        else:
            parts.append(fnmatch.translate(part).replace(".*", "[^/]*").replace(r"\Z", "").replace(r"\z", "") + "/")
    return re.compile("".join(parts).removesuffix("/"))
