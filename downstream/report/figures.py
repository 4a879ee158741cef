"""The plots of the report: quality against parameters, and masked accuracy over training steps."""

from __future__ import annotations

import csv
from pathlib import Path

from corpora.files import atomic_file
from downstream.report.cells import Cell, Key
from downstream.report.rows import metric_info, upstream_order
from downstream.report.tables import Model, headline, task_order

TRAINED = ("hl_it1", "hl_it2", "hs", "hst")


def _axes(count: int):
    """`count` panels side by side, on a canvas that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * count + 0.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _save(figure, path: Path) -> None:
    # Without the writer's version and date two identical runs give identical files.
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=130, metadata={"Software": None})


def quality(cells: dict[Key, Cell], known: dict[str, Model], path: Path, title: str) -> bool:
    """Headline metric of each test split against parameters (log scale); False when there is nothing to draw.

    Upstreams without parameters (`fbank`) are horizontal lines. Bars are the 95 % intervals.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panels = []
    for setting in task_order({key[0] for key in cells}):
        for split in sorted({s for st, s, _, _ in cells if st == setting}):
            metric = headline(setting, {m for st, s, m, _ in cells if st == setting and s == split})
            panels.append((setting, split, metric))
    if not panels:
        return False
    order = upstream_order({key[3] for key in cells})
    colours = {name: f"C{i}" for i, name in enumerate(order)}
    figure, axes = _axes(len(panels))
    for axis, (setting, split, metric) in zip(axes, panels, strict=True):
        for name in order:
            cell = cells.get((setting, split, metric, name))
            if cell is None:
                continue
            value, colour = 100 * cell.value, colours[name]
            low, high = (value, value) if cell.low is None else (100 * cell.low, 100 * cell.high)
            size = known.get(name, Model()).params_m
            if not size:
                axis.axhline(value, color=colour, linestyle="--", linewidth=1, label=name)
                continue
            bars = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axis.errorbar([size], [value], yerr=bars, fmt="o", color=colour, capsize=3, label=name)
        info = metric_info(metric)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("parameters (M)")
        axis.set_ylabel(f"{info.label} (%), {'more' if info.sign > 0 else 'less'} is better")
        axis.set_title(f"{setting.task.upper()} {split}, {setting.protocol}", fontsize=10)
        axis.grid(alpha=0.3)
    handles = dict(reversed(pair) for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(6, len(handles)), fontsize=8)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)
    return True


def read_curve(path: Path) -> dict[str, list[float]]:
    """Columns `step`, `train_masked_accuracy`, `valid_masked_accuracy` of a training run's metrics.csv."""
    with open(path, encoding="utf-8", newline="") as stream:
        records = list(csv.DictReader(stream))
    wanted = ("step", "train_masked_accuracy", "valid_masked_accuracy")
    return {name: [float(r[name]) for r in records] for name in wanted if records and records[0].get(name)}


def training(exp_dir: Path, path: Path, title: str) -> list[str]:
    """Masked accuracy over steps, one panel per model that was trained here; returns their names."""
    curves = {n: read_curve(exp_dir / n / "metrics.csv") for n in TRAINED if (exp_dir / n / "metrics.csv").is_file()}
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1 and curve["step"]}
    if not curves:
        return []
    figure, axes = _axes(len(curves))
    for axis, (name, curve) in zip(axes, curves.items(), strict=True):
        for column, style in (("train_masked_accuracy", "--"), ("valid_masked_accuracy", "-")):
            if column in curve:
                values = [100 * v for v in curve[column]]
                axis.plot(
                    curve["step"],
                    values,
                    style,
                    marker=".",
                    label=column.split("_")[0].replace("valid", "dev"),
                )
        axis.set_xlabel("step")
        axis.set_ylabel("masked accuracy (%)")
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)
    return list(curves)
