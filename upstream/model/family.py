"""The family as one table of geometries, with parameters, MACs and compression computed from the geometry alone.

Sources: HL, HS and HST as derived from the paper's compression of 93.7 %; the waveform encoder is that of
HuBERT-Large (seven convolutions with layer norm).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)
RECEPTIVE_FIELD = 400  # samples that one frame sees, in either front end
HOP = 320  # samples from one frame to the next
SAMPLE_RATE = 16000
NARROW_CHANNELS = 256  # of the narrow convolutional encoder, where HuBERT has 512
FFT_SIZE = 512  # of the log-mel front end: 257 bins, each from 400 samples


@dataclass(frozen=True)
class Geometry:
    """Shape of one model; `front_end` is `waveform` (seven convolutions) or `logmel` (80-d at 10 ms, two stacked)."""

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
    squeeze: int = 1  # 2: frames are projected in pairs, and the layers run at 25 a second

    def __post_init__(self) -> None:
        if self.front_end not in ("waveform", "logmel"):
            raise ValueError(f"{self.name}: front end `{self.front_end}` is unknown; choose waveform or logmel")
        if self.squeeze not in (1, 2) or (self.squeeze == 2 and self.front_end != "logmel"):
            raise ValueError(f"{self.name}: squeeze={self.squeeze}; 1 or, with a log-mel front end, 2")
        if self.width % self.heads:
            raise ValueError(f"{self.name}: width {self.width} is not divisible by {self.heads} heads")
        if self.width % self.pos_conv_groups:
            raise ValueError(f"{self.name}: width {self.width} is not divisible by {self.pos_conv_groups} groups")
        if min(self.layers, self.width, self.heads, self.ffn) < 1:
            raise ValueError(f"{self.name}: layers, width, heads and ffn must be at least 1")

    @property
    def feature_dim(self) -> int:
        """Width of a front-end frame, before the projection."""
        return self.conv_channels if self.front_end == "waveform" else 2 * self.mels * self.squeeze


def _table() -> dict[str, Geometry]:
    full = [
        Geometry("hl", 24, 1024, 16, 4096),
        Geometry("hs", 4, 1024, 16, 4096),
        Geometry("hst", 4, 512, 8, 2048),
    ]
    # The small sizes see clips of a second or two: a positional convolution of 128 frames (2.6 s) would mostly read
    # padding and cost as much as a Transformer layer.
    small = [
        Geometry("open_hl", 6, 256, 4, 1024, "logmel", pos_conv_kernel=32),
        Geometry("open_hs", 3, 256, 4, 1024, "logmel", pos_conv_kernel=32),
        Geometry("open_hst", 3, 192, 3, 768, "logmel", pos_conv_kernel=32),
        Geometry("mini_hl", 4, 128, 4, 512, "logmel", pos_conv_kernel=32),
        Geometry("mini_hs", 2, 128, 4, 512, "logmel", pos_conv_kernel=32),
        Geometry("mini_hst", 2, 64, 2, 256, "logmel", pos_conv_kernel=32),
    ]
    # Half the channels are a quarter of the products: between the full convolutions and log-mel.
    students = [g for g in full if g.name != "hl"]
    narrow = [replace(g, name=f"{g.name}_narrow", conv_channels=NARROW_CHANNELS) for g in students]
    logmel = [replace(g, name=f"{g.name}_logmel", front_end="logmel") for g in full]
    small.append(Geometry("open", 4, 512, 8, 2048, "logmel", pos_conv_kernel=32, squeeze=2))
    # The price of each front end on real speech: one Transformer behind all three.
    open_hst = next(g for g in small if g.name == "open_hst")
    fronts = [
        replace(open_hst, name="open_hst_waveform", front_end="waveform"),
        replace(open_hst, name="open_hst_narrow", front_end="waveform", conv_channels=NARROW_CHANNELS),
    ]
    return {g.name: g for g in [*full, *narrow, *logmel, *small, *fronts]}


FAMILY: dict[str, Geometry] = _table()


def geometry(name: str, **changes: object) -> Geometry:
    """The named geometry, with fields replaced. Raises KeyError with the known names."""
    if name not in FAMILY:
        raise KeyError(f"no geometry named `{name}`; known: {', '.join(FAMILY)}")
    return replace(FAMILY[name], **changes) if changes else FAMILY[name]


def parameters(g: Geometry) -> int:
    """Parameters of the built encoder (`HubertModel`), pre-training heads left out."""
    layer = 4 * (g.width * g.width + g.width)  # q, k, v, out
    layer += 2 * g.width * g.ffn + g.ffn + g.width
    layer += 4 * g.width  # two layer norms
    front = 0
    if g.front_end == "waveform":
        c = g.conv_channels
        channels_in = [1] + [c] * (len(CONV_KERNELS) - 1)
        front = sum(i * c * k + c + 2 * c for i, k in zip(channels_in, CONV_KERNELS, strict=True))
    projection = 2 * g.feature_dim + g.feature_dim * g.width + g.width
    # weight norm keeps a direction and a gain per kernel tap
    positional = g.width * (g.width // g.pos_conv_groups) * g.pos_conv_kernel + g.pos_conv_kernel + g.width
    return front + projection + positional + g.layers * layer + 2 * g.width + g.width


def macs_per_second(g: Geometry, seconds: float = 10.0) -> float:
    """Multiply-accumulates per second of audio, for a clip of `seconds` (attention grows with its length)."""
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
    frames = -(-frames // g.squeeze)
    total += frames * g.feature_dim * g.width
    total += frames * g.width * (g.width // g.pos_conv_groups) * g.pos_conv_kernel
    total += g.layers * frames * (4 * g.width * g.width + 2 * g.width * g.ffn + 2 * frames * g.width)
    return total / seconds


def delta_s(g: Geometry, teacher: Geometry) -> float:
    """Structural compression against the teacher, in percent: 100 * (1 - parameters / teacher's parameters)."""
    return 100.0 * (1.0 - parameters(g) / parameters(teacher))
