"""Find the models that ship with the toolkit: in `models/` of a checkout, and in the same folder of an installed wheel.

`upstream/models` is a link to `models/`; a wheel contains the files at that place. Only the names in
`upstream.names.SHIPPED` lead there: those of trained recipes still mean $HARNESS_MODELS.
"""

from __future__ import annotations

import os
from pathlib import Path

from upstream.errors import UpstreamError
from upstream.names import SHIPPED

MODELS = Path(__file__).parent / "models"


def shipped(name: str) -> Path:
    """The directory of a model that ships. Raises UpstreamError for another name, and where the files are missing."""
    if name not in SHIPPED:
        raise UpstreamError(f"{name}: no model of this name ships; these do: {', '.join(SHIPPED)}")
    folder = MODELS / name
    if not (folder / "config.json").is_file():
        here = sorted(path.parent.name for path in MODELS.glob("*/config.json"))
        raise UpstreamError(
            f"{name}: {os.path.realpath(MODELS)} lacks this model (it has {', '.join(here) or 'none'}); "
            "get a repository or wheel that has it, or give a model directory of your own"
        )
    return folder


def model_path(path: Path | str) -> Path:
    """`path`, or where no folder has this path and it is a name in `SHIPPED`, the directory of the model that ships."""
    return shipped(str(path)) if str(path) in SHIPPED and not Path(path).is_dir() else Path(path)
