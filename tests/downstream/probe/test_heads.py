"""Heads trained together are the heads that S3PRL's own loop trains one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from downstream.probe import cache
from downstream.probe.data import TaskData, load_task
from downstream.protocols import Protocol, load
from downstream.score.results import CurvePoint
from downstream.upstreams import Upstream, resolve

RATES = [1e-3, 1e-2]
SEEDS = [0, 3]


class Bench:
    """One fold with pooled features, and both ways to train on it."""

    def __init__(self, data: TaskData, upstream: Upstream, features: cache.Features, root: Path):
        self.data, self.upstream, self.features, self.root = data, upstream, features, root

    def together(self, protocol: Protocol, seeds: list[int], name: str) -> list[Any]:
        from downstream.probe.train import run_pooled

        folders = [self.root / name / f"seed{seed}" for seed in seeds]
        return run_pooled(self.data, self.upstream, self.features, protocol, seeds, folders, "cpu")

    def alone(self, protocol: Protocol, seed: int, name: str) -> Any:
        from downstream.probe.train import run_cell

        return run_cell(self.data, self.upstream, self.features, protocol, seed, self.root / name, "cpu")

    def head(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.root / name / "head" / "head.safetensors")


@pytest.fixture(params=["tiny_a", "fbank"])
def bench(request: pytest.FixtureRequest, make_set: Callable[..., Path], tiny_models: Path, tmp_path: Path) -> Bench:
    from downstream.probe.probe import UpstreamExtractor

    torch.set_num_threads(1)
    upstream = resolve(request.param, tiny_models)
    # 34 is no multiple of the batch: the last one of an epoch is smaller
    data = load_task(make_set("ser", {"train": 34, "dev": 9, "test": 9}), load("ser", "light"))
    features = cache.prepare(
        tmp_path / "c", upstream, "pooled", data.items, lambda: UpstreamExtractor(upstream, "cpu"), normalised=True
    )
    return Bench(data, upstream, features, tmp_path / "runs")


def protocol(**changes: Any) -> Protocol:
    return load(
        "ser",
        "light",
        {
            "learning_rates": RATES,
            "problem.train.total_steps": 30,
            "problem.train.eval_step": 5,
            "problem.train.log_step": 1,
            "problem.build_batch_sampler.train.batch_size": 8,
            **changes,
        },
    )


def points(curve: list[CurvePoint]) -> dict[tuple, float]:
    return {(p.lr, p.step, p.split, p.metric): p.value for p in curve}


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_stack_of_heads_equals_s3prls_loop(bench: Bench, accumulate: int):
    config = protocol(**{"problem.train.gradient_accumulate": accumulate, "problem.train.gradient_clipping": 0.5})
    stacked = bench.together(config, SEEDS, "together")
    for seed, ours in zip(SEEDS, stacked, strict=True):
        theirs = bench.alone(config, seed, f"alone{seed}")
        assert ours.dev == pytest.approx(theirs.dev) and ours.lr == theirs.lr
        assert ours.predictions == theirs.predictions
        assert ours.layer_weights == pytest.approx(theirs.layer_weights, abs=1e-5)
        got, expected = points(ours.curve), points(theirs.curve)
        assert got.keys() == expected.keys() and len(got) == 2 * (30 + 2 * 6)
        # S3PRL forgets the batches before an epoch began when it writes the loss of a step
        alike = [key for key in got if accumulate == 1 or key[2] == "dev"]
        assert [got[key] for key in alike] == pytest.approx([expected[key] for key in alike], abs=1e-4)
        for utt_id, scores in ours.scores["test"].items():
            assert scores == pytest.approx(theirs.scores["test"][utt_id], abs=1e-3)
        one, other = bench.head(f"together/seed{seed}"), bench.head(f"alone{seed}")
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)


@pytest.mark.slow
def test_a_head_does_not_depend_on_the_other_heads(bench: Bench):
    """A grid that was killed trains the missing seeds only, and must end where it would have."""
    bench.together(protocol(), [0, 3, 7], "three")
    bench.together(protocol(), [3], "one")
    one, three = bench.head("one/seed3"), bench.head("three/seed3")
    assert all(torch.equal(one[name], three[name]) for name in one)


def test_a_nan_gradient_stops_its_head_only(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """S3PRL skips the step; the other heads must not change."""
    from downstream.probe import heads

    plain = bench.together(protocol(), [0], "plain")[0]
    real, calls = heads.nn.utils.clip_grad_norm_, []

    def broken(parameters: Any, most: float) -> torch.Tensor:
        norm = real(parameters, most)
        calls.append(1)
        return norm * float("nan") if len(calls) % 2 == 0 else norm  # the second of two rates

    monkeypatch.setattr(heads.nn.utils, "clip_grad_norm_", broken)
    hurt = bench.together(protocol(), [0], "hurt")[0]
    assert hurt.dev["0.001"] == plain.dev["0.001"]
    still = [p.value for p in hurt.curve if (p.lr, p.split, p.metric) == (1e-2, "dev", "loss")]
    assert np.ptp(still) == 0
