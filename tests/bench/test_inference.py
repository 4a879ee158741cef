"""The inference benchmark: exported graphs equal the model, ratios equal the measured times, a second run resumes."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from upstream.model.encoder import encode
from upstream.model.family import Geometry

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench():
    spec = importlib.util.spec_from_file_location("bench_inference", ROOT / "bench" / "inference.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("front_end", ["logmel", "waveform"])
@pytest.mark.slow
def test_the_graph_that_is_timed_is_the_model(bench, front_end, monkeypatch, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    tiny = Geometry("tiny", 2, 32, 2, 64, front_end, conv_channels=16, pos_conv_groups=4)
    monkeypatch.setitem(bench.FAMILY, "tiny", tiny)
    wavs = 0.1 * np.random.default_rng(0).standard_normal((2, 12345)).astype(np.float32)
    with torch.inference_mode():
        expected = encode(bench.build("tiny"), list(torch.from_numpy(wavs))).hidden_states[-1].numpy()
    for engine, least in (("plain_onnx_fp32", 0.99999), ("onnx_fp32", 0.99999), ("onnx_int8", 0.98)):
        path = tmp_path / f"{engine}.onnx"
        case = bench.Case("tiny", engine, 1.0, 1, 1, "cpu")
        bench.export(case, path)
        (found,) = onnxruntime.InferenceSession(str(path)).run(["last_hidden_state"], {"waveform": wavs})
        assert found.shape == expected.shape
        cosine = (found * expected).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(expected, axis=-1)
        assert cosine.min() > least, engine
        nodes = onnx.load(path).graph.node
        kinds = {node.op_type for node in nodes}
        positional = {node.op_type for node in nodes if "/pos_conv_embed/" in node.name}
        assert ("Conv" in positional) == engine.startswith("plain_")
        assert not kinds & {"ConvInteger", "QLinearConv"}
        assert ("MatMulInteger" in kinds) == (engine == "onnx_int8")
        row = bench.measure(replace(case, engine=engine), path)
        assert row.params_m > 0 and row.rtf > 0 and row.passes >= 3


@pytest.mark.parametrize("name", ["sew", "whisper_base", "distilhubert"])
@pytest.mark.slow
def test_published_encoders_of_other_kinds_are_timed(bench, name):
    row = bench.measure(bench.Case(name, "torch_fp32", 0.5, 1, 1, "cpu"), None)
    stated = {"sew": 40.7, "whisper_base": 20.6, "distilhubert": 23.5}[name]  # by their authors
    assert abs(row.params_m / stated - 1) < 0.05 and row.macs_g_per_s > 0.5, row


def test_ratios_are_last_and_a_second_run_measures_only_what_is_missing(bench, monkeypatch, tmp_path, capsys):
    asked = []
    seconds = {("hubert_base", "torch_fp32"): 2.0, ("hubert_base", "onnx_fp32"): 1.8}
    seconds |= {("hst_fast", "onnx_fp32"): 0.1}
    seconds |= {("hst_logmel", "torch_fp32"): 0.3, ("hst_logmel", "onnx_fp32"): 0.2, ("hst_logmel", "onnx_int8"): 0.1}

    def run(case, graphs):
        asked.append(case)
        if case.model == "hl":
            raise RuntimeError("killed: too little memory?")
        return bench.Timing(**asdict(case), pass_s=seconds.get((case.model, case.engine), 0.4), rtf=0.1, passes=3)

    monkeypatch.setattr(bench, "run", run)
    out = tmp_path / "table.csv"
    options = ["--out", str(out), "--models", "hl,hst", "--engines", "torch_fp32", "--seconds", "2", "--batch", "1,8"]
    assert bench.main(options) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-6:] == [
        *("ratio inference_fp32 9.00", "ratio inference_int8 18.00"),
        *("ratio hst_fast_fp32 18.00", "ratio hst_fast_int8 4.50"),
        *("ratio hst_tiny_fp32 4.50", "ratio hst_tiny_int8 4.50"),
    ]
    assert sum("not run: killed" in line for line in lines) == 2
    first = [case for case in asked if case.seconds == 2]
    asked.clear()
    assert bench.main(options) == 1
    assert {case.model for case in first} == {"hl", "hst"}
    assert {case.model for case in asked if case.seconds == 2} == {"hl"}, "kept rows were measured again"
    assert bench.main(["--quick", "--out", str(tmp_path / "none.csv")]) == 0
    assert not (tmp_path / "none.csv").exists()
