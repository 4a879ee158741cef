"""What the commands of all packages share: errors on one line, and checks of the values of options."""

from __future__ import annotations

import argparse
import atexit
import errno
import math
import os
import re
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from corpora.files import CorpusError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Exceptions with a message for the user; any other one is a defect of this program.
_EXPECTED = (ValueError, OSError, RuntimeError, ImportError, MemoryError)


class Parser(argparse.ArgumentParser):
    """A parser that raises CorpusError for a wrong command line, so that it is reported as every other error.

    An empty path, as from a variable of the shell that is not set, is refused: it would be the current folder.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        raise CorpusError(f"{message} (see {self.prog} --help)")


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty one")
    return Path(text)


def fail(program: str, error: BaseException, status: int = 2, *, output: Path | None = None) -> int:
    """Print an error on one line of stderr and return the exit status. HARNESS_TRACEBACK=1 prints the traceback too.

    output: the folder that the command writes, for the message about a full disk.
    """
    if isinstance(error, BrokenPipeError) and _reader_has_gone():
        return 128 + signal.SIGPIPE
    line = one_line(error, output)
    if not isinstance(error, _EXPECTED):
        line += f" ({type(error).__name__}: a defect of this program; HARNESS_TRACEBACK=1 prints its place)"
    print(f"{program}: error: {line}", file=sys.stderr)
    if os.environ.get("HARNESS_TRACEBACK"):
        traceback.print_exception(error)
    return status


def _reader_has_gone() -> bool:
    """Whether the reader of standard output, such as `head`, has ended."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in pipe.poll(0))


@atexit.register
def _end_output() -> None:
    """Write the rest of standard output. If its reader has ended, that is no error of the command."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(error: BaseException, output: Path | None = None) -> str:
    """The message of an error on one line, never empty.

    A full disk is reported with path and free space. PyTorch's advice to load a file without its check
    for code is left out, since a file from elsewhere could then run programs.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return _full_disk(error, output)
    text = " ".join(str(error).split())
    if "weights_only" in text:
        found = re.search(r"WeightsUnpickler error: (.*?)(?: Check the |\. |, but|$)", text)
        reason = found[1] if found and "weights_only" not in found[1] else type(error).__name__
        text = f"it holds other objects than tensors, or is damaged ({reason})"
    return text or type(error).__name__


def _full_disk(error: OSError, output: Path | None) -> str:
    """The file or folder, the free space, and what to do. Errors of `write` and `fsync` name no file."""
    named = [Path(os.fsdecode(name)) for name in (error.filename2, error.filename) if isinstance(name, str | bytes)]
    where = named[0] if named else output or Path.cwd()
    folder = next(path for path in (where.absolute(), *where.absolute().parents) if path.is_dir())
    kind = "the quota" if error.errno == errno.EDQUOT else "the disk"
    free = shutil.disk_usage(folder).free / 1e6
    return (
        f"{where}: {kind} is full: a file needs more than the {free:.1f} MB that are free. Finished files are kept, "
        "and none is half written; make room, or use another folder, and give the same command again"
    )


def whole(low: int) -> Callable[[str], int]:
    """The type of an option: a whole number of at least `low`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or int(text) < low:
            raise argparse.ArgumentTypeError(f"expected a whole number of {low} or more, got {text!r}")
        return int(text)

    return parse


def number(low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """The type of an option: a finite number from `low` to `high`; `above` excludes `low` itself."""
    bounds = [f"{'above' if above else 'of at least'} {low:g}"] * (low > -math.inf)
    bounds += [f"of at most {high:g}"] * (high < math.inf)

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not low <= value <= high or above and value == low:
            raise argparse.ArgumentTypeError(f"expected a number {' and '.join(bounds)}".rstrip() + f", got {text!r}")
        return value

    return parse


def output_folder(text: str) -> Path:
    """The type of an option: a folder to write, which need not exist."""
    path = _path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a file, not a folder")
    return path


def device(text: str) -> str:
    """The type of the option --device: auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:N, got {text!r}")
    return text
