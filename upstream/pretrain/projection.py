"""Initialise a thinner student by low-rank projection of its teacher's residual stream, layer by layer.

Each pre-norm layer reads the stream x (D_t) through a layer norm and adds to it. With the norm's gain and bias folded
into the next matrices, the layer reads the standardised stream s(x) = sqrt(D_t) C x / |C x|, C = I - 11'/D_t, which
keeps its form under any rotation of the complement of the constant vector (SliceGPT, 2401.15024, for RMS norm).
The student's stream is y = P' x with P = U B': U (D_t, D_s-1) are the leading directions of s(x), orthogonal to 1, and
B (D_s, D_s-1) is a fixed basis of the complement of the student's own constant vector, so that y has mean zero and the
student's own layer norm standardises it.

If D_s = D_t and no layer, head or FFN unit is cut, the student equals the teacher: same attention and FFN activations,
and every hidden state up to the linear map P. The final state lacks the teacher's final gain, which an elementwise norm
cannot express in another basis (the prediction head learns it). The positional convolution is not equal, because its
GELU acts in the teacher's basis; its output in the new basis is fitted by regression on audio.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle
from transformers import HubertModel

from upstream.errors import UpstreamError
from upstream.model.encoder import collate, run_layers, squeeze_of
from upstream.model.family import FRAME_RATE

log = logging.getLogger(__name__)

RIDGE = 1e-4  # of the mean diagonal, in every least-squares fit
POSITIONAL_SECONDS = 120.0  # of audio kept for the fit of the positional convolution
POSITIONAL_STEPS = 400
POSITIONAL_CLIPS = 8  # in one step of that fit


@dataclass
class Moments:
    """Second moments of a teacher's activations, all (n, n) float64 and divided by the frames seen.

    `stream[name]`: of the standardised input of a layer norm. `inner[name]`: of the input of an output projection, with
    a constant 1 as its last entry. `clips`: (input, output) of the positional convolution, (T, D_t) each.
    """

    stream: dict[str, Tensor] = field(default_factory=dict)
    inner: dict[str, Tensor] = field(default_factory=dict)
    clips: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def _norms(model: HubertModel, layers: Sequence[int]) -> dict[str, nn.LayerNorm]:
    found = {"top": model.encoder.layer_norm}
    for index in layers:
        layer = model.encoder.layers[index]
        found |= {f"{index}.attention": layer.layer_norm, f"{index}.ffn": layer.final_layer_norm}
    return found


def _outputs(model: HubertModel, layers: Sequence[int]) -> dict[str, nn.Linear]:
    found = {}
    for index in layers:
        layer = model.encoder.layers[index]
        found |= {f"{index}.attention": layer.attention.out_proj, f"{index}.ffn": layer.feed_forward.output_dense}
    return found


def _standardise(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


@torch.no_grad()
def measure(model: HubertModel, layers: Sequence[int], batches: Iterator[list[Tensor]]) -> Moments:
    """Run batches of waveforms through the teacher and collect moments of its activations on valid frames."""
    sums = Moments()
    seen: Counter[str] = Counter()
    kept_frames, longest, counts = 0, 0, None
    squeeze = squeeze_of(model)

    def valid_of(x: Tensor) -> Tensor | None:
        """Mask (B, T) of valid frames; in a squeezed model the layers have fewer frames than the final norm."""
        if counts is None:
            return None
        step = 1 if x.shape[1] == longest else squeeze
        return torch.arange(x.shape[1], device=x.device) < -(-counts // step)[:, None]

    def add(into: dict[str, Tensor], name: str, x: Tensor) -> None:
        valid = valid_of(x)
        x = x[valid] if valid is not None else x.flatten(0, 1)
        into[name] = into.get(name, 0) + (x.double().T @ x.double()).cpu()
        seen[name] += len(x) if into is sums.stream else 0

    def stream_hook(name: str) -> Callable:
        return lambda _, inputs: add(sums.stream, name, _standardise(inputs[0]))

    def inner_hook(name: str) -> Callable:
        return lambda _, inputs: add(sums.inner, name, F.pad(inputs[0], (0, 1), value=1.0))

    def positional_hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal kept_frames
        valid = valid_of(output)
        for row in range(len(output)):
            length = output.shape[1] if valid is None else int(valid[row].sum())
            if kept_frames < POSITIONAL_SECONDS * FRAME_RATE:
                sums.clips.append((inputs[0][row, :length].cpu(), output[row, :length].cpu()))
                kept_frames += length

    with _hooks() as handles:
        for name, norm in _norms(model, layers).items():
            handles.append(norm.register_forward_pre_hook(stream_hook(name)))
        for name, linear in _outputs(model, layers).items():
            handles.append(linear.register_forward_pre_hook(inner_hook(name)))
        handles.append(model.encoder.pos_conv_embed.register_forward_hook(positional_hook))
        for wavs in batches:
            padded, lengths = collate(model, wavs)
            longest = int(model._get_feat_extract_output_lengths(torch.tensor(padded.shape[1])))
            counts = None if lengths is None else model._get_feat_extract_output_lengths(lengths)
            run_layers(model, padded, lengths)
    if not seen.total():
        raise UpstreamError("no audio to measure the teacher's activations on")
    for moments in (sums.stream, sums.inner):
        for name in moments:
            moments[name] = moments[name] / seen[name]
    return sums


@contextmanager
def _hooks() -> Iterator[list[RemovableHandle]]:
    handles: list[RemovableHandle] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def from_weights(model: HubertModel, layers: Sequence[int]) -> Moments:
    """Moments without audio: the stream covers the directions of the written weights, inner activations are white."""
    written = model.feature_projection.projection.weight.double()
    total = written @ written.T
    for linear in _outputs(model, range(len(model.encoder.layers))).values():
        total = total + linear.weight.double() @ linear.weight.double().T
    width = len(total)
    centre = torch.eye(width, dtype=torch.float64) - 1 / width
    total = centre @ total @ centre
    total = total * (width / total.trace())
    inner = {
        name: torch.eye(linear.in_features + 1, dtype=torch.float64) for name, linear in _outputs(model, layers).items()
    }
    return Moments({name: total for name in _norms(model, layers)}, inner)


def complement_of_ones(width: int) -> Tensor:
    """An orthonormal basis of the vectors whose entries sum to 0: (width, width - 1) float64 (Helmert's)."""
    basis = torch.zeros(width, width - 1, dtype=torch.float64)
    for j in range(1, width):
        basis[:j, j - 1] = 1.0
        basis[j, j - 1] = -j
        basis[:, j - 1] /= (j * (j + 1)) ** 0.5
    return basis


@dataclass(frozen=True)
class Basis:
    """`matrix` (D_t, D_s): P = U B'. `kept`: share of the standardised stream's energy kept at each norm."""

    matrix: Tensor
    kept: dict[str, float]

    @classmethod
    def of(cls, statistics: Moments, width: int) -> Basis:
        """Leading directions of the moments, all norms with equal weight. Raises UpstreamError for a wider student."""
        total = sum(statistics.stream.values()) / len(statistics.stream)
        teacher = len(total)
        if width > teacher:
            raise UpstreamError(f"a student of width {width} cannot be a projection of a teacher of width {teacher}")
        ones = complement_of_ones(teacher)
        values, vectors = torch.linalg.eigh(ones.T @ total @ ones)
        directions = ones @ vectors.flip(1)[:, : width - 1]
        # The sign of an eigenvector is arbitrary; fixed so that equal statistics give equal students.
        largest = directions.abs().argmax(0)
        directions = directions * directions[largest, torch.arange(width - 1)].sign()
        kept = {
            name: float((directions.T @ moment @ directions).trace() / moment.trace())
            for name, moment in statistics.stream.items()
        }
        return cls(directions @ complement_of_ones(width).T, kept)


@torch.no_grad()
def project(
    student: HubertModel,
    teacher: HubertModel,
    layers: Sequence[int],
    statistics: Moments,
    *,
    seed: int = 0,
    fit_steps: int = POSITIONAL_STEPS,
) -> list[str]:
    """Write the projection of the teacher's `layers` into the student in place; returns the names of the set tensors.

    Front ends stay as they are. The feature projection is set if both front ends give frames of one width, the
    positional convolution if `statistics` hold clips. Raises UpstreamError for models without pre-norm layers.
    """
    for role, model in (("teacher", teacher), ("student", student)):
        if not model.config.do_stable_layer_norm:
            raise UpstreamError(
                f"the {role} norms after its layers (as HuBERT-Base does); `project` needs norms before them"
            )
    basis = Basis.of(statistics, student.config.hidden_size)
    p = basis.matrix
    done: list[str] = []

    def put(name: str, value: Tensor) -> None:
        student.get_parameter(name).copy_(value)
        done.append(name)

    def put_linear(name: str, weight: Tensor, bias: Tensor) -> None:
        put(f"{name}.weight", weight)
        put(f"{name}.bias", bias)

    def put_plain_norm(name: str) -> None:
        """Gain 1 and bias 0: the next matrices contain the teacher's gains and biases."""
        put(f"{name}.weight", torch.ones(len(student.get_parameter(f"{name}.weight"))))
        put(f"{name}.bias", torch.zeros(len(student.get_parameter(f"{name}.bias"))))

    there, here = teacher.feature_projection.projection, student.feature_projection.projection
    if there.in_features == here.in_features:
        put_linear("feature_projection.projection", p.T @ there.weight.double(), p.T @ there.bias.double())
    if squeeze_of(teacher) == squeeze_of(student) > 1:
        weight, bias = teacher.upsampler.projection.weight.double(), teacher.upsampler.projection.bias.double()
        blocks = weight.view(squeeze_of(teacher), -1, weight.shape[1])
        put_linear("upsampler.projection", (p.T @ blocks @ p).flatten(0, 1), (bias.view(len(blocks), -1) @ p).flatten())
    put("masked_spec_embed", p.T @ teacher.masked_spec_embed.double())
    if statistics.clips:
        share = _fit_positional(student, statistics.clips, p, seed, fit_steps)
        log.info("init project: the positional convolution explains %.0f %% of the teacher's", 100 * share)
        done += [f"encoder.pos_conv_embed.{name}" for name, _ in student.encoder.pos_conv_embed.named_parameters()]

    ratio = (teacher.config.hidden_size / student.config.hidden_size) ** 0.5
    for index, layer in enumerate(layers):
        source, target, prefix = teacher.encoder.layers[layer], student.encoder.layers[index], f"encoder.layers.{index}"
        # The student's norm brings the projected stream to unit variance, although it has only a share of the energy.
        reading = p * ratio * basis.kept[f"{layer}.attention"] ** 0.5
        attention = _attention(source, target, reading, p, statistics.inner[f"{layer}.attention"])
        for name, (weight, bias) in attention.items():
            put_linear(f"{prefix}.attention.{name}", weight, bias)
        reading = p * ratio * basis.kept[f"{layer}.ffn"] ** 0.5
        (up, up_bias), (down, down_bias) = _feed_forward(
            source, target.feed_forward.intermediate_dense.out_features, reading, p, statistics.inner[f"{layer}.ffn"]
        )
        put_linear(f"{prefix}.feed_forward.intermediate_dense", up, up_bias)
        put_linear(f"{prefix}.feed_forward.output_dense", down, down_bias)
        put_plain_norm(f"{prefix}.layer_norm")
        put_plain_norm(f"{prefix}.final_layer_norm")
    put_plain_norm("encoder.layer_norm")
    kept = list(basis.kept.values())
    log.info("init project: width %d of %d keeps %.1f to %.1f %% of the stream", *reversed(p.shape), *_span(kept))
    return done


def _span(shares: Sequence[float]) -> tuple[float, float]:
    return 100 * min(shares), 100 * max(shares)


def _reader(linear: nn.Linear, norm: nn.LayerNorm, reading: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a matrix after a norm, in the student's basis, with the norm's gain and bias folded in."""
    weight = linear.weight.double()
    return (weight * norm.weight.double()) @ reading, linear.bias.double() + weight @ norm.bias.double()


def _refit(linear: nn.Linear, moment: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (D, n_kept) and bias of an output projection of the inputs `keep` alone: least squares to its output with
    all inputs."""
    full = torch.cat([linear.weight.double(), linear.bias.double()[:, None]], dim=1)
    if len(keep) == linear.in_features:
        return full[:, keep], full[:, -1]
    chosen = torch.cat([keep, torch.tensor([linear.in_features])])
    gram = moment[chosen][:, chosen]
    gram = gram + RIDGE * gram.diagonal().mean() * torch.eye(len(chosen), dtype=gram.dtype)
    fitted = torch.linalg.solve(gram, (full @ moment[:, chosen]).T).T
    return fitted[:, :-1], fitted[:, -1]


def _feed_forward(
    source: nn.Module, size: int, reading: Tensor, p: Tensor, moment: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Keep the FFN units with the largest output, in the teacher's order, and refit the second matrix."""
    up, down = source.feed_forward.intermediate_dense, source.feed_forward.output_dense
    size_there = up.out_features
    if size > size_there:
        raise UpstreamError(f"an FFN of {size} units cannot be a part of the teacher's {size_there}")
    written = moment.diagonal()[:-1] * down.weight.double().square().sum(0)
    keep = written.topk(size).indices.sort().values
    weight, bias = _reader(up, source.final_layer_norm, reading)
    down_weight, down_bias = _refit(down, moment, keep)
    return (weight[keep], bias[keep]), (p.T @ down_weight, p.T @ down_bias)


def _attention(
    source: nn.Module, target: nn.Module, reading: Tensor, p: Tensor, moment: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Keep the heads with the largest output, in the teacher's order.

    For a narrower head of the student, the products of queries with keys and of values with the output are cut by SVD;
    a wider head is filled with zeros.
    """
    there, here = source.attention, target.attention
    heads, size, new_size = here.num_heads, there.head_dim, here.head_dim
    if heads > there.num_heads:
        raise UpstreamError(f"{heads} heads cannot be a part of the teacher's {there.num_heads}")
    written = moment.diagonal()[:-1] * there.out_proj.weight.double().square().sum(0)
    best = written.view(there.num_heads, size).sum(1).topk(heads).indices.sort().values
    keep = (best[:, None] * size + torch.arange(size)).flatten()
    out, out_bias = _refit(there.out_proj, moment, keep)
    out, out_bias = p.T @ out, p.T @ out_bias
    read = {}
    for name in ("q_proj", "k_proj", "v_proj"):
        weight, bias = _reader(getattr(there, name), source.layer_norm, reading)
        read[name] = torch.cat([weight, bias[:, None]], dim=1)[keep].view(heads, size, -1)
    out = out.view(len(out), heads, size)
    if new_size != size:
        # HuBERT divides the product by the root of the head's width, which differs between teacher and student.
        read["q_proj"] = read["q_proj"] * (new_size / size) ** 0.5
        pairs = [closest_product(read["q_proj"][h], read["k_proj"][h], new_size) for h in range(heads)]
        read["q_proj"], read["k_proj"] = (torch.stack(side) for side in zip(*pairs, strict=True))
        pairs = [closest_product(read["v_proj"][h], out[:, h].T, new_size) for h in range(heads)]
        read["v_proj"] = torch.stack([value for value, _ in pairs])
        out = torch.stack([written for _, written in pairs]).permute(2, 0, 1)
    result = {name: (rows.flatten(0, 1)[:, :-1], rows.flatten(0, 1)[:, -1]) for name, rows in read.items()}
    result["out_proj"] = (out.flatten(1), out_bias)
    return result


def closest_product(left: Tensor, right: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Matrices (size, a) and (size, b) whose product left' right is closest to that of (n, a) and (n, b)."""
    n = len(left)
    if size >= n:
        return F.pad(left, (0, 0, 0, size - n)), F.pad(right, (0, 0, 0, size - n))
    u, s, v = torch.linalg.svd(left.T @ right, full_matrices=False)
    root = s[:size].sqrt()
    return (u[:, :size] * root).T, (v[:size].T * root).T


def _fit_positional(
    student: HubertModel, clips: Sequence[tuple[Tensor, Tensor]], p: Tensor, seed: int, steps: int
) -> float:
    """Train the student's positional convolution to map P' x input to P' x output of the teacher's; returns the
    share of variance that it explains on the clips."""
    conv = student.encoder.pos_conv_embed
    device = next(conv.parameters()).device
    p = p.float().to(device)
    pairs = [(x.float().to(device) @ p, y.float().to(device) @ p) for x, y in clips]
    generator = torch.Generator().manual_seed(seed)
    states = [(parameter, parameter.requires_grad) for parameter in conv.parameters()]
    with torch.enable_grad():
        for parameter, _ in states:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(conv.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            chosen = torch.randint(len(pairs), (min(POSITIONAL_CLIPS, len(pairs)),), generator=generator).tolist()
            loss = sum(F.mse_loss(conv(pairs[i][0][None])[0], pairs[i][1], reduction="sum") for i in chosen)
            optimizer.zero_grad()
            (loss / sum(len(pairs[i][0]) for i in chosen)).backward()
            optimizer.step()
            schedule.step()
    for parameter, wanted in states:
        parameter.requires_grad_(wanted)
        parameter.grad = None
    wanted = torch.cat([y for _, y in pairs])
    missed = sum(F.mse_loss(conv(x[None])[0], y, reduction="sum") for x, y in pairs)
    return 1 - float(missed) / float((wanted - wanted.mean(0)).square().sum())
