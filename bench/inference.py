"""Measure time and memory of the family's encoders and of published ones, all with random weights.

    python bench/inference.py --quick                # the ratios: 10 s, batch 1, CPU, two threads
    python bench/inference.py                        # the whole table; resumes
    python bench/inference.py --models hl,hst_logmel --seconds 60 --batch 8

Every case has its own process, so that its peak memory is measured; a process for ONNX Runtime does not load PyTorch.
RTF is the median time of a pass, divided by the seconds of audio in the batch; `--clock cpu` measures CPU time instead
of wall time. A pass turns raw waveforms into hidden states, with normalisation and front end; Whisper's pads every clip
to 30 s. The last lines are, for HST log-mel (`inference`), `hst_fast` and `hst_tiny`,

    ratio inference_fp32 R        HuBERT-Base / HST log-mel: times of a pass, each in its faster fp32 engine
    ratio inference_int8 R        the same time of HuBERT-Base / time of HST log-mel in ONNX Runtime, int8

Their cases are measured in every run, in alternating rounds.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # `python bench/inference.py` puts bench/ there, not the repository
    sys.path.insert(0, str(ROOT))

from corpora.audio import SAMPLE_RATE  # noqa: E402
from corpora.files import write_csv  # noqa: E402
from upstream.model.family import FAMILY, Geometry, macs_per_second  # noqa: E402

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

PEERS = {
    "hubert_base": Geometry("hubert_base", 12, 768, 12, 3072),
    "xls_r_300m": Geometry("xls_r_300m", 24, 1024, 16, 4096),
    "distilhubert": Geometry("distilhubert", 2, 768, 12, 3072),
}
# Encoders of other kinds, in PyTorch only; their operations are counted in a pass.
OTHERS = ("sew", "whisper_base")
MODELS = (
    *PEERS,
    *OTHERS,
    "hl",
    "hs",
    "hst",
    "hs_narrow",
    "hst_narrow",
    "hs_logmel",
    "hst_logmel",
    "hst_fast",
    "hst_tiny",
)
# `plain` engines run our models in Transformers' form, the others after `accelerate`; peers are not accelerated.
ENGINES = ("torch_fp32", "torch_bf16", "onnx_fp32", "onnx_int8", "onnx_int4", "plain_torch_fp32", "plain_onnx_fp32")
TABLE_ENGINES = ENGINES[:4]
PEER = "hubert_base"
STUDENTS = {"hst_logmel": "inference", "hst_fast": "hst_fast", "hst_tiny": "hst_tiny"}  # and the names of their ratios
_LEAST_PASSES, _LEAST_SECONDS, _MOST_PASSES = 3, 4.0, 15


@dataclass(frozen=True)
class Case:
    """One measurement; `seconds` is the length of each of `batch` clips, `clock` wall time or CPU time."""

    model: str
    engine: str
    seconds: float
    batch: int
    threads: int
    device: str
    clock: str = "wall"


@dataclass(frozen=True)
class Timing(Case):
    """A measured case; times in seconds for one pass. `error` is the reason if there are none."""

    params_m: float = 0.0
    macs_g_per_s: float = 0.0
    rtf: float = 0.0
    pass_s: float = 0.0
    pass_min_s: float = 0.0
    pass_max_s: float = 0.0
    passes: int = 0
    peak_mb: float = 0.0
    error: str = ""

    @property
    def case(self) -> Case:
        return Case(**{f.name: getattr(self, f.name) for f in fields(Case)})


def geometry_named(name: str) -> Geometry:
    """The geometry of a model of this benchmark."""
    return PEERS[name] if name in PEERS else FAMILY[name]


def build(name: str) -> PreTrainedModel:
    """The model with random weights; the published ones have the published configurations."""
    import torch
    import transformers as hf

    from upstream.model.encoder import build_encoder

    torch.manual_seed(0)
    still = {"layerdrop": 0.0, "apply_spec_augment": False}
    if name in ("hubert_base", "distilhubert"):  # the defaults of Transformers are HuBERT-Base
        layers = PEERS[name].layers
        return hf.HubertModel(hf.HubertConfig(num_hidden_layers=layers, do_normalize=False, **still)).eval()
    if name == "sew":  # SEW-tiny
        shape = {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048}
        model = hf.SEWModel(hf.SEWConfig(**still, **shape)).eval()
        torch.nn.utils.parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
        return model
    if name == "whisper_base":
        shape = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048}
        return hf.WhisperModel(hf.WhisperConfig(**shape, decoder_layers=1, decoder_attention_heads=8)).encoder.eval()
    if name == "xls_r_300m":
        shape = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
        shape |= {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True, "do_normalize": True}
        return hf.Wav2Vec2Model(hf.Wav2Vec2Config(**still, **shape)).eval()
    return build_encoder(FAMILY[name]).eval()


def is_accelerated(case: Case) -> bool:
    """Whether the case runs the accelerated form; peers do not have one."""
    return case.model in FAMILY and not case.engine.startswith("plain_")


def measure(case: Case, graph: Path | None) -> Timing:
    """Time a case in this process; `graph` is its ONNX file."""
    passing, parameters = _torch_pass(case) if graph is None else _onnx_pass(case, graph)
    clock = time.perf_counter if case.clock == "wall" else time.process_time
    macs = 0.0
    if case.model in OTHERS:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            passing()
        macs = counter.get_total_flops() / 2 / (case.seconds * case.batch)
    passing()
    times: list[float] = []
    while len(times) < _MOST_PASSES and (len(times) < _LEAST_PASSES or sum(times) < _LEAST_SECONDS):
        start = clock()
        passing()
        times.append(clock() - start)
    return Timing(
        **asdict(case),
        params_m=round(parameters / 1e6, 3),
        macs_g_per_s=round((macs or macs_per_second(geometry_named(case.model), case.seconds)) / 1e9, 4),
        rtf=round(statistics.median(times) / (case.seconds * case.batch), 5),
        pass_s=round(statistics.median(times), 5),
        pass_min_s=round(min(times), 5),
        pass_max_s=round(max(times), 5),
        passes=len(times),
        peak_mb=round(_peak_mb(case.device), 1),
    )


def _signal(case: Case) -> np.ndarray:
    """(batch, samples) of noise: the work does not depend on the content."""
    import numpy as np

    samples = int(case.seconds * SAMPLE_RATE)
    return 0.1 * np.random.default_rng(0).standard_normal((case.batch, samples)).astype(np.float32)


def _torch_pass(case: Case) -> tuple[Callable[[], None], int]:
    import torch

    from upstream.model.encoder import encode
    from upstream.model.fast import accelerate

    torch.set_num_threads(case.threads)
    model = build(case.model).to(case.device)
    parameters = sum(p.numel() for p in model.parameters())
    if is_accelerated(case):
        model = accelerate(model)
    wavs = list(torch.from_numpy(_signal(case)))
    half = case.engine.endswith("bf16")
    forward: Callable[[], object] = functools.partial(encode, model, wavs)
    if case.model == "sew":
        forward = functools.partial(model, torch.stack(wavs))
    elif case.model == "whisper_base":
        from transformers import WhisperFeatureExtractor

        prepare = WhisperFeatureExtractor()

        def forward() -> object:
            found = prepare([wav.numpy() for wav in wavs], sampling_rate=SAMPLE_RATE, return_tensors="pt")
            return model(found.input_features.to(case.device))

    def passing() -> None:
        with torch.inference_mode(), torch.autocast(case.device, torch.bfloat16, enabled=half):
            forward()
        if case.device == "cuda":
            torch.cuda.synchronize()

    return passing, parameters


def _onnx_pass(case: Case, graph: Path) -> tuple[Callable[[], None], int]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    wavs = _signal(case)

    def passing() -> None:
        session.run(["last_hidden_state"], {"waveform": wavs})

    return passing, int(session.get_modelmeta().custom_metadata_map["parameters"])


def _peak_mb(device: str) -> float:
    """Peak resident memory of this process, on a GPU PyTorch's peak memory (MB)."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.is_file():  # `getrusage` would include the parent's memory at the start of this process
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def export(case: Case, path: Path) -> None:
    """Write the ONNX graph of a case as `python -m upstream export --no-lengths` does, since clips are not padded."""
    from upstream.model.onnx import export_model

    precision = case.engine.split("_")[-1]
    export_model(build(case.model), path, precision=precision, lengths=False, accelerated=is_accelerated(case))


