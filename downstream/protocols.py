"""Tasks and their protocols. A protocol fixes everything about a result except data, model and seed.

A protocol is a YAML file, `downstream/<task>/<name>.yaml`, and is identified by its hash. Its part `problem` holds
arguments of S3PRL's methods under S3PRL's names (`build_downstream`, `train`, ...); the other keys are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.files import sha256_json
from corpora.schema import flatten, nearest
from downstream import DownstreamError


@dataclass(frozen=True)
class Task:
    """A task: its label (a field of `Utterance`), its file of labels in a data directory, its command for trained
    heads, and its stage in run.sh."""

    label: str
    file: str
    command: str
    stage: int


TASKS = {
    "asr": Task("text", "text", "transcribe", 10),
    "ser": Task("emotion", "utt2emotion", "emotion", 11),
    "did": Task("dialect", "utt2dialect", "dialect", 12),
}
# Increase it if a change of the code changes results. All probes are then trained again.
FORM = 2
_HERE = Path(__file__).parent
# The interval of logging changes no result.
_NOT_HASHED = ("problem.train.log_step",)


@dataclass(frozen=True)
class Protocol:
    """A protocol with its overrides; only rows of the same `tag` (name@hash) share a table."""

    name: str
    task: str
    config: dict[str, Any]
    hash: str

    @property
    def tag(self) -> str:
        return f"{self.name}@{self.hash[:8]}"


def load(task: str, name: str, overrides: Mapping[str, Any] | None = None) -> Protocol:
    """Read a protocol and apply `overrides` (dotted keys, e.g. `problem.train.total_steps`).

    Raises DownstreamError for an unknown task, protocol or key and names the nearest known one.
    """
    from omegaconf import OmegaConf

    if task not in TASKS:
        raise DownstreamError(_unknown("task", task, TASKS))
    path = _HERE / task / f"{name}.yaml"
    if not path.is_file():
        raise DownstreamError(_unknown(f"protocol of {task}", name, [p.stem for p in path.parent.glob("*.yaml")]))
    config = OmegaConf.load(path)
    leaves = flatten(OmegaConf.to_container(config))
    parts = [key.split(".") for key in leaves]
    known = {".".join(part[: end + 1]) for part in parts for end in range(len(part))}
    for key, value in (overrides or {}).items():
        if key not in known:
            raise DownstreamError(_unknown(f"key of protocol {task}/{name}", key, known))
        OmegaConf.update(config, key, value, merge=False)
    plain = OmegaConf.to_container(config, resolve=True)
    _check(plain, path)
    hashed = {key: value for key, value in flatten(plain).items() if key not in _NOT_HASHED}
    return Protocol(name, task, plain, sha256_json(hashed))


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`key=value` arguments as a dictionary; values are read as YAML."""
    from omegaconf import OmegaConf

    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise DownstreamError(f"`{pair}` is not of the form key=value")
        values[key] = OmegaConf.create(f"value: {value}").value
    return values


def _check(config: dict[str, Any], path: Path) -> None:
    train = config["problem"]["train"]
    for step in ("eval_step", "save_step"):
        if train[step] <= 0:
            raise DownstreamError(f"{path}: problem.train.{step} is {train[step]}; it must be at least 1")
    if train["total_steps"] < train["eval_step"]:
        raise DownstreamError(
            f"{path}: problem.train.total_steps ({train['total_steps']}) is below eval_step ({train['eval_step']}), "
            "so no checkpoint would be chosen on dev; lower eval_step or train longer"
        )
    share = config["search_share"]
    if share is not None and not 0 < share <= 1:
        raise DownstreamError(
            f"{path}: search_share is {share}; give a share of the steps, or null to train every rate in full"
        )
    if not config["learning_rates"]:
        raise DownstreamError(f"{path}: learning_rates is empty; give at least one")


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    listed = sorted(known)
    shown = f" (known: {', '.join(listed)})" if len(listed) <= 12 else ""
    return f"unknown {kind} `{name}`{nearest(name, listed)}{shown}"
