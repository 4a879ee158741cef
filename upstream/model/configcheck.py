"""Check config.json of a model directory against its weights and against what our code implies.

A key that does not fit may be silent: a log-mel model of another `conv_stride` is right alone, and wrong in a batch,
because the lengths of padded items come from this key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from corpora.audio import SAMPLE_RATE
from corpora.files import read_json
from upstream.errors import UpstreamError
from upstream.model.encoder import LOAD_HINT, LogMelHubertConfig
from upstream.model.family import HOP, LONGEST_CHUNK, RECEPTIVE_FIELD, SHORTEST_CHUNK

DEEPEST = 40  # levels of nested lists and mappings
Shapes = Mapping[str, Sequence[int]]  # tensor -> its shape, from the header of the weights
_ENCODER = r"(?:^|\.)(?:encoder|feature_extractor|feature_projection|upsampler)\."


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object of a usual depth. Raises UpstreamError, CorpusError."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise UpstreamError(f"{file}: not a JSON object, but a {type(content).__name__}")
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise UpstreamError(f"{file}: lists and objects are nested more than {DEEPEST} levels deep")
        inner = [value for node in level for value in (node.values() if isinstance(node, dict) else node)]
        level = [value for value in inner if isinstance(value, dict | list)]
    return content


def check_config(path: Path, config: Mapping[str, Any], shapes: Shapes) -> None:
    """Raise UpstreamError, which names every key that does not fit, its value, and what fits."""
    problems = list(_problems(config, shapes))
    if problems:
        raise UpstreamError(f"{path / 'config.json'}: {'; '.join(problems)}")


def unused(names: Sequence[str]) -> list[str]:
    """The tensors of the encoder among those that a model of this configuration does not read.

    Checkpoints of others also hold quantisers and heads, which we do not need.
    """
    return sorted(name for name in names if re.search(_ENCODER, name))


def check_preprocessor(file: Path) -> dict[str, Any]:
    """The content of preprocessor_config.json. Raises UpstreamError for values that our code would not follow."""
    content = read_object(file)
    rate = content.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise UpstreamError(f"{file}: `sampling_rate` is {_shown(rate)}; only models of {SAMPLE_RATE} Hz can be used")
    if not isinstance(content.get("do_normalize", True), bool):
        raise UpstreamError(f"{file}: `do_normalize` is {_shown(content['do_normalize'])}; it must be true or false")
    return content


def _problems(config: Mapping[str, Any], shapes: Shapes) -> Iterator[str]:
    log_mel = config.get("model_type") == LogMelHubertConfig.model_type
    if log_mel and config.get("feat_extract_activation") == LOAD_HINT:
        config = {**config, "feat_extract_activation": "gelu"}  # as in older directories
    if log_mel:
        config = {"left_context": 0, "cmvn": False, **config}  # without the keys it would run as another model
    for key, (wanted, fits) in _KINDS.items():
        if config.get(key) is not None and not fits(config[key]):
            yield f"`{key}` is {_shown(config[key])}; it must be {wanted}"
    implied = {**_of_weights(config, shapes), **_of_card(config)}
    if log_mel:
        implied |= _of_log_mel(config)
        yield from _of_stream(config)
    else:
        implied = {key: value for key, value in implied.items() if key not in ("left_context", "cmvn")}
    for key, value in implied.items():
        if key in config and config[key] != value:
            yield f"`{key}` is {_shown(config[key])}, but the weights and the code are of {_shown(value)}"
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if _is_whole(width) and _is_whole(heads) and width % heads:
        yield f"`num_attention_heads` is {heads}, which does not divide hidden_size {width}"
    lengths = {len(config[key]) for key in ("conv_dim", "conv_kernel", "conv_stride") if _is_sizes(config.get(key))}
    if len(lengths) > 1:
        yield "`conv_dim`, `conv_kernel` and `conv_stride` have different numbers of layers"


def _of_weights(config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Keys whose value the names and shapes of the tensors show."""
    found: dict[str, Any] = {}
    for name, shape in shapes.items():
        if (
            re.search(r"pos_conv_embed\.conv\.(parametrizations\.weight\.original1|weight_v)$", name)
            and len(shape) == 3
        ):
            found["num_conv_pos_embedding_groups"] = shape[0] // max(1, shape[1])
            found["conv_pos_batch_norm"] = any("pos_conv_embed.batch_norm." in own for own in shapes)
    names = " ".join(shapes)
    convolutions = set(re.findall(r"conv_layers\.(\d+)\.conv\.weight", names))
    if convolutions:
        norms = set(re.findall(r"conv_layers\.(\d+)\.layer_norm\.weight", names))
        if norms in ({"0"}, convolutions) and len(convolutions) > 1:
            found["feat_extract_norm"] = "layer" if norms == convolutions else "group"
        found["conv_bias"] = bool(re.search(r"conv_layers\.\d+\.conv\.bias", names))
        found["num_feat_extract_layers"] = len(convolutions)
    if "feature_projection.projection.weight" in names and config.get("model_type") != "wav2vec2":
        found["feat_proj_layer_norm"] = "feature_projection.layer_norm.weight" in names
    return found


