"""Measure the cost of models: parameters, multiply-accumulates, compression, and real-time factor on this CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from tabulate import tabulate
from transformers import HubertModel

from corpora.audio import SAMPLE_RATE
from corpora.files import write_csv
from upstream.errors import UpstreamError
from upstream.model.encoder import encode, geometry_of
from upstream.model.family import macs_per_second
from upstream.model.modeldir import load_model, read_card
from upstream.names import TEACHER


@dataclass(frozen=True)
class Cost:
    """One row of the cost table; `rtf_cpu` is computing time per second of audio (median of the runs)."""

    upstream: str
    front_end: str
    iteration: str
    layers: int
    width: int
    params_m: float
    macs_g_per_s: float
    delta_s: float
    rtf_cpu: float
    rtf_min: float
    rtf_max: float
    threads: int
    seconds: float
    runs: int


@torch.no_grad()
def real_time_factors(model: HubertModel, *, seconds: float = 10.0, threads: int = 2, runs: int = 5) -> list[float]:
    """Computing time per second of audio in single forward passes at batch 1, after one warm-up pass."""
    wav = torch.randn(int(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0)) * 0.1
    wav = wav.to(next(model.parameters()).device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        encode(model, [wav])
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            encode(model, [wav])
            times.append((time.perf_counter() - start) / seconds)
    finally:
        torch.set_num_threads(before)
    return times


def measure(
    models: Mapping[str, Path], out_csv: Path, *, seconds: float = 10.0, threads: int = 2, runs: int = 5
) -> list[Cost]:
    """Measure model directories on the CPU, write the rows to `out_csv` (whole or not at all), and return them.

    Compression is relative to `harness_l`, or without it to the largest model. Only the `rtf_*` columns differ between
    runs.
    """
    if not models:
        raise UpstreamError("cost: no model directory given")
    measured = {}
    for name, folder in models.items():
        model = load_model(folder)
        parameters = sum(p.numel() for p in model.parameters())
        iteration = read_card(folder).get("iteration")
        times = real_time_factors(model, seconds=seconds, threads=threads, runs=runs)
        measured[name] = (geometry_of(model, name), parameters, iteration, times)
        del model  # one model in memory at a time: HL alone is 1.3 GB
    largest = max(parameters for _, parameters, _, _ in measured.values())
    reference = measured[TEACHER][1] if TEACHER in measured else largest
    rows = [
        Cost(
            upstream=name,
            front_end=g.front_end,
            iteration="" if iteration is None else str(iteration),
            layers=g.layers,
            width=g.width,
            params_m=round(parameters / 1e6, 4),
            macs_g_per_s=round(macs_per_second(g, seconds) / 1e9, 4),
            delta_s=round(100 * (1 - parameters / reference), 4),
            rtf_cpu=round(statistics.median(times), 5),
            rtf_min=round(min(times), 5),
            rtf_max=round(max(times), 5),
            threads=threads,
            seconds=seconds,
            runs=runs,
        )
        for name, (g, parameters, iteration, times) in measured.items()
    ]
    write_csv(out_csv, [f.name for f in fields(Cost)], rows)
    return rows


def table(rows: list[Cost]) -> str:
    """The rows as text; the last column is the real-time factor."""
    header = ("upstream", "front end", "layers", "width", "params (M)", "GMAC/s", "ΔS (%)", "RTF")
    digits = ("", "", "d", "d", ".2f", ".3f", ".1f", ".4f")
    cells = [
        (r.upstream, r.front_end, r.layers, r.width, r.params_m, r.macs_g_per_s, r.delta_s, r.rtf_cpu) for r in rows
    ]
    first = rows[0]
    note = f"RTF: median of {first.runs} runs on {first.seconds:g} s of audio, CPU, {first.threads} threads, batch 1"
    return f"{tabulate(cells, header, floatfmt=digits)}\n{note}"
