"""Augmentation of training audio: speed, room, noise, telephone band, level and clipping.

Training voices come from studios, users from phones and crowds. Everything works on one float32 array at 16 kHz and
draws from the generator that it is given, so that a step is the same after a resume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corpora.audio import SAMPLE_RATE
from corpora.prepare.conditions import add_noise, coloured_noise, fast_size


@dataclass(frozen=True)
class AugmentConfig:
    """The share of clips that each effect meets. Speed in relative change, noise in dB of signal over noise."""

    tempo: tuple[float, float] = (
        1.0,
        1.0,
    )  # as fast, at the same pitch, log-uniform: people recite faster than studios
    tempo_share: float = 0.0
    speed: float = 0.12  # the tempo and pitch change by up to so much
    speed_share: float = 0.6
    room_share: float = 0.3
    noise_share: float = 0.5
    noise_db: tuple[float, float] = (3.0, 30.0)
    babble_share: float = 0.3  # of the noises: other clips of the batch
    telephone_share: float = 0.15
    clip_share: float = 0.05
    tilt_share: float = 0.3


def augment(wav: np.ndarray, rng: np.random.Generator, config: AugmentConfig, others: list[np.ndarray]) -> np.ndarray:
    """A changed copy of a clip, float32 (n',); `others` are clips that may sound in its background."""
    x = wav.astype(np.float32, copy=True)
    if rng.random() < config.tempo_share:
        x = change_tempo(x, float(np.exp(rng.uniform(*np.log(config.tempo)))))
    if rng.random() < config.speed_share:
        x = change_speed(x, 1.0 + rng.uniform(-config.speed, config.speed))
    if rng.random() < config.room_share:
        x = reverberate(x, rng)
    if rng.random() < config.noise_share:
        babble = rng.random() < config.babble_share and bool(others)
        noise = _babble(len(x), others, rng) if babble else coloured_noise(len(x), rng)
        low, high = config.noise_db
        x = add_noise(x, noise, rng.uniform(max(low, 10.0) if babble else low, high))
    if rng.random() < config.tilt_share:
        x = _filter(x, _tilt(rng))
    if rng.random() < config.telephone_share:
        x = telephone(x, rng)
    peak = float(np.abs(x).max()) or 1.0
    x *= 10 ** (rng.uniform(-26.0, -1.0) / 20) / peak
    if rng.random() < config.clip_share:
        top = rng.uniform(0.3, 0.9) * float(np.abs(x).max())
        x = np.clip(x, -top, top)
    return x


def change_speed(wav: np.ndarray, factor: float) -> np.ndarray:
    """Play a clip `factor` times as fast, by linear interpolation."""
    count = max(400, round(len(wav) / factor))
    return np.interp(np.linspace(0, len(wav) - 1, count), np.arange(len(wav)), wav).astype(np.float32)


def change_tempo(wav: np.ndarray, factor: float) -> np.ndarray:
    """Speak a clip `factor` times as fast at the same pitch: WSOLA (Verhelst and Roelands, 1993).

    Windows of 32 ms are moved and added; each is shifted by up to 8 ms to where it continues the one before best.
    """
    size, hop, reach, step = 512, 256, 128, 4  # samples; correlations look at every fourth one
    x = np.pad(wav.astype(np.float32), (reach, size + 2 * reach + hop))
    count = max(1, round(len(wav) / factor / hop))
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    out = np.zeros((count + 1) * hop, np.float32)
    at = reach
    for k in range(count):
        ideal = min(round(k * hop * factor), len(wav)) + reach
        if k:
            region = x[ideal - reach : ideal + reach + size : step]
            alike = np.correlate(region, x[at + hop : at + hop + size : step], "valid")
            at = ideal - reach + step * int(alike.argmax())
        out[k * hop : k * hop + size] += window * x[at : at + size]
    return out[: max(400, round(len(wav) / factor))]


def reverberate(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A synthetic room: exponentially decaying noise (RT60 0.15 to 0.9 s) behind the direct sound."""
    decay = rng.uniform(0.15, 0.9)
    length = int(decay * SAMPLE_RATE)
    time = np.arange(length) / SAMPLE_RATE
    room = rng.standard_normal(length) * np.exp(-6.9 * time / decay)
    room[: int(rng.uniform(0.002, 0.02) * SAMPLE_RATE)] = 0.0
    room *= rng.uniform(0.2, 1.2) / np.sqrt((room**2).sum() + 1e-9)
    room[0] = 1.0
    size = fast_size(len(wav) + length)
    wet = np.fft.irfft(np.fft.rfft(wav, size) * np.fft.rfft(room, size), size)[: len(wav)]
    return wet.astype(np.float32)


def telephone(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The band of a telephone (about 300 to 3,400 Hz) and, for half of the clips, 8-bit mu-law."""
    low, high = rng.uniform(150, 350), rng.uniform(3000, 3900)
    x = _filter(wav, lambda hz: 1 / (1 + (low / np.maximum(hz, 1)) ** 6) / (1 + (hz / high) ** 16))
    if rng.random() < 0.5:
        x = x / (float(np.abs(x).max()) + 1e-9)
        packed = np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256)
        packed = np.round(packed * 127) / 127
        x = (np.sign(packed) * (np.power(256, np.abs(packed)) - 1) / 255).astype(np.float32)
    return x


def _tilt(rng: np.random.Generator):
    """The frequency response of another microphone: a slope of up to 6 dB an octave and a low or high cut."""
    slope, pivot = rng.uniform(-1.0, 1.0), rng.uniform(300, 3000)
    cut = rng.uniform(3500, 8000)
    return lambda hz: np.clip(np.maximum(hz, 30) / pivot, 0.05, 20) ** (slope / 2) / (1 + (hz / cut) ** 8)


def _filter(wav: np.ndarray, response) -> np.ndarray:
    size = fast_size(len(wav))
    gains = response(np.fft.rfftfreq(size, 1 / SAMPLE_RATE))
    return np.fft.irfft(np.fft.rfft(wav, size) * gains, size)[: len(wav)].astype(np.float32)


def _babble(count: int, others: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    noise = np.zeros(count, np.float32)
    for _ in range(rng.integers(1, 4)):
        other = others[rng.integers(len(others))]
        noise += np.resize(np.roll(other, int(rng.integers(len(other)))), count)
    return noise
