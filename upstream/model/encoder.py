"""The encoder: Transformers' `HubertModel` with either front end, and the forward pass that gives its hidden states.

The layers run here, one by one, instead of inside Transformers: its stable-layer-norm models return the top state
*before* the final norm, and it computes all layers even if only a lower state is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import gelu, pad
from torch.nn.utils.rnn import pad_sequence
from transformers import HubertConfig, HubertModel, initialization
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.hubert.modeling_hubert import HubertPositionalConvEmbedding
from transformers.utils.generic import can_return_tuple

from upstream.errors import UpstreamError
from upstream.model.family import (
    CHUNK,
    CONV_KERNELS,
    CONV_STRIDES,
    FRAME_MS,
    HOP,
    LONGEST_CHUNK,
    RECEPTIVE_FIELD,
    SHORTEST_CHUNK,
    STEM_TAPS,
    Geometry,
    chunk_frames,
)
from upstream.model.frontend import LogMelFrontEnd, stack_pairs
from upstream.model.rate import OURS, frames_of


class Upsampler(torch.nn.Module):
    """Frames of the layers to frames of the hidden states: (B, P, D) -> (B, factor * P, D), as a learned difference
    from repetition."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.projection = torch.nn.Linear(width, factor * width)

    def forward(self, x: Tensor) -> Tensor:
        return repeat_frames(x, self.factor) + self.projection(x).reshape(x.shape[0], -1, x.shape[2])

    @torch.no_grad()
    def repeat_first(self) -> None:
        """Let each frame of the layers give its first frame `factor` times, where only that one was trained."""
        width = self.projection.in_features
        self.projection.weight.copy_(self.projection.weight[:width].repeat(self.factor, 1))
        self.projection.bias.copy_(self.projection.bias[:width].repeat(self.factor))


def repeat_frames(x: Tensor, factor: int) -> Tensor:
    """Each frame `factor` times: (B, P, D) -> (B, factor * P, D)."""
    return x.unsqueeze(2).expand(-1, -1, factor, -1).reshape(x.shape[0], -1, x.shape[2])


