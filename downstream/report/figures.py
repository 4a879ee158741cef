"""The plots over upstreams: quality against cost, what compression costs, learning curves, label budgets, training."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from corpora.files import read_json
from downstream.report.budgets import in_order, shown
from downstream.report.cells import Cell, Key
from downstream.report.columns import Column, columns_of, task_order
from downstream.report.compression import Loss
from downstream.report.drawing import INK, MUTED, RULE, Figure, Panel, colour, marker
from downstream.report.rows import Setting, metric_info, upstream_order
from downstream.report.runs import Run
from downstream.report.tables import Model
from downstream.report.text import percent

COSTS = {
    "params_m": ("parameters (M)", "parameters"),
    "macs_g_per_s": ("GMAC per second of audio", "multiply-accumulates"),
    "rtf_cpu": ("real-time factor on the CPU", "real-time factor"),
}


def numbers_of(names: Iterable[str]) -> dict[str, int]:
    """A series number (colour and marker) for each upstream, the same in every figure of a report."""
    return {name: i for i, name in enumerate(upstream_order(set(names)))}


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, quality) that no other point matches or beats in both; by cost, quality rises."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


def quality(cells: dict[Key, Cell], known: dict[str, Model], cost: str, label: str) -> Figure | None:
    """Headline metric of each test split against a cost (log scale), with the Pareto front; None without a point.

    Upstreams without parameters (`fbank`) are dashed lines. Bars are the 95 % intervals.
    """
    numbers = numbers_of(key[3] for key in cells)
    axis_label, what = COSTS[cost]
    panels, drawn = [], set()
    for column in columns_of(cells):
        values = column.cells(cells)
        costs = {name: getattr(known.get(name, Model()), cost) for name in values}
        if not any(costs.values()):
            continue
        drawn |= {name for name in values if costs[name] or not known.get(name, Model()).params_m}
        panels.append(
            Panel(
                column.heading,
                _quality_panel(column, values, costs, known, numbers, axis_label),
                f"{column.heading} of each upstream against {what}, with 95 % intervals",
            )
        )
    if not panels:
        return None
    return Figure(
        f"quality_{cost.split('_')[0]}",
        f"Quality against {what}: {label}",
        "Bars are 95 % intervals; the grey line is the Pareto front: upstreams on it are beaten by no cheaper one. "
        "A dashed line is an upstream without parameters.",
        panels,
        {name: number for name, number in numbers.items() if name in drawn},
    )


def _quality_panel(
    column: Column,
    values: dict[str, Cell],
    costs: dict[str, float | None],
    known: dict[str, Model],
    numbers: dict[str, int],
    axis_label: str,
) -> Callable[[Any], dict[str, str]]:
    def draw(axes: Any) -> dict[str, str]:
        tips = {}
        for name, cell in values.items():
            tint, gid = colour(numbers[name]), f"tip-{name}"
            text = f"{name}: {percent(cell.value, cell.low, cell.high)} %"
            if costs[name]:
                _point(axes, costs[name], cell, numbers[name], gid)
                tips[gid] = f"{text}, {costs[name]:g} {axis_label}"
            elif not known.get(name, Model()).params_m:
                axes.axhline(100 * cell.value, color=tint, linestyle=(0, (4, 3)), linewidth=1.2, gid=gid, zorder=1)
                tips[gid] = text
        sign = metric_info(column.metric).sign
        front = pareto([(costs[n], sign * c.value) for n, c in values.items() if costs[n]])
        if len(front) > 1:
            xs, ys = zip(*front, strict=True)
            axes.step(xs, [100 * sign * y for y in ys], where="post", color=MUTED, linewidth=1, alpha=0.6, zorder=1)
        _log_scale(axes, [c for c in costs.values() if c])
        axes.set_xlabel(axis_label)
        axes.set_ylabel(_ylabel(column.metric))
        axes.grid(axis="y", linewidth=0.6)
        return tips

    return draw


def _point(axes: Any, x: float, cell: Cell, number: int, gid: str) -> None:
    y = 100 * cell.value
    if cell.low is not None:
        bars = [[max(0.0, y - 100 * cell.low)], [max(0.0, 100 * cell.high - y)]]
        axes.errorbar([x], [y], yerr=bars, fmt="none", ecolor=colour(number), elinewidth=1.1, capsize=2.5, zorder=2)
    axes.plot([x], [y], marker(number), color=colour(number), markersize=6.5, gid=gid, zorder=3)


def _log_scale(axes: Any, values: list[float]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    low, high = min(values) / 1.5, max(values) * 1.5
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    ticks = [step * 10.0**power for power in range(-9, 10) for step in steps]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high] or values[:1])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _ylabel(metric: str) -> str:
    info = metric_info(metric)
    return f"{info.label} (%), {'higher' if info.sign > 0 else 'lower'} is better"


def compression(losses: list[Loss], label: str, synthetic: bool) -> Figure | None:
    """Relative loss of each task against ΔS, the share of parameters saved; None without a compressed upstream."""
    by_column: dict[str, list[Loss]] = defaultdict(list)
    for loss in losses:
        by_column[loss.column.heading].append(loss)
    if not by_column:
        return None

    def draw(axes: Any) -> dict[str, str]:
        tips = {}
        axes.axhline(0, color=MUTED, linewidth=0.8)
        for number, (heading, points) in enumerate(by_column.items()):
            # Side by side, or intervals of equal ΔS would hide each other.
            shift = 0.7 * (number - (len(by_column) - 1) / 2)
            points = sorted(points, key=lambda p: p.delta_s)
            xs = [0.0, *(p.delta_s + shift for p in points)]
            ys = [0.0, *(100 * p.value for p in points)]
            axes.plot(xs, ys, color=colour(number), linewidth=1.4, zorder=2, label=heading)
            for p, x, y in zip(points, xs[1:], ys[1:], strict=True):
                bars = [[max(0.0, y - 100 * p.low)], [max(0.0, 100 * p.high - y)]]
                axes.errorbar([x], [y], yerr=bars, fmt="none", ecolor=colour(number), elinewidth=1.1, capsize=2.5)
                gid = f"tip-{number}-{p.upstream}"
                axes.plot([x], [y], marker=marker(number), color=colour(number), markersize=6.5, gid=gid, zorder=3)
                interval = f"[{100 * p.low:+.1f}, {100 * p.high:+.1f}]"
                tips[gid] = f"{p.upstream}, {heading}: {y:+.1f} % {interval} at ΔS {p.delta_s:.1f} %"
        for name, delta in {p.upstream: p.delta_s for p in losses}.items():
            axes.annotate(name, (delta, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8,
                          color=MUTED)  # fmt: skip
            axes.axvline(delta, color=RULE, linewidth=0.8, zorder=0)
        if synthetic:
            axes.text(0.02, 0.97, "SYNTHETIC SPEECH", transform=axes.transAxes, va="top", weight="bold", color=MUTED)
        axes.set_xlabel("ΔS: parameters saved against harness_l (%)")
        axes.set_ylabel("relative loss against harness_l (%)")
        axes.grid(axis="y", linewidth=0.6)
        return tips

    panel = Panel(" ", draw, "Relative loss of each task against the share of parameters saved", (6.2, 3.8))
    caption = (
        "Relative loss: the error rate gained, or the score lost, as a share of what harness_l has; above 0 the "
        "student is worse. Bars are 95 % intervals of the paired bootstrap. A task whose line climbs first is the "
        "one that compression costs most."
    )
    return Figure("compression", f"What compression costs: {label}", caption, [panel],
                  {heading: i for i, heading in enumerate(by_column)})  # fmt: skip


def learning(runs: list[Run], label: str) -> Figure | None:
    """The dev metric over steps for each setting: the mean over seeds and folds, and its range; None without curves."""
    by_setting: dict[Setting, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.curve is not None and any(v is not None for v in run.curve.dev):
            by_setting[run.setting][run.upstream].append(run)
    if not by_setting:
        return None
    numbers = numbers_of(run.upstream for run in runs)
    panels = []
    for setting in task_order(set(by_setting)):
        metric = next(iter(by_setting[setting].values()))[0].curve.dev_metric
        title = f"{setting.short()} · dev {metric_info(metric).label}"
        panels.append(
            Panel(title, _learning_panel(by_setting[setting], metric, numbers), f"{title} over training steps")
        )
    drawn = {name for group in by_setting.values() for name in group}
    caption = "Dev metric at the chosen learning rate: mean over seeds and folds, the band is their range."
    return Figure("learning", f"Learning curves of the probes: {label}", caption, panels,
                  {name: number for name, number in numbers.items() if name in drawn})  # fmt: skip


def _learning_panel(
    group: dict[str, list[Run]], metric: str, numbers: dict[str, int]
) -> Callable[[Any], dict[str, str]]:
    def draw(axes: Any) -> dict[str, str]:
        tips = {}
        for name in upstream_order(set(group)):
            at: dict[float, list[float]] = defaultdict(list)
            for run in group[name]:
                for step, value in zip(run.curve.steps, run.curve.dev, strict=True):
                    if value is not None:
                        at[step].append(100 * value)
            steps = sorted(at)
            mean = [np.mean(at[step]) for step in steps]
            low, high = [min(at[step]) for step in steps], [max(at[step]) for step in steps]
            tint, gid = colour(numbers[name]), f"tip-{name}"
            axes.fill_between(steps, low, high, color=tint, alpha=0.12, linewidth=0)
            axes.plot(steps, mean, color=tint, linewidth=1.5, gid=gid, marker=marker(numbers[name]), markersize=4,
                      markevery=max(1, len(steps) // 6))  # fmt: skip
            tips[gid] = f"{name}: {len(group[name])} runs, {mean[-1]:.1f} % at step {steps[-1]:g}"
        axes.set_xlabel("step")
        axes.set_ylabel(_ylabel(metric))
        axes.grid(axis="y", linewidth=0.6)
        return tips

    return draw


def label_budgets(cells: dict[Key, Cell], label: str) -> Figure | None:
    """The headline metric over label budgets, a line for each upstream and way of fine-tuning; None for one budget."""
    groups: dict[tuple, dict[tuple[str, str], dict[str, Cell]]] = defaultdict(lambda: defaultdict(dict))
    for column in columns_of(cells):
        place = (column.setting.task, column.setting.corpus, column.split, column.metric)
        for name, cell in column.cells(cells).items():
            groups[place][name, column.setting.finetune][column.setting.budget] = cell
    groups = {
        place: {line: points for line, points in lines.items() if len(points) > 1} for place, lines in groups.items()
    }
    groups = {place: lines for place, lines in groups.items() if lines}
    if not groups:
        return None
    order = sorted({line for lines in groups.values() for line in lines}, key=lambda x: (x[1], x[0]))
    numbers = {line: i for i, line in enumerate(order)}
    several = len({finetune for _, finetune in order}) > 1
    panels = []
    for (task, corpus, split, metric), lines in groups.items():
        title = f"{task.upper()} {corpus} {split.removeprefix('test').lstrip('_')} {metric_info(metric).label}"
        panels.append(Panel(" ".join(title.split()), _budget_panel(lines, metric, numbers), f"{title} by label budget"))
    legend = {f"{name}, {finetune}" if several else name: numbers[name, finetune] for name, finetune in order}
    caption = "Test metric when the head (and what is fine-tuned) sees so much labelled speech; bars: 95 % intervals."
    return Figure("budgets", f"Label budgets: {label}", caption, panels, legend)


def _budget_panel(
    lines: dict[tuple[str, str], dict[str, Cell]], metric: str, numbers: dict[tuple[str, str], int]
) -> Callable[[Any], dict[str, str]]:
    def draw(axes: Any) -> dict[str, str]:
        budgets = in_order({budget for points in lines.values() for budget in points})
        place = {budget: i for i, budget in enumerate(budgets)}
        tips = {}
        for line, points in lines.items():
            number = numbers[line]
            own = sorted(points, key=place.__getitem__)
            ys = [100 * points[budget].value for budget in own]
            axes.plot([place[budget] for budget in own], ys, color=colour(number), linewidth=1.3)
            for budget in own:
                gid = f"tip-{number}-{place[budget]}"
                _point(axes, place[budget], points[budget], number, gid)
                value = percent(points[budget].value, points[budget].low, points[budget].high)
                tips[gid] = f"{', '.join(line)}, {shown(budget)}: {value} %"
        axes.set_xticks(range(len(budgets)), [shown(budget) for budget in budgets])
        axes.margins(x=0.12)
        axes.set_xlabel("labelled speech")
        axes.set_ylabel(_ylabel(metric))
        axes.grid(axis="y", linewidth=0.6)
        return tips

    return draw


def read_curve(path: Path) -> dict[str, list[float]]:
    """Columns `step`, `train_masked_accuracy`, `valid_masked_accuracy` of a training run's metrics.csv."""
    with open(path, encoding="utf-8", newline="") as stream:
        records = list(csv.DictReader(stream))
    wanted = ("step", "train_masked_accuracy", "valid_masked_accuracy")
    return {name: [float(r[name]) for r in records] for name in wanted if records and records[0].get(name)}


