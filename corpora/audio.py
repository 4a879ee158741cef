"""Read, convert, hash and write audio files; arrays are 16 kHz mono float32."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from corpora import SAMPLE_RATE
from corpora.files import CorpusError, atomic_file

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".opus", ".ogg", ".oga", ".aiff", ".aif", ".au", ".sph", ".w64", ".caf")

# Programs that write to a pipe do not know the length beforehand; they write a placeholder of about 2 or 4 GiB.
_UNKNOWN_RIFF_SIZE = 0x7FFFF000
_LONGEST_OGG_PAGE = 27 + 255 + 255 * 255
BLOCK_SECONDS = 60  # of a long recording in memory at a time
_LARGEST_WAV = 0x7FFFF000 // 2  # samples of 16 bits


class AudioError(CorpusError):
    """An audio file that cannot be read, or has another rate or several channels. Callers count and skip it."""


@dataclass(frozen=True)
class AudioInfo:
    """Header of an audio file: samples per channel, sampling rate in Hz, number of channels."""

    samples: int
    sample_rate: int
    channels: int


def audio_info(path: Path) -> AudioInfo:
    """Read the header of an audio file. Raises AudioError."""
    with _open(Path(path)) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels)


def read_audio(path: Path, start: int = 0, end: int | None = None) -> np.ndarray:
    """Read samples `start` to `end` (exclusive; None = to the end) of a 16 kHz mono file as float32 (n,).

    Raises AudioError for a file that is unreadable, truncated, of another rate, of several channels, or empty, for a
    range outside the file, and for samples that are not finite.
    """
    path = Path(path)
    with _open(path) as file:
        return _read_mono(path, file, start, end)


def decode_audio(content: bytes, name: str) -> np.ndarray:
    """Read a whole file from its bytes, as `read_audio` does; messages show `name` in place of a path."""
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            return _read_mono(name, file, 0, None)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: cannot be read as audio ({error.error_string.strip()})") from error


def load_any(path: Path) -> np.ndarray:
    """Read a file of any format that soundfile reads, any rate and any channels, as 16 kHz mono float32 (n,).

    Channels are averaged; other rates are converted by soxr (high quality). Raises AudioError for a file that is
    unreadable, truncated or empty, and for samples that are not finite.
    """
    path = Path(path)
    with _open(path) as file:
        samples = _read(path, file, 0, None).mean(axis=1, dtype=np.float32)
        rate = file.samplerate
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ").astype(np.float32, copy=False)
        if samples.size == 0:
            raise AudioError(f"{path}: no sample is left at {SAMPLE_RATE} Hz")
    return samples


def convert_audio(source: Path, target: Path, channel: int | None = None) -> int:
    """Write `source` as a 16 kHz mono 16-bit WAV, a minute at a time; returns the number of samples.

    channel: the one to take, from 0; None averages all channels. Raises AudioError as `load_any` does, and for a
    channel that the file does not have; then nothing is written.
    """
    source = Path(source)
    with _open(source) as file:
        rate = file.samplerate
        if channel is not None and not 0 <= channel < file.channels:
            raise AudioError(
                f"{source}: channel {channel} was requested, the file has {file.channels} (counted from 0)"
            )
        if file.frames * SAMPLE_RATE > _LARGEST_WAV * rate:
            raise AudioError(f"{source}: {file.frames / rate / 3600:.1f} h do not fit into one WAV file; cut it")
        stream = None
        if rate != SAMPLE_RATE:
            stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        count = 0
        with atomic_file(target) as temporary, wave.open(str(temporary), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(SAMPLE_RATE)
            for block, last in _blocks(source, file):
                mono = block.mean(axis=1, dtype=np.float32) if channel is None else block[:, channel]
                if stream is not None:
                    mono = stream.resample_chunk(np.ascontiguousarray(mono), last=last)
                out.writeframesraw(_pcm(mono).tobytes())
                count += len(mono)
    return count


def hash_audio(path: Path) -> tuple[int, str]:
    """Number of samples of a mono file, and SHA-256 of the 16-bit samples: equal for a WAV and its copy in FLAC."""
    path = Path(path)
    digest, count = hashlib.sha256(), 0
    with _open(path) as file:
        for block, _ in _blocks(path, file):
            digest.update(np.round(np.clip(block[:, 0], -1, 1) * 32767).astype("<i2").tobytes())
            count += len(block)
    return count, digest.hexdigest()


def stream_any(path: Path, block_seconds: int = BLOCK_SECONDS) -> Iterator[np.ndarray]:
    """The samples of `load_any` in blocks of about `block_seconds`, float32 (n,), so that memory stays bounded.

    Raises AudioError as `load_any` does, at the first bad block.
    """
    path = Path(path)
    with _open(path) as file:
        rate, given = file.samplerate, 0
        resampler = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")
        for block, last in _blocks(path, file, block_seconds):
            samples = block.mean(axis=1, dtype=np.float32)
            if resampler is not None:
                samples = resampler.resample_chunk(samples, last=last)
            given += len(samples)
            if len(samples):
                yield samples
        if given == 0:
            raise AudioError(f"{path}: no sample is left at {SAMPLE_RATE} Hz")


def write_audio(path: Path, samples: np.ndarray) -> None:
    """Write 16 kHz mono samples (n,) in [-1, 1], clipped, as 16-bit PCM; FLAC if the suffix is .flac, else WAV.

    The file is written whole or not at all. Raises AudioError for samples that `read_audio` would refuse.
    """
    path = Path(path)
    try:
        content = encode_audio(samples, "FLAC" if path.suffix.lower() == ".flac" else "WAV")
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from None
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def encode_audio(samples: np.ndarray, container: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """The bytes of a 16 kHz mono file, 16-bit unless `subtype` differs; samples (n,) are clipped to [-1, 1].

    Encoded in memory, since Python reports a full disk when it writes the bytes and libsndfile does not.
    Raises AudioError for samples of another shape, for no samples, and for samples that are not finite.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise AudioError(f"expected samples of shape (n,), got {samples.shape}")
    if samples.size == 0:
        raise AudioError("no samples to write")
    if not np.isfinite(samples).all():
        raise AudioError("samples hold NaN or infinity")
    buffer = io.BytesIO()
    soundfile.write(buffer, _pcm(samples), SAMPLE_RATE, format=container, subtype=subtype)
    return buffer.getvalue()


