"""Transcribe audio while it arrives: 16-bit PCM from a pipe, greedy CTC decoding, partial and final lines."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from corpora.audio import SAMPLE_RATE
from downstream import DownstreamError
from downstream.asr.reading import encoder_of
from downstream.asr.recogniser import BLANK, check_weights, linear_layer, read_description
from upstream.errors import UpstreamError
from upstream.model.encoder import squeeze_of
from upstream.model.family import FRAME_RATE
from upstream.model.modeldir import load_model, model_sha256
from upstream.model.onnxstream import OnnxStream
from upstream.model.streaming import Stream, check_streams

STREAM_FILE = "stream.onnx"  # in a model directory: `python -m upstream export DIR --streaming [--int8]`
PAUSE = 0.8  # seconds without a letter that end a line
LONGEST = 30.0  # seconds; a longer line ends at its next space, and at twice this length anywhere
WANTED = "16-bit PCM at 16 kHz with one channel, such as `arecord -q -f S16_LE -r 16000 -c 1`"
_BLOCK = 1 << 16  # bytes that are read at once, if so many are there
_PCM, _EXTENSIBLE = 1, 0xFFFE  # format codes of WAV
_LARGEST_CHUNK = 1 << 20  # bytes of a WAV chunk before the samples
_ENDLESS = 0x7FFFF000  # bytes; programs that write to a pipe state such sizes, because they do not know them yet


@dataclass(frozen=True)
class Line:
    """A piece of text with its start and end in seconds since the first sample. A partial line grows and may change its
    end; a final one is complete, and the next line begins."""

    final: bool
    text: str
    start: float
    end: float


class Lines:
    """Greedy CTC decoding of frames that arrive in parts, into lines of text; holds one line.

    A line ends after `pause` seconds without a letter, or at a space after `longest` seconds. But for spaces between
    lines, the final lines together are `best_path` of all frames. `rate`: frames a second.
    """

    def __init__(
        self, characters: Sequence[str], *, pause: float = PAUSE, longest: float = LONGEST, rate: float = FRAME_RATE
    ) -> None:
        self.characters, self.rate = list(characters), rate
        self.pause, self.longest = round(pause * rate), round(longest * rate)
        self._time, self._last = 0, BLANK  # frames so far, and the class of the last one
        self._begin()

    def _begin(self) -> None:
        self._letters: list[str] = []
        self._start = self._end = 0
        self._shown = ""

    def add(self, classes: Iterable[int]) -> list[Line]:
        """The lines that these frames complete, then the current one if its text has changed."""
        done = []
        for value in classes:
            character = self.characters[value]
            if value != BLANK and (character != " " or self._letters):
                if not self._letters:
                    self._start = self._time
                if value != self._last:
                    self._letters.append(character)
                if character != " ":
                    self._end = self._time + 1
            self._last, self._time = value, self._time + 1
            if self._letters and self._is_complete(character):
                done.append(self._line(True))
                self._begin()
        if (text := self._text()) != self._shown:
            self._shown = text
            done.append(self._line(False))
        return done

    def finish(self) -> list[Line]:
        """The last line, if there is one."""
        done = [self._line(True)] if self._letters else []
        self._begin()
        return done

    def _is_complete(self, character: str) -> bool:
        length = self._time - self._start
        long = length >= self.longest and (character == " " or length >= 2 * self.longest)
        return long or self._time - self._end >= self.pause

    def _text(self) -> str:
        return " ".join("".join(self._letters).split())

    def _line(self, final: bool) -> Line:
        return Line(final, self._text(), round(self._start / self.rate, 2), round(self._end / self.rate, 2))


class LiveReader:
    """A streaming recogniser with its encoder. Without `model` it searches the encoder near the head directory.

    It runs STREAM_FILE of the model directory in ONNX Runtime if both exist, else model.safetensors; `engine` as in
    `Reader`. `chunk_ms` as in `Stream`. Raises DownstreamError for a missing encoder, for one whose weights are not
    those that the head was trained on, for one that cannot stream, and for a chunk that does not fit.
    """

    def __init__(
        self, head: Path, model: Path | None = None, *, chunk_ms: float | None = None, engine: str = "auto"
    ) -> None:
        head = Path(head)
        description = read_description(head)
        self.model_dir = encoder_of(head, description, model)
        exported = self.model_dir / STREAM_FILE
        if engine == "auto":
            engine = "onnx" if exported.is_file() and find_spec("onnxruntime") is not None else "torch"
        self.engine = engine
        try:
            if engine == "onnx":
                self.stream: Stream | OnnxStream = OnnxStream(exported, chunk_ms)
                key, facts = self.stream.facts.get("source_sha256"), self.stream.facts
                width, squeeze = int(facts["width"]), int(facts["squeeze"])
            else:
                encoder = load_model(self.model_dir)
                check_streams(encoder, str(self.model_dir))
                self.stream, key = Stream(encoder, chunk_ms), model_sha256(self.model_dir)
                width, squeeze = encoder.config.hidden_size, squeeze_of(encoder)
        except UpstreamError as error:
            raise DownstreamError(str(error)) from error
        check_weights(head, key, exported if engine == "onnx" else self.model_dir, "--upstream")
        self.characters: list[str] = description["characters"]
        self.stride = int(description.get("stride", 1))
        self.weight, self.bias = linear_layer(head, width, squeeze)

    def read(self, blocks: Iterable[np.ndarray]) -> Iterator[Line]:
        """Partial and final lines of 16 kHz samples in blocks (N,) of any sizes, as soon as they are known.

        Raises DownstreamError if there is no sample at all.
        """
        lines, samples = Lines(self.characters, rate=FRAME_RATE / self.stride), 0
        for block in blocks:
            samples += len(block)
            yield from lines.add(self._classes(self.stream.push(block)))
        if not samples:
            raise DownstreamError(f"standard input ended without audio; expected {WANTED}")
        yield from lines.add(self._classes(self.stream.finish()))
        yield from lines.finish()

    def _classes(self, frames: Tensor | np.ndarray) -> list[int]:
        return (np.asarray(frames)[:: self.stride] @ self.weight.T + self.bias).argmax(-1).tolist()


def standard_input() -> BinaryIO:
    """Standard input as bytes. Raises DownstreamError where it is closed or a terminal."""
    if sys.stdin is None or sys.stdin.closed:
        raise DownstreamError(f"standard input is closed; pipe {WANTED} into it")
    if sys.stdin.isatty():
        raise DownstreamError(f"standard input is a terminal; pipe {WANTED} into it")
    return sys.stdin.buffer


def pcm_blocks(file: BinaryIO) -> Iterator[np.ndarray]:
    """Samples (N,) in [-1, 1] of little-endian 16-bit PCM, as soon as they arrive; Ctrl-C ends them.

    A WAV header is checked and left out. Raises DownstreamError for WAV of another kind.
    """
    try:
        rest = file.read(4)
        left = None
        if rest == b"RIFF":
            rest, left = b"", _wav_header(file)
        while left is None or left > 0:
            piece = file.read1(_BLOCK if left is None else min(left, _BLOCK))
            if not piece:
                break
            left = None if left is None else left - len(piece)
            data = rest + piece
            whole = len(data) // 2 * 2
            rest = data[whole:]
            yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768
    except KeyboardInterrupt:  # the usual end of a recording: the last line is still wanted
        return


def _wav_header(file: BinaryIO) -> int | None:
    """Read a WAV header behind its first four bytes; the bytes of its samples, or None if it does not know them."""
    if file.read(8)[4:] != b"WAVE":
        raise DownstreamError(f"standard input begins as RIFF but is no WAV; expected {WANTED}")
    found = None
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise DownstreamError(f"the WAV header on standard input is incomplete; expected {WANTED}")
        kind, size = struct.unpack("<4sI", head)
        if kind == b"data":
            break
        if size > _LARGEST_CHUNK:
            raise DownstreamError(f"the WAV header on standard input is damaged; expected {WANTED}")
        body = file.read(size + size % 2)
        if kind == b"fmt " and len(body) >= 16:
            code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
            found = (code in (_PCM, _EXTENSIBLE), channels, rate, bits)
    if found != (True, 1, SAMPLE_RATE, 16):
        stated = "without a format" if found is None else f"of {found[2]} Hz, {found[1]} channels, {found[3]} bits"
        raise DownstreamError(f"standard input is WAV {stated}; expected {WANTED}")
    return None if size == 0 or size >= _ENDLESS else size
