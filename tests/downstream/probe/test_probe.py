"""Probes on cached features are S3PRL's probes: same numbers, same parameters, heads without upstreams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from corpora.audio import read_audio
from corpora.files import read_json
from downstream.probe import cache
from downstream.probe.data import TaskData, load_task
from downstream.protocols import Protocol, load
from downstream.upstreams import Upstream, resolve

SIZES = {"train": 12, "dev": 6, "test": 6}


def features_of(root: Path, upstream: Upstream, data: TaskData, kind: str, **options: bool) -> cache.Features:
    from downstream.probe.probe import UpstreamExtractor

    return cache.prepare(root, upstream, kind, data.items, lambda: UpstreamExtractor(upstream, "cpu"), **options)


def model_pair(
    task: str, upstream: Upstream, features: cache.Features, protocol: Protocol
) -> tuple[Any, nn.Module, nn.Module]:
    """(problem, probe on cached features, S3PRL's own model), same weights."""
    from s3prl.problem.asr.superb_asr import SuperbASR
    from s3prl.problem.common.superb_er import SuperbER

    from downstream.probe.probe import build_s3prl_upstream
    from downstream.probe.train import problem_of

    build_s3prl_upstream(upstream.build)  # registers our names before S3PRL's own problem looks them up
    problem = problem_of(task)
    conf = protocol.config["problem"]
    arguments = {
        "build_model": conf["build_model"],
        "model_output_size": 5,
        "build_featurizer": conf["build_featurizer"],
        "build_downstream": conf["build_downstream"],
    }
    stand_in = {**asdict(features.info), "normalised": features.normalised}
    cached = problem.build_model(**arguments, build_upstream={**upstream.build, "cached": stand_in})
    theirs = SuperbASR() if task == "asr" else SuperbER()
    head = {k: v for k, v in conf["build_downstream"].items() if k != "total_rate"}
    plain = theirs.build_model(**{**arguments, "build_downstream": head}, build_upstream=upstream.build)
    with torch.no_grad():  # an even layer sum would hide a wrong order of layers
        for name, weight in cached.named_parameters():
            if name == "featurizer.weights":
                weight.copy_(torch.linspace(-1, 1, len(weight)))
    state = {k.replace("downstream.encoder.", "downstream.model."): v for k, v in cached.state_dict().items()}
    missing, unexpected = plain.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("upstream.") for name in missing)
    return problem, cached.eval(), plain.eval()


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("name", ["fbank", "tiny_a"])
def test_pooled_features_give_s3prls_own_logits(
    name: str, normalised: bool, make_set: Callable[..., Path], tiny_models: Path, tmp_path: Path
):
    """S3PRL normalises each frame before the mean over time, so the cache has to as well."""
    upstream = resolve(name, tiny_models)
    protocol = load("ser", "light", {"problem.build_featurizer.normalize": normalised})
    data = load_task(make_set("ser", SIZES), protocol)
    features = features_of(tmp_path / "c", upstream, data, "pooled", normalised=normalised)
    _, cached, plain = model_pair("ser", upstream, features, protocol)
    for item in data.splits["test"]:
        wave = torch.from_numpy(read_audio(item.audio))
        with torch.no_grad():
            expected = plain(wave[None], torch.tensor([len(wave)]))
            got = cached(torch.from_numpy(features[item.key].copy())[:, None, None], torch.tensor([1]))
        assert torch.allclose(got, expected, atol=2e-5), (got, expected)


@pytest.mark.slow
def test_stored_frames_give_s3prls_own_logits(make_set: Callable[..., Path], tiny_models: Path, tmp_path: Path):
    from downstream.probe.probe import CachedDataset, collate

    upstream = resolve("tiny_a", tiny_models)
    # One frame of the upstream is one of the head, as S3PRL's own problem has it.
    protocol = load("asr", "light", {"problem.build_downstream.total_rate": 320})
    data = load_task(make_set("asr", SIZES), protocol)
    features = features_of(tmp_path / "c", upstream, data, "frames")
    _, cached, plain = model_pair("asr", upstream, features, protocol)
    items = data.splits["test"]
    batch = collate(CachedDataset(items, [{} for _ in items], features).__getitems__(list(range(len(items)))))
    with torch.no_grad():
        got, lengths = cached(batch["x"], batch["x_len"])
    for row, item in enumerate(items):
        wave = torch.from_numpy(read_audio(item.audio))
        with torch.no_grad():
            expected, expected_length = plain(wave[None], torch.tensor([len(wave)]))
        assert lengths[row] == expected_length[0] == expected.shape[1]
        assert (got[row, : lengths[row]] - expected[0]).abs().max() < 5e-3  # half precision of the features


