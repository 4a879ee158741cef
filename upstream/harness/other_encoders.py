"""WavLM, w2v-BERT 2.0 and Whisper's encoder, in Transformers form, as S3PRL upstreams.

They follow the same contract as our models: unpadded 16 kHz waveforms in; state 0 is the input of layer 1, state i the
output of layer i, state L comes after the final norm (w2v-BERT 2.0 has none); 50 frames per second; no frame of the
padding. Clips are encoded one by one, so that an item does not depend on its batch.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from corpora.audio import SAMPLE_RATE
from corpora.files import read_json
from upstream.errors import UpstreamError
from upstream.harness.expert import UpstreamExpert
from upstream.model.encoder import Encoded, frame_count, normalise_waveform
from upstream.model.family import HOP, RECEPTIVE_FIELD
from upstream.model.modeldir import MODEL_TYPES, check_weights
from upstream.model.rate import check_directory


class OtherEncoder(nn.Module, ABC):
    """One encoder; a subclass builds it, runs it on a clip, and names its layers."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.encoder = self.build(read_json(path / "config.json"))

    @abstractmethod
    def build(self, config: dict[str, Any]) -> nn.Module:
        """The module with its weights, in eval mode, 32 bits."""

    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """The layers whose outputs are hidden states."""

    @abstractmethod
    def run(self, wav: Tensor) -> tuple[Tensor, int]:
        """One 1-D clip of at least 400 samples -> last hidden state (1, T, D), and how many of its frames are valid."""

    def states(self, wav: Tensor) -> list[Tensor]:
        """Hidden states 0..L of one 1-D clip, each (T, D)."""
        kept: list[Tensor] = []
        layers = self.layers()

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append(args[0] if args else kwargs["hidden_states"])

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)

        hooks = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
        hooks += [layer.register_forward_hook(after) for layer in layers]
        try:
            last, frames = self.run(wav)
        finally:
            for hook in hooks:
                hook.remove()
        kept[-1] = last
        return [state[0, :frames] for state in kept]


def _weights(path: Path, module: nn.Module, prefixes: Sequence[str]) -> nn.Module:
    """Load the tensors of model.safetensors under the first of these prefixes that it has; others are not read."""
    wanted = module.state_dict()
    try:
        with safe_open(path / "model.safetensors", "pt") as file:
            names = set(file.keys())
            first = next(iter(wanted))
            prefix = next((p for p in prefixes if any(n.startswith(p) and n[len(p) :] in wanted for n in names)), None)
            if prefix is None:
                raise UpstreamError(f"{path}: model.safetensors holds no tensor of this encoder (looked for {first})")
            state = {n[len(prefix) :]: file.get_tensor(n).float() for n in names if n.startswith(prefix)}
    except (SafetensorError, OSError) as error:
        raise UpstreamError(f"{path}: model.safetensors cannot be read: {error}") from error
    state = {_spelling(name, wanted): tensor for name, tensor in state.items()}
    missing = sorted(wanted.keys() - state.keys() - {"masked_spec_embed"})
    if missing:
        raise UpstreamError(f"{path}: model.safetensors lacks {len(missing)} tensors, first `{missing[0]}`")
    try:
        module.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)
    except RuntimeError as error:
        raise UpstreamError(f"{path}: the weights do not fit the configuration: {error}") from error
    return module.eval()


def _spelling(name: str, wanted: dict[str, Tensor]) -> str:
    """The module's name of a tensor: weight norm has two spellings, and most published files use the older one."""
    if name in wanted:
        return name
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        if name.endswith(old):
            return f"{name.removesuffix(old)}parametrizations.weight.{new}"
    return name


class WavLM(OtherEncoder):
    """Waveform encoder of HuBERT's frames, with a relative position bias that passes from layer to layer."""

    def build(self, config: dict[str, Any]) -> nn.Module:
        from transformers import WavLMConfig, WavLMModel

        made = WavLMConfig.from_dict(config)
        made.layerdrop, made.apply_spec_augment = 0.0, False
        preprocessor = self.path / "preprocessor_config.json"
        self.normalises = bool(read_json(preprocessor).get("do_normalize", True)) if preprocessor.is_file() else False
        return _weights(self.path, WavLMModel(made), ("wavlm.", ""))

    def layers(self) -> Sequence[nn.Module]:
        return list(self.encoder.encoder.layers)

    def run(self, wav: Tensor) -> tuple[Tensor, int]:
        x = normalise_waveform(wav) if self.normalises else wav
        return self.encoder(x[None]).last_hidden_state, frame_count(len(wav))


