"""Apply a trained recogniser to audio of any format, sample rate and length: log-probabilities, text, word times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from corpora.audio import SAMPLE_RATE, stream_any
from corpora.files import read_json
from downstream import DownstreamError
from downstream.asr.recogniser import (
    BLANK,
    PROTOCOL,
    best_path,
    check_weights,
    linear_layer,
    load_head,
    read_description,
)
from upstream.errors import UpstreamError
from upstream.model.chunked import Windowing, windows
from upstream.model.encoder import frames_together
from upstream.model.family import FRAME_RATE, HOP, RECEPTIVE_FIELD
from upstream.model.fast import accelerate
from upstream.model.modeldir import load_model, model_sha256
from upstream.model.onnx import OnnxEncoder
from upstream.names import SHIPPED
from upstream.shipped import shipped

NOBODY = 20.0  # the blank's logit, those of the letters being 0, in a window where nobody speaks
ONNX_FILE = "int8.onnx"  # in a model directory: the encoder with 8-bit weights
DEFAULT = "harness_open"  # the model that ships, where no head is named
DEFAULT_HEAD = "letters"  # the head of a model that ships, where only the model is named


def windowing(frames: int) -> Windowing:
    """The windows of recognisers; `frames` is the number of 20 ms frames that their head reads together.

    They are fine-tuned on short pieces, and positions beyond the length of these are hardly trained: on 24 verses of 15
    to 25 s, 8.1 % of the letters were wrong instead of 8.7 % in windows of 30 s.
    """
    return Windowing(window=16.0, context=1.5, frames=frames)


@dataclass(frozen=True)
class Reading:
    """The output for one recording: natural-log probabilities (T, characters) where a recogniser has them, seconds,
    text, what was unusual about the file, and the `letter_probability` of each window (0 without letters)."""

    log_probs: np.ndarray | None
    seconds: float
    text: str
    note: str | None = None
    letters: tuple[float, ...] = ()


def named_head(given: Path | None = None, option: str = "--model") -> Path:
    """The head directory `given`, or that of a model that ships: NAME means its letters, NAME/HEAD another head, and
    None the letters of `harness_open`. A folder NAME in the current folder is meant first. A model directory with a
    folder `letters` means that one, and a path of head.json its folder.

    Raises DownstreamError, which names the `option`, where the toolkit lacks the files.
    """
    path = Path(DEFAULT if given is None else given)
    name, *heads = path.parts or ("",)
    if name not in SHIPPED or len(heads) > 1 or (given is not None and Path(name).is_dir()):
        path = path.parent if path.name == "head.json" and path.is_file() else path
        inner = path / DEFAULT_HEAD
        return inner if (inner / "head.json").is_file() and not (path / "head.json").is_file() else path
    try:
        head = shipped(name).joinpath(*heads or [DEFAULT_HEAD])
    except UpstreamError as error:
        raise DownstreamError(f"{error}, or the head directory of a recogniser with {option}") from error
    if not (head / "head.json").is_file():
        raise DownstreamError(f"{head}: head.json is missing; name a head directory with {option}")
    return head


def is_recogniser(folder: Path) -> bool:
    """Whether a head directory belongs to a CTC recogniser (and not to a probe of the benchmark)."""
    path = Path(folder) / "head.json"
    head = read_json(path) if path.is_file() else {}
    return isinstance(head, dict) and head.get("protocol") == PROTOCOL


class Reader:
    """A recogniser with its encoder, ready for files. Without `model` it searches the encoder near the head directory.

    `engine`: `torch` runs model.safetensors, `onnx` runs int8.onnx beside it (8-bit weights), `auto` prefers the latter
    where the file and ONNX Runtime exist. `threads` is for ONNX Runtime (0: one for each core). `channel` of files with
    several, from 0 (None: the average).
    Raises DownstreamError for a missing encoder, and for one whose weights are not those that the head was trained on.
    """

    def __init__(
        self,
        head: Path,
        model: Path | None = None,
        *,
        engine: str = "auto",
        threads: int = 0,
        channel: int | None = None,
    ) -> None:
        head = Path(head)
        self.channel = channel
        self.description = read_description(head)
        self.characters: list[str] = self.description["characters"]
        self.stride = int(self.description.get("stride", 1))  # frames of the encoder in one frame of the head
        # In a window with a smaller `letter_probability` nobody speaks, and it gives no text; `calibrate` chooses it.
        self.least_probability = float(self.description["least_probability"])
        self.model_dir = encoder_of(head, self.description, model)
        exported = self.model_dir / ONNX_FILE
        if engine == "auto":
            engine = "onnx" if exported.is_file() and find_spec("onnxruntime") is not None else "torch"
        self.engine = engine
        try:
            if engine == "onnx":
                encoder = OnnxEncoder(exported, threads=threads)
                key = encoder.facts.get("source_sha256")
                frames = int(encoder.facts.get("windows") or encoder.facts.get("squeeze", 1))  # older exports
                self.forward = _onnx_logits(encoder, head, self.stride)
            else:
                loaded = load_model(self.model_dir)
                key, frames = model_sha256(self.model_dir), frames_together(loaded)
                recogniser = load_head(accelerate(loaded), head)
                self.forward = lambda samples: recogniser(samples[None])[0][0]
        except UpstreamError as error:
            raise DownstreamError(str(error)) from error
        check_weights(head, key, exported if engine == "onnx" else self.model_dir, "--upstream")
        self.windowing = windowing(frames)

    @property
    def seconds_per_frame(self) -> float:
        """The time from one frame of the log-probabilities to the next."""
        return self.stride / FRAME_RATE

    @property
    def file(self) -> Path:
        """The file of weights that is run."""
        return self.model_dir / (ONNX_FILE if self.engine == "onnx" else "model.safetensors")

    def read(self, path: Path, progress: Callable[[float], None] = lambda seconds: None) -> Reading:
        """The output for one recording. Raises AudioError for a file that cannot be read."""
        notes: list[str] = []
        blocks = stream_any(path, channel=self.channel, notes=notes)
        reading = self.read_blocks(map(torch.from_numpy, blocks), progress)
        return replace(reading, note="; ".join(notes) or None)

    @torch.inference_mode()
    def read_blocks(
        self, blocks: Iterable[Tensor], progress: Callable[[float], None] = lambda seconds: None
    ) -> Reading:
        """The same for 16 kHz samples in 1-D blocks of any sizes."""
        pieces, probabilities, samples = [], [], 0
        for window in windows(blocks, self.windowing):
            logits = self.forward(_at_least_one_frame(window.samples)).float()
            end = None if window.keep is None else window.skip + window.keep
            kept = logits[window.skip // self.stride : None if end is None else end // self.stride]
            sure = letter_probability(kept)
            if sure is not None and sure < self.least_probability:
                kept = torch.zeros_like(kept)
                kept[:, BLANK] = NOBODY
            pieces.append(kept)
            probabilities.append(sure or 0.0)
            own = (len(window.samples) if end is None else end * HOP) - window.skip * HOP
            samples += own
            progress(own / SAMPLE_RATE)
        log_probs = torch.cat(pieces).log_softmax(-1)
        text = best_path(log_probs.argmax(-1).tolist(), self.characters)
        return Reading(log_probs.numpy(), round(samples / SAMPLE_RATE, 3), text, letters=tuple(probabilities))


def letter_probability(logits: Tensor) -> float | None:
    """The mean probability of the likeliest character over the frames in which it is not the blank, of logits (T, C);
    None without such frames. A recogniser that hears noise writes letters, but is unsure of each."""
    letters = logits.softmax(-1).max(-1).values[logits.argmax(-1) != BLANK]
    return float(letters.mean()) if len(letters) else None


def _onnx_logits(encoder: OnnxEncoder, head: Path, stride: int) -> Callable[[Tensor], Tensor]:
    weight, bias = map(
        torch.from_numpy, linear_layer(head, int(encoder.facts["width"]), int(encoder.facts.get("squeeze", 1)))
    )

    def forward(samples: Tensor) -> Tensor:
        encoded = encoder([samples.numpy()])
        return torch.from_numpy(encoded.last_hidden_state[0, ::stride]) @ weight.T + bias

    return forward


def _at_least_one_frame(samples: Tensor) -> Tensor:
    short = RECEPTIVE_FIELD - len(samples)
    return torch.nn.functional.pad(samples, (0, short)) if short > 0 else samples


def encoder_of(head: Path, description: dict[str, Any], model: Path | None = None) -> Path:
    """The model directory of a head: `model`, the head's own parent, or a folder of its name near the head.

    Raises DownstreamError where there is none.
    """
    if model is not None:
        return Path(model)
    name = str(description["upstream"])
    parent = head.resolve().parent
    for place in (parent, parent / name, *(above / "models" / name for above in head.resolve().parents)):
        if (place / "config.json").is_file() and (place / "model.safetensors").is_file():
            return place
    raise DownstreamError(f"{head}: its encoder {name} was not found; name the model directory with --upstream DIR")


def word_times(
    log_probs: np.ndarray, classes: list[int], characters: list[str], seconds_per_frame: float
) -> list[tuple[str, float, float]]:
    """Words with start and end in seconds, from `letter_frames` of a text. Raises ValueError like `align`."""
    path = letter_frames(log_probs, classes)
    words: list[tuple[str, float, float]] = []
    letters: list[str] = []
    start = end = 0.0
    for position, value in enumerate([*classes, characters.index(" ")]):
        if characters[value] == " ":
            if letters:
                words.append(("".join(letters), round(start, 2), round(end, 2)))
            letters = []
            continue
        first, last = path[position]
        start = first * seconds_per_frame if not letters else start
        letters.append(characters[value])
        end = (last + 1) * seconds_per_frame
    return words


def letter_frames(log_probs: np.ndarray, classes: list[int], blank: int = 0) -> list[tuple[int, int]]:
    """The frames (first, last) of each class of a text that is near the likeliest one, in linear time and memory.

    Classes that the likeliest path has too keep its frames; only the others are aligned, between these. Raises
    ValueError like `align`.
    """
    best = log_probs.argmax(-1)
    bounds = np.flatnonzero(np.diff(best, prepend=-1, append=-1))
    runs = [(int(a), int(b) - 1) for a, b in pairwise(bounds) if best[a] != blank]
    heard = [int(best[first]) for first, _ in runs]
    if heard == classes:
        return runs
    found: list[tuple[int, int]] = []
    j = 0  # classes before it have their frames
    blocks = [block for block in Levenshtein.opcodes(heard, classes) if block.tag == "equal"]
    for number in range(len(blocks) + 1):
        block = blocks[number] if number < len(blocks) else None
        start, end = (block.src_start, block.dest_start) if block else (len(heard), len(classes))
        stop = block.src_end if block else len(heard)
        before = 0 if number == 0 else blocks[number - 1].src_end - blocks[number - 1].src_start
        if end > j:
            # Without room between the neighbours these are aligned too: first three on each side, then all.
            for width in (0, 3, max(len(heard), 1)):
                left, right = min(width, before), min(width, stop - start)
                first = found[j - left - 1][1] + 1 if j > left else 0
                last = runs[start + right][0] if start + right < len(runs) else len(best)
                try:
                    part = align(log_probs[first:last], classes[j - left : end + right])
                except ValueError:
                    continue
                del found[j - left :]
                found += [(a + first, b + first) for a, b in part[: end - j + left]]
                runs[start : start + right] = [(a + first, b + first) for a, b in part[end - j + left :]]
                break
            else:
                return align(log_probs, classes)
        if block:
            found += runs[start:stop]
            j = block.dest_end
    return found


def align(log_probs: np.ndarray, classes: list[int], blank: int = 0) -> list[tuple[int, int]]:
    """The frames (first, last) of each class on the likeliest CTC path, (T, C) natural-log probabilities.

    Raises ValueError for a text with more characters than the frames can hold.
    """
    frames, states = len(log_probs), 2 * len(classes) + 1
    if frames < len(classes):
        raise ValueError(f"{len(classes)} characters do not fit {frames} frames")
    labels = np.full(states, blank)
    labels[1::2] = classes
    skip = np.zeros(states, bool)
    skip[3::2] = labels[3::2] != labels[1:-2:2]
    score = np.full(states, -np.inf)
    score[:2] = log_probs[0, labels[:2]]
    back = np.zeros((frames, states), np.int8)
    for t in range(1, frames):
        one = np.concatenate([[-np.inf], score[:-1]])
        two = np.where(skip, np.concatenate([[-np.inf, -np.inf], score[:-2]]), -np.inf)
        choices = np.stack([score, one, two])
        back[t] = choices.argmax(0)
        score = choices.max(0) + log_probs[t, labels]
    state = states - 1 if states == 1 or score[-1] >= score[-2] else states - 2
    if not np.isfinite(score[state]):
        raise ValueError(f"{len(classes)} characters do not fit {frames} frames")
    spans: list[list[int]] = [[frames, -1] for _ in classes]
    for t in range(frames - 1, -1, -1):
        if state % 2:
            span = spans[state // 2]
            span[0], span[1] = min(span[0], t), max(span[1], t)
        state -= int(back[t, state])  # int8: a large state minus it would overflow
    return [(first, last) for first, last in spans]
