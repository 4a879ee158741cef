"""Utterance classification (SER, DID) on S3PRL's linear head; imports S3PRL (see `downstream.probe`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from s3prl.dataio.encoder.category import CategoryEncoder
from s3prl.dataio.sampler import FixedBatchSizeBatchSampler
from s3prl.nn.linear import MeanPoolingLinear
from s3prl.problem.common.superb_er import SuperbER
from s3prl.problem.common.superb_sid import SuperbSID
from s3prl.task.utterance_classification_task import UtteranceClassificationTask
from torch import Tensor

from downstream.probe.data import LabelledUtterance
from downstream.probe.probe import ProbeMixin
from downstream.score import metrics


class PooledLinear(MeanPoolingLinear):
    """S3PRL's head, which skips the pooling of features that are means over time (one frame)."""

    def forward(self, x: Tensor, x_len: Tensor) -> Tensor:
        if x.size(1) != 1:
            return super().forward(x, x_len)
        return self.final_proj(self.hidden_layers(x[:, 0]))


class ClassificationTask(UtteranceClassificationTask):
    """S3PRL's task with UA and macro-F1.

    After a pass, `predictions` holds (utt_id, reference, hypothesis) and `scores` the log posteriors of each utterance
    in the order of the classes.
    """

    def __init__(self, model: Any, category: CategoryEncoder):
        super().__init__(model, category)
        self.predictions: list[tuple[str, str, str]] = []
        self.scores: dict[str, list[float]] = {}

    def predict(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, list[str]]:
        self._logits, predictions = super().predict(x, x_len)
        return self._logits, predictions

    def forward(self, _mode: str, **batch: Any) -> tuple[Tensor, dict[str, Any]]:
        loss, cacheable = super().forward(_mode, **batch)
        return loss, cacheable | {"scores": self._logits.detach().float().log_softmax(-1).tolist()}

    def reduction(self, _mode: str, cached_results: list[dict], _dump_dir: str | None = None) -> dict[str, float]:
        results = self.parse_cached_results([{**r, "unique_name": list(r["unique_name"])} for r in cached_results])
        references, hypotheses = results["label"], results["prediction"]
        self.predictions = list(zip(results["unique_name"], references, hypotheses, strict=True))
        self.scores = dict(zip(results["unique_name"], results["scores"], strict=True))
        values = {name: metrics.value(name, references, hypotheses) for name in ("accuracy", "ua", "macro_f1")}
        return {"loss": float(sum(results["loss"]) / len(results["loss"])), **values}


class ClassificationMixin(ProbeMixin):
    """Labels, batches and head of an utterance classifier."""

    def describe(self, items: Sequence[LabelledUtterance]) -> dict[str, list[str]]:
        """The classes of the training items, sorted."""
        return {"labels": sorted({item.label for item in items})}

    def task_arguments(self, described: dict[str, list[str]]) -> dict[str, Any]:
        return {"build_task": {}, "encoder": CategoryEncoder(described["labels"])}

    def describe_task(self, arguments: dict[str, Any]) -> dict[str, list[str]]:
        return {"labels": arguments["encoder"].category}

    def output_size(self, arguments: dict[str, Any]) -> int:
        return len(arguments["encoder"])

    def targets(self, items: Sequence[LabelledUtterance], arguments: dict[str, Any]) -> list[dict[str, Any]]:
        encoder = arguments["encoder"]
        return [{"label": item.label, "class_id": encoder.encode(item.label)} for item in items]

    def sampler(self, dataset: Any, conf: dict[str, Any], mode: str, seed: int) -> Any:
        """S3PRL's sampler; the training seed also sets the order of batches."""
        own = dict(conf.get(mode) or {})
        if own.get("shuffle"):
            # S3PRL's sampler adds the epoch to the seed; without the factor, seed 1 would repeat seed 0 one epoch late.
            own["seed"] = seed * 1_000_003
        return FixedBatchSizeBatchSampler(dataset, **own)

    def build_downstream(
        self,
        build_downstream: dict,
        downstream_input_size: int,
        downstream_output_size: int,
        downstream_input_stride: int,
    ) -> PooledLinear:
        return PooledLinear(downstream_input_size, downstream_output_size, **build_downstream)

    def build_task(self, build_task: dict, model: Any, encoder: CategoryEncoder) -> ClassificationTask:
        return ClassificationTask(model, encoder)


class SpeechEmotion(ClassificationMixin, SuperbER):
    """SuperbER on Kaldi data directories with `utt2emotion`."""


class DialectIdentification(ClassificationMixin, SuperbSID):
    """SuperbSID (utterance classification) on Kaldi data directories with `utt2dialect`."""
