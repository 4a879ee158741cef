"""Train all learning rates and seeds of a linear head at once on pooled features; imports S3PRL.

The head is S3PRL's module. Its parameters are stacked over (seeds, rates), and `torch.func.vmap` runs all heads in one
call. Each head keeps its own batches, optimiser, clipping and best checkpoint, so it equals the head of S3PRL's loop.
On the CPU with one thread a head is the same to the last bit, whichever other heads are trained with it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from s3prl.util.seed import fix_random_seeds
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from downstream.probe.probe import CachedDataset, scheduler_arguments
from downstream.score import metrics
from downstream.score.results import CurvePoint

# Limit of the batches of all seeds of one step, (seeds, layers, B, D) in 32 bits.
_STEP_BYTES = 512 << 20


@dataclass
class Head:
    """One trained head: the parameters with the best dev value, that value, and the learning curve.

    Without validation (`eval_step` above `total_steps`) the parameters are those of the last step and `dev` is NaN.
    """

    lr: float
    seed: int
    dev: float
    state: dict[str, Tensor]
    curve: list[CurvePoint] = field(default_factory=list)


def train_heads(
    problem: Any,
    model_arguments: dict[str, Any],
    conf: dict[str, Any],
    rates: Sequence[float],
    seeds: Sequence[int],
    train: CachedDataset,
    dev: CachedDataset,
    labels: Sequence[str],
    device: str,
) -> list[Head]:
    """Train rates x seeds on the same items; `conf` is the part `problem` of a protocol, `labels` the classes.

    If the batches of all seeds do not fit in memory together, groups of seeds are trained one after the other.
    """
    batch = conf["build_batch_sampler"]["train"]["batch_size"]
    layers, _, _, width = train.stacked.shape
    together = max(1, _STEP_BYTES // (layers * batch * width * 4))
    heads: list[Head] = []
    for start in range(0, len(seeds), together):
        group = _Group(problem, model_arguments, conf, rates, seeds[start : start + together], labels, device)
        heads += group.train(train, dev)
    return heads


class _Group:
    def __init__(
        self,
        problem: Any,
        model_arguments: dict[str, Any],
        conf: dict[str, Any],
        rates: Sequence[float],
        seeds: Sequence[int],
        labels: Sequence[str],
        device: str,
    ):
        self.problem, self.conf, self.device = problem, conf, device
        self.rates, self.seeds, self.labels = list(rates), list(seeds), list(labels)
        models = []
        for seed in self.seeds:
            fix_random_seeds(seed)  # as S3PRL does before it builds a model
            models.append(problem.build_model(**model_arguments))
        state, buffers = stack_module_state([model for model in models for _ in self.rates])
        if buffers:
            raise ValueError(f"a head with buffers ({next(iter(buffers))}) cannot be trained in a stack")
        shape = (len(self.seeds), len(self.rates))
        self.state = {
            name: nn.Parameter(stacked.detach().to(device).unflatten(0, shape).contiguous())
            for name, stacked in state.items()
        }
        self.model = copy.deepcopy(models[0]).to("meta")
        self.heads = [
            [_Trainer(self, row, column) for column in range(len(self.rates))] for row in range(len(self.seeds))
        ]

    def logits(self, x: Tensor, *, own_batches: bool) -> Tensor:
        """(seeds, layers, B, 1, D), or (layers, B, 1, D) for all -> (seeds, rates, B, classes)."""

        def one(state: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.model, state, (x, torch.ones(x.size(1), dtype=torch.long, device=x.device)))

        by_rate = vmap(one, in_dims=(0, None))
        return vmap(by_rate, in_dims=(0, 0 if own_batches else None))(self.state, x)

    def train(self, train: CachedDataset, dev: CachedDataset) -> list[Head]:
        conf = self.conf["train"]
        targets = torch.tensor([target["class_id"] for target in train.targets], device=self.device)
        streams = [self._batches(train, seed) for seed in self.seeds]
        accumulate = conf["gradient_accumulate"]
        losses: list[Tensor] = []
        for step in range(1, conf["total_steps"] + 1):
            for _ in range(accumulate):
                rows = torch.tensor([next(stream) for stream in streams])
                x = train.stacked[:, rows.flatten()].unflatten(1, rows.shape).movedim(1, 0).to(self.device)
                logits = self.logits(x, own_batches=True)
                expected = targets[rows][:, None].expand(logits.shape[:-1])
                loss = nn.functional.cross_entropy(logits.flatten(0, -2), expected.flatten(), reduction="none")
                loss = loss.view(expected.shape).mean(-1)
                (loss / accumulate).sum().backward()
                losses.append(loss.detach())
            for head in self._all():
                head.step()
            for parameter in self.state.values():
                parameter.grad.zero_()
            if step % conf["log_step"] == 0:
                mean = torch.stack(losses).mean(0).tolist()
                losses.clear()
                for head in self._all():
                    head.curve.append(CurvePoint(head.lr, step, "train", "loss", mean[head.row][head.column]))
            if step % conf["eval_step"] == 0:
                self._validate(dev, step)
        return [head.result() for head in self._all()]

    def _all(self) -> Iterator[_Trainer]:
        for row in self.heads:
            yield from row

    def _batches(self, dataset: CachedDataset, seed: int) -> Iterator[list[int]]:
        sampler = self.problem.sampler(dataset, self.conf["build_batch_sampler"], "train", seed)
        epoch = 0
        while True:
            sampler.set_epoch(epoch)
            yield from sampler
            epoch += 1

    def predict(self, dataset: CachedDataset, batch_size: int) -> tuple[Tensor, Tensor]:
        """Logits (seeds, rates, N, classes) and S3PRL's loss (seeds, rates): the mean over batches of their means."""
        targets = torch.tensor([target["class_id"] for target in dataset.targets], device=self.device)
        logits, losses = [], []
        with torch.no_grad():
            for start in range(0, len(dataset), batch_size):
                rows = slice(start, start + batch_size)
                part = self.logits(dataset.stacked[:, rows].to(self.device), own_batches=False)
                expected = targets[rows].expand(part.shape[:-1])
                loss = nn.functional.cross_entropy(part.flatten(0, -2), expected.flatten(), reduction="none")
                losses.append(loss.view(expected.shape).mean(-1))
                logits.append(part)
        return torch.cat(logits, dim=2).cpu(), torch.stack(losses).mean(0).cpu()

    def _validate(self, dev: CachedDataset, step: int) -> None:
        metric = self.conf["train"]["valid_metric"]
        logits, losses = self.predict(dev, self.conf["build_batch_sampler"]["valid"]["batch_size"])
        labels = self.labels
        references = [target["label"] for target in dev.targets]
        best = logits.argmax(-1)
        for head in self._all():
            hypotheses = [labels[index] for index in best[head.row, head.column].tolist()]
            value = metrics.value(metric, references, hypotheses)
            loss = float(losses[head.row, head.column])
            head.curve += [
                CurvePoint(head.lr, step, "dev", "loss", loss),
                CurvePoint(head.lr, step, "dev", metric, value),
            ]
            head.offer(value)