def _pcm(samples: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(samples.astype(np.float64) * 32768.0), -32768, 32767).astype("<i2")


def _read_mono(path: Path | str, file: soundfile.SoundFile, start: int, end: int | None) -> np.ndarray:
    if file.samplerate != SAMPLE_RATE:
        raise AudioError(
            f"{path}: sampling rate is {file.samplerate} Hz, expected {SAMPLE_RATE} Hz; "
            f"convert it with: ffmpeg -i IN -ac 1 -ar {SAMPLE_RATE} OUT.wav"
        )
    if file.channels != 1:
        raise AudioError(
            f"{path}: {file.channels} channels, expected 1; "
            f"convert it with: ffmpeg -i IN -ac 1 -ar {SAMPLE_RATE} OUT.wav"
        )
    return _read(path, file, start, end)[:, 0]


def _open(path: Path) -> soundfile.SoundFile:
    if not path.is_file():
        raise AudioError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    try:
        _refuse_truncated_wav(path)
        _refuse_truncated_ogg(path)
        _refuse_shorten(path)
        if path.with_name(f"._{path.name}").exists():
            # By name, libsndfile takes the resource fork (macOS) beside an MP3 for the file itself.
            return soundfile.SoundFile(os.open(path, os.O_RDONLY), closefd=True)
        return soundfile.SoundFile(path)
    except OSError as error:
        raise AudioError(f"{path}: cannot be opened ({error.strerror or error})") from error
    except (soundfile.LibsndfileError, TypeError) as error:
        # TypeError: for a suffix such as .raw, soundfile needs a rate
        reason = getattr(error, "error_string", str(error))
        raise AudioError(f"{path}: cannot be read as audio ({reason.strip()})") from error


def _refuse_truncated_wav(path: Path) -> None:
    """Refuse a WAV file whose header states more samples than the file holds; libsndfile would silently shorten it."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return
        while len(chunk := file.read(8)) == 8:
            name, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            begin = file.tell()
            if name == b"data":
                if length < _UNKNOWN_RIFF_SIZE and begin + length > size:
                    raise AudioError(f"{path}: truncated, it has {size - begin} of {length} bytes of samples")
                return
            file.seek(begin + length + (length & 1))
    raise AudioError(f"{path}: truncated, no samples follow the header")


def _refuse_truncated_ogg(path: Path) -> None:
    """Refuse an Ogg file (Vorbis, Opus) whose last page is not complete."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(4) != b"OggS":
            return
        file.seek(max(0, size - _LONGEST_OGG_PAGE))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) < 27 or len(lengths) < page[26] or len(page) < 27 + len(lengths) + sum(lengths):
        raise AudioError(f"{path}: truncated, its last page is not complete")


def _refuse_shorten(path: Path) -> None:
    """Refuse SPHERE files (LDC) packed with shorten, which libsndfile cannot unpack."""
    with open(path, "rb") as file:
        head = file.read(1024)
    if head.startswith(b"NIST_1A") and b"shorten" in head.partition(b"end_head")[0]:
        raise AudioError(
            f"{path}: a SPHERE file packed with shorten, which cannot be read here; convert it with: "
            f"sph2pipe -f wav IN.sph OUT.wav (keep both channels), and put OUT.wav next to it or in its place"
        )


def _blocks(
    path: Path, file: soundfile.SoundFile, block_seconds: int = BLOCK_SECONDS
) -> Iterator[tuple[np.ndarray, bool]]:
    """Pairs (block, last): all samples of a file as finite float32 (n, channels)."""
    size, total = block_seconds * file.samplerate, file.frames
    # soundfile seeks to its current position after every read; in MP3 and Opus libsndfile then continues elsewhere.
    file.seekable = lambda: False
    for start in range(0, max(total, 1), size):
        stop = min(start + size, total)
        yield _read(path, file, start, stop, seek=False), stop == total


def _read(path: Path, file: soundfile.SoundFile, start: int, end: int | None, *, seek: bool = True) -> np.ndarray:
    """Samples start:end as finite float32 (n, channels); without `seek` the file must be at `start`."""
    total = file.frames
    if total == 0:
        raise AudioError(f"{path}: no samples")
    stop = total if end is None else end
    if not 0 <= start < stop or stop > total:
        raise AudioError(f"{path}: samples {start} to {stop} were requested, the file has {total}")
    try:
        if start and seek:
            file.seek(start)
        samples = file.read(stop - start, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: cannot be decoded, probably truncated ({error.error_string.strip()})") from error
    if len(samples) != stop - start:
        raise AudioError(f"{path}: truncated, {len(samples)} of {stop - start} samples could be read")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: samples hold NaN or infinity")
    return samples
