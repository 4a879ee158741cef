"""Prepare a corpus, or check a data directory, from the command line.

    python -m corpora --list
    python -m corpora baved --corpus /data/baved --out data/baved [--jobs N] [--seed N]
    python -m corpora mini --out data/mini
    python -m corpora open_arabic --out data/open_arabic     # the four folders come from the environment
    python -m corpora validate data/open_arabic

A corpus given as `downloads` is fetched from its publisher into the folder `downloads` first.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from corpora import arabic_speech_commands, baved, download, everyayah, free_spoken_digits, open_arabic
from corpora.datadir import validate_datadir
from corpora.ingest import CorpusError

PREPARERS = {module.NAME: module for module in (arabic_speech_commands, baved, everyayah, free_spoken_digits)}
DOWNLOADS = "downloads"
_OTHERS = {
    "mini": "synthetic Arabic and English speech, nothing to download",
    "open_arabic": f"self-supervised, ASR and SER data from {', '.join(sorted(PREPARERS))}",
    "validate": "check the data directories in a folder",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all errors here do."""

    def error(self, message: str) -> NoReturn:
        raise CorpusError(f"{message} (see python -m corpora --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it is done, 2 after one line that says what is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError, RuntimeError) as error:  # all errors of this package are among these
        print(f"corpora: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("corpora: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    parser = _Parser(
        prog="python -m corpora", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="list the corpora that can be prepared")
    parser.add_argument("command", nargs="?", help="a corpus of --list, or validate")
    options, rest = parser.parse_known_args(arguments[:1])
    if options.list:
        _print_list()
        return 0
    known = [*PREPARERS, *_OTHERS]
    if options.command is None:
        parser.error(f"unknown option {rest[0]}" if rest else "no corpus is named")
    if options.command not in known:
        near = difflib.get_close_matches(options.command, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise CorpusError(f"unknown corpus or command {options.command!r}: {hint}")
    rest += arguments[1:]
    if options.command == "validate":
        return _validate(rest)
    return _prepare(options.command, rest)


def _prepare(name: str, arguments: list[str]) -> int:
    parser = _Parser(
        prog=f"python -m corpora {name}", formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    if name in PREPARERS:
        parser.add_argument(
            "--corpus",
            type=Path,
            required=True,
            help=f"folder with {PREPARERS[name].EXPECTED}; or '{DOWNLOADS}' to fetch it",
        )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the data directories into")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice")
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, help="processes")
    if name == "mini":
        parser.add_argument("--scale", type=float, default=1.0, help="size; 1.0 is the size of the recipe")
    options = parser.parse_args(arguments)
    common = {"seed": options.seed, "jobs": options.jobs}
    if name == "mini":
        from corpora import mini  # the synthesiser's library is loaded only where it is used

        mini.prepare(options.out, scale=options.scale, **common)
    elif name == "open_arabic":
        sources = {
            module.VARIABLE: _folder(module.NAME, os.environ[module.VARIABLE])
            for module in open_arabic.CORPORA
            if os.environ.get(module.VARIABLE)
        }
        open_arabic.prepare(options.out, sources=sources, **common)
    else:
        PREPARERS[name].prepare(_folder(name, str(options.corpus)), options.out, **common)
    return 0


def _folder(name: str, value: str) -> Path:
    """The folder of a corpus, fetched first where the value says so."""
    return download.DOWNLOADS[name](Path(DOWNLOADS)) if value == DOWNLOADS else Path(value).expanduser()


def _validate(arguments: list[str]) -> int:
    """Check every data directory in a folder; one line for each problem."""
    parser = _Parser(prog="python -m corpora validate", allow_abbrev=False)
    parser.add_argument("dir", type=Path, help="a data directory, or a folder that holds some")
    folder = parser.parse_args(arguments).dir
    found = sorted(path.parent for path in folder.rglob("wav.scp"))
    if not found:
        raise CorpusError(f"{folder}: expected a data directory or a folder that holds some; found no wav.scp")
    problems = 0
    for data_dir in found:
        own = validate_datadir(data_dir)
        problems += len(own)
        for problem in own:
            print(problem, file=sys.stderr)
        print(f"{data_dir}: {'ok' if not own else f'{len(own)} problems'}")
    return 2 if problems else 0


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return number


def _print_list() -> None:
    width = max(map(len, [*PREPARERS, *_OTHERS]))
    for name, module in sorted(PREPARERS.items()):
        print(f"{name:{width}}  {module.VARIABLE}: {module.EXPECTED}")
    for name, text in _OTHERS.items():
        if name != "validate":
            print(f"{name:{width}}  {text}")


if __name__ == "__main__":
    sys.exit(main())
