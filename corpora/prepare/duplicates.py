"""Find the same recording under another container, gain or cut, in training and held-out data.

An utterance gets one word of 16 bits every 16 ms: the signs of how the differences between neighbouring bands change
over time, after Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002), section 4. Bands are
averaged over a quarter of a second, so a shift of some milliseconds and a lossy codec change few bits, and gain none.
Two words that are 160 ms apart make a key. Utterances that share a key are compared word by word, placed where it fits.
Both steps are linear in the amount of audio: about 7 minutes of one core for 100 hours, and 200 MB of memory.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft

from corpora.audio import SAMPLE_RATE, AudioError
from corpora.datadir import Utterance, read_utterance
from corpora.machine import parallel

_WINDOW, _HOP = 512, 256  # samples
_BANDS = np.geomspace(300, 3400, 18)  # edges in Hz: what a telephone transmits
_AVERAGED = 16  # frames
_BLOCK = 4096  # frames in memory at a time
_LAG = 8  # frames between the two differences of a sign
_SPAN = 10  # frames between the two words of a key
_QUIET = 1e-3  # of the largest energy: words of frames below it are noise
_COMMON = 50  # a key of more held-out places is a common sound, such as a tone, and no evidence
_LEAST_WORDS, _LEAST_SHARE = 16, 0.5  # words with sound that must overlap, and their share of the shorter utterance
_REACH = 2 * _HOP  # samples: how far the offset of fingerprints may be wrong
_RESIDUE = 1e-4  # of the power: what remains of one after the other, by 16-bit rounding; a lossy codec leaves more
_LISTED = 50  # pairs in a message
_log = logging.getLogger(__name__)
_ALIKE = 0.12  # share of bits that may differ; copies differ in 0.1 at most, other speech in more than 0.15


@dataclass(frozen=True)
class Pair:
    """A training and a held-out utterance that sound alike.

    differing: share of the bits of their fingerprints.  equal: their samples are the same after gain and trim, up to
    the rounding of 16 bits.
    """

    training: Utterance
    held_out: Utterance
    differing: float
    equal: bool

    def __str__(self) -> str:
        return f"{self.training.utt_id} and {self.held_out.utt_id} ({self.differing:.1%} of the bits differ)"


@dataclass(frozen=True)
class Fingerprint:
    """words: (T,) of 16 bits, one every 16 ms.  loud: (T,), whether there is sound."""

    words: np.ndarray
    loud: np.ndarray


def find_pairs(training: Sequence[Utterance], held_out: Sequence[Utterance], *, jobs: int = 1) -> list[Pair]:
    """The pairs of a training and a held-out utterance that sound alike; unreadable audio is left out.

    Both sequences are fingerprinted; only pairs that sound alike are read again to compare their samples.
    """
    if not training or not held_out:
        return []
    sides = []
    for name, own in (("training", training), ("held-out", held_out)):
        sides.append(list(parallel(_fingerprint_of, own, jobs=jobs, label=f"fingerprints, {name}", unit="utterance")))
    found = []
    for first, second, differing, offset in alike(*sides):
        pair = training[first], held_out[second]
        found.append(Pair(*pair, differing, _equal(*map(read_utterance, pair), offset * _HOP)))
    return sorted(found, key=lambda pair: (not pair.equal, pair.differing, pair.training.utt_id))


def warn_of(pairs: Sequence[Pair], where: str) -> None:
    """Log the pairs that sound alike and are not equal."""
    own = [pair for pair in pairs if not pair.equal]
    if own:
        listed = ", ".join(map(str, own[:_LISTED])) + (f" and {len(own) - _LISTED} more" if len(own) > _LISTED else "")
        _log.warning("%s: %d pairs of training and held-out audio sound alike: %s", where, len(own), listed)


def _fingerprint_of(utterance: Utterance) -> Fingerprint:
    stamp = utterance.audio.stat().st_mtime_ns if utterance.audio.is_file() else 0
    return _cached(utterance.audio, utterance.samples, utterance.start, utterance.end, stamp)


@functools.lru_cache(maxsize=1 << 15)
def _cached(audio: Path, samples: int, start: int | None, end: int | None, stamp: int) -> Fingerprint:
    """A process that compares several splits of a corpus reads its audio once."""
    try:
        return fingerprint(read_utterance(Utterance("", "", audio, samples, start, end)))
    except AudioError:
        return fingerprint(np.zeros(0, np.float32))


def _equal(first: np.ndarray, second: np.ndarray, offset: int) -> bool:
    """Whether samples are the same up to gain and 16-bit rounding; `second` begins near sample `offset` of `first`."""
    lead, other = first[max(0, offset) :], second[max(0, -offset) :]
    size = min(len(lead), len(other))
    lead, other = lead[:size].astype(np.float64), other[:size].astype(np.float64)
    length = scipy.fft.next_fast_len(2 * size, real=True)
    spectrum = scipy.fft.rfft(lead, length) * scipy.fft.rfft(other, length).conj()
    likeness = np.abs(scipy.fft.irfft(spectrum, length))
    reach = min(_REACH, size - 1)
    lags = np.concatenate([np.arange(reach + 1), np.arange(-reach, 0)])
    lag = int(lags[likeness[lags].argmax()])
    lead, other = lead[max(0, lag) :], other[max(0, -lag) :]
    size = min(len(lead), len(other))
    lead, other = lead[:size], other[:size]
    power = other @ other
    if power == 0 or not lead @ lead:
        return False
    rest = lead - (lead @ other) / power * other
    return bool(rest @ rest < _RESIDUE * (lead @ lead))


def fingerprint(samples: np.ndarray) -> Fingerprint:
    """The fingerprint of samples (n,) at 16 kHz; it has no words for less than 0.4 s."""
    if len(samples) < _WINDOW + _HOP * (_AVERAGED + _LAG):
        return Fingerprint(np.zeros(0, np.uint16), np.zeros(0, bool))
    power = np.concatenate(list(_band_power(samples)))
    total = np.cumsum(np.concatenate([np.zeros((1, power.shape[1])), power]), axis=0)
    energy = total[_AVERAGED:] - total[:-_AVERAGED]
    loudness = energy.sum(axis=1)
    largest = loudness.max()
    if largest <= 0:
        return Fingerprint(np.zeros(0, np.uint16), np.zeros(0, bool))
    steps = np.diff(np.log(energy + 1e-5 * largest), axis=1)
    bits = steps[_LAG:] > steps[:-_LAG]
    loud = np.minimum(loudness[_LAG:], loudness[:-_LAG]) > _QUIET * largest
    return Fingerprint(bits @ (1 << np.arange(16)).astype(np.uint16), loud)


def _band_power(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Power (frames, bands) of a minute at a time."""
    edges = _BANDS / (SAMPLE_RATE / _WINDOW) + 0.5
    bins = np.arange(int(edges[-1]) + 1)[:, None]
    # The bins of every band, with those at its edges in part.
    filters = np.clip(np.minimum(edges[1:], bins + 1) - np.maximum(edges[:-1], bins), 0, None).astype(np.float32)
    shape = np.hanning(_WINDOW).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    for start in range(0, len(frames), _BLOCK):
        spectrum = scipy.fft.rfft(frames[start : start + _BLOCK] * shape)[:, : len(bins)]
        yield (spectrum.real**2 + spectrum.imag**2) @ filters


