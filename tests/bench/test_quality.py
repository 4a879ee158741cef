"""bench.quality: frames as S3PRL counts them, joined recordings, differences against the plain states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import quality
from corpora.audio import read_audio, write_audio
from downstream.probe.data import LabelledUtterance


def item(folder: Path, number: int, seconds: float, speaker: str = "a") -> LabelledUtterance:
    path = folder / f"{number}.wav"
    write_audio(path, np.full(int(seconds * 16000), 0.01 * (number + 1), np.float32))
    return LabelledUtterance(
        f"{speaker}-{number}", speaker, f"كلمة{number}", path, None, None, int(seconds * 16000), str(number)
    )


def test_missing_frames_are_the_last_one_repeated() -> None:
    states = [np.arange(12.0).reshape(2, 3, 2), -np.arange(12.0).reshape(2, 3, 2)]
    first, second = quality._split(states, [3, 2], [4, 3])
    assert first.shape == (2, 4, 2) and second.shape == (2, 3, 2)
    assert np.array_equal(first[:, 3], first[:, 2]) and np.array_equal(second[:, 2], second[:, 1])
    assert np.array_equal(first[1, :3], states[1][0])


def test_utterances_of_a_speaker_are_joined_in_order_and_a_short_rest_is_dropped(tmp_path: Path) -> None:
    items = [item(tmp_path, n, 1.0) for n in range(5)] + [item(tmp_path, 9, 1.0, "b")]
    (tmp_path / "out").mkdir()
    joined = list(quality._join({"test": items}, 2.0, tmp_path / "out"))
    assert [(r.speaker, r.text, r.seconds) for r in joined] == [
        ("a", "كلمة0 كلمة1", 3.0),
        ("a", "كلمة2 كلمة3", 3.0),
    ]
    wave = read_audio(joined[1].path)
    assert wave[8000] == pytest.approx(0.03, abs=1e-3) and wave[32000] == pytest.approx(0.04, abs=1e-3)
    assert np.all(wave[16000:24000] == 0)


def test_changes_are_relative_to_the_base_and_unknown_where_it_makes_no_error(tmp_path: Path, capsys) -> None:
    recordings = [quality.ScoredAudio(tmp_path, "test", speaker, "سلام", 1.0) for speaker in ("a", "b")]
    texts = {"base": ["سلام", "سلم"], "same": ["سلام", "سلم"], "worse": ["سل", "سلم"]}
    change = quality._print(texts, recordings, "base")
    assert change["same"] == 0 and change["worse"] == pytest.approx(2.0)
    table = capsys.readouterr().out
    assert "12.50" in table and "37.50" in table and "1/2" in table
    assert np.isnan(quality._print({"base": ["سلام"] * 2, "x": ["س"] * 2}, recordings, "base")["x"])
