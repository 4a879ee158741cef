"""Protocols: everything that decides a number besides data, model and seed, as a YAML file with a hash.

`downstream/<task>/<name>.yaml` beside the S3PRL problem of the task. The part under `problem` holds the arguments
of S3PRL's own methods under S3PRL's names (`build_downstream`, `train`, ...); the rest is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.files import sha256_json
from corpora.schema import nearest

TASKS = ("asr", "ser", "did")
_HERE = Path(__file__).parent
# What it takes to write a log has no bearing on a number.
_NOT_HASHED = ("problem.train.log_step",)


class ProtocolError(ValueError):
    """An unknown protocol or key, or values that contradict each other."""


@dataclass(frozen=True)
class Protocol:
    """A protocol after overrides; `tag` (name@hash) marks the rows that may share a table."""

    name: str
    task: str
    config: dict[str, Any]
    hash: str

    @property
    def tag(self) -> str:
        return f"{self.name}@{self.hash[:8]}"


def load(task: str, name: str, overrides: Mapping[str, Any] | None = None) -> Protocol:
    """Read a protocol and set `overrides` (dotted keys, e.g. `problem.train.total_steps`) in it.

    Raises ProtocolError for an unknown task, protocol or key, naming the nearest known one.
    """
    from omegaconf import OmegaConf

    if task not in TASKS:
        raise ProtocolError(_unknown("task", task, TASKS))
    path = _HERE / task / f"{name}.yaml"
    if not path.is_file():
        raise ProtocolError(_unknown(f"protocol of {task}", name, [p.stem for p in path.parent.glob("*.yaml")]))
    config = OmegaConf.load(path)
    known = list(_keys(OmegaConf.to_container(config)))
    for key, value in (overrides or {}).items():
        if key not in known:
            raise ProtocolError(_unknown(f"key of protocol {task}/{name}", key, known))
        OmegaConf.update(config, key, value, merge=False)
    plain = OmegaConf.to_container(config, resolve=True)
    _check(plain, path)
    hashed = {key: value for key, value in _leaves(plain) if key not in _NOT_HASHED}
    return Protocol(name, task, plain, sha256_json(hashed))


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`key=value` arguments as a dictionary; values are read as YAML."""
    from omegaconf import OmegaConf

    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ProtocolError(f"`{pair}` is not of the form key=value")
        values[key] = OmegaConf.create(f"value: {value}").value
    return values


def _check(config: dict[str, Any], path: Path) -> None:
    train = config["problem"]["train"]
    for step in ("eval_step", "save_step"):
        if train[step] <= 0:
            raise ProtocolError(f"{path}: problem.train.{step} is {train[step]}; it must be at least 1")
    if train["total_steps"] < train["eval_step"]:
        raise ProtocolError(
            f"{path}: problem.train.total_steps ({train['total_steps']}) is below eval_step ({train['eval_step']}), "
            "so no checkpoint would ever be chosen on dev; lower eval_step or train longer"
        )
    share = config["search_share"]
    if share is not None and not 0 < share <= 1:
        raise ProtocolError(f"{path}: search_share is {share}; give a share of the steps, or null to train every rate")
    if not config["learning_rates"]:
        raise ProtocolError(f"{path}: learning_rates is empty; give at least one")


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _unknown(what: str, name: str, known: Any) -> str:
    listed = sorted(known)
    shown = f" (known: {', '.join(listed)})" if len(listed) <= 12 else ""
    return f"unknown {what} `{name}`{nearest(name, known)}{shown}"
