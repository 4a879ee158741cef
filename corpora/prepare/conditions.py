"""Clips under worse conditions: the same change in every run on the same clips.

noise: coloured noise at 10 dB, drawn by the clip's number.  telephone: 8 kHz and G.711 (mu-law).  mp3: 16 kbit/s.
`downstream.asr score --condition` changes clips as it reads them; `python -m corpora degrade` writes data directories.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import soxr

from corpora.audio import SAMPLE_RATE, decode_audio, write_audio
from corpora.datadir import Utterance, read_datadir, read_utterance, write_datadir
from corpora.files import CorpusError

NOISE_DB = 10.0
TELEPHONE_RATE = 8000
MP3_BITS = 16_000  # a second


def noise(wav: np.ndarray, number: int) -> np.ndarray:
    """A clip, float32 (n,), with noise whose colour the number of the clip decides."""
    return add_noise(wav, coloured_noise(len(wav), np.random.default_rng([10, number])), NOISE_DB)


def telephone(wav: np.ndarray, number: int) -> np.ndarray:
    """A clip as a telephone line gives it, (n,); its peak becomes 0.5 before it is coded."""
    narrow = soxr.resample(wav, SAMPLE_RATE, TELEPHONE_RATE)
    narrow = 0.5 * narrow / max(float(np.abs(narrow).max()), 1e-9)
    file = io.BytesIO()
    soundfile.write(file, narrow, TELEPHONE_RATE, format="WAV", subtype="ULAW")
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return soxr.resample(decoded, TELEPHONE_RATE, SAMPLE_RATE).astype(np.float32)


def mp3(wav: np.ndarray, number: int) -> np.ndarray:
    """A clip after LAME at a constant bit rate, (n',): an MP3 is longer than its clip by less than two frames."""
    import av  # takes 0.1 s to import

    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=SAMPLE_RATE)
        stream.bit_rate, stream.layout = MP3_BITS, "mono"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wav[None], np.float32), format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return decode_audio(file.getvalue(), "clip.mp3")


CONDITIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"noise": noise, "telephone": telephone, "mp3": mp3}


def degrade(data_dir: Path, out_dir: Path, condition: str) -> list[Utterance]:
    """Write the utterances of a data directory under a condition: audio in `<out_dir>/audio`, ids and labels unchanged.

    Raises CorpusError, AudioError for audio that cannot be read.
    """
    target = Path(out_dir) / Path(data_dir).resolve().name
    if target.resolve() == Path(data_dir).resolve():
        raise CorpusError(f"--out {out_dir}: this would replace {data_dir} itself; name another folder")
    utterances = []
    for number, utterance in enumerate(read_datadir(data_dir)):
        wav = CONDITIONS[condition](read_utterance(utterance), number)
        path = Path(out_dir) / "audio" / f"{utterance.utt_id}.flac"
        write_audio(path, wav)
        utterances.append(replace(utterance, audio=path.absolute(), samples=len(wav), start=None, end=None))
    write_datadir(target, utterances)
    return utterances


def coloured_noise(count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls with frequency to the power 0 (white) to 2 (brown)."""
    size = fast_size(count)
    spectrum = rng.standard_normal(size // 2 + 1) + 1j * rng.standard_normal(size // 2 + 1)
    spectrum /= np.maximum(np.arange(size // 2 + 1), 20.0) ** (rng.uniform(0.0, 2.0) / 2)
    return np.fft.irfft(spectrum, size)[:count].astype(np.float32)


def add_noise(wav: np.ndarray, noise: np.ndarray, db: float) -> np.ndarray:
    """`noise` at `db` below the clip's mean power."""
    power = float(np.square(wav).mean()) + 1e-12
    noisy = float(np.square(noise).mean()) + 1e-12
    return wav + noise * np.float32(np.sqrt(power / noisy) * 10 ** (-db / 20))


def fast_size(count: int) -> int:
    """The next size that numpy's FFT is quick at: 2, 3, 5 or 7 eighths of a power of two."""
    power = 1 << max(4, (count - 1).bit_length())
    return next(size for size in (power * 5 // 8, power * 3 // 4, power * 7 // 8, power) if size >= count)
