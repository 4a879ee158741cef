"""Shared fixtures of the tests of recipe scripts, which run with a stand-in for Python that prints its arguments."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Runs short scripts (-c), and otherwise prints its arguments.
_STAND_IN = """#!/usr/bin/env bash
if [ "$1" = -c ]; then exec {python} "$@"; fi
printf 'CALLED'
printf ' %q' "$@"
echo
"""


@pytest.fixture(scope="session")
def call(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function: run.sh of a recipe's folder with these arguments, and these variables in its environment."""
    folder = tmp_path_factory.mktemp("venv") / "bin"
    folder.mkdir()
    (folder / "python").write_text(_STAND_IN.format(python=sys.executable))
    (folder / "python").chmod(0o755)

    def run(recipe: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": "/usr/bin:/bin", "HARNESS_VENV": str(folder.parent), **variables}
        return subprocess.run(["./run.sh", *arguments], cwd=recipe, env=env, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture(scope="session")
def calls() -> Callable[[subprocess.CompletedProcess[str]], list[str]]:
    """A function: the arguments of every Python command of a run, each as one line of shell words."""

    def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
        return [line.removeprefix("CALLED ") for line in done.stdout.splitlines() if line.startswith("CALLED")]

    return lines
