"""Fine-tune an encoder with CTC on letters: `python -m downstream.asr train CONFIG [key=value ...]`, resumable.

First only the head is trained, on stored features of short unchanged clips: thousands of cheap steps, until it has left
the plateau on which every frame is blank. Then all weights are trained at a low rate, with augmentation. The schedule
counts seconds of audio, not steps. Several processes (torchrun) share a step. `head` starts from an earlier training.

A small encoder may stay on the plateau. `teacher` names a trained recogniser; the small one then also learns its
probabilities of every frame. The teacher hears the same augmented audio, without SpecAugment and `warp`.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import ctc_loss
from torch.nn.utils.rnn import pad_sequence

from corpora.audio import SAMPLE_RATE
from corpora.files import atomic_file
from corpora.prepare.packed import PackedAudio
from downstream.asr.augment import AugmentConfig, augment
from downstream.asr.evaluate import error_rates, read_dev, read_text
from downstream.asr.reading import named_head
from downstream.asr.recogniser import (
    BLANK,
    Recogniser,
    check_weights,
    load_head,
    save_recogniser,
    spec_augment,
)
from upstream.distributed import average_gradients, place, process_group
from upstream.model.encoder import ConvolutionalStem, run_layers, squeeze_of, squeezed
from upstream.model.family import FRAME_RATE
from upstream.model.fast import attend_by_products
from upstream.model.frontend import LogMelFrontEnd
from upstream.model.modeldir import load_model, model_sha256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One training source: a packed store, its Kaldi `text`, its share of the training audio, how many of its clips
    are joined into one example (a recording of one word does not show how words follow each other), and a Kaldi
    `segments` file if the ids of `text` are parts of recordings (`downstream.asr cut`)."""

    audio: str
    text: str
    share: float = 1.0
    join: tuple[int, int] = (1, 1)
    segments: str | None = None


class Clips(Mapping[str, np.ndarray]):
    """The clips of a source by their id, int16 (n,): recordings of its store, or the parts that `segments` names."""

    def __init__(self, source: Source) -> None:
        self._store = PackedAudio(Path(source.audio))
        self._parts: dict[str, tuple[str, int, int]] = {}
        if source.segments is None:
            self._parts = {name: (name, 0, self._store.samples(name)) for name in self._store}
            return
        for line in Path(source.segments).read_text(encoding="utf-8").splitlines():
            name, recording, start, end = line.split()
            if recording in self._store:
                first, last = (round(float(seconds) * SAMPLE_RATE) for seconds in (start, end))
                self._parts[name] = (recording, first, min(last, self._store.samples(recording)))

    def __getitem__(self, clip_id: str) -> np.ndarray:
        recording, first, last = self._parts[clip_id]
        return self._store[recording][first:last]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def samples(self, clip_id: str) -> int:
        """Length of a clip in samples, without reading it."""
        _, first, last = self._parts[clip_id]
        return last - first


@dataclass(frozen=True)
class TrainConfig:
    """One fine-tuning. Durations of audio in seconds or hours, rates of AdamW.

    `longest` is the curriculum: from a share of the run on, clips up to so many seconds are used.
    """

    model: str
    out: str
    sources: list[Source]
    dev: dict[str, Source]
    head: str | None = None  # directory of a head to start from, instead of the training of the head alone
    teacher: str | None = None  # model directory of a recogniser with as many frames a second
    teacher_head: str | None = None  # its head directory
    teacher_weight: float = 1.0  # of `teacher_loss` beside CTC
    teacher_hours: float = 1e9  # of audio with this loss; then CTC alone
    warm_hours: float = 1.6
    warm_longest: float = 7.0
    warm_steps: int = 1500
    warm_rate: float = 1e-2
    hours: float = 100.0
    batch_seconds: float = 40.0
    squeeze: int = 1  # 2: begin with the model's layers at 25 Hz (`upstream.model.encoder.squeezed`)
    freeze: int = 0  # layers from the bottom, and the stem below them, that keep their weights
    freeze_stem: bool = False  # keep the weights of the convolutions of Whisper's stem in any case
    rate: float = 2e-4
    head_rate: float = 1e-3
    warmup_hours: float = 1.0
    decay_share: float = 0.25
    longest: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 10.0), (0.3, 16.0)])
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.998
    dropout: float = 0.05
    spec_bands: int = 2
    spec_spans: int = 5
    warp: float = 0.0  # of frequencies: factors between exp(-warp) and exp(warp)
    augment_hours: float = 3.0  # until then the share of augmented clips rises to 1
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    save_minutes: float = 4.0
    dev_minutes: float = 10.0
    dev_clips: int = 30
    snapshot_hours: float = 5.0
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """Clips that are joined in this order, and their joined text."""

    source: int
    ids: tuple[str, ...]
    text: str
    samples: int