def _of_card(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that our card states too. The number of heads shows in no tensor."""
    card = config.get("harness")
    geometry = card.get("geometry") if isinstance(card, dict) else None
    if not isinstance(geometry, dict) or not _is_whole(geometry.get("heads")):
        return {}
    return {
        "num_attention_heads": geometry["heads"],
        "do_stable_layer_norm": card.get("do_stable_layer_norm", True),
        "left_context": geometry.get("left_context", 0),
        "cmvn": geometry.get("cmvn", False),
    }


def _of_stream(config: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a model with left context from streaming."""
    left, squeeze = config["left_context"], config.get("squeeze", 1)
    for key in ("left_context", "chunk", "cmvn"):
        if config.get(key, 0) is None:
            yield f"`{key}` is null; it must be {_KINDS[key][0]}"
    if not _is_whole(left) or not _is_whole(squeeze):
        return
    if left and config["cmvn"] is True:
        yield "`cmvn` is True, but statistics of the whole clip are unknown while a model streams"
    if config.get("do_normalize") is True:
        yield "`do_normalize` is True, but statistics of the whole clip are unknown while a model streams"
    for key in ("left_context", "chunk"):
        if _is_whole(config.get(key)) and config[key] % squeeze:
            yield f"`{key}` is {config[key]}, which is no multiple of squeeze {squeeze}"


def _of_log_mel(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that `upstream.model.encoder.hubert_config` always writes for a log-mel model."""
    mels, squeeze = config.get("mels", 80), config.get("squeeze", 1)
    if config.get("stem") == "convolution":  # it projects pairs of frames after its convolutions
        squeeze = 1
    return {
        "conv_dim": [2 * mels * squeeze] if _is_whole(mels) and _is_whole(squeeze) else None,
        "conv_kernel": [RECEPTIVE_FIELD],
        "conv_stride": [HOP],
        "conv_bias": True,
        "num_feat_extract_layers": 1,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
        "feat_extract_activation": "gelu",
        "hidden_act": "gelu",
        "feat_proj_layer_norm": True,
        "conv_pos_batch_norm": False,
    }


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 10**9


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_whole, value))


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_activation(value: Any) -> bool:
    from transformers.activations import ACT2FN

    return isinstance(value, str) and value in ACT2FN


_Kind = tuple[str, Callable[[Any], bool]]
_WHOLE: _Kind = ("a whole number of at least 1", _is_whole)
_SIZES: _Kind = ("a list of whole numbers of at least 1", _is_sizes)
_SHARE: _Kind = ("a number from 0 to 1", _is_share)
_SWITCH: _Kind = ("true or false", lambda value: isinstance(value, bool))
_ACTIVATION: _Kind = ("the name of an activation, such as gelu", _is_activation)
# What the values of the keys that we use must be.
_KINDS: dict[str, _Kind] = {
    **dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"), _WHOLE),
    **dict.fromkeys(("num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "mels", "squeeze"), _WHOLE),
    "num_feat_extract_layers": _WHOLE,
    **dict.fromkeys(("conv_dim", "conv_kernel", "conv_stride"), _SIZES),
    **dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout"), _SHARE),
    **dict.fromkeys(("layerdrop", "mask_time_prob", "mask_feature_prob"), _SHARE),
    **dict.fromkeys(("conv_bias", "do_stable_layer_norm", "feat_proj_layer_norm", "conv_pos_batch_norm"), _SWITCH),
    **dict.fromkeys(("do_normalize", "apply_spec_augment", "cmvn"), _SWITCH),
    **dict.fromkeys(("hidden_act", "feat_extract_activation"), _ACTIVATION),
    "left_context": (
        "a whole number of at least 0",
        lambda value: _is_whole(value) or value == 0 and _is_number(value),
    ),
    "chunk": (
        f"a whole number from {SHORTEST_CHUNK} to {LONGEST_CHUNK}",
        lambda value: _is_whole(value) and SHORTEST_CHUNK <= value <= LONGEST_CHUNK,
    ),
    "feat_extract_norm": ("layer or group", lambda value: value in ("layer", "group")),
    "layer_norm_eps": ("a number above 0 and below 0.01", lambda value: _is_number(value) and 0 < value < 0.01),
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
