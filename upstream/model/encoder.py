"""The encoder: Transformers' `HubertModel` with either front end, and the one forward pass that everything here uses.

We walk the layers ourselves instead of taking Transformers' tuple of hidden states: its stable-layer-norm models put
the top state *before* the final norm into it, and a target layer below the top must not pay for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import HubertConfig, HubertModel
from transformers.modeling_outputs import BaseModelOutput

from upstream.model.family import CONV_KERNELS, CONV_STRIDES, HOP, RECEPTIVE_FIELD, Geometry
from upstream.model.frontend import LogMelFrontEnd


class LogMelHubertConfig(HubertConfig):
    """`HubertConfig` of a model whose front end is log-mel; its one "convolution" states the frame formula."""

    model_type = "harness_logmel_hubert"
    mels: int = 80
    squeeze: int = 1


class LogMelHubertModel(HubertModel):
    """`HubertModel` whose feature encoder is a log-mel front end; takes 16 kHz waveforms like its parent."""

    config_class = LogMelHubertConfig

    def __init__(self, config: LogMelHubertConfig) -> None:
        super().__init__(config)
        self.feature_extractor = LogMelFrontEnd(config.mels)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if isinstance(module, LogMelFrontEnd):
            return
        super()._init_weights(module)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = True,
        **options: object,
    ) -> BaseModelOutput | tuple[Tensor, ...]:
        """(B, N) samples and, if padded, their (B, N) mask -> `last_hidden_state` (B, T, D), and on demand
        `hidden_states`: states 0 to L, the last one after the final norm. Raises TypeError for other options."""
        unknown = [name for name, value in options.items() if value]
        if unknown:
            raise TypeError(f"a log-mel model does not know the option `{unknown[0]}`")
        lengths = None if attention_mask is None else attention_mask.sum(-1)
        states, _ = run_layers(self, input_values, lengths, time_mask=mask_time_indices)
        hidden_states = tuple(states) if output_hidden_states else None
        output = BaseModelOutput(last_hidden_state=states[-1], hidden_states=hidden_states)
        return output if return_dict is not False else output.to_tuple()


@dataclass(frozen=True)
class Encoded:
    """Hidden states 0..L (or ..top_layer), each (B, T, D), and the valid frames of each item, (B,)."""

    hidden_states: list[Tensor]
    frames: Tensor


def hubert_config(g: Geometry) -> HubertConfig:
    """Transformers' configuration of a geometry, as an export carries it: no LayerDrop, no augmentation."""
    common = {
        "hidden_size": g.width,
        "num_hidden_layers": g.layers,
        "num_attention_heads": g.heads,
        "intermediate_size": g.ffn,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
        "conv_bias": True,
        "num_conv_pos_embeddings": g.pos_conv_kernel,
        "num_conv_pos_embedding_groups": g.pos_conv_groups,
        "layerdrop": 0.0,
        "apply_spec_augment": False,
        # above 0 so that the mask embedding exists; nothing is masked while augmentation is off
        "mask_time_prob": 0.05,
        "attn_implementation": "sdpa",
    }
    if g.front_end == "waveform":
        conv = [g.conv_channels] * len(CONV_KERNELS)
        return HubertConfig(conv_dim=conv, conv_kernel=CONV_KERNELS, conv_stride=CONV_STRIDES, **common)
    return LogMelHubertConfig(
        conv_dim=[g.feature_dim],
        conv_kernel=[RECEPTIVE_FIELD],
        conv_stride=[HOP],
        mels=g.mels,
        squeeze=g.squeeze,
        **common,
    )


def build_encoder(g: Geometry) -> HubertModel:
    """A randomly initialised encoder (torch's global generator decides)."""
    config = hubert_config(g)
    return LogMelHubertModel(config) if isinstance(config, LogMelHubertConfig) else HubertModel(config)


def front_end_of(model: HubertModel) -> str:
    """`logmel` or `waveform`."""
    return "logmel" if isinstance(model.feature_extractor, LogMelFrontEnd) else "waveform"


def normalises_waveform(model: HubertModel) -> bool:
    """Whether each waveform is brought to zero mean and unit variance before the front end."""
    return getattr(model.config, "do_normalize", front_end_of(model) == "waveform")