class Wav2Vec2Bert(OtherEncoder):
    """w2v-BERT 2.0: 80 log-mel bands every 10 ms, two stacked, into Conformer layers: the frames of our formula."""

    def build(self, config: dict[str, Any]) -> nn.Module:
        from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

        made = Wav2Vec2BertConfig.from_dict(config)
        # The adapter would shorten the last state, and is no part of the encoder.
        made.layerdrop, made.apply_spec_augment, made.add_adapter = 0.0, False, False
        preprocessor = self.path / "preprocessor_config.json"
        options = read_json(preprocessor) if preprocessor.is_file() else {}
        self.extractor = SeamlessM4TFeatureExtractor(**{k: v for k, v in options.items() if not k.endswith("_type")})
        return _weights(self.path, Wav2Vec2BertModel(made), ("wav2vec2_bert.", ""))

    def layers(self) -> Sequence[nn.Module]:
        return list(self.encoder.encoder.layers)

    def run(self, wav: Tensor) -> tuple[Tensor, int]:
        # Each band is normalised over time, which needs more than one frame of 10 ms.
        samples = nn.functional.pad(wav, (0, max(0, RECEPTIVE_FIELD + HOP // 2 - len(wav)))).detach().cpu().numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            features = self.extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        x = features["input_features"].to(wav.device)
        frames = frame_count(len(wav))
        # An odd last frame of 10 ms is stacked with a padded one, and still counts as a frame.
        return self.encoder(x[:, :frames]).last_hidden_state, frames


class Whisper(OtherEncoder):
    """Whisper's encoder without its decoder: log-mel of 30 s, padded with silence; only the clip's frames are kept.

    A longer clip is encoded in pieces of 30 s, as in Whisper itself. The decoder's weights are not read.
    """

    def build(self, config: dict[str, Any]) -> nn.Module:
        from transformers import WhisperConfig, WhisperFeatureExtractor
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        made = WhisperConfig.from_dict(config)
        made.encoder_layerdrop = 0.0
        self.seconds = 2 * made.max_source_positions / 100  # two mel frames of 10 ms a position
        self.extractor = WhisperFeatureExtractor(feature_size=made.num_mel_bins, chunk_length=round(self.seconds))
        return _weights(self.path, WhisperEncoder(made), ("model.encoder.", "encoder.", ""))

    def layers(self) -> Sequence[nn.Module]:
        return list(self.encoder.layers)

    def states(self, wav: Tensor) -> list[Tensor]:
        pieces = [super(Whisper, self).states(piece) for piece in wav.split(round(self.seconds * SAMPLE_RATE))]
        return [torch.cat(states) for states in zip(*pieces, strict=True)]

    def run(self, wav: Tensor) -> tuple[Tensor, int]:
        samples = wav.detach().cpu().numpy()
        features = self.extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]
        return self.encoder(features.to(wav.device)).last_hidden_state, -(-len(wav) // HOP)


OTHER_ENCODERS: dict[str, type[OtherEncoder]] = {"wavlm": WavLM, "wav2vec2-bert": Wav2Vec2Bert, "whisper": Whisper}


class OtherExpert(UpstreamExpert):
    """One of these encoders behind S3PRL's interface, with the frames and modes of `UpstreamExpert`."""

    def __init__(self, ckpt: str | Path) -> None:
        nn.Module.__init__(self)
        path = Path(ckpt)
        check_weights(path)
        check_directory(path)
        self.name = f"[{path.name}]"
        self.model = OTHER_ENCODERS[model_type(path)](path)

    def encode(self, wavs: Sequence[Tensor]) -> Encoded:
        device = next(self.model.parameters()).device
        items = [self.model.states(wav.to(device, torch.float32)) for wav in wavs]
        frames = torch.tensor([len(states[0]) for states in items], device=device)
        return Encoded([pad_sequence(layer, batch_first=True) for layer in zip(*items, strict=True)], frames)


def model_type(path: Path) -> str:
    """The model type of a directory by its config.json. Raises UpstreamError for an unknown one."""
    if not (path / "config.json").is_file():
        raise UpstreamError(f"{path}: no config.json, so this is not a model directory in Transformers form")
    kind = read_json(path / "config.json").get("model_type")
    if kind not in OTHER_ENCODERS and kind not in MODEL_TYPES:
        raise UpstreamError(
            f"{path}: model type `{kind}` is not one of {', '.join(sorted({*OTHER_ENCODERS, *MODEL_TYPES}))}"
        )
    return kind


def expert_of(path: Path | str) -> UpstreamExpert:
    """The expert for any model directory: ours, HuBERT, wav2vec 2.0 (XLS-R, MMS), WavLM, w2v-BERT 2.0, Whisper."""
    return OtherExpert(path) if model_type(Path(path)) in OTHER_ENCODERS else UpstreamExpert(path)
