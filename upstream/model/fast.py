"""The same encoder with faster modules: `accelerate` for inference, `convolve_frames` also for training on a CPU.

`accelerate` computes the positional convolution (128 taps, an eighth of the products of HST) in the frequency domain,
folds its weight norm, halves the DFT of the log-mel front end, and computes query, key and value by one product.
`convolve_frames` computes the convolutions of a waveform front end as matrix products. Nothing is approximated: the
states agree to the rounding of 32 bits.
"""

from __future__ import annotations

import copy
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention
from transformers import HubertModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from upstream.model.family import FFT_SIZE
from upstream.model.frontend import FLOOR, LogMelFrontEnd


class FoldedLogMel(LogMelFrontEnd):
    """The log-mel front end with less than half of the products of its DFT, for inference only.

    A power spectrum does not depend on where time zero is. With zero in the middle of a symmetric window, the real part
    reads only sums of samples at equal distance from the middle, and the imaginary part only their differences. Bins
    that no band reads are left out.
    """

    def __init__(self, front_end: LogMelFrontEnd) -> None:
        """Raises ValueError for another DFT than ours and Whisper's."""
        nn.Module.__init__(self)
        self.cmvn = front_end.cmvn
        device = front_end.dft.device
        used = front_end.mel.any(1)
        self.register_buffer("mel", front_end.mel[used])
        self.register_buffer("mean", front_end.mean)
        self.register_buffer("std", front_end.std)
        real, imaginary = front_end.dft.detach().double().cpu().chunk(2, dim=1)
        size, bins = real.shape
        # Whisper's periodic Hann window begins with a zero, and is symmetric behind it.
        self.first = int(not real[0].any() and bool(real[-1].any()))
        whole = torch.complex(real, imaginary)[self.first :][:, used.cpu()]
        middle = (size - 1 + self.first) / 2
        for transform in (FFT_SIZE, size):  # of ours, and of Whisper's
            angles = (2 * np.pi / transform * torch.arange(bins, dtype=torch.float64))[used.cpu()]
            turned = whole * torch.polar(torch.ones_like(angles), angles * middle)
            if torch.allclose(turned, turned.flip(0).conj(), atol=1e-5):
                break
        else:
            raise ValueError("the DFT of the front end has no symmetric window")
        self.pairs, odd = divmod(len(turned), 2)
        self.register_buffer("cosines", turned.real[: self.pairs + odd].float().to(device))
        self.register_buffer("sines", turned.imag[: self.pairs].float().to(device))

    def log_mel(self, wavs: Tensor) -> Tensor:
        """As in the parent."""
        windows = self._windows(wavs)[..., self.first :]
        behind = windows.shape[-1] - self.pairs
        early, middle, late = windows[..., : self.pairs], windows[..., self.pairs : behind], windows[..., behind:]
        late = late.flip(-1)
        sums = early + late
        if len(self.cosines) > self.pairs:  # Whisper's window has a sample in its middle
            sums = torch.cat([sums, middle], -1)
        real, imaginary = sums @ self.cosines, (early - late) @ self.sines
        return torch.log((real.square() + imaginary.square()) @ self.mel + FLOOR)


# Shorter parts of a kernel cost more than they save.
_SHORTEST_PART = 32


