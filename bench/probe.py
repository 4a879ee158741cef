"""Time a grid of probes on stored features against S3PRL's own loop: emotion, BAVED fold 1, HuBERT-Base geometry.

    python -m bench.probe --corpus baved --work exp/bench_probe

Ours: the features of train and test, then 4 learning rates x 3 seeds of S3PRL's linear head. Theirs: S3PRL's SuperbER
and its training loop, which runs the upstream at every step. One of its twelve cells is timed and multiplied by 12; its
test is not counted. Both sides have the same random weights, batches of 64, 10 epochs, no validation, the same threads.
Finished pieces are kept in `--work`, so a stopped run resumes. `--their_steps N` times only the first N steps of their
loop (batches are random, so all steps cost the same), and compares their head with ours after N steps.
The last line is `ratio probe <number>`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from bench.common import print_table
from corpora.audio import SAMPLE_RATE
from corpora.files import read_json, write_json
from downstream.probe import cache
from downstream.probe.data import LabelledUtterance, TaskData, load_task
from downstream.protocols import load
from downstream.upstreams import Upstream, resolve

if TYPE_CHECKING:
    from downstream.probe.probe import CachedDataset

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)
CELL = (1e-3, 0)
PIECES = 8


def main() -> None:
    """Run the missing pieces and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HARNESS_REAL_SPEECH")
    parser.add_argument("--corpus", type=Path, default=default and Path(default, "baved"), help="BAVED's folder")
    parser.add_argument("--work", type=Path, default=Path("exp/bench_probe"), help="data, model, features, pieces")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--their_steps", type=int, default=None, help="steps of their loop to time (None: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12, help="12 is HuBERT-Base; 1 for a quick trial")
    parser.add_argument(
        "--utterances", type=int, default=None, help="number in each split, for a quick trial (None: all)"
    )
    given = parser.parse_args()
    if given.corpus is None or not given.corpus.is_dir():
        sys.exit("bench.probe: give BAVED's folder with --corpus, or set HARNESS_REAL_SPEECH")
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    bench = _Bench(given.corpus, given.work, given.threads, given.layers, given.utterances)
    steps = given.epochs * bench.batches
    bench.run(steps, given.their_steps or steps)


