"""Read, convert, hash and write audio files; arrays are 16 kHz mono float32 in [-1, 1].

The same rules hold wherever audio is read:

- A file is read whole, whatever length its header states; one that holds less than it states is refused.
- Samples outside [-1, 1] are clipped, as a 16-bit file stores them. Floating-point files whose samples exceed 2 are
  refused: they hold whole numbers, or were never scaled. So are NaN, infinity, and a constant offset above 0.5.
- Several channels are averaged. Where the average would cancel them (opposite phase), the louder channel is taken.
"""

from __future__ import annotations

import hashlib
import io
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from corpora import SAMPLE_RATE
from corpora.containers import Content, kind_of
from corpora.decoding import AudioError, AudioFile
from corpora.files import atomic_file, walk_once

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".opus", ".ogg", ".oga", ".aiff", ".aif", ".au", ".sph", ".w64", ".caf", ".m4a", ".mp4",
    ".3gp", ".aac", ".webm", ".mka", ".mkv", ".wma", ".amr",
)  # fmt: skip
FORMATS = "WAV, FLAC, MP3, M4A, MP4, 3GP, AAC, Opus, Ogg, WebM, MKA, WMA, AMR, AIFF, AU, CAF, SPHERE, W64"
BLOCK_SECONDS = 60  # of a long recording in memory at a time
_LARGEST_WAV = 0x7FFFF000 // 2  # samples of 16 bits
_PEAK = 2.0  # Decoders of lossy formats overshoot 1 a little, and field recorders keep up to 6 dB above it.
_OFFSET = 0.5  # constant part of a signal: unsigned numbers that are read as signed ones have 1
_OFFSET_SAMPLES = SAMPLE_RATE // 10  # fewer may lie on one side of zero
_CANCELLED = 0.5  # power of the average of the channels, relative to that of unrelated channels of the same power
_CANCELLED_SHARE = 0.05  # of a file's power, in seconds in which the channels cancel each other


@dataclass(frozen=True)
class AudioInfo:
    """Header of an audio file: samples per channel, sampling rate in Hz, number of channels."""

    samples: int
    sample_rate: int
    channels: int


def audio_info(path: Path) -> AudioInfo:
    """What an audio file holds. Where its header states no length or a wrong one, it is decoded. Raises AudioError."""
    with AudioFile(Path(path), path) as file:
        return AudioInfo(file.frames, file.sample_rate, file.channels)


def header_info(path: Path) -> AudioInfo | None:
    """What the header of a file states, which may be wrong; None where it states no length. Raises AudioError."""
    with AudioFile(Path(path), path, quick=True, tolerant=True) as file:
        return None if file.stated is None else AudioInfo(file.stated, file.sample_rate, file.channels)


def is_plain(path: Path) -> bool:
    """Whether a file is a mono 16 kHz WAV or FLAC that every program reads alike. Raises AudioError.

    It holds whole numbers and as many samples as its header states.
    """
    with AudioFile(Path(path), path) as file:
        plain = file.kind in ("wav", "flac") and file.stated is not None and not file.joined and not file.floating
        return plain and file.sample_rate == SAMPLE_RATE and file.channels == 1


def is_audio(path: Path) -> bool:
    """Whether a file is audio of a known format by its content. Raises OSError where it cannot be opened."""
    with open(path, "rb") as file:
        return kind_of(Content(file)) is not None


def find_audio(folder: Path) -> tuple[list[Path], list[str]]:
    """The audio files below a folder, sorted, and what else is there, each with the reason why it is left out.

    A file is audio by its content or by its suffix: one that only has the suffix is broken, which reading it reports.
    Links to folders elsewhere are followed; a folder is searched once.
    """
    found: list[Path] = []
    others: list[str] = []
    walk = walk_once(folder, lambda error: others.append(f"{error.filename} (folder: {error.strerror})"))
    for parent, _, names in walk:
        for name in names:
            path = Path(parent, name)
            if name.startswith("."):
                others.append(f"{path} (hidden)")
                continue
            try:
                audio = path.is_file() and is_audio(path)
            except OSError as error:
                audio = path.suffix.lower() in AUDIO_SUFFIXES
                if not audio:
                    others.append(f"{path} ({error.strerror})")
                    continue
            if audio or path.suffix.lower() in AUDIO_SUFFIXES:
                found.append(path)
            else:
                others.append(str(path))
    return sorted(found), sorted(others)


