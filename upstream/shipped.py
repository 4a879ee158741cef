"""Find the models that come with the toolkit: in `models/` of a checkout, or in the installed package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from upstream.errors import UpstreamError
from upstream.names import SHIPPED

HEAD = "letters"  # the head directory that `transcribe` and `find` use by default


def shipped(name: str) -> Path:
    """The model directory of a shipped model. Raises UpstreamError for another name and for missing files."""
    if name not in SHIPPED:
        raise UpstreamError(f"no shipped model named `{name}`; known: {', '.join(SHIPPED)}")
    root = Path(__file__).resolve().parents[1]
    places = [root / "models"]
    if (installed := find_spec("harness_models")) is not None and installed.submodule_search_locations:
        places += [Path(place) for place in installed.submodule_search_locations]
    for place in places:
        if (place / name / "config.json").is_file():
            return place / name
    raise UpstreamError(
        f"{name}: not found in {' or '.join(map(str, places))}; a checkout of the repository and its wheel hold it"
    )


def default_head() -> Path:
    """The head directory that reads Arabic if none is named."""
    return shipped(next(iter(SHIPPED))) / HEAD