def run(case: Case, graphs: Path) -> Timing:
    """Measure a case in a new process; another process writes its ONNX graph if it does not exist."""
    graph = None
    if "onnx" in case.engine:
        graph = graphs / f"{case.model}-{case.engine}.onnx"
        if not graph.is_file():
            _child("--export", case, graph)
    return Timing(**json.loads(_child("--case", case, graph)))


def _child(what: str, case: Case, graph: Path | None) -> str:
    command = [sys.executable, str(Path(__file__).resolve()), what, json.dumps(asdict(case))]
    environment = os.environ | {"OMP_NUM_THREADS": str(case.threads), "HF_HUB_OFFLINE": "1"}
    if graph is not None:
        command += ["--graph", str(graph)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        killed = " (killed: too little memory?)" if done.returncode < 0 else ""
        raise RuntimeError(f"{last[:300]}{killed}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def read_rows(path: Path) -> dict[Case, Timing]:
    """Rows of an earlier run; empty without one."""
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as stream:
        records = list(csv.DictReader(stream))
    rows = [Timing(**{f.name: _typed(f.type, record[f.name]) for f in fields(Timing)}) for record in records]
    return {row.case: row for row in rows}


def _typed(kind: Any, text: str) -> Any:
    return {"float": float, "int": int, "str": str}[kind](text)


def table(rows: Sequence[Timing]) -> str:
    """The rows as Markdown."""
    from downstream.report.tables import Table

    header = ["model", "engine", "audio (s)", "batch"]
    header += ["params (M)", "GMAC/s", "RTF", "pass (s), min to max", "peak (MB)"]
    cells = []
    for r in sorted(rows, key=lambda r: (r.device, r.seconds, r.batch, MODELS.index(r.model), ENGINES.index(r.engine))):
        engine = f"{r.engine} (GPU)" if r.device == "cuda" else r.engine
        if r.error:
            measured = ["", "", "", f"not run: {r.error}", ""]
        else:
            times = f"{r.pass_s:.3f}, {r.pass_min_s:.3f} to {r.pass_max_s:.3f}"
            measured = [f"{r.params_m:.2f}", f"{r.macs_g_per_s:.3f}", f"{r.rtf:.4f}", times, f"{r.peak_mb:.0f}"]
        cells.append([r.model, engine, f"{r.seconds:g}", str(r.batch), *measured])
    return Table("", header, cells).markdown()


def ratios(
    threads: int, clock: str, count: int, graphs: Path, say: Callable[[str], None]
) -> tuple[list[Timing], list[str]]:
    """Measure the cases of the ratios in `count` alternating rounds; return the median rows and the lines to print."""
    exact = ("torch_fp32", "onnx_fp32")
    pairs = [(PEER, engine) for engine in exact]
    pairs += [(model, engine) for model in STUDENTS for engine in (*exact, "onnx_int8")]
    pairs += [("hst_logmel", engine) for engine in ENGINES if ("hst_logmel", engine) not in pairs]
    cases = [Case(model, engine, 10.0, 1, threads, "cpu", clock) for model, engine in pairs]
    rounds: dict[Case, list[Timing]] = {case: [] for case in cases}
    for number in range(count):
        for case in cases:
            row = run(case, graphs)
            rounds[case].append(row)
            say(f"round {number + 1} of {count}  {case.model} {case.engine}: RTF {row.rtf:.4f}")
    rows = [sorted(found, key=lambda row: row.pass_s)[len(found) // 2] for found in rounds.values()]
    time_of = {(row.model, row.engine): row.pass_s for row in rows}
    peer = min(time_of[PEER, engine] for engine in exact)
    plain = min(time_of["hst_logmel", f"plain_{engine}"] for engine in exact)
    half = time_of["hst_logmel", "torch_bf16"]
    lines = [f"hst_logmel without accelerate: {peer / plain:.2f}; torch bf16: {peer / half:.2f}"]
    for model, name in STUDENTS.items():
        lines.append(f"ratio {name}_fp32 {peer / min(time_of[model, engine] for engine in exact):.2f}")
        lines.append(f"ratio {name}_int8 {peer / time_of[model, 'onnx_int8']:.2f}")
    return rows, lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the cases of the ratios only")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated (default: all)")
    parser.add_argument("--engines", default=",".join(TABLE_ENGINES), help=f"of {', '.join(ENGINES)}")
    parser.add_argument("--seconds", default="2,10,60", help="lengths of a clip (default: 2,10,60)")
    parser.add_argument("--batch", default="1,8", help="batch sizes (default: 1,8)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the ratios' cases (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: CPU time of the process, for one thread on a shared machine (default: wall)",
    )
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help="auto adds a GPU if there is one")
    parser.add_argument("--out", type=Path, default=ROOT / "exp/bench/inference.csv", help="table (CSV)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--export", help=argparse.SUPPRESS)
    parser.add_argument("--graph", type=Path, help=argparse.SUPPRESS)
    return parser


def _cases(args: argparse.Namespace) -> list[Case]:
    parser = _parser()
    chosen = {}
    for option, known in (("models", MODELS), ("engines", ENGINES)):
        chosen[option] = [name.strip() for name in getattr(args, option).split(",") if name.strip()]
        for name in chosen[option]:
            if name not in known:
                parser.error(f"--{option}: unknown `{name}` (known: {', '.join(known)})")
    try:
        lengths, sizes = [float(s) for s in args.seconds.split(",")], [int(s) for s in args.batch.split(",")]
    except ValueError as error:
        parser.error(f"--seconds and --batch take numbers: {error}")
    cases = [
        Case(model, engine, seconds, batch, args.threads, "cpu", args.clock)
        for seconds in lengths
        for batch in sizes
        for model in chosen["models"]
        for engine in chosen["engines"]
        if model not in OTHERS or engine.startswith("torch")
    ]
    if args.device == "auto" and not args.quick:
        import torch

        if torch.cuda.is_available():
            cases += [Case(**(asdict(c) | {"device": "cuda"})) for c in cases if c.engine.startswith("torch")]
    return cases


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if every case was measured, else 1."""
    args = _parser().parse_args(arguments)
    if args.export:
        export(Case(**json.loads(args.export)), args.graph)
        return 0
    if args.case:
        print(json.dumps(asdict(measure(Case(**json.loads(args.case)), args.graph))))
        return 0

    from tqdm import tqdm

    cases, columns = _cases(args), [f.name for f in fields(Timing)]
    with TemporaryDirectory(prefix="harness-bench-") as folder:
        graphs = Path(folder)
        ratio_rows, lines = ratios(
            args.threads, args.clock, args.rounds, graphs, lambda text: tqdm.write(text, file=sys.stderr)
        )
        rows = {} if args.quick else read_rows(args.out)
        rows |= {row.case: row for row in ratio_rows}
        todo = [] if args.quick else [case for case in cases if case not in rows or rows[case].error]
        # One model after the other, so that its graphs can be deleted early.
        todo.sort(key=lambda case: (MODELS.index(case.model), case.engine))
        for number, case in enumerate(tqdm(todo, desc="cases", unit="case")):
            try:
                rows[case] = run(case, graphs)
            except RuntimeError as error:
                rows[case] = Timing(**asdict(case), error=" ".join(str(error).split()))
            write_csv(args.out, columns, rows.values())
            left = {(c.model, c.engine) for c in todo[number + 1 :]}
            if (case.model, case.engine) not in left:
                (graphs / f"{case.model}-{case.engine}.onnx").unlink(missing_ok=True)
    if not args.quick:
        write_csv(args.out, columns, rows.values())
    shown = [row for case, row in rows.items() if args.quick or case in {*cases, *(r.case for r in ratio_rows)}]
    print(table(shown))
    print("\n".join(lines))
    return 1 if any(row.error for row in shown) else 0


if __name__ == "__main__":
    sys.exit(main())