@pytest.mark.slow
def test_features_do_not_depend_on_the_batch(make_set: Callable[..., Path], tiny_models: Path, tmp_path: Path):
    data = load_task(make_set("ser", SIZES), load("ser", "light"))
    for name in ("fbank", "tiny_a"):
        upstream = resolve(name, tiny_models)
        together = features_of(tmp_path / "all", upstream, data, "frames")
        one = data.splits["dev"][0]
        alone = features_of(tmp_path / "one", upstream, TaskData("ser", {"dev": [one]}), "frames")
        assert np.allclose(together[one.key], alone[one.key], atol=1e-3)


def test_dense_lstm_is_the_packed_one():
    from s3prl.nn.rnn import RNNEncoder

    from downstream.probe.recognition import StackedEncoder

    conf = load("asr", "light").config["problem"]["build_downstream"]["model_conf"]
    torch.manual_seed(0)
    ours = StackedEncoder(12, 7, 1, **conf).eval()
    theirs = RNNEncoder(12, 7, **conf).eval()
    theirs.load_state_dict(ours.encoder.state_dict())
    x, lengths = torch.randn(3, 9, 12), torch.tensor([9, 1, 4])
    y, y_len = ours(x, lengths)
    expected, expected_len = theirs(x, lengths)
    assert torch.equal(y_len, expected_len)
    for row, length in enumerate(lengths):
        assert torch.allclose(y[row, :length], expected[row, :length], atol=1e-6)
    y.square().sum().backward()
    expected.square().sum().backward()
    mine = dict(ours.encoder.named_parameters())
    for name, parameter in theirs.named_parameters():
        assert torch.allclose(mine[name].grad, parameter.grad, atol=1e-4), name


def test_padding_changes_nothing():
    from downstream.probe.recognition import StackedEncoder

    conf = load("asr", "light").config["problem"]["build_downstream"]["model_conf"]
    model = StackedEncoder(12, 7, 2, **conf).eval()
    x, lengths = torch.randn(2, 10, 12), torch.tensor([10, 4])
    noisy = x.clone()
    noisy[1, 4:] = 100.0
    (a, counts), (b, _) = model(x, lengths), model(noisy, lengths)
    assert counts.tolist() == [5, 2]
    assert torch.equal(a[1, :2], b[1, :2])


@pytest.mark.parametrize(("stride", "frames"), [(160, 7), (320, 4)])
def test_every_upstream_reaches_the_head_at_one_rate(stride: int, frames: int):
    from downstream.probe.train import problem_of

    conf = load("asr", "light").config["problem"]["build_downstream"]
    head = problem_of("asr").build_downstream(conf, 10, 6, stride)
    y, lengths = head(torch.randn(1, frames, 10), torch.tensor([frames]))
    assert lengths.tolist() == [2] and y.shape[1] == 2


def test_greedy_decoding_stops_where_an_utterance_ends():
    from downstream.probe.train import problem_of

    problem = problem_of("asr")
    arguments = problem.task_arguments({"characters": [" ", "ا", "ب"]})

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor, x_len: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            path = torch.tensor([4, 4, 0, 4, 5, 3, 5, 1])  # ا ا blank ا ب space ب eos
            return torch.nn.functional.one_hot(path, 6).float().expand(len(x), -1, -1), x_len

    task = problem.build_task(model=Fixed(), **arguments).eval()
    _, hypotheses, _ = task.predict(torch.zeros(2, 8, 1), torch.tensor([8, 3]))
    assert hypotheses == ["ااب ب", "ا"]


def small(task: str, **overrides: Any) -> Protocol:
    steps = {"problem.train.total_steps": 40, "problem.train.eval_step": 20}
    return load(task, "light", {**steps, **overrides})


@pytest.mark.slow
def test_a_cell_learns_repeats_itself_and_keeps_the_head_only(
    make_set: Callable[..., Path], tiny_models: Path, tmp_path: Path
):
    from downstream.probe.train import run_cell

    upstream, protocol = resolve("tiny_a", tiny_models), small("ser")
    data = load_task(make_set("ser", {"train": 30, "dev": 12, "test": 12}), protocol)
    features = features_of(tmp_path / "c", upstream, data, "pooled")
    (tmp_path / "one" / "train_lr0.001" / "valid_best").mkdir(parents=True)  # from a killed run
    one = run_cell(data, upstream, features, protocol, 0, tmp_path / "one", "cpu")
    two = run_cell(data, upstream, features, protocol, 0, tmp_path / "two", "cpu")
    assert (one.predictions, one.dev, one.lr) == (two.predictions, two.dev, two.lr)
    assert set(one.dev) == {f"{lr:g}" for lr in protocol.config["learning_rates"]}
    assert np.mean([p.reference == p.hypothesis for p in one.predictions]) > 0.6
    assert {p.utt_id for p in one.predictions} == {i.utt_id for i in data.splits["test"]}
    head = load_file(tmp_path / "one" / "head" / "head.safetensors")
    assert set(head) == {
        "featurizer.weights",
        *(f"downstream.{layer}.{kind}" for layer in ("hidden_layers.0", "final_proj") for kind in ("weight", "bias")),
    }
    described = read_json(tmp_path / "one" / "head" / "head.json")
    assert described["labels"] == ["angry", "calm", "sad"]
    assert described["upstream_key"] == upstream.key
    left = {p.suffix for p in (tmp_path / "one").rglob("*") if p.is_file()}
    assert not left & {".pt", ".pkl"}
    run_cell(data, upstream, features, protocol, 1, tmp_path / "three", "cpu")
    other = load_file(tmp_path / "three" / "head" / "head.safetensors")
    assert not torch.equal(other["downstream.final_proj.weight"], head["downstream.final_proj.weight"])