class _Trainer:
    """One head of a stack, with S3PRL's optimiser, scheduler and choice of checkpoint."""

    def __init__(self, group: _Group, row: int, column: int):
        self.row, self.column = row, column
        self.lr, self.seed = group.rates[column], group.seeds[row]
        self.train = group.conf["train"]
        self.state = {}
        for name, stacked in group.state.items():
            if stacked.grad is None:
                stacked.grad = torch.zeros_like(stacked)
            own = nn.Parameter(stacked.detach()[row, column])  # a view: the optimiser changes the stack
            own.grad = stacked.grad[row, column]
            self.state[name] = own
        conf = group.conf
        self.optimizer = group.problem.build_optimizer(
            {**conf["build_optimizer"], "conf": {**conf["build_optimizer"]["conf"], "lr": self.lr}},
            list(self.state.values()),
        )
        self.scheduler = None
        if self.train.get("use_scheduler"):
            self.scheduler = group.problem.build_scheduler(scheduler_arguments(conf), self.optimizer)
        self.best: float | None = None
        self.kept: dict[str, Tensor] = {}
        self.curve: list[CurvePoint] = []

    def step(self) -> None:
        norm = nn.utils.clip_grad_norm_(self.state.values(), self.train["gradient_clipping"])
        if not math.isnan(norm):
            self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()

    def offer(self, value: float) -> None:
        """Keep a copy of the parameters if `value` is the best so far."""
        higher = self.train["valid_higher_better"]
        if self.best is None or (value > self.best if higher else value < self.best):
            self.best = value
            self.kept = {name: own.detach().cpu().clone() for name, own in self.state.items()}

    def result(self) -> Head:
        if self.best is None:  # never validated
            self.kept = {name: own.detach().cpu().clone() for name, own in self.state.items()}
        return Head(self.lr, self.seed, float("nan") if self.best is None else self.best, self.kept, self.curve)
