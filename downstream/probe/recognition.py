"""Speech recognition with CTC on S3PRL's SuperbASR; imports S3PRL (see `downstream.probe`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from s3prl.dataio.encoder.tokenizer import CharacterTokenizer
from s3prl.dataio.encoder.vocabulary import generate_basic_vocab
from s3prl.dataio.sampler import FixedBatchSizeBatchSampler, SortedBucketingSampler
from s3prl.nn.rnn import RNNEncoder, downsample
from s3prl.nn.specaug import ModelWithSpecaug
from s3prl.problem.asr.superb_asr import SuperbASR
from s3prl.task.speech2text_ctc_task import Speech2TextCTCTask
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from corpora.audio import SAMPLE_RATE
from corpora.batches import length_batches
from downstream.probe.data import LabelledUtterance
from downstream.probe.probe import ProbeMixin
from downstream.score import metrics


class DenseLSTM(nn.LSTM):
    """One bidirectional LSTM layer with the parameters and results of `nn.LSTM`, about 4x faster on the CPU.

    PyTorch's fast CPU kernel takes padded batches, not packed sequences. Each direction runs on its own right-padded
    batch (the backward one on reversed sequences), so that padding never comes before a valid frame.
    """

    def forward(self, packed: PackedSequence, hx: Any = None) -> tuple[PackedSequence, None]:
        if packed.data.device.type != "cpu" or not self.bidirectional or self.num_layers != 1:
            return super().forward(packed, hx)
        x, lengths = pad_packed_sequence(packed, batch_first=True)
        steps = torch.arange(x.size(1))
        backwards = (lengths[:, None] - 1 - steps).clamp(min=0)[..., None]
        forward, backward = self.all_weights
        reversed_x = x.gather(1, backwards.expand(-1, -1, x.size(2)))
        ahead = self._direction(x, forward)
        behind = self._direction(reversed_x, backward).gather(1, backwards.expand(-1, -1, self.hidden_size))
        output = torch.cat((ahead, behind), dim=-1)
        return pack_padded_sequence(output, lengths, batch_first=True, enforce_sorted=False), None

    def _direction(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        zeros = x.new_zeros(1, x.size(0), self.hidden_size)
        return torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, self.training, False, True)[0]


class StackedEncoder(nn.Module):
    """S3PRL's RNNEncoder at a lower frame rate: concatenates `stack` neighbouring frames, as its `total_rate` did."""

    def __init__(self, input_size: int, output_size: int, stack: int, **model_conf: Any):
        super().__init__()
        self.stack = stack
        self.input_size = input_size
        self.output_size = output_size
        self.encoder = RNNEncoder(input_size * stack, output_size, **model_conf)
        for layer in self.encoder.rnns:
            if isinstance(layer.layer, nn.LSTM):
                layer.layer.__class__ = DenseLSTM

    def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D), (B,) -> logits (B, T // stack, characters), lengths."""
        if self.stack > 1:
            missing = -x.size(1) % self.stack
            x = nn.functional.pad(x, (0, 0, 0, missing))
            x, _ = downsample(x, x_len, self.stack, "concat")
            # S3PRL rounds down. Rounded up, no speech is cut off and the shortest clip keeps a frame.
            x_len = torch.div(x_len + self.stack - 1, self.stack, rounding_mode="floor")
        return self.encoder(x, x_len)


class CtcTask(Speech2TextCTCTask):
    """S3PRL's CTC task without decoding in training; in evaluation it decodes each utterance within its own length.

    S3PRL also decodes the padding, and therefore evaluates one utterance at a time. `predictions` holds
    (utt_id, reference, hypothesis) of the last pass.
    """

    def __init__(self, model: nn.Module, tokenizer: CharacterTokenizer, **build_task: Any):
        super().__init__(model, tokenizer, **build_task)
        self.predictions: list[tuple[str, str, str]] = []

    def predict(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, list[str], Tensor]:
        logits, lengths = self.model(x, x_len)
        if self.training:
            return logits, [""] * len(logits), lengths
        best = logits.argmax(dim=2).cpu()
        skipped = (self.tokenizer.pad_idx, self.tokenizer.eos_idx, self.tokenizer.unk_idx)
        hypotheses = []
        for row, length in zip(best, lengths.tolist(), strict=True):
            tokens = [t for t in row[:length].unique_consecutive().tolist() if t not in skipped]
            hypotheses.append(self.tokenizer.decode(tokens))
        return logits, hypotheses, lengths

    def reduction(self, _mode: str, cached_results: list[dict], _dump_dir: str | None = None) -> dict[str, float]:
        results = self.parse_cached_results(cached_results)
        logs = {"loss": float(sum(results["loss"]) / len(results["loss"]))}
        if _mode == "train":
            return logs
        references = results["label"]
        hypotheses = [" ".join(hypothesis.split()) for hypothesis in results["prediction"]]
        self.predictions = list(zip(results["unique_name"], references, hypotheses, strict=True))
        return logs | {name: metrics.value(name, references, hypotheses) for name in self.log_metrics}


class BudgetSampler:
    """Batches of similar lengths with at most `max_seconds` of padded audio; with a seed, shuffled in every epoch."""

    def __init__(self, samples: Sequence[int], max_seconds: float, seed: int | None):
        self.samples = list(samples)
        self.budget = int(max_seconds * SAMPLE_RATE)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rng = None if self.seed is None else np.random.default_rng([self.seed, self.epoch])
        yield from length_batches(self.samples, self.budget, rng)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class SpeechRecognition(ProbeMixin, SuperbASR):
    """SuperbASR on Kaldi data directories with `text`; the tokens are the characters of the training text and space."""

    def describe(self, items: Sequence[LabelledUtterance]) -> dict[str, list[str]]:
        """The characters of the training text; the word separator is one of them."""
        text = [item.label for item in items]
        return {"characters": sorted({*generate_basic_vocab("character", text), " "})}

    def task_arguments(self, described: dict[str, list[str]]) -> dict[str, Any]:
        return {
            "build_task": {"log_metrics": ["cer", "wer"]},
            "tokenizer": CharacterTokenizer(list(described["characters"])),
        }

    def describe_task(self, arguments: dict[str, Any]) -> dict[str, list[str]]:
        tokenizer = arguments["tokenizer"]
        return {"characters": [tokenizer.idx_to_vocab(i) for i in range(tokenizer.unk_idx + 1, len(tokenizer))]}

    def output_size(self, arguments: dict[str, Any]) -> int:
        return len(arguments["tokenizer"])

    def targets(self, items: Sequence[LabelledUtterance], arguments: dict[str, Any]) -> list[dict[str, Any]]:
        encode = arguments["tokenizer"].encode
        return [{"labels": item.label, "class_ids": torch.tensor(encode(item.label))} for item in items]

    def sampler(self, dataset: Any, conf: dict[str, Any], mode: str, seed: int) -> Any:
        """Batches of `max_seconds` of audio, or S3PRL's batches where the protocol gives `batch_size`."""
        own = dict(conf.get(mode) or {})
        samples = [item.samples for item in dataset.items]
        if "max_seconds" in own:
            return BudgetSampler(samples, own["max_seconds"], seed if mode == "train" else None)
        if mode == "train":
            return SortedBucketingSampler(samples, seed=seed, **own)
        return FixedBatchSizeBatchSampler(dataset, **own)

    def build_downstream(
        self,
        build_downstream: dict,
        downstream_input_size: int,
        downstream_output_size: int,
        downstream_input_stride: int,
    ) -> nn.Module:
        """S3PRL's RNNEncoder, one frame per `total_rate` samples (null: the upstream's rate); SpecAugment if given."""
        conf = dict(build_downstream)
        total = conf.pop("total_rate", None)
        specaug = conf.pop("specaug_conf", None)
        stack = 1 if total is None else round(total / downstream_input_stride)
        model = StackedEncoder(downstream_input_size, downstream_output_size, stack, **conf.pop("model_conf"))
        return model if specaug is None else ModelWithSpecaug(model, **specaug)

    def build_task(self, build_task: dict, model: nn.Module, tokenizer: CharacterTokenizer) -> CtcTask:
        return CtcTask(model, tokenizer, **build_task)