@pytest.mark.slow
def test_training_on_waveforms_gives_the_same_predictions(
    make_set: Callable[..., Path], tiny_models: Path, tmp_path: Path
):
    from downstream.probe.train import run_cell

    upstream = resolve("tiny_a", tiny_models)
    protocol = small("ser", learning_rates=[1e-2])
    data = load_task(make_set("ser", SIZES), protocol)
    features = features_of(tmp_path / "c", upstream, data, "pooled")
    cached = run_cell(data, upstream, features, protocol, 0, tmp_path / "cached", "cpu")
    plain = run_cell(data, upstream, None, protocol, 0, tmp_path / "plain", "cpu")
    assert cached.predictions == plain.predictions
    assert cached.dev == pytest.approx(plain.dev)


def test_long_training_waveforms_are_cut_at_random(make_set: Callable[..., Path]):
    from downstream.probe.probe import WaveDataset

    items = load_task(make_set("ser", SIZES), load("ser", "light")).splits["train"]
    dataset = WaveDataset(items, [{} for _ in items], max_secs=0.1)
    torch.manual_seed(0)
    pieces = [dataset[0]["x"] for _ in range(4)]
    assert all(piece.shape == (1600, 1) for piece in pieces)
    assert any(not torch.equal(pieces[0], piece) for piece in pieces)
    assert dataset[0]["x_len"] == 1600


@pytest.mark.slow
def test_speech_recognition_learns_letters(make_set: Callable[..., Path], tmp_path: Path):
    from downstream.probe.train import run_cell
    from downstream.score import metrics

    protocol = small(
        "asr",
        **{
            "problem.train.total_steps": 160,
            "problem.train.eval_step": 80,
            "problem.build_batch_sampler.train.max_seconds": 8,
            "problem.build_downstream.model_conf.hidden_size": [64],
        },
    )
    upstream = resolve("fbank", tmp_path)
    data = load_task(make_set("asr", {"train": 60, "dev": 8, "test": 8}), protocol)
    features = features_of(tmp_path / "c", upstream, data, "frames")
    outcome = run_cell(data, upstream, features, protocol, 0, tmp_path / "run", "cpu")
    references = [p.reference for p in outcome.predictions]
    assert metrics.value("cer", references, [p.hypothesis for p in outcome.predictions]) < 0.3
    assert read_json(tmp_path / "run" / "head" / "head.json")["characters"] == sorted(" ابتج")


def test_batches_keep_to_their_budget_and_cover_everything():
    from downstream.probe.recognition import BudgetSampler

    samples = np.random.default_rng(0).integers(8000, 160000, 100).tolist()
    sampler = BudgetSampler(samples, 20, seed=1)
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        assert sorted(row for batch in epochs[-1] for row in batch) == list(range(100))
        for batch in epochs[-1]:
            assert len(batch) == 1 or max(samples[row] for row in batch) * len(batch) <= 20 * 16000
    assert epochs[0] != epochs[1]
    sampler.set_epoch(0)
    assert list(sampler) == epochs[0]
    assert list(BudgetSampler(samples, 20, seed=None)) == list(BudgetSampler(samples, 20, seed=None))


def test_an_s3prl_upstream_of_25_frames_a_second_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    """S3PRL has such entries; windows of long files and the stacking of frames would be wrong for them."""
    from downstream import DownstreamError
    from downstream.probe import probe
    from downstream.upstreams import Upstream

    class Slow(torch.nn.Module):
        num_layers, hidden_sizes, downsample_rates = 2, [8, 8], [640, 640]

    monkeypatch.setattr(probe, "build_s3prl_upstream", lambda build: Slow())
    with pytest.raises(DownstreamError, match="^slow: 25 frames per second"):
        probe.UpstreamExtractor(Upstream("slow", "slow", None, "key", batched=False), "cpu")
