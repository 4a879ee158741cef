"""Export a streaming model as one `.onnx` file with explicit states in and out, and run such a file.

One call computes one chunk. Inputs: `waveform` (B, N), the samples of the chunk and the 240 samples after it, and the
state, tensors of fixed sizes that are zero before a clip. Outputs: `last_hidden_state` (B, T, D), and the next state as
`next_<name>` for each tensor of it. The chunk is a choice of the caller: N = 320 * frames + 240 for 8 to 64 frames, and
what is left for the last chunk.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import HubertModel

from corpora.files import atomic_file
from upstream.errors import UpstreamError
from upstream.model.encoder import left_context_of
from upstream.model.family import FRAME_MS, HOP, chunk_frames
from upstream.model.modeldir import load_model, model_sha256
from upstream.model.onnx import OPSET, TOLERANCE, Parity, Precision, check_parity, check_signal, check_target, store
from upstream.model.streaming import OVERLAP, Chunks, Stream, StreamStep, check_streams

NEXT = "next_"


class _Graph(nn.Module):
    """The traced function: samples and the tensors of the state -> top states and the tensors of the next state."""

    def __init__(self, step: StreamStep, names: Sequence[str]) -> None:
        super().__init__()
        self.step, self.names = step, list(names)

    def forward(self, waveform: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        top, following = self.step(waveform, dict(zip(self.names, state, strict=True)))
        return (top, *following.values())


def export_stream(model_dir: Path | str, out: Path | str, *, precision: Precision = "fp32") -> Parity:
    """Write a model directory as one ONNX file with states: `export_stream_model`, with the SHA-256 of its weights in
    the file's facts. Raises UpstreamError."""
    model_dir = Path(model_dir)
    model = load_model(model_dir)
    check_streams(model, str(model_dir))
    try:
        return export_stream_model(model, out, facts={"source_sha256": model_sha256(model_dir)}, precision=precision)
    except UpstreamError as error:
        raise UpstreamError(f"{model_dir}: {error}") from error


def export_stream_model(
    model: HubertModel,
    out: Path | str,
    *,
    facts: Mapping[str, str] | None = None,
    precision: Precision = "fp32",
    tolerance: float = TOLERANCE,
) -> Parity:
    """Write a streaming encoder as one ONNX file, whole or not at all, after comparing frames and states with those of
    `Stream`, chunk by chunk. `precision` and `tolerance` as in `export_model`. Raises UpstreamError."""
    out = Path(out)
    check_streams(model)
    check_target(model, out)
    step = StreamStep(model)
    with TemporaryDirectory() as scratch, atomic_file(out) as temporary:
        traced = Path(scratch) / "traced.onnx"
        _trace(step, traced)
        use = {
            "streaming": "yes",
            "chunk": str(model.config.chunk),
            "left_context": str(left_context_of(model)),
            "overlap": str(OVERLAP),
        }
        store(traced, temporary, model, {**(facts or {}), **use}, precision)
        parity = _compare(model, temporary)
        check_parity(parity, out, tolerance, precision)
    return parity


def _trace(step: StreamStep, path: Path) -> None:
    state = step.start()
    inputs, outputs = ["waveform", *state], ["last_hidden_state", *(f"{NEXT}{name}" for name in state)]
    axes: dict[str, dict[int, str]] = {name: {0: "batch"} for name in [*inputs, *outputs]}
    axes["waveform"][1], axes["last_hidden_state"][1] = "samples", "frames"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns that it drops the check of the minimum length
        torch.onnx.export(
            _Graph(step, list(state)).eval(),
            (check_signal(16 * HOP + OVERLAP, 1), *state.values()),
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


@torch.no_grad()
def _compare(model: HubertModel, path: Path) -> Parity:
    """The largest difference of frames and states over clips in several chunks, the last one shorter."""
    differences, cosines = [0.0], []
    for chunk, samples in ((16, 34567), (8, 20100), (64, 12345)):
        theirs, ours = OnnxStream(path, chunk * FRAME_MS), Stream(model, chunk * FRAME_MS)
        for piece in [*check_signal(samples, 1)[0].split(5000), None]:
            if piece is None:
                found, expected = theirs.finish(), ours.finish()
            else:
                found, expected = theirs.push(piece.numpy()), ours.push(piece)
                pairs = [(theirs.state[name], value) for name, value in ours.state.items()]
                differences += [_difference(mine, value) for mine, value in pairs]
            if found.shape != tuple(expected.shape):
                raise UpstreamError(f"the exported graph gives {len(found)} frames where the model has {len(expected)}")
            if len(expected):
                differences.append(_difference(found, expected))
                cosines.append(nn.functional.cosine_similarity(torch.from_numpy(found), expected, dim=-1))
    return Parity(max(differences), float(torch.cat(cosines).mean()))


def _difference(found: np.ndarray, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    expected = expected.double().cpu()
    return float((torch.from_numpy(found.astype(np.float64)) - expected).abs().max() / expected.abs().max().clamp(1e-9))


class OnnxStream:
    """An exported streaming model in ONNX Runtime; `push` and `finish` as `upstream.streaming.Stream` has them.

    `chunk_ms` as there. `threads`: for one operator (0: one for each core). `facts`: left context, precision, sizes,
    and SHA-256 of the source. `state` holds the tensors that the next chunk gets.
    """

    def __init__(self, path: Path | str, chunk_ms: float | None = None, *, threads: int = 0) -> None:
        import onnxruntime

        if not Path(path).is_file():
            raise UpstreamError(f"{path}: no such file; `python -m upstream export MODEL_DIR --streaming` makes one")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base class
            raise UpstreamError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        self.facts: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        inputs = {own.name: own for own in self.session.get_inputs() if own.name != "waveform"}
        self._outputs = [own.name for own in self.session.get_outputs()]
        if missing := [name for name in inputs if f"{NEXT}{name}" not in self._outputs]:
            raise UpstreamError(
                f"{path}: the export lacks states: no output for its input `{missing[0]}`; export the model with "
                "--streaming"
            )
        if not inputs or self.facts.get("streaming") != "yes":
            raise UpstreamError(f"{path}: the export lacks states; export a streaming model with --streaming")
        squeeze = int(self.facts["squeeze"])
        self.chunk = chunk_frames(int(self.facts["chunk"]) * FRAME_MS if chunk_ms is None else chunk_ms, squeeze)
        self._start = {
            name: np.zeros([1, *own.shape[1:]], np.int64 if "int64" in own.type else np.float32)
            for name, own in inputs.items()
        }
        self._chunks = Chunks(self.chunk)
        self._begin()

    def _begin(self) -> None:
        self.state, self.frames = dict(self._start), 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """(N,) samples at 16 kHz in [-1, 1], any number -> (T, D), the frames of the chunks that they complete."""
        return self._run(self._chunks.cut(samples))

    def finish(self) -> np.ndarray:
        """(T, D): the frames of the last chunk. The next samples begin a new clip."""
        last = self._chunks.rest()
        frames = self._run(() if last is None else (last,))
        self._begin()
        return frames

    def _run(self, windows: Iterable[np.ndarray]) -> np.ndarray:
        found: list[np.ndarray] = []
        for window in windows:
            feed: dict[str, Any] = {"waveform": window[None], **self.state}
            outputs = dict(zip(self._outputs, self.session.run(None, feed), strict=True))
            found.append(outputs["last_hidden_state"][0])
            self.state = {name: outputs[f"{NEXT}{name}"] for name in self.state}
            self.frames += len(found[-1])
        return np.concatenate(found) if found else np.zeros((0, int(self.facts["width"])), np.float32)