def alike(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> Iterator[tuple[int, int, float, int]]:
    """Pairs that are alike: their places in both sequences, the share of bits that differ, and the offset in frames."""
    keys, owners, places = _index(second)
    for number, own in enumerate(first):
        own_keys, own_places = _keys(own)
        left, right = (np.searchsorted(keys, own_keys, side) for side in ("left", "right"))
        meetings: set[tuple[int, int]] = set()
        for place, begin, end in zip(own_places, left, right, strict=True):
            if end - begin > _COMMON:
                continue
            for owner, other in zip(owners[begin:end].tolist(), places[begin:end].tolist(), strict=True):
                meetings.add((owner, int(place) - other))
        best: dict[int, tuple[float, int]] = {}
        for owner, offset in {(owner, near + step) for owner, near in meetings for step in (-1, 0, 1)}:
            share = _differing(own, second[owner], offset)
            best[owner] = min(best.get(owner, (1.0, 0)), (share, offset))
        yield from ((number, owner, share, offset) for owner, (share, offset) in best.items() if share < _ALIKE)


def _keys(own: Fingerprint) -> tuple[np.ndarray, np.ndarray]:
    words = own.words.astype(np.uint32)
    places = np.flatnonzero(own.loud[:-_SPAN] & own.loud[_SPAN:])
    return words[places] | words[places + _SPAN] << 16, places


def _index(fingerprints: Sequence[Fingerprint]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All keys, sorted, with the number and the place of their fingerprint."""
    found = [_keys(own) for own in fingerprints]
    keys = np.concatenate([keys for keys, _ in found]) if found else np.zeros(0, np.uint32)
    owners = np.repeat(np.arange(len(found), dtype=np.int32), [len(keys) for keys, _ in found])
    places = np.concatenate([places.astype(np.int32) for _, places in found]) if found else np.zeros(0, np.int32)
    order = np.argsort(keys, kind="stable")
    return keys[order], owners[order], places[order]


def _differing(first: Fingerprint, second: Fingerprint, offset: int) -> float:
    """Share of the bits that differ where both have sound; 1 where that is too little to tell."""
    begin, end = max(0, offset), min(len(first.words), len(second.words) + offset)
    if end <= begin:
        return 1.0
    loud = first.loud[begin:end] & second.loud[begin - offset : end - offset]
    if loud.sum() < max(_LEAST_WORDS, _LEAST_SHARE * min(first.loud.sum(), second.loud.sum())):
        return 1.0
    different = first.words[begin:end][loud] ^ second.words[begin - offset : end - offset][loud]
    return float(np.unpackbits(different.view(np.uint8)).mean())
