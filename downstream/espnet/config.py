"""Write ESPnet's training configuration for one upstream: base YAML, front end, overrides."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.files import write_text
from downstream import DownstreamError
from downstream.protocols import is_alike
from upstream.model.rate import check_directory

FBANK = "fbank"
# Frames of the front end per encoder frame, by ESPnet's name of the encoder's input layer.
SUBSAMPLING = {"linear": 1, "conv2d1": 1, "conv2d2": 2, "conv2d": 4, "conv2d6": 6, "conv2d8": 8}
HOP = {"s3prl": 320, "default": 160}  # samples, by ESPnet's name of the front end
PROJECTION = 80

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrontEnd:
    """`fbank` (ESPnet's log-mel filterbank), or a name on S3PRL's hub, with its model directory if it needs one."""

    upstream: str = FBANK
    path: Path | None = None
    freeze: bool = True


def training_config(base: Path, front_end: FrontEnd, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The base configuration with its front end filled in, and `key=value` overrides.

    An upstream gives 50 frames per second and the filterbank 100. The encoder's `input_layer` differs accordingly, so
    that both have 25 encoder frames per second. Raises DownstreamError.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        tree = OmegaConf.load(base)
        filled = OmegaConf.merge(tree, _front_end(front_end))
        for item in overrides:
            key, equals, _ = item.partition("=")
            parent = key.rpartition(".")[0]
            if not equals:
                raise DownstreamError(f"--set {item}: write it as key=value, for instance encoder_conf.num_blocks=6")
            if parent and OmegaConf.select(filled, parent) is None:  # ESPnet itself refuses unknown keys at the top
                raise DownstreamError(f"--set {item}: {base} has no `{parent}`")
            default, value = (OmegaConf.select(own, key) for own in (filled, OmegaConf.from_dotlist([item])))
            if (
                not is_alike(default, value)
                or key.endswith("lr")
                and not (isinstance(value, int | float) and value > 0)
            ):
                raise DownstreamError(f"--set {item}: `{key}` is {default!r} in {base}; give a value of this kind")
        config = OmegaConf.to_container(OmegaConf.merge(filled, OmegaConf.from_dotlist(list(overrides))), resolve=True)
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise DownstreamError(f"{base}: {error}") from error
    if config.get("preencoder") == "linear" and "input_size" not in config["preencoder_conf"]:
        hint = "give its model directory with --upstream_path, or " if front_end.path is None else ""
        raise DownstreamError(
            f"the width of {front_end.upstream} is unknown: {hint}set it, for instance "
            "--set preencoder_conf.input_size=768"
        )
    return config


def _front_end(front_end: FrontEnd) -> dict[str, Any]:
    if front_end.upstream == FBANK:
        if front_end.path is not None:
            raise DownstreamError("fbank takes no --upstream_path")
        return {
            "frontend": "default",
            "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160},
            "encoder_conf": {"input_layer": "conv2d"},
        }
    conf: dict[str, Any] = {"upstream": front_end.upstream}
    if front_end.path is not None:
        if not (front_end.path / "config.json").is_file():
            raise DownstreamError(f"--upstream_path {front_end.path}: no model directory (no config.json)")
        check_directory(front_end.path)
        conf["path_or_url"] = str(front_end.path.resolve())
    return {
        "frontend": "s3prl",
        "frontend_conf": {"frontend_conf": conf, "multilayer_feature": True},
        "preencoder": "linear",
        "preencoder_conf": {**_width(front_end.path), "output_size": PROJECTION},
        "encoder_conf": {"input_layer": "conv2d2"},
        "freeze_param": ["frontend.upstream"] if front_end.freeze else [],
    }


def _width(path: Path | None) -> dict[str, int]:
    """Width of the hidden states of a model directory; empty without one."""
    if path is None:
        return {}
    width = json.loads((path / "config.json").read_text(encoding="utf-8")).get("hidden_size")
    if not isinstance(width, int):
        raise DownstreamError(f"{path / 'config.json'}: no hidden_size; is this a model directory?")
    return {"input_size": width}


def samples_per_frame(config: Mapping[str, Any]) -> float:
    """Samples at 16 kHz per encoder frame. Raises DownstreamError for an unknown input layer."""
    layer = config.get("encoder_conf", {}).get("input_layer", "conv2d")
    if layer not in SUBSAMPLING:
        raise DownstreamError(f"encoder_conf.input_layer `{layer}` is unknown; choose from {', '.join(SUBSAMPLING)}")
    return SUBSAMPLING[layer] * HOP[config["frontend"]]


def write_config(config: Mapping[str, Any], path: Path) -> None:
    """The configuration as YAML, whole or not at all."""
    import yaml

    write_text(path, yaml.safe_dump(dict(config), allow_unicode=True, sort_keys=False))
