"""The synthetic mini corpus: unlabelled Arabic and English speech, and small ASR, emotion and dialect sets.

    <out>/ssl/{train,dev}          utt2lang; no text
    <out>/asr/{train,dev,test}     text: strings of 2-5 words
    <out>/ser/{train,dev,test}     utt2emotion: prosody, on phrases that all emotions share
    <out>/did/{train,dev,test}     utt2dialect: pronunciation and words
    <out>/audio/<set>/<split>/<utterance>.wav

A speaker is a synthetic voice, and belongs to one split of one set. Emotions and dialects overlap on purpose, so that
no classifier can be perfect. This corpus shows that the machinery works; it says nothing about real speech.
"""

from __future__ import annotations

import logging
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from corpora.audio import SAMPLE_RATE, audio_info
from corpora.datadir import Utterance, read_datadir, write_datadir
from corpora.files import CorpusError, atomic_dir, read_json, sha256_json, write_json
from corpora.sets.espeak import Prosody, Request, Voice, synthesise
from corpora.sets.mini_text import (
    DIALECTS,
    PHRASES,
    PRONUNCIATIONS,
    STANDARD,
    dialect_sentence,
    english_sentence,
    word_string,
)
from corpora.text import bare

_log = logging.getLogger(__name__)

EMOTIONS = {
    "neutral": Prosody(),
    "happy": Prosody(rate=1.12, pitch=3.0, range=1.5, gain_db=2.0),
    "sad": Prosody(rate=0.82, pitch=-2.0, range=0.6, gain_db=-4.0),
    "angry": Prosody(rate=1.18, pitch=1.0, range=1.15, gain_db=5.0),
}


@dataclass(frozen=True)
class Size:
    """Speakers and utterances of a split at scale 1, and the fewest speakers at any scale."""

    speakers: int
    utterances: int
    fewest: int = 2


# Dialect speakers are dealt to the dialects in turn, unlabelled ones to languages: hence the multiples of 4 and 2.
SIZES = {
    "ssl": {"train": Size(34, 400, 4), "dev": Size(6, 36, 4)},
    "asr": {"train": Size(16, 300), "dev": Size(4, 40), "test": Size(8, 96)},
    "ser": {"train": Size(15, 240), "dev": Size(4, 48), "test": Size(6, 96)},
    "did": {"train": Size(24, 240, 4), "dev": Size(8, 48, 4), "test": Size(8, 96, 4)},
}


@dataclass(frozen=True)
class Planned:
    """An utterance before it is spoken; the path of its request is relative to the set's audio folder."""

    utt_id: str
    speaker: str
    request: Request
    text: str
    language: str
    dialect: str | None = None
    emotion: str | None = None


def prepare(out_dir: Path, *, seed: int = 0, scale: float = 1.0, jobs: int = 1) -> None:
    """Speak the corpus and write its data directories below `out_dir`; sets that are complete stay as they are.

    scale: factor for the number of speakers and utterances; every split keeps every class and two speakers or more.
    jobs: processes. The bytes depend on `seed` and `scale` alone. Raises SynthesisError if eSpeak fails.
    """
    out_dir = Path(out_dir)
    if scale <= 0:
        raise ValueError(f"scale must be above 0, got {scale}")
    for name, splits in plan(seed, scale).items():
        audio_dir = out_dir / "audio" / name
        _speak(audio_dir, splits, jobs)
        for split, planned in splits.items():
            utterances = [_utterance(item, audio_dir, None if name == "ssl" else item.text) for item in planned]
            minutes = sum(utterance.samples for utterance in utterances) / SAMPLE_RATE / 60
            speakers = len({utterance.speaker for utterance in utterances})
            _log.info("%s/%s: %d utterances, %d speakers, %.1f min", name, split, len(utterances), speakers, minutes)
            if not _is_written(out_dir / name / split, utterances):
                write_datadir(out_dir / name / split, utterances)


