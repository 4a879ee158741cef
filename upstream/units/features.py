"""Compute the features that k-means clusters: MFCC, or one hidden state of a model directory or an S3PRL upstream.

All features are at 50 Hz, one frame for each frame of the encoder. A source also records its origin (model hash and
layer), so that units can be traced to it.

The MFCC follow Kaldi with the settings of fairseq's HuBERT recipe: 25 ms Povey windows every 10 ms, 23 mel bands from
20 Hz, 13 liftered cepstra with C0 (no energy), no dither, then deltas and delta-deltas at 100 Hz, of which every
second frame is kept. The audio is float in [-1, 1], as in fairseq.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from corpora.audio import SAMPLE_RATE
from corpora.datadir import Utterance
from corpora.schema import nearest
from upstream.config import S3PRL
from upstream.errors import UpstreamError
from upstream.model.card import ancestors
from upstream.model.encoder import frame_count, front_end_of
from upstream.model.family import FFT_SIZE, FRAME_RATE, HOP, RECEPTIVE_FIELD
from upstream.model.fast import convolve_frames
from upstream.model.modeldir import load_model, model_sha256, read_card
from upstream.model.states import batches_of, clip_states, read_all

# Longer passes outgrow the caches: HuBERT-Base takes 1.5 times as long over 60 s of padded audio as over 16 s.
CPU_PASS_SECONDS = 16.0

MFCC_DIM = 39
CEPSTRA = 13
MELS = 23
LIFTER = 22.0
PRE_EMPHASIS = 0.97
LOW_HZ = 20.0
DELTA_SPAN = 2  # frames on either side
SHORT_HOP = HOP // 2
FLOOR = torch.finfo(torch.float32).eps


class Source(Protocol):
    """The interface of a feature source for PCA, k-means and labelling."""

    dim: int

    def features(self, wavs: Sequence[np.ndarray]) -> list[Tensor]:
        """Unpadded float32 waveforms (N,) at 16 kHz -> frames (T, dim), on the device that computed them."""

    def provenance(self) -> dict[str, Any]:
        """source, front_end, layer, model_sha256, frame_rate."""

    def lineage(self) -> dict[str, dict[str, Any]]:
        """Card entries of the model and its ancestors, by hash; empty without a model."""


def open_source(source: str, layer: int | None = None, *, batch_seconds: float = 120.0) -> Source:
    """Open `mfcc`, the path of a model directory, or `s3prl:NAME`; the last two with the hidden state to take."""
    if source == "mfcc":
        if layer is not None:
            raise UpstreamError("the source `mfcc` has no layers; leave `layer` out or name a model directory")
        return MfccSource()
    if source.startswith(S3PRL):
        return S3prlSource(source.removeprefix(S3PRL), layer)
    if not Path(source).exists() and (near := nearest(source, ["mfcc"])):
        raise UpstreamError(f"{source}: no such model directory{near}")
    return LayerSource(source, layer, batch_seconds=batch_seconds)


def feature_batches(
    source: Source,
    utterances: Sequence[Utterance],
    batch_seconds: float,
    unreadable: dict[str, str],
    *,
    cmvn: bool = False,
) -> Iterator[tuple[list[Utterance], list[Tensor]]]:
    """Features (T, D) of utterances of similar length, in batches of at most `batch_seconds` of padded audio.

    With `cmvn`, each feature has mean 0 and variance 1 over its utterance (CMVN of Kaldi), as in 2108.00917.
    An unreadable utterance is left out, and `unreadable` receives its id and the reason. Raises UpstreamError, which
    names the utterance, for features that are not finite or of a wrong length.
    """
    # Longest first: a batch that does not fit into memory fails at once.
    for batch, wavs in read_all(batches_of(utterances, batch_seconds)[::-1], unreadable):
        features = source.features(wavs)
        for utterance, x in zip(batch, features, strict=True):
            expected = (frame_count(utterance.samples), source.dim)
            if x.shape != expected:
                raise UpstreamError(
                    f"utterance {utterance.utt_id}: features of shape {tuple(x.shape)}, expected {expected}"
                )
            if not torch.isfinite(x).all():
                name = source.provenance()["source"]
                raise UpstreamError(
                    f"utterance {utterance.utt_id}: the features of {name} hold NaN or infinity; the model is broken"
                )
        yield batch, [normalise_utterance(x) for x in features] if cmvn else features


class MfccSource:
    """39-dimensional MFCC with deltas and delta-deltas, the features of the first iteration."""

    dim = MFCC_DIM

    def features(self, wavs: Sequence[np.ndarray]) -> list[Tensor]:
        """Each waveform (N,) in [-1, 1] -> (T, 39) on the CPU."""
        return [mfcc(torch.from_numpy(wav)) for wav in wavs]

    def provenance(self) -> dict[str, Any]:
        """source, front_end, layer, model_sha256, frame_rate."""
        return _provenance("mfcc", "mfcc")

    def lineage(self) -> dict[str, dict[str, Any]]:
        """No model, no ancestors."""
        return {}


def normalise_utterance(features: Tensor) -> Tensor:
    """(T, D) -> (T, D) with mean 0 and standard deviation 1 in every column; constant columns become 0."""
    centred = features - features.mean(dim=0)
    return centred / centred.square().mean(dim=0).sqrt().clamp(min=1e-4)


class LayerSource:
    """Hidden state `layer` of a model directory; the encoder stops at that layer.

    `layer` counts hidden states (0 = input of the first layer, L = after the final norm); None takes two thirds of the
    depth. `batch_seconds` bounds the padded audio of one forward pass; on a CPU `CPU_PASS_SECONDS` does too. Runs on
    the GPU if there is one.
    """

    def __init__(self, model_dir: Path | str, layer: int | None = None, *, batch_seconds: float = 120.0) -> None:
        self.model_dir = Path(model_dir)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_model(self.model_dir).to(device)
        convolve_frames(self.model)
        self.depth = self.model.config.num_hidden_layers
        self.layer = _checked_layer(str(self.model_dir), layer, self.depth)
        self.dim: int = self.model.config.hidden_size
        self._pass_seconds = min(batch_seconds, CPU_PASS_SECONDS) if device.type == "cpu" else batch_seconds
        self._sha256 = model_sha256(self.model_dir)
        # A name and not the path: units and the cards of models trained on them are shared.
        self._name = read_card(self.model_dir).get("name") or self.model_dir.name

    @torch.inference_mode()
    def features(self, wavs: Sequence[np.ndarray]) -> list[Tensor]:
        """Waveforms (N,) of at least 400 samples -> (T, dim) on the model's device, in the order given."""
        for i, wav in enumerate(wavs):
            if len(wav) < RECEPTIVE_FIELD:
                raise UpstreamError(f"waveform {i} has {len(wav)} samples; one frame needs {RECEPTIVE_FIELD}")
        result: list[Tensor] = [torch.empty(0)] * len(wavs)
        for i, states in clip_states(self.model, wavs, self._pass_seconds, top_layer=self.layer):
            result[i] = states[self.layer].float()
        return result

    def provenance(self) -> dict[str, Any]:
        """source, front_end, layer, model_sha256, frame_rate."""
        return _provenance(self._name, front_end_of(self.model), self.layer, self._sha256)

    def lineage(self) -> dict[str, dict[str, Any]]:
        """Card entries of the model and its ancestors."""
        return ancestors(self.model_dir)