class SpectralConvolution(nn.Module):
    """A grouped convolution over time as overlapping blocks in the frequency domain: (B, T, C) -> (B, T, C).

    The kernel is cut into `parts` of h taps, and time into blocks of h frames. A real DFT of two neighbouring blocks,
    one complex product for each frequency and part, and the inverse DFT give h outputs. The DFTs are matrix products,
    because these export to ONNX. 128 taps and 16 groups of 32 channels take an eighth of the products.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, groups: int, parts: int, before: int | None = None) -> None:
        """`weight` (C, C / groups, taps) as `nn.Conv1d` has it; `parts` must divide the taps. `before`: frames before
        frame t that it reads (None: half of the taps, taps - 1: a causal convolution)."""
        super().__init__()
        channels, per_group, taps = weight.shape
        if taps % parts:
            raise ValueError(f"a kernel of {taps} taps cannot be cut into {parts} equal parts")
        self.taps, self.groups, self.parts = taps, groups, parts
        self.before = taps // 2 if before is None else before
        self.hop = taps // parts
        self.bins = self.hop + 1
        size = 2 * self.hop
        angle = 2 * np.pi * np.arange(self.bins)[:, None] * np.arange(size) / size
        weights = np.where(np.isin(np.arange(self.bins), (0, self.hop)), 1.0, 2.0)[:, None] / size
        forward = np.concatenate([np.cos(angle), -np.sin(angle)])
        inverse = np.concatenate([np.cos(angle) * weights, -np.sin(angle) * weights])[:, : self.hop].T
        kernel = weight.detach().double().cpu().numpy().reshape(channels, per_group, parts, self.hop)
        # Conjugated: a convolution layer correlates.
        spectrum = np.fft.rfft(kernel, n=size).conj().reshape(groups, channels // groups, per_group, parts, self.bins)
        spectrum = spectrum.transpose(4, 0, 3, 2, 1).reshape(self.bins, groups, parts * per_group, -1)

        def buffer(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(weight.device)

        self.register_buffer("dft", buffer(forward), persistent=False)
        self.register_buffer("inverse", buffer(inverse), persistent=False)
        self.register_buffer("spectrum", buffer(np.concatenate([spectrum.real, spectrum.imag], -1)), persistent=False)
        bias = torch.zeros(channels, device=weight.device) if bias is None else bias.detach().clone()
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, channels = x.shape
        hop, per_group = self.hop, channels // self.groups
        blocks = (frames + hop - 1) // hop
        x = pad(x, (0, 0, self.before, self.taps + hop))[:, : (blocks + self.parts) * hop]
        x = x.reshape(batch, blocks + self.parts, hop, channels)
        x = torch.matmul(self.dft, torch.cat([x[:, :-1], x[:, 1:]], dim=2))
        x = x.view(batch, blocks + self.parts - 1, 2, self.bins, self.groups, per_group)
        x = torch.cat([x[:, part : part + blocks] for part in range(self.parts)], dim=-1)
        # Real and imaginary parts are rows of one product, so that no weight is read twice.
        x = x.permute(3, 4, 2, 0, 1, 5).reshape(self.bins, self.groups, -1, self.parts * per_group)
        x = torch.matmul(x, self.spectrum).view(self.bins, self.groups, 2, -1, 2, per_group)
        real = x[:, :, 0, :, 0] - x[:, :, 1, :, 1]
        imaginary = x[:, :, 0, :, 1] + x[:, :, 1, :, 0]
        x = torch.stack([real, imaginary]).permute(3, 0, 1, 2, 4).reshape(batch, blocks, 2 * self.bins, channels)
        return torch.matmul(self.inverse, x).reshape(batch, blocks * hop, channels)[:, :frames] + self.bias


class _Positional(nn.Module):
    """Replaces Transformers' positional convolution: the convolution, then its activation."""

    def __init__(self, convolution: nn.Conv1d, activation: nn.Module, *, causal: bool) -> None:
        super().__init__()
        taps = convolution.kernel_size[0]
        parts = 2 if taps % 2 == 0 and taps // 2 >= _SHORTEST_PART else 1
        before = taps - 1 if causal else None
        self.convolution = SpectralConvolution(convolution.weight, convolution.bias, convolution.groups, parts, before)
        self.activation = activation

    def forward(self, hidden_states: Tensor) -> Tensor:
        # A rounding error in one bin spreads over a whole block: always in 32 bits, as in the front end.
        with torch.autocast(hidden_states.device.type, enabled=False):
            return self.activation(self.convolution(hidden_states.float())).to(hidden_states.dtype)


