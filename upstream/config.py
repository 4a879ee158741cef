"""Configuration of units, initialisation and pre-training, checked by pydantic; importable without torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

InitKind = Literal["random", "model", "every_nth", "first_n", "project", "foreign"]
LayerChoice = Literal["every_nth", "first_n"]
INIT_KINDS: tuple[str, ...] = get_args(InitKind)
LAYER_CHOICES: tuple[str, ...] = get_args(LayerChoice)
S3PRL = "s3prl:"  # prefix of a source of units that is an S3PRL upstream

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]

_config = dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))


@_config
class TargetConfig:
    """How units are made: features -> optional PCA -> k-means.

    `source` is `mfcc`, the path of a model directory, or an upstream of S3PRL: `s3prl:NAME`, with a local checkpoint
    `s3prl:NAME=PATH`. `layer` counts hidden states (0 = input of the first Transformer layer); None: two thirds of the
    depth. `pca` is a dimension (int >= 1), a share of explained variance (float below 1) or None. `fit_hours` bounds
    the audio on which PCA and k-means are fitted (None: 10 h). Units are stored as 16-bit integers, which bounds `k`.
    `cmvn` gives each feature mean 0 and variance 1 over its utterance: without it, units of a few speakers say who
    speaks and through which channel rather than what is said.
    """

    source: str = "mfcc"
    layer: Annotated[int, Field(ge=0)] | None = None
    cmvn: bool = False
    pca: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0)] | None = None
    whiten: bool = False
    k: Annotated[int, Field(ge=2, le=65535)] = 100
    fit_hours: Positive | None = None
    batch_seconds: Positive = 120.0
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> TargetConfig:
        if self.source == "mfcc" and self.layer is not None:
            raise ValueError("units: the source `mfcc` has no `layer`; name a model directory instead")
        return self


@_config
class InitConfig:
    """Initial weights of a model: `random`, `model` (a model of the same geometry, with new heads), `every_nth` or
    `first_n` (layers of a deeper `source` of the same width; a thinner student copies only tensors that fit),
    `project` (a thinner student: the layers of the source, brought to its width by low-rank projection), or `foreign`
    (layers of Whisper's encoder of the same width, copied unchanged; `source` is its folder in Transformers form).

    `layers` says which layers `project` takes (every_nth, first_n) or `foreign` copies (numbers from 0). Only `project`
    reads `minutes`.
    """

    kind: InitKind = "random"
    source: str | None = Field(None, description="model directory of the initial weights")
    layers: LayerChoice | list[Annotated[int, Field(ge=0)]] = Field(
        "every_nth",
        description="layers that init project copies (every_nth or first_n; default: every_nth) or init foreign "
        "(numbers from 0, such as 0,1,2,3)",
    )
    minutes: NotNegative = Field(
        5.0,
        description="training audio from which init project computes the source's activations; 0: it reads only the "
        "weights (default: 5)",
    )

    @model_validator(mode="after")
    def _check(self) -> InitConfig:
        if (self.kind == "random") != (self.source is None):
            raise ValueError(f"init: kind `{self.kind}` {'takes no' if self.kind == 'random' else 'needs a'} source")
        if self.kind == "foreign" and (isinstance(self.layers, str) or not self.layers):
            raise ValueError(f"init: kind `foreign` needs layers as numbers from 0, such as [0, 1], not {self.layers}")
        if self.kind != "foreign" and not isinstance(self.layers, str):
            raise ValueError(f"init: kind `{self.kind}` takes layers {' or '.join(LAYER_CHOICES)}, not {self.layers}")
        return self


@_config
class RegressionConfig:
    """Prediction of a teacher's features, instead of its units or together with them, as in DistilHuBERT (2110.01900).

    For each hidden state of `source` in `layers`, one linear head predicts that state from the student's top state. The
    loss of a frame is the mean absolute difference minus `cosine` times the log-sigmoid of the cosine similarity,
    averaged over layers and all valid frames, times `weight`. Recipes call it `regression`, the command line
    `--teacher-*`, and the log `feature_l1` and `feature_cosine`.
    """

    source: str = Field(description="model directory whose features are predicted, with units or without")
    layers: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, description="its hidden states, such as 4,8,12")
    weight: Positive = Field(1.0, description="weight of this loss (default: 1)")
    cosine: NotNegative = Field(1.0, description="weight of the cosine term relative to L1 (default: 1)")
    normalise: bool = Field(
        False,
        description="normalise each target frame to mean 0 and variance 1, so that no layer dominates",
    )

    @model_validator(mode="after")
    def _check(self) -> RegressionConfig:
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"regression: layers={self.layers} names a hidden state twice")
        return self


@_config
class PretrainConfig:
    """One pre-training run. Durations in seconds of audio, probabilities in [0, 1].

    `warmup` is the share of the steps in which the learning rate rises. `clip` is the largest norm of the gradient (0:
    no limit). `batch_seconds` bounds the padded audio of one step. `mask_prob` is the share of frames that start a span
    times its length, as in HuBERT (0.8 with spans of 10 masks about half of the frames); 0 masks nothing, which only
    feature regression allows. `temperature` flattens the share of each language: p ~ hours ** temperature (1 = as in
    the data, 0 = equal). `channel_db` filters each training clip with a random channel of gains up to so many dB, and
    of a lower bandwidth in a third of the clips (0: none); units and a teacher's features stay those of the clip.
    `precision` auto: bf16 where the hardware multiplies it natively (GPU, a CPU with AMX or AVX512-BF16). `compile`
    auto: on if there is a GPU. A step sums the gradients of `accumulate` batches on every process. `checkpointing`
    recomputes activations in the backward pass instead of storing them. `workers` processes decode audio. `mix_shards`
    shards are shuffled together (with `--shards`). A step with a loss that is not finite is skipped; more than
    `bad_steps` such steps that are also more than `bad_rate` of all steps end the run. The same limits hold for clips
    that cannot be read.
    """

    steps: Count = 1000
    batch_seconds: Positive = 40.0
    crop_seconds: Positive = 15.6
    lr: Positive = 5e-4
    warmup: Share = 0.08
    weight_decay: NotNegative = 0.01
    clip: NotNegative = 1.0
    mask_prob: Share = 0.8
    mask_length: Count = 10
    masked_weight: Positive = 1.0
    unmasked_weight: NotNegative = 0.1
    logits: Literal["cosine", "linear"] = "cosine"
    logit_temperature: Positive = 0.1
    projection: Count = 256
    dropout: Share = 0.1
    layerdrop: Share = 0.0
    temperature: NotNegative = 0.5
    channel_db: NotNegative = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    valid_every: Count = 200
    accumulate: Count = 1
    checkpointing: bool = False
    compile: Literal["auto", "on", "off"] = "auto"
    workers: Annotated[int, Field(ge=0)] = 0
    mix_shards: Count = 4
    bad_steps: Annotated[int, Field(ge=0)] = 5
    bad_rate: NotNegative = 0.01
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> PretrainConfig:
        if self.crop_seconds > self.batch_seconds:
            raise ValueError(
                f"pretrain: crop_seconds={self.crop_seconds} does not fit into batch_seconds={self.batch_seconds}"
            )
        return self


# Settings that were added later, each with the default that changes no result.
_LATER = {"cmvn": False, "channel_db": 0.0}


def settings_of(config: TargetConfig | PretrainConfig) -> dict[str, Any]:
    """The fields that identify units or a run. Later settings are left out where they change nothing, so that units
    and runs of earlier versions still count as finished and resume."""
    return {name: value for name, value in asdict(config).items() if (name, value) not in _LATER.items()}