class Examples:
    """Endless batches of examples for one process: sources by their shares, similar lengths together."""

    def __init__(self, config: TrainConfig, rank: int, ranks: int) -> None:
        self.config, self.rank, self.ranks = config, rank, ranks
        self.audio = [Clips(source) for source in config.sources]
        self.texts = [read_text(Path(source.text)) for source in config.sources]
        self.ids: list[list[str]] = []
        for source, audio, texts in zip(config.sources, self.audio, self.texts, strict=True):
            ids = sorted(set(texts) & set(audio))
            if not ids:
                raise ValueError(f"{source.text}: none of its {len(texts)} ids is in the store {source.audio}")
            self.ids.append(ids)

    def batches(self, heard: float) -> tuple[list[list[Example]], float]:
        """A chunk of batches for this rank, decided by seed and seconds heard so far; and the seconds in all ranks."""
        config = self.config
        done = heard / (config.hours * 3600)
        longest = max((seconds for share, seconds in config.longest if share <= done), default=10.0) * SAMPLE_RATE
        rng = np.random.default_rng([config.seed, round(heard)])
        total = sum(source.share for source in config.sources)
        examples: list[Example] = []
        chunk = config.batch_seconds * self.ranks * 16 * SAMPLE_RATE
        for number, source in enumerate(config.sources):
            wanted, audio, texts, ids = (
                chunk * source.share / total,
                self.audio[number],
                self.texts[number],
                self.ids[number],
            )
            while wanted > 0:
                count = int(rng.integers(source.join[0], source.join[1] + 1))
                chosen = tuple(ids[i] for i in rng.integers(len(ids), size=count))
                samples = sum(audio.samples(name) for name in chosen)
                if samples > longest or samples < 4000:
                    continue
                examples.append(Example(number, chosen, " ".join(texts[name] for name in chosen), samples))
                wanted -= samples
        examples.sort(key=lambda example: example.samples)
        rows: list[list[Example]] = [[]]
        for example in examples:
            if rows[-1] and (len(rows[-1]) + 1) * example.samples > config.batch_seconds * SAMPLE_RATE:
                rows.append([])
            rows[-1].append(example)
        rows = rows[: len(rows) // self.ranks * self.ranks] or rows * self.ranks
        # Neighbours in length go to the ranks of one step: they take the same time.
        steps = [rows[i : i + self.ranks] for i in range(0, len(rows) - self.ranks + 1, self.ranks)]
        order = rng.permutation(len(steps))
        seconds = sum(example.samples for step in steps for row in step for example in row) / SAMPLE_RATE
        return [steps[i][self.rank] for i in order], seconds

    def load(self, example: Example) -> np.ndarray:
        parts = [self.audio[example.source][name].astype(np.float32) / 32768 for name in example.ids]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]


