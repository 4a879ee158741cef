"""The CTC recogniser: an encoder that is fine-tuned as a whole, with one linear layer on its top hidden state.

A head directory of this kind holds `head.json` (`"protocol": "ctc"`, characters, text profile, upstream hash) and
`head.safetensors`; the fine-tuned encoder is a model directory of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import HubertModel

from corpora.audio import SAMPLE_RATE
from corpora.files import atomic_dir, read_json, write_json
from downstream import DownstreamError
from upstream.model.card import lineage
from upstream.model.encoder import geometry_of, run_layers, squeeze_of
from upstream.model.modeldir import model_sha256, read_card, save_model

BLANK = 0
LETTERS = "ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىي"
CHARACTERS = ["<blank>", " ", *LETTERS]
PROTOCOL = "ctc"


class Recogniser(nn.Module):
    """Encoder and linear head; 50 frames of logits per second, or 25 if the encoder is squeezed and `stride` is 2."""

    def __init__(self, encoder: HubertModel, characters: Sequence[str] = CHARACTERS, stride: int = 1) -> None:
        """`stride`: the head reads every so many frames of the top state. Raises ValueError if the encoder's layers
        have more frames than that."""
        super().__init__()
        if stride not in (1, squeeze_of(encoder)):
            raise ValueError(f"stride {stride}: the frames of the encoder's layers allow 1 or {squeeze_of(encoder)}")
        self.stride = stride
        self.encoder = encoder
        self.characters = list(characters)
        self.head = nn.Linear(encoder.config.hidden_size, len(self.characters))
        self.index = {character: i for i, character in enumerate(self.characters)}

    def forward(self, wavs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, N) samples, (B,) valid ones -> logits (B, T, characters) and the number of valid frames (B,)."""
        states, valid = run_layers(self.encoder, wavs, lengths)
        logits = self.head(states[-1][:, :: self.stride])
        if valid is None:
            return logits, torch.full((logits.shape[0],), logits.shape[1], device=logits.device)
        return logits, valid[:, :: self.stride].sum(1)

    def encode_text(self, text: str) -> list[int]:
        """The characters of a text as classes. Raises KeyError for a character that is none of them."""
        return [self.index[character] for character in text]


def best_path(classes: Sequence[int], characters: Sequence[str]) -> str:
    """The text of one class a frame: repeats merged, blanks dropped."""
    text, last = [], BLANK
    for value in classes:
        if value != last and value != BLANK:
            text.append(characters[value])
        last = value
    return " ".join("".join(text).split())


def warp_frequencies(features: Tensor, factors: Tensor, centres: Tensor) -> Tensor:
    """Vocal tract length perturbation (Jaitly and Hinton, 2013): other voices from log-mel frames (B, C, mels, T).

    Band i of item b becomes the value at `factors[b]` times the frequency of band i, linearly interpolated between the
    bands' `centres` (mels,) in Hz; above the highest band, its value.
    """
    wanted = (factors[:, None] * centres).clamp(centres[0], centres[-1])
    upper = torch.searchsorted(centres, wanted).clamp(1, len(centres) - 1)
    share = (wanted - centres[upper - 1]) / (centres[upper] - centres[upper - 1])
    weights = torch.zeros(len(factors), len(centres), len(centres), dtype=features.dtype)
    weights.scatter_(2, upper[:, :, None] - 1, (1 - share)[:, :, None].to(features.dtype))
    weights.scatter_(2, upper[:, :, None], share[:, :, None].to(features.dtype))
    return torch.einsum("bij,bcjt->bcit", weights, features)


