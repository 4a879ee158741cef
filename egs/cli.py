"""The console script `harness`: one name for the commands that `python -m PACKAGE` runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from corpora import __version__

# Command, package whose __main__ it runs, what it does.
COMMANDS = {
    "corpora": ("corpora", "prepare, check and list data"),
    "upstream": ("upstream", "units, pre-training, model directories, export"),
    "downstream": ("downstream", "probes, benchmark, report, trained heads on audio files"),
    "asr": ("downstream.asr", "CTC recognisers: data, training, scores, export"),
    "espnet": ("downstream.espnet", "ESPnet's own commands with our upstreams"),
    "egs": ("egs", "recipes"),
}


def usage() -> str:
    """The help text."""
    rows = "\n".join(f"  harness {name:<11} {text} (python -m {module})" for name, (module, text) in COMMANDS.items())
    return f"HArnESS {__version__}\n\n{rows}\n\nharness COMMAND --help shows the options of a command."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command with the remaining arguments and return its exit status; 2 for a command that does not exist."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in COMMANDS:
        return import_module(f"{COMMANDS[arguments[0]][0]}.__main__").main(arguments[1:])
    if arguments[:1] == ["--version"]:
        print(__version__)
    elif not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
    else:
        print(f"harness: error: no command `{arguments[0]}`; commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
