"""Import a HuBERT or wav2vec 2.0 checkpoint of Transformers, torchaudio, ESPnet or fairseq as a model directory.

The tensors are renamed to Transformers' names, and the geometry is read from their shapes. Facts that the shapes do not
contain come from the checkpoint's own configuration, or from the user (`EncoderSettings`).
"""

from __future__ import annotations

import ast
import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model

from corpora.audio import SAMPLE_RATE
from corpora.files import sha256_file, sha256_json
from upstream.errors import UpstreamError
from upstream.model.encoder import encode
from upstream.model.family import CONV_KERNELS, CONV_STRIDES
from upstream.model.modeldir import FILES, load_model, save_model, shards
from upstream.model.rate import check_frames, frames_of
from upstream.tools.pickles import Checkpoint, read_checkpoint

KINDS = ("auto", "transformers", "torchaudio", "espnet", "fairseq")
# Heads by width in the published sizes: Base, Large, X-Large (and XLS-R 300M, 1B).
HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}
# Renaming rules for the names inside an encoder. torchaudio's rules also hold for ESPnet's checkpoints.
_CONV = r"feature_extractor\.conv_layers\.(\d+)\."
_LAYER = r"encoder\.layers\.(\d+)\."
_RULES = {
    "torchaudio": [
        (r"encoder\.feature_projection\.", "feature_projection."),
        (r"encoder\.transformer\.", "encoder."),
    ],
    "fairseq": [
        (_CONV + r"0\.(weight|bias)$", r"feature_extractor.conv_layers.\1.conv.\2"),
        (_CONV + r"2\.(?:1\.)?(weight|bias)$", r"feature_extractor.conv_layers.\1.layer_norm.\2"),
        (r"post_extract_proj\.", "feature_projection.projection."),
        (r"layer_norm\.", "feature_projection.layer_norm."),
        (r"encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
        (_LAYER + r"self_attn\.", r"encoder.layers.\1.attention."),
        (_LAYER + r"self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
        (_LAYER + r"fc1\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
        (_LAYER + r"fc2\.", r"encoder.layers.\1.feed_forward.output_dense."),
        (r"mask_emb$", "masked_spec_embed"),
    ],
    "transformers": [],
}
_WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
# Prediction heads and quantisers, which only pre-training needs.
_HEADS = re.compile(r"(final_proj|label_embs_concat|quantizer|project_q|project_inp|target_glu|aux)\b")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderSettings:
    """Facts that the shapes of the tensors do not contain. None: the checkpoint's value, or the default of its kind.

    `layer_norm_first`: norms precede attention and FFN (Large models, XLS-R). `normalise`: waveforms are
    normalised to mean 0 and variance 1.
    """

    heads: int | None = None
    layer_norm_first: bool | None = None
    normalise: bool | None = None


def import_model(
    source: Path | str,
    out: Path | str,
    kind: str = "auto",
    settings: EncoderSettings | None = None,
    *,
    read: Callable[[Path], Checkpoint] = read_checkpoint,
) -> Path:
    """Write the checkpoint of another toolkit as a model directory, whole or not at all.

    `transformers`: a folder with `config.json` and `model.safetensors`, in one file or divided, or `pytorch_model.bin`;
    `torchaudio`: the state dict of a HuBERT or wav2vec 2.0 model, bare or in a training checkpoint; `espnet`: a HuBERT
    checkpoint, its `config.yaml` next to it; `fairseq`: a HuBERT or wav2vec 2.0 file. `settings` takes precedence over
    the checkpoint. `read` loads the checkpoint file; by default a pickle is read in an isolated process. Raises
    UpstreamError.
    """
    source = Path(source)
    if not source.exists():
        raise UpstreamError(f"{source}: no such file or folder")
    _check_target(source, Path(out))
    if kind not in KINDS:
        raise UpstreamError(f"kind `{kind}` is unknown; choose from {', '.join(KINDS)}")
    if source.is_dir() != (kind == "transformers") and kind != "auto":
        raise UpstreamError(f"{source}: kind {kind} needs a {'folder' if kind == 'transformers' else 'file'}")
    if source.is_dir():
        if settings and settings != EncoderSettings():
            raise UpstreamError(f"{source}: config.json states the geometry; leave the settings out")
        found = "transformers"
        model, weights = _from_folder(source, read)
    else:
        weights, checkpoint = source, read(source)
        try:
            model, found = _from_file(source, checkpoint, kind, settings or EncoderSettings())
        except UpstreamError as error:
            raise UpstreamError(f"{source}: {error}") from error
    check_frames(source, frames_of(model.config))
    with torch.no_grad():
        second = 0.1 * torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
        states = encode(model, [second]).hidden_states
    if not all(torch.isfinite(state).all() for state in states):
        raise UpstreamError(f"{source}: the hidden states of the imported model are not finite")
    card = {
        "name": Path(out).name,
        "imported_from": found,
        "source": weights.name,
        "source_sha256": _identity(weights),
    }
    return save_model(model, Path(out), card)


def _check_target(source: Path, out: Path) -> None:
    """Raise UpstreamError unless `out` is new or a model directory of ours: it is replaced with all that it holds."""
    if not out.exists():
        return
    if out.resolve() == source.resolve() or source.resolve().is_relative_to(out.resolve()):
        raise UpstreamError(f"--out {out}: {source} would be replaced by its import; name another folder")
    others = sorted(path.name for path in out.iterdir() if path.name not in FILES) if out.is_dir() else [out.name]
    if others:
        raise UpstreamError(
            f"--out {out}: it is replaced as a whole, and holds other files than a model directory, as {others[0]}; "
            "name another folder"
        )


def _joined(parts: Sequence[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for part in parts:
        try:
            tensors |= load_file(part)
        except (SafetensorError, OSError) as error:
            raise UpstreamError(f"{part}: cannot be read: {error}") from error
    return tensors


def _identity(weights: Path) -> str:
    """SHA-256 of the weights; of divided ones that of the list of their hashes."""
    parts = shards(weights.parent) if weights.name.startswith("model-") else []
    return sha256_json([sha256_file(part) for part in parts]) if parts else sha256_file(weights)


def _from_folder(source: Path, read: Callable[[Path], Checkpoint]) -> tuple[HubertModel, Path]:
    weights = source / "model.safetensors"
    if weights.is_file():
        return load_model(source), weights
    parts = shards(source)
    weights = parts[0] if parts else source / "pytorch_model.bin"
    if not weights.is_file():
        raise UpstreamError(f"{source}: expected model.safetensors or pytorch_model.bin in this folder")
    with TemporaryDirectory() as scratch:
        tensors = _joined(parts) if parts else read(weights).tensors
        save_file(tensors, Path(scratch) / "model.safetensors")
        for name in ("config.json", "preprocessor_config.json"):
            if (source / name).is_file():
                shutil.copyfile(source / name, Path(scratch) / name)
        return load_model(scratch), weights


def _from_file(source: Path, checkpoint: Checkpoint, kind: str, given: EncoderSettings) -> tuple[HubertModel, str]:
    names, prefix = naming(checkpoint.tensors)
    # ESPnet's models keep torchaudio's encoder under this name.
    found = "espnet" if prefix.startswith("encoder.") else names
    if found == "transformers":
        raise UpstreamError("weights of Transformers; give the folder that also holds config.json")
    if kind not in ("auto", found):
        raise UpstreamError(f"this is a checkpoint of {found}, not of {kind}")
    stated, conv = EncoderSettings(), None
    if found == "espnet":
        stated, conv = _espnet_settings(_espnet_config(source))
    elif found == "fairseq":
        stated, conv = _fairseq_settings(checkpoint.config)
    settings = replace(stated, **{key: value for key, value in vars(given).items() if value is not None})
    wav2vec2 = any(name.removeprefix(prefix).startswith(("quantizer.", "project_q.")) for name in checkpoint.tensors)
    tensors = _to_transformers(checkpoint.tensors, names, prefix)
    config = _encoder_config(tensors, settings, conv, wav2vec2=wav2vec2)
    model = (Wav2Vec2Model if wav2vec2 else HubertModel)(config).eval()
    try:
        missing, unexpected = model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    except RuntimeError as error:
        raise UpstreamError(" ".join(str(error).split())) from error
    missing = [name for name in missing if name != "masked_spec_embed"]
    if missing or unexpected:
        example = f"lacks `{missing[0]}`" if missing else f"holds `{unexpected[0]}`, which is no tensor of the encoder"
        raise UpstreamError(f"{example} ({len(missing)} missing, {len(unexpected)} left over)")
    log.info(
        "%s: %s, %d layers of width %d, %d heads, %s",
        source, found, config.num_hidden_layers, config.hidden_size, config.num_attention_heads,
        "norms first" if config.do_stable_layer_norm else "norms last",
    )  # fmt: skip
    return model, found


def naming(tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """`torchaudio`, `fairseq` or `transformers`, and the prefix before `feature_extractor.`. Raises UpstreamError."""
    for name in tensors:
        found = re.fullmatch(r"(.*?)feature_extractor\.conv_layers\.0\.(0|conv)\.weight", name)
        if found and found[2] == "0":
            return "fairseq", found[1]
        if found:
            own = f"{found[1]}encoder.layers."
            return ("transformers" if any(key.startswith(own) for key in tensors) else "torchaudio"), found[1]
    some = ", ".join(list(tensors)[:3]) or "no tensor"
    raise UpstreamError(
        f"no HuBERT or wav2vec 2.0 encoder: `feature_extractor.conv_layers.0` is missing (it holds {some}, ...)"
    )


def _to_transformers(tensors: Mapping[str, Tensor], names: str, prefix: str) -> dict[str, Tensor]:
    """The encoder's tensors under Transformers' names, without heads and tensors outside the encoder."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        inner = name.removeprefix(prefix)
        if name.endswith("mask_generator.mask_embedding"):  # torchaudio stores it outside the encoder
            renamed["masked_spec_embed"] = tensor
            continue
        if not name.startswith(prefix) or _HEADS.match(inner):
            continue
        for pattern, replacement in _RULES[names]:
            inner, changed = re.subn(f"^{pattern}", replacement, inner)
            if changed:
                break
        stem, _, last = inner.rpartition(".")
        renamed[f"{stem}.{_WEIGHT_NORM[last]}" if last in _WEIGHT_NORM else inner] = tensor
    return renamed


def _fairseq_settings(config: Mapping[str, Any]) -> tuple[EncoderSettings, list[list[int]] | None]:
    """Settings and convolutions as fairseq's `cfg` (new files) or `args` (old files) state them."""
    cfg = config.get("cfg") or {}
    model, task = cfg.get("model") or config.get("args") or {}, cfg.get("task") or config.get("args") or {}
    inner = model.get("w2v_args")  # a fine-tuned model stores the settings of its encoder here
    if isinstance(inner, dict):
        model = {**model, **(inner.get("model") or inner)}
        task = {**task, **(inner.get("task") or {})}
    activation = model.get("activation_fn", "gelu")
    if activation != "gelu":
        raise UpstreamError(f"its activation is `{activation}`; only gelu is supported")
    layers = model.get("conv_feature_layers")
    stated = EncoderSettings(model.get("encoder_attention_heads"), model.get("layer_norm_first"), task.get("normalize"))
    return stated, None if layers is None else conv_layers(str(layers))


def _espnet_settings(config: Mapping[str, Any]) -> tuple[EncoderSettings, list[list[int]] | None]:
    """Settings and convolutions as ESPnet's `config.yaml` states them."""
    encoder = config.get("encoder_conf") or {}
    heads = encoder.get("encoder_num_heads") or encoder.get("attention_heads")
    norm_first = encoder.get("encoder_layer_norm_first", encoder.get("layer_norm_first"))
    layers = encoder.get("extractor_conv_layer_config")
    return EncoderSettings(heads, norm_first, False), None if layers is None else conv_layers(str(layers))


def _espnet_config(source: Path) -> dict[str, Any]:
    import yaml

    path = source.parent / "config.yaml"
    if not path.is_file():
        log.warning("%s: no config.yaml next to it; heads and order of norms are the defaults for its width", source)
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UpstreamError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UpstreamError(f"{path}: not ESPnet's configuration")
    return config


def conv_layers(text: str) -> list[list[int]]:
    """`[(512,10,5)] + [(512,3,2)] * 4` as numbers, parsed without `eval`. Raises UpstreamError."""

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
        raise ValueError("only lists of three numbers, + and * are allowed")

    try:
        layers = value(ast.parse(text[:2000], mode="eval"))
        if not (0 < len(layers) <= 32 and all(isinstance(x, list) and len(x) == 3 for x in layers)):
            raise ValueError("expected (channels, kernel, stride) for each layer")
    except (ValueError, SyntaxError, TypeError, RecursionError) as error:
        raise UpstreamError(f"convolutions `{text[:80]}` cannot be read: {error}") from error
    return layers


def _encoder_config(
    tensors: Mapping[str, Tensor], settings: EncoderSettings, conv: list[list[int]] | None, *, wav2vec2: bool
) -> HubertConfig | Wav2Vec2Config:
    """Transformers' configuration of the encoder with these tensors (Transformers' names). Raises UpstreamError."""

    def shape(name: str, dimensions: int) -> list[int]:
        if name not in tensors:
            raise UpstreamError(f"the tensor `{name}` is missing")
        found = list(tensors[name].shape)
        if len(found) != dimensions or not all(found):
            raise UpstreamError(f"the tensor `{name}` has shape {found}; expected {dimensions} dimensions")
        return found

    def numbers(pattern: str) -> list[int]:
        return [int(found[1]) for name in tensors if (found := re.fullmatch(pattern, name))]

    count = len(numbers(r"feature_extractor\.conv_layers\.(\d+)\.conv\.weight"))
    convolutions = [shape(f"feature_extractor.conv_layers.{i}.conv.weight", 3) for i in range(count)]
    channels, kernels = [c[0] for c in convolutions], [c[2] for c in convolutions]
    if conv is not None and [layer[:2] for layer in conv] != [
        list(pair) for pair in zip(channels, kernels, strict=True)
    ]:
        raise UpstreamError(f"its settings state other convolutions ({conv}) than its tensors")
    if conv is None and tuple(kernels) != CONV_KERNELS:
        raise UpstreamError(
            f"convolutions of {kernels} samples are not HuBERT's, and the checkpoint does not state their strides"
        )
    group = "feature_extractor.conv_layers.1.layer_norm.weight" not in tensors
    positional = shape("encoder.pos_conv_embed.conv.parametrizations.weight.original1", 3)
    width = shape("encoder.layer_norm.weight", 1)[0]
    layers = sorted(numbers(r"encoder\.layers\.(\d+)\.attention\.q_proj\.weight"))
    if layers != list(range(len(layers))) or not layers:
        raise UpstreamError(f"its layers have the numbers {layers}, with gaps")
    heads = HEADS.get(width) if settings.heads is None else settings.heads
    if heads is None:
        raise UpstreamError(f"the number of attention heads is not known for width {width}: add --heads N")
    if heads < 1 or width % heads:
        raise UpstreamError(f"{heads} heads do not divide the width {width}: correct --heads")
    if width % positional[1]:
        raise UpstreamError(f"a positional convolution of shape {positional} does not fit width {width}")
    config = (Wav2Vec2Config if wav2vec2 else HubertConfig)(
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=heads,
        intermediate_size=shape("encoder.layers.0.feed_forward.intermediate_dense.weight", 2)[0],
        conv_dim=channels,
        conv_kernel=kernels,
        conv_stride=list(CONV_STRIDES) if conv is None else [layer[2] for layer in conv],
        conv_bias="feature_extractor.conv_layers.0.conv.bias" in tensors,
        feat_extract_norm="group" if group else "layer",
        num_conv_pos_embeddings=positional[2],
        num_conv_pos_embedding_groups=width // positional[1],
        # All published models with layer norm in their convolutions are normalised and have their norms first.
        do_stable_layer_norm=(not group) if settings.layer_norm_first is None else settings.layer_norm_first,
        layerdrop=0.0,
        apply_spec_augment=False,
        attn_implementation="sdpa",
    )
    config.do_normalize = (not group) if settings.normalise is None else settings.normalise
    return config
