"""The configuration of an encoder, read off its tensors; what they cannot tell, the checkpoint or the user states."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import HubertConfig, Wav2Vec2Config

from upstream.model.family import CONV_KERNELS, CONV_STRIDES

# Heads of the published sizes: Base, Large, X-Large (and XLS-R 300M, 1B).
HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}


class ShapeError(ValueError):
    """Tensors that make up no encoder, or a fact about it that nobody states."""


@dataclass(frozen=True)
class Settings:
    """What the tensors do not show. None: as the checkpoint says, else as models of this kind have it.

    `layer_norm_first`: norms stand before attention and FFN (Large models, XLS-R). `normalise`: waveforms are brought
    to zero mean and unit variance first.
    """

    heads: int | None = None
    layer_norm_first: bool | None = None
    normalise: bool | None = None


def from_fairseq(config: Mapping[str, Any]) -> tuple[Settings, list[list[int]] | None]:
    """Heads, order of norms, normalisation and convolutions as fairseq's `cfg` (new) or `args` (old) state them."""
    cfg = config.get("cfg") or {}
    model, task = cfg.get("model") or config.get("args") or {}, cfg.get("task") or config.get("args") or {}
    inner = model.get("w2v_args")  # a fine-tuned model keeps the settings of its encoder here
    if isinstance(inner, dict):
        model = {**model, **(inner.get("model") or inner)}
        task = {**task, **(inner.get("task") or {})}
    activation = model.get("activation_fn", "gelu")
    if activation != "gelu":
        raise ShapeError(f"its activation is `{activation}`; only gelu is read")
    layers = model.get("conv_feature_layers")
    settings = Settings(model.get("encoder_attention_heads"), model.get("layer_norm_first"), task.get("normalize"))
    return settings, None if layers is None else conv_layers(str(layers))


def from_espnet(config: Mapping[str, Any]) -> tuple[Settings, list[list[int]] | None]:
    """The same from ESPnet's `config.yaml`."""
    encoder = config.get("encoder_conf") or {}
    heads = encoder.get("encoder_num_heads") or encoder.get("attention_heads")
    settings = Settings(heads, encoder.get("encoder_layer_norm_first", encoder.get("layer_norm_first")), False)
    layers = encoder.get("extractor_conv_layer_config")
    return settings, None if layers is None else conv_layers(str(layers))


def conv_layers(text: str) -> list[list[int]]:
    """`[(512,10,5)] + [(512,3,2)] * 4` as numbers, without evaluating it. Raises ShapeError."""

    def value(node: ast.AST) -> Any:
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.List | ast.Tuple):
            return [value(item) for item in node.elts]
        if isinstance(node, ast.Constant) and type(node.value) is int and 0 < node.value < 10_000:
            return node.value
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
                return left + right
            if isinstance(node.op, ast.Mult) and isinstance(left, list) and isinstance(right, int) and right <= 32:
                return left * right
        raise ValueError("only lists of three numbers, + and * are understood")

    try:
        layers = value(ast.parse(text[:2000], mode="eval"))
        if not (0 < len(layers) <= 32 and all(isinstance(x, list) and len(x) == 3 for x in layers)):
            raise ValueError("expected (channels, kernel, stride) for each layer")
    except (ValueError, SyntaxError, TypeError, RecursionError) as error:
        raise ShapeError(f"convolutions `{text[:80]}` cannot be read: {error}") from error
    return layers


def encoder_config(
    tensors: Mapping[str, Tensor], settings: Settings, conv: list[list[int]] | None, *, wav2vec2: bool
) -> HubertConfig | Wav2Vec2Config:
    """Transformers' configuration of the encoder with these tensors (Transformers' names). Raises ShapeError."""
    convolutions = [
        _tensor(tensors, f"feature_extractor.conv_layers.{i}.conv.weight") for i in range(_conv_count(tensors))
    ]
    kernels = [int(w.shape[2]) for w in convolutions]
    if conv is not None and [layer[:2] for layer in conv] != [[int(w.shape[0]), int(w.shape[2])] for w in convolutions]:
        raise ShapeError(f"its settings describe other convolutions ({conv}) than it holds")
    if conv is None and tuple(kernels) != CONV_KERNELS:
        raise ShapeError(f"convolutions of {kernels} samples are not HuBERT's, and nothing states their strides")
    group = "feature_extractor.conv_layers.1.layer_norm.weight" not in tensors
    direction = _tensor(tensors, "encoder.pos_conv_embed.conv.parametrizations.weight.original1")
    width = int(_tensor(tensors, "encoder.layer_norm.weight").shape[0])
    layers = [
        int(m[1]) for name in tensors if (m := re.match(r"encoder\.layers\.(\d+)\.attention\.q_proj\.weight", name))
    ]
    if sorted(layers) != list(range(len(layers))) or not layers:
        raise ShapeError(f"its layers are numbered {sorted(layers)}, with gaps")
    heads = HEADS.get(width) if settings.heads is None else settings.heads
    if heads is None or heads < 1 or width % heads:
        raise ShapeError(
            f"nothing states the number of attention heads for width {width}: add --heads N"
            if heads is None
            else f"{heads} heads do not divide the width {width}: correct --heads"
        )
    if width % max(1, int(direction.shape[1])):
        raise ShapeError(f"a positional convolution of shape {tuple(direction.shape)} does not fit width {width}")
    config = (Wav2Vec2Config if wav2vec2 else HubertConfig)(
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=heads,
        intermediate_size=int(_tensor(tensors, "encoder.layers.0.feed_forward.intermediate_dense.weight").shape[0]),
        conv_dim=[int(w.shape[0]) for w in convolutions],
        conv_kernel=kernels,
        conv_stride=list(CONV_STRIDES) if conv is None else [layer[2] for layer in conv],
        conv_bias="feature_extractor.conv_layers.0.conv.bias" in tensors,
        feat_extract_norm="group" if group else "layer",
        num_conv_pos_embeddings=int(direction.shape[2]),
        num_conv_pos_embedding_groups=width // int(direction.shape[1]),
        # Everything published with layer norm in its convolutions is normalised and has its norms first.
        do_stable_layer_norm=(not group) if settings.layer_norm_first is None else settings.layer_norm_first,
        layerdrop=0.0,
        apply_spec_augment=False,
        attn_implementation="sdpa",
    )
    config.do_normalize = (not group) if settings.normalise is None else settings.normalise
    return config


def _conv_count(tensors: Mapping[str, Tensor]) -> int:
    return sum(bool(re.fullmatch(r"feature_extractor\.conv_layers\.\d+\.conv\.weight", name)) for name in tensors)


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ShapeError(f"the tensor `{name}` is missing")
    return tensors[name]