class _Bench:
    def __init__(self, corpus: Path, work: Path, threads: int, layers: int, utterances: int | None):
        setting = f"layers{layers}_threads{threads}" + ("" if utterances is None else f"_utterances{utterances}")
        self.setting, self.work = setting, work / setting
        if not (work / "ser" / "fold1" / "test").is_dir():
            from corpora.datasets.baved import prepare

            prepare(corpus, work / "ser")
        model = work / "models" / f"hubert_base_geometry_{layers}"
        if not (model / "config.json").is_file():
            _save_model(model, layers)
        self.upstream: Upstream = resolve(model.name, model.parent)
        self.protocol = load("ser", "light", {"learning_rates": list(RATES)})
        data = load_task(work / "ser" / "fold1", self.protocol)
        few = {name: items[:: max(1, len(items) // (utterances or len(items)))] for name, items in data.splits.items()}
        self.data: TaskData = replace(data, splits=few)
        # Both sides need S3PRL, whose import takes many seconds and is not timed.
        from downstream.probe.probe import build_s3prl_upstream
        from downstream.probe.train import problem_of

        build_s3prl_upstream(self.upstream.build)  # registers our names on S3PRL's hub
        self.problem = problem_of("ser")
        self.described = self.problem.describe(self.data.splits["train"])
        self.arguments = self.problem.task_arguments(self.described)

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        size = self.protocol.config["problem"]["build_batch_sampler"]["train"]["batch_size"]
        return -(-len(self.data.splits["train"]) // size)

    def run(self, steps: int, theirs: int) -> None:
        """Run the missing pieces of both sides, and print the table."""
        items = sorted([*self.data.splits["train"], *self.data.splits["test"]], key=lambda item: item.samples)
        extraction = 0.0
        for number in range(PIECES):
            own = items[number * len(items) // PIECES : (number + 1) * len(items) // PIECES]
            extraction += self.piece(f"features_{number}", lambda own=own: self.extract(own))["seconds"]
        features = self.features(items)
        ours = self.piece(f"grid_{steps}", lambda: self.grid(features, steps))
        compared = ours if theirs == steps else self.piece(f"grid_{theirs}", lambda: self.grid(features, theirs))
        loop = self.piece(f"theirs_{theirs}", lambda: self.s3prl(theirs))
        loop["accuracy"] = self.accuracy(load_file(self.work / "theirs" / "head.safetensors"), features)
        self.table(extraction, ours, compared, loop, steps, theirs)

    def piece(self, name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.work / "pieces" / f"{name}.json"
        if not path.is_file():
            print(name, file=sys.stderr, flush=True)
            write_json(path, run())
        return read_json(path)

    def features(self, items: Sequence[LabelledUtterance]) -> cache.Features:
        from downstream.probe.probe import UpstreamExtractor

        build = lambda: UpstreamExtractor(self.upstream, "cpu")  # noqa: E731
        return cache.prepare(self.work / "cache", self.upstream, "pooled", items, build, normalised=True)

    def extract(self, items: Sequence[LabelledUtterance]) -> dict[str, Any]:
        begin = time.monotonic()
        self.features(items)
        return {"seconds": time.monotonic() - begin}

    def grid(self, features: cache.Features, steps: int) -> dict[str, Any]:
        """All heads without validation, and their accuracy on the test set."""
        from downstream.probe.heads import train_heads

        begin = time.monotonic()
        train = self.dataset("train", features)
        heads = train_heads(
            self.problem, self.model_arguments(features), self.conf(steps), RATES, SEEDS, train, train,
            self.described["labels"], "cpu",
        )  # fmt: skip
        found = {f"{head.lr:g} {head.seed}": self.accuracy(head.state, features) for head in heads}
        return {"seconds": time.monotonic() - begin, "accuracy": found}

    def s3prl(self, steps: int) -> dict[str, Any]:
        """Train one cell in S3PRL's loop, without validation, and keep its head."""
        from s3prl.dataio.collate_fn import default_collate_fn
        from s3prl.dataio.sampler import FixedBatchSizeBatchSampler
        from s3prl.problem.common.superb_er import SuperbER

        from downstream.probe.probe import WaveDataset, head_state

        class Plain(SuperbER):
            def build_task(self, *args: Any, **kwargs: Any) -> Any:
                self.task = super().build_task(*args, **kwargs)
                return self.task

        problem = Plain()
        lr, seed = CELL
        conf = self.conf(steps)
        items = self.data.splits["train"]
        dataset = WaveDataset(items, self.problem.targets(items, self.arguments))
        shutil.rmtree(self.work / "theirs", ignore_errors=True)
        begin = time.monotonic()
        problem.train(
            train={**conf["train"], "seed": seed, "auto_resume": False},
            train_dir=self.work / "theirs",
            build_model_all_args=self.model_arguments(None),
            build_task_all_args_except_model=self.arguments,
            save_model={},
            save_task={},
            build_optimizer={**conf["build_optimizer"], "conf": {"lr": lr}},
            build_scheduler={},
            evaluate={},
            train_dataset=dataset,
            train_batch_sampler=FixedBatchSizeBatchSampler(
                dataset, **{**conf["build_batch_sampler"]["train"], "seed": seed * 1_000_003}
            ),
            train_collate_fn=default_collate_fn,
            valid_dataset=None,
            valid_batch_sampler=None,
            valid_collate_fn=None,
            num_workers=0,
            world_size=1,
            rank=0,
            eval_batch=-1,
            device="cpu",
        )
        seconds = time.monotonic() - begin
        save_file(head_state(problem.task.model), self.work / "theirs" / "head.safetensors")
        return {"seconds": seconds}

    def conf(self, steps: int) -> dict[str, Any]:
        """The part `problem` of `light` for `steps` steps, without validation and checkpoints."""
        conf = dict(self.protocol.config["problem"])
        own = {"total_steps": steps, "eval_step": steps + 1, "save_step": steps + 1, "log_step": steps}
        return {**conf, "train": {**conf["train"], **own}}

    def model_arguments(self, features: cache.Features | None) -> dict[str, Any]:
        conf = self.protocol.config["problem"]
        build = dict(self.upstream.build)
        if features is not None:
            build["cached"] = {**asdict(features.info), "normalised": True}
        return {
            "build_model": conf["build_model"],
            "model_output_size": self.problem.output_size(self.arguments),
            "build_upstream": build,
            "build_featurizer": conf["build_featurizer"],
            "build_downstream": conf["build_downstream"],
        }

    def dataset(self, split: str, features: cache.Features) -> CachedDataset:
        from downstream.probe.probe import CachedDataset

        items = self.data.splits[split]
        return CachedDataset(items, self.problem.targets(items, self.arguments), features)

    def accuracy(self, state: dict[str, Any], features: cache.Features) -> float:
        test = self.dataset("test", features)
        model = self.problem.build_model(**self.model_arguments(features))
        model.load_state_dict(state)
        with torch.no_grad():
            logits = model.eval()(test.stacked, torch.ones(len(test), dtype=torch.long))
        labels = [self.described["labels"][i] for i in logits.argmax(-1).tolist()]
        return sum(a == b["label"] for a, b in zip(labels, test.targets, strict=True)) / len(labels)

    def table(
        self,
        extraction_s: float,
        ours: dict[str, Any],
        compared: dict[str, Any],
        loop: dict[str, Any],
        steps: int,
        theirs: int,
    ) -> None:
        """Print in Markdown."""
        cell_s = loop["seconds"] * steps / theirs
        cells = len(RATES) * len(SEEDS)
        lr, seed = CELL
        timed = "" if theirs == steps else f" ({theirs} of {steps} steps timed: {loop['seconds']:.1f} s)"
        speech = sum(item.samples for item in self.data.items) / SAMPLE_RATE / 60
        print(f"BAVED fold 1: {len(self.data.items)} utterances, {speech:.1f} min; {self.setting}\n")
        times = {
            "ours: features of train and test": extraction_s,
            f"ours: {cells} heads, {steps} steps each, and their test": ours["seconds"],
            f"S3PRL's loop, one cell{timed}": cell_s,
            f"S3PRL's loop, {cells} cells": cells * cell_s,
        }
        print_table(["", "time (s)"], [[name, f"{seconds:.1f}"] for name, seconds in times.items()])
        own = compared["accuracy"][f"{lr:g} {seed}"]
        print(f"\ntest accuracy of rate {lr:g}, seed {seed} after {theirs} steps: ours {own:.4f}, "
              f"S3PRL's {loop['accuracy']:.4f}")  # fmt: skip
        spread = sorted(ours["accuracy"].values())
        print(f"test accuracy of our {cells} cells after {steps} steps: {spread[0]:.4f} to {spread[-1]:.4f}\n")
        print(f"ratio probe {cells * cell_s / (extraction_s + ours['seconds']):.1f}")


def _save_model(path: Path, layers: int) -> None:
    from upstream.model.encoder import build_encoder
    from upstream.model.family import geometry
    from upstream.model.modeldir import save_model

    torch.manual_seed(0)
    model = build_encoder(geometry("hl", layers=layers, width=768, heads=12, ffn=3072))
    save_model(model.eval(), path, {"name": path.name, "random": True})


if __name__ == "__main__":
    main()
