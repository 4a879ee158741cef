"""Cuts are exact to the sample, whatever the length, and open no more than they must."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora.__main__ import main
from corpora.audio import read_audio, write_audio
from corpora.datadir import DataDirError, Utterance, read_datadir, write_datadir
from corpora.prepare import cuts
from corpora.prepare.cuts import cut_set


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "طويل 1.flac"
    write_audio(path, 0.1 * np.random.default_rng(0).standard_normal(50001).astype(np.float32))
    return path


def test_cuts_of_a_data_directory_give_its_samples(recording, tmp_path):
    bounds = [(0, 16001), (12347, 30000), (30000, 50001)]
    utterances = [
        Utterance(f"s-{i}", "s", recording, b - a, a, b, text="سَلام عليكم", language="ar", dialect="egy")
        for i, (a, b) in enumerate(bounds)
    ]
    write_datadir(tmp_path / "data", utterances)
    for cut, (a, b) in zip(cut_set(read_datadir(tmp_path / "data")), bounds, strict=True):
        np.testing.assert_array_equal(cut.load_audio()[0], read_audio(recording, a, b))
        segment = cut.supervisions[0]
        assert (cut.num_samples, segment.text, segment.language, segment.speaker) == (b - a, "سَلام عليكم", "ar", "s")
        assert segment.dialect == "egy"


def test_a_data_directory_becomes_a_file_of_lhotse(recording, tmp_path, capsys):
    from lhotse import CutSet

    bounds = [(0, 16001), (12347, 30000)]
    write_datadir(
        tmp_path / "data",
        [Utterance(f"s-{i}", "s", recording, b - a, a, b, text="سَلام") for i, (a, b) in enumerate(bounds)],
    )
    out = tmp_path / "cuts.jsonl.gz"
    assert main(["cuts", str(tmp_path / "data"), "--out", str(out)]) == 0 and "2 cuts" in capsys.readouterr().out
    for cut, (a, b) in zip(CutSet.from_file(out), bounds, strict=True):
        np.testing.assert_array_equal(cut.load_audio()[0], read_audio(recording, a, b))
        assert (cut.num_samples, cut.supervisions[0].text) == (b - a, "سَلام")
    assert main(["cuts", str(tmp_path / "data"), "--out", str(tmp_path / "cuts.txt")]) == 2
    assert "ends in .jsonl" in capsys.readouterr().err and not (tmp_path / "cuts.txt").exists()


def test_whole_files_are_not_opened(recording, monkeypatch):
    monkeypatch.setattr(cuts, "audio_info", lambda path: pytest.fail("opened"))
    (cut,) = cut_set([Utterance("s-0", "s", recording, 50001)])
    assert cut.num_samples == cut.recording.num_samples == 50001


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 10**9))
def test_no_length_is_rounded(samples):
    """Lhotse's Kaldi import floors to a millisecond, and a frame can vanish."""
    (cut,) = cut_set([Utterance("s-0", "s", "a.wav", samples)])
    assert cut.num_samples == cut.recording.num_samples == samples


def test_commands_in_wav_scp_are_refused(tmp_path):
    write_datadir(tmp_path / "d", [Utterance("s-0", "s", tmp_path / "a.wav", 400)])
    (tmp_path / "d" / "wav.scp").write_text(f"s-0 touch {tmp_path / 'ran'} |\n")
    with pytest.raises(DataDirError, match="pipes are refused"):
        cut_set(read_datadir(tmp_path / "d"))
    assert not (tmp_path / "ran").exists()
