"""A whole probing grid on stored features beside S3PRL's own loop: emotion, BAVED fold 1, HuBERT-Base geometry.

    python -m bench.probe --corpus baved --work exp/bench_probe

Ours: extraction of the features, then 4 learning rates x 3 seeds of S3PRL's linear head. Theirs: S3PRL's SuperbER and
its training loop, the upstream at every step, timed on one of the twelve cells and multiplied by 12. Both: the same
random weights, batches of 64, 10 epochs, no validation, the same threads. Parts that are done are kept in `--work`
(`--part ours`, `--part theirs`). `--their_epochs N` times fewer epochs of their loop and multiplies; a head of ours
that was trained for as long is compared with theirs. The last line is `ratio probe <number>`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from corpora.files import read_json, write_json
from downstream import cache
from downstream.data import TaskData, load_task
from downstream.protocols import load
from downstream.upstreams import Upstream, resolve

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)
CELL = (1e-3, 0)


def main() -> None:
    """Run the parts that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HARNESS_REAL_SPEECH")
    parser.add_argument("--corpus", type=Path, default=default and Path(default, "baved"), help="BAVED's folder")
    parser.add_argument("--work", type=Path, default=Path("exp/bench_probe"), help="data, model, features, parts")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--their_epochs", type=int, default=None, help="epochs of their loop to time (None: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12, help="12 is HuBERT-Base; 1 to try the script out")
    parser.add_argument("--utterances", type=int, default=None, help="of each split, to try the script out (None: all)")
    parser.add_argument("--part", choices=("prepare", "ours", "theirs", "all"), default="all")
    given = parser.parse_args()
    if given.corpus is None or not given.corpus.is_dir():
        sys.exit("bench.probe: give BAVED's folder with --corpus, or set HARNESS_REAL_SPEECH")
    theirs = given.their_epochs or given.epochs
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    bench = _Bench(given.corpus, given.work, given.threads, given.layers, given.utterances)
    if given.part in ("ours", "all"):
        bench.part(f"ours_{given.epochs}", lambda: bench.ours(given.epochs, theirs))
    if given.part in ("theirs", "all"):
        bench.part(f"theirs_{theirs}", lambda: bench.theirs(theirs))
    bench.table(given.epochs, theirs)


