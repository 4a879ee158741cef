"""One cell of the grid: one head trained on one upstream from one seed, on one fold; imported late (S3PRL)."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from corpora.files import atomic_dir, write_json
from downstream.cache import Features
from downstream.data import Item, TaskData
from downstream.probe import CachedDataset, WaveDataset, head_state
from downstream.protocols import Protocol
from downstream.results import Prediction
from downstream.upstreams import Upstream

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a cell found: the learning rate chosen on dev, dev values per rate, predictions of every test set."""

    lr: float
    dev: dict[str, float]
    predictions: list[Prediction]
    wall_s: float


def problem_of(task: str) -> Any:
    """A fresh S3PRL problem of ours."""
    if task == "asr":
        from downstream.asr.problem import SpeechRecognition as Problem
    elif task == "ser":
        from downstream.ser.problem import SpeechEmotion as Problem
    else:
        from downstream.did.problem import DialectIdentification as Problem
    return Problem()


def run_cell(
    data: TaskData,
    upstream: Upstream,
    features: Features | None,
    protocol: Protocol,
    seed: int,
    run_dir: Path,
    device: str,
) -> Outcome:
    """Train on train, choose checkpoint and learning rate on dev, predict every test set.

    `features` None trains on waveforms through the upstream itself. The run directory keeps the head
    (`head/head.json`, `head/head.safetensors`) and TensorBoard files; an interrupted cell starts again from its seed.
    """
    begin = time.monotonic()
    problem = problem_of(protocol.task)
    splits = data.splits if features is None else {s: features.usable(i) for s, i in data.splits.items()}
    described = problem.describe(splits["train"])
    arguments = problem.task_arguments(described)
    build_upstream = dict(upstream.build)
    if features is not None:
        build_upstream["cached"] = {**asdict(features.info), "normalised": features.normalised}
    conf = protocol.config["problem"]
    model_arguments = {
        "build_model": conf["build_model"],
        "model_output_size": problem.output_size(arguments),
        "build_upstream": build_upstream,
        "build_featurizer": conf["build_featurizer"],
        "build_downstream": conf["build_downstream"],
    }

    def dataset(items: Sequence[Item], mode: str) -> Any:
        if mode != "train":
            # Similar lengths side by side: little padding in the larger batches of evaluation.
            items = sorted(items, key=lambda item: (item.samples, item.utt_id))
        targets = problem.targets(items, arguments)
        if features is not None:
            return CachedDataset(items, targets, features)
        return WaveDataset(items, targets, **((conf.get("build_dataset") or {}).get(mode) or {}))

    train, dev = dataset(splits["train"], "train"), dataset(splits["dev"], "valid")
    trained: dict[float, tuple[float, Path]] = {}
    for lr in protocol.config["learning_rates"]:
        folder = run_dir / f"train_lr{lr:g}"
        shutil.rmtree(folder, ignore_errors=True)
        logger.info("seed %d, learning rate %g", seed, lr)
        problem.train(
            train={**conf["train"], "seed": seed, "auto_resume": False},
            train_dir=folder,
            build_model_all_args=model_arguments,
            build_task_all_args_except_model=arguments,
            save_model={},
            save_task={},
            build_optimizer={**conf["build_optimizer"], "conf": {**conf["build_optimizer"]["conf"], "lr": lr}},
            build_scheduler=_scheduler(conf, lr),
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
            device=device,
        )
        stats = yaml.safe_load((folder / "valid_best" / "training_stats.yaml").read_text(encoding="utf-8"))
        trained[lr] = (stats["valid_best_metrics"][conf["train"]["valid_metric"]], folder)
        logger.info("learning rate %g: best dev %s %.4f", lr, conf["train"]["valid_metric"], trained[lr][0])
    choose = max if conf["train"]["valid_higher_better"] else min
    best = choose(trained, key=lambda lr: trained[lr][0])

    _, task = problem.load_model_and_task(trained[best][1] / "valid_best")
    task = task.to(device)
    predictions = []
    for name in data.tests:
        items = dataset(splits[name], "test")
        problem.evaluate(
            evaluate={},
            mode="test",
            task=task,
            dataset=items,
            batch_sampler=problem.sampler(items, conf["build_batch_sampler"], "test", seed),
            collate_fn=problem.build_collate_fn({}, "test"),
            eval_batch=-1,
            dump_dir=None,
            device=device,
            num_workers=0,
        )
        speaker = {item.utt_id: item.speaker for item in items.items}
        predictions += [
            Prediction(utt_id, speaker[utt_id], name, reference, hypothesis)
            for utt_id, reference, hypothesis in sorted(task.predictions)
        ]
    _save_head(run_dir / "head", task, described, upstream, protocol, model_arguments)
    _tidy(run_dir, trained)
    dev_values = {f"{lr:g}": value for lr, (value, _) in trained.items()}
    return Outcome(best, dev_values, predictions, time.monotonic() - begin)


def _scheduler(conf: dict[str, Any], lr: float) -> dict[str, Any]:
    """S3PRL's scheduler arguments; a cycle is told its peak and length, which the protocol holds elsewhere."""
    scheduler = conf.get("build_scheduler") or {}
    if scheduler.get("name") == "OneCycleLR":
        cycle = {"max_lr": lr, "total_steps": conf["train"]["total_steps"]}
        return {**scheduler, "conf": {**scheduler["conf"], **cycle}}
    return scheduler


def _save_head(
    folder: Path,
    task: Any,
    described: dict[str, Any],
    upstream: Upstream,
    protocol: Protocol,
    model_arguments: dict[str, Any],
) -> None:
    """The head directory: all that prediction needs besides the upstream itself."""
    from safetensors.torch import save_file

    head = {
        "task": protocol.task,
        **described,
        "protocol": protocol.tag,
        "text_profile": protocol.config["text_profile"],
        "upstream": upstream.name,
        "upstream_key": upstream.key,
        "build": {k: v for k, v in model_arguments.items() if k != "build_upstream"},
    }
    with atomic_dir(folder) as temporary:
        save_file(head_state(task.model), temporary / "head.safetensors")
        write_json(temporary / "head.json", head)


def _tidy(run_dir: Path, trained: dict[float, tuple[float, Path]]) -> None:
    """Keep the TensorBoard files of training; its checkpoints have served, and the optimiser's are pickles."""
    for lr, (_, folder) in trained.items():
        target = run_dir / "tensorboard" / f"lr{lr:g}"
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / "tb", target)
        shutil.rmtree(folder)
