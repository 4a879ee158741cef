"""Read `results.csv` for the report: typed rows, their settings, labels of the metrics."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from downstream import DownstreamError
from downstream.protocols import TASKS
from downstream.score import results
from upstream.names import STANDARD_UPSTREAMS

# Corpora of synthetic speech: their numbers test the code and say nothing about quality on speech.
SYNTHETIC = frozenset({"mini"})


@dataclass(frozen=True)
class Metric:
    """Label of a metric in tables; `sign` is +1 if higher is better and -1 if lower is better."""

    label: str
    sign: int

    @property
    def arrow(self) -> str:
        """Points to the better direction."""
        return "↑" if self.sign > 0 else "↓"


METRICS = {
    "cer": Metric("CER", -1),
    "wer": Metric("WER", -1),
    "cer_macro": Metric("CER (mean of utterances)", -1),
    "wer_macro": Metric("WER (mean of utterances)", -1),
    "mr_wer": Metric("multi-reference WER", -1),
    "ua": Metric("UA", 1),
    "wa": Metric("WA", 1),
    "accuracy": Metric("accuracy", 1),
    "macro_f1": Metric("macro F1", 1),
    "cavg": Metric("Cavg", -1),
}
# The headline metric of a task, by which upstreams are compared and plotted: the first of these in its results.
HEADLINE = {"asr": ("cer", "wer"), "ser": ("ua", "wa"), "did": ("accuracy", "macro_f1")}


def metric_info(name: str) -> Metric:
    """Label and direction of a metric. An unknown metric keeps its own name; higher is taken as better."""
    return METRICS.get(name, Metric(name.replace("_", " "), 1))


@dataclass(frozen=True, order=True)
class Setting:
    """Everything that two rows of one table must share: all columns but upstream, seed and fold."""

    task: str
    corpus: str
    protocol: str
    head: str
    finetune: str
    budget: str
    text_profile: str

    @property
    def is_probe(self) -> bool:
        """Whether the upstream was frozen."""
        return self.finetune in ("", "probe", "frozen")

    def short(self) -> str:
        """Task, and the fine-tuning if the upstream was not frozen."""
        return self.task.upper() if self.is_probe else f"{self.task.upper()} {self.finetune}"

    def describe(self) -> str:
        """All values that are set, in words."""
        parts = [f"{self.task.upper()}: protocol {self.protocol}, corpus {self.corpus}, head {self.head}"]
        parts += [
            f"{name} {value}" for name, value in (("fine-tuning", self.finetune), ("budget", self.budget)) if value
        ]
        if self.text_profile:
            parts.append(f"text profile {self.text_profile}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Result:
    """One line of `results.csv`: a metric of one upstream, split, seed and fold."""

    upstream: str
    setting: Setting
    split: str
    metric: str
    value: float
    ci_low: float | None
    ci_high: float | None
    n: int
    seed: int
    fold: int | None
    front_end: str
    iteration: str
    lr: float | None
    params_m: float | None
    macs_g_per_s: float | None
    rtf_cpu: float | None
    wall_s: float | None
    commit: str
    run_dir: str


def read_rows(path: Path) -> list[Result]:
    """The rows of a results file. Raises DownstreamError naming file, line and column."""
    if not path.is_file():
        raise DownstreamError(f"{path}: no results yet; stages 10 to 12 (`python -m downstream ...`) write them")
    return [_row(record, f"{path}, line {i}") for i, record in enumerate(results.read_rows(path), 2)]


def check_recipe(path: Path, recipe: str) -> None:
    """Raise DownstreamError if a results file holds rows of other recipes only."""
    found = {record["recipe"] for record in results.read_rows(path)}
    if recipe not in found:
        raise DownstreamError(f"{path}: no row of the recipe `{recipe}` (found: {', '.join(sorted(found))})")


def _row(record: dict[str, str], where: str) -> Result:
    def number(column: str) -> float | None:
        text = record[column].strip()
        try:
            return float(text) if text else None
        except ValueError:
            raise DownstreamError(f"{where}: column `{column}` holds `{text}`, which is not a number") from None

    value, seed, fold = number("value"), number("seed"), number("fold")
    if value is None or seed is None:
        raise DownstreamError(f"{where}: `value` and `seed` must not be empty; delete the line, run its task again")
    return Result(
        upstream=record["upstream"],
        setting=Setting(*(record[f.name] for f in fields(Setting))),
        split=record["split"],
        metric=record["metric"],
        value=value,
        ci_low=number("ci_low"),
        ci_high=number("ci_high"),
        n=int(number("n") or 0),
        seed=int(seed),
        fold=None if fold is None else int(fold),
        front_end=record["front_end"],
        iteration=record["iteration"],
        lr=number("lr"),
        params_m=number("params_m"),
        macs_g_per_s=number("macs_g_per_s"),
        rtf_cpu=number("rtf_cpu"),
        wall_s=number("wall_s"),
        commit=record["commit"],
        run_dir=record["run_dir"],
    )


def upstream_order(names: set[str]) -> list[str]:
    """Upstreams in the order of every table: the standard ones first, then the others by name."""
    return [n for n in STANDARD_UPSTREAMS if n in names] + sorted(names - set(STANDARD_UPSTREAMS))


def task_order(settings: set[Setting]) -> list[Setting]:
    """Settings by task, in the order of TASKS."""
    rank = {task: i for i, task in enumerate(TASKS)}
    return sorted(settings, key=lambda s: (rank.get(s.task, len(rank)), s))


def is_test(split: str) -> bool:
    """Whether a split is a test set; dev sets choose the learning rate and are not reported."""
    return split.startswith("test")
