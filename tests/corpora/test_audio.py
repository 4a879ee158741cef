"""Reading and writing audio, with every kind of file that must be refused."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora.audio import (
    SAMPLE_RATE,
    AudioError,
    audio_info,
    encode_audio,
    load_any,
    read_audio,
    stream_any,
    write_audio,
)


def tone(samples: int, rate: int = SAMPLE_RATE, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)).astype(np.float32)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "a file.wav"
    write_audio(path, tone(16001))
    return path


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.FLAC", "سلام.wav"])
def test_round_trip_to_16_bits(tmp_path: Path, name: str) -> None:
    samples = tone(16001)
    write_audio(tmp_path / name, samples)
    read = read_audio(tmp_path / name)
    assert read.dtype == np.float32 and read.shape == (16001,)
    assert np.abs(read - samples).max() <= 0.5 / 32768 + 1e-7
    assert soundfile.info(tmp_path / name).subtype == "PCM_16"
    assert audio_info(tmp_path / name).samples == 16001
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_writing_clips_and_keeps_full_scale(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.array([-2.0, -1.0, 0.0, 1.0, 2.0]))
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [-32768, -32768, 0, 32767, 32767]


def test_part_of_a_file(wav: Path) -> None:
    whole = read_audio(wav)
    assert np.array_equal(read_audio(wav, 100, 200), whole[100:200])
    assert np.array_equal(read_audio(wav, 16000), whole[16000:])
    for start, end in ((0, 16002), (200, 100), (-1, 10), (16001, None), (5, 5)):
        with pytest.raises(AudioError, match=r"a file\.wav: .*16001"):
            read_audio(wav, start, end)


def test_clips_of_25_ms_and_less_are_read(tmp_path: Path) -> None:
    for samples in (1, 399, 400):
        write_audio(tmp_path / "short.wav", tone(samples))
        assert read_audio(tmp_path / "short.wav").shape == load_any(tmp_path / "short.wav").shape == (samples,)


def test_wrong_rate_and_stereo_are_refused_with_the_command_that_converts(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "rate.wav", tone(8000, 8000), 8000)
    with pytest.raises(AudioError, match=r"rate\.wav: .*8000 Hz.*16000 Hz.*ffmpeg"):
        read_audio(tmp_path / "rate.wav")
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone(800), tone(800)], axis=1), 16000)
    with pytest.raises(AudioError, match=r"stereo\.wav: 2 channels.*ffmpeg"):
        read_audio(tmp_path / "stereo.wav")


@pytest.mark.parametrize("read", [read_audio, load_any, audio_info])
def test_unreadable_files_are_named(tmp_path: Path, read, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AudioError, match=r"missing\.wav"):
        read(tmp_path / "missing.wav")
    (tmp_path / "zero.wav").touch()
    with pytest.raises(AudioError, match=r"zero\.wav: "):
        read(tmp_path / "zero.wav")
    (tmp_path / "text.wav").write_text("this is no audio\n" * 100)
    with pytest.raises(AudioError, match=r"text\.wav: "):
        read(tmp_path / "text.wav")
    (tmp_path / "pcm.raw").write_bytes(bytes(1000))
    with pytest.raises(AudioError, match=r"pcm\.raw: "):
        read(tmp_path / "pcm.raw")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", forbidden)
    with pytest.raises(AudioError, match=r"text\.wav: .*Permission denied"):
        read(tmp_path / "text.wav")


@pytest.mark.parametrize("read", [read_audio, load_any])
def test_no_samples(tmp_path: Path, read) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 16000)
    with pytest.raises(AudioError, match=r"none\.wav: "):
        read(tmp_path / "none.wav")


@pytest.mark.parametrize("read", [read_audio, load_any])
@pytest.mark.parametrize("container", ["wav", "flac", "mp3", "ogg"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, read, container: str, share: float) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    path = tmp_path / f"cut.{container}"
    soundfile.write(path, noise, 16000)
    assert len(read(path)) == 48000
    content = path.read_bytes()
    path.write_bytes(content[: round(share * len(content))])
    with pytest.raises(AudioError, match=rf"cut\.{container}: "):
        read(path)


def test_wav_cut_by_one_sample_and_header_without_data(wav: Path) -> None:
    content = wav.read_bytes()
    wav.write_bytes(content[:-2])
    with pytest.raises(AudioError, match="32044 of 32046 bytes"):
        read_audio(wav)
    wav.write_bytes(content[:36])
    with pytest.raises(AudioError, match="truncated"):
        read_audio(wav)


def test_wav_written_to_a_pipe_has_no_length_and_is_read(wav: Path) -> None:
    expected = read_audio(wav)
    content = bytearray(wav.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    assert content[36:40] == b"data"
    wav.write_bytes(content)
    assert np.array_equal(read_audio(wav), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path: Path, value: float) -> None:
    samples = tone(1000)
    samples[700] = value
    soundfile.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    for read in (read_audio, load_any):
        with pytest.raises(AudioError, match=r"nan\.wav: .*NaN"):
            read(tmp_path / "nan.wav")
    assert len(read_audio(tmp_path / "nan.wav", 0, 700)) == 700
    with pytest.raises(AudioError, match=r"out\.wav: .*NaN"):
        write_audio(tmp_path / "out.wav", samples)


def test_writing_refuses_samples_that_reading_refuses(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"a\.wav: "):
        write_audio(tmp_path / "a.wav", np.zeros(0))
    with pytest.raises(AudioError, match=r"a\.wav: .*\(2, 5\)"):
        write_audio(tmp_path / "a.wav", np.zeros((2, 5)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_load_any_converts_rate_and_channels(tmp_path: Path, rate: int, channels: int) -> None:
    samples = np.stack([tone(rate, rate)] * channels, axis=1)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    read = load_any(tmp_path / "a.wav")
    assert read.dtype == np.float32 and abs(len(read) - 16000) <= 1
    n = min(len(read), 16000)
    middle = slice(1000, n - 1000)
    assert np.abs(read[:n] - tone(16000)[:n])[middle].max() < 2e-3
    if channels == 2:
        samples[:, 1] *= -0.2
        soundfile.write(tmp_path / "b.wav", samples, rate, subtype="FLOAT")
        assert np.allclose(load_any(tmp_path / "b.wav")[middle], 0.4 * read[middle], atol=1e-3)  # they do not cancel


def test_load_any_reads_opus_and_mp3(tmp_path: Path) -> None:
    samples = tone(48000)
    soundfile.write(tmp_path / "a.opus", samples, 16000, format="OGG", subtype="OPUS")
    soundfile.write(tmp_path / "a.mp3", samples, 16000)
    for name in ("a.opus", "a.mp3"):
        read = load_any(tmp_path / name)
        assert len(read) == 48000 and np.sqrt((read**2).mean()) == pytest.approx(0.354, rel=0.05)


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_audio(tmp_path / "a.wav", tone(1000))
    assert not list(tmp_path.iterdir())


def test_encoding_is_a_file_in_memory(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", tone(1000))
    assert encode_audio(tone(1000)) == (tmp_path / "a.wav").read_bytes()


def test_real_recordings_are_read(real_speech: Path) -> None:
    for pattern in ("arabic_speech_commands/**/*.wav", "everyayah/*/*.mp3", "free_spoken_digits/**/*.wav"):
        path = sorted(real_speech.glob(pattern))[0]
        samples = load_any(path)
        info = audio_info(path)
        assert abs(len(samples) / SAMPLE_RATE - info.samples / info.sample_rate) < 1e-3
        assert 0.001 < np.abs(samples).max() <= 2.0


def test_corpora_need_neither_torch_nor_the_evaluation_toolkits() -> None:
    code = """
