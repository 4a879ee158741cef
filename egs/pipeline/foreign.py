"""Models that a recipe takes from elsewhere, by path: stamps cover what they hold, not where they are."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from corpora.files import sha256_file
from egs.pipeline.recipe import Recipe

WEIGHTS = "model.safetensors"


def weights_of(recipe: Recipe, sources: Iterable[str | None]) -> dict[str, str | None]:
    """The SHA-256 of the weights of every source that is a path, by the source as the recipe has it; None where they
    are not at hand. What the recipe makes itself, and what has a name alone (`mfcc`, `s3prl:NAME`), has none.

    `NAME=PATH` and `s3prl:NAME=PATH` are paths too.
    """
    found: dict[str, str | None] = {}
    for source in sources:
        if source is None or source == "mfcc" or source in recipe.pretrain:
            continue
        path = Path(source.partition("=")[2] or source)
        if path.exists():
            found[source] = file_sha256(path / WEIGHTS if path.is_dir() else path)
        elif "=" in source:
            found[source] = None
    return found


def file_sha256(path: Path) -> str | None:
    """The SHA-256 of a file, read once for each size and time of change; None where there is no such file."""
    if not path.is_file():
        return None
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _sha256(path: Path, size: int, changed: int) -> str:
    return sha256_file(path)
