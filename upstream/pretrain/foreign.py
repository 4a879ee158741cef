"""Start a student from Whisper's encoder: copy its layers, and learn their input by regression.

`copy_layers` copies layers of Whisper unchanged (`init: {kind: foreign, layers: [0, 1, 2, 3]}`). Their input cannot be
copied, since Whisper has another front end and other positions. `fit` learns it: first the projection and the
positional convolution against Whisper's input of layer 1, then all layers against the outputs of its layers. Whisper
pads every clip to 30 s, so windows of 30 s are filled with several clips and silence between them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import HubertModel

from corpora.audio import SAMPLE_RATE
from corpora.files import atomic_file, read_json
from corpora.prepare.packed import PackedAudio
from upstream.distributed import average_gradients, process_group
from upstream.errors import UpstreamError
from upstream.model.card import lineage
from upstream.model.encoder import build_encoder, frame_count, run_layers, squeeze_of
from upstream.model.family import Geometry
from upstream.model.modeldir import model_sha256, save_model

log = logging.getLogger(__name__)

# Tensors of a Transformers Whisper layer, and ours.
_WHISPER = {
    "self_attn_layer_norm": "layer_norm",
    "self_attn.q_proj": "attention.q_proj",
    "self_attn.k_proj": "attention.k_proj",
    "self_attn.v_proj": "attention.v_proj",
    "self_attn.out_proj": "attention.out_proj",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
    "final_layer_norm": "final_layer_norm",
}
WINDOW = 30 * SAMPLE_RATE


@torch.no_grad()
def copy_layers(model: HubertModel, source: Path, layers: Sequence[int]) -> list[str]:
    """Copy Transformer layers (numbers from 0) of the Whisper directory `source` into `model`; returns the names of
    the tensors that were set.

    The bias of `k_proj`, which Whisper lacks, becomes zero, and so does the upsampler of a squeezed model, which then
    repeats frames. The final norm becomes the identity. Raises UpstreamError
    for an encoder of another width, other heads, post-norm layers, or fewer layers than are asked for.
    """
    if not (Path(source) / "config.json").is_file():
        raise UpstreamError(f"{source}: config.json is missing, so this is no model directory of Transformers")
    config = read_json(Path(source) / "config.json")
    kind = config.get("model_type")
    if kind != "whisper":
        norm = ", which norms after its layers" if config.get("do_stable_layer_norm") is False else ""
        raise UpstreamError(
            f"{source}: model type `{kind}`{norm}; init `foreign` copies pre-norm layers of model type `whisper` only"
        )
    ours = model.config
    for name, theirs, mine in (
        ("width", config["d_model"], ours.hidden_size),
        ("number of heads", config["encoder_attention_heads"], ours.num_attention_heads),
        ("feed-forward width", config["encoder_ffn_dim"], ours.intermediate_size),
    ):
        if theirs != mine:
            raise UpstreamError(
                f"{source}: its {name} is {theirs}, the student's {mine}; init `foreign` copies layers as they are, "
                "so choose a geometry of the same size (or init `project` from a model of ours)"
            )
    if not ours.do_stable_layer_norm:
        raise UpstreamError("the student norms after its layers; init `foreign` needs do_stable_layer_norm")
    if len(layers) != len(model.encoder.layers):
        raise UpstreamError(
            f"init: layers={list(layers)} are {len(layers)}, the student has {len(model.encoder.layers)}"
        )
    if not all(0 <= layer < config["encoder_layers"] for layer in layers):
        raise UpstreamError(f"{source}: has layers 0 to {config['encoder_layers'] - 1}, asked for {list(layers)}")
    state = model.state_dict()
    copied = []
    pairs = {
        f"layers.{layer}.{theirs}.{part}": f"encoder.layers.{place}.{mine}.{part}"
        for place, layer in enumerate(layers)
        for theirs, mine in _WHISPER.items()
        for part in ("weight", "bias")
        if (theirs, part) != ("self_attn.k_proj", "bias")
    }
    for theirs, tensor in _whisper_tensors(source, pairs).items():
        state[pairs[theirs]].copy_(tensor)
        copied.append(pairs[theirs])
    for place in range(len(layers)):
        state[name := f"encoder.layers.{place}.attention.k_proj.bias"].zero_()
        copied.append(name)
    if ours.stem == "convolution" and ours.positions == "sinusoid":
        if ours.cmvn:
            raise UpstreamError(
                f"{source}: its stem reads bands on a fixed scale, so a geometry with cmvn cannot take it; choose one "
                "without"
            )
        copied += _copy_stem(model, source)
    model.encoder.layer_norm.reset_parameters()
    copied += ["encoder.layer_norm.weight", "encoder.layer_norm.bias"]
    if squeeze_of(model) > 1:
        for name, parameter in model.upsampler.named_parameters(prefix="upsampler"):
            parameter.zero_()
            copied.append(name)
        if ours.stem == "convolution":
            model.feature_projection.average_pairs()
            copied += [f"feature_projection.squeeze.{part}" for part in ("weight", "bias")]
    log.info("init foreign from %s: layers %s copied", source, list(layers))
    return copied


@torch.no_grad()
def _copy_stem(model: HubertModel, source: Path) -> list[str]:
    """Give the log-mel front end Whisper's filters, window and scale, and copy its two convolutions.

    Whisper divides log10 energies by 4 and adds 1; it also raises energies below 10^-8 of a window's largest one, where
    ours have a fixed floor. Its frames are centred, ours begin at the same sample: the states are those of the audio
    12.5 ms later.
    """
    from transformers import WhisperFeatureExtractor

    front = model.feature_extractor
    extractor = WhisperFeatureExtractor(feature_size=model.config.mels)
    filters = torch.from_numpy(np.asarray(extractor.mel_filters, np.float32))
    size = 2 * (len(filters) - 1)  # of the FFT, and of the window
    samples, bins = np.arange(size), np.arange(len(filters))
    angle = 2 * np.pi * np.outer(samples, bins) / size
    window = 0.5 - 0.5 * np.cos(2 * np.pi * samples / size)
    front.dft.zero_()
    front.mel.zero_()
    half = front.dft.shape[1] // 2
    front.dft[:, : len(bins)] = torch.from_numpy((np.cos(angle) * window[:, None]).astype(np.float32))
    front.dft[:, half : half + len(bins)] = torch.from_numpy((-np.sin(angle) * window[:, None]).astype(np.float32))
    front.mel[: len(filters)] = filters
    front.set_statistics(torch.full_like(front.mean, -4 * math.log(10)), torch.full_like(front.std, 4 * math.log(10)))
    names = {f"{conv}.{part}": f"{conv}.{part}" for conv in ("conv1", "conv2") for part in ("weight", "bias")}
    state = model.feature_projection.state_dict()
    for name, tensor in _whisper_tensors(source, names).items():
        state[name].copy_(tensor)
    scale = [f"feature_extractor.{name}" for name in ("dft", "mel", "mean", "std")]
    return scale + [f"feature_projection.{name}" for name in names]


def _whisper_tensors(source: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors of Whisper's encoder by their names in it. Raises UpstreamError for one that is not there."""
    with safe_open(Path(source) / "model.safetensors", "pt") as file:
        held = set(file.keys())
        found = {}
        for name in names:
            full = next((p + name for p in ("model.encoder.", "encoder.", "") if p + name in held), None)
            if full is None:
                raise UpstreamError(f"{source}: model.safetensors lacks {name}")
            found[name] = file.get_tensor(full).float()
    return found


