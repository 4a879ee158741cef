"""Train heads on one upstream and one fold, choose on dev, predict the test sets; imports S3PRL.

On pooled features all seeds and learning rates are trained at once (`downstream.probe.heads`). All other heads go
through S3PRL's loop, one by one.
"""

from __future__ import annotations

import copy
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from corpora.files import atomic_dir, locked, read_json, write_json
from downstream.probe import finetune
from downstream.probe.cache import Features
from downstream.probe.data import LabelledUtterance, TaskData
from downstream.probe.finetune import PROBE, Tuning
from downstream.probe.heads import train_heads
from downstream.probe.probe import CachedDataset, WaveDataset, head_state, scheduler_arguments
from downstream.protocols import FORM, Protocol
from downstream.score.results import CurvePoint, Prediction
from downstream.upstreams import Upstream

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The results of one trained head: its learning rate, dev values of all rates, predictions of every test set.

    `scores` is split -> utterance -> log posterior of each class, in the order of `labels`; empty for ASR. `curve`
    holds losses and dev values of the training. `layer_weights` are the weights of the hidden states in the sum.
    """

    lr: float
    dev: dict[str, float]
    predictions: list[Prediction]
    scores: dict[str, dict[str, list[float]]]
    labels: list[str]
    curve: list[CurvePoint]
    layer_weights: list[float]
    wall_s: float


def problem_of(task: str) -> Any:
    """Our S3PRL problem of a task."""
    if task == "asr":
        from downstream.probe.recognition import SpeechRecognition

        return SpeechRecognition()
    from downstream.probe import classification

    return classification.SpeechEmotion() if task == "ser" else classification.DialectIdentification()


def run_cell(
    data: TaskData,
    upstream: Upstream,
    features: Features | None,
    protocol: Protocol,
    seed: int,
    run_dir: Path,
    device: str,
    *,
    tuning: Tuning = PROBE,
    search_dir: Path | None = None,
) -> Outcome:
    """Train one head in S3PRL's loop, choose checkpoint and learning rate on dev, predict every test set.

    Without `features` the upstream runs on the waveforms at every step, and `tuning` may train a part of it. The run
    directory keeps the head in `head/`. An interrupted cell starts again from its seed. With `search_share` in the
    protocol, short runs choose the rate; their dev values are kept in `search_dir` for all seeds.
    """
    begin = time.monotonic()
    trainer = Trainer(data, upstream, features, protocol, tuning, device)
    rates = list(protocol.config["learning_rates"])
    share = protocol.config["search_share"]
    searched: dict[float, float] = {}
    if share and len(rates) > 1:
        searched = trainer.search(rates, share, run_dir.parent / "search" if search_dir is None else search_dir)
        rates = [trainer.best(searched)]
    trained = {lr: trainer.train(lr, seed, run_dir / f"train_lr{lr:g}") for lr in rates}
    lr = trainer.best({lr: value for lr, (value, _) in trained.items()})
    _, task = trainer.problem.load_model_and_task(run_dir / f"train_lr{lr:g}" / "valid_best")
    curve = [point for _, points in trained.values() for point in points]
    dev = searched or {lr: value for lr, (value, _) in trained.items()}
    outcome = trainer.finish(task, lr, dev, curve, run_dir, seed, begin)
    _keep_tensorboard(run_dir, list(trained))
    return outcome


def run_pooled(
    data: TaskData,
    upstream: Upstream,
    features: Features,
    protocol: Protocol,
    seeds: Sequence[int],
    run_dirs: Sequence[Path],
    device: str,
) -> list[Outcome]:
    """`run_cell` for several seeds on pooled features; all seeds and learning rates are trained together.

    The training time is divided by the number of seeds.
    """
    begin = time.monotonic()
    trainer = Trainer(data, upstream, features, protocol, PROBE, device)
    splits, conf = trainer.splits, protocol.config["problem"]
    heads = train_heads(
        trainer.problem,
        trainer.model_arguments,
        conf,
        protocol.config["learning_rates"],
        seeds,
        trainer.dataset(splits["train"], "train"),
        trainer.dataset(splits["dev"], "valid"),
        trainer.described["labels"],
        device,
    )
    each = (time.monotonic() - begin) / len(seeds)
    outcomes = []
    for seed, run_dir in zip(seeds, run_dirs, strict=True):
        own = {head.lr: head for head in heads if head.seed == seed}
        dev = {lr: head.dev for lr, head in own.items()}
        lr = trainer.best(dev)
        model = trainer.problem.build_model(**trainer.model_arguments)
        model.load_state_dict(own[lr].state)
        task = trainer.problem.build_task(model=model, **trainer.arguments)
        curve = [point for head in own.values() for point in head.curve]
        outcomes.append(trainer.finish(task, lr, dev, curve, run_dir, seed, time.monotonic() - each))
    return outcomes


class Trainer:
    """One fold of a task on one upstream: its S3PRL problem and data, with training and evaluation of a head."""

    def __init__(
        self,
        data: TaskData,
        upstream: Upstream,
        features: Features | None,
        protocol: Protocol,
        tuning: Tuning,
        device: str,
    ):
        self.data, self.upstream, self.features = data, upstream, features
        self.protocol, self.tuning, self.device = protocol, tuning, device
        self.conf = protocol.config["problem"]
        self.problem = problem_of(protocol.task)
        self.splits = data.splits if features is None else {s: features.usable(i) for s, i in data.splits.items()}
        self.described = self.problem.describe(self.splits["train"])
        self.arguments = self.problem.task_arguments(self.described)
        build_upstream = dict(upstream.build)
        if features is not None:
            build_upstream["cached"] = {**asdict(features.info), "normalised": features.normalised}
        elif not tuning.frozen:
            build_upstream["finetune"] = tuning.tag
        self.model_arguments = {
            "build_model": {**self.conf["build_model"], "upstream_trainable": not tuning.frozen},
            "model_output_size": self.problem.output_size(self.arguments),
            "build_upstream": build_upstream,
            "build_featurizer": self.conf["build_featurizer"],
            "build_downstream": self.conf["build_downstream"],
        }

    def dataset(self, items: Sequence[LabelledUtterance], mode: str) -> Any:
        if mode != "train":
            # Utterances of similar lengths share a batch, which saves padding.
            items = sorted(items, key=lambda item: (item.samples, item.utt_id))
        targets = self.problem.targets(items, self.arguments)
        if self.features is not None:
            return CachedDataset(items, targets, self.features)
        return WaveDataset(items, targets, **((self.conf.get("build_dataset") or {}).get(mode) or {}))

    def best(self, dev: dict[float, float]) -> float:
        """The learning rate with the best dev value; the first of equal ones."""
        choose = max if self.conf["train"]["valid_higher_better"] else min
        return choose(dev, key=lambda lr: dev[lr])

    def train(
        self, lr: float, seed: int, folder: Path, conf: dict[str, Any] | None = None
    ) -> tuple[float, list[CurvePoint]]:
        """One run of S3PRL's loop. Returns the best dev value and the learning curve; `folder` keeps the checkpoint."""
        conf = self.conf if conf is None else conf
        problem = self.problem
        train, dev = self.dataset(self.splits["train"], "train"), self.dataset(self.splits["dev"], "valid")
        shutil.rmtree(folder, ignore_errors=True)
        logger.info("seed %d, learning rate %g", seed, lr)
        optimizer = {**conf["build_optimizer"], "conf": {**conf["build_optimizer"]["conf"], "lr": lr}}
        if not self.tuning.frozen:
            optimizer["upstream_lr"] = self.protocol.config["upstream_lr"][self.tuning.kind]
        problem.train(
            train={**conf["train"], "seed": seed, "auto_resume": False},
            train_dir=folder,
            build_model_all_args=self.model_arguments,
            build_task_all_args_except_model=self.arguments,
            save_model={},
            save_task={},
            build_optimizer=optimizer,
            build_scheduler=scheduler_arguments(conf),
            evaluate={},
            train_dataset=train,
            train_batch_sampler=problem.sampler(train, conf["build_batch_sampler"], "train", seed),
            train_collate_fn=problem.build_collate_fn({}, "train"),
            valid_dataset=dev,
            valid_batch_sampler=problem.sampler(dev, conf["build_batch_sampler"], "valid", seed),
            valid_collate_fn=problem.build_collate_fn({}, "valid"),
            num_workers=0,
            world_size=1,
            rank=0,
            eval_batch=-1,
            device=self.device,
        )
        stats = yaml.safe_load((folder / "valid_best" / "training_stats.yaml").read_text(encoding="utf-8"))
        value = stats["valid_best_metrics"][conf["train"]["valid_metric"]]
        logger.info("learning rate %g: best dev %s %.4f", lr, conf["train"]["valid_metric"], value)
        return value, _curve(folder / "tb", lr, conf["train"]["valid_metric"])

    def search(self, rates: Sequence[float], share: float, folder: Path) -> dict[float, float]:
        """Dev values at the end of short runs, each with `share` of the steps and seed 0.

        All seeds of a fold share them through `folder`; a second process waits for the first.
        """
        conf = copy.deepcopy(self.conf)
        steps = max(1, round(share * conf["train"]["total_steps"]))
        conf["train"] |= {"total_steps": steps, "eval_step": steps}
        identity = [FORM, self.protocol.hash, self.upstream.key, self.data.hash, self.tuning.tag, self.features is None]
        path = folder / "search.json"
        with locked(path):
            found = read_json(path) if path.is_file() else {}
            if found.get("identity") != identity:
                dev, points = {}, []
                for lr in rates:
                    dev[f"{lr:g}"], curve = self.train(lr, 0, folder / "train", conf)
                    points += curve
                    shutil.rmtree(folder / "train")
                metric = conf["train"]["valid_metric"]
                found = {"identity": identity, "steps": steps, "metric": metric, "dev": dev}
                write_json(path, found)
        logger.info("learning rates after %d steps: %s", found["steps"], found["dev"])
        return {lr: found["dev"][f"{lr:g}"] for lr in rates}

    def finish(
        self,
        task: Any,
        lr: float,
        dev: dict[float, float],
        curve: list[CurvePoint],
        run_dir: Path,
        seed: int,
        begin: float,
    ) -> Outcome:
        """Predict every test set with the chosen head and save the head; `begin` is the start of this cell's work."""
        problem, conf = self.problem, self.conf
        task = task.to(self.device)
        predictions, scores = [], {}
        for name in self.data.tests:
            items = self.dataset(self.splits[name], "test")
            problem.evaluate(
                evaluate={},
                mode="test",
                task=task,
                dataset=items,
                batch_sampler=problem.sampler(items, conf["build_batch_sampler"], "test", seed),
                collate_fn=problem.build_collate_fn({}, "test"),
                eval_batch=-1,
                dump_dir=None,
                device=self.device,
                num_workers=0,
            )
            speaker = {item.utt_id: item.speaker for item in items.items}
            predictions += [
                Prediction(utt_id, speaker[utt_id], name, reference, hypothesis)
                for utt_id, reference, hypothesis in sorted(task.predictions)
            ]
            scores[name] = dict(sorted(getattr(task, "scores", {}).items()))
        _save_head(run_dir / "head", task, self)
        weights = getattr(task.model.featurizer, "weights", None)
        return Outcome(
            lr,
            {f"{rate:g}": value for rate, value in dev.items()},
            predictions,
            scores,
            self.described.get("labels", []),
            curve,
            [1.0] if weights is None else weights.detach().softmax(-1).cpu().tolist(),
            time.monotonic() - begin,
        )


