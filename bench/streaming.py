"""Measure streaming encoders: latency of the first frame, cost against chunk size, memory over an hour of audio.

    python -m bench.streaming                            # chunks of 160 to 1,280 ms, then an hour at 320 ms
    python -m bench.streaming --models hst_fast_stream --engines onnx_int8 --hour-seconds 0

Weights are random. Each model and engine has its own process. Samples are pushed in pieces of 20 ms, as a microphone
gives them, as fast as they can be computed. RTF: seconds of computing for one second of audio. First frame: the audio
that must have arrived (one chunk and 15 ms) and the time to compute the first chunk of a clip. The hour is noise, and
the memory that of the process (resident set), with PyTorch loaded for every engine. The last two lines are

    ratio streaming_rtf R        the largest RTF at 320 ms of the models, each in its fastest engine
    ratio streaming_memory R     memory after the hour divided by memory after its first tenth, the largest of all
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from bench.common import print_table
from corpora.audio import SAMPLE_RATE
from corpora.machine import cpu_name
from upstream.model.encoder import build_encoder
from upstream.model.family import FAMILY, HOP
from upstream.model.onnxstream import OnnxStream, export_stream_model
from upstream.model.streaming import OVERLAP, Stream

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("hst_logmel_stream", "hst_fast_stream", "hst_tiny_stream")
ENGINES = ("torch_fp32", "onnx_fp32", "onnx_int8")
CHUNKS = (160, 320, 640, 1280)
REFERENCE = 320  # ms, of the hour and of the ratios
PIECE = HOP


@dataclass(frozen=True)
class Cost:
    """Streaming with one chunk size: RTF, median and largest time of a chunk, and the delay of the first frame."""

    chunk_ms: int
    rtf: float
    chunk_s: float
    chunk_max_s: float
    first_frame_s: float


def open_stream(model: str, engine: str, chunk_ms: int, graph: Path) -> Stream | OnnxStream:
    """A stream of a model with random weights; `graph` is its ONNX file."""
    if engine == "torch_fp32":
        torch.manual_seed(0)
        return Stream(build_encoder(FAMILY[model]).eval(), chunk_ms)
    return OnnxStream(graph, chunk_ms, threads=torch.get_num_threads())


def noise(seconds: float) -> np.ndarray:
    """(N,) samples; the work does not depend on the content."""
    return 0.1 * np.random.default_rng(0).standard_normal(int(seconds * SAMPLE_RATE)).astype(np.float32)


def cost(stream: Stream | OnnxStream, chunk_ms: int, seconds: float, clock: Callable[[], float]) -> Cost:
    """Time a stream over so many seconds of audio, after a warm-up of two chunks."""
    wav = noise(seconds)
    pushed(stream, wav[: 2 * SAMPLE_RATE * chunk_ms // 1000 + OVERLAP], clock)
    stream.finish()
    firsts = []
    for _ in range(5):
        firsts.append(sum(pushed(stream, wav[: SAMPLE_RATE * chunk_ms // 1000 + OVERLAP], clock)))
        stream.finish()
    times = pushed(stream, wav, clock)
    start = clock()
    stream.finish()
    total = sum(times) + clock() - start
    chunks = sorted(times)[-int(seconds * 1000 // chunk_ms) :]  # the other pushes only store their samples
    audio = chunk_ms / 1000 + OVERLAP / SAMPLE_RATE
    return Cost(
        chunk_ms,
        round(total / seconds, 5),
        round(statistics.median(chunks), 5),
        round(max(chunks), 5),
        round(audio + statistics.median(firsts), 4),
    )


def pushed(stream: Stream | OnnxStream, wav: np.ndarray, clock: Callable[[], float]) -> list[float]:
    """Push samples in pieces of 20 ms; the seconds of each push."""
    times = []
    for first in range(0, len(wav), PIECE):
        start = clock()
        stream.push(wav[first : first + PIECE])
        times.append(clock() - start)
    return times


def memory_mb() -> float:
    """Resident memory of this process (MB)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def hour(stream: Stream | OnnxStream, seconds: float) -> list[float]:
    """Memory (MB) after each tenth of so many seconds of audio, as fast as they can be computed."""
    minute, found = noise(60), []
    for tenth in range(10):
        for _ in range(round(seconds * (tenth + 1) / 600) - round(seconds * tenth / 600)):
            pushed(stream, minute, time.perf_counter)
        found.append(round(memory_mb(), 1))
    stream.finish()
    return found