class WhisperTeacher(nn.Module):
    """States of Whisper's encoder on full windows of 30 s: the input of layer 1 without positions, then each layer."""

    def __init__(self, source: Path, layers: int) -> None:
        super().__init__()
        from transformers import WhisperConfig, WhisperFeatureExtractor
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        made = WhisperConfig.from_dict(read_json(Path(source) / "config.json"))
        made.encoder_layers = layers
        made._attn_implementation = "sdpa"
        self.encoder = WhisperEncoder(made)
        state = _whisper_tensors(source, self.encoder.state_dict())
        self.encoder.load_state_dict(state)
        self.encoder.eval().requires_grad_(False)
        self.extractor = WhisperFeatureExtractor(feature_size=made.num_mel_bins)

    @torch.no_grad()
    def forward(self, windows: np.ndarray) -> list[Tensor]:
        """(B, 480000) samples -> states, each (B, 1500, D)."""
        encoder = self.encoder
        with torch.autocast("cpu", enabled=False):
            mel = self.extractor(list(windows), sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]
        x = nn.functional.gelu(encoder.conv1(mel))
        x = nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
        states = [x + encoder.embed_positions.weight.mean(0)]
        x = x + encoder.embed_positions.weight
        for layer in encoder.layers:
            out = layer(x, None)
            x = out[0] if isinstance(out, tuple) else out
            states.append(x)
        return states


