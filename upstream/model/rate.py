"""Read the frame rate of an encoder from its configuration, and refuse every rate but 50 frames per second.

Units, probes, pre-training, windows of long audio and word times count frames by one formula (`encoder.frame_count`),
so a model of 25 or 100 frames per second, or of another receptive field, would get wrong counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora import SAMPLE_RATE  # corpora.audio would import NumPy
from corpora.files import read_json
from upstream.errors import UpstreamError
from upstream.model.family import CONV_KERNELS, CONV_STRIDES, FRAME_RATE, HOP, RECEPTIVE_FIELD

_MEL_HOP = 160  # samples, of the log-mel front ends of w2v-BERT 2.0 and Whisper


@dataclass(frozen=True)
class Frames:
    """Samples from one frame to the next, and samples that one frame reads, at 16 kHz."""

    hop: int
    field: int = RECEPTIVE_FIELD

    @property
    def rate(self) -> float:
        """Frames per second."""
        return SAMPLE_RATE / self.hop

    def count(self, samples: int) -> int:
        """Frames of a clip: floor((n - field) / hop) + 1, and 0 below one frame."""
        return max(0, (samples - self.field) // self.hop + 1)

    def __str__(self) -> str:
        return f"{self.rate:.4g} frames per second (one every {self.hop} samples, each of {self.field} samples)"


OURS = Frames(HOP, RECEPTIVE_FIELD)


def frames_of(config: Any) -> Frames:
    """The frames of a HuBERT, wav2vec 2.0, WavLM or log-mel encoder: its chain of convolutions without padding.

    `config` is Transformers' configuration, or a mapping as config.json holds it, where absent keys are HuBERT's.
    """
    if not isinstance(config, Mapping):
        config = {"conv_kernel": config.conv_kernel, "conv_stride": config.conv_stride}
    return _chain(config.get("conv_kernel") or CONV_KERNELS, config.get("conv_stride") or CONV_STRIDES)


def _chain(kernels: Sequence[int], strides: Sequence[int]) -> Frames:
    hop, field = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return Frames(hop, field)


def check_frames(name: Path | str, frames: Frames) -> None:
    """Raise UpstreamError, which states the model and its rate, unless it has the frames that all counts assume."""
    if frames != OURS:
        raise UpstreamError(
            f"{name}: the encoder gives {frames}, but {FRAME_RATE} per second are needed (one every {HOP} samples, "
            f"each of {RECEPTIVE_FIELD}); only `python -m upstream info` reads such a model, so choose another one"
        )


def check_directory(path: Path | str) -> None:
    """The same check for any model directory in Transformers form, by its JSON files alone.

    A folder whose configuration is missing or not understood passes; loading the model names its fault.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        return
    try:
        frames = stated_frames(path)
    except (TypeError, ValueError, AttributeError):
        return
    if frames is not None:
        check_frames(path, frames)


def stated_frames(path: Path) -> Frames | None:
    """The frames of a directory in Transformers form by its JSON files; None for an unknown model type."""
    config = read_json(path / "config.json")
    kind = config.get("model_type")
    if kind in ("hubert", "wav2vec2", "wavlm"):
        return frames_of(config)
    preprocessor = path / "preprocessor_config.json"
    options = read_json(preprocessor) if preprocessor.is_file() else {}
    if kind == "wav2vec2-bert":
        return Frames(_MEL_HOP * options.get("stride", 2))
    if kind == "whisper":  # its second convolution has a stride of 2
        return Frames(2 * options.get("hop_length", _MEL_HOP))
    return None