class S3prlSource:
    """Hidden state `layer` of an S3PRL upstream: `NAME`, or `NAME=PATH` with a local checkpoint.

    It encodes one waveform at a time, because some S3PRL upstreams give other features for the same clip in another
    padded batch. S3PRL counts ceil(n / 320) frames and pads clips under 50 ms to that length; the first
    floor((n - 400) / 320) + 1 frames are taken. Raises UpstreamError for an unknown name, for a frame rate other than
    50 Hz, and for fewer frames than the encoder has.
    """

    def __init__(self, name: str, layer: int | None = None) -> None:
        import upstream

        self.name, _, path = name.partition("=")
        upstream.register("s3prl")
        from s3prl.nn import S3PRLUpstream

        title = f"{S3PRL}{self.name}"
        if self.name not in S3PRLUpstream.available_names():
            near = nearest(self.name, S3PRLUpstream.available_names())
            raise UpstreamError(f"{title}: S3PRL has no upstream of this name{near}")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        options = {"path_or_url": path} if path else {}
        self.model = S3PRLUpstream(self.name, **options).to(self.device).eval().requires_grad_(False)
        self.depth = self.model.num_layers - 1
        self.layer = _checked_layer(title, layer, self.depth)
        _check_rate(title, self.model.downsample_rates[self.layer])
        self.dim: int = self.model.hidden_sizes[self.layer]
        self._sha256 = sha256_state(self.model)

    @torch.inference_mode()
    def features(self, wavs: Sequence[np.ndarray]) -> list[Tensor]:
        """Waveforms (N,) -> (T, dim) on the model's device."""
        return [self._one(torch.from_numpy(wav).to(self.device)) for wav in wavs]

    def _one(self, wav: Tensor) -> Tensor:
        states, _ = self.model(wav[None], torch.tensor([len(wav)], device=self.device))
        frames = frame_count(len(wav))
        state = states[self.layer][0].float()
        if len(state) < frames:
            raise UpstreamError(f"{S3PRL}{self.name}: {len(state)} frames of {len(wav)} samples, {frames} are needed")
        return state[:frames]

    def provenance(self) -> dict[str, Any]:
        """source, front_end, layer, model_sha256, frame_rate; the hash is that of the weights as S3PRL loads them."""
        return _provenance(f"{S3PRL}{self.name}", "s3prl", self.layer, self._sha256)

    def lineage(self) -> dict[str, dict[str, Any]]:
        """One entry with the upstream's name; S3PRL records no ancestors."""
        return {self._sha256: {"name": f"{S3PRL}{self.name}"}}