def measure(args: argparse.Namespace, model: str, engine: str, graph: Path) -> dict[str, list]:
    """All figures of one model and engine, in this process."""
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    chunks = [int(ms) for ms in args.chunks.split(",")]
    costs = [asdict(cost(open_stream(model, engine, ms, graph), ms, args.seconds, clock)) for ms in chunks]
    memory = hour(open_stream(model, engine, REFERENCE, graph), args.hour_seconds) if args.hour_seconds else []
    return {"costs": costs, "memory_mb": memory}


def _child(args: argparse.Namespace, model: str, engine: str, folder: Path) -> dict[str, list]:
    """The figures from a process of its own; the ONNX file is written here, so that tracing does not count there."""
    graph = folder / f"{model}-{engine}.onnx"
    if engine != "torch_fp32":
        torch.manual_seed(0)
        export_stream_model(build_encoder(FAMILY[model]).eval(), graph, precision=engine.split("_")[1])
    command = [sys.executable, "-m", "bench.streaming", "--case", model, engine, str(graph)]
    command += ["--chunks", args.chunks, "--seconds", str(args.seconds), "--hour-seconds", str(args.hour_seconds)]
    command += ["--threads", str(args.threads), "--clock", args.clock]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    graph.unlink(missing_ok=True)
    if done.returncode:
        raise SystemExit(f"{model}, {engine}: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", default=",".join(MODELS), help="comma-separated (default: %(default)s)")
    add("--engines", default=",".join(ENGINES), help="comma-separated (default: %(default)s)")
    add("--chunks", default=",".join(map(str, CHUNKS)), help="in ms (default: %(default)s)")
    add("--seconds", type=float, default=60.0, help="audio for each chunk size (default: %(default)s)")
    add(
        "--hour-seconds", type=float, default=3600.0, help="audio of the hour; 0: no memory test (default: %(default)s)"
    )
    add("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    add("--clock", choices=["wall", "cpu"], default="wall", help="cpu: CPU time, for one thread on a busy machine")
    add("--case", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    if args.case:
        model, engine, graph = args.case
        print(json.dumps(measure(args, model, engine, Path(graph))))
        return 0

    known = {"models": [name for name, g in FAMILY.items() if g.left_context], "engines": ENGINES}
    for option, names in known.items():
        if wrong := [name for name in getattr(args, option).split(",") if name not in names]:
            parser.error(f"--{option}: unknown `{wrong[0]}` (known: {', '.join(names)})")
    rows, hours, fastest, growth = [], [], {}, []
    with TemporaryDirectory(prefix="harness-bench-") as folder:
        for model in args.models.split(","):
            for engine in args.engines.split(","):
                found = _child(args, model, engine, Path(folder))
                for own in (Cost(**row) for row in found["costs"]):
                    times = f"{1000 * own.chunk_s:.2f}, {1000 * own.chunk_max_s:.2f}"
                    first = f"{1000 * own.first_frame_s:.0f}"
                    rows.append([model, engine, own.chunk_ms, f"{own.rtf:.4f}", times, first])
                    if own.chunk_ms == REFERENCE:
                        fastest[model] = min(own.rtf, fastest.get(model, own.rtf))
                if memory := found["memory_mb"]:
                    hours.append([model, engine, *(f"{memory[i]:.1f}" for i in (0, 2, 4, 6, 9))])
                    growth.append(memory[-1] / memory[0])
                print(f"{model} {engine}: done", file=sys.stderr, flush=True)
    print(f"{cpu_name()}, {args.threads} threads, {args.clock} time; torch {torch.__version__}\n")
    print_table(
        ["model", "engine", "chunk (ms)", "RTF", "chunk (ms of computing), median, max", "first frame (ms)"], rows
    )
    if hours:
        print()
        print_table(["model", "engine", *(f"{share} % of the hour (MB)" for share in (10, 30, 50, 70, 100))], hours)
    print()
    if fastest:
        print(f"ratio streaming_rtf {max(fastest.values()):.4f}")
    if growth:
        print(f"ratio streaming_memory {max(growth):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