def collate(
    model: Recogniser,
    batch: list[Example],
    examples: Examples,
    rng: np.random.Generator,
    config: TrainConfig,
    share: float,
):
    """Augmented (a `share` of them), padded waveforms (B, N), lengths (B,), and the texts as classes."""
    clips = [examples.load(example) for example in batch]
    changed = [augment(clip, rng, config.augment, clips) if rng.random() < share else clip for clip in clips]
    lengths = torch.tensor([len(clip) for clip in changed])
    wavs = pad_sequence([torch.from_numpy(clip) for clip in changed], batch_first=True)
    return wavs, lengths, [model.encode_text(example.text) for example in batch]


def character_loss(logits: Tensor, frames: Tensor, targets: list[list[int]]) -> Tensor:
    """CTC loss a character over a batch, (B, T, C) logits; texts that do not fit their frames count as 0."""
    sizes = torch.tensor([len(target) for target in targets])
    flat = torch.tensor([value for target in targets for value in target])
    logp = logits.float().log_softmax(-1).transpose(0, 1)
    losses = ctc_loss(logp, flat, frames, sizes, blank=BLANK, reduction="none", zero_infinity=True)
    return losses.sum() / sizes.sum()


def teacher_loss(logits: Tensor, wanted: Tensor, frames: Tensor, characters: int) -> Tensor:
    """Cross-entropy of logits (B, T, C) with `wanted` (B, T, C), the teacher's logits, in nats: the sum over the valid
    `frames` (B,), divided by the number of `characters` in the texts."""
    valid = torch.arange(logits.shape[1]) < frames[:, None]
    logp, p = logits.float().log_softmax(-1)[valid], wanted.float().softmax(-1)[valid]
    return -(p * logp).sum() / characters


