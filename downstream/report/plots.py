"""Plots of reports: quality against cost, losses, budgets, learning curves, layer weights, confusions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from corpora.files import read_json
from downstream.grid import budgets
from downstream.report.claims import CompressionLoss
from downstream.report.columns import Column, Measurement, Predictions, headline_columns
from downstream.report.drawing import (
    INK,
    MUTED,
    RULE,
    Draw,
    Figure,
    IntervalPoint,
    Panel,
    colour,
    draw_interval,
    heat_map,
    marker,
)
from downstream.report.rows import (
    Setting,
    metric_info,
    task_order,
    upstream_order,
)
from downstream.report.runs import ProbeRun
from downstream.report.tables import UpstreamFacts, percent

COSTS = {
    "params_m": ("parameters (M)", "parameters"),
    "macs_g_per_s": ("GMAC per second of audio", "multiply-accumulates"),
    "rtf_cpu": ("real-time factor on the CPU", "real-time factor"),
}
# Heat maps show numbers in their fields up to these sizes; the fields of larger ones are too small.
_NUMBERED_LAYERS, _NUMBERED_CLASSES = 9, 8


def numbers_of(names: Iterable[str]) -> dict[str, int]:
    """A series number (colour and marker) for each upstream, the same in every figure of a report."""
    return {name: i for i, name in enumerate(upstream_order(set(names)))}


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, quality) for which no cheaper or equally cheap point is at least as good; by cost."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


def _interval(place: float, measurement: Measurement) -> IntervalPoint:
    return IntervalPoint(place, measurement.value, measurement.low, measurement.high)


def _value_label(metric: str) -> str:
    info = metric_info(metric)
    return f"{info.label} (%), {'higher' if info.sign > 0 else 'lower'} is better"


def quality(columns: Sequence[Column], facts: dict[str, UpstreamFacts], cost: str, label: str) -> Figure | None:
    """Headline metric of each test set against a cost (log scale), with the Pareto front; None without a point.

    Upstreams without parameters (`fbank`) are dashed lines. Bars are the 95 % intervals.
    """
    numbers = numbers_of(name for column in columns for name in column.values)
    axis_label, cost_name = COSTS[cost]
    panels, drawn = [], set()
    for column in headline_columns(columns):
        known = {name: facts.get(name, UpstreamFacts()) for name in column.values}
        costs = {name: getattr(own, cost) for name, own in known.items()}
        if not any(costs.values()):
            continue
        free = [name for name, own in known.items() if not costs[name] and not own.params_m]
        drawn |= {name for name in costs if costs[name] or name in free}
        alt = f"{column.heading} of each upstream against {cost_name}, with 95 % intervals"
        panels.append(Panel(column.heading, _quality_panel(column, costs, free, numbers, axis_label), alt))
    if not panels:
        return None
    return Figure(
        f"quality_{cost.split('_')[0]}",
        f"Quality against {cost_name}: {label}",
        "Bars are 95 % intervals; the grey line is the Pareto front: no cheaper upstream is better than one on it. "
        "A dashed line is an upstream without parameters.",
        panels,
        {name: number for name, number in numbers.items() if name in drawn},
    )


def _quality_panel(
    column: Column, costs: dict[str, float | None], free: list[str], numbers: dict[str, int], axis_label: str
) -> Draw:
    def draw(axes: Any) -> dict[str, str]:
        tips = {}
        for name, m in column.values.items():
            tint, gid = colour(numbers[name]), f"tip-{name}"
            text = f"{name}: {percent(m.value, m.low, m.high)} %"
            if costs[name]:
                draw_interval(axes, _interval(costs[name], m), tint, marker(numbers[name]), gid=gid)
                tips[gid] = f"{text}, {costs[name]:g} {axis_label}"
            elif name in free:
                axes.axhline(100 * m.value, color=tint, linestyle=(0, (4, 3)), linewidth=1.2, gid=gid, zorder=1)
                tips[gid] = text
        sign = column.info.sign
        front = pareto([(costs[name], sign * m.value) for name, m in column.values.items() if costs[name]])
        if len(front) > 1:
            xs, ys = zip(*front, strict=True)
            axes.step(xs, [100 * sign * y for y in ys], where="post", color=MUTED, linewidth=1, alpha=0.6, zorder=1)
        _log_scale(axes, [cost for cost in costs.values() if cost])
        axes.set_xlabel(axis_label)
        axes.set_ylabel(_value_label(column.metric))
        axes.grid(axis="y", linewidth=0.6)
        return tips

    return draw


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


def compression(losses: Sequence[CompressionLoss], label: str, *, synthetic: bool) -> Figure | None:
    """Relative loss of each task against ΔS, the share of parameters saved; None without a compressed upstream."""
    by_heading: dict[str, list[CompressionLoss]] = defaultdict(list)
    for loss in losses:
        by_heading[loss.column.heading].append(loss)
    if not by_heading:
        return None

    def draw(axes: Any) -> dict[str, str]:
        tips = {}
        axes.axhline(0, color=MUTED, linewidth=0.8)
        for series, (heading, points) in enumerate(by_heading.items()):
            # Side by side, so that intervals of equal ΔS do not hide each other.
            shift = 0.7 * (series - (len(by_heading) - 1) / 2)
            points = sorted(points, key=lambda p: p.delta_s)
            xs, ys = [0.0, *(p.delta_s + shift for p in points)], [0.0, *(100 * p.value for p in points)]
            axes.plot(xs, ys, color=colour(series), linewidth=1.4, zorder=2, label=heading)
            for p, x, y in zip(points, xs[1:], ys[1:], strict=True):
                gid = f"tip-{series}-{p.upstream}"
                point = IntervalPoint(x, p.value, p.low, p.high)
                draw_interval(axes, point, colour(series), marker(series), gid=gid)
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
        "Relative loss: increase of the error rate, or decrease of the score, as a share of harness_l's value; above 0 "
        "the student is worse. Bars are 95 % intervals of the paired bootstrap. Compression harms the task with the "
        "steepest line most."
    )
    legend = {heading: i for i, heading in enumerate(by_heading)}
    return Figure("compression", f"Loss by compression: {label}", caption, [panel], legend)


def learning(runs: Sequence[ProbeRun], label: str) -> Figure | None:
    """The dev metric over steps for each setting: the mean over seeds and folds, and its range; None without curves."""
    by_setting: dict[Setting, dict[str, list[ProbeRun]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.curve is not None:
            by_setting[run.setting][run.upstream].append(run)
    if not by_setting:
        return None
    numbers = numbers_of(run.upstream for run in runs)
    panels = []
    for setting in task_order(set(by_setting)):
        group = by_setting[setting]
        metric = next(iter(group.values()))[0].curve.dev_metric
        title = f"{setting.short()} · dev {metric_info(metric).label}"
        panels.append(Panel(title, _learning_panel(group, metric, numbers), f"{title} over training steps"))
    drawn = {name for group in by_setting.values() for name in group}
    caption = "Dev metric at the chosen learning rate: mean over seeds and folds, the band is their range."
    legend = {name: number for name, number in numbers.items() if name in drawn}
    return Figure("learning", f"Learning curves of the probes: {label}", caption, panels, legend)


def _learning_panel(group: dict[str, list[ProbeRun]], metric: str, numbers: dict[str, int]) -> Draw:
    def draw(axes: Any) -> dict[str, str]:
        tips = {}
        for name in upstream_order(set(group)):
            points = pandas.concat([pandas.Series(run.curve.dev, run.curve.steps) for run in group[name]])
            at = (100 * points).groupby(level=0).agg(["mean", "min", "max"])
            tint, gid = colour(numbers[name]), f"tip-{name}"
            axes.fill_between(at.index, at["min"], at["max"], color=tint, alpha=0.12, linewidth=0)
            axes.plot(at.index, at["mean"], color=tint, linewidth=1.5, gid=gid, marker=marker(numbers[name]),
                      markersize=4, markevery=max(1, len(at) // 6))  # fmt: skip
            tips[gid] = f"{name}: {len(group[name])} runs, {at['mean'].iloc[-1]:.1f} % at step {at.index[-1]:g}"
        axes.set_xlabel("step")
        axes.set_ylabel(_value_label(metric))
        axes.grid(axis="y", linewidth=0.6)
        return tips

    return draw


def label_budgets(columns: Sequence[Column], label: str) -> Figure | None:
    """The headline metric over label budgets, a line for each upstream and fine-tuning; None for one budget."""
    groups: dict[tuple, dict[tuple[str, str], dict[str, Measurement]]] = defaultdict(lambda: defaultdict(dict))
    for column in headline_columns(columns):
        key = (column.setting.task, column.setting.corpus, column.split, column.metric)
        for name, measurement in column.values.items():
            groups[key][name, column.setting.finetune][column.setting.budget] = measurement
    groups = {key: {line: points for line, points in lines.items() if len(points) > 1} for key, lines in groups.items()}
    groups = {key: lines for key, lines in groups.items() if lines}
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
    caption = "Test metric by amount of labelled speech for training head and fine-tuning; bars: 95 % intervals."
    return Figure("budgets", f"Label budgets: {label}", caption, panels, legend)


def _budget_panel(
    lines: dict[tuple[str, str], dict[str, Measurement]], metric: str, numbers: dict[tuple[str, str], int]
) -> Draw:
    def draw(axes: Any) -> dict[str, str]:
        order = budgets.in_order({budget for points in lines.values() for budget in points})
        place = {budget: i for i, budget in enumerate(order)}
        tips = {}
        for line, points in lines.items():
            series = numbers[line]
            own = sorted(points, key=place.__getitem__)
            ys = [100 * points[budget].value for budget in own]
            axes.plot([place[budget] for budget in own], ys, color=colour(series), linewidth=1.3)
            for budget in own:
                gid, m = f"tip-{series}-{place[budget]}", points[budget]
                draw_interval(axes, _interval(place[budget], m), colour(series), marker(series), gid=gid)
                tips[gid] = f"{', '.join(line)}, {budgets.shown(budget)}: {percent(m.value, m.low, m.high)} %"
        axes.set_xticks(range(len(order)), [budgets.shown(budget) for budget in order])
        axes.margins(x=0.12)
        axes.set_xlabel("labelled speech")
        axes.set_ylabel(_value_label(metric))
        axes.grid(axis="y", linewidth=0.6)
        return tips

    return draw


def read_accuracies(path: Path) -> dict[str, list[float]]:
    """Columns `step`, `train_masked_accuracy`, `valid_masked_accuracy` of a pre-training run's metrics.csv."""
    frame = pandas.read_csv(path, float_precision="round_trip")
    wanted = ("step", "train_masked_accuracy", "valid_masked_accuracy")
    return {name: frame[name].astype(float).tolist() for name in wanted if name in frame and frame[name].notna().any()}


