"""Base of our S3PRL problems: upstream wrappers, datasets of stored features, model files; imports S3PRL."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from s3prl.dataio.collate_fn import default_collate_fn
from s3prl.nn.upstream import Featurizer, S3PRLUpstream
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from corpora.audio import SAMPLE_RATE
from corpora.datadir import read_utterance
from corpora.files import write_json
from downstream import DownstreamError
from downstream.probe import finetune
from downstream.probe.cache import Features, Info
from downstream.probe.data import LabelledUtterance
from downstream.upstreams import BASELINES, Upstream
from upstream.model.family import HOP


class UpstreamExtractor:
    """`downstream.probe.cache.Extractor` with S3PRL's wrapper: its hidden states, cut to its lengths."""

    def __init__(self, upstream: Upstream, device: str):
        self.model = build_s3prl_upstream(upstream.build).to(device).eval()
        self.device = device
        self.info = info_of(self.model)
        if HOP % self.info.stride:
            raise DownstreamError(
                f"{upstream.name}: {SAMPLE_RATE / self.info.stride:.4g} frames per second (one every "
                f"{self.info.stride} samples); probes and heads take 50, or a multiple of it (such as fbank's 100)"
            )

    @torch.no_grad()
    def __call__(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        lengths = torch.tensor([len(wave) for wave in waves])
        padded = nn.utils.rnn.pad_sequence([torch.from_numpy(wave) for wave in waves], batch_first=True)
        hidden, counts = self.model(padded.to(self.device), lengths.to(self.device))
        stacked = torch.stack(list(hidden)).float().cpu().numpy()
        return [stacked[:, row, :count] for row, count in enumerate(counts[0].tolist())]


def build_s3prl_upstream(build: dict[str, Any]) -> S3PRLUpstream:
    """S3PRL's wrapper around an entry of its hub; registers our entries first."""
    if build["name"] not in BASELINES:
        from upstream import register

        register("s3prl")
    return S3PRLUpstream(**build)


def info_of(model: S3PRLUpstream) -> Info:
    """Layers, width and stride; the sum of layers, ours and S3PRL's, needs equal width and stride in all layers."""
    if len(set(model.hidden_sizes)) != 1 or len(set(model.downsample_rates)) != 1:
        raise ValueError(
            f"the hidden states differ in width {model.hidden_sizes} or rate {model.downsample_rates}; a layer sum "
            "needs them equal"
        )
    return Info(model.num_layers, model.hidden_sizes[0], model.downsample_rates[0])


class CachedUpstream(nn.Module):
    """Replaces S3PRLUpstream if `x` already holds its hidden states, stacked (layers, B, T, D)."""

    def __init__(self, layers: int, width: int, stride: int, normalised: bool = False):
        super().__init__()
        self.normalised = normalised
        self.num_layers = layers
        self.hidden_sizes = [width] * layers
        self.downsample_rates = [stride] * layers

    def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(layers, B, T, D), (B,) -> the same states, which index by layer, and the lengths once per layer."""
        return x, [x_len] * self.num_layers


class LayerSum(Featurizer):
    """S3PRL's featurizer with the same parameters; for stacked layers, one matrix product instead of a copy.

    Features that are stored normalised are not normalised again.
    """

    def __init__(self, upstream: nn.Module, layer_selections: list[int] | None = None, normalize: bool = False):
        super().__init__(upstream, layer_selections, normalize and not getattr(upstream, "normalised", False))

    def forward(self, all_hs: Tensor | list[Tensor], all_lens: list[Tensor]) -> tuple[Tensor, Tensor]:
        if not isinstance(all_hs, Tensor) or self.normalize or len(all_hs) == 1:
            return super().forward(all_hs, all_lens)
        if len(self.layer_selections) != len(all_hs):
            return super().forward(list(all_hs), all_lens)
        weights = torch.softmax(self.weights, dim=-1)
        return (weights @ all_hs.flatten(1)).view(all_hs.shape[1:]), all_lens[0]


class CachedDataset:
    """Items as batches with `x` (layers, B, T, D) from stored features; T = 1 for pooled features."""

    def __init__(self, items: Sequence[LabelledUtterance], targets: Sequence[dict[str, Any]], features: Features):
        self.items = list(items)
        self.targets = list(targets)
        self.features = features
        self.stacked = None
        if features.kind == "pooled":
            # (layers, N, 1, D): a mean is an utterance of one frame.
            self.stacked = torch.from_numpy(np.stack([features[item.key] for item in items], axis=1))[:, :, None]

    def __len__(self) -> int:
        return len(self.items)

    def __getitems__(self, rows: list[int]) -> dict[str, Any]:
        batch = default_collate_fn([self.targets[row] | {"unique_name": self.items[row].utt_id} for row in rows])
        if self.stacked is not None:
            x, lengths = self.stacked[:, rows], [1] * len(rows)
        else:
            packed = [self.features.packed(self.items[row].key) for row in rows]
            lengths = [states.shape[1] for states, _ in packed]
            info = self.features.info
            x = torch.empty(info.layers, len(rows), max(lengths), info.width)
            for number, (states, scale) in enumerate(packed):
                x[:, number, : lengths[number]] = torch.from_numpy(states)
                x[:, number, : lengths[number]] *= torch.from_numpy(scale)[:, None, None]
                x[:, number, lengths[number] :] = 0
        return batch | {"x": x, "x_len": torch.tensor(lengths)}


class WaveDataset:
    """Items as waveforms, read at every use, for S3PRL's loop with the upstream at every step.

    A waveform longer than `max_secs` is cut to a random piece of that length.
    """

    def __init__(
        self, items: Sequence[LabelledUtterance], targets: Sequence[dict[str, Any]], max_secs: float | None = None
    ):
        self.items = list(items)
        self.targets = list(targets)
        self.max_samples = None if max_secs is None else int(max_secs * SAMPLE_RATE)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> dict[str, Any]:
        item = self.items[row]
        wave = read_utterance(item)
        if self.max_samples is not None and len(wave) > self.max_samples:
            start = int(torch.randint(len(wave) - self.max_samples + 1, ()))
            wave = wave[start : start + self.max_samples]
        x = torch.from_numpy(wave)[:, None]
        return {"x": x, "x_len": len(wave), **self.targets[row], "unique_name": item.utt_id}


def collate(samples: Any) -> dict[str, Any]:
    """S3PRL's collation; batches of `CachedDataset` pass unchanged."""
    return samples if isinstance(samples, dict) else default_collate_fn(samples)


class ProbeMixin:
    """Overrides of the hooks of S3PRL's Problem that do not depend on the task."""

    def build_collate_fn(self, build_collate_fn: dict, mode: str):
        return collate

    def build_upstream(self, build_upstream: dict) -> nn.Module:
        """The upstream, or with the key `cached` (arguments of `CachedUpstream`) its replacement.

        The key `finetune` (see `downstream.probe.finetune`) makes a part of it trainable.
        """
        build = dict(build_upstream)
        cached = build.pop("cached", None)
        tuning = finetune.parse(build.pop("finetune", "probe"))
        if cached is not None:
            return CachedUpstream(**cached)
        self.upstream = build_s3prl_upstream(build)
        if not tuning.frozen:
            finetune.apply(finetune.encoder_of(self.upstream), tuning)
        return self.upstream

    def build_optimizer(self, build_optimizer: dict, parameters: Any) -> torch.optim.Optimizer:
        """S3PRL's optimiser; the key `upstream_lr` sets the rate of the trained part of the upstream."""
        build = dict(build_optimizer)
        upstream_lr = build.pop("upstream_lr", None)
        if upstream_lr is None:
            return super().build_optimizer(build, parameters)
        theirs = [p for p in self.upstream.parameters() if p.requires_grad]
        known = {id(p) for p in self.upstream.parameters()}
        head = [p for p in parameters if id(p) not in known]
        return super().build_optimizer(build, [{"params": head}, {"params": theirs, "lr": upstream_lr}])

    def build_scheduler(self, build_scheduler: dict, optimizer: torch.optim.Optimizer) -> Any:
        """S3PRL's scheduler; the peak of a cycle is the rate of each group of parameters."""
        build = dict(build_scheduler)
        if build.get("name") == "OneCycleLR":
            build["conf"] = {**build["conf"], "max_lr": [group["lr"] for group in optimizer.param_groups]}
        return super().build_scheduler(build, optimizer)

    def build_featurizer(self, build_featurizer: dict, upstream: nn.Module) -> LayerSum:
        return LayerSum(upstream, **build_featurizer)

    def save_model(self, save_model: dict, model_ckpt_dir: str, build_model_all_args: dict, model: nn.Module) -> None:
        """Write featurizer, head and the trained part of the upstream as safetensors, and the arguments to rebuild."""
        folder = Path(model_ckpt_dir)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        save_file(head_state(model), folder / "head.safetensors")
        if learned := finetune.learned(model.upstream):
            save_file(learned, folder / finetune.DELTA)
        write_json(folder / "arguments.json", build_model_all_args)

    def load_model(self, model_ckpt_dir: str) -> nn.Module:
        folder = Path(model_ckpt_dir)
        model = self.build_model(**json.loads((folder / "arguments.json").read_text(encoding="utf-8")))
        missing, unexpected = model.load_state_dict(load_file(folder / "head.safetensors"), strict=False)
        missing = [name for name in missing if not name.startswith("upstream.")]
        if missing or unexpected:
            raise ValueError(f"{folder}: the head has other parameters ({[*missing, *unexpected][0]})")
        if (folder / finetune.DELTA).is_file():
            finetune.put_delta(model.upstream, load_file(folder / finetune.DELTA), folder)
        return model

    def save_task(self, save_task: dict, task_ckpt_dir: str, build_task_all_args_except_model: dict, task: Any) -> None:
        """Write the names of the classes or characters as JSON."""
        write_json(Path(task_ckpt_dir) / "task.json", self.describe_task(build_task_all_args_except_model))

    def load_task(self, task_ckpt_dir: str, model: nn.Module, task_overrides: dict | None = None) -> Any:
        described = json.loads((Path(task_ckpt_dir) / "task.json").read_text(encoding="utf-8"))
        return self.build_task(model=model, **self.task_arguments(described))

    def train(self, *args: Any, **kwargs: Any) -> None:
        with _bars_hidden():
            super().train(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with _bars_hidden():
            return super().evaluate(*args, **kwargs)


def scheduler_arguments(conf: dict[str, Any]) -> dict[str, Any]:
    """S3PRL's scheduler arguments; the length of a cycle is the number of training steps."""
    scheduler = conf.get("build_scheduler") or {}
    if scheduler.get("name") == "OneCycleLR":
        return {**scheduler, "conf": {**scheduler["conf"], "total_steps": conf["train"]["total_steps"]}}
    return scheduler


def head_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a probe without its upstream."""
    state = model.state_dict()
    return {k: v.detach().cpu().contiguous() for k, v in state.items() if not k.startswith("upstream.")}


@contextlib.contextmanager
def _bars_hidden() -> Iterator[None]:
    """Send S3PRL's progress bars to nowhere; they cannot be switched off, since S3PRL counts its steps on them."""
    with open(os.devnull, "w") as sink, contextlib.redirect_stderr(sink):
        yield
