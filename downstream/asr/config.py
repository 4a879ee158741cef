"""The configuration of a CTC fine-tuning from YAML and `key=value`, checked: an unknown key names the nearest known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corpora.schema import RecordError, record


def read_config(path: Path, overrides: Sequence[str] = ()):
    """A TrainConfig. Raises RecordError for what it does not know, with file and key."""
    from omegaconf import OmegaConf

    from downstream.asr.augment import AugmentConfig
    from downstream.asr.train_ctc import Source, TrainConfig

    loaded = OmegaConf.load(path)
    if overrides:
        loaded = OmegaConf.merge(loaded, OmegaConf.from_dotlist(list(overrides)))
    values: dict[str, Any] = OmegaConf.to_container(loaded, resolve=True)  # type: ignore[assignment]
    where = str(path)

    def source(given: Any, prefix: str) -> Source:
        if isinstance(given, dict) and "join" in given:
            given = {**given, "join": tuple(given["join"])}
        return record(Source, given, where, prefix)

    for key, kind in (("sources", list), ("dev", dict)):
        if not isinstance(values.get(key), kind):
            raise RecordError(
                f"{where}: `{key}` must be a {'list' if kind is list else 'mapping'} of audio stores and texts"
            )
    sources = [source(given, f"sources[{i}]") for i, given in enumerate(values.pop("sources"))]
    dev = {name: source(given, f"dev.{name}") for name, given in values.pop("dev").items()}
    effects = dict(values.pop("augment", {}))
    if "noise_db" in effects:
        effects["noise_db"] = tuple(effects["noise_db"])
    longest = [tuple(map(float, pair)) for pair in values.pop("longest", [[0.0, 16.0]])]
    more = {
        "sources": sources,
        "dev": dev,
        "augment": record(AugmentConfig, effects, where, "augment"),
        "longest": longest,
    }
    return record(TrainConfig, {**values, **more}, where)
