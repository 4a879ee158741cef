"""Lhotse: recipes give items with our sample counts, and cuts are exact to the sample."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora.__main__ import main
from corpora.audio import read_audio, write_audio
from corpora.datadir import Utterance, read_datadir, write_datadir
from corpora.files import CorpusError
from corpora.prepare.lhotse import cut_set, read_manifests, write_manifests
from corpora.prepare.preparation import Preparation
from corpora.registry import CorpusInfo

pytestmark = pytest.mark.usefixtures("no_disk_sync")

INFO = CorpusInfo("own", "a corpus", ("asr",), None, "none", "open", "", "r1.wav")


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


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 10**9))
def test_no_length_is_rounded(samples):
    """Lhotse's Kaldi import floors to a millisecond and loses frames. The file is not opened: there is none."""
    (cut,) = cut_set([Utterance("s-0", "s", "a.wav", samples)])
    assert cut.num_samples == cut.recording.num_samples == samples


def test_commands_in_wav_scp_are_refused(tmp_path):
    write_datadir(tmp_path / "d", [Utterance("s-0", "s", tmp_path / "a.wav", 400)])
    (tmp_path / "d" / "wav.scp").write_text(f"s-0 touch {tmp_path / 'ran'} |\n")
    with pytest.raises(CorpusError, match="wav.scp:1"):
        cut_set(read_datadir(tmp_path / "d"))
    assert not (tmp_path / "ran").exists()


def _manifest(path: Path, **change):
    from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse.utils import fastcopy

    recording = fastcopy(Recording.from_file(path, recording_id="r1"), **change)
    segment = SupervisionSegment(id="r1-1", recording_id="r1", start=0, duration=recording.duration, text="a")
    return {"all": {"recordings": RecordingSet([recording]), "supervisions": SupervisionSet([segment])}}


def test_recordings_that_are_not_plain_files_are_refused(noise, tmp_path):
    from lhotse.audio import AudioSource

    path = noise(tmp_path / "corpus/r1.wav", 3203 / 16000)
    work = Preparation(INFO, tmp_path / "corpus", tmp_path / "out")
    for change, message in (
        ({"transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}, "r1 .*Speed"),
        ({"sources": [AudioSource("command", [0], "cat r1.wav")]}, "r1 .*command"),
        ({"sources": [AudioSource("file", [0], "/etc/hostname")]}, "/etc/hostname"),
    ):
        with pytest.raises(CorpusError, match=message):
            write_manifests(work, _manifest(path, **change), {"all": "train"})
    written = write_manifests(work, _manifest(path), {"all": "train"})
    assert [(u.samples, u.start) for u in written["train"]] == [(3203, None)]


def test_lhotses_audio_backend_is_restored_after_an_error(tmp_path):
    from lhotse.audio.backend import get_current_audio_backend

    before = get_current_audio_backend()
    work = Preparation(INFO, tmp_path, tmp_path / "out")
    with pytest.raises(CorpusError, match="AssertionError"):
        read_manifests(work, lambda: (_ for _ in ()).throw(AssertionError()))
    assert get_current_audio_backend() is before