def plan(seed: int, scale: float) -> dict[str, dict[str, list[Planned]]]:
    """Who says what and how, for every set and split, before anything is spoken.

    What dev and test splits say is drawn first: neither ASR training nor unlabelled speech holds a text of theirs.
    """
    sets: dict[str, dict[str, list[Planned]]] = {"ssl": {}, "asr": {}, "ser": {}, "did": {}}
    held_out: set[str] = set()
    for split in ("test", "dev", "train"):
        sets["asr"][split] = _sorted(_plan_asr(split, seed, scale, held_out))
        sets["ser"][split] = _sorted(_plan_ser(split, seed, scale))
        sets["did"][split] = _sorted(_plan_did(split, seed, scale))
        if split != "train":
            held_out |= {item.text for name in ("asr", "ser", "did") for item in sets[name][split]}
    for split in ("train", "dev"):
        sets["ssl"][split] = _sorted(_plan_ssl(split, seed, scale, held_out))
    return sets


def _sorted(planned: Iterator[Planned]) -> list[Planned]:
    return sorted(planned, key=lambda item: item.utt_id)


@dataclass(frozen=True)
class _Speaker:
    number: int
    name: str
    draw: random.Random
    utterances: int


def _speakers(name: str, split: str, seed: int, scale: float, least: int = 1) -> Iterator[_Speaker]:
    """The speakers of a split, each with a random generator of its own and a number of utterances."""
    size = SIZES[name][split]
    count = max(size.fewest, round(size.speakers * scale))
    total = max(count * least, round(size.utterances * scale))
    # One range of numbers per split: a speaker keeps its name and voice when another split grows.
    first = 1 + 1000 * list(SIZES[name]).index(split)
    for number in range(count):
        share = total * (number + 1) // count - total * number // count
        speaker = f"{name}{first + number:04d}"
        yield _Speaker(number, speaker, random.Random(f"{seed}/{speaker}"), max(least, share))


def _voice(draw: random.Random, language: str) -> Voice:
    low = draw.random() < 0.5
    pitch = draw.uniform(85, 130) if low else draw.uniform(160, 225)
    tract = draw.gauss(100, 4) if low else draw.gauss(113, 4)
    return Voice(
        language=language,
        pitch_hz=round(pitch, 1),
        top_hz=round(pitch * draw.uniform(1.35, 1.7), 1),
        formants=tuple(round(tract + draw.gauss(0, 2.5)) for _ in range(5)),
        rate=round(draw.gauss(160, 14), 1),
        breath=draw.choice((0, 0, 0, 1, 2)),
        flutter=draw.randint(1, 5),
        darkness=round(draw.uniform(-0.4, 0.4), 2),
        gain_db=round(draw.uniform(-12, -4), 1),
        noise_db=round(draw.uniform(-62, -46), 1),
    )


def _prosody(draw: random.Random, emotion: str, strength: float) -> Prosody:
    """An emotion as one speaker shows it now: its mean, times the speaker's strength, plus chance."""
    mean = EMOTIONS[emotion]
    return Prosody(
        rate=round(mean.rate**strength * 2 ** draw.gauss(0, 0.10), 3),
        pitch=round(mean.pitch * strength + draw.gauss(0, 1.0), 2),
        range=round(mean.range**strength * 2 ** draw.gauss(0, 0.25), 3),
        gain_db=round(mean.gain_db * strength + draw.gauss(0, 1.5), 2),
    )


def _planned(
    speaker: _Speaker,
    number: int,
    split: str,
    seed: int,
    voice: Voice,
    text: str,
    prosody: Prosody,
    sounds: str = "",
    **labels: str,
) -> Planned:
    utt_id = f"{speaker.name}-{number:03d}"
    request = Request(
        path=Path(split, f"{utt_id}.wav"),
        text=text,
        voice=voice,
        prosody=prosody,
        sounds=PRONUNCIATIONS.get(sounds, ()),
        seed=zlib.crc32(f"{seed}/{utt_id}".encode()),
    )
    return Planned(utt_id, speaker.name, request, bare(text), voice.language, **labels)


def _plan_asr(split: str, seed: int, scale: float, held_out: set[str]) -> Iterator[Planned]:
    for speaker in _speakers("asr", split, seed, scale):
        draw, voice = speaker.draw, _voice(speaker.draw, "ar")
        for number in range(speaker.utterances):
            text = _draw_other(held_out, word_string, draw, 2, 5)
            prosody = _prosody(draw, "neutral", 1.0)
            yield _planned(speaker, number, split, seed, voice, text, prosody)