@contextmanager
def spec_augment(
    encoder: HubertModel, bands: int, spans: int, chance: torch.Generator, *, warp: float = 0.0
) -> Iterator[None]:
    """SpecAugment while the block runs: `bands` of mel bands and `spans` of time per 10 s become 0 in every item.

    Before that the frequencies of every item are warped by a factor between exp(-warp) and exp(warp). The front end's
    features are (B, 2 * mels, T), two 10 ms frames stacked; both are changed alike.
    """
    mel = encoder.feature_extractor.mel
    centres = mel.T @ torch.linspace(0, SAMPLE_RATE / 2, len(mel)) / mel.sum(0).clamp(min=1e-9)

    def change(module: nn.Module, inputs: Any, features: Tensor) -> Tensor:
        batch, channels, frames = features.shape
        mels = channels // 2
        pairs = features.view(batch, 2, mels, frames)
        if warp:
            factors = torch.exp(warp * (2 * torch.rand(batch, generator=chance) - 1))
            pairs = warp_frequencies(pairs, factors, centres)
        keep = torch.ones(batch, 2, mels, frames, dtype=torch.bool)
        for item in range(batch):
            for _ in range(bands):
                width = int(torch.randint(0, mels // 4, (1,), generator=chance))
                start = int(torch.randint(0, mels - width, (1,), generator=chance))
                keep[item, :, start : start + width] = False
            for _ in range(max(1, round(spans * frames / 500))):
                width = int(torch.randint(0, 25, (1,), generator=chance))
                start = int(torch.randint(0, max(1, frames - width), (1,), generator=chance))
                keep[item, :, :, start : start + width] = False
        return (pairs * keep).reshape(batch, channels, frames)

    # Removed afterwards: a hook that stays would be copied with the encoder, and mask what is evaluated and exported.
    handle = encoder.feature_extractor.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def save_head(model: Recogniser, folder: Path, description: dict[str, Any]) -> None:
    """Write a head directory, whole or not at all."""
    with atomic_dir(Path(folder)) as temporary:
        save_file(
            {name: value.contiguous() for name, value in model.head.state_dict().items()},
            temporary / "head.safetensors",
        )
        write_json(
            temporary / "head.json",
            {"task": "asr", "protocol": PROTOCOL, "characters": model.characters}
            | ({"stride": model.stride} if model.stride > 1 else {})
            | description,
        )


def geometry_facts(encoder: HubertModel, source: Path | str, name: str) -> dict[str, Any]:
    """The geometry in the card of an encoder that was made from the model directory `source`."""
    stated: dict[str, Any] = read_card(source).get("geometry") or geometry_of(encoder, name).facts()
    if stated.get("squeeze", 1) == (squeeze := squeeze_of(encoder)):
        return stated
    return stated | {"name": _fast_name(stated["name"]), "squeeze": squeeze}


def _fast_name(name: str) -> str:
    """As the family names a squeezed geometry: `_fast` before `_stream` or `_cmvn`."""
    form = next((form for form in ("_stream", "_cmvn") if name.endswith(form)), "")
    return f"{name.removesuffix(form)}_fast{form}"


def save_recogniser(
    model: Recogniser,
    model_dir: Path,
    head_dir: Path,
    name: str,
    source: Path | str,
    facts: dict[str, Any],
    teacher: str | None = None,
) -> None:
    """Write encoder and head. The encoder was made from the model directory `source`; `facts` go into its card, whose
    lineage also lists the ancestors of `teacher`, a model directory.

    The second frames of a squeezed encoder's pairs become copies of the first, also in `model`, if the head does not
    read them.
    """
    if model.stride > 1:
        model.encoder.upsampler.repeat_first()
    card = {key: value for key, value in read_card(source).items() if key == "front_end"} | {
        "name": name,
        "geometry": geometry_facts(model.encoder, source, name),
        "lineage": lineage([], str(source), teacher),
    }
    save_model(model.encoder, model_dir, card | facts)
    key = model_sha256(model_dir)
    save_head(model, head_dir, {"upstream": model_dir.name, "upstream_key": key, "text_profile": "modern", "build": {}})


def read_description(folder: Path) -> dict[str, Any]:
    """head.json of a recogniser. Raises ValueError for a head of another kind."""
    head = read_json(Path(folder) / "head.json")
    if head.get("protocol") != PROTOCOL:
        raise ValueError(f"{folder}: the head's protocol is {head.get('protocol')!r}, expected {PROTOCOL!r}")
    least = head.setdefault("least_probability", 0.0)
    if not isinstance(least, float | int) or not 0 <= least <= 1:
        raise ValueError(f"{folder}/head.json: `least_probability` must be a number from 0 to 1, found {least!r}")
    return head


def check_weights(head: Path, key: str | None, encoder: Path, option: str) -> None:
    """Raise DownstreamError unless a head was trained on the weights whose SHA-256 is `key`; `option` names others."""
    if key != read_description(head).get("upstream_key"):
        raise DownstreamError(
            f"{head}: trained on other weights than those of {encoder}; name the right model with {option} DIR"
        )


def linear_layer(folder: Path, width: int, squeeze: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Weight (characters, width) and bias (characters,) of a head directory, fp32.

    Raises DownstreamError where they fit neither head.json nor an encoder of this width and squeeze.
    """
    path, head = Path(folder) / "head.safetensors", read_description(folder)
    if not path.is_file():
        raise DownstreamError(f"{folder}: head.safetensors is missing")
    state, characters = load_file(path), len(head["characters"])
    found = {name: tuple(value.shape) for name, value in state.items()}
    if found != {"weight": (characters, width), "bias": (characters,)}:
        raise DownstreamError(
            f"{path} holds {found}; {characters} characters in head.json and an encoder of width {width} ask for a "
            f"weight ({characters}, {width}) and a bias ({characters},); name the encoder that the head was trained on"
        )
    if (stride := head.get("stride", 1)) not in (1, squeeze):
        raise DownstreamError(
            f"{folder}: stride {stride}: the encoder's layers allow 1 or {squeeze}; name the encoder that "
            "the head was trained on"
        )
    return state["weight"].float().numpy(), state["bias"].float().numpy()


def load_head(encoder: HubertModel, folder: Path) -> Recogniser:
    """The recogniser of a head directory on its encoder, in eval mode. Raises DownstreamError where they do not fit."""
    head = read_description(folder)
    weight, bias = linear_layer(folder, encoder.config.hidden_size, squeeze_of(encoder))
    model = Recogniser(encoder, head["characters"], head.get("stride", 1))
    model.head.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return model.eval()