def sha256_state(module: torch.nn.Module) -> str:
    """SHA-256 over the names and values of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _provenance(source: str, front_end: str, layer: int | None = None, sha256: str | None = None) -> dict[str, Any]:
    return {
        "source": source,
        "front_end": front_end,
        "layer": layer,
        "model_sha256": sha256,
        "frame_rate": FRAME_RATE,
    }


def _checked_layer(name: str, layer: int | None, depth: int) -> int:
    layer = round(2 * depth / 3) if layer is None else layer
    if not 0 <= layer <= depth:
        raise UpstreamError(f"{name}: layer {layer} is not one of the hidden states 0 to {depth}")
    return layer


def _check_rate(name: str, stride: int) -> None:
    if stride != HOP:
        raise UpstreamError(
            f"{name}: {SAMPLE_RATE / stride:g} frames per second, but units are at {FRAME_RATE} Hz "
            f"(a frame every {HOP} samples): choose another source"
        )


@cache
def _window() -> Tensor:
    """Povey window (a Hann window to the power 0.85), (400,)."""
    return torch.hann_window(RECEPTIVE_FIELD, periodic=False, dtype=torch.float64).pow(0.85).float()


@cache
def _mel_matrix() -> Tensor:
    """Triangles on the mel scale, (bins, MELS); without the Nyquist bin, as in Kaldi."""
    bins = torch.arange(FFT_SIZE // 2, dtype=torch.float64) * SAMPLE_RATE / FFT_SIZE
    limits = torch.tensor([LOW_HZ, SAMPLE_RATE / 2], dtype=torch.float64)
    mel, (low, high) = 1127.0 * torch.log1p(bins / 700.0), (1127.0 * torch.log1p(limits / 700.0)).tolist()
    edges = torch.linspace(low, high, MELS + 2, dtype=torch.float64)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return torch.cat([triangles, triangles.new_zeros(1, MELS)]).float()


@cache
def _cepstrum_matrix() -> Tensor:
    """Orthonormal DCT-II with the lifter folded in, (MELS, CEPSTRA)."""
    band = torch.arange(MELS, dtype=torch.float64)[:, None] + 0.5
    order = torch.arange(CEPSTRA, dtype=torch.float64)
    dct = torch.cos(math.pi / MELS * band * order) * math.sqrt(2 / MELS)
    dct[:, 0] = math.sqrt(1 / MELS)
    return (dct * (1 + LIFTER / 2 * torch.sin(math.pi * order / LIFTER))).float()


def _deltas(x: Tensor) -> Tensor:
    """Regression slope over five frames, the ends repeated: (T, D) -> (T, D)."""
    padded = torch.cat([x[:1].expand(DELTA_SPAN, -1), x, x[-1:].expand(DELTA_SPAN, -1)])
    spans = range(1, DELTA_SPAN + 1)
    shifted = {n: padded[DELTA_SPAN + n : DELTA_SPAN + n + len(x)] for n in range(-DELTA_SPAN, DELTA_SPAN + 1)}
    return sum(n * (shifted[n] - shifted[-n]) for n in spans) / (2 * sum(n * n for n in spans))


@torch.inference_mode()
def mfcc(wav: Tensor) -> Tensor:
    """MFCC, deltas and delta-deltas of one 16 kHz waveform: (N,) samples in [-1, 1] -> (T, 39) at 50 Hz.

    T = floor((N - 400) / 320) + 1. Raises UpstreamError below 400 samples.
    """
    if wav.dim() != 1:
        raise UpstreamError(f"mfcc: the waveform has shape {tuple(wav.shape)}; expected one dimension (samples)")
    if len(wav) < RECEPTIVE_FIELD:
        raise UpstreamError(f"mfcc: {len(wav)} samples are fewer than the {RECEPTIVE_FIELD} of one frame")
    frames = wav.float().unfold(0, RECEPTIVE_FIELD, SHORT_HOP)
    frames = frames - frames.mean(dim=1, keepdim=True)
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - PRE_EMPHASIS * previous) * _window()
    power = torch.fft.rfft(frames, n=FFT_SIZE).abs().square()
    cepstra = (power @ _mel_matrix()).clamp(min=FLOOR).log() @ _cepstrum_matrix()
    deltas = _deltas(cepstra)
    return torch.cat([cepstra, deltas, _deltas(deltas)], dim=1)[::2].contiguous()
