"""Which code made a number: the commit of this checkout, whatever the current folder is."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

MODIFIED = "+changes"


@cache
def commit() -> str:
    """The commit of this code, with `+changes` where files differ from it; `unknown` outside git."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short", "HEAD")
        return f"{head}{MODIFIED if git('status', '--porcelain') else ''}" if head else "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