class _Attention(nn.Module):
    """Replaces Transformers' self-attention, without dropout: one product for query, key and value, then SDPA."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.heads = attention.num_heads
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        width = attention.embed_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.qkv.weight = nn.Parameter(torch.cat([p.weight for p in projections]).detach(), requires_grad=False)
        self.qkv.bias = nn.Parameter(torch.cat([p.bias for p in projections]).detach(), requires_grad=False)
        self.out = attention.out_proj

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **unused: object
    ) -> tuple[Tensor, None]:
        return self.mix(*self.project(hidden_states), attention_mask), None

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> query, key and value, (B, H, T, D / H) each."""
        q, k, v = (
            part.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        return q, k, v

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of T queries to K keys, and the output projection: (B, T, D). `mask` as SDPA takes it."""
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        return self.out(mixed.reshape(mixed.shape[0], mixed.shape[1], -1))


def product_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **unused: object
) -> tuple[Tensor, None]:
    """Attention without dropout as two batched products, for training on a CPU: (B, H, T, D) -> (B, T, H, D).

    PyTorch's fused attention has no fast backward pass on CPUs: in bf16 these products take 0.65 of its time for clips
    of 10 s. Without gradients the fused attention is faster, and is used. `attention_mask` is boolean, (B, 1, T, T) or
    (1, 1, T, T).
    """
    if not (torch.is_grad_enabled() and query.requires_grad):
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        return mixed.transpose(1, 2).contiguous(), None
    batch, heads, frames, size = query.shape
    q, k, v = (x.reshape(batch * heads, frames, size) for x in (query * size**-0.5, key, value))
    if attention_mask is None:
        scores = torch.bmm(q, k.transpose(1, 2))
    else:
        # A mask of padding is one row, expanded over all queries; a mask of chunks has its own row for each query.
        rows = attention_mask[:, :, :1] if attention_mask.stride(2) == 0 else attention_mask
        absent = torch.zeros(rows.shape, dtype=q.dtype).masked_fill(~rows, -1e4)
        absent = absent.expand(batch, heads, -1, -1).reshape(batch * heads, -1, frames).expand(-1, frames, -1)
        scores = torch.baddbmm(absent, q, k.transpose(1, 2))
    mixed = torch.bmm(scores.softmax(-1), v).view(batch, heads, frames, size)
    return mixed.transpose(1, 2).contiguous(), None


def attend_by_products(model: HubertModel) -> None:
    """Use `product_attention` in a model's layers, in place; the stored configuration names SDPA as before."""
    ALL_ATTENTION_FUNCTIONS.register("products", product_attention)
    model.config._attn_implementation = "products"


def sharing_copy(model: HubertModel) -> HubertModel:
    """A copy in eval mode with modules of its own that share the tensors of the model."""
    # deepcopy does not copy a tensor that is in its memo.
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}).eval()


def accelerate(model: HubertModel) -> HubertModel:
    """A copy of a HuBERT or wav2vec 2.0 encoder for inference only: the same states, fewer products.

    The copy is in eval mode and shares the unchanged weights. It can be neither trained nor saved.
    """
    fast = sharing_copy(model)
    if isinstance(fast.feature_extractor, LogMelFrontEnd):
        with suppress(ValueError):  # another DFT, such as one that was rounded to 16 bits, stays as it is
            fast.feature_extractor = FoldedLogMel(fast.feature_extractor)
    positional = fast.encoder.pos_conv_embed
    if hasattr(positional, "conv") and getattr(positional, "batch_norm", None) is None:
        causal = getattr(positional, "causal", False)
        fast.encoder.pos_conv_embed = _Positional(positional.conv, positional.activation, causal=causal)
    for layer in fast.encoder.layers:
        layer.attention = _Attention(layer.attention)
    return fast


class FrameConv1d(nn.Conv1d):
    """`nn.Conv1d` with the same parameters and results; on the CPU a matrix product over windows of frames.

    PyTorch convolves (B, C, T) on the CPU, and the layer norm behind each convolution transposes it to (B, T, C) and
    back. Here the frames of a window are one row of a matrix, and no transposition is needed: 512 channels take 0.65 of
    the time forward and backward in bf16, 256 channels 0.54 (bench/README.md). For convolutions without padding,
    dilation or groups, (B, C, T) -> (B, C', T') as views of (B, T', C').
    """

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        count = (x.shape[-1] - kernel) // stride + 1
        if x.device.type != "cpu" or x.dim() != 3 or count < 1:
            return super().forward(x)
        if self.in_channels == 1:
            windows = x[:, 0].unfold(1, kernel, stride)
        else:
            frames = x.transpose(1, 2)
            last = stride * (count - 1) + 1
            windows = torch.cat([frames[:, tap : tap + last : stride] for tap in range(kernel)], dim=-1)
        weight = self.weight.permute(0, 2, 1).flatten(1)
        return linear(windows, weight, self.bias).transpose(1, 2)


def convolve_frames(model: HubertModel) -> None:
    """Replace the convolutions of a waveform front end by `FrameConv1d`, in place: same parameters and gradients.

    A convolution before a group norm (HuBERT-Base) is kept, since that norm reads the samples of each channel together.
    """
    for layer in getattr(model.feature_extractor, "conv_layers", ()):
        old = layer.conv
        plain = old.padding == (0,) and old.dilation == (1,) and old.groups == 1
        if not plain or isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm):
            continue
        new = FrameConv1d(
            old.in_channels, old.out_channels, old.kernel_size, old.stride, bias=old.bias is not None, device="meta"
        )
        new.weight, new.bias = old.weight, old.bias
        new.train(old.training)
        layer.conv = new
