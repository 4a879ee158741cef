"""Heat maps: which layers a probe listens to, and which classes it takes for which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from downstream.report.columns import task_order
from downstream.report.drawing import PAPER, Figure, Panel
from downstream.report.evidence import Predictions
from downstream.report.rows import Setting, upstream_order
from downstream.report.runs import Run

# Numbers stand in the fields up to these sizes; beyond, they could not be read.
_NUMBERED_LAYERS, _NUMBERED_CLASSES = 9, 8


def layer_weights(runs: list[Run], label: str) -> Figure | None:
    """The mean weight of every hidden state, a panel for each setting, a row for each upstream; None without any."""
    by_setting: dict[Setting, dict[str, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if len(run.weights) > 1:  # one hidden state, as in fbank, has nothing to weigh
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
        "(percent; mean over seeds and folds). They are learned by the probe and say where it listens, not what a "
        "layer alone would give."
    )
    if not all(run.normalised for run in runs if len(run.weights) > 1):
        caption += " Where states are not normalised before the sum, a weight also makes up for the size of its state."
    return Figure("layer_weights", f"Layer weights: {label}", caption, panels, columns=2)


def _layers_panel(names: list[str], means: list[np.ndarray]) -> Callable[[Any], dict[str, str]]:
    def draw(axes: Any) -> dict[str, str]:
        width = max(map(len, means))
        grid = np.full((len(names), width), np.nan)
        for row, mean in enumerate(means):
            grid[row, : len(mean)] = mean
        _fields(axes, 100 * grid, names, list(map(str, range(width))), "%.0f" if width <= _NUMBERED_LAYERS else "")
        axes.set_xlabel("hidden state")
        return {}

    return draw


def confusions(runs: list[Run], predictions: Predictions, label: str) -> list[Figure]:
    """For each setting over classes and test split a figure: a matrix for each upstream, rows add up to 100 %."""
    tested: dict[tuple[Setting, str], dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.setting.task == "asr":
            continue
        for split in sorted({row.split for row in run.rows}):
            for p in predictions.of(run.run_dir) or ():
                if p.split == split:
                    tested[run.setting, split][run.upstream].append((p.reference, p.hypothesis))
    figures = []
    for setting in task_order({setting for setting, _ in tested}):
        for split in sorted(s for st, s in tested if st == setting):
            pairs = tested[setting, split]
            classes = sorted({label for said in pairs.values() for pair in said for label in pair})
            side = 0.3 * len(classes) + 1.9
            panels = [
                Panel(name, _confusion_panel(pairs[name], classes), f"Confusion matrix of {name}", (side, side))
                for name in upstream_order(set(pairs))
            ]
            where = setting.short() if split == "test" else f"{setting.short()} {split.removeprefix('test_')}"
            caption = (
                "Rows: the class that it was; columns: the class that it was taken for; percent of the row, all seeds "
                "and folds together."
            )
            number = len(figures) + 1
            title = f"Confusion matrices, {where}: {label}"
            figures.append(Figure(f"confusion_{number}_{setting.task}", title, caption, panels))
    return figures


def _confusion_panel(pairs: list[tuple[str, str]], classes: list[str]) -> Callable[[Any], dict[str, str]]:
    def draw(axes: Any) -> dict[str, str]:
        from sklearn.metrics import confusion_matrix

        references, hypotheses = zip(*pairs, strict=True)
        counted = confusion_matrix(references, hypotheses, labels=classes).astype(float)
        total = counted.sum(1, keepdims=True)
        shares = np.divide(100 * counted, total, out=np.full_like(counted, np.nan), where=total > 0)
        _fields(axes, shares, classes, classes, "%.0f" if len(classes) <= _NUMBERED_CLASSES else "", top=100)
        axes.tick_params(axis="x", rotation=90 if max(map(len, classes)) > 3 else 0)
        axes.set_ylabel("reference")
        axes.set_xlabel("hypothesis")
        axes.set_aspect("equal")
        return {}

    return draw


def _fields(
    axes: Any, values: np.ndarray, rows: list[str], columns: list[str], number: str, top: float | None = None
) -> None:
    """Coloured fields of percent (NaN stays empty) with a number inside, dark on light or light on dark."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("shades", ["#eef3f8", "#8db8d8", "#2f79ae", "#0c3c63"])
    limit = top or float(np.nanmax(values)) or 1.0
    masked = np.ma.masked_invalid(values)
    axes.pcolormesh(masked, cmap=shades, vmin=0, vmax=limit, edgecolors=PAPER, linewidth=1.5)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values) if number else ():
        if not np.isnan(value):
            # The fields keep their colours in either theme, and so must what is written on them.
            tint = "#fefefe" if value > 0.5 * limit else "#101822"
            axes.text(column + 0.5, row + 0.5, number % value, ha="center", va="center", color=tint, fontsize=9)
