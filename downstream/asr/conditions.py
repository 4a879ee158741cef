"""Clips under worse conditions, for `score --condition`: the same change in every run on the same clips.

noise: coloured noise at 10 dB, drawn by the clip's number.  telephone: 8 kHz and G.711 (mu-law).  mp3: 16 kbit/s.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import soundfile
import soxr

from corpora.audio import SAMPLE_RATE, decode_audio
from downstream.asr.augment import add_noise, coloured_noise

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