def _plan_ser(split: str, seed: int, scale: float) -> Iterator[Planned]:
    for speaker in _speakers("ser", split, seed, scale, least=len(EMOTIONS)):
        draw, voice = speaker.draw, _voice(speaker.draw, "ar")
        strength = draw.uniform(0.55, 1.15)
        phrases = draw.sample(PHRASES, len(PHRASES))
        for number in range(speaker.utterances):
            turn, place = divmod(number, len(EMOTIONS))
            emotion = list(EMOTIONS)[place]
            text = phrases[turn % len(phrases)]
            prosody = _prosody(draw, emotion, strength)
            yield _planned(speaker, number, split, seed, voice, text, prosody, emotion=emotion)


def _plan_did(split: str, seed: int, scale: float) -> Iterator[Planned]:
    for speaker in _speakers("did", split, seed, scale, least=2):
        draw, voice = speaker.draw, _voice(speaker.draw, "ar")
        dialect = DIALECTS[speaker.number % len(DIALECTS)]
        strength = draw.uniform(0.65, 1.0)
        for number in range(speaker.utterances):
            text = dialect_sentence(draw, dialect, 0.7 * strength)
            sounds = dialect if draw.random() < strength else ""
            prosody = _prosody(draw, "neutral", 1.0)
            yield _planned(speaker, number, split, seed, voice, text, prosody, dialect=dialect, sounds=sounds)


def _plan_ssl(split: str, seed: int, scale: float, held_out: set[str]) -> Iterator[Planned]:
    for speaker in _speakers("ssl", split, seed, scale, least=2):
        draw = speaker.draw
        language = ("ar", "en")[speaker.number % 2]
        voice = _voice(draw, language)
        dialect = ("", *DIALECTS)[speaker.number // 2 % 5]
        for number in range(speaker.utterances):
            texts = []
            sounds = dialect if draw.random() < 0.8 else ""
            for _ in range(2):
                if language == "en":
                    texts.append(english_sentence(draw))
                elif draw.random() < 0.5:
                    texts.append(_draw_other(held_out, word_string, draw, 2, 5))
                else:
                    texts.append(_draw_other(held_out, dialect_sentence, draw, sounds or STANDARD, 1.0))
            prosody = _prosody(draw, draw.choice(list(EMOTIONS)), 1.0)
            yield _planned(speaker, number, split, seed, voice, " ".join(texts), prosody, sounds=sounds)


def _draw_other(held_out: set[str], sentence: Callable[..., str], *arguments: object) -> str:
    """Draw a sentence until one comes that no dev or test split says."""
    while bare(text := sentence(*arguments)) in held_out:
        pass
    return text


def _speak(audio_dir: Path, splits: dict[str, list[Planned]], jobs: int) -> None:
    """Make the audio of a set, unless what is there was made by the same plan and is complete."""
    requests = [item.request for planned in splits.values() for item in planned]
    fingerprint = sha256_json([asdict(replace(request, path=request.path.as_posix())) for request in requests])
    record = audio_dir / "plan.json"
    if record.is_file() and read_json(record) == {"sha256": fingerprint}:
        if all((audio_dir / request.path).is_file() for request in requests):
            return
    with atomic_dir(audio_dir) as temporary:
        for split in splits:
            (temporary / split).mkdir()
        placed = [replace(request, path=temporary / request.path) for request in requests]
        synthesise(placed, jobs=jobs, title=audio_dir.name)
        write_json(temporary / "plan.json", {"sha256": fingerprint})


def _utterance(item: Planned, audio_dir: Path, text: str | None) -> Utterance:
    audio = audio_dir / item.request.path
    return Utterance(
        item.utt_id,
        item.speaker,
        audio,
        audio_info(audio).samples,
        text=text,
        language=item.language,
        dialect=item.dialect,
        emotion=item.emotion,
    )


def _is_written(path: Path, utterances: list[Utterance]) -> bool:
    try:
        return read_datadir(path) == utterances
    except CorpusError:
        return False
