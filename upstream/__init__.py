"""Train, store, load and export speech encoders: units, pre-training, model directories, and interfaces.

The public functions below import torch and transformers at their first use only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upstream.model.chunked import encode_long
    from upstream.model.encoder import encode
    from upstream.model.fast import accelerate
    from upstream.model.modeldir import load_model

__all__ = ["accelerate", "encode", "encode_long", "load_model", "register"]

INTERFACES = ("s3prl", "transformers")
_MODULES = {
    "accelerate": "upstream.model.fast",
    "encode": "upstream.model.encoder",
    "encode_long": "upstream.model.chunked",
    "load_model": "upstream.model.modeldir",
}


def __getattr__(name: str) -> Any:
    if name == "streaming":
        return import_module("upstream.streaming")
    if name not in _MODULES:
        raise AttributeError(f"module `upstream` has no attribute `{name}`")
    return getattr(import_module(_MODULES[name]), name)


def register(*interfaces: str) -> list[str]:
    """Register our models with other libraries; returns the names of the registered interfaces.

    `s3prl` puts the names of `upstream/harness/hubconf.py` and of `upstream/harness/baselines.yaml` on `s3prl.hub`
    (S3PRL and ESPnet look them up there); `transformers` puts the log-mel configuration and models (encoder, CTC
    recogniser, classifier) on the auto classes.
    Without arguments both are registered, S3PRL only where it is installed (importing it takes seconds). A second call
    changes nothing. Every new process needs its own call: spawned workers do not inherit the names of their parent.
    Raises ValueError for an unknown interface and ImportError if the library of a named one is missing.
    """
    from importlib.util import find_spec

    for interface in interfaces:
        if interface not in INTERFACES:
            raise ValueError(f"register: interface `{interface}` is unknown; choose from {', '.join(INTERFACES)}")
    wanted = interfaces or tuple(interface for interface in INTERFACES if find_spec(interface) is not None)
    if "transformers" in wanted:
        _register_transformers()
    if "s3prl" in wanted:
        _register_s3prl()
    return [interface for interface in INTERFACES if interface in wanted]


def _register_transformers() -> None:
    from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, AutoModelForCTC

    from upstream.model.encoder import LogMelHubertConfig, LogMelHubertModel
    from upstream.model.heads import LogMelHubertForCTC, LogMelHubertForSequenceClassification

    AutoConfig.register(LogMelHubertConfig.model_type, LogMelHubertConfig, exist_ok=True)
    AutoModel.register(LogMelHubertConfig, LogMelHubertModel, exist_ok=True)
    AutoModelForCTC.register(LogMelHubertConfig, LogMelHubertForCTC, exist_ok=True)
    classifier = LogMelHubertForSequenceClassification
    AutoModelForAudioClassification.register(LogMelHubertConfig, classifier, exist_ok=True)


def _register_s3prl() -> None:
    try:
        import s3prl.hub
    except ImportError as error:
        raise ImportError(
            f"S3PRL cannot be imported ({error}); install the pinned stack: pip install -r requirements.txt"
        ) from error

    from upstream.harness import baselines, hubconf

    ours = {name: entry for name, entry in vars(hubconf).items() if callable(entry) and not name.startswith("_")}
    for name, entry in {**ours, **baselines.entries(s3prl.hub)}.items():
        setattr(s3prl.hub, name, entry)