def fill_windows(audio: PackedAudio, ids: Sequence[str], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless windows of 30 s, each of random clips with 0.2 to 0.6 s of silence between, float32 (480000,)."""
    while True:
        window = np.zeros(WINDOW, np.float32)
        at = 0
        while at < WINDOW - SAMPLE_RATE:
            clip = audio[ids[rng.integers(len(ids))]]
            take = min(len(clip), WINDOW - at)
            window[at : at + take] = clip[:take] / np.float32(32768)
            at += take + int(rng.uniform(0.2, 0.6) * SAMPLE_RATE)
        window *= rng.uniform(0.3, 1.0) / max(1e-3, float(np.abs(window).max()))
        yield window


@dataclass(frozen=True)
class RegressConfig:
    """One regression. The first `stem_steps` steps train the input only, the others all weights; in each step a
    process reads `windows` windows of 30 s."""

    stem_steps: int = 50
    steps: int = 400
    windows: int = 1
    stem_rate: float = 2e-3
    rate: float = 3e-4
    save_steps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.stem_steps < self.steps or self.windows < 1:
            raise ValueError(
                f"regress: stem_steps={self.stem_steps} must lie between 0 and steps={self.steps}, windows at least 1"
            )


def frames_of_layers(model: HubertModel, wavs: Tensor, top_layer: int | None = None) -> list[Tensor]:
    """Hidden states 0 to `top_layer` at the frame rate of the layers; the top one before upsampler and final norm."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hook = model.encoder.layers[-1].register_forward_hook(keep)
    try:
        states, _ = run_layers(model, wavs, top_layer=top_layer)
    finally:
        hook.remove()
    if outputs:
        states = states[:-1]
    return [state[:, :: squeeze_of(model)] for state in states] + outputs


class Regression:
    """The state of one regression: model, optimiser, scale of each state, steps done.

    The loss of a state is its squared error over its variance, averaged over dimensions. A frame of ours covers
    `320 * squeeze` samples and is compared with the mean of the teacher's frames (50 a second) over the same time; the
    last frames of a window, which our formula does not have, are left out. The final norm of ours comes after the
    layers that were copied, so the top state is compared before it.
    """

    def __init__(
        self, model: HubertModel, teacher: Callable[[np.ndarray], list[Tensor]], config: RegressConfig
    ) -> None:
        self.model, self.teacher, self.config = model, teacher, config
        self.stem = [*model.feature_projection.parameters(), *model.encoder.pos_conv_embed.parameters()]
        self.squeeze = squeeze_of(model)
        self.frames = frame_count(WINDOW) // self.squeeze
        self.scale: list[Tensor] = []
        self.steps = 0
        self._choose()

    def _choose(self) -> None:
        """The parameters that learn now, and a fresh optimiser for them."""
        only_stem = self.steps < self.config.stem_steps
        self.parameters = self.stem if only_stem else [*self.stem, *self.model.encoder.layers.parameters()]
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)

    def step(
        self, batch: np.ndarray, reduce_gradients: Callable[[Sequence[nn.Parameter]], None] = lambda parameters: None
    ) -> list[float]:
        """Learn from (B, 480000) samples; the loss of every state that was compared."""
        config = self.config
        if self.steps == config.stem_steps:
            self._choose()
        only_stem = self.steps < config.stem_steps
        self.model.eval()  # no dropout: the targets have none
        with torch.autocast("cpu", dtype=torch.bfloat16):
            targets = self.teacher(batch)
            top = 0 if only_stem else None
            states = frames_of_layers(self.model, torch.from_numpy(batch), top)
        losses = [self._loss(i, state, targets[i]) for i, state in enumerate(states)]
        torch.stack(losses).mean().backward()
        reduce_gradients(self.parameters)
        first, last = (0, config.stem_steps) if only_stem else (config.stem_steps, config.steps)
        done = (self.steps - first) / (last - first)
        peak = config.stem_rate if only_stem else config.rate
        for group in self.optimizer.param_groups:
            group["lr"] = peak * min(1.0, done / 0.1 + 0.02) * (1.0 - 0.9 * done)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return [loss.item() for loss in losses]

    def _loss(self, i: int, state: Tensor, target: Tensor) -> Tensor:
        frames = self.frames
        target = target[:, : frames * self.squeeze].float().unflatten(1, (frames, self.squeeze)).mean(2)
        state = state[:, :frames].float()
        if len(self.scale) <= i:
            variance = target.var(dim=(0, 1))
            self.scale.append(variance + 0.1 * variance.mean())  # dimensions that hardly move must not dominate
            if i == 0:
                with torch.no_grad():
                    self.model.feature_projection.projection.bias.add_((target - state).mean(dim=(0, 1)))
        return ((state - target).square().mean(dim=(0, 1)) / self.scale[i]).clamp(max=1e4).mean()

    def save(self, path: Path) -> None:
        """Write everything that a resume needs, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scale": self.scale,
            "steps": self.steps,
        }
        with atomic_file(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.scale, self.steps = state["scale"], state["steps"]
        self._choose()
        self.optimizer.load_state_dict(state["optimizer"])


def fit(geometry: Geometry, source: Path, layers: Sequence[int], audio: Path, out: Path, config: RegressConfig) -> Path:
    """Build a student, copy layers of Whisper into it, learn its input by regression; the model directory.

    A geometry with Whisper's stem and positions (`hst_whisper`) needs no regression: everything is copied, and a
    squeezed one begins with the mean of each pair of frames. A killed run resumes; the processes of torchrun share each
    step. Raises UpstreamError for a source that does not fit.
    """
    whole = geometry.stem == "convolution" and geometry.positions == "sinusoid"
    with process_group() as here:
        store = PackedAudio(audio)
        ids = sorted(store)
        if not ids:
            raise UpstreamError(f"{audio}: no packed recordings here; `python -m downstream.asr data` packs them")
        torch.manual_seed(config.seed)
        model = build_encoder(geometry)
        copied = copy_layers(model, source, layers)
        if not whole and not geometry.cmvn:
            measure_front_end(model, store, ids, np.random.default_rng([config.seed, 1]))
        run = Regression(model, WhisperTeacher(source, max(layers) + 1), config)
        if list(layers) != list(range(len(layers))):
            raise UpstreamError(f"layers {list(layers)}: the regression compares each state, so take the first ones")
        state = Path(out) / "state.pt"
        if state.exists():
            run.load(state)
        log.info("init foreign: %d tensors from %s; step %d of %d", len(copied), source, run.steps, config.steps)
        losses: list[float] = []
        while not whole and run.steps < config.steps:
            rng = np.random.default_rng([config.seed, run.steps, here.rank])
            windows = fill_windows(store, ids, rng)
            losses = run.step(np.stack([next(windows) for _ in range(config.windows)]), average_gradients)
            if here.is_first and run.steps % config.save_steps == 0:
                log.info("step %d: error of each state %s", run.steps, " ".join(f"{loss:.3f}" for loss in losses))
                run.save(state)
        if here.is_first:
            regression = None if whole else {
                "layers": list(range(len(layers) + 1)),
                "weight": 1.0,
                "source_sha256": model_sha256(source),
                "errors": [round(x, 4) for x in losses],
            }  # fmt: skip
            hours = config.steps * config.windows * here.ranks * 30 / 3600
            card = {
                "name": geometry.name,
                "geometry": geometry.facts(),
                "front_end": geometry.front_end,
                "init": {"kind": "foreign", "source_sha256": model_sha256(source), "layers": list(layers)},
                "regression": regression,
                "hours": 0.0 if whole else round(hours, 2),
                "steps": run.steps,
                "lineage": lineage([], str(source)),
            }
            for parameter in model.parameters():
                parameter.requires_grad_(True)
            save_model(model.eval(), Path(out) / "model", card)
    return Path(out) / "model"


@torch.no_grad()
def measure_front_end(model: HubertModel, audio: PackedAudio, ids: Sequence[str], rng: np.random.Generator) -> None:
    """Set the log-mel mean and standard deviation from 300 random clips (at most 10 s each)."""
    mels = []
    for i in rng.choice(len(ids), size=min(300, len(ids)), replace=False):
        clip = audio[ids[i]][: 10 * SAMPLE_RATE].astype(np.float32) / 32768
        if len(clip) >= 400:
            mels.append(model.feature_extractor.log_mel(torch.from_numpy(clip)[None])[0])
    stacked = torch.cat(mels)
    model.feature_extractor.set_statistics(stacked.mean(0), stacked.std(0))