class _Bench:
    def __init__(self, corpus: Path, work: Path, threads: int, layers: int, utterances: int | None):
        self.work = work
        self.setting = f"layers{layers}_threads{threads}" + ("" if utterances is None else f"_utterances{utterances}")
        if not (work / "ser" / "fold1" / "test").is_dir():
            from corpora.baved import prepare

            prepare(corpus, work / "ser")
        name = f"hubert_base_geometry_{layers}"
        if not (work / "models" / name / "config.json").is_file():
            _save_model(work / "models" / name, layers)
        self.upstream: Upstream = resolve(name, work / "models")
        self.protocol = load("ser", "light", {"learning_rates": list(RATES)})
        data = load_task(work / "ser" / "fold1", self.protocol)
        few = {name: items[:: max(1, len(items) // (utterances or len(items)))] for name, items in data.splits.items()}
        self.data: TaskData = replace(data, splits=few)
        # What both need before they can begin: S3PRL's import takes many seconds.
        from downstream.cell import problem_of

        self.problem = problem_of("ser")
        self.described = self.problem.describe(self.data.splits["train"])
        self.arguments = self.problem.task_arguments(self.described)

    def conf(self, epochs: int) -> dict[str, Any]:
        """The part `problem` of `light` for so many epochs, never validated or saved."""
        conf = dict(self.protocol.config["problem"])
        batches = -(-len(self.data.splits["train"]) // conf["build_batch_sampler"]["train"]["batch_size"])
        never = batches * epochs + 1
        steps = {"total_steps": batches * epochs, "eval_step": never, "save_step": never, "log_step": batches}
        return {**conf, "train": {**conf["train"], **steps}}

    def part(self, name: str, run: Any) -> None:
        path = self.work / "parts" / f"{name}_{self.setting}.json"
        if not path.is_file():
            write_json(path, run())

    def ours(self, epochs: int, compared: int) -> dict[str, Any]:
        from downstream.heads import train_heads
        from downstream.probe import CachedDataset, UpstreamExtractor

        shutil.rmtree(self.work / "cache", ignore_errors=True)
        problem, splits = self.problem, self.data.splits
        begin = time.monotonic()
        items = [*splits["train"], *splits["test"]]
        features = cache.prepare(
            self.work / "cache", self.upstream, "pooled", items, lambda: UpstreamExtractor(self.upstream, "cpu"),
            normalised=True, progress=lambda share: print(f"features {share:.0%}", file=sys.stderr, flush=True),
        )  # fmt: skip
        extracted = time.monotonic()
        arguments = self._model_arguments(features)
        datasets = {
            name: CachedDataset(splits[name], problem.targets(splits[name], self.arguments), features)
            for name in ("train", "test")
        }

        def grid(epochs: int) -> dict[str, float]:
            heads = train_heads(
                problem, arguments, self.conf(epochs), RATES, SEEDS, datasets["train"], datasets["test"],
                self.described["labels"], "cpu",
            )  # fmt: skip
            test = datasets["test"]
            return {f"{head.lr:g} {head.seed}": self._accuracy(head.state, arguments, test) for head in heads}

        found = grid(epochs)
        end = time.monotonic()
        return {
            "extraction_s": extracted - begin,
            "grid_s": end - extracted,
            "accuracy": found,
            "compared": found if compared == epochs else grid(compared),
        }

    def theirs(self, epochs: int) -> dict[str, Any]:
        from s3prl.dataio.collate_fn import default_collate_fn
        from s3prl.dataio.sampler import FixedBatchSizeBatchSampler
        from s3prl.problem.common.superb_er import SuperbER

        from downstream.probe import WaveDataset, build_s3prl_upstream

        class Plain(SuperbER):
            def build_task(self, *args: Any, **kwargs: Any) -> Any:
                self.task = super().build_task(*args, **kwargs)
                return self.task

        build_s3prl_upstream(self.upstream.build)  # registers our names on S3PRL's hub
        problem, splits = Plain(), self.data.splits
        lr, seed = CELL
        conf = self.conf(epochs)
        targets = {name: self.problem.targets(splits[name], self.arguments) for name in ("train", "test")}
        datasets = {name: WaveDataset(splits[name], targets[name]) for name in targets}
        sampler = FixedBatchSizeBatchSampler(
            datasets["train"], **{**conf["build_batch_sampler"]["train"], "seed": seed * 1_000_003}
        )
        shutil.rmtree(self.work / "theirs", ignore_errors=True)
        begin = time.monotonic()
        problem.train(
            train={**conf["train"], "seed": seed, "auto_resume": False},
            train_dir=self.work / "theirs",
            build_model_all_args=self._model_arguments(None),
            build_task_all_args_except_model=self.arguments,
            save_model={},
            save_task={},
            build_optimizer={**conf["build_optimizer"], "conf": {"lr": lr}},
            build_scheduler={},
            evaluate={},
            train_dataset=datasets["train"],
            train_batch_sampler=sampler,
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
        train_s = time.monotonic() - begin
        logs = problem.evaluate(
            {}, "test", problem.task, datasets["test"], FixedBatchSizeBatchSampler(datasets["test"], 16),
            default_collate_fn, -1, None, "cpu", 0,
        )  # fmt: skip
        test_s = time.monotonic() - begin - train_s
        return {"train_s": train_s, "test_s": test_s, "accuracy": float(logs["accuracy"])}

    def _model_arguments(self, features: cache.Features | None) -> dict[str, Any]:
        conf = self.conf(1)
        build = dict(self.upstream.build)
        if features is not None:
            info = features.info
            build["cached"] = {"layers": info.layers, "width": info.width, "stride": info.stride, "normalised": True}
        return {
            "build_model": conf["build_model"],
            "model_output_size": self.problem.output_size(self.arguments),
            "build_upstream": build,
            "build_featurizer": conf["build_featurizer"],
            "build_downstream": conf["build_downstream"],
        }

    def _accuracy(self, state: dict[str, Any], arguments: dict[str, Any], test: Any) -> float:
        model = self.problem.build_model(**arguments)
        model.load_state_dict(state)
        with torch.no_grad():
            logits = model.eval()(test.stacked, torch.ones(len(test), dtype=torch.long))
        labels = [self.described["labels"][i] for i in logits.argmax(-1).tolist()]
        return sum(a == b["label"] for a, b in zip(labels, test.targets, strict=True)) / len(labels)

    def table(self, epochs: int, compared: int) -> None:
        """Print what the parts hold, in Markdown."""
        paths = [
            self.work / "parts" / f"{name}_{self.setting}.json"
            for name in (f"ours_{epochs}", f"theirs_{compared}")
        ]
        absent = [path for path in paths if not path.is_file()]
        if absent:
            print(f"no {absent[0]} yet: run the other --part")
            return
        ours, theirs = (read_json(path) for path in paths)
        # Each of their cells trains and tests; ours hold the test features in the extraction.
        cell_s = theirs["train_s"] * epochs / compared + theirs["test_s"]
        total = ours["extraction_s"] + ours["grid_s"]
        cells = len(RATES) * len(SEEDS)
        lr, seed = CELL
        key = f"{lr:g} {seed}"
        scaled = "" if compared == epochs else f", {compared} of {epochs} epochs timed and multiplied"
        speech = sum(item.samples for item in self.data.items) / 16000 / 60
        print(f"BAVED fold 1, {len(self.data.items)} utterances, {speech:.1f} min; {epochs} epochs; {self.setting}\n")
        print("| | time (s) |\n|---|---:|")
        print(f"| ours: features of train and test | {ours['extraction_s']:.1f} |")
        print(f"| ours: {cells} heads and their test | {ours['grid_s']:.1f} |")
        print(f"| S3PRL's loop, one cell (training {theirs['train_s']:.1f} s{scaled}; test) | {cell_s:.1f} |")
        print(f"| S3PRL's loop, {cells} cells | {cells * cell_s:.1f} |")
        print(f"\ntest accuracy after {compared} epochs at rate {lr:g}, seed {seed}: ours {ours['compared'][key]:.4f}, "
              f"S3PRL's {theirs['accuracy']:.4f}")  # fmt: skip
        best = max(ours["accuracy"], key=ours["accuracy"].get)
        spread = f"{min(ours['accuracy'].values()):.4f} to {ours['accuracy'][best]:.4f}"
        print(f"test accuracy of our {cells} cells after {epochs} epochs: {spread}\n")
        print(f"ratio probe {cells * cell_s / total:.1f}")


def _save_model(path: Path, layers: int) -> None:
    from upstream.encoder import build_encoder
    from upstream.family import geometry
    from upstream.modeldir import save_model

    torch.manual_seed(0)
    model = build_encoder(geometry("hl", layers=layers, width=768, heads=12, ffn=3072))
    save_model(model.eval(), path, {"name": path.name, "random": True})


if __name__ == "__main__":
    main()
