"""The table of geometries, and the parameters, MACs and compression of a geometry.

Sources: HL, HS and HST are derived from the paper's compression of 93.7 %; the waveform encoder is that of HuBERT-Large
(seven convolutions with layer norm).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from corpora import MIN_SAMPLES, SAMPLE_RATE  # corpora.audio would import NumPy
from upstream.errors import UpstreamError

CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)
RECEPTIVE_FIELD = MIN_SAMPLES  # 400 samples of one frame, in either front end
HOP = 320  # samples from one frame to the next
FRAME_RATE = SAMPLE_RATE // HOP  # 50 Hz
NARROW_CHANNELS = 256  # of the narrow convolutional encoder; HuBERT has 512
STEM_TAPS = 3  # of both convolutions of a convolutional stem
FFT_SIZE = 512  # of the log-mel front end: 257 bins, each from 400 samples
# Of streaming models, in 20 ms frames: chunks of 160 to 1,280 ms (320 ms where nothing else is said), 2.56 s before.
SHORTEST_CHUNK, LONGEST_CHUNK, CHUNK = 8, 64, 16
LEFT_CONTEXT = 128
FRAME_MS = 1000 // FRAME_RATE


@dataclass(frozen=True)
class Geometry:
    """Shape of one model; `front_end` is `waveform` (seven convolutions) or `logmel` (80-d at 10 ms, two stacked).

    `squeeze` is the number of 20 ms frames that one frame of the layers represents: 1, or 2 for layers at 25 Hz. The
    hidden states have 50 frames per second in both cases. `stem` and `positions` describe what stands between a log-mel
    front end and the layers: one linear projection or the two convolutions of Whisper, and a positional convolution or
    the sinusoids of Whisper.

    `cmvn` normalises each log-mel band over the clip instead of by fixed statistics, so that its values depend less on
    the microphone and the studio; such a model cannot stream.

    `left_context` above 0 makes a streaming model: a frame attends to its chunk and to so many 20 ms frames before the
    chunk, and the convolutions read no later frames. 0: attention over the whole clip.
    """

    name: str
    layers: int
    width: int
    heads: int
    ffn: int
    front_end: str = "waveform"
    conv_channels: int = 512
    mels: int = 80
    pos_conv_kernel: int = 128
    pos_conv_groups: int = 16
    squeeze: int = 1
    stem: str = "linear"
    positions: str = "convolution"
    left_context: int = 0
    cmvn: bool = False

    def __post_init__(self) -> None:
        if self.front_end not in ("waveform", "logmel"):
            raise UpstreamError(f"{self.name}: front end `{self.front_end}` is unknown; choose waveform or logmel")
        sizes = ("layers", "width", "heads", "ffn", "conv_channels", "mels", "pos_conv_kernel", "pos_conv_groups")
        for size in sizes:
            if getattr(self, size) < 1:
                raise UpstreamError(f"{self.name}: {size} is {getattr(self, size)}; it must be at least 1")
        if self.width % self.heads:
            raise UpstreamError(f"{self.name}: width {self.width} is not divisible by {self.heads} heads")
        if self.width % self.pos_conv_groups:
            raise UpstreamError(f"{self.name}: width {self.width} is not divisible by {self.pos_conv_groups} groups")
        if self.squeeze not in (1, 2):
            raise UpstreamError(f"{self.name}: squeeze {self.squeeze} is unknown; choose 1 or 2")
        if self.squeeze > 1 and self.front_end == "waveform":
            # A waveform model must load as a plain `HubertModel`, which has no such layers.
            raise UpstreamError(f"{self.name}: squeeze {self.squeeze} needs the log-mel front end")
        if self.stem not in ("linear", "convolution"):
            raise UpstreamError(f"{self.name}: stem `{self.stem}` is unknown; choose linear or convolution")
        if self.positions not in ("convolution", "sinusoid"):
            raise UpstreamError(f"{self.name}: positions `{self.positions}`: choose convolution or sinusoid")
        if (self.stem, self.positions) != ("linear", "convolution") and self.front_end == "waveform":
            raise UpstreamError(f"{self.name}: another stem or other positions need the log-mel front end")
        if self.left_context < 0 or self.left_context % self.squeeze:
            raise UpstreamError(
                f"{self.name}: left_context is {self.left_context} frames of {FRAME_MS} ms; it must be 0 (no "
                f"streaming) or a multiple of squeeze {self.squeeze}"
            )
        if self.left_context and self.front_end == "waveform":
            # Its waveforms are normalised over the whole clip, and it must load as a plain `HubertModel`.
            raise UpstreamError(f"{self.name}: left_context {self.left_context}: streaming needs the log-mel front end")
        if not isinstance(self.cmvn, bool):
            raise UpstreamError(f"{self.name}: cmvn is {self.cmvn!r}; it must be true or false")
        if self.cmvn and self.front_end == "waveform":
            raise UpstreamError(f"{self.name}: cmvn normalises log-mel bands; it needs the log-mel front end")
        if self.cmvn and self.left_context:
            raise UpstreamError(f"{self.name}: cmvn needs mean and variance of the whole clip, so it cannot stream")

    @property
    def feature_dim(self) -> int:
        """Width of a front-end frame, before the projection."""
        return self.conv_channels if self.front_end == "waveform" else 2 * self.mels

    @property
    def projected_dim(self) -> int:
        """Width of the frames behind the front end's stacking: of pairs, where the linear projection squeezes."""
        return self.feature_dim * (self.squeeze if self.stem == "linear" else 1)

    def facts(self) -> dict[str, Any]:
        """The fields as JSON for cards and fingerprints; fields that older cards lack only where they differ from the
        default."""
        defaults = {"squeeze": 1, "stem": "linear", "positions": "convolution", "left_context": 0, "cmvn": False}
        return {key: value for key, value in asdict(self).items() if key not in defaults or value != defaults[key]}


