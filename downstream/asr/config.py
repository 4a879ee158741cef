"""Read the configuration of a CTC fine-tuning from YAML and `key=value`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from corpora.files import CorpusError
from corpora.schema import check_keys, record
from downstream.asr.augment import AugmentConfig
from downstream.asr.train_ctc import Source, TrainConfig


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration in `path` with overrides. Raises CorpusError for unknown keys and for wrong types."""
    loaded = OmegaConf.load(path)
    if overrides:
        loaded = OmegaConf.merge(loaded, OmegaConf.from_dotlist(list(overrides)))
    values: dict[str, Any] = OmegaConf.to_container(loaded, resolve=True)  # type: ignore[assignment]
    where = str(path)
    for key, kind, name in (("sources", list, "list"), ("dev", dict, "mapping")):
        if not isinstance(values.get(key), kind):
            raise CorpusError(f"{where}: `{key}` must be a {name} of audio and texts")
    # `record` checks the types of nested values, but not their keys.
    known = [field.name for field in fields(Source)]
    for number, source in enumerate(values["sources"]):
        check_keys(source, known, where, f"sources[{number}]")
    for name, source in values["dev"].items():
        check_keys(source, known, where, f"dev.{name}")
    check_keys(values.get("augment", {}), [field.name for field in fields(AugmentConfig)], where, "augment")
    return record(TrainConfig, values, where)
