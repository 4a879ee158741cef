"""Connected utterances, concatenated from single-word recordings of one speaker.

Isolated words do not teach an encoder or a recogniser word boundaries. A string joins recordings in a seeded random
order; each keeps its speech and a little of its own background on both sides:

    |..صفر..|~|..يمين..|~|..لا..|      "صفر يمين لا"        . background of the recording   ~ faint noise
"""

from __future__ import annotations

import random
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corpora.audio import SAMPLE_RATE, audio_info, read_audio, write_audio
from corpora.datadir import Utterance
from corpora.files import sha256_json
from corpora.machine import parallel
from corpora.names import check_name
from corpora.prepare.sources import Provenance, Recording

_FRAME, _HOP = SAMPLE_RATE // 40, SAMPLE_RATE // 100  # 25 ms, 10 ms
_EDGE_SECONDS = (0.03, 0.13)  # background kept on either side of a word; two edges make a pause of 60-260 ms
_FADE = SAMPLE_RATE // 200  # 5 ms: no click where two recordings meet
_FORMAT = 1  # raise it when the samples of a string change, so that files of an older version are not reused


@dataclass(frozen=True)
class Word:
    """A recording of one word, its speaker, and its text (None if the text is not used)."""

    recording: Recording
    speaker: str
    text: str | None


@dataclass(frozen=True)
class WordString:
    """Words of one speaker, in playback order."""

    utt_id: str
    speaker: str
    words: tuple[Word, ...]
    seed: int


def plan_strings(
    words: Iterable[Word], *, sizes: tuple[int, int], passes: int = 1, seed: int = 0, tag: str = "s"
) -> list[WordString]:
    """Cut a seeded shuffle of each speaker's words into strings of `sizes` = (fewest, most) words.

    Every word is used once in each pass; the words left at a speaker's end may make one shorter string.
    Utterance ids are `<speaker>-<tag><number>`.
    """
    fewest, most = sizes
    if not 1 <= fewest <= most:
        raise ValueError(f"sizes: expected 1 <= fewest <= most, found {sizes}")
    by_speaker: dict[str, list[Word]] = defaultdict(list)
    for word in words:
        by_speaker[word.speaker].append(word)
    strings = []
    for speaker, own in sorted(by_speaker.items()):
        own.sort(key=lambda word: word.recording.source)
        draw = random.Random(f"{seed}/{tag}/{speaker}")  # seeded by name: other speakers do not change this one
        number = 0
        for _ in range(passes):
            order = draw.sample(own, len(own))
            while order:
                size = draw.randint(fewest, most)
                chosen, order = order[:size], order[size:]
                strings.append(WordString(f"{speaker}-{tag}{number:05d}", speaker, tuple(chosen), draw.getrandbits(32)))
                number += 1
    return strings


def render_strings(
    strings: Sequence[WordString], audio_dir: Path, *, jobs: int = 1, language: str | None = None
) -> list[Utterance]:
    """Write each string as a 16 kHz WAV under `audio_dir` and return the utterances.

    The folder of the files is named by the hash of the whole plan (content of the recordings, order, seeds). Files of
    an interrupted run are kept; folders of other plans are removed when this plan is complete.
    """
    plan = [[string.utt_id, string.seed, [word.recording.sha256 for word in string.words]] for string in strings]
    folder = audio_dir / sha256_json([_FORMAT, plan])[:12]
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [(string, folder / f"{check_name(string.utt_id, 'utterance id')}.wav") for string in strings]
    lengths = list(parallel(_render, tasks, jobs=jobs, label=f"strings: {audio_dir.name}", unit="utt"))
    for other in audio_dir.iterdir():
        if other.is_dir() and other != folder:
            shutil.rmtree(other)
    return [
        Utterance(
            utt_id=string.utt_id,
            speaker=string.speaker,
            audio=path,
            samples=samples,
            text=_text(string),
            language=language,
        )
        for (string, path), samples in zip(tasks, lengths, strict=True)
    ]


def string_sources(strings: Iterable[WordString], corpus: str) -> list[Provenance]:
    """The recordings of each string, in playback order."""
    return [
        Provenance(string.utt_id, corpus, word.recording.source, word.recording.sha256)
        for string in strings
        for word in string.words
    ]


def speech_bounds(samples: np.ndarray) -> tuple[int, int, float]:
    """First and last sample of the speech in a recording of one word, and the RMS of its background.

    Speech = frames (25 ms, every 10 ms) louder than the background (10th percentile of the levels) by a quarter of
    the range up to the loudest frame, in dB; relative, because background levels here range over 40 dB.
    """
    if len(samples) < _FRAME:
        return 0, len(samples), 0.0
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_HOP]
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    level = 10 * np.log10(power + 1e-10)
    background = np.percentile(level, 10)
    loud = np.flatnonzero(level >= background + 0.25 * (level.max() - background))
    return int(loud[0]) * _HOP, int(loud[-1]) * _HOP + _FRAME, float(10 ** (background / 20))


def join_words(recordings: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Samples (n,): the speech of the recordings, with short random pauses between them."""
    draw = np.random.default_rng(seed)
    pieces = []
    for samples in recordings:
        first, last, background = speech_bounds(samples)
        before, after = (int(draw.uniform(*_EDGE_SECONDS) * SAMPLE_RATE) for _ in range(2))
        start, end = max(0, first - before), min(len(samples), last + after)
        kept = samples[start:end].astype(np.float32, copy=True)
        ramp = np.linspace(0, 1, min(_FADE, len(kept) // 2), dtype=np.float32)
        if len(ramp):
            kept[: len(ramp)] *= ramp
            kept[-len(ramp) :] *= ramp[::-1]
        # A recording that starts or ends within speech has too little background: add noise of the same level. Digital
        # silence would be unlike any recording.
        lacking = (before - (first - start), after - (end - last))
        lead, tail = (min(background, 0.003) * draw.standard_normal(length) for length in lacking)
        pieces += [lead.astype(np.float32), kept, tail.astype(np.float32)]
    return np.concatenate(pieces)


def _render(task: tuple[WordString, Path]) -> int:
    """Write one string unless its file exists; returns its length in samples."""
    string, path = task
    if not path.exists():
        samples = join_words([read_audio(word.recording.path) for word in string.words], string.seed)
        write_audio(path, samples)
    return audio_info(path).samples


def _text(string: WordString) -> str | None:
    words = [word.text for word in string.words]
    return None if None in words else " ".join(words)
