"""The export with states: frames and states of PyTorch, chunk by chunk, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from upstream.__main__ import main
from upstream.errors import UpstreamError
from upstream.model import streaming
from upstream.model.encoder import build_encoder
from upstream.model.family import geometry
from upstream.model.modeldir import load_model, model_sha256, save_model
from upstream.model.onnx import OnnxEncoder, export_onnx
from upstream.model.onnxstream import OnnxStream, export_stream, export_stream_model
from upstream.model.streaming import OVERLAP, Stream, StreamStep

GEOMETRIES = {
    "logmel": geometry("mini_hst_stream"),
    "squeezed": geometry("mini_hst_stream", squeeze=2),
    "stem": geometry("mini_hst_stream", stem="convolution", positions="sinusoid"),
    "squeezed stem": geometry("mini_hst_stream", stem="convolution", positions="sinusoid", squeeze=2),
}
TOLERANCE = 5e-5


@pytest.fixture(scope="module", params=list(GEOMETRIES))
def model_dir(request, tmp_path_factory) -> Path:
    torch.manual_seed(1)
    model = build_encoder(GEOMETRIES[request.param])
    for p in model.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    return save_model(model, tmp_path_factory.mktemp("stream") / request.param, {"name": request.param})


@pytest.fixture(scope="module")
def files(model_dir) -> dict[str, Path]:
    made = {"fp32": model_dir.parent / "stream.onnx", "int8": model_dir.parent / "stream8.onnx"}
    assert export_stream(model_dir, made["fp32"]).max_difference < 1e-4
    assert export_stream(model_dir, made["int8"], precision="int8").cosine > 0.95
    return made


def wave(samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))


@pytest.mark.parametrize("chunk_ms", [None, 160, 1280])
@pytest.mark.slow
def test_frames_and_states_are_those_of_pytorch_after_every_piece(model_dir, files, chunk_ms):
    theirs, ours = OnnxStream(files["fp32"], chunk_ms), Stream(load_model(model_dir), chunk_ms)
    assert theirs.chunk == ours.chunk and theirs.state.keys() == ours.state.keys()
    for piece in wave(50000).split(3333):
        torch.testing.assert_close(
            torch.from_numpy(theirs.push(piece.numpy())), ours.push(piece), atol=TOLERANCE, rtol=0
        )
        for name, value in ours.state.items():
            torch.testing.assert_close(torch.from_numpy(theirs.state[name]), value, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(torch.from_numpy(theirs.finish()), ours.finish(), atol=TOLERANCE, rtol=0)
    again = theirs.push(wave(50000).numpy())
    assert np.array_equal(again[:8], OnnxStream(files["fp32"], chunk_ms).push(wave(50000).numpy())[:8])


def test_a_batch_of_clips_in_step(model_dir, files):
    stream, step = OnnxStream(files["fp32"], 160), StreamStep(load_model(model_dir))
    state, feed = step.start(2), {name: np.repeat(value, 2, 0) for name, value in stream.state.items()}
    wavs = torch.stack([wave(2560 * 2 + OVERLAP), wave(2560 * 2 + OVERLAP).flip(0)])
    names = [output.name for output in stream.session.get_outputs()]
    for chunk in range(2):
        window = wavs[:, chunk * 2560 : (chunk + 1) * 2560 + OVERLAP]
        with torch.no_grad():
            top, state = step(window, state)
        found = dict(zip(names, stream.session.run(None, {"waveform": window.numpy(), **feed}), strict=True))
        torch.testing.assert_close(torch.from_numpy(found["last_hidden_state"]), top, atol=TOLERANCE, rtol=0)
        feed = {name: found[f"next_{name}"] for name in feed}


def test_the_file_states_what_it_is_and_its_states_have_fixed_sizes(model_dir, files):
    stream = OnnxStream(files["fp32"])
    facts = stream.facts
    assert facts["source_sha256"] == model_sha256(model_dir) and facts["precision"] == "fp32"
    assert (facts["left_context"], facts["chunk"], facts["overlap"]) == ("128", "16", str(OVERLAP))
    for own in stream.session.get_inputs():
        assert own.name == "waveform" or all(isinstance(size, int) for size in own.shape[1:]), own.name
    kinds = {node.op_type for node in onnx.load(files["int8"]).graph.node}
    assert "MatMulInteger" in kinds and not kinds & {"ConvInteger", "RandomUniform", "Loop"}
    assert files["int8"].stat().st_size < 0.6 * files["fp32"].stat().st_size


def test_an_export_that_differs_is_not_written(model_dir, tmp_path, monkeypatch):
    """The left context left out of the traced function."""
    model = load_model(model_dir)
    real = streaming.StreamStep.forward

    def forgetful(self, waveform, state):
        top, following = real(self, waveform, state)
        return top, {**following, "keys": following["keys"] * (0.0 if torch.jit.is_tracing() else 1.0)}

    monkeypatch.setattr(streaming.StreamStep, "forward", forgetful)
    with pytest.raises(UpstreamError, match="differs from the model"):
        export_stream_model(model, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_the_command_exports_and_refuses_what_does_not_fit(model_dir, tmp_path, capsys):
    out = tmp_path / "s.onnx"
    assert main(["export", str(model_dir), "--streaming", "--out", str(out)]) == 0 and OnnxStream(out).chunk == 16
    assert main(["export", str(model_dir), "--streaming", "--all-states", "--out", str(out)]) == 2
    assert "--all-states" in capsys.readouterr().err
    plain = save_model(build_encoder(geometry("mini_hst")), tmp_path / "plain", {"name": "plain"})
    assert main(["export", str(plain), "--streaming", "--out", str(tmp_path / "no.onnx")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "plain" in line and "cannot stream" in line and not (tmp_path / "no.onnx").exists()


def test_files_of_the_other_kind_are_refused(model_dir, files, tmp_path):
    export_onnx(model_dir, tmp_path / "full.onnx")
    with pytest.raises(UpstreamError, match="lacks states.*--streaming"):
        OnnxStream(tmp_path / "full.onnx")
    export_onnx(model_dir, tmp_path / "full.onnx", lengths=False)
    with pytest.raises(UpstreamError, match="lacks states.*--streaming"):
        OnnxStream(tmp_path / "full.onnx")
    with pytest.raises(UpstreamError, match="OnnxStream"):
        OnnxEncoder(files["fp32"])
    with pytest.raises(UpstreamError, match="no such file"):
        OnnxStream(tmp_path / "nothing.onnx")
    with pytest.raises(UpstreamError, match="160 to 1280 ms"):
        OnnxStream(files["fp32"], 100)
