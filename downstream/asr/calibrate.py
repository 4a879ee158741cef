"""Choose when a recogniser writes and finds nothing: `python -m downstream.asr calibrate`.

Clips of known texts are searched twice: in the whole list, and in the list without the texts of all these clips, where
every answer but "none" is wrong. The limit is the lowest one with few wrong answers in the second search. Half of the
clips are augmented, since users do not record in studios. Noise alone says below which probability of its letters
(`least_probability`) a recogniser writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from corpora.audio import SAMPLE_RATE
from corpora.files import read_json, write_json
from corpora.prepare.conditions import coloured_noise
from downstream import DownstreamError
from downstream.asr.augment import AugmentConfig, augment
from downstream.asr.evaluate import read_dev
from downstream.asr.reading import Reader
from downstream.asr.train_ctc import Source
from downstream.find import Finder, Limits, TextList, read_texts

LOWEST = -1000.0  # of `Limits.likelihood`
BONUS = 2.0  # of `Limits.bonus`
NOISES = 100  # recordings of noise


@dataclass(frozen=True)
class Trial:
    """One clip in one list: how likely the best line is (what `Limits.likelihood` limits), and whether it is right."""

    likelihood: float
    right: bool


def trial(finder: Finder, log_probs: np.ndarray, greedy: str, text: str | None) -> Trial:
    """Search one clip without a limit; `text` without spaces is the right answer (None: there is none)."""
    finder.limits = Limits(likelihood=LOWEST, bonus=BONUS)
    found = finder.find(log_probs, greedy)
    if found.margin is None:
        return Trial(LOWEST, False)
    place = {name: i for i, name in enumerate(finder.texts.ids)}
    answer = "".join(finder.texts.bare[place[name]] for name in found.ids)
    return Trial(round(LOWEST + found.margin, 4), text is not None and answer == text)


def choose(inside: Sequence[Trial], outside: Sequence[Trial], wrong: float) -> tuple[Limits, dict[str, float]]:
    """The lowest limit that gives at most a share `wrong` of answers outside.

    Also the shares: found inside (right answers), and found outside.
    """
    values = sorted((t.likelihood for t in outside), reverse=True)
    allowed = int(wrong * len(values))
    limit = round(values[allowed] + 0.01, 2) if allowed < len(values) else LOWEST
    found = {
        "found_in_the_list": sum(t.right and t.likelihood >= limit for t in inside) / len(inside),
        "found_outside": sum(value >= limit for value in values) / len(values),
    }
    return Limits(likelihood=limit, bonus=BONUS), found


def calibrate(
    head: Path,
    model: Path | None,
    audio: Path,
    text: Path,
    texts: Path,
    *,
    clips: int = 150,
    wrong: float = 0.05,
    seed: int = 0,
) -> dict[str, float]:
    """Write the limits into head.json (`find`, `least_probability`); the limits, the shares of answers, and the share
    of recordings of noise in which letters are written.

    `audio` is a packed store, `text` its Kaldi text, `texts` the list to search. Raises DownstreamError where none of
    the texts is in the list.
    """
    reader = Reader(head, model)
    reader.least_probability = 0.0
    known = read_texts(texts, reader.characters)
    source = Source(str(audio), str(text))
    held = [(wav, spoken.replace(" ", "")) for wav, spoken in read_dev(source, clips)]
    bare = {spoken for _, spoken in held}
    if not bare & set(known.bare):
        raise DownstreamError(f"{text}: none of its texts is a line of {texts}")
    every = Finder(known, reader.characters)
    rest = Finder(_without(known, bare), reader.characters)
    rng = np.random.default_rng(seed)
    inside, outside, speech = [], [], []
    for number, (wav, spoken) in enumerate(held):
        if number % 2:
            wav = augment(wav, rng, AugmentConfig(), [other for other, _ in held[:20]])
        reading = reader.read_blocks([torch.from_numpy(wav)])
        speech += [value for value in reading.letters if value]
        inside.append(trial(every, reading.log_probs, reading.text, spoken))
        outside.append(trial(rest, reading.log_probs, reading.text, None))
    limits, shares = choose(inside, outside, wrong)
    noise = [max(reader.read_blocks([torch.from_numpy(clip)]).letters) for clip in noises(rng)]
    least = least_probability(speech, noise, wrong)
    values = {"likelihood": limits.likelihood, "bonus": limits.bonus}
    description = read_json(Path(head) / "head.json")
    write_json(Path(head) / "head.json", {**description, "find": values, "least_probability": least})
    values["least_probability"] = least
    shares["noise_with_letters"] = sum(value >= least and value > 0 for value in noise) / len(noise)
    return {**values, **{name: round(value, 4) for name, value in shares.items()}, "clips": len(held)}


def least_probability(speech: Sequence[float], noise: Sequence[float], wrong: float) -> float:
    """The limit of `Reader.least_probability` for the `letter_probability` of windows of speech and of noise (0 without
    letters): about a share `wrong` of the noises is above it, and no window of speech below it."""
    if not speech:
        return 0.0
    heard = sorted(noise, reverse=True)[min(int(wrong * len(noise)), len(noise) - 1)]
    # Nearer to noise than to speech, since users' recordings are worse than these.
    return math.floor(1000 * min(min(speech), 0.75 * heard + 0.25 * min(speech))) / 1000


def noises(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Recordings of noise, 1 to 15 s, white to brown, with peaks from -45 to -3 dB of full scale."""
    for _ in range(NOISES):
        clip = coloured_noise(int(rng.uniform(1.0, 15.0) * SAMPLE_RATE), rng)
        yield clip * np.float32(10 ** (rng.uniform(-45.0, -3.0) / 20) / np.abs(clip).max())


def _without(texts: TextList, bare: set[str]) -> TextList:
    keep = [i for i, line in enumerate(texts.bare) if line not in bare]
    return replace(texts, **{name: [getattr(texts, name)[i] for i in keep] for name in ("ids", "texts", "bare")})
