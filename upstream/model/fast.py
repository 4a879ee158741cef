"""The same encoder, cheaper: what can be computed with fewer products, once the weights no longer change.

HST spends an eighth of its products in the positional convolution (128 taps), and a convolution of that length is
cheaper in the frequency domain. Weight norm is folded into it, and query, key and value become one product. Nothing is
approximated: the states agree with those of the model to the rounding of 32 bits.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import HubertModel

# Below this the blocks are so short that cutting the kernel costs more than it saves.
_SHORTEST_PART = 32


class SpectralConvolution(nn.Module):
    """A grouped "same" convolution over time as overlapping blocks in the frequency domain: (B, T, C) -> (B, T, C).

    The kernel is cut into `parts` of h taps, time into blocks of h frames. A real DFT of two neighbouring blocks, one
    complex product a frequency and part, and the inverse DFT give h outputs. The DFTs are matrix products, because
    those export to ONNX. With 128 taps and 16 groups of 32 channels this takes an eighth of the products.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, groups: int, parts: int) -> None:
        """`weight` (C, C / groups, taps) as `nn.Conv1d` has it; `parts` must divide the taps."""
        super().__init__()
        channels, per_group, taps = weight.shape
        if taps % parts:
            raise ValueError(f"a kernel of {taps} taps cannot be cut into {parts} equal parts")
        self.taps, self.groups, self.parts = taps, groups, parts
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
        x = pad(x, (0, 0, self.taps // 2, self.taps + hop))[:, : (blocks + self.parts) * hop]
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
    """Stands for Transformers' positional convolution: the convolution, then its activation."""

    def __init__(self, convolution: nn.Conv1d, activation: nn.Module) -> None:
        super().__init__()
        taps = convolution.kernel_size[0]
        parts = 2 if taps % 2 == 0 and taps // 2 >= _SHORTEST_PART else 1
        self.convolution = SpectralConvolution(convolution.weight, convolution.bias, convolution.groups, parts)
        self.activation = activation

    def forward(self, hidden_states: Tensor) -> Tensor:
        # Rounding in one bin spreads over a whole block: always in 32 bits, as the front end.
        with torch.autocast(hidden_states.device.type, enabled=False):
            return self.activation(self.convolution(hidden_states.float())).to(hidden_states.dtype)


class _Attention(nn.Module):
    """Stands for Transformers' self-attention without dropout: one product for query, key and value, then SDPA."""

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
        batch, frames, width = hidden_states.shape
        parts = self.qkv(hidden_states).chunk(3, dim=-1)
        q, k, v = (part.view(batch, frames, self.heads, -1).transpose(1, 2) for part in parts)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, frames, width)), None


def sharing_copy(model: HubertModel) -> HubertModel:
    """A copy in eval mode whose modules are its own and whose tensors are those of the model."""
    # A tensor that deepcopy finds in its memo is taken, not copied.
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}).eval()


def accelerate(model: HubertModel) -> HubertModel:
    """A copy of a HuBERT or wav2vec 2.0 encoder for inference alone: the same states, fewer products.

    It shares the weights that stay as they are, is in eval mode, and is not for training or `save_model`.
    """
    fast = sharing_copy(model)
    positional = fast.encoder.pos_conv_embed
    if getattr(positional, "batch_norm", None) is None:
        fast.encoder.pos_conv_embed = _Positional(positional.conv, positional.activation)
    for layer in fast.encoder.layers:
        layer.attention = _Attention(layer.attention)
    return fast
