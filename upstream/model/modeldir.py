"""Save and load model directories, the form in which a model is stored and shared.

Four files: `config.json` (Transformers' configuration, our card under the key `harness`), `model.safetensors`,
`preprocessor_config.json`, `README.md`. They are written whole or not at all; none of them is a pickle.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model
from transformers.utils import logging

from corpora.audio import SAMPLE_RATE
from corpora.command import one_line
from corpora.files import atomic_dir, sha256_file, write_json, write_text
from upstream.errors import UpstreamError
from upstream.model.configcheck import check_config, check_preprocessor, read_object, unused
from upstream.model.encoder import LogMelHubertConfig, LogMelHubertModel, front_end_of, normalises_waveform
from upstream.model.rate import check_frames, frames_of
from upstream.names import SHIPPED
from upstream.shipped import model_path

CARD_KEY = "harness"
LICENCE = "apache-2.0"
FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md")
MODEL_TYPES = {
    "hubert": (HubertConfig, HubertModel),
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    LogMelHubertConfig.model_type: (LogMelHubertConfig, LogMelHubertModel),
}
# Keys of config.json that make Transformers load other code, quantisers or kernels, or layers that we do not run.
IGNORED_KEYS = {
    *("add_adapter", "attn_implementation", "_attn_implementation", "auto_map", "dtype", "torch_dtype"),
    *("experts_implementation", "quantization_config"),
}
_SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
# Sizes that the shape of a tensor shows: the key of config.json, the tensor, the axis.
SIZES = (
    ("hidden_size", r"encoder\.layer_norm\.weight", 0),
    ("intermediate_size", r"encoder\.layers\.0\.feed_forward\.intermediate_dense\.weight", 0),
    ("num_conv_pos_embeddings", r"pos_conv_embed\.conv\.(parametrizations\.weight\.original1|weight_v)", 2),
    ("mels", r"feature_extractor\.mel", 1),
)


def save_model(model: HubertModel, path: Path, card: dict[str, Any]) -> Path:
    """Write a model directory, replacing an older one as a whole; `card` (JSON) describes data, units and training."""
    config = model.config
    config.layerdrop, config.apply_spec_augment = 0.0, False
    config.do_normalize = normalises_waveform(model)
    setattr(config, CARD_KEY, card)
    with atomic_dir(path) as folder:
        with _no_progress_bar():
            model.save_pretrained(folder, safe_serialization=True)
        # safetensors lets only the owner read its file; others must be able to read a shared model.
        shutil.copymode(folder / "config.json", folder / "model.safetensors")
        Wav2Vec2FeatureExtractor(
            feature_size=1,
            sampling_rate=SAMPLE_RATE,
            do_normalize=config.do_normalize,
            return_attention_mask=True,
        ).save_pretrained(folder)
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not written.get("left_context"):
            written.pop("chunk", None)  # only streaming models have chunks
        plain = {"squeeze": 1, "stem": "linear", "positions": "convolution", "left_context": 0, "cmvn": False}
        for key, default in plain.items():
            if written.get(key) == default:  # older directories do not have the key
                del written[key]
        write_json(folder / "config.json", written)
        write_text(folder / "README.md", _readme(model, card))
    return path


def load_model(path: Path | str) -> HubertModel:
    """The encoder of a model directory (ours, or HuBERT / wav2vec 2.0 / XLS-R in Transformers form), in eval mode.

    `path` may be the name of a model that ships, such as `harness_open`. Weights in half precision become fp32.

    Only `config.json`, `model.safetensors` and `preprocessor_config.json` are opened; code, adapters and pickles in the
    folder are ignored. Raises UpstreamError, with the reason, for a directory that cannot be loaded, and for an encoder
    of another rate than 50 frames per second.
    """
    model = read_model(path)
    check_frames(path, frames_of(model.config))
    return model


def read_model(path: Path | str) -> HubertModel:
    """The same for an encoder of any frame rate, to describe it; nothing else can use other rates."""
    path = model_path(path)
    config_json = _config(path)
    config_class, model_class = MODEL_TYPES[config_json["model_type"]]
    check_weights(path)
    try:
        _check_shapes(path, config_json)
        check_config(path, config_json, _shapes(path))
        # Passed as a state dict: from a folder, Transformers would also load the adapter of an `adapter_config.json`.
        weights = load_file(path / "model.safetensors")
        config = config_class.from_dict({k: v for k, v in config_json.items() if k not in IGNORED_KEYS})
        config.layerdrop, config.apply_spec_augment = 0.0, False
        with _no_progress_bar():
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                attn_implementation="sdpa",
                dtype=torch.float32,
                output_loading_info=True,
            )
    except UpstreamError:
        raise
    except Exception as error:  # Transformers raises a dozen types for a configuration that cannot be
        raise UpstreamError(f"{path}: the weights do not fit the configuration: {one_line(error)}") from error
    missing = sorted(key for key in report["missing_keys"] if key != "masked_spec_embed")
    if missing:
        raise UpstreamError(f"{path}: model.safetensors lacks {len(missing)} tensors, first `{missing[0]}`")
    if left := unused(list(report["unexpected_keys"])):
        raise UpstreamError(
            f"{path}: config.json has no place for {len(left)} tensors of the encoder, first `{left[0]}`"
        )
    model.config.do_normalize = _normalises(path, config_json)
    return model.eval()


def check_weights(path: Path) -> None:
    """Raise UpstreamError, with the remedy, unless a folder holds its weights in one file."""
    if (path / "model.safetensors").is_file():
        return
    if parts := shards(path):
        raise UpstreamError(
            f"{path}: the weights are divided into {len(parts)} files ({parts[0].name}); join them: "
            f"`python -m upstream import {path} --out OUT` for HuBERT, wav2vec 2.0 and XLS-R; for others "
            f"`save_pretrained(OUT, max_shard_size='100GB')` of Transformers"
        )
    raise UpstreamError(f"{path}: model.safetensors is missing (pickled weights are never loaded)")


def shards(path: Path) -> list[Path]:
    """The files of weights that are divided (model-00001-of-00002.safetensors), in order; empty if there are none.

    Raises UpstreamError where some are missing.
    """
    found = {int(m[1]): file for file in path.glob("model-*-of-*.safetensors") if (m := _SHARD.fullmatch(file.name))}
    count = max((int(_SHARD.fullmatch(file.name)[2]) for file in found.values()), default=0)
    if missing := sorted(set(range(1, count + 1)) - found.keys()):
        raise UpstreamError(
            f"{path}: of {count} files of weights {len(missing)} are missing, first number {missing[0]}"
        )
    return [found[number] for number in sorted(found)]


def _normalises(path: Path, config: dict[str, Any]) -> bool:
    """Whether waveforms are normalised to mean 0 and variance 1. We read it from config.json, Transformers from
    preprocessor_config.json. Raises UpstreamError where they disagree, since one of them would then be wrong."""
    preprocessor = path / "preprocessor_config.json"
    theirs = check_preprocessor(preprocessor).get("do_normalize", True) if preprocessor.is_file() else None
    ours = config.get("do_normalize", theirs)
    if ours is None:
        raise UpstreamError(f"{path}: preprocessor_config.json is missing; it says whether waveforms are normalised")
    if theirs is not None and bool(theirs) != bool(ours):
        raise UpstreamError(
            f"{path}: config.json says do_normalize={bool(ours)}, preprocessor_config.json {bool(theirs)}; correct the "
            "one that differs from the training of the model"
        )
    return bool(ours)


def _check_shapes(path: Path, config: dict[str, Any]) -> None:
    """Compare the sizes in config.json with the header of the weights, before a model of these sizes is built."""
    shapes = _shapes(path)
    held: dict[str, Any] = {}
    for name, shape in shapes.items():
        for key, pattern, axis in SIZES:
            if re.search(rf"(^|\.){pattern}$", name) and len(shape) > axis:
                held[key] = shape[axis]
    layers = {m[1] for name in shapes if (m := re.search(r"encoder\.layers\.(\d+)\.attention\.q_proj\.weight$", name))}
    conv = [
        m for name in shapes if (m := re.search(r"conv_layers\.(\d+)\.conv\.weight$", name)) and len(shapes[name]) == 3
    ]
    conv_shapes = [shapes[m.string] for m in sorted(conv, key=lambda m: int(m[1]))]
    if layers:
        held["num_hidden_layers"] = len(layers)
    if conv_shapes:
        held |= {"conv_dim": [s[0] for s in conv_shapes], "conv_kernel": [s[2] for s in conv_shapes]}
    if config.get("squeeze", 1) != 1 or any("upsampler." in name for name in shapes):
        sizes = [s for name, s in shapes.items() if name.endswith("upsampler.projection.weight") and len(s) == 2]
        held["squeeze"] = sizes[0][0] // sizes[0][1] if sizes else 1
        config = {"squeeze": 1, **config}
    if config.get("model_type") == LogMelHubertConfig.model_type:
        held["stem"] = "convolution" if any("feature_projection.conv1." in name for name in shapes) else "linear"
        held["positions"] = "convolution" if any("pos_conv_embed." in name for name in shapes) else "sinusoid"
        config = {"stem": "linear", "positions": "convolution", **config}
        if held["positions"] == "sinusoid":
            held["num_conv_pos_embeddings"] = 1  # Transformers builds a convolution of this size before it is replaced
    for key, size in held.items():
        stated = config.get(key, size)
        if stated != size or isinstance(stated, bool):
            verb = "lacks layers: it holds" if key == "num_hidden_layers" else "and config.json do not fit: it holds"
            said = repr(stated)[:80]
            raise UpstreamError(f"{path}: model.safetensors {verb} {key} = {size}, config.json says {said}")


def _shapes(path: Path) -> dict[str, list[int]]:
    """The shape of every tensor, from the header of the weights."""
    with safe_open(path / "model.safetensors", "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def read_card(path: Path | str) -> dict[str, Any]:
    """Our card: name, geometry, iteration, units, lineage, hours; empty for a directory of other software."""
    path = model_path(path)
    card = _config(path).get(CARD_KEY) or {}
    if not isinstance(card, dict):
        raise UpstreamError(
            f"{path / 'config.json'}: `{CARD_KEY}`, the card, is a {type(card).__name__}, not an object"
        )
    return card


def model_sha256(path: Path | str) -> str:
    """Identity of a model: the SHA-256 of its weights file."""
    return sha256_file(model_path(path) / "model.safetensors")


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Hide Transformers' progress bar for the one file of weights."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise UpstreamError(
            f"{path}: no such model directory; `python -m upstream pretrain` or ./run.sh makes one, and these ship: "
            f"{', '.join(SHIPPED)}"
        )
    if not (path / "config.json").is_file():
        raise UpstreamError(f"{path}: config.json is missing, so this is not a model directory")
    config = read_object(path / "config.json")
    if not isinstance(config.get("model_type"), str) or config["model_type"] not in MODEL_TYPES:
        raise UpstreamError(
            f"{path}: model type `{config.get('model_type')}` is not one of {', '.join(sorted(MODEL_TYPES))}"
        )
    return config


def _readme(model: HubertModel, card: dict[str, Any]) -> str:
    facts = "\n".join(
        f"| {key} | `{json.dumps(value, ensure_ascii=False)}` |" for key, value in card.items() if value is not None
    )
    if front_end_of(model) == "waveform":
        load = 'from transformers import HubertModel\nmodel = HubertModel.from_pretrained("THIS_FOLDER")'
    else:
        load = (
            "import upstream\nfrom transformers import AutoModel\n"
            'upstream.register()\nmodel = AutoModel.from_pretrained("THIS_FOLDER")'
        )
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return f"""---
license: {LICENCE}
language: [ar, en]
tags: [speech, self-supervised, arabic, hubert]
---
# {card.get("name", "HArnESS model")}

A self-supervised speech encoder for 16 kHz waveforms: {millions:.2f} M parameters, {front_end_of(model)} front end,
{model.config.num_hidden_layers} layers of width {model.config.hidden_size}.

| fact | value |
|---|---|
{facts}

```python
{load}
```
"""