def _table() -> dict[str, Geometry]:
    full = [
        Geometry("hl", 24, 1024, 16, 4096),
        Geometry("hs", 4, 1024, 16, 4096),
        Geometry("hst", 4, 512, 8, 2048),
    ]
    # The small sizes are trained on clips of one or two seconds: a positional convolution of 128 frames (2.6 s) would
    # mostly read padding and cost as much as a Transformer layer.
    small = [
        Geometry("open_hl", 6, 256, 4, 1024, "logmel", pos_conv_kernel=32),
        Geometry("open_hs", 3, 256, 4, 1024, "logmel", pos_conv_kernel=32),
        Geometry("open_hst", 3, 192, 3, 768, "logmel", pos_conv_kernel=32),
        Geometry("mini_hl", 4, 128, 4, 512, "logmel", pos_conv_kernel=32),
        Geometry("mini_hs", 2, 128, 4, 512, "logmel", pos_conv_kernel=32),
        Geometry("mini_hst", 2, 64, 2, 256, "logmel", pos_conv_kernel=32),
    ]
    # Half the channels need a quarter of the products. Their cost lies between full convolutions and log-mel.
    students = [g for g in full if g.name != "hl"]
    narrow = [replace(g, name=f"{g.name}_narrow", conv_channels=NARROW_CHANNELS) for g in students]
    logmel = [replace(g, name=f"{g.name}_logmel", front_end="logmel") for g in full]
    # Layers at 25 Hz, so 64 taps reach as far as 128 taps at 50 Hz.
    squeezed = [
        Geometry("hst_fast", 4, 512, 8, 2048, "logmel", pos_conv_kernel=64, squeeze=2),
        Geometry("hst_tiny", 4, 192, 3, 768, "logmel", pos_conv_kernel=64, squeeze=2),
    ]
    # Whisper base's encoder, stem and positions included, so that its layers can be copied as they are: the first four,
    # and all six; at Whisper's frame rate, and squeezed.
    whisper = Geometry("hst_whisper", 4, 512, 8, 2048, "logmel", stem="convolution", positions="sinusoid")
    copied = [whisper, replace(whisper, name="hst_whisper6", layers=6)]
    copied += [replace(g, name=f"{g.name}_fast", squeeze=2) for g in copied]
    # The same Transformer behind three front ends, to measure the cost of each on real speech.
    open_hst = next(g for g in small if g.name == "open_hst")
    fronts = [
        replace(open_hst, name="open_hst_waveform", front_end="waveform"),
        replace(open_hst, name="open_hst_narrow", front_end="waveform", conv_channels=NARROW_CHANNELS),
    ]
    members = [*full, *narrow, *logmel, *squeezed, *copied, *small, *fronts]
    mel = [g for g in members if g.front_end == "logmel"]
    streams = [replace(g, name=f"{g.name}_stream", left_context=LEFT_CONTEXT) for g in mel]
    # Whisper's stem reads bands on a fixed scale.
    normalised = [replace(g, name=f"{g.name}_cmvn", cmvn=True) for g in mel if g.stem == "linear"]
    return {g.name: g for g in [*members, *streams, *normalised]}