def _pretraining_runs(exp_dir: Path) -> list[str]:
    """Names of the pre-training runs below `exp_dir` that learn units, by iteration, then by name.

    Left out are the rows of a study, which have their own figure, and folders `.old-...` of earlier versions.
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
    """Masked accuracy over steps, one panel for each pre-trained model; None without one."""
    curves = {name: read_accuracies(exp_dir / name / "metrics.csv") for name in _pretraining_runs(exp_dir)}
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1 and len(curve["step"]) > 1}
    if not curves:
        return None

    def panel(curve: dict[str, list[float]]) -> Draw:
        def draw(axes: Any) -> dict[str, str]:
            for column, style, tint in (("train_masked_accuracy", "--", MUTED), ("valid_masked_accuracy", "-", INK)):
                if column in curve:
                    name = column.split("_")[0].replace("valid", "dev")
                    values = [100 * value for value in curve[column]]
                    axes.plot(curve["step"], values, style, color=tint, marker=".", label=name)
            axes.set_xlabel("step")
            axes.set_ylabel("masked accuracy (%)")
            axes.grid(axis="y", linewidth=0.6)
            axes.legend()
            return {}

        return draw

    panels = [
        Panel(name, panel(curve), f"Masked accuracy of {name} over training steps") for name, curve in curves.items()
    ]
    caption = "Share of masked frames whose unit is predicted correctly: it increases if pre-training works."
    return Figure("training", f"Masked accuracy: {label}", caption, panels, columns=4)


def layer_weights(runs: Sequence[ProbeRun], label: str) -> Figure | None:
    """The mean weight of every hidden state: a panel for each setting, a row for each upstream; None without any."""
    by_setting: dict[Setting, dict[str, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if len(run.weights) > 1:  # fbank has a single state, whose weight is 1
            by_setting[run.setting][run.upstream].append(run.weights)
    panels = []
    for setting in task_order(set(by_setting)):
        names = upstream_order(set(by_setting[setting]))
        means = [np.mean(by_setting[setting][name], axis=0) for name in names]
        title = f"{setting.short()}: weight of each hidden state"
        size = (max(4.1, 0.42 * max(map(len, means)) + 1.6), 0.34 * len(names) + 1.1)
        panels.append(Panel(title, _layers_panel(names, means), f"{title}, by upstream", size))
    if not panels:
        return None
    caption = (
        "State 0 is the input of the first layer, the last one the output of the model; weights of a row add up to 1 "
        "(percent; mean over seeds and folds). The probe learns them; they do not show the quality of a single layer."
    )
    if not all(run.normalised for run in runs if len(run.weights) > 1):
        caption += " If states are not normalised before the sum, a weight also compensates the scale of its state."
    return Figure("layer_weights", f"Layer weights: {label}", caption, panels, columns=2)


def _layers_panel(names: list[str], means: list[np.ndarray]) -> Draw:
    def draw(axes: Any) -> dict[str, str]:
        width = max(map(len, means))
        grid = np.full((len(names), width), np.nan)
        for row, mean in enumerate(means):
            grid[row, : len(mean)] = mean
        heat_map(axes, 100 * grid, names, list(map(str, range(width))), numbered=width <= _NUMBERED_LAYERS)
        axes.set_xlabel("hidden state")
        return {}

    return draw


def confusions(runs: Sequence[ProbeRun], predictions: Predictions, label: str) -> list[Figure]:
    """A figure for each classification setting and test split: a matrix for each upstream, rows add up to 100 %."""
    tested: dict[tuple[Setting, str], dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.setting.task == "asr":
            continue
        for split in sorted({row.split for row in run.rows}):
            own = [p for p in predictions.of(run.run_dir) or () if p.split == split]
            if own:
                tested[run.setting, split][run.upstream] += [(p.reference, p.hypothesis) for p in own]
    figures = []
    for setting in task_order({setting for setting, _ in tested}):
        for split in sorted(s for st, s in tested if st == setting):
            pairs = tested[setting, split]
            classes = sorted({name for own in pairs.values() for pair in own for name in pair})
            side = 0.3 * len(classes) + 1.9
            panels = [
                Panel(name, _confusion_panel(pairs[name], classes), f"Confusion matrix of {name}", (side, side))
                for name in upstream_order(set(pairs))
            ]
            part = setting.short() if split == "test" else f"{setting.short()} {split.removeprefix('test_')}"
            caption = "Rows: reference; columns: prediction; percent of the row, all seeds and folds together."
            title = f"Confusion matrices, {part}: {label}"
            figures.append(Figure(f"confusion_{len(figures) + 1}_{setting.task}", title, caption, panels))
    return figures


def _confusion_panel(pairs: list[tuple[str, str]], classes: list[str]) -> Draw:
    def draw(axes: Any) -> dict[str, str]:
        from sklearn.metrics import confusion_matrix

        references, hypotheses = zip(*pairs, strict=True)
        counted = confusion_matrix(references, hypotheses, labels=classes).astype(float)
        total = counted.sum(1, keepdims=True)
        shares = np.divide(100 * counted, total, out=np.full_like(counted, np.nan), where=total > 0)
        heat_map(axes, shares, classes, classes, numbered=len(classes) <= _NUMBERED_CLASSES, top=100)
        axes.tick_params(axis="x", rotation=90 if max(map(len, classes)) > 3 else 0)
        axes.set_ylabel("reference")
        axes.set_xlabel("hypothesis")
        axes.set_aspect("equal")
        return {}

    return draw
