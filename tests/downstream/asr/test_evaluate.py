import json
from pathlib import Path

import numpy as np
import pytest
import torch

from corpora.audio import write_audio
from corpora.prepare.packed import pack
from downstream.asr.__main__ import main
from downstream.asr.evaluate import error_rates, intervals, read_dev
from downstream.asr.recogniser import Recogniser, load_head, save_recogniser
from downstream.asr.train_ctc import Source
from upstream.model.encoder import build_encoder
from upstream.model.family import Geometry
from upstream.model.modeldir import load_model, save_model

TINY = Geometry("tiny", 2, 32, 2, 64, "logmel", pos_conv_kernel=8, pos_conv_groups=4)


def speech() -> np.ndarray:
    """Five seconds whose harmonics of 150 Hz swell and fade, as those of a voice do."""
    time = np.arange(5 * 16000) / 16000
    tones = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 40))
    return (0.1 * tones * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))).astype(np.float32)


def test_intervals_hold_the_rates_and_shrink_with_clips() -> None:
    rng = np.random.default_rng(0)
    pairs = [["بسم الله", "بسم الله" if rng.random() < 0.5 else "بسم"] for _ in range(400)]
    few, many = intervals(pairs[:40]), intervals(pairs)
    for key, rate in (("cer", 5 / 8), ("wer", 1 / 2), ("letters", 3 / 6)):  # of the half that is wrong
        wrong = sum(hypothesis == "بسم" for _, hypothesis in pairs) / len(pairs)
        low, high = many[key]
        assert low < wrong * rate < high, key
        assert high - low < 0.5 * (few[key][1] - few[key][0])


def test_the_command_scores_clips_under_a_condition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = Recogniser(build_encoder(TINY)).eval()
    save_model(build_encoder(TINY), tmp_path / "random", {"name": "random", "geometry": TINY.facts()})
    save_recogniser(model, tmp_path / "model", tmp_path / "head", "model", tmp_path / "random", {})
    names = [f"clip{number}" for number in range(3)]
    write_audio(tmp_path / "a.wav", speech()[: 16000 * 2])
    pack({name: tmp_path / "a.wav" for name in names}, tmp_path / "audio")
    (tmp_path / "text").write_text("".join(f"{name} قل هو الله\n" for name in names), encoding="utf-8")
    shown = {}
    for condition in ("", "noise"):
        options = ["--audio", f"{tmp_path}/audio", "--text", f"{tmp_path}/text"]
        options += ["--condition", condition] if condition else []
        assert main(["score", "--model", f"{tmp_path}/model", "--head", f"{tmp_path}/head", *options]) == 0
        shown[condition] = json.loads(capsys.readouterr().out)
    source = Source(f"{tmp_path}/audio", f"{tmp_path}/text")
    recogniser = load_head(load_model(tmp_path / "model"), tmp_path / "head")
    expected, _ = error_rates(recogniser, read_dev(source))
    assert shown[""]["cer"] == round(100 * expected["cer"], 3) and shown[""]["clips"] == 3
    low, high = shown["noise"]["interval"]["cer"]
    assert low <= shown["noise"]["cer"] <= high
