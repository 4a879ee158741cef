"""The parameter names of other toolkits, as Transformers spells them.

Three spellings of one network: Transformers' own, torchaudio's (also in ESPnet's checkpoints), fairseq's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

CONV = r"feature_extractor\.conv_layers\.(\d+)\."
LAYER = r"encoder\.layers\.(\d+)\."
WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
_TORCHAUDIO = [
    (r"encoder\.feature_projection\.", "feature_projection."),
    (r"encoder\.transformer\.", "encoder."),
]
_FAIRSEQ = [
    (CONV + r"0\.(weight|bias)$", r"feature_extractor.conv_layers.\1.conv.\2"),
    (CONV + r"2\.(?:1\.)?(weight|bias)$", r"feature_extractor.conv_layers.\1.layer_norm.\2"),
    (r"post_extract_proj\.", "feature_projection.projection."),
    (r"layer_norm\.", "feature_projection.layer_norm."),
    (r"encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (LAYER + r"self_attn\.", r"encoder.layers.\1.attention."),
    (LAYER + r"self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
    (LAYER + r"fc1\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
    (LAYER + r"fc2\.", r"encoder.layers.\1.feed_forward.output_dense."),
    (r"mask_emb$", "masked_spec_embed"),
]
# Prediction heads and quantisers within the encoder's own names: training needs them, an encoder has none.
_HEADS = re.compile(r"(final_proj|label_embs_concat|quantizer|project_q|project_inp|target_glu|aux)\b")


class NamingError(ValueError):
    """A state dict whose names are those of no toolkit that we know."""


def spelling(tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """`torchaudio`, `fairseq` or `transformers`, and the prefix before `feature_extractor.`. Raises NamingError."""
    for name in tensors:
        found = re.fullmatch(r"(.*?)feature_extractor\.conv_layers\.0\.(0|conv)\.weight", name)
        if found and found[2] == "0":
            return "fairseq", found[1]
        if found:
            own = f"{found[1]}encoder.layers."
            return ("transformers" if any(key.startswith(own) for key in tensors) else "torchaudio"), found[1]
    some = ", ".join(list(tensors)[:3]) or "none at all"
    raise NamingError(
        f"no HuBERT or wav2vec 2.0 encoder: `feature_extractor.conv_layers.0` is missing (it holds {some}, ...)"
    )


def to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors under Transformers' names; heads and whatever stands beside the encoder are left out."""
    kind, prefix = spelling(tensors)
    rules = {"torchaudio": _TORCHAUDIO, "fairseq": _FAIRSEQ, "transformers": []}[kind]
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        inner = name.removeprefix(prefix)
        if name.endswith("mask_generator.mask_embedding"):  # torchaudio keeps it beside the encoder
            named["masked_spec_embed"] = tensor
            continue
        if not name.startswith(prefix) or _HEADS.match(inner):
            continue
        for pattern, replacement in rules:
            inner, changed = re.subn(f"^{pattern}", replacement, inner)
            if changed:
                break
        stem, _, last = inner.rpartition(".")
        named[f"{stem}.{WEIGHT_NORM[last]}" if last in WEIGHT_NORM else inner] = tensor
    return named
