"""Time units, one epoch of pre-training, and the start of a run at 1x, 2x and 4x the data.

    python -m bench.scaling [--minutes 4] [--plot bench/scaling.png]

Units and epoch use noise and the geometry `mini_hst`. The start (read manifest and units, plan the first batch) uses
data directories of 5,000 utterances and more, which share one audio file. The ratio is the cost of the second doubling
per hour of audio, divided by that of the first; if cost is linear in size, it is 1.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.common import alternate, hardware, print_table
from corpora.audio import SAMPLE_RATE, write_audio
from corpora.datadir import Utterance, read_datadir, write_datadir
from upstream.config import InitConfig, PretrainConfig, TargetConfig
from upstream.model.encoder import frame_count
from upstream.model.family import geometry
from upstream.pretrain.data import PretrainDataset, StepSampler
from upstream.pretrain.init import initial_model
from upstream.pretrain.module import Pretraining
from upstream.pretrain.step import take_step
from upstream.pretrain.train import training_utterances
from upstream.units.label import make_units
from upstream.units.units import LabelSet, UnitsInfo, UnitsWriter

SIZES = (1, 2, 4)
RUNS = 3


def noise(folder: Path, count: int) -> Path:
    """A data directory of `count` utterances of 1 to 9 s."""
    rng, utterances = np.random.default_rng(0), []
    for i in range(count):
        samples = int(rng.integers(SAMPLE_RATE, 9 * SAMPLE_RATE))
        write_audio(folder / "audio" / f"{i:05d}.wav", 0.1 * rng.standard_normal(samples))
        utterances.append(Utterance(f"s-{i:05d}", "s", folder / "audio" / f"{i:05d}.wav", samples))
    write_datadir(folder / "train", utterances)
    return folder


def shared(folder: Path, count: int) -> Path:
    """A data directory of `count` utterances that are one file, with units."""
    samples = 80000
    write_audio(folder / "audio.wav", 0.1 * np.random.default_rng(0).standard_normal(samples))
    info = UnitsInfo(50, 4, "mfcc", "mfcc", None, None, "0" * 64, None)
    labels = np.arange(frame_count(samples)) % 4
    with UnitsWriter(folder / "units", "train", info) as writer:
        for i in range(count):
            writer.add(f"s-{i:07d}", labels)
    write_datadir(folder / "train", [Utterance(f"s-{i:07d}", "s", folder / "audio.wav", samples) for i in range(count)])
    return folder


def units(folder: Path) -> None:
    """Make units of a data directory from scratch; k-means is fitted on the same amount of audio at every size."""
    out = Path(tempfile.mkdtemp(dir=folder))
    make_units({"train": folder / "train"}, out, TargetConfig(k=50, fit_hours=1 / 60))
    for path in out.glob("*.*"):
        path.replace(folder / path.name)


def epoch(folder: Path) -> int:
    """Train a small model on every batch of one epoch; return the number of batches."""
    config = PretrainConfig(batch_seconds=20.0, crop_seconds=10.0)
    utterances, labels = training_utterances(folder, [LabelSet("units", folder)], "train")
    module = Pretraining(initial_model(geometry("mini_hst"), utterances, InitConfig(), 0), 50, config).train()
    dataset, optimizer = PretrainDataset(utterances, labels, config), module.configure_optimizers()["optimizer"]
    count = 0
    for step in StepSampler(utterances, config, stop=10**9):
        if step.position[0] > 0:
            return count
        take_step(
            dataset[step], optimizer, list(module.parameters()), seed=0, clip=1.0, device=torch.device("cpu"),
            compute=module.compute, backward=lambda loss: loss.backward(),
        )  # fmt: skip
        count += 1
    return count


def start(folder: Path) -> None:
    """Do the work of a run before its first step, without the model."""
    utterances, labels = training_utterances(folder, [LabelSet("units", folder / "units")], "train")
    assert labels.k == {"units": 4} and len(utterances) == len(read_datadir(folder / "train"))
    next(iter(StepSampler(utterances, PretrainConfig())))


def main() -> None:
    """Run the benchmark and print its table and ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0, help="audio at 1x")
    parser.add_argument("--utterances", type=int, default=5000, help="manifest at 1x of the start")
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    args = parser.parse_args()
    jobs: dict[str, tuple[Callable[[Path, int], Path], Callable[[Path], object], int]] = {
        "units": (noise, units, int(args.minutes * 12)),
        "one epoch": (noise, epoch, int(args.minutes * 12)),
        "start of a run": (shared, start, args.utterances),
    }
    rows, curves, ratios = [], {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        folders: dict[tuple[Callable, int], Path] = {}
        for name, (make, work, unit) in jobs.items():
            for size in SIZES:
                if (make, size) not in folders:
                    folders[make, size] = make(Path(tempfile.mkdtemp(dir=temporary)), unit * size)
            runs = alternate({str(size): partial(work, folders[make, size]) for size in SIZES}, RUNS)
            seconds = [min(runs[str(size)]) for size in SIZES]
            first, second = seconds[1] - seconds[0], (seconds[2] - seconds[1]) / 2
            line = np.polyval(np.polyfit(SIZES, seconds, 1), SIZES)
            off = 100 * max(abs(np.array(seconds) / line - 1))
            ratios[name] = second / first
            curves[name] = seconds
            rows.append([name, *(f"{s:.2f}" for s in seconds), f"{off:.1f} %", f"{ratios[name]:.2f}"])
    sizes = f"1x = {args.minutes:g} min of noise, start: {args.utterances} utterances"
    print(f"{hardware()}; best of {RUNS} alternating runs; {sizes}")
    print_table(["seconds", *(f"{size}x" for size in SIZES), "off the line", "2nd / 1st doubling"], rows)
    if args.plot:
        draw(args.plot, curves)
    print(f"ratio scaling {max(ratios.values()):.3f}")


def draw(path: Path, curves: dict[str, list[float]]) -> None:
    """Seconds over size, one panel for each kind of work, with the line through the first two points."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(9, 3))
    for axis, (name, seconds) in zip(axes, curves.items(), strict=True):
        slope = seconds[1] - seconds[0]
        axis.plot(SIZES, [seconds[0] + slope * (size - 1) for size in SIZES], "--", color="grey")
        axis.plot(SIZES, seconds, "o-")
        axis.set(title=name, xlabel="corpus size (x)", ylabel="seconds", ylim=(0, None), xticks=SIZES)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
