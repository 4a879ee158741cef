"""Trained heads on new audio: the answers of the benchmark, any format, any length, and the exit status."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from corpora.audio import write_audio
from corpora.files import read_json, write_json
from downstream import DownstreamError
from downstream.__main__ import main
from downstream.predict import Answer, Predictor, as_line, audio_files

LETTERS = "ابتج"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_models, write_set) -> dict[str, Path]:
    """Run directories of an ASR and an SER cell on `tiny_a`, and the data directories of their test sets."""
    from downstream.probe import cache
    from downstream.probe.data import load_task
    from downstream.probe.probe import UpstreamExtractor
    from downstream.probe.train import run_cell
    from downstream.protocols import load
    from downstream.score.results import write_predictions
    from downstream.upstreams import resolve

    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(tiny_models, root / "models")
    upstream = resolve("tiny_a", root / "models")
    steps = {"problem.train.total_steps": 150, "problem.train.eval_step": 75, "learning_rates": [1e-2]}
    small = {"problem.build_downstream.model_conf.hidden_size": [32]}
    small |= {"problem.build_batch_sampler.train.max_seconds": 8}
    found = {"root": root}
    for task, overrides in (("asr", steps | small), ("ser", steps)):
        folder = write_set(root / "data" / task, task, {"train": 40, "dev": 8, "test": 10})
        protocol = load(task, "light", overrides)
        data = load_task(folder, protocol)
        kind, normalised = protocol.config["cached"], protocol.config["problem"]["build_featurizer"]["normalize"]
        features = cache.prepare(
            root / "cache",
            upstream,
            kind,
            data.items,
            lambda: UpstreamExtractor(upstream, "cpu"),
            normalised=normalised,
        )
        outcome = run_cell(data, upstream, features, protocol, 0, root / "probes" / task, "cpu")
        write_predictions(root / "probes" / task / "predictions.csv", outcome.predictions)
        found[task] = root / "probes" / task / "head"
    return found


def run(capsys, *words: str | Path) -> tuple[int, list[dict], str]:
    status = main([str(word) for word in words])
    shown = capsys.readouterr()
    return status, [json.loads(line) for line in shown.out.splitlines()], shown.err


@pytest.mark.parametrize("command, task, key", [("transcribe", "asr", "text"), ("emotion", "ser", "emotion")])
@pytest.mark.slow
def test_answers_equal_the_benchmark(trained, capsys, command, task, key):
    from downstream.score.results import read_predictions

    expected = {p.utt_id: p.hypothesis for p in read_predictions(trained[task].parent / "predictions.csv")}
    audio = trained["root"] / "data" / task / "audio"
    files = sorted(file for file in audio.iterdir() if file.stem in expected)
    status, answers, _ = run(capsys, command, *files, "--model", trained[task])
    assert status == 0
    assert {Path(a["audio"]).stem: a[key] for a in answers} == expected
    assert len(set(expected.values())) > 1, "a head with one answer for all files proves nothing"
    if task == "ser":
        for answer in answers:
            assert max(answer["scores"], key=answer["scores"].get) == answer["emotion"]
            assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-4)


def test_any_format_rate_and_channels_give_the_same_text(trained, capsys, tmp_path, speak):
    import jiwer
    import soxr

    text = "اب تج باجت"
    wave = np.pad(speak(text, 7), 800)
    for name, rate, options in (
        ("a.wav", 16000, {}),
        ("a.flac", 44100, {}),
        ("a.mp3", 22050, {}),
        ("a.opus", 48000, {"format": "OGG", "subtype": "OPUS"}),
    ):
        samples = soxr.resample(wave, 16000, rate)
        soundfile.write(tmp_path / name, np.stack([samples, samples], axis=1), rate, **options)
    status, answers, _ = run(capsys, "transcribe", tmp_path, "--model", trained["asr"])
    assert status == 0 and [Path(a["audio"]).name for a in answers] == ["a.flac", "a.mp3", "a.opus", "a.wav"]
    for answer in answers:  # a codec or a resampler may change one letter, not more
        assert jiwer.cer(text, answer["text"]) < 0.25, answer
    assert all(a["seconds"] == pytest.approx(len(wave) / 16000, abs=0.1) for a in answers)


@pytest.mark.slow
def test_windows_lose_or_double_no_letter(trained, tmp_path, speak):
    """Two minutes in windows of 10 s against the same head in one pass."""
    import jiwer

    from upstream.model.chunked import Windowing

    words = ["".join(np.random.default_rng(i).choice(list(LETTERS), 2)) for i in range(330)]
    write_audio(tmp_path / "long.wav", speak(" ".join(words), 3))

    def answer(task: str, window: float, context: float) -> tuple[Answer, int]:
        predictor, windows = Predictor(trained[task], task), []
        predictor.windowing = Windowing(window, context, predictor.windowing.frames)
        return predictor(tmp_path / "long.wav", windows.append), len(windows)

    (whole, one), (cut, many) = answer("asr", 1000.0, 5.0), answer("asr", 10.0, 2.0)
    assert one == 1 and many > 15
    assert whole.seconds == cut.seconds == pytest.approx(118.7, abs=0.5)
    assert len(whole.result) > 400
    assert jiwer.cer(whole.result, cut.result) < 0.01
    (whole, _), (cut, many) = answer("ser", 1000.0, 5.0), answer("ser", 30.0, 5.0)
    assert many > 1
    assert cut.scores == pytest.approx(whole.scores, abs=0.02)


def test_bad_files_are_named_and_the_others_answered(trained, capsys, tmp_path, speak):
    write_audio(tmp_path / "جيد.wav", speak("اب", 1))
    (tmp_path / "نص.wav").write_text("no audio", encoding="utf-8")
    write_audio(tmp_path / "short.wav", np.zeros(1, np.float32))
    out = tmp_path / "answers.tsv"
    files = [tmp_path / name for name in ("جيد.wav", "نص.wav", "short.wav", "none.wav")]
    options = ["--model", trained["asr"], "--format", "tsv", "--out", out]
    status, _, errors = run(capsys, "transcribe", *files, *options)
    assert status == 1 and "2 of 4" in errors
    lines = out.read_bytes().decode("utf-8").split("\n")
    assert lines[0] == "audio\ttext\tscore\tseconds\terror\tnote" and lines[-1] == ""
    assert [Path(line.split("\t")[0]).name for line in lines[1:-1]] == [file.name for file in files]
    problems = [line.split("\t")[4] for line in lines[1:-1]]
    assert problems[0] == problems[2] == ""
    assert "cannot be read as audio" in problems[1] and "no such file" in problems[3]


def test_what_was_wrong_with_the_audio_is_said(trained, capsys, tmp_path, speak, encode):
    """A folder with a telephone recording, a stereo file in opposite phase, half a download, and no audio."""
    wave = np.pad(speak("اب تج باجت", 7), 800)
    encode(tmp_path / "phone.m4a", wave, 16000, "aac", "ipod")
    soundfile.write(tmp_path / "phase.wav", np.stack([0.4 * wave, -wave], axis=1), 16000)
    write_audio(tmp_path / "half.wav", wave)
    (tmp_path / "half.wav").write_bytes((tmp_path / "half.wav").read_bytes()[: len(wave)])
    write_audio(tmp_path / "caf\udce9.wav", wave)
    (tmp_path / "readme.txt").write_text("text")
    status, answers, errors = run(capsys, "transcribe", tmp_path, "--model", trained["asr"])
    assert status == 0 and "left out 1 files that are no audio" in errors and "readme.txt" in errors
    rows = {Path(answer["audio"]).stem: answer for answer in answers}
    assert len(rows) == 4 and rows["caf\udce9"]["text"] == rows["phase"]["text"] != ""
    assert "note" not in rows["phone"] and rows["phone"]["seconds"] == pytest.approx(len(wave) / 16000, abs=0.15)
    assert "opposite phase" in rows["phase"]["note"]
    assert rows["half"]["note"].startswith("incomplete: ")
    assert rows["half"]["seconds"] == pytest.approx(len(wave) / 32000, abs=0.01)


def test_a_channel_can_be_chosen(trained, capsys, tmp_path, speak):
    sides = [np.pad(speak("اب تج", 7), 800), np.pad(speak("باج", 8), 800)]
    length = max(map(len, sides))
    stereo = np.stack([np.pad(side, (0, length - len(side))) for side in sides], axis=1)
    soundfile.write(tmp_path / "call.wav", stereo, 16000)
    texts = []
    for number in (0, 1):
        write_audio(tmp_path / "one.wav", stereo[:, number])
        files = [tmp_path / "call.wav", "--channel", str(number)]
        _, (of_call,), _ = run(capsys, "transcribe", *files, "--model", trained["asr"])
        _, (of_side,), _ = run(capsys, "transcribe", tmp_path / "one.wav", "--model", trained["asr"])
        assert of_call["text"] == of_side["text"]
        texts.append(of_call["text"])
    assert texts[0] != texts[1]
    status, (answer,), _ = run(capsys, "transcribe", tmp_path / "call.wav", "--channel", "2", "--model", trained["asr"])
    assert status == 1 and "channel 2 was requested, the file has 2" in answer["error"]
    status, _, errors = run(capsys, "transcribe", tmp_path / "call.wav", "--channel", "-1", "--model", trained["asr"])
    assert status == 2 and "--channel" in errors and errors.count("\n") == 1


def test_a_console_of_another_encoding_gets_utf8(trained, tmp_path, monkeypatch, speak):
    write_audio(tmp_path / "جيد.wav", speak("اب تج", 1))
    sink = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(sink, encoding="cp1252", newline="\r\n"))
    assert main(["transcribe", str(tmp_path / "جيد.wav"), "--model", str(trained["asr"])]) == 0
    sys.stdout.flush()
    line = sink.getvalue()
    assert json.loads(line.decode("utf-8"))["audio"].endswith("جيد.wav") and b"\r" not in line and b"\\u" not in line


def test_wrong_heads_and_models_are_refused_in_one_line(trained, tiny_models, capsys, tmp_path, speak):
    write_audio(tmp_path / "a.wav", speak("اب", 1))
    head, broken = trained["asr"], tmp_path / "head"
    alone = tmp_path / "alone"
    shutil.copytree(head, alone)
    cases = [
        (["emotion", "--model", head], "`transcribe`"),
        (["transcribe", "--model", tmp_path], "head.json"),
        (["transcribe", "--model", alone], "HARNESS_MODELS"),
        (["transcribe", "--model", head, "--upstream", tiny_models / "tiny_b"], "other weights of tiny_a"),
        (["transcribe", "--model", head, "--upstream", tmp_path], f"--upstream {tmp_path}"),
        (["transcribe", "--model", broken], "featurizer.weights"),
    ]
    shutil.copytree(head, broken)
    state = load_file(broken / "head.safetensors")
    state.pop("featurizer.weights")
    save_file(state, broken / "head.safetensors")
    shutil.copytree(trained["root"] / "models", tmp_path / "models")
    shutil.rmtree(tmp_path / "models")
    for words, message in cases:
        if broken in words:
            words = [*words, "--upstream", trained["root"] / "models" / "tiny_a"]
        command, *options = words
        status, answers, errors = run(capsys, command, tmp_path / "a.wav", *options)
        assert (status, answers) == (2, []) and message in errors and errors.count("\n") == 1, errors
    described = read_json(alone / "head.json")
    write_json(alone / "head.json", described | {"characters": described["characters"][:-1]})
    status, _, errors = run(
        capsys, "transcribe", tmp_path / "a.wav", "--model", alone, "--upstream", tiny_models / "tiny_a"
    )
    assert status == 2 and "outputs" in errors
    (broken / "head.safetensors").write_bytes(b"\x80\x04cos\nsystem\n.")
    status, _, errors = run(
        capsys, "transcribe", tmp_path / "a.wav", "--model", broken, "--upstream", tiny_models / "tiny_a"
    )
    assert status == 2 and "head.safetensors" in errors


@pytest.mark.parametrize("tag", ["top-1", "lora-4", "full"])
@pytest.mark.slow
def test_a_head_uses_its_fine_tuned_upstream(trained, capsys, tmp_path, tag):
    from downstream.probe.data import load_task
    from downstream.probe.finetune import parse
    from downstream.probe.train import run_cell
    from downstream.protocols import load
    from downstream.upstreams import resolve

    root = trained["root"]
    small = {"problem.train.total_steps": 8, "problem.train.eval_step": 4, "learning_rates": [1e-2]}
    small |= {f"upstream_lr.{parse(tag).kind}": 1e-2, "problem.build_batch_sampler.train.batch_size": 8}
    protocol = load("ser", "light", small)
    data = load_task(root / "data" / "ser", protocol)
    upstream = resolve("tiny_a", root / "models")
    outcome = run_cell(data, upstream, None, protocol, 0, tmp_path / "run", "cpu", tuning=parse(tag))
    head = tmp_path / "run" / "head"
    expected = outcome.scores["test"]
    files = sorted(f for f in (root / "data" / "ser" / "audio").iterdir() if f.stem in expected)

    def farthest(*options: str | Path) -> float:
        """Largest difference of a class's share from the benchmark's."""
        status, answers, errors = run(capsys, "emotion", *files, "--model", head, "--upstream", upstream.path, *options)
        assert status == 0 and len(answers) == len(expected), errors
        return max(
            abs(answer["scores"][label] - np.exp(score))
            for answer in answers
            for label, score in zip(outcome.labels, expected[Path(answer["audio"]).stem], strict=True)
        )

    assert farthest() < 1e-4
    described = read_json(head / "head.json")
    write_json(head / "head.json", described | {"finetune": "probe"})
    assert farthest() > 2e-3, "fine-tuning changes nothing here, so the test proves nothing"

    write_json(head / "head.json", described | {"upstream_key": "0" * 64})
    broken = [("upstream_key", "`upstream_key`"), (None, "delta.safetensors"), ("gone", "delta.safetensors")]
    for what, message in broken:
        if what is None:
            write_json(head / "head.json", described)
            (head / "delta.safetensors").write_bytes(b"\x80\x04cos\nsystem\n.")
        elif what == "gone":
            (head / "delta.safetensors").unlink()
        options = ["--model", head, "--upstream", upstream.path]
        status, answers, errors = run(capsys, "emotion", files[0], *options)
        assert (status, answers) == (2, []) and message in errors and errors.count("\n") == 1, errors


def test_lines_stay_lines():
    answer = Answer("a\tb\n.wav", "x", 1.0, {"x": 0.75}, None)
    assert as_line(answer, "ser", "tsv") == "a b .wav\tx\t0.75\t1.0\t\t\n"
    assert json.loads(as_line(answer, "ser", "json")) == {
        "audio": "a\tb\n.wav",
        "emotion": "x",
        "seconds": 1.0,
        "scores": {"x": 0.75},
    }


def test_a_folder_without_audio_is_an_error(tmp_path):
    with pytest.raises(DownstreamError, match=re.escape(str(tmp_path))):
        audio_files([tmp_path])


def test_help_needs_no_torch():
    import subprocess

    program = "import sys, downstream.__main__ as m; m.build_parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_threads_of_torch_are_untouched(trained, capsys, tmp_path, speak):
    write_audio(tmp_path / "a.wav", speak("اب", 1))
    before = torch.get_num_threads()
    run(capsys, "transcribe", tmp_path / "a.wav", "--model", trained["asr"])
    assert torch.get_num_threads() == before