class ConvolutionalStem(torch.nn.Module):
    """Whisper's stem in place of the linear projection: pairs of 10 ms frames (B, T, 2 * mels) -> (B, T, width).

    Two convolutions of three taps with GELU, the second one with stride 2. Frame t depends on the pairs t - 1 to t + 1.
    Frames of padding must be zero. In a squeezed model `squeeze` then projects the frames in pairs.
    """

    def __init__(self, mels: int, width: int, squeeze: int = 1) -> None:
        super().__init__()
        self.mels = mels
        self.conv1 = torch.nn.Conv1d(mels, width, STEM_TAPS, padding=1)
        self.conv2 = torch.nn.Conv1d(width, width, STEM_TAPS, stride=2, padding=1)
        self.squeeze = torch.nn.Linear(squeeze * width, width) if squeeze > 1 else None

    def forward(self, pairs: Tensor) -> Tensor:
        x = pairs.reshape(pairs.shape[0], -1, self.mels).transpose(1, 2)
        x = gelu(self.conv1(x))
        return gelu(self.conv2(x)).transpose(1, 2)

    @torch.no_grad()
    def average_pairs(self) -> None:
        """Let `squeeze` give the mean of each pair, as a start for layers that were trained on every frame."""
        width = self.squeeze.out_features
        self.squeeze.weight.copy_(torch.eye(width).repeat(1, self.squeeze.in_features // width) / 2)
        self.squeeze.bias.zero_()


class CausalStem(ConvolutionalStem):
    """The stem of a streaming model, with the same parameters: frame t depends on the pairs t - 2 to t."""

    def __init__(self, mels: int, width: int, squeeze: int = 1) -> None:
        super().__init__(mels, width, squeeze)
        self.conv1.padding = self.conv2.padding = (0,)  # `step` puts the earlier frames before the others

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """What precedes a clip: 10 ms frames (B, 2, mels) and outputs of the first convolution (B, 1, width), zero."""
        weight = self.conv1.weight
        width = self.conv1.out_channels
        return weight.new_zeros(batch, STEM_TAPS - 1, self.mels), weight.new_zeros(batch, STEM_TAPS - 2, width)

    def forward(self, pairs: Tensor) -> Tensor:
        return self.step(pairs, *(past.to(pairs.dtype) for past in self.start(pairs.shape[0])))[0]

    def step(self, pairs: Tensor, energies: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The frames of these pairs, and what precedes the next ones; `energies` and `inner` as `start` gives them."""
        x = torch.cat([energies, pairs.reshape(pairs.shape[0], -1, self.mels)], 1)
        y = torch.cat([inner, gelu(self.conv1(x.transpose(1, 2))).transpose(1, 2)], 1)
        out = gelu(self.conv2(y.transpose(1, 2))).transpose(1, 2)
        return out, x[:, 1 - STEM_TAPS :], y[:, 2 - STEM_TAPS :]


class CausalPositions(HubertPositionalConvEmbedding):
    """The positional convolution of a streaming model, with the same parameters: frame t reads t - taps + 1 to t."""

    causal = True

    def __init__(self, config: HubertConfig) -> None:
        super().__init__(config)
        self.conv.padding = (0,)

    def forward(self, hidden_states: Tensor) -> Tensor:
        past = self.conv.kernel_size[0] - 1
        return self.activation(self.conv(pad(hidden_states.transpose(1, 2), (past, 0)))).transpose(1, 2)


class SinusoidalPositions(torch.nn.Module):
    """Whisper's positions in place of the positional convolution: (B, T, D) -> (1, T, D), to be added.

    They are computed, not stored, so that a clip may have any length. `first` (B,): the position of the first frame,
    where a clip comes in parts; then the result is (B, T, D). `step`: 20 ms frames in one frame of the layers, so that
    positions count the same time in a squeezed model.
    """

    def __init__(self, width: int, step: int = 1) -> None:
        super().__init__()
        self.width, self.step = width, step

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        half = self.width // 2
        scale = math.log(10000.0) / (half - 1)
        rates = torch.exp(-scale * torch.arange(half, device=x.device, dtype=torch.float32))
        times = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)[None]
        if first is not None:
            times = times + first[:, None]
        # The middle of a frame: 0, 1, 2 ..., or 0.5, 2.5, 4.5 ... for pairs.
        angles = (times * self.step + (self.step - 1) / 2).unsqueeze(-1) * rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(x.dtype)


# A log-mel model has no activation in its front end, and config.json holds this line in its place. Transformers reads
# the directory with `HubertModel` or `HubertForCTC` too, and would give the front end random weights with a mere
# warning; with this line it stops, because it knows no activation of this name, and shows the line.
LOAD_HINT = (
    "log-mel front end: call upstream.register('transformers'), then load the directory with AutoModel, "
    "AutoModelForCTC or AutoModelForAudioClassification"
)


class LogMelHubertConfig(HubertConfig):
    """`HubertConfig` of a model with a log-mel front end; its one "convolution" gives the frame formula."""

    model_type = "harness_logmel_hubert"
    feat_extract_activation: str = LOAD_HINT
    mels: int = 80
    squeeze: int = 1  # 20 ms frames in one frame of the layers
    stem: str = "linear"
    positions: str = "convolution"
    cmvn: bool = False  # log-mel bands normalised over the clip
    left_context: int = 0  # 20 ms frames before a chunk that its frames attend to; 0: no streaming
    chunk: int = CHUNK  # of a streaming model in 20 ms frames, where no other is asked for


def init_front_end(module: torch.nn.Module) -> bool:
    """Whether `module` is a log-mel front end; if so, its buffers get their values, unless a file gave them others.

    Transformers may make a model without values, on the meta device, and asks for those that the file does not hold.
    """
    if not isinstance(module, LogMelFrontEnd):
        return False
    for name, value in LogMelFrontEnd(len(module.mean)).named_buffers():
        initialization.copy_(module.get_buffer(name), value)
    return True


class LogMelHubertModel(HubertModel):
    """`HubertModel` whose feature encoder is a log-mel front end; takes 16 kHz waveforms like its parent."""

    config_class = LogMelHubertConfig
    # `run_layers` collects the hidden states; attentions are not returned.
    _can_record_outputs: ClassVar[dict[str, object]] = {}

    def __init__(self, config: LogMelHubertConfig) -> None:
        config.feat_extract_activation = "gelu"  # the parent builds convolutions, which are replaced below
        try:
            super().__init__(config)
            if config.left_context and config.positions == "convolution":
                self.encoder.pos_conv_embed = CausalPositions(config)
        finally:
            config.feat_extract_activation = LOAD_HINT
        self.feature_extractor = LogMelFrontEnd(config.mels, cmvn=config.cmvn)
        if config.squeeze > 1:
            self.upsampler = Upsampler(config.hidden_size, config.squeeze)
        if config.stem == "convolution":
            stem = CausalStem if config.left_context else ConvolutionalStem
            self.feature_projection = stem(config.mels, config.hidden_size, config.squeeze)
        if config.positions == "sinusoid":
            self.encoder.pos_conv_embed = SinusoidalPositions(config.hidden_size, config.squeeze)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if not init_front_end(module):
            super()._init_weights(module)

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **options: object,
    ) -> BaseModelOutput:
        """(B, N) samples and, if padded, their (B, N) mask -> `last_hidden_state` (B, T, D), and on request
        `hidden_states`: states 0 to L, the last one after the final norm. `return_dict=False` gives a tuple instead.
        Arguments that are None follow the configuration. Raises TypeError for other options."""
        unknown = [name for name, value in options.items() if value]
        if unknown:
            raise TypeError(f"a log-mel model has no option `{unknown[0]}`")
        lengths = None if attention_mask is None else attention_mask.sum(-1)
        states, _ = run_layers(self, input_values, lengths, time_mask=mask_time_indices)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=tuple(states) if wanted else None)


@dataclass(frozen=True)
class Encoded:
    """Hidden states 0..L (or ..top_layer), each (B, T, D), and the valid frames of each item, (B,)."""

    hidden_states: list[Tensor]
    frames: Tensor


def hubert_config(g: Geometry) -> HubertConfig:
    """Transformers' configuration of a geometry, as model directories store it: no LayerDrop, no augmentation."""
    common = {
        "hidden_size": g.width,
        "num_hidden_layers": g.layers,
        "num_attention_heads": g.heads,
        "intermediate_size": g.ffn,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
        "conv_bias": True,
        "num_conv_pos_embeddings": g.pos_conv_kernel if g.positions == "convolution" else 1,
        "num_conv_pos_embedding_groups": g.pos_conv_groups,
        "layerdrop": 0.0,
        "apply_spec_augment": False,
        # Above 0, so that the mask embedding exists; while augmentation is off nothing is masked.
        "mask_time_prob": 0.05,
        "attn_implementation": "sdpa",
    }
    if g.front_end == "waveform":
        conv = [g.conv_channels] * len(CONV_KERNELS)
        return HubertConfig(conv_dim=conv, conv_kernel=CONV_KERNELS, conv_stride=CONV_STRIDES, **common)
    return LogMelHubertConfig(
        conv_dim=[g.projected_dim],
        conv_kernel=[RECEPTIVE_FIELD],
        conv_stride=[HOP],
        mels=g.mels,
        squeeze=g.squeeze,
        stem=g.stem,
        positions=g.positions,
        left_context=g.left_context,
        cmvn=g.cmvn,
        **common,
    )


def build_encoder(g: Geometry) -> HubertModel:
    """A randomly initialised encoder, from torch's global generator."""
    config = hubert_config(g)
    return LogMelHubertModel(config) if isinstance(config, LogMelHubertConfig) else HubertModel(config)


@torch.no_grad()
def squeezed(model: HubertModel) -> HubertModel:
    """A copy of a model with Whisper's stem whose layers run at 25 Hz, in eval mode, as a start for training.

    It begins with the mean of each pair of frames, and repeats the frames of its layers. Raises UpstreamError for a
    model with another stem, or one that is squeezed already.
    """
    if not isinstance(model.feature_projection, ConvolutionalStem) or squeeze_of(model) > 1:
        raise UpstreamError("only a model with stem `convolution` and squeeze 1 can be squeezed")
    copy = build_encoder(replace(geometry_of(model), squeeze=2))
    copy.load_state_dict(model.state_dict(), strict=False)
    copy.feature_projection.average_pairs()
    for parameter in copy.upsampler.parameters():
        parameter.zero_()
    return copy.eval()


def front_end_of(model: HubertModel) -> str:
    """`logmel` or `waveform`."""
    return "logmel" if isinstance(model.feature_extractor, LogMelFrontEnd) else "waveform"


def geometry_of(model: HubertModel, name: str = "model") -> Geometry:
    """The geometry of a loaded model. Raises UpstreamError where its convolutions differ from HuBERT's."""
    config = model.config
    front_end = front_end_of(model)
    if front_end == "waveform" and (
        tuple(config.conv_kernel) != CONV_KERNELS
        or tuple(config.conv_stride) != CONV_STRIDES
        or len(set(config.conv_dim)) != 1
    ):
        raise UpstreamError(f"{name}: its convolutions differ from HuBERT's, so its MACs cannot be counted")
    return Geometry(
        name,
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        front_end,
        conv_channels=config.conv_dim[0] if front_end == "waveform" else 512,
        mels=getattr(config, "mels", 80),
        pos_conv_kernel=config.num_conv_pos_embeddings,
        pos_conv_groups=config.num_conv_pos_embedding_groups,
        squeeze=squeeze_of(model),
        stem=getattr(config, "stem", "linear"),
        positions=getattr(config, "positions", "convolution"),
        left_context=left_context_of(model),
        cmvn=getattr(config, "cmvn", False),
    )


def squeeze_of(model: HubertModel) -> int:
    """The number of 20 ms frames that one frame of the layers represents."""
    return getattr(model.config, "squeeze", 1)


def left_context_of(model: HubertModel) -> int:
    """The 20 ms frames before a chunk that its frames attend to; 0 for a model that cannot stream."""
    return getattr(model.config, "left_context", 0)


def frames_together(model: HubertModel) -> int:
    """The number of 20 ms frames that windows of long audio must not separate: a chunk, or a frame of the layers."""
    return model.config.chunk if left_context_of(model) else squeeze_of(model)


def _chunk_of(model: HubertModel, chunk: int | None, chance: torch.Generator | None) -> int:
    """The chunk of a pass in 20 ms frames: the given one; in training a random one; otherwise that of the model."""
    squeeze = squeeze_of(model)
    if chunk is None and model.training:
        # Equal shares for equal ratios: 160 to 320 ms is as frequent as 640 to 1,280 ms.
        share = float(torch.rand((), generator=chance))
        return round(SHORTEST_CHUNK * (LONGEST_CHUNK / SHORTEST_CHUNK) ** share / squeeze) * squeeze
    return chunk_frames((model.config.chunk if chunk is None else chunk) * FRAME_MS, squeeze)


def _chunk_mask(frames: Tensor, chunk: int, left: int) -> Tensor:
    """(T, T) bool: row t is True for the keys of the chunk of frame t and the `left` frames before it.

    `frames` (T,) are the numbers of the frames; all sizes in frames of the layers.
    """
    first = (frames // chunk * chunk)[:, None]
    return (frames >= first - left) & (frames < first + chunk)


def normalises_waveform(model: HubertModel) -> bool:
    """Whether each waveform is normalised to zero mean and unit variance before the front end."""
    return getattr(model.config, "do_normalize", front_end_of(model) == "waveform")


def frame_count(samples: int) -> int:
    """Frames of a clip of `samples` at 16 kHz: floor((n - 400) / 320) + 1, and 0 below 400 samples."""
    return OURS.count(samples)


def _convolve(extractor: torch.nn.Module, wavs: Tensor, lengths: Tensor | None) -> Tensor:
    """The convolutions of a waveform front end: (B, N) samples -> (B, C, T).

    HuBERT-Base has a group norm, which normalises each channel over time. It gets the valid frames of an item alone;
    with the padding, the features of an item would depend on the longest one of its batch.
    """
    x = wavs[:, None]
    for layer in extractor.conv_layers:
        kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
        lengths = None if lengths is None else (lengths - kernel).div(stride, rounding_mode="floor") + 1
        norm = getattr(layer, "layer_norm", None)
        if lengths is not None and isinstance(norm, torch.nn.GroupNorm):
            x = layer.activation(_norm_over_time(norm, layer.conv(x), lengths))
        else:
            x = layer(x)
    return x


def _norm_over_time(norm: torch.nn.GroupNorm, x: Tensor, lengths: Tensor) -> Tensor:
    """A group norm of one channel a group over the first `lengths` (B,) frames: (B, C, T) -> (B, C, T), in 32 bits."""
    inside = (torch.arange(x.shape[2], device=x.device) < lengths[:, None]).unsqueeze(1).float()
    count = lengths.clamp(min=1)[:, None, None]
    full = x.float()
    centred = full - (full * inside).sum(2, keepdim=True) / count
    variance = (centred.square() * inside).sum(2, keepdim=True) / count
    scaled = centred / torch.sqrt(variance + norm.eps) * norm.weight[:, None].float() + norm.bias[:, None].float()
    return scaled.to(x.dtype)


def run_layers(
    model: HubertModel,
    wavs: Tensor,
    lengths: Tensor | None = None,
    *,
    time_mask: Tensor | None = None,
    top_layer: int | None = None,
    chance: torch.Generator | None = None,
    chunk: int | None = None,
) -> tuple[list[Tensor], Tensor | None]:
    """Run the encoder: (B, N) samples -> hidden states 0..top_layer, each (B, T, D), and the frame mask (B, T).

    `lengths` (B,) are the valid samples of each item; None means that nothing is padded, and the mask is None too.
    `time_mask` (B, T) bool replaces frames by the mask embedding. State 0 is the input of layer 1, state i the output
    of layer i, state L comes after the final norm. In a squeezed model (layers at 25 Hz) states 0 to L-1 repeat each
    frame of the layers, and state L comes from the upsampler. `chance`, a CPU generator, draws LayerDrop. Works for
    any Transformers HuBERT or wav2vec 2.0 encoder.

    A streaming model masks attention by chunks of `chunk` 20 ms frames. None: in train mode a chunk of 160 to 1,280 ms
    that `chance` draws (or torch's global generator), in eval mode that of the configuration.
    """
    depth = len(model.encoder.layers)
    top = depth if top_layer is None else top_layer
    if not 0 <= top <= depth:
        raise UpstreamError(f"layer {top} does not exist: the model has hidden states 0 to {depth}")
    if isinstance(model.feature_extractor, LogMelFrontEnd):
        # The front end computes in 32 bits, also where the layers have 16.
        features = model.feature_extractor(wavs, lengths).to(model.encoder.layer_norm.weight.dtype)
    elif wavs.requires_grad or lengths is not None and getattr(model.config, "feat_extract_norm", "layer") == "group":
        # The extractor's own `forward` norms the padding too, and fails for samples that were computed from others.
        features = _convolve(model.feature_extractor, wavs, lengths)
    else:
        features = model.feature_extractor(wavs)
    features = features.transpose(1, 2)
    left = left_context_of(model)
    if chunk is not None and not left:
        raise UpstreamError("this model attends to the whole clip, so it has no chunks; leave `chunk` out")
    chunk = _chunk_of(model, chunk, chance) if left else None
    squeeze, total = squeeze_of(model), features.shape[1]
    frames = None if lengths is None else model._get_feat_extract_output_lengths(lengths).clamp(min=0)
    convolves = isinstance(model.feature_projection, ConvolutionalStem)
    if squeeze > 1 and time_mask is not None:  # a pair is masked if one of its frames is
        time_mask = stack_pairs(time_mask.unsqueeze(-1)).any(-1)
    if squeeze > 1 and not convolves:
        features = stack_pairs(features, frames)
    if convolves and frames is not None:
        features = features * (torch.arange(total, device=features.device) < frames[:, None]).unsqueeze(-1)
    x = model.feature_projection(features)
    if squeeze > 1 and convolves:
        x = model.feature_projection.squeeze(stack_pairs(x, frames))
    if isinstance(x, tuple):  # wav2vec 2.0 also returns the features before the projection
        x = x[0]
    if time_mask is not None:
        x = torch.where(time_mask.unsqueeze(-1), model.masked_spec_embed.to(x.dtype), x)

    valid = attend = None
    steps = torch.arange(x.shape[1], device=x.device)
    if chunk is not None:
        attend = _chunk_mask(steps, chunk // squeeze, left // squeeze)[None, None]
    if frames is not None:
        valid = torch.arange(total, device=x.device) < frames[:, None]
        inner = valid if squeeze == 1 else steps * squeeze < frames[:, None]  # valid frames of the layers
        x = x * inner.unsqueeze(-1)
        # A row without any key gives NaN: an item without valid frames attends to its first frame, and in a streaming
        # model a frame of padding to itself.
        if attend is None:
            attend = (inner | (steps == 0))[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        else:
            attend = attend & inner[:, None, None, :] | (steps[:, None] == steps)
    if attend is not None and model.config._attn_implementation == "eager":
        # It adds a mask to the scores; SDPA takes a boolean one.
        attend = torch.zeros_like(attend, dtype=x.dtype).masked_fill(~attend, torch.finfo(x.dtype).min)

    encoder = model.encoder
    x = x + encoder.pos_conv_embed(x)
    stable = model.config.do_stable_layer_norm
    if not stable:
        x = encoder.layer_norm(x)
    x = encoder.dropout(x)
    states = [x]
    layerdrop = model.config.layerdrop if model.training else 0.0
    # A separate generator: dropout draws from the global one, more often for larger batches. Processes would then drop
    # different layers and wait for each other's gradients forever.
    dropped = (torch.rand(top, generator=chance) < layerdrop).tolist() if layerdrop > 0 else [False] * top
    for layer, drop in zip(encoder.layers[:top], dropped, strict=True):
        if not drop:
            out = layer(x, attention_mask=attend)
            x = out[0] if isinstance(out, tuple) else out
        states.append(x)
    if squeeze > 1:
        states = [repeat_frames(state, squeeze)[:, :total] for state in states]
        if top == depth:
            states[-1] = model.upsampler(x)[:, :total]
    if stable and top == depth:
        states[-1] = encoder.layer_norm(states[-1])
    return states, valid


def normalise_waveform(wav: Tensor) -> Tensor:
    """Zero mean and unit variance over the item's own samples, as Transformers' feature extractor does."""
    return (wav - wav.mean()) / torch.sqrt(wav.var(unbiased=False) + 1e-7)


def collate(model: HubertModel, wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Normalise each waveform if the model requires it and pad on its device: (B, N) and lengths (B,), or None.

    Items shorter than one frame are padded with zeros and have no valid frame. Raises UpstreamError for
    an item that is not a 1-D tensor.
    """
    if not len(wavs):
        raise UpstreamError("the encoder got an empty list of waveforms; it needs at least one")
    for i, wav in enumerate(wavs):
        if not isinstance(wav, Tensor):
            raise UpstreamError(f"waveform {i} is a {type(wav).__name__}; expected a tensor (see torch.from_numpy)")
        if wav.dim() != 1:
            raise UpstreamError(f"waveform {i} has shape {tuple(wav.shape)}; expected one dimension (samples)")
    device = next(model.parameters()).device
    lengths = torch.tensor([len(wav) for wav in wavs], device=device)
    items = [wav.to(device, torch.float32) for wav in wavs]
    if normalises_waveform(model):
        items = [normalise_waveform(wav) if len(wav) else wav for wav in items]
    padded = pad_sequence(items, batch_first=True)
    least = frames_of(model.config).field
    if padded.shape[1] < least:
        padded = torch.nn.functional.pad(padded, (0, least - padded.shape[1]))
    same = bool((lengths == padded.shape[1]).all())
    return padded, None if same else lengths


def encode(
    model: HubertModel, wavs: Sequence[Tensor], *, top_layer: int | None = None, chunk: int | None = None
) -> Encoded:
    """Hidden states of unpadded 1-D 16 kHz waveforms; the caller sets train mode and gradients. `chunk` as in
    `run_layers`.

    Valid frames do not depend on the other items of the batch. An item below one frame (400 samples in models that
    `load_model` accepts) has 0 valid frames.
    """
    padded, lengths = collate(model, wavs)
    own = frames_of(model.config)
    frames = torch.tensor([own.count(len(wav)) for wav in wavs], device=padded.device)
    states, _ = run_layers(model, padded, lengths, top_layer=top_layer, chunk=chunk)
    return Encoded(states, frames)