def frame_count(samples: int) -> int:
    """Frames of a clip of `samples` at 16 kHz: floor((n - 400) / 320) + 1, and 0 below 400 samples."""
    return max(0, (samples - RECEPTIVE_FIELD) // HOP + 1)


def run_layers(
    model: HubertModel,
    wavs: Tensor,
    lengths: Tensor | None = None,
    *,
    time_mask: Tensor | None = None,
    top_layer: int | None = None,
    chance: torch.Generator | None = None,
    inner: bool = False,
    final_norm: bool = True,
) -> tuple[list[Tensor], Tensor | None]:
    """Walk the encoder: (B, N) samples -> hidden states 0..top_layer, each (B, T, D), and the frame mask (B, T).

    `lengths` (B,) are the valid samples of each item; None means that nothing is padded, and the mask is None too.
    `time_mask` (B, T) bool replaces frames by the mask embedding. State 0 is the input of layer 1, state i the output
    of layer i, state L comes after the final norm. A squeezed model's layers run on pairs of frames; its states repeat
    each of their frames, unless `inner` asks for the frames as the layers see them; without `final_norm` state L is
    the output of layer L. `chance` (a CPU generator) decides LayerDrop. Works for any Transformers HuBERT or wav2vec
    2.0 encoder.
    """
    depth = len(model.encoder.layers)
    top = depth if top_layer is None else top_layer
    if not 0 <= top <= depth:
        raise ValueError(f"layer {top} does not exist: the model has hidden states 0 to {depth}")
    if isinstance(model.feature_extractor, LogMelFrontEnd):
        features = model.feature_extractor(wavs, lengths)
    else:
        features = model.feature_extractor(wavs)
    features = features.transpose(1, 2)
    squeeze = getattr(model.config, "squeeze", 1)
    outer = features.shape[1]
    frames = None if lengths is None else model._get_feat_extract_output_lengths(lengths).clamp(min=0)
    if squeeze == 2:
        features = pair_frames(features, frames)
    x = model.feature_projection(features)
    if isinstance(x, tuple):  # wav2vec 2.0 also returns the features before the projection
        x = x[0]
    if time_mask is not None:
        if squeeze == 2:
            time_mask = time_mask[:, ::2]
        x = torch.where(time_mask.unsqueeze(-1), model.masked_spec_embed.to(x.dtype), x)

    valid = attend = None
    if lengths is not None:
        frames = (frames + squeeze - 1) // squeeze
        steps = torch.arange(x.shape[1], device=x.device)
        valid = steps < frames[:, None]
        x = x * valid.unsqueeze(-1)
        # A row without a single key gives NaN: an empty item attends to its first frame, whatever it holds.
        attend = (valid | (steps == 0))[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        if model.config._attn_implementation == "eager":  # adds its mask to the scores, where SDPA takes a choice
            attend = torch.zeros_like(attend, dtype=x.dtype).masked_fill(~attend, torch.finfo(x.dtype).min)

    encoder = model.encoder
    x = x + encoder.pos_conv_embed(x)
    stable = model.config.do_stable_layer_norm
    if not stable:
        x = encoder.layer_norm(x)
    x = encoder.dropout(x)
    states = [x]
    layerdrop = model.config.layerdrop if model.training else 0.0
    # From a generator of its own: on the CPU dropout draws from the global one as often as its batch is large, and
    # processes that skip different layers wait for each other's gradients for ever.
    dropped = (torch.rand(top, generator=chance) < layerdrop).tolist() if layerdrop > 0 else [False] * top
    for layer, drop in zip(encoder.layers[:top], dropped, strict=True):
        if not drop:
            out = layer(x, attention_mask=attend)
            x = out[0] if isinstance(out, tuple) else out
        states.append(x)
    if stable and top == depth and final_norm:
        states[-1] = encoder.layer_norm(x)
    if squeeze == 2 and not inner:
        states = [state.repeat_interleave(2, dim=1)[:, :outer] for state in states]
        if lengths is not None:
            valid = torch.arange(outer, device=x.device) < model._get_feat_extract_output_lengths(lengths)[:, None]
    return states, valid


def pair_frames(features: Tensor, frames: Tensor | None = None) -> Tensor:
    """Two frames side by side: (B, T, C) -> (B, ceil(T / 2), 2 C); an odd last valid frame is repeated.

    `frames` (B,) are the valid ones of each item; None means that all are.
    """
    first = features[:, 0::2]
    second = torch.cat([features[:, 1::2], features[:, -1:]], dim=1)[:, : first.shape[1]]
    if frames is not None:
        index = 2 * torch.arange(first.shape[1], device=features.device) + 1
        second = torch.where((index < frames[:, None]).unsqueeze(-1), second, first)
    return torch.cat([first, second], dim=-1)


def normalise_waveform(wav: Tensor) -> Tensor:
    """Zero mean and unit variance over the item's own samples, as Transformers' feature extractor does."""
    return (wav - wav.mean()) / torch.sqrt(wav.var(unbiased=False) + 1e-7)


def collate(model: HubertModel, wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Normalise each waveform as the model wants it and pad on its device: (B, N) and lengths (B,), or None.

    Items shorter than one frame (400 samples) are padded with zeros and have no valid frame. Raises ValueError for
    anything that is no 1-D tensor.
    """
    if not len(wavs):
        raise ValueError("the encoder got an empty list of waveforms; it needs at least one")
    for i, wav in enumerate(wavs):
        if not isinstance(wav, Tensor):
            raise ValueError(f"waveform {i} is a {type(wav).__name__}; expected a tensor (torch.from_numpy makes one)")
        if wav.dim() != 1:
            raise ValueError(f"waveform {i} has shape {tuple(wav.shape)}; expected one dimension (samples)")
    device = next(model.parameters()).device
    lengths = torch.tensor([len(wav) for wav in wavs], device=device)
    items = [wav.to(device, torch.float32) for wav in wavs]
    if normalises_waveform(model):
        items = [normalise_waveform(wav) if len(wav) else wav for wav in items]
    padded = pad_sequence(items, batch_first=True)
    if padded.shape[1] < RECEPTIVE_FIELD:
        padded = torch.nn.functional.pad(padded, (0, RECEPTIVE_FIELD - padded.shape[1]))
    same = bool((lengths == padded.shape[1]).all())
    return padded, None if same else lengths


def encode(model: HubertModel, wavs: Sequence[Tensor], *, top_layer: int | None = None) -> Encoded:
    """Hidden states of unpadded 1-D 16 kHz waveforms; gradients and train mode as the caller set them.

    Valid frames do not depend on the other items of the batch. An item below 400 samples has 0 valid frames.
    """
    padded, lengths = collate(model, wavs)
    frames = torch.tensor([frame_count(len(wav)) for wav in wavs], device=padded.device)
    if lengths is not None and getattr(model.config, "feat_extract_norm", "layer") == "group":
        # HuBERT-Base normalises each channel over time, padding included: such a model sees one item at a time.
        alone = [encode(model, [wav], top_layer=top_layer).hidden_states for wav in wavs]
        states = [pad_sequence([item[0] for item in layer], batch_first=True) for layer in zip(*alone, strict=True)]
    else:
        states, _ = run_layers(model, padded, lengths, top_layer=top_layer)
    return Encoded(states, frames)
