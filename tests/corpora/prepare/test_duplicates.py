"""A copy of a recording, in another container or with other gain or ends, is found; other recordings are not."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corpora.audio import SAMPLE_RATE, audio_info, load_any, write_audio
from corpora.datadir import Utterance, write_datadir
from corpora.files import CorpusError
from corpora.prepare.duplicates import alike, find_pairs, fingerprint
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.sources import Provenance, check_isolation, write_sources
from corpora.registry import CorpusInfo

pytestmark = pytest.mark.usefixtures("no_disk_sync")


def utterance(path: Path, **values) -> Utterance:
    return Utterance(path.stem, path.stem, path, audio_info(path).samples, **values)


@pytest.fixture
def original(tmp_path: Path, sound) -> Utterance:
    write_audio(tmp_path / "original.wav", sound(0))
    return utterance(tmp_path / "original.wav")


def copies(wave: np.ndarray, encode, folder: Path) -> dict[str, np.ndarray]:
    def through(name: str, codec: str, form: str, rate: int = SAMPLE_RATE, bits: int = 0) -> np.ndarray:
        import soxr

        encode(folder / name, soxr.resample(wave, SAMPLE_RATE, rate), rate, codec, form, bits=bits)
        return load_any(folder / name)

    return {
        "gain": 0.3 * wave,
        "inverted": -wave,
        "trimmed": wave[1234:-777],
        "3 ms and gain": 0.5 * wave[48:],
        "silence before": np.append(np.zeros(5000, np.float32), wave),
        "mp3": through("a.mp3", "libmp3lame", "mp3", 16000, 32000),
        "m4a": through("a.m4a", "aac", "ipod"),
        "opus": through("a.opus", "libopus", "ogg", 48000),
        "telephone": through("a.wav", "pcm_mulaw", "wav", 8000),
    }


def test_copies_are_found_and_equal_samples_are_told_from_codecs(original, tmp_path, encode):
    wave = load_any(original.audio)
    for name, samples in copies(wave, encode, tmp_path).items():
        write_audio(tmp_path / "copy.wav", samples)
        (pair,) = find_pairs([original], [utterance(tmp_path / "copy.wav")])
        assert pair.differing < 0.12, name
        assert pair.equal == (name not in ("mp3", "m4a", "opus", "telephone")), name


def test_other_sounds_silence_and_tones_are_no_pairs(sound):
    time = np.arange(40000) / SAMPLE_RATE
    sounds = [sound(seed) for seed in range(60)]
    sounds += [np.zeros(40000, np.float32), np.sin(2 * np.pi * 440 * time).astype(np.float32), sound(99)[:3000]]
    prints = [fingerprint(samples) for samples in sounds]
    assert [(a, b) for a, b, _, _ in alike(prints, prints) if a < b] == []
    assert {a for a, b, _, _ in alike(prints, prints) if a == b} >= set(range(60))


def test_a_segment_of_a_recording_is_found(original, sound, tmp_path):
    long = np.concatenate([sound(5), load_any(original.audio), sound(6)])
    write_audio(tmp_path / "long.wav", long)
    segment = replace(utterance(tmp_path / "long.wav"), start=40050, end=79000, samples=38950)
    (pair,) = find_pairs([segment], [original])
    assert pair.equal
    assert find_pairs([replace(segment, start=0, end=38950)], [original]) == []


def test_isolation_refuses_equal_samples_and_warns_of_alike_ones(original, sound, tmp_path, encode, caplog):
    wave = load_any(original.audio)
    found = copies(wave, encode, tmp_path)

    def write(name: str, own: Utterance) -> Path:
        write_datadir(tmp_path / name, [own])
        write_sources(tmp_path / name, [Provenance(own.utt_id, name, own.audio.name, f"hash of {name}")])
        return tmp_path / name

    train = write("train", original)
    write_audio(tmp_path / "quiet.wav", found["3 ms and gain"])
    with pytest.raises(CorpusError, match=r"quiet.* holds the samples of original.*equal after gain and trim"):
        check_isolation([train], [write("test", utterance(tmp_path / "quiet.wav"))])
    write_audio(tmp_path / "lossy.wav", found["mp3"])
    caplog.set_level(logging.WARNING)
    check_isolation([train], [write("test", utterance(tmp_path / "lossy.wav"))])
    assert "1 pairs of training and held-out audio sound alike: original and lossy (" in caplog.text
    caplog.clear()
    write_audio(tmp_path / "other.wav", sound(7))
    check_isolation([train], [write("test", utterance(tmp_path / "other.wav"))])
    assert caplog.text == ""


def test_prepare_leaves_copies_of_test_out_of_training(original, sound, tmp_path, encode, caplog):
    wave = load_any(original.audio)
    corpus = tmp_path / "corpus"
    names = ["copy.flac", "mp3.wav", "other.wav", "test.wav"]
    soundfile_samples = [0.5 * wave[48:], copies(wave, encode, tmp_path)["mp3"], sound(8), wave]
    for name, samples in zip(names, soundfile_samples, strict=True):
        write_audio(corpus / name, samples)
    info = CorpusInfo("probe", "Probe", ("asr",), 1.0, "none", "open", "by hand", "x")
    work = Preparation(info, corpus, tmp_path / "out")
    for split, own in (("train", names[:3]), ("test", names[3:])):
        work.add(split, [Item(f"s-{name}", "s", name, f"list:{name}", "كلمة") for name in own])
    caplog.set_level(logging.WARNING)
    assert [u.utt_id for u in work.write()["train"]] == ["s-mp3.wav", "s-other.wav"]
    assert "the same samples are held out, as s-test.wav" in (tmp_path / "out/excluded.tsv").read_text()
    assert "1 pairs of training and held-out audio sound alike: s-mp3.wav and s-test.wav" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        # One recording is published twice, 3.5 ms apart (correlation 0.997).
        ("arabic_speech_commands/**/*.wav", {("options/00000007_NO_01.wav", "options/00000007_NO_03.wav")}),
        # One voice that repeats refrains.
        ("everyayah/*/*.mp3", set()),
    ],
)
def test_no_false_pair_in_real_speech(real_speech: Path, pattern: str, expected: set) -> None:
    files = sorted(real_speech.glob(pattern))
    assert len(files) > 1500
    prints = [fingerprint(load_any(path)) for path in files]
    names = ["/".join(path.parts[-2:]) for path in files]
    assert {(names[a], names[b]) for a, b, _, _ in alike(prints, prints) if a < b} == expected


@pytest.mark.slow
def test_copies_of_real_speech_are_found(real_speech: Path, tmp_path: Path, encode) -> None:
    files = sorted(real_speech.glob("everyayah/*/*.mp3"))[::80]
    originals = [load_any(path)[:160000] for path in files]
    prints = [fingerprint(samples) for samples in originals]
    for number, wave in enumerate(originals):
        for name, samples in copies(wave, encode, tmp_path).items():
            matches = {b for _, b, _, _ in alike([fingerprint(samples)], prints)}
            assert matches == {number}, (files[number], name)
