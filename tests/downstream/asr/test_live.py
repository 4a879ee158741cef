"""`transcribe --stream -`: greedy lines while audio arrives, PCM from a pipe, and refusals."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from downstream import DownstreamError
from downstream.__main__ import main
from downstream.asr import live
from downstream.asr.live import Lines, LiveReader, pcm_blocks
from downstream.asr.reading import Reader
from downstream.asr.recogniser import CHARACTERS, Recogniser, best_path, save_head
from upstream.model.encoder import build_encoder
from upstream.model.family import Geometry
from upstream.model.modeldir import model_sha256, save_model
from upstream.model.onnxstream import export_stream

SHAPE = dict(pos_conv_kernel=8, pos_conv_groups=4, squeeze=2)
TINY = Geometry("tiny_stream", 2, 32, 2, 64, "logmel", left_context=32, **SHAPE)
A, B, SPACE = (CHARACTERS.index(c) for c in ("ا", "ب", " "))


def recogniser(folder: Path, geometry: Geometry, stride: int = 1) -> Path:
    """A model directory and its head directory, with random weights that say something; the head directory."""
    torch.manual_seed(0)
    model = Recogniser(build_encoder(geometry), stride=stride).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_model(model.encoder, folder, {"name": geometry.name, "geometry": geometry.facts()})
    description = {"upstream": folder.name, "upstream_key": model_sha256(folder), "text_profile": "modern"}
    save_head(model, folder / "letters", description)
    return folder / "letters"


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Path:
    return recogniser(tmp_path_factory.mktemp("live") / "tiny", TINY)


def pcm(samples: int) -> bytes:
    signal = np.random.default_rng(0).uniform(-0.3, 0.3, samples) * np.linspace(0, 1, samples)
    return (signal * 32767).astype("<i2").tobytes()


def feed(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def letters(text: str) -> str:
    return text.replace(" ", "")


def test_lines_grow_and_end_at_pauses():
    lines = Lines(CHARACTERS, pause=0.1)
    frames = [0, A, A, 0, B, 0, SPACE, SPACE, B, B, 0]
    shown = [line for value in frames for line in lines.add([value])]
    assert [(line.text, line.final) for line in shown] == [("ا", False), ("اب", False), ("اب ب", False)]
    assert (shown[-1].start, shown[-1].end) == (0.02, 0.18)
    assert lines.add([0] * 3) == [] and lines.add([0]) == [live.Line(True, "اب ب", 0.02, 0.2)]
    assert lines.add([0, 0, SPACE, A]) == [live.Line(False, "ا", 0.36, 0.38)]
    assert lines.finish() == [live.Line(True, "ا", 0.36, 0.38)] and lines.finish() == []


@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_final_lines_together_are_the_likeliest_path(size):
    rng = np.random.default_rng(1)
    classes = rng.choice([0, 0, 0, A, A, B, SPACE], 4000).tolist()
    classes[1000:1200] = [0] * 200
    lines = Lines(CHARACTERS, longest=10.0)
    shown = [line for i in range(0, 4000, size) for line in lines.add(classes[i : i + size])] + lines.finish()
    final = [line for line in shown if line.final]
    assert letters("".join(line.text for line in final)) == letters(best_path(classes, CHARACTERS))
    assert len(final) > 5 and all(a.end <= b.start for a, b in zip(final, final[1:], strict=False))
    assert all(line.end - line.start <= 11 for line in final)


def test_a_line_without_a_space_is_bounded():
    lines = Lines(CHARACTERS, longest=1.0)
    final = [line for line in lines.add([A, B] * 500) if line.final]
    assert len(final) == 10 and {len(line.text) for line in final} == {100}


@pytest.mark.parametrize("chunk_ms", [None, 160])
def test_the_text_is_that_of_one_pass_over_the_whole_clip(head, chunk_ms):
    data = pcm(50000)
    blocks = list(pcm_blocks(io.BytesIO(data)))
    shown = list(LiveReader(head, chunk_ms=chunk_ms).read(piece for b in blocks for piece in np.array_split(b, 7)))
    assert shown[-1].final and any(not line.final for line in shown)
    reader = Reader(head)
    encoder = torch.from_numpy(np.concatenate(blocks))
    if chunk_ms:
        from downstream.asr.recogniser import load_head
        from upstream.model.modeldir import load_model

        model = load_head(load_model(reader.model_dir), head)
        model.encoder.config.chunk = chunk_ms // 20
        with torch.no_grad():
            expected = best_path(model(encoder[None])[0][0].argmax(-1).tolist(), CHARACTERS)
    else:
        expected = reader.read_blocks([encoder]).text
    found = letters("".join(line.text for line in shown if line.final))
    assert len(expected) > 5 and found == letters(expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_export_beside_the_model_gives_the_same_lines(tmp_path, stride):
    head = recogniser(tmp_path / "tiny", TINY, stride)
    blocks = list(pcm_blocks(io.BytesIO(pcm(60000))))
    expected = list(LiveReader(head).read(blocks))
    export_stream(tmp_path / "tiny", tmp_path / "tiny" / live.STREAM_FILE)
    reader = LiveReader(head)
    assert reader.engine == "onnx" and len(expected) > 3 and list(reader.read(blocks)) == expected
    assert LiveReader(head, engine="torch").engine == "torch"
    assert 3.0 < expected[-1].end < 3.8  # of 3.75 s, to the end of a frame
    written = json.loads((head / "head.json").read_text(encoding="utf-8"))
    for changes, message in (({"stride": 4}, "stride 4"), ({"characters": CHARACTERS[:9]}, "9 characters")):
        (head / "head.json").write_text(json.dumps(written | changes), encoding="utf-8")
        for engine in ("onnx", "torch"):
            with pytest.raises(DownstreamError, match=message):
                LiveReader(head, engine=engine)
    (head / "head.json").write_text(json.dumps(written | {"upstream_key": "0"}), encoding="utf-8")
    with pytest.raises(DownstreamError, match="other weights than those of .*stream.onnx"):
        LiveReader(head)


def test_the_command_prints_partial_and_final_json_lines(head, monkeypatch, capsys):
    feed(monkeypatch, pcm(50000))
    assert main(["transcribe", "--stream", "-", "--model", str(head), "--chunk", "160"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(row) for row in rows] == [{"final", "text", "start", "end"}] * len(rows)
    assert rows[-1]["final"] and not rows[0]["final"] and 0 <= rows[0]["start"] <= rows[-1]["end"] <= 50000 / 16000


@pytest.mark.slow
def test_a_line_appears_while_the_pipe_is_open(head):
    command = [sys.executable, "-m", "downstream", "transcribe", "--stream", "-", "--model", str(head)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(pcm(16000))
        process.stdin.flush()
        first = json.loads(process.stdout.readline())  # the pipe is still open
        rest, _ = process.communicate(pcm(8001))
    assert process.returncode == 0 and not first["final"]
    assert json.loads(rest.splitlines()[-1])["final"]


def wav_file(rate=16000, channels=1, width=2, data=b"") -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(data)
    return file.getvalue()


def test_pcm_with_and_without_a_header():
    data = pcm(3001)
    expected = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    header = wav_file(data=data)
    endless = header[:40] + struct.pack("<I", 0x80000000) + data
    listed = header[:12] + struct.pack("<4sI", b"LIST", 3) + b"abc\0" + header[12:] + b"LIST\4\0\0\0abcd"
    for given in (data, data + b"\1", header, endless, listed):
        found = np.concatenate(list(pcm_blocks(io.BytesIO(given))))
        assert np.array_equal(found, expected)


class Slow(io.BytesIO):
    """Gives few bytes at a time, an odd number, and Ctrl-C after the last."""

    def read1(self, size: int = -1) -> bytes:
        piece = super().read1(min(size, 3) if size > 0 else 3)
        if not piece:
            raise KeyboardInterrupt
        return piece


def test_samples_that_arrive_in_parts_and_an_interruption_at_the_end():
    data = pcm(1000)
    found = np.concatenate(list(pcm_blocks(Slow(data))))
    assert np.array_equal(found, np.frombuffer(data, "<i2").astype(np.float32) / 32768)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "ended without audio"),
        (b"\1", "ended without audio"),
        (wav_file(rate=8000), "8000 Hz"),
        (wav_file(channels=2), "2 channels"),
        (wav_file(width=1), "8 bits"),
        (wav_file()[:30], "incomplete"),
        (b"RIFF" + bytes(40), "no WAV"),
        (b"RIFF\0\0\0\0WAVEabcd\xff\xff\xff\x7f", "damaged"),
        (wav_file()[:12] + b"data\0\0\0\0", "without a format"),
    ],
)
def test_other_input_than_pcm_says_what_is_expected(head, monkeypatch, capsys, data, message):
    feed(monkeypatch, data)
    assert main(["transcribe", "--stream", "-", "--model", str(head)]) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert message in line and "16 kHz" in line and not output.out


def test_a_terminal_and_a_closed_input_are_refused(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    with pytest.raises(DownstreamError, match="terminal"):
        live.standard_input()
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(DownstreamError, match="closed"):
        live.standard_input()


def refused(capsys, *words: str) -> str:
    assert main(["transcribe", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_model_that_cannot_stream_is_refused_by_its_geometry(tmp_path, monkeypatch, capsys):
    feed(monkeypatch, pcm(8000))
    whole = recogniser(tmp_path / "whole", Geometry("tiny", 2, 32, 2, 64, "logmel", **SHAPE))
    line = refused(capsys, "--stream", "-", "--model", str(whole))
    assert "geometry tiny (2 x 32" in line and "cannot stream" in line and "_stream" in line


def test_the_recogniser_that_ships_is_refused(monkeypatch, capsys):
    feed(monkeypatch, pcm(8000))
    line = refused(capsys, "--stream", "-")
    assert "harness_open" in line and "cannot stream" in line and "whole recordings" in line


def test_options_that_do_not_fit_are_named(head, monkeypatch, capsys, tmp_path):
    feed(monkeypatch, pcm(8000))
    model = ["--model", str(head)]
    for option in (["--words"], ["--hotwords", "ا"], ["--out", "x"], ["--channel", "0"], ["--format", "srt"]):
        assert refused(capsys, "--stream", "-", *model, *option).count(option[0]) == 1
    assert "no audio files" in refused(capsys, "--stream", "a.wav", *model)
    assert "--stream" in refused(capsys, "-", *model)
    assert "--chunk" in refused(capsys, "a.wav", "--chunk", "320", *model)
    assert "from 160 to 1280 ms" in refused(capsys, "--stream", "-", "--chunk", "100", *model)
    other = save_model(build_encoder(TINY), tmp_path / "other", {"name": "other"})
    assert "other weights" in refused(capsys, "--stream", "-", *model, "--upstream", str(other))
    probe = tmp_path / "probe"
    probe.mkdir()
    (probe / "head.json").write_text('{"task": "asr", "protocol": "light"}', encoding="utf-8")
    assert "CTC recogniser" in refused(capsys, "--stream", "-", "--model", str(probe))