def read_audio(path: Path, start: int = 0, end: int | None = None) -> np.ndarray:
    """Read samples `start` to `end` (exclusive; None = to the end) of a 16 kHz mono file as float32 (n,).

    Raises AudioError for a file that is unreadable, truncated, of another rate, of several channels, or empty, for a
    range outside the file, and for samples that are not finite.
    """
    path = Path(path)
    with AudioFile(path, path, quick=end is not None) as file:
        return _read_mono(path, file, start, end)


def decode_audio(content: bytes, name: str) -> np.ndarray:
    """Read a whole file from its bytes, as `read_audio` does; messages show `name` in place of a path."""
    with AudioFile(content, name) as file:
        return _read_mono(name, file, 0, None)


def load_any(path: Path, channel: int | None = None, notes: list[str] | None = None) -> np.ndarray:
    """Read a file of any format, any rate and any channels, as 16 kHz mono float32 (n,).

    channel: the one to take, from 0; None: the average.  notes: receives remarks for the user; with it, a file that
    holds less than its header states is read as far as it goes.  Other rates are converted by soxr (high quality).
    Raises AudioError for a file that is unreadable, incomplete or empty, for samples that break a rule of this module,
    and for a channel that the file does not have.
    """
    return np.concatenate(list(stream_any(path, channel=channel, notes=notes)))