def losses_of(
    model: Recogniser, wavs: Tensor, lengths: Tensor, targets: list[list[int]], teacher: Recogniser | None = None
) -> dict[str, Tensor]:
    """Losses a character from waveforms, bfloat16 where that is safe: `loss` (CTC), `teacher_loss` if there is one."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, frames = model(wavs, lengths)
    losses = {"loss": character_loss(logits, frames, targets)}
    if teacher is not None:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            wanted, _ = teacher(wavs, lengths)
        losses["teacher_loss"] = teacher_loss(logits, wanted, frames, sum(map(len, targets)))
    return losses


def warm_head(model: Recogniser, examples: Examples, config: TrainConfig) -> list[float]:
    """Train the head alone on stored top states of the first source; the mean loss of each hundred steps.

    The head starts at zero: all characters alike. Only clips up to `warm_longest` seconds, unchanged.
    """
    audio, texts = examples.audio[0], examples.texts[0]
    rng = np.random.default_rng([config.seed, 7])
    ids = [name for name in examples.ids[0] if 1.0 < audio.samples(name) / SAMPLE_RATE < config.warm_longest]
    rng.shuffle(ids)
    ends = np.cumsum([audio.samples(name) for name in ids])
    ids = sorted(ids[: max(24, int((ends < config.warm_hours * 3600 * SAMPLE_RATE).sum()))], key=audio.samples)
    model.eval()
    features: list[Tensor] = []
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for i in range(0, len(ids), 12):
            clips = [audio[name].astype(np.float32) / 32768 for name in ids[i : i + 12]]
            wavs = pad_sequence(
                [torch.from_numpy(clip / max(1e-3, 2 * np.abs(clip).max())) for clip in clips], batch_first=True
            )
            states, valid = run_layers(model.encoder, wavs, torch.tensor([len(clip) for clip in clips]))
            features += [states[-1][k][valid[k]][:: model.stride].bfloat16() for k in range(len(clips))]
    targets = [model.encode_text(texts[name]) for name in ids]
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=config.warm_rate, betas=(0.9, 0.98), weight_decay=0.0)
    losses, means = [], []
    for step in range(config.warm_steps):
        first = int(rng.integers(0, max(1, len(ids) - 24)))
        rows = range(first, min(len(ids), first + 24))
        x = pad_sequence([features[k].float() for k in rows], batch_first=True)
        frames = torch.tensor([len(features[k]) for k in rows])
        loss = character_loss(model.head(x), frames, [targets[k] for k in rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = config.warm_rate * (1 - 0.9 * step / config.warm_steps)
        losses.append(loss.item())
        if step % 100 == 99:
            means.append(float(np.mean(losses[-100:])))
            log.info("head alone, step %d: loss a character %.3f", step + 1, means[-1])
    return means


def load_teacher(config: TrainConfig, student: Recogniser) -> Recogniser | None:
    """The recogniser whose probabilities are learned; a model that ships may be named, as `harness_open`.

    Raises ValueError where a setting is missing or wrong, and where its characters or frames a second are others;
    DownstreamError where head and model do not belong together.
    """
    if config.teacher is None:
        if config.teacher_head is not None:
            raise ValueError(f"teacher_head={config.teacher_head}: also give teacher, its model directory")
        return None
    if config.teacher_head is None:
        raise ValueError(f"teacher={config.teacher}: also give teacher_head, its head directory")
    for key in ("teacher_weight", "teacher_hours"):
        if getattr(config, key) <= 0:
            raise ValueError(f"{key}={getattr(config, key)}: expected a number above 0")
    head = named_head(Path(config.teacher_head))
    check_weights(head, model_sha256(config.teacher), Path(config.teacher), "teacher:")
    teacher = load_head(load_model(config.teacher), head).eval().requires_grad_(False)
    if teacher.characters != student.characters:
        raise ValueError(f"{head}: its characters are not those of the student")
    if teacher.stride != student.stride:
        raise ValueError(
            f"{head}: reads {FRAME_RATE // teacher.stride} frames a second, the student's head "
            f"{FRAME_RATE // student.stride}"
        )
    return teacher


class Trainer:
    """The state of one run: model, optimiser, averaged weights, seconds of audio so far."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        here = place()
        self.rank, self.ranks = here.rank, here.ranks
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        encoder = load_model(config.model)
        if config.squeeze not in (1, 2):
            raise ValueError(f"squeeze={config.squeeze}: choose 1 or 2")
        if config.freeze_stem and not isinstance(encoder.feature_projection, ConvolutionalStem):
            raise ValueError("freeze_stem: the encoder has no convolutions of Whisper's stem")
        if is_new_rate := config.squeeze > squeeze_of(encoder):
            encoder = squeezed(encoder)
        if not isinstance(encoder.feature_extractor, LogMelFrontEnd):
            raise ValueError(f"{config.model}: only encoders with a log-mel front end can be trained (SpecAugment)")
        set_dropout(encoder, config.dropout)
        freeze(encoder, config.freeze)
        if config.freeze_stem:
            encoder.feature_projection.conv1.requires_grad_(False)
            encoder.feature_projection.conv2.requires_grad_(False)
        if config.dropout == 0:
            attend_by_products(encoder)
        self.model = Recogniser(encoder) if config.head is None else load_head(encoder, Path(config.head))
        if config.head is None or is_new_rate:
            self.model.stride = squeeze_of(encoder)  # CTC needs no more frames than the layers have
        self.teacher = load_teacher(config, self.model)
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.heard, self.steps, self.position = 0.0, 0, 0
        self.examples = Examples(config, self.rank, self.ranks)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self._encoder_parameters(), "lr": 0.0, "role": "encoder"},
                {"params": list(self.model.head.parameters()), "lr": 0.0, "role": "head"},
            ],
            betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True,
        )  # fmt: skip
        self._resume()

    def _encoder_parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.encoder.parameters() if p.requires_grad]

    def _resume(self) -> None:
        path = self.out / "state.pt"
        if not path.exists():
            if self.config.head is None and self.config.warm_steps and self.rank == 0:
                warm_head(self.model, self.examples, self.config)
            if self.ranks > 1:
                for parameter in self.model.head.parameters():
                    dist.broadcast(parameter.data, 0)
            self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            return
        state = torch.load(path, map_location="cpu", weights_only=True)  # our own, written below
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.heard, self.steps = state["heard"], state["steps"]
        log.info("resumed at step %d, %.2f h heard", self.steps, self.heard / 3600)

    def save(self) -> None:
        if self.rank == 0:
            with atomic_file(self.out / "state.pt") as temporary:
                torch.save(
                    {
                        "model": self.model.state_dict(), "average": self.average,
                        "optimizer": self.optimizer.state_dict(), "heard": self.heard, "steps": self.steps,
                    },
                    temporary,
                )  # fmt: skip

    def rates(self) -> tuple[float, float]:
        """The rates of encoder and head now: a warm-up of the encoder, a plateau, a linear decay at the end."""
        config = self.config
        warm = min(1.0, self.heard / (config.warmup_hours * 3600) + 0.02)
        left = (config.hours * 3600 - self.heard) / (config.decay_share * config.hours * 3600)
        decay = min(1.0, max(left, 0.01))
        return config.rate * warm * decay, config.head_rate * decay

    def step(self, batch: list[Example]) -> dict[str, float]:
        """One update; the losses of `losses_of`."""
        config = self.config
        rng = np.random.default_rng([config.seed, self.steps, self.rank])
        encoder_rate, head_rate = self.rates()
        for group in self.optimizer.param_groups:
            group["lr"] = encoder_rate if group["role"] == "encoder" else head_rate
        self.model.train()
        chance = torch.Generator().manual_seed(int(rng.integers(2**40)))
        torch.manual_seed(int(rng.integers(2**40)))  # dropout: a resumed step is the same step
        share = min(1.0, self.heard / max(1.0, config.augment_hours * 3600))
        masks = nullcontext()
        if rng.random() < share:
            sizes = (config.spec_bands, config.spec_spans)
            masks = spec_augment(self.model.encoder, *sizes, chance, warp=config.warp)
        wavs, lengths, targets = collate(self.model, batch, self.examples, rng, config, share)
        with masks:
            if self.heard >= config.teacher_hours * 3600:
                self.teacher = None
            losses = losses_of(self.model, wavs, lengths, targets, self.teacher)
        (losses["loss"] + config.teacher_weight * losses.get("teacher_loss", 0.0)).backward()
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        else:
            log.warning("step %d: the gradient is not finite; skipped", self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self._update_average()
        return {name: loss.item() for name, loss in losses.items()}

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.config.ema, (1 + self.steps) / (20 + self.steps))
        for name, value in self.model.state_dict().items():
            mean = self.average[name]
            if mean.is_floating_point() and keep:
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)

    def run(self) -> None:
        config = self.config
        started = saved = tested = time.time()
        begun, cpu = self.heard, time.process_time()
        recent: list[dict[str, float]] = []
        next_snapshot = (self.heard // (config.snapshot_hours * 3600) + 1) * config.snapshot_hours * 3600
        while self.heard < config.hours * 3600:
            rows, seconds = self.examples.batches(self.heard)
            for row in rows:
                recent.append(self.step(row))
                if self.rank == 0 and self.steps % 20 == 0:
                    self._log(recent[-20:], started, begun, cpu)
            self.heard += seconds
            # The ranks must agree on when to save: the first one's clock decides.
            flags = torch.tensor(
                [time.time() - saved > config.save_minutes * 60, time.time() - tested > config.dev_minutes * 60]
            ).int()
            if self.ranks > 1:
                dist.broadcast(flags, 0)
            if flags[0]:
                self.save()
                saved = time.time()
            if flags[1]:
                self._report_dev()
                tested = time.time()
            if self.heard >= next_snapshot:
                self.snapshot(self.out / f"snapshot-{self.heard / 3600:.0f}h.safetensors")
                next_snapshot += config.snapshot_hours * 3600
        self.save()
        self._report_dev()
        self.export(self.out / "model", self.out / "head")

    def _log(self, losses: list[dict[str, float]], started: float, begun: float, cpu: float) -> None:
        rate = (self.heard - begun) / max(1.0, time.time() - started)
        encoder_rate, head_rate = self.rates()
        means = {name: round(float(np.mean([row[name] for row in losses if name in row])), 4) for name in losses[0]}
        row = {
            "step": self.steps, "hours": round(self.heard / 3600, 3), **means,
            "rate": encoder_rate, "head_rate": head_rate, "audio_per_s": round(rate, 1),
            "cpu_s": round(time.process_time() - cpu, 1), "time": time.strftime("%H:%M:%S"),
        }  # fmt: skip
        with open(self.out / "train.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def snapshot(self, path: Path) -> None:
        """The average so far in half precision."""
        if self.rank == 0:
            state = {n: v.half() if v.is_floating_point() else v for n, v in self.average.items()}
            save_file({n: v.contiguous() for n, v in state.items()}, path)

    def averaged(self) -> Recogniser:
        model = Recogniser(copy.deepcopy(self.model.encoder), stride=self.model.stride)
        model.load_state_dict(self.average)
        return model.eval()

    def _report_dev(self) -> None:
        if self.rank:
            return
        model = self.averaged()
        row: dict[str, Any] = {
            "step": self.steps,
            "hours": round(self.heard / 3600, 3),
            "time": time.strftime("%H:%M:%S"),
        }
        for name, source in self.config.dev.items():
            scores, shown = error_rates(model, read_dev(source, self.config.dev_clips))
            row[name] = {key: round(100 * value, 2) for key, value in scores.items()}
            row[f"{name}_example"] = shown[:2]
        with open(self.out / "dev.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def export(self, model_dir: Path, head_dir: Path) -> None:
        """The averaged encoder as a model directory and its head directory."""
        if self.rank:
            return
        source = self.config.model
        facts = {
            "init": {"kind": "fine-tuned", "source_sha256": model_sha256(source)},
            "fine_tuned": "ctc",
            "hours_heard": round(self.heard / 3600, 2),
        }
        if (teacher := self.config.teacher) is not None:
            hours = round(min(self.config.teacher_hours, self.heard / 3600), 2)
            facts["recogniser_teacher"] = {
                "source_sha256": model_sha256(teacher), "weight": self.config.teacher_weight, "hours": hours
            }  # fmt: skip
        save_recogniser(self.averaged(), model_dir, head_dir, self.out.name, source, facts, teacher)


def set_dropout(encoder: torch.nn.Module, share: float) -> None:
    """One dropout for the hidden states after each layer's parts, none inside attention and activation."""
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share if name.endswith(("encoder.dropout", ".dropout", "output_dropout")) else 0.0
        if hasattr(module, "head_dim") and hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    encoder.config.hidden_dropout = share
    encoder.config.attention_dropout = encoder.config.activation_dropout = encoder.config.feat_proj_dropout = 0.0


def freeze(encoder: torch.nn.Module, layers: int) -> None:
    """Train neither the mask embedding nor, if `layers` is above 0, so many layers from the bottom and what is below.

    Raises ValueError for more layers than there are.
    """
    if not 0 <= layers <= len(encoder.encoder.layers):
        raise ValueError(f"freeze={layers}: the encoder has {len(encoder.encoder.layers)} layers")
    encoder.masked_spec_embed.requires_grad_(False)
    if layers:
        encoder.feature_projection.requires_grad_(False)
        encoder.encoder.pos_conv_embed.requires_grad_(False)
        encoder.encoder.layers[:layers].requires_grad_(False)


def train(config: TrainConfig) -> None:
    """Start or resume a fine-tuning; every process of torchrun calls this."""
    with process_group():
        Trainer(config).run()