def _trained(exp_dir: Path) -> list[str]:
    """Every pre-training run below `exp_dir` that learns units, whatever its recipe calls it; earlier iterations first,
    then by name. What was set aside (`.old-...`) and the rows of a study, which has its own figure, are not among them.
    """

    def iteration(name: str) -> int:
        config = exp_dir / name / "model" / "config.json"
        card = read_json(config).get("harness", {}) if config.is_file() else {}
        return int(card.get("iteration") or 0)

    def learns_units(name: str) -> bool:
        config = exp_dir / name / "config.json"
        return not config.is_file() or read_json(config).get("units") != []

    names = (path.parent.name for path in exp_dir.glob("*/metrics.csv"))
    own = [name for name in names if ".old" not in name and not name.startswith("study_")]
    return sorted(filter(learns_units, own), key=lambda name: (iteration(name), name))


def training(exp_dir: Path, label: str) -> Figure | None:
    """Masked accuracy over steps, one panel for each model that was trained here; None where none was."""
    curves = {name: read_curve(exp_dir / name / "metrics.csv") for name in _trained(exp_dir)}
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1 and len(curve["step"]) > 1}
    if not curves:
        return None

    def panel(curve: dict[str, list[float]]) -> Callable[[Any], dict[str, str]]:
        def draw(axes: Any) -> dict[str, str]:
            for column, style, tint in (("train_masked_accuracy", "--", MUTED), ("valid_masked_accuracy", "-", INK)):
                if column in curve:
                    values = [100 * value for value in curve[column]]
                    name = column.split("_")[0].replace("valid", "dev")
                    axes.plot(curve["step"], values, style, color=tint, marker=".", label=name)
            axes.set_xlabel("step")
            axes.set_ylabel("masked accuracy (%)")
            axes.grid(axis="y", linewidth=0.6)
            axes.legend()
            return {}

        return draw

    panels = [Panel(name, panel(curve), f"Masked accuracy of {name} over training steps") for name, curve in
              curves.items()]  # fmt: skip
    caption = "Share of masked frames whose unit is predicted: the number that tells whether pre-training works."
    return Figure("training", f"Masked accuracy: {label}", caption, panels, columns=4)
