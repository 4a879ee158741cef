"""Tasks and their protocols. A protocol fixes everything about a result except data, model and seed.

A protocol is a YAML file, `downstream/<task>/<name>.yaml`, and is identified by its hash. Its part `problem` holds
arguments of S3PRL's methods under S3PRL's names (`build_downstream`, `train`, ...); the other keys are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.files import sha256_json
from corpora.names import check_name
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

    Raises DownstreamError for an unknown task, protocol or key and names the nearest known one, and for values that
    cannot be used; all of these are named at once.
    """
    from omegaconf import OmegaConf

    if task not in TASKS:
        raise DownstreamError(_unknown("task", task, TASKS))
    path = _HERE / task / f"{check_name(name, 'protocol')}.yaml"
    if not path.is_file():
        raise DownstreamError(_unknown(f"protocol of {task}", name, [p.stem for p in path.parent.glob("*.yaml")]))
    config = OmegaConf.load(path)
    leaves = flatten(OmegaConf.to_container(config))
    parts = [key.split(".") for key in leaves]
    known = {".".join(part[: end + 1]) for part in parts for end in range(len(part))}
    problems = []
    for key, value in (overrides or {}).items():
        if key not in known:
            problems.append(_unknown(f"key of protocol {task}/{name}", key, known))
            continue
        default = OmegaConf.select(config, key)
        if not is_alike(OmegaConf.to_object(default) if OmegaConf.is_config(default) else default, value):
            problems.append(f"`{key}` is {value!r} ({type(value).__name__}); it must be of the kind of {default!r}")
            continue
        OmegaConf.update(config, key, value, merge=False)
    plain = OmegaConf.to_container(config, resolve=True)
    problems += _problems(plain)
    if problems:
        raise DownstreamError(f"{path}: {'; '.join(problems)}")
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
        try:
            values[key] = OmegaConf.to_object(OmegaConf.create(f"value: {value}"))["value"]
        except Exception as error:  # YAML and OmegaConf raise a dozen types
            raise DownstreamError(
                f"--set {pair}: {value!r} is not a YAML value ({' '.join(str(error).split())})"
            ) from None
    return values


def is_alike(default: Any, value: Any) -> bool:
    """Whether a value has the type of the one that it replaces; a whole number is a number, and null fits all."""
    if default is None or value is None:
        return True
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)


# Bounds of the values with these names: the smallest, whether it is itself excluded, the largest, and the type.
_BOUNDS: dict[str, tuple[float, bool, float, type]] = {
    **dict.fromkeys(("total_steps", "eval_step", "save_step", "log_step"), (1, False, math.inf, int)),
    **dict.fromkeys(("gradient_accumulate", "batch_size", "hidden_size"), (1, False, math.inf, int)),
    **dict.fromkeys(("learning_rates", "top", "lora", "full"), (0, True, math.inf, float)),
    "gradient_clipping": (0, True, math.inf, float),
    "min_ms": (0, False, math.inf, float),
    "max_left_out": (0, False, 1, float),
    "dropout": (0, False, 1, float),
}


def _problems(config: dict[str, Any]) -> list[str]:
    """Values that cannot be used, each with its key."""
    found = []
    for key, value in flatten(config).items():
        if bounds := _BOUNDS.get(key.rpartition(".")[2]):
            found += [f"`{key}` is {one!r}; {text}" for one in _as_list(value) if (text := _outside(one, *bounds))]
    rates = config["learning_rates"]
    if not isinstance(rates, list) or not rates:
        found.append(f"`learning_rates` is {rates!r}; give a list of at least one rate")
    share = config["search_share"]
    if share is not None and _outside(share, 0, True, 1, float):
        found.append(f"`search_share` is {share!r}; give a share of the steps, or null to train every rate in full")
    train = config["problem"]["train"]
    if not found and train["total_steps"] < train["eval_step"]:
        found.append(
            f"problem.train.total_steps ({train['total_steps']}) is below eval_step ({train['eval_step']}), so no "
            "checkpoint would be chosen on dev; lower eval_step or train longer"
        )
    return found


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _outside(value: Any, low: float, above: bool, high: float, kind: type) -> str:
    """What a number must be, if this value is not such a number."""
    fits = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if fits and math.isfinite(value) and (low < value if above else low <= value) and value <= high:
        return ""
    text = "a whole number" if kind is int else "a number"
    return f"it must be {text} {'above' if above else 'of at least'} {low:g}" + (
        f" and at most {high:g}" * (high < math.inf)
    )


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    listed = sorted(known)
    shown = f" (known: {', '.join(listed)})" if len(listed) <= 12 else ""
    return f"unknown {kind} `{name}`{nearest(name, listed)}{shown}"