def _curve(folder: Path, lr: float, metric: str) -> list[CurvePoint]:
    """The learning curve in the TensorBoard files of S3PRL's loop."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    points = []
    for tag in events.Tags()["scalars"]:
        split, _, name = tag.partition("-")
        if name == "loss" or (split == "valid" and name == metric):
            split = {"valid": "dev"}.get(split, split)
            points += [CurvePoint(lr, event.step, split, name, event.value) for event in events.Scalars(tag)]
    return points


def _save_head(folder: Path, task: Any, trainer: Trainer) -> None:
    """Write the head directory, which holds everything that prediction needs but the upstream."""
    from safetensors.torch import save_file

    head = {
        "task": trainer.protocol.task,
        **trainer.described,
        "protocol": trainer.protocol.tag,
        "text_profile": trainer.protocol.config["text_profile"],
        "upstream": trainer.upstream.name,
        "upstream_key": trainer.upstream.key,
        "finetune": trainer.tuning.tag,
        "build": {k: v for k, v in trainer.model_arguments.items() if k != "build_upstream"},
    }
    with atomic_dir(folder) as temporary:
        save_file(head_state(task.model), temporary / "head.safetensors")
        write_json(temporary / "head.json", head)
        if not trainer.tuning.frozen:
            encoder = finetune.encoder_of(task.model.upstream)
            finetune.save_delta(encoder, trainer.tuning, trainer.upstream.key, temporary)


def _keep_tensorboard(run_dir: Path, rates: Sequence[float]) -> None:
    """Keep the TensorBoard files of the training and delete its checkpoints; those of the optimiser are pickles."""
    for lr in rates:
        folder, target = run_dir / f"train_lr{lr:g}", run_dir / "tensorboard" / f"lr{lr:g}"
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / "tb", target)
        shutil.rmtree(folder)
