"""Worse conditions: the stated noise, band and codec, alike in every run; data directories keep ids and labels."""

from pathlib import Path

import numpy as np
import pytest

from corpora.__main__ import main
from corpora.audio import write_audio
from corpora.datadir import Utterance, read_datadir, read_utterance, write_datadir
from corpora.prepare.conditions import CONDITIONS


def speech() -> np.ndarray:
    """Five seconds whose harmonics of 150 Hz swell and fade, as those of a voice do."""
    time = np.arange(5 * 16000) / 16000
    tones = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 40))
    return (0.1 * tones * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))).astype(np.float32)


def power(wav: np.ndarray, low: float, high: float) -> float:
    spectrum = np.abs(np.fft.rfft(wav)) ** 2
    hz = np.fft.rfftfreq(len(wav), 1 / 16000)
    return float(spectrum[(hz >= low) & (hz < high)].sum())


def test_conditions_change_a_clip_as_they_say_and_alike_in_every_run() -> None:
    clip = speech()
    changed = {name: change(clip, 3) for name, change in CONDITIONS.items()}
    for name, change in CONDITIONS.items():
        assert changed[name].dtype == np.float32 and np.array_equal(changed[name], change(clip, 3)), name
    rest = changed["noise"] - clip
    assert 10 * np.log10((clip**2).mean() / (rest**2).mean()) == pytest.approx(10.0, abs=0.01)
    assert not np.allclose(CONDITIONS["noise"](clip, 4), changed["noise"])
    line = changed["telephone"]
    assert len(line) == len(clip) and power(line, 4100, 8000) < 1e-3 * power(clip, 4100, 8000)
    alike = np.corrcoef(line, clip)[0, 1]
    assert 0.97 < alike < 0.99999
    coded = changed["mp3"]
    assert len(clip) <= len(coded) <= len(clip) + 2 * 1152
    assert 0.9 < np.corrcoef(coded[: len(clip)], clip)[0, 1] < 0.9999


def test_a_data_directory_keeps_its_ids_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wav = speech()
    write_audio(tmp_path / "a.wav", wav)
    own = [
        Utterance("s1-a", "s1", tmp_path / "a.wav", len(wav), text="قل هو الله"),
        Utterance("s2-b", "s2", tmp_path / "a.wav", 16000, start=8000, end=24000, text="أحد"),
    ]
    write_datadir(tmp_path / "test", own)
    command = ["degrade", str(tmp_path / "test"), "--condition", "mp3", "--out", str(tmp_path / "mp3")]
    assert main(command) == 0 and "2 utterances" in capsys.readouterr().out
    found = read_datadir(tmp_path / "mp3" / "test")
    assert [(u.utt_id, u.speaker, u.text) for u in found] == [(u.utt_id, u.speaker, u.text) for u in own]
    expected = CONDITIONS["mp3"](read_utterance(own[1]), 1)
    np.testing.assert_allclose(read_utterance(found[1]), expected, atol=1e-4)
    assert main([*command[:-1], str(tmp_path)]) == 2 and "replace" in capsys.readouterr().err
