"""Configuration of units, initialisation and pre-training: plain dataclasses, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass

INIT_KINDS = ("random", "model", "every_nth", "first_n", "project", "foreign")
LAYER_CHOICES = ("every_nth", "first_n")
S3PRL = "s3prl:"  # what the source of units that an S3PRL upstream gives starts with


@dataclass(frozen=True)
class TargetConfig:
    """How units are made: features -> optional PCA -> k-means.

    `source` is `mfcc`, the path of a model directory, or an upstream of S3PRL: `s3prl:NAME`, with a local checkpoint
    `s3prl:NAME=PATH`. `layer` counts hidden states (0 = input of the first Transformer layer); None takes two thirds
    of the depth. `pca` is a dimension (int >= 1), a share of
    explained variance (float below 1) or None. `fit_hours` bounds the audio that PCA and k-means see (None: 10 h).
    """

    source: str = "mfcc"
    layer: int | None = None
    pca: int | float | None = None
    whiten: bool = False
    k: int = 100
    fit_hours: float | None = None
    batch_seconds: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < 2 or self.k > 65535:
            raise ValueError(f"units: k={self.k} must lie between 2 and 65535 (units are stored as 16-bit integers)")
        if self.source == "mfcc" and self.layer is not None:
            raise ValueError("units: `layer` has no meaning for the source `mfcc`; name a model directory instead")
        if self.pca is not None and self.pca <= 0:
            raise ValueError(f"units: pca={self.pca} must be a dimension >= 1, a share of variance below 1, or null")


@dataclass(frozen=True)
class InitConfig:
    """Where a model's weights start: `random`, `model` (the same geometry, continued with new heads), `every_nth`
    or `first_n` (layers of a deeper `source` of the same width; a thinner student takes only what fits), or `project`
    (a thinner student: the source's layers brought to its width by low-rank projection), or `foreign` (layers of a
    published pre-norm encoder of the same width, as they are: `source` is a Whisper directory in Transformers form).

    `layers` says which layers `project` takes (every_nth, first_n) and which `foreign` takes (their numbers from 0);
    the other kinds say it themselves. `minutes` bounds the training audio
    on which `project` looks at the source's activations; 0 looks at its weights alone.
    """

    kind: str = "random"
    source: str | None = None
    layers: str | list[int] = "every_nth"
    minutes: float = 5.0

    def __post_init__(self) -> None:
        if self.kind == "foreign":
            if not isinstance(self.layers, list) or not self.layers or min(self.layers) < 0:
                raise ValueError(f"init: foreign needs layers as numbers from 0, such as [0, 1]; got {self.layers}")
        elif self.layers not in LAYER_CHOICES:
            raise ValueError(f"init: layers `{self.layers}` is unknown; choose one of {', '.join(LAYER_CHOICES)}")
        if self.minutes < 0:
            raise ValueError(f"init: minutes={self.minutes} must not be negative")
        if self.kind not in INIT_KINDS:
            raise ValueError(f"init: kind `{self.kind}` is unknown; choose one of {', '.join(INIT_KINDS)}")
        if (self.kind == "random") != (self.source is None):
            raise ValueError(f"init: kind `{self.kind}` {'takes no' if self.kind == 'random' else 'needs a'} source")


@dataclass(frozen=True)
class RegressionConfig:
    """Prediction of a teacher's features in place of its units or beside them, as DistilHuBERT does (2110.01900).

    From the student's top state one linear head for each hidden state of `source` in `layers` predicts that state;
    the loss of a frame is the mean absolute difference minus `cosine` times the log-sigmoid of the cosine similarity,
    averaged over layers and all valid frames, times `weight`. `normalise` brings each target frame to zero mean and
    unit variance, so that no layer dominates by its norm.
    """

    source: str
    layers: list[int]
    weight: float = 1.0
    cosine: float = 1.0
    normalise: bool = False

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers) or min(self.layers) < 0:
            raise ValueError(f"regression: layers={self.layers} must name different hidden states, at least one")
        if self.weight <= 0 or self.cosine < 0:
            raise ValueError(f"regression: weight={self.weight} must be positive and cosine={self.cosine} not negative")


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run. Durations in seconds of audio, probabilities in [0, 1]. `warmup` is the share of the steps
    over which the rate rises, `clip` the largest norm of the gradient (0: no limit).

    `batch_seconds` bounds the padded audio of one step. `mask_prob` is the share of frames that start a span times
    its length, as in HuBERT (0.8 with spans of 10 masks about half of the frames); 0 masks nothing, which has a meaning
    for feature regression alone. `temperature` flattens the share
    of each language: p ~ hours ** temperature (1 = as it is, 0 = equal).
    `precision` is `fp32`, `bf16`, or `auto`: bf16 where the hardware multiplies it natively (GPU, a CPU with AMX
    or AVX512-BF16).
    A step adds up the gradients of `accumulate` batches on every process. `checkpointing` computes activations again
    in the backward pass instead of keeping them. `compile` is `on`, `off`, or `auto`: on where there is a GPU.
    `workers` processes decode audio. `mix_shards` shards are shuffled together (with `--shards`). A step whose loss is
    not finite is skipped; more than `bad_steps` of them that are also more than `bad_rate` of all end the run. Of audio
    that cannot be read nothing is learnt; the same limits hold for such clips.
    """

    steps: int = 1000
    batch_seconds: float = 40.0
    crop_seconds: float = 15.6
    lr: float = 5e-4
    warmup: float = 0.08
    weight_decay: float = 0.01
    clip: float = 1.0
    mask_prob: float = 0.8
    mask_length: int = 10
    masked_weight: float = 1.0
    unmasked_weight: float = 0.1
    logits: str = "cosine"
    logit_temperature: float = 0.1
    projection: int = 256
    dropout: float = 0.1
    layerdrop: float = 0.0
    temperature: float = 0.5
    precision: str = "auto"
    valid_every: int = 200
    accumulate: int = 1
    checkpointing: bool = False
    compile: str = "auto"
    workers: int = 0
    mix_shards: int = 4
    bad_steps: int = 5
    bad_rate: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "valid_every", "accumulate", "mix_shards"):
            if getattr(self, name) < 1:
                raise ValueError(f"pretrain: {name}={getattr(self, name)} must be at least 1")
        for name in ("workers", "bad_steps", "bad_rate"):
            if getattr(self, name) < 0:
                raise ValueError(f"pretrain: {name}={getattr(self, name)} must not be negative")
        for name, low, high, what in (
            ("warmup", 0.0, 1.0, "a share of the steps"),
            ("dropout", 0.0, 1.0, "a probability"),
            ("layerdrop", 0.0, 1.0, "a probability"),
            ("clip", 0.0, float("inf"), "the largest norm of the gradient, 0 for no limit"),
            ("temperature", 0.0, float("inf"), "an exponent of hours"),
            ("weight_decay", 0.0, float("inf"), "the factor of AdamW"),
        ):
            if not low <= getattr(self, name) <= high:
                bounds = f"lie in [{low:g}, {high:g}]" if high < float("inf") else f"be at least {low:g}"
                raise ValueError(f"pretrain: {name}={getattr(self, name)} must {bounds}: it is {what}")
        for name in ("lr", "crop_seconds", "logit_temperature", "projection"):
            if not getattr(self, name) > 0:
                raise ValueError(f"pretrain: {name}={getattr(self, name)} must be positive")
        if self.crop_seconds > self.batch_seconds:
            raise ValueError(
                f"pretrain: crop_seconds={self.crop_seconds} does not fit into batch_seconds={self.batch_seconds}"
            )
        if self.logits not in ("cosine", "linear"):
            raise ValueError(f"pretrain: logits `{self.logits}` is unknown; choose cosine or linear")
        if self.compile not in ("auto", "on", "off"):
            raise ValueError(f"pretrain: compile `{self.compile}` is unknown; choose auto, on or off")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"pretrain: precision `{self.precision}` is unknown; choose auto, fp32 or bf16")
        if not 0 <= self.mask_prob <= 1 or self.mask_length < 1:
            raise ValueError(
                f"pretrain: mask_prob={self.mask_prob} must lie in [0, 1], mask_length={self.mask_length} be positive"
            )
        if self.masked_weight <= 0 or self.unmasked_weight < 0:
            raise ValueError(
                f"pretrain: masked_weight={self.masked_weight} must be positive and "
                f"unmasked_weight={self.unmasked_weight} not negative"
            )
