"""Export a model directory as one `.onnx` file for ONNX Runtime, and run such a file.

The graph takes raw 16 kHz samples and their lengths. It contains the front end, the normalisation of the waveform and
the masks, so that callers cannot omit them. The traced encoder is the accelerated one (`upstream.model.fast`), with
its positional convolution in the frequency domain and weight norm folded.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import HubertModel

from corpora.audio import SAMPLE_RATE
from corpora.files import atomic_file
from upstream.errors import UpstreamError
from upstream.model.encoder import (
    encode,
    frames_together,
    front_end_of,
    normalises_waveform,
    run_layers,
    squeeze_of,
)
from upstream.model.family import RECEPTIVE_FIELD
from upstream.model.fast import accelerate, sharing_copy
from upstream.model.modeldir import load_model, model_sha256
from upstream.model.rate import check_frames, frames_of

OPSET = 17
# One protobuf file holds less than 2 GiB, and an export must stay one file.
LARGEST_BYTES = 2_000_000_000
# The largest allowed difference between an export and PyTorch, relative to the largest value of the states.
TOLERANCE = 1e-3
# Of the weights of matrix products.
Precision = Literal["fp32", "int8", "int4"]
# Cosine of quantised and fp32 states, mean over frames: below this value the model is broken, and no file is written.
LEAST_COSINE = 0.95
# Values of the smallest fp32 weight that a quantised file stores in 16 bits; norms and biases stay exact.
SMALLEST_HALF = 4096
BLOCK = 32  # weights of 4 bits that share a scale
# Modules whose products stay in fp32: energies and spectra span too many orders of magnitude for eight bits.
SPECTRAL = ("/feature_extractor/", "/pos_conv_embed/")


@dataclass(frozen=True)
class Parity:
    """Difference between an export and its model on a test signal: the largest one, and the mean cosine over frames."""

    max_difference: float
    cosine: float


class _Graph(nn.Module):
    """The traced function: (B, N) samples and (B,) lengths -> top state, frames, and optionally all states stacked."""

    def __init__(self, model: HubertModel, all_states: bool) -> None:
        super().__init__()
        self.model, self.all_states = model, all_states
        self.normalises = normalises_waveform(model)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        if self.normalises:
            waveform = _normalise(waveform, lengths)
        states, _ = run_layers(self.model, waveform, lengths)
        if lengths is None:
            lengths = torch.full_like(waveform[:, 0], 1, dtype=torch.int64) * waveform.shape[1]
        frames = self.model._get_feat_extract_output_lengths(lengths).clamp(min=0)
        return (states[-1], frames, *([torch.stack(states)] if self.all_states else []))


def _valid(waveform: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(waveform.shape[1], device=waveform.device) < lengths[:, None]


def _normalise(waveform: Tensor, lengths: Tensor | None) -> Tensor:
    """`encoder.normalise_waveform` for a padded batch; the padding becomes 0."""
    if lengths is None:
        centred = waveform - waveform.mean(1, keepdim=True)
        return centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-7)
    valid, count = _valid(waveform, lengths), lengths[:, None].clamp(min=1)
    zero = torch.zeros(())
    mean = torch.where(valid, waveform, zero).sum(1, keepdim=True) / count
    centred = torch.where(valid, waveform - mean, zero)
    return centred / torch.sqrt(centred.square().sum(1, keepdim=True) / count + 1e-7)


def export_onnx(
    model_dir: Path | str,
    out: Path | str,
    *,
    precision: Precision = "fp32",
    all_states: bool = False,
    lengths: bool = True,
) -> Parity:
    """Write a model directory as one ONNX file: `export_model`, with the SHA-256 of its weights in the file's facts.

    Raises UpstreamError.
    """
    model_dir = Path(model_dir)
    model = load_model(model_dir)
    try:
        return export_model(
            model, out, facts={"source_sha256": model_sha256(model_dir)},
            precision=precision, all_states=all_states, lengths=lengths,
        )  # fmt: skip
    except UpstreamError as error:
        raise UpstreamError(f"{model_dir}: {error}") from error


def export_model(
    model: HubertModel,
    out: Path | str,
    *,
    facts: Mapping[str, str] | None = None,
    precision: Precision = "fp32",
    all_states: bool = False,
    lengths: bool = True,
    accelerated: bool = True,
    tolerance: float = TOLERANCE,
    largest_bytes: int = LARGEST_BYTES,
) -> Parity:
    """Write an encoder as one ONNX file, whole or not at all, after comparing its states with those of PyTorch.

    Inputs: `waveform` (B, N) float32 at 16 kHz, N at least 400, and `lengths` (B,) int64, the valid samples of each
    item (absent with `lengths=False`: then every item fills its row). Outputs: `last_hidden_state` (B, T, D),
    `frames` (B,), and with `all_states` also `hidden_states` (L+1, B, T, D). `int8` and `int4` quantise the weights
    of matrix products, never convolutions, the log-mel front end or the positional convolution. `accelerated=False`
    traces the modules of Transformers, for comparison. An fp32 export that differs by more than `tolerance`, relative
    to the largest value of the states, is not written. The model is not changed. Raises UpstreamError.
    """
    out = Path(out)
    check_target(model, out, largest_bytes)
    model = sharing_copy(model)
    inference = fold_weight_norm(accelerate(model) if accelerated else sharing_copy(model))
    with TemporaryDirectory() as scratch, atomic_file(out) as temporary:
        traced = Path(scratch) / "traced.onnx"
        _trace(_Graph(inference, all_states), traced, lengths)
        use = {
            "padded_batches": "yes" if lengths else "no",
            "windows": str(frames_together(model)),
        }
        store(traced, temporary, model, {**(facts or {}), **use}, precision)
        parity = _compare(model, OnnxEncoder(temporary))
        check_parity(parity, out, tolerance, precision)
    return parity


def check_target(model: HubertModel, out: Path, largest_bytes: int = LARGEST_BYTES) -> None:
    """Raise UpstreamError unless a model can be written as this file."""
    if out.suffix != ".onnx":
        raise UpstreamError(f"cannot be written as {out}: the name of an ONNX file must end in .onnx")
    check_frames("the encoder", frames_of(model.config))
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > largest_bytes:
        raise UpstreamError(f"{size / 1e9:.1f} GB of weights do not fit one ONNX file ({largest_bytes / 1e9:g} GB)")


def store(traced: Path, target: Path, model: HubertModel, facts: Mapping[str, str], precision: Precision) -> None:
    """Write a traced graph with its facts, quantised as `precision` says."""
    import onnx

    if precision == "fp32":
        graph = onnx.load(traced)
    else:
        (quantise if precision == "int8" else quantise_blocks)(traced, target)
        graph = onnx.load(target)
        store_half(graph)
    properties = {
        **facts,
        "sampling_rate": str(SAMPLE_RATE),
        "front_end": front_end_of(model),
        "squeeze": str(squeeze_of(model)),
        "precision": precision,
        "layers": str(model.config.num_hidden_layers),
        "width": str(model.config.hidden_size),
        "parameters": str(sum(p.numel() for p in model.parameters())),
    }
    onnx.helper.set_model_props(graph, properties)
    onnx.save(graph, target)


def check_parity(parity: Parity, out: Path, tolerance: float = TOLERANCE, precision: Precision = "fp32") -> None:
    """Raise UpstreamError for an export that differs too much from its model."""
    wrong = parity.max_difference > tolerance if precision == "fp32" else parity.cosine < LEAST_COSINE
    if wrong or not np.isfinite(parity.max_difference):
        raise UpstreamError(
            f"the exported graph differs from the model (largest relative difference "
            f"{parity.max_difference:.2g}, mean cosine {parity.cosine:.4f}); {out} was not written"
        )


def fold_weight_norm(model: HubertModel) -> HubertModel:
    """Replace convolutions with weight norm by plain ones whose weight is gain times direction, in place."""
    for parent in list(model.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, nn.Conv1d) and nn.utils.parametrize.is_parametrized(conv, "weight"):
                # Not `remove_parametrizations`: it removes `weight` from a class that copies of the model share.
                plain = nn.Conv1d(
                    conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
                    conv.groups, bias=conv.bias is not None, device=conv.weight.device,
                )  # fmt: skip
                plain.weight, plain.bias = nn.Parameter(conv.weight.detach()), conv.bias
                setattr(parent, name, plain)
    return model


def _trace(graph: _Graph, path: Path, lengths: bool) -> None:
    names = ["last_hidden_state", "frames"] + (["hidden_states"] if graph.all_states else [])
    axes = {
        "waveform": {0: "batch", 1: "samples"},
        "lengths": {0: "batch"},
        "last_hidden_state": {0: "batch", 1: "frames"},
        "frames": {0: "batch"},
        "hidden_states": {1: "batch", 2: "frames"},
    }
    inputs = (check_signal(16000, 2), torch.tensor([16000, 9000]))
    inputs, input_names = (inputs, ["waveform", "lengths"]) if lengths else (inputs[:1], ["waveform"])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns that it drops the check of the minimum length
        torch.onnx.export(
            graph.eval(),
            inputs,
            str(path),
            input_names=input_names,
            output_names=names,
            dynamic_axes={name: axes[name] for name in [*input_names, *names]},
            opset_version=OPSET,
            dynamo=False,
        )


def quantise(source: Path, target: Path) -> None:
    """Dynamic int8 for products with a constant weight, except in the `SPECTRAL` modules."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    graph = onnx.load(source).graph
    spectral = [node.name for node in graph.node if any(part in node.name for part in SPECTRAL)]
    inferred = source.with_name("inferred.onnx")
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it logs a line for every tensor
    try:
        quant_pre_process(source, inferred, skip_optimization=True, skip_symbolic_shape=True)
        quantize_dynamic(
            inferred,
            target,
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Seven bits: with eight, processors without VNNI overflow without an error.
            reduce_range=True,
            nodes_to_exclude=spectral,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    finally:
        logging.disable(level)


def quantise_blocks(source: Path, target: Path) -> None:
    """4-bit weights in blocks with a scale each (`MatMulNBits`), for the products that `quantise` takes."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source)
    spectral = [node.name for node in model.graph.node if any(part in node.name for part in SPECTRAL)]
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        # Accuracy level 4: the activations get 8 bits, as in `quantise`.
        own = MatMulNBitsQuantizer(
            model, bits=4, block_size=BLOCK, is_symmetric=True, accuracy_level=4, nodes_to_exclude=spectral
        )
        own.process()
        own.model.save_model_to_file(str(target))
    finally:
        logging.disable(level)


def store_half(model: Any) -> None:
    """Store the large fp32 weights of a graph (convolutions) in 16 bits, in place; a cast restores them at loading."""
    import onnx

    # The tracer writes what it computed from weights (the spectra of the positional convolution) as nodes.
    for node in [n for n in model.graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]:
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        model.graph.node.remove(node)
    for tensor in list(model.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST_HALF:
            continue
        half = onnx.numpy_helper.from_array(
            onnx.numpy_helper.to_array(tensor).astype(np.float16), f"{tensor.name}_half"
        )
        cast = onnx.helper.make_node("Cast", [half.name], [tensor.name], f"{tensor.name}_cast", to=tensor.data_type)
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(half)
        model.graph.node.insert(0, cast)


def check_signal(samples: int, rows: int) -> Tensor:
    """A rising tone with soft noise, (rows, samples); the tones of the rows differ in pitch."""
    time = torch.arange(samples) / SAMPLE_RATE
    noise = torch.randn(rows, samples, generator=torch.Generator().manual_seed(0))
    pitch = 100.0 * (1 + torch.arange(rows))[:, None]
    return 0.1 * torch.sin(2 * torch.pi * (pitch + 700 * time) * time) + 0.01 * noise


@torch.no_grad()
def _compare(model: HubertModel, exported: OnnxEncoder) -> Parity:
    differences, cosines = [0.0], []
    for lengths in ((9137,), (24000,), (32000, 20100)):
        wavs = [row[:n] for row, n in zip(check_signal(max(lengths), len(lengths)), lengths, strict=True)]
        expected = encode(model, wavs)
        encoded = exported([wav.numpy() for wav in wavs])
        if encoded.frames.tolist() != expected.frames.tolist():
            counts = f"{encoded.frames.tolist()} frames where the model has {expected.frames.tolist()}"
            raise UpstreamError(f"the exported graph gives {counts}")
        for i, count in enumerate(encoded.frames):
            theirs = encoded.last_hidden_state[i, :count]
            ours = expected.hidden_states[-1][i, :count]
            found = torch.from_numpy(theirs.copy())
            differences.append(float((found - ours).abs().max() / ours.abs().max()))
            cosines.append(nn.functional.cosine_similarity(found, ours, dim=-1))
    return Parity(max(differences), float(torch.cat(cosines).mean()))


@dataclass(frozen=True)
class OnnxEncoded:
    """Top state (B, T, D), valid frames (B,), and if the graph has them all states (L+1, B, T, D), as NumPy arrays."""

    last_hidden_state: np.ndarray
    frames: np.ndarray
    hidden_states: np.ndarray | None


class OnnxEncoder:
    """An exported model in ONNX Runtime: unpadded 1-D 16 kHz waveforms in, hidden states out, without PyTorch.

    `threads`: for one operator (0: one for each core). `facts`: front end, precision, sizes, and SHA-256 of the source.
    """

    def __init__(
        self, path: Path | str, *, threads: int = 0, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        import onnxruntime

        if not Path(path).is_file():
            raise UpstreamError(f"{path}: no such file; `python -m upstream export MODEL_DIR --format onnx` makes one")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # its exceptions have no common base class
            raise UpstreamError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        self.facts: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        if self.facts.get("streaming") == "yes":
            raise UpstreamError(
                f"{path}: an export with states, which takes a clip in chunks: open it with "
                "upstream.model.onnxstream.OnnxStream, or export the model without --streaming"
            )
        self._inputs = [i.name for i in self.session.get_inputs()]
        self._outputs = [o.name for o in self.session.get_outputs()]
        if "waveform" not in self._inputs or "last_hidden_state" not in self._outputs:
            raise UpstreamError(f"{path}: not an export of this toolkit (inputs {', '.join(self._inputs)})")

    def __call__(self, wavs: Sequence[np.ndarray]) -> OnnxEncoded:
        """Hidden states of waveforms of any lengths; below 400 samples an item has 0 valid frames."""
        if not len(wavs):
            raise UpstreamError("the encoder got an empty list of waveforms; it needs at least one")
        lengths = [len(wav) for wav in wavs]
        if len(set(lengths)) > 1 and self.facts.get("padded_batches") == "no":
            return _joined([self([wav]) for wav in wavs])
        padded = np.zeros((len(wavs), max(*lengths, RECEPTIVE_FIELD)), np.float32)
        for row, wav in zip(padded, wavs, strict=True):
            if wav.ndim != 1:
                raise ValueError(f"a waveform has shape {wav.shape}; expected one dimension (samples)")
            row[: len(wav)] = wav
        feed: dict[str, Any] = {"waveform": padded}
        if "lengths" in self._inputs:
            feed["lengths"] = np.asarray(lengths, np.int64)
        found = dict(zip(self._outputs, self.session.run(None, feed), strict=True))
        frames = np.where(np.asarray(lengths) < RECEPTIVE_FIELD, 0, found["frames"])
        return OnnxEncoded(found["last_hidden_state"], frames, found.get("hidden_states"))


def _joined(items: Sequence[OnnxEncoded]) -> OnnxEncoded:
    longest = max(item.last_hidden_state.shape[1] for item in items)

    def pad(state: np.ndarray) -> np.ndarray:
        missing = [(0, 0)] * state.ndim
        missing[-2] = (0, longest - state.shape[-2])
        return np.pad(state, missing)

    states = [item.hidden_states for item in items]
    return OnnxEncoded(
        np.concatenate([pad(item.last_hidden_state) for item in items]),
        np.concatenate([item.frames for item in items]),
        None if states[0] is None else np.concatenate([pad(s) for s in states if s is not None], axis=1),
    )
