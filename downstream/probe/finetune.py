"""Fine-tune a part of an upstream together with the head, and store that part with the head.

    probe      nothing (SUPERB: features are computed once)
    top-K      the K highest Transformer layers, and the norm after them
    lora-R     adapters of rank R (LoRA, arXiv 2106.09685) on the linear maps of attention and feed-forward
    full       everything

Frozen parts behave as in evaluation, without dropout. The trained parameters are stored as a delta,
`delta.safetensors` with `delta.json`, and are loaded on top of the unchanged model directory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corpora.files import atomic_file, read_json, write_json
from corpora.schema import nearest
from downstream import DownstreamError

if TYPE_CHECKING:
    from torch import nn

KINDS = ("probe", "top", "lora", "full")
DELTA, DELTA_INFO = "delta.safetensors", "delta.json"
DEFAULT_TOP, DEFAULT_RANK = 2, 8
_LORA_TARGETS = r".*encoder\.layers\.\d+\.(attention\.(q|k|v|out)_proj|feed_forward\.(intermediate|output)_dense)"


@dataclass(frozen=True)
class Tuning:
    """The trained part of the upstream; `amount` is the number of layers of `top` and the rank of `lora`, else 0."""

    kind: str = "probe"
    amount: int = 0

    @property
    def tag(self) -> str:
        """The value of the column `finetune`: probe, top-2, lora-8, full."""
        return f"{self.kind}-{self.amount}" if self.amount else self.kind

    @property
    def frozen(self) -> bool:
        return self.kind == "probe"


PROBE = Tuning()


def parse(text: str) -> Tuning:
    """Read `probe`, `top-K`, `lora`, `lora-R` or `full`. Raises DownstreamError."""
    kind, dash, amount = text.strip().lower().partition("-")
    if not dash and (close := re.fullmatch(r"(top|lora)(\d+)", kind)):
        raise DownstreamError(f"unknown fine-tuning `{text}`; write `{close[1]}-{close[2]}`")
    if kind not in KINDS or (dash and kind in ("probe", "full")):
        raise DownstreamError(f"unknown fine-tuning `{text}`{nearest(kind, KINDS)} (known: probe, top-K, lora-R, full)")
    if kind in ("probe", "full"):
        return Tuning(kind)
    default = DEFAULT_TOP if kind == "top" else DEFAULT_RANK
    if amount in ("", "k", "r"):
        return Tuning(kind, default)
    if not amount.isdecimal() or int(amount) < 1:
        raise DownstreamError(f"fine-tuning `{text}`: `{amount}` is not a whole number above 0")
    return Tuning(kind, int(amount))


def apply(model: nn.Module, tuning: Tuning) -> None:
    """Set `requires_grad` in a Transformers HuBERT or wav2vec 2.0 encoder, and insert LoRA's adapters, in place.

    Raises DownstreamError if the model has fewer layers than `top-K` asks for.
    """
    layers = model.encoder.layers
    if tuning.kind == "top" and tuning.amount > len(layers):
        raise DownstreamError(f"top-{tuning.amount}: the model has only {len(layers)} layers")
    model.requires_grad_(tuning.kind == "full")
    if tuning.kind == "full":
        return
    if tuning.kind == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=tuning.amount, lora_alpha=2 * tuning.amount, target_modules=_LORA_TARGETS, init_lora_weights=True
        )
        inject_adapter_in_model(config, model)
        return  # every layer holds adapters, so all layers keep their dropout
    learning = layers[len(layers) - tuning.amount :] if tuning.kind == "top" else []
    for layer in learning:
        layer.requires_grad_(True)
    if learning and model.config.do_stable_layer_norm:
        model.encoder.layer_norm.requires_grad_(True)
    kept = {id(module) for layer in learning for module in layer.modules()}
    for module in model.modules():
        if id(module) not in kept:
            _without_dropout(module)


def _without_dropout(module: nn.Module) -> None:
    from torch import nn

    if isinstance(module, nn.Dropout):
        module.p = 0.0
    elif isinstance(getattr(module, "dropout", None), float):  # attention passes its rate to a function
        module.dropout = 0.0


def learned(model: nn.Module) -> dict:
    """The parameters that require a gradient, by name, detached on the CPU."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def save_delta(model: nn.Module, tuning: Tuning, upstream_key: str, folder: Path) -> None:
    """Write the trained parameters, and a file with the kind of fine-tuning and the hash of their upstream."""
    from safetensors.torch import save_file

    with atomic_file(Path(folder) / DELTA) as temporary:
        save_file(learned(model), temporary)
    write_json(Path(folder) / DELTA_INFO, {"finetune": tuning.tag, "upstream_key": upstream_key})


def load_delta(model: nn.Module, folder: Path) -> None:
    """Load a stored delta into a freshly loaded encoder. Raises DownstreamError if their geometries differ."""
    from safetensors.torch import load_file

    folder = Path(folder)
    tuning = parse(read_json(folder / DELTA_INFO)["finetune"])
    apply(model, tuning)
    put_delta(model, load_file(folder / DELTA), folder)


def merge_adapters(model: nn.Module) -> None:
    """Merge LoRA's adapters into their linear maps, in place, for inference; the function stays the same."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())


def put_delta(model: nn.Module, state: dict, where: Path) -> None:
    """Copy trained parameters into an encoder after `apply`; errors name `where`."""
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wanted != found:
        different = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise DownstreamError(f"{where}: the delta belongs to another upstream or fine-tuning (parameter {different})")
    model.load_state_dict(state, strict=False)


def encoder_of(upstream: nn.Module) -> nn.Module:
    """The Transformers encoder inside S3PRL's wrapper. Raises DownstreamError for an upstream without one (fbank)."""
    found = [m for m in upstream.modules() if re.search(r"(Hubert|Wav2Vec2)\w*Model$", type(m).__name__)]
    if not found:
        raise DownstreamError(
            "this upstream has no Transformer encoder to fine-tune; leave it out, or use --finetune probe"
        )
    return found[0]
