"""Speed perturbation: length and pitch move together, ids are new, recordings stay traceable."""

import numpy as np
import pytest

from corpora.audio import audio_info, read_audio, write_audio
from corpora.datadir import Utterance, write_datadir
from corpora.prepare.sources import Provenance
from corpora.sets.speed import perturb, perturbed_sources


@pytest.fixture
def utterance(tmp_path):
    time = np.arange(16000) / 16000
    write_audio(tmp_path / "a.wav", 0.3 * np.sin(2 * np.pi * 440 * time))
    return Utterance("s-1", "s", tmp_path / "a.wav", 8000, start=4000, end=12000, language="ar")


@pytest.mark.parametrize("factor", [0.85, 1.1])
def test_length_shrinks_and_pitch_rises_by_the_factor(utterance, tmp_path, factor):
    (fast,) = perturb([utterance], factor, tmp_path / "sp")
    samples = read_audio(fast.audio)
    assert fast.samples == len(samples) == pytest.approx(8000 / factor, abs=2)
    peak = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * 16000 / len(samples)
    assert peak == pytest.approx(440 * factor, abs=2)


def test_a_perturbed_voice_is_another_speaker_and_makes_a_valid_directory(utterance, tmp_path):
    made = perturb([utterance], 0.9, tmp_path / "sp")
    assert (made[0].utt_id, made[0].speaker, made[0].language) == ("sp0.9-s-1", "sp0.9-s", "ar")
    write_datadir(tmp_path / "data", [utterance, *made])


def test_recordings_stay_traceable():
    rows = [Provenance("s-1", "corpus", "a.wav", "abc")]
    assert perturbed_sources(rows, 1.1) == [Provenance("sp1.1-s-1", "corpus", "a.wav", "abc")]


def test_existing_files_are_kept_and_stale_ones_removed(utterance, tmp_path):
    (first,) = perturb([utterance], 0.9, tmp_path / "sp")
    before = first.audio.stat().st_mtime_ns
    (again,) = perturb([utterance], 0.9, tmp_path / "sp")
    assert again == first and first.audio.stat().st_mtime_ns == before
    write_audio(utterance.audio, np.zeros(16000))  # other audio under the same name
    (other,) = perturb([utterance], 0.9, tmp_path / "sp")
    assert not first.audio.exists() and audio_info(other.audio).samples == first.samples


@pytest.mark.parametrize("factor", [0.0, 0.4, 2.5, -1.0])
def test_refuses_speeds_out_of_range(utterance, tmp_path, factor):
    with pytest.raises(ValueError, match="between 0.5 and 2"):
        perturb([utterance], factor, tmp_path / "sp")