import importlib, pkgutil, sys
for name in ("torch", "torchaudio", "torchcodec", "s3prl", "espnet", "espnet2", "transformers", "lightning"):
    sys.modules[name] = None
import corpora
for module in pkgutil.walk_packages(corpora.__path__, "corpora."):
    if module.name != "corpora.__main__":
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name, rate", [("a.wav", 16000), ("a.flac", 44100), ("a.ogg", 48000), ("a.mp3", 22050)])
def test_a_stream_is_the_whole_file(tmp_path: Path, name: str, rate: int) -> None:
    samples = np.stack([tone(5 * rate + 123, rate), 0.3 * tone(5 * rate + 123, rate, 1200.0)], axis=1)
    options = {"format": "OGG", "subtype": "OPUS"} if name.endswith(".ogg") else {}
    soundfile.write(tmp_path / name, samples, rate, **options)
    blocks = list(stream_any(tmp_path / name, block_seconds=1))
    assert len(blocks) > 4 and max(len(block) for block in blocks) < 2 * SAMPLE_RATE
    whole = load_any(tmp_path / name)
    assert np.concatenate(blocks).shape == whole.shape
    assert np.abs(np.concatenate(blocks) - whole).max() < 1e-4


def test_a_stream_names_the_bad_file(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="none.wav"):
        next(stream_any(tmp_path / "none.wav"))
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan], np.float32), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="nan.wav: .*NaN"):
        list(stream_any(tmp_path / "nan.wav"))