def convert_audio(source: Path, target: Path, channel: int | None = None, notes: list[str] | None = None) -> int:
    """Write `source` as a 16 kHz mono 16-bit WAV, a minute at a time; returns the number of samples.

    channel: the one to take, from 0; None averages all channels.  notes: receives remarks.  Raises AudioError as
    `load_any` does without notes; then nothing is written.
    """
    source = Path(source)
    with AudioFile(source, source) as file, atomic_file(target) as temporary, wave.open(str(temporary), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        count = 0
        for block in _mono_16k(source, file, BLOCK_SECONDS, channel, [] if notes is None else notes):
            count += len(block)
            if count > _LARGEST_WAV:
                hours = _LARGEST_WAV / SAMPLE_RATE / 3600
                raise AudioError(f"{source}: more than {hours:.1f} h do not fit into one WAV file; cut it")
            out.writeframesraw(_pcm(block).tobytes())
    return count


def hash_audio(path: Path) -> tuple[int, str]:
    """Number of samples of a mono file, and SHA-256 of the 16-bit samples: equal for a WAV and its copy in FLAC."""
    path = Path(path)
    digest, count = hashlib.sha256(), 0
    with AudioFile(path, path) as file:
        for block in _checked(path, file, (block[:, 0] for block in file.blocks(BLOCK_SECONDS))):
            digest.update(np.round(np.clip(block, -1, 1) * 32767).astype("<i2").tobytes())
            count += len(block)
    return count, digest.hexdigest()


def stream_any(
    path: Path, block_seconds: float = BLOCK_SECONDS, channel: int | None = None, notes: list[str] | None = None
) -> Iterator[np.ndarray]:
    """The samples of `load_any` in blocks of about `block_seconds`, float32 (n,), so that memory stays bounded.

    Raises AudioError as `load_any` does, at the first bad block.
    """
    path = Path(path)
    with AudioFile(path, path, tolerant=notes is not None) as file:
        yield from _mono_16k(path, file, block_seconds, channel, [] if notes is None else notes)


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


def _read_mono(name: Path | str, file: AudioFile, start: int, end: int | None) -> np.ndarray:
    if file.sample_rate != SAMPLE_RATE:
        raise AudioError(
            f"{name}: sampling rate is {file.sample_rate} Hz, expected {SAMPLE_RATE} Hz; "
            f"convert it with: ffmpeg -i IN -ac 1 -ar {SAMPLE_RATE} OUT.wav"
        )
    if file.channels != 1:
        raise AudioError(
            f"{name}: {file.channels} channels, expected 1; "
            f"convert it with: ffmpeg -i IN -ac 1 -ar {SAMPLE_RATE} OUT.wav"
        )
    if start == 0 and end is None:
        blocks = _checked(name, file, (block[:, 0] for block in file.blocks(BLOCK_SECONDS)))
        return np.concatenate([np.clip(block, -1, 1) for block in blocks])
    stop = file.frames if end is None else end
    if not 0 <= start < stop:
        raise AudioError(f"{name}: samples {start} to {stop} were requested, the file has {file.frames}")
    samples = file.read(start, stop)[:, 0]
    if len(samples) < stop - start:
        raise AudioError(f"{name}: samples {start} to {stop} were requested, the file has {file.frames}")
    (samples,) = _checked(name, file, iter((samples,)))
    return np.clip(samples, -1, 1)


def _checked(name: Path | str, file: AudioFile, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Mono blocks (n,) under the rules of this module. Raises AudioError where one is broken, and for no samples."""
    count, total = 0, 0.0
    for block in blocks:
        peak = float(np.abs(block).max(initial=0))
        if not np.isfinite(peak):
            raise AudioError(f"{name}: samples hold NaN or infinity")
        if file.floating and peak > _PEAK:
            whole = " (whole numbers stored as floating point?)" if np.array_equal(block, np.rint(block)) else ""
            raise AudioError(
                f"{name}: floating-point samples reach {peak:g}{whole}, expected -1 to 1; scale them and write it again"
            )
        count += len(block)
        total += float(block.sum(dtype=np.float64))
        yield block
    if count == 0:
        raise AudioError(f"{name}: no samples")
    if count >= _OFFSET_SAMPLES and abs(total / count) > _OFFSET:
        raise AudioError(
            f"{name}: samples have a constant offset of {total / count:.2f} of full scale (unsigned numbers read as "
            "signed ones, or a broken recording); repair it or remove it"
        )


def _mono_16k(
    name: Path, file: AudioFile, seconds: float, channel: int | None, notes: list[str]
) -> Iterator[np.ndarray]:
    """All samples as 16 kHz mono blocks (n,) under the rules of this module."""
    if channel is not None and not 0 <= channel < file.channels:
        raise AudioError(f"{name}: channel {channel} was requested, the file has {file.channels} (counted from 0)")
    if channel is None and file.channels > 1:
        channel = _louder_channel(file)
        if channel is not None:
            notes.append(
                f"the channels cancel each other (opposite phase); channel {channel}, the louder one, was taken"
            )
    mono = (b.mean(axis=1, dtype=np.float32) if channel is None else b[:, channel] for b in file.blocks(seconds))
    blocks = _checked(name, file, mono)
    if file.sample_rate != SAMPLE_RATE:
        blocks = _resampled(blocks, file.sample_rate)
    given = 0
    for block in blocks:
        given += len(block)
        if len(block):
            yield np.clip(block, -1, 1)  # after resampling, which changes peaks
    if given == 0:
        raise AudioError(f"{name}: no sample is left at {SAMPLE_RATE} Hz")
    notes += [note for note in dict.fromkeys(file.notes) if note not in notes]


def _resampled(blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block))
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _louder_channel(file: AudioFile) -> int | None:
    """The channel with the most power, if averaging the channels would cancel them; decodes the file once.

    Power is that of the signal without its mean, in windows of a second. Channels cancel in a window where their
    average has less than half of the power that unrelated channels would leave.
    """
    power = np.zeros(file.channels)
    cancelled = 0.0
    for block in file.blocks(BLOCK_SECONDS):
        for window in np.array_split(block, max(1, len(block) // file.sample_rate)):
            own = window.var(axis=0, dtype=np.float64)
            if window.mean(axis=1, dtype=np.float64).var() < _CANCELLED * own.sum() / file.channels**2:
                cancelled += own.sum() * len(window)
            power += own * len(window)
    if not np.isfinite(power).all() or cancelled <= _CANCELLED_SHARE * power.sum():
        return None
    return int(power.argmax())
