"""The columns of tables and panels: a setting, a test split and the metric that stands for it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from downstream.report import budgets
from downstream.report.cells import Cell, Key
from downstream.report.rows import HEADLINE, TASKS, Setting, metric_info, upstream_order


@dataclass(frozen=True)
class Column:
    """What the cells of a column share; `heading` names it among the columns beside it."""

    setting: Setting
    split: str
    metric: str
    heading: str

    def cells(self, cells: dict[Key, Cell]) -> dict[str, Cell]:
        """upstream -> cell, in the order of every table."""
        own = (self.setting, self.split, self.metric)
        found = {key[3]: cell for key, cell in cells.items() if key[:3] == own}
        return {name: found[name] for name in upstream_order(set(found))}


def columns_of(cells: dict[Key, Cell], settings: set[Setting] | None = None) -> list[Column]:
    """The headline column of each setting (default: all) and test split; equal headings get their protocol."""
    columns = []
    for setting in task_order({key[0] for key in cells} if settings is None else settings):
        for split in sorted({s for st, s, _, _ in cells if st == setting}):
            metric = headline(setting, {m for st, s, m, _ in cells if st == setting and s == split})
            columns.append(Column(setting, split, metric, heading(setting, split, metric)))
    count = Counter(column.heading for column in columns)
    return [
        c if count[c.heading] == 1 else Column(c.setting, c.split, c.metric, f"{c.heading} ({c.setting.protocol})")
        for c in columns
    ]


def heading(setting: Setting, split: str, metric: str) -> str:
    """Task, split where it has a name, metric, and an arrow to where it is better."""
    info = metric_info(metric)
    where = "" if split == "test" else f" {split.removeprefix('test_')}"
    return f"{setting.short()}{where} {info.label} {'↑' if info.sign > 0 else '↓'}"


def task_order(settings: set[Setting]) -> list[Setting]:
    rank = {task: i for i, task in enumerate(TASKS)}
    return sorted(settings, key=lambda s: (rank.get(s.task, len(rank)), s))


def headline(setting: Setting, metrics: set[str]) -> str:
    """The metric that stands for a task."""
    known = [m for m in HEADLINE.get(setting.task, ()) if m in metrics]
    return known[0] if known else sorted(metrics)[0]


def split_settings(settings: set[Setting]) -> list[list[Setting]]:
    """Settings that may stand side by side: one for each task in a group, so that no column mixes protocols, and one
    way of fine-tuning and label budget; frozen probes on all labels come first."""
    groups: list[list[Setting]] = []
    for setting in sorted(task_order(settings), key=_depth):
        for group in groups:
            if _depth(group[0]) == _depth(setting) and all(setting.task != other.task for other in group):
                group.append(setting)
                break
        else:
            groups.append([setting])
    return groups


def _depth(setting: Setting) -> tuple:
    return not setting.is_probe, setting.finetune, tuple(-x for x in budgets.rank(setting.budget)[:2])


def mixed_protocols(cells: dict[Key, Cell]) -> list[str]:
    """One sentence for each task whose rows of one kind of fine-tuning do not share a setting, naming who has which.

    Several label budgets are a curve and no accident.
    """
    by_task: dict[tuple[str, ...], dict[Setting, set[str]]] = defaultdict(lambda: defaultdict(set))
    for setting, _, _, upstream in cells:
        by_task[setting.task, setting.finetune, setting.budget][setting].add(upstream)
    sentences = []
    for (task, *_), settings in sorted(by_task.items()):
        if len(settings) > 1:
            who = "; ".join(
                f"{s.describe()}: {', '.join(upstream_order(settings[s]))}" for s in task_order(set(settings))
            )
            sentences.append(
                f"{task.upper()} has rows of {len(settings)} settings, shown apart and not comparable ({who})"
            )
    return sentences