FAMILY: dict[str, Geometry] = _table()


def geometry(name: str, **changes: object) -> Geometry:
    """The named geometry, with fields replaced. Raises UpstreamError with the known names."""
    if name not in FAMILY:
        raise UpstreamError(f"no geometry named `{name}`; known: {', '.join(FAMILY)}")
    return replace(FAMILY[name], **changes) if changes else FAMILY[name]


def chunk_frames(milliseconds: float, squeeze: int = 1) -> int:
    """The 20 ms frames of a chunk. Raises UpstreamError for a chunk that a streaming model cannot have."""
    frames = milliseconds / FRAME_MS
    if not SHORTEST_CHUNK <= frames <= LONGEST_CHUNK or frames % squeeze:
        raise UpstreamError(
            f"a chunk of {milliseconds:g} ms does not fit the model: choose a multiple of {FRAME_MS * squeeze} ms from "
            f"{SHORTEST_CHUNK * FRAME_MS} to {LONGEST_CHUNK * FRAME_MS} ms, such as {CHUNK * FRAME_MS}"
        )
    return int(frames)


def parameters(g: Geometry) -> int:
    """Parameters of the encoder (`HubertModel`), without pre-training heads."""
    layer = 4 * (g.width * g.width + g.width)  # q, k, v, out
    layer += 2 * g.width * g.ffn + g.ffn + g.width
    layer += 4 * g.width  # two layer norms
    front = 0
    if g.front_end == "waveform":
        c = g.conv_channels
        channels_in = [1] + [c] * (len(CONV_KERNELS) - 1)
        front = sum(i * c * k + c + 2 * c for i, k in zip(channels_in, CONV_KERNELS, strict=True))
    features = g.projected_dim
    projection = 2 * features + features * g.width + g.width
    if g.stem == "convolution":
        projection = STEM_TAPS * (g.mels + g.width) * g.width + 2 * g.width
        projection += (g.squeeze * g.width + 1) * g.width if g.squeeze > 1 else 0
    upsampler = g.squeeze * (g.width * g.width + g.width) if g.squeeze > 1 else 0
    # Weight norm stores a direction, and a gain for each kernel tap.
    positional = g.width * (g.width // g.pos_conv_groups) * g.pos_conv_kernel + g.pos_conv_kernel + g.width
    if g.positions == "sinusoid":
        positional = 0
    return front + projection + positional + g.layers * layer + upsampler + 2 * g.width + g.width


def macs_per_second(g: Geometry, seconds: float = 10.0) -> float:
    """Multiply-accumulates per second of audio, for a clip of `seconds` (attention grows with its length).

    In a streaming model attention is that of chunks of 320 ms after a full left context. The DFT of the log-mel front
    end counts whole, as training computes it; inference takes half of its products (`upstream.model.fast`).
    """
    samples = int(seconds * SAMPLE_RATE)
    frames = (samples - RECEPTIVE_FIELD) // HOP + 1
    total = 0
    if g.front_end == "waveform":
        length, channels = samples, 1
        for kernel, stride in zip(CONV_KERNELS, CONV_STRIDES, strict=True):
            length = (length - kernel) // stride + 1
            total += length * channels * g.conv_channels * kernel
            channels = g.conv_channels
    else:
        short_frames = (samples - RECEPTIVE_FIELD) // (HOP // 2) + 1
        bins = FFT_SIZE // 2 + 1
        total += short_frames * (RECEPTIVE_FIELD * 2 * bins + bins * g.mels)
    if g.stem == "convolution":
        total += frames * STEM_TAPS * (2 * g.mels + g.width) * g.width
    frames = -(-frames // g.squeeze)  # of the layers
    if g.stem == "linear":
        total += frames * g.projected_dim * g.width
    elif g.squeeze > 1:
        total += frames * g.squeeze * g.width * g.width
    if g.positions == "convolution":
        total += frames * g.width * (g.width // g.pos_conv_groups) * g.pos_conv_kernel
    keys = min(frames, (g.left_context + CHUNK) // g.squeeze) if g.left_context else frames
    total += g.layers * frames * (4 * g.width * g.width + 2 * g.width * g.ffn + 2 * keys * g.width)
    if g.squeeze > 1:
        total += frames * g.width * g.squeeze * g.width  # upsampler
    return total / seconds


def delta_s(g: Geometry, teacher: Geometry) -> float:
    """Structural compression against the teacher, in percent: 100 * (1 - parameters / teacher's parameters)."""
    return 100.0 * (1.0 - parameters(g) / parameters(teacher))
