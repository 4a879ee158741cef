"""Find a model directory by its short name, or download it from a URL once, checked against SHA-256 sums."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corpora.files import sha256_file
from upstream.errors import UpstreamError

SUMS = "sha256sums"
MODELS_VARIABLE = "HARNESS_MODELS"
CACHE_VARIABLE = "HARNESS_CACHE"


def refuse(name: str, options: dict[str, Any], *known: str) -> None:
    """Raise UpstreamError for an option of the hub entry `name` that it does not take; None and `model_config` pass."""
    # A model directory holds its own configuration.
    given = sorted(key for key, value in options.items() if value is not None and key != "model_config")
    if given:
        raise UpstreamError(
            f"{name}: option `{given[0]}` is unknown; it takes {', '.join(('ckpt', 'refresh', *known))}"
        )


def is_url(ckpt: object) -> bool:
    return bool(re.match(r"https?://", str(ckpt)))


def named(name: str) -> Path:
    """The model directory `name` under $HARNESS_MODELS. Raises UpstreamError with the command that trains it."""
    make = (
        f"`./run.sh --stop_stage 9` makes the small one in exp/mini/models/{name}; then "
        f"`export {MODELS_VARIABLE}=exp/mini/models` (or the models folder of another recipe)"
    )
    root = os.environ.get(MODELS_VARIABLE)
    if not root:
        raise UpstreamError(f"{name}: the environment variable {MODELS_VARIABLE} is not set. {make}")
    folder = Path(root) / name
    if not (folder / "config.json").is_file():
        here = sorted(p.parent.name for p in Path(root).glob("*/config.json"))
        raise UpstreamError(
            f"{name}: no model directory {folder} ({MODELS_VARIABLE}={root} holds: {', '.join(here) or 'none'}). {make}"
        )
    return folder


def parse_sums(text: str, where: str = SUMS) -> dict[str, str]:
    """Lines of `sha256sum` -> hash by file name, for the four files. Raises UpstreamError."""
    sums = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        found = re.fullmatch(r"([0-9a-fA-F]{64})[ \t]+\*?(?:\./)?(\S+)", line.strip())
        if not found:
            raise UpstreamError(f"{where}, line {number}: expected `<64 hex digits>  <file>`, found `{line[:80]}`")
        sums[found[2]] = found[1].lower()
    return _complete(sums, where)


def _complete(sums: Mapping[str, str], where: str) -> dict[str, str]:
    from upstream.model.modeldir import FILES

    missing = [name for name in FILES if name not in sums]
    if missing:
        raise UpstreamError(
            f"{where}: no SHA-256 for {', '.join(missing)}; in the model directory run "
            f"`sha256sum {' '.join(FILES)} > {SUMS}`"
        )
    return {name: sums[name] for name in FILES}


def cache_folder(url: str) -> Path:
    """The local folder of the model under `url`: in $HARNESS_CACHE, or in `.cache/harness` of the home folder."""
    root = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "harness")
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", url.rstrip("/").rsplit("/", 1)[-1]).strip(".") or "model"
    return root / f"{stem}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def download(url: str, *, sha256sums: Mapping[str, str] | str | Path | None = None, refresh: bool = False) -> Path:
    """Fetch the four files of the model directory under the base `url`, once; returns the local directory.

    The SHA-256 of every file must be known: from `sha256sums` (a mapping, or a file as `sha256sum` writes
    it), else from the file `sha256sums` next to the model. A second call needs no network; `refresh` fetches the
    sums again, and the files that have changed. Raises UpstreamError if a sum is missing, and refuses a file that
    does not match its sum.
    """
    from corpora.fetch import fetch
    from corpora.files import locked

    base = url.rstrip("/")
    folder = cache_folder(base)
    with locked(folder):
        if isinstance(sha256sums, Mapping):
            sums = _complete(sha256sums, "sha256sums")
        elif sha256sums is not None:
            sums = parse_sums(Path(sha256sums).read_text(encoding="utf-8"), str(sha256sums))
        else:
            if refresh:
                (folder / SUMS).unlink(missing_ok=True)
            fetch(f"{base}/{SUMS}", folder / SUMS)
            sums = parse_sums((folder / SUMS).read_text(encoding="utf-8"), f"{base}/{SUMS}")
        for name in sums:
            file = folder / name
            if refresh and file.is_file() and sha256_file(file) != sums[name]:
                file.unlink()
            fetch(f"{base}/{name}", file, sums[name])
    return folder
