"""Kaldi's text tables: one id and its value a line, UTF-8, sorted bytewise, nothing invisible in them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

_harmless: set[str] = set()  # characters that were looked up before: tables hold millions of the same hundred
_NAMES = {"\r": "CARRIAGE RETURN", "\t": "TAB"}


def safe_id(name: str) -> str:
    """A publisher's name for a speaker or recording as a part of an id: letters, digits, dots and underscores in ASCII.

    What is replaced is told apart by six digits of a hash. Without "-", which sorts before all of these and joins the
    parts of an id, utterances stay in the order of their speakers.
    """
    clean = re.sub(r"[^0-9A-Za-z._]+", "_", name)
    if clean == name:
        return name
    return f"{clean.strip('_')}_{hashlib.sha256(name.encode()).hexdigest()[:6]}".lstrip("_")


class Table(dict[str, str]):
    """id -> value in the order of the file, which knows where each id stood."""

    def __init__(self, file: Path):
        super().__init__()
        self.file = file
        self.lines: dict[str, int] = {}

    def where(self, key: str) -> str:
        """File and line of an id."""
        return f"{self.file}:{self.lines[key]}"


def read_table(file: Path, problems: list[str], what: str = "value", *, one_word: bool = False) -> Table:
    """Read a table and append what is wrong to `problems`, each with file and line.

    what: the name of a value in messages; one_word: values hold no space.
    """
    table = Table(file)
    try:
        content = file.read_bytes()
        lines = content.decode("utf-8").split("\n")
    except FileNotFoundError:
        problems.append(f"{file}: no such file")
        return table
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        problems.append(f"{file}:{line}: not UTF-8 (byte 0x{content[error.start]:02X})")
        return table
    if lines.pop() != "":
        problems.append(f"{file}: the last line does not end with a line feed; the file may be cut off")
        return table
    if not lines:
        problems.append(f"{file}: empty file")
    previous = ""
    for number, line in enumerate(lines, start=1):
        where = f"{file}:{number}"
        wrong = check_line(where, line)
        if wrong:
            problems += wrong
            continue
        key, _, value = line.partition(" ")
        value = value.strip(" ")
        if not key:
            problems.append(f"{where}: no id at the start of the line")
        elif not value:
            problems.append(f"{where}: empty {what} of {key}")
        elif one_word and " " in value:
            problems.append(f"{where}: {what} {value!r} of {key} is not one word")
        elif key in table:
            problems.append(f"{where}: id {key} is there twice, first in line {table.lines[key]}")
        elif key < previous:
            problems.append(f"{where}: id {key} comes after {previous}; sort bytewise (LC_ALL=C sort)")
        if key not in table:
            table[key] = value
            table.lines[key] = number
        previous = max(previous, key)
    return table


def check_line(where: str, line: str) -> list[str]:
    """Name the first character that a table may not hold: controls, format marks, white space other than U+0020."""
    if line.isascii() and line.isprintable() or set(line) <= _harmless:
        return []
    for column, character in enumerate(line, start=1):
        category = unicodedata.category(character)
        if category in ("Cc", "Cf", "Cs", "Zl", "Zp") or (category == "Zs" and character != " "):
            name = unicodedata.name(character, _NAMES.get(character, "control character"))
            return [f"{where}: forbidden character U+{ord(character):04X} ({name}) in column {column}; remove it"]
    _harmless.update(line)
    return []


def compare_ids(table: Table, expected: Mapping[str, object], source: str = "utt2spk") -> list[str]:
    """What ids a table lacks of `expected` (the ids of the file `source`), and which it has beyond them."""
    missing = sorted(expected.keys() - table.keys())
    extra = sorted(table.keys() - expected.keys())
    problems = []
    if missing:
        problems.append(f"{table.file}: {len(missing)} of the ids in {source} are missing, as {missing[0]}")
    if extra:
        problems.append(f"{table.where(extra[0])}: {len(extra)} ids are not in {source}, as {extra[0]}")
    return problems
