"""Synthesise the mini corpus: unlabelled Arabic and English speech, and small ASR, emotion and dialect sets.

    <out>/ssl/{train,dev}          utt2lang; no text
    <out>/asr/{train,dev,test}     text: strings of 2-5 words
    <out>/ser/{train,dev,test}     utt2emotion: prosody, on phrases that all emotions share
    <out>/did/{train,dev,test}     utt2dialect: pronunciation and words
    <out>/audio/<set>/<split>/<utterance>.wav

A speaker is a synthetic voice and belongs to one split of one set. Emotions and dialects overlap on purpose, so that
no classifier can be perfect. This corpus tests the software; its results say nothing about real speech.
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
from corpora.text import bare

_log = logging.getLogger(__name__)

STANDARD = "standard"
DIALECTS = ("EGY", "GLF", "LAV", "NOR")

# Vocabulary of the ASR set in pausal form. Texts carry diacritics, which eSpeak needs; transcripts have none.
WORDS = (
    "وَاحِد اِثْنَان ثَلَاثَة أَرْبَعَة خَمْسَة سِتَّة سَبْعَة ثَمَانِيَة تِسْعَة عَشَرَة "
    "نَعَم يَمِين يَسَار فَوْق تَحْت أَمَام قِف اِبْدَأ اِفْتَح أَغْلِق بَيْت كِتَاب قَلَم شَمْس قَمَر مَاء نُور طَرِيق"
).split()

# Every phrase is spoken in every emotion, so that the words do not reveal the emotion.
PHRASES = (
    "البَابُ مَفْتُوح",
    "وَصَلَتِ الرِّسَالَة",
    "سَأَعُودُ غَدًا",
    "هَذَا كِتَابِي",
    "أَيْنَ القَلَم",
    "جَاءَ الضَّيْف",
    "الطَّعَامُ جَاهِز",
    "نَحْنُ فِي البَيْت",
    "لَمْ أَسْمَعْ شَيْئًا",
    "السَّيَّارَةُ هُنَا",
    "اِنْتَهَى الدَّرْس",
    "كَمِ السَّاعَة",
)

# Dialects share these words and differ in how they pronounce qaf, jim, tha, thal and zah.
_NOUNS = (
    "القَلْب القَمَر القَلَم القِطَار الطَّرِيق السُّوق الجَمَل الجَبَل الجَار المَسْجِد الثَّوْب الثَّلْج "
    "الذَّهَب الظُّهْر البَيْت البَاب الوَلَد الكَلَام الرَّجُل المَدِينَة"
).split()
_ADJECTIVES = "جَدِيد قَدِيم قَرِيب جَمِيل ثَقِيل كَبِير صَغِير رَخِيص ثَانِي أَزْرَق".split()

# Words that differ between dialects: the standard form, then the dialects in the order of DIALECTS.
_OWN_WORDS = {
    "want": "أُرِيد عَايِز أَبْغَى بِدِّي بْغِيت",
    "now": "الآن دِلْوَقْتِي الحِين هَلَّأ دَابَا",
    "very": "جِدًّا أَوِي وَايِد كْتِير بَزَّاف",
    "what": "مَاذَا إِيه شِنُو شُو آش",
    "here": "هُنَا هِنَا هْنِي هُون هْنَا",
    "not": "لَيْسَ مِش مُو مَانُو مَاشِي",
    "so": "هَكَذَا كِدَه جِذِي هَيْك هَكَّا",
    "see": "أَرَى بَشُوف أَشُوف عَمْشُوف كَنْشُوف",
}
_OWN = {meaning: dict(zip((STANDARD, *DIALECTS), words.split(), strict=True)) for meaning, words in _OWN_WORDS.items()}
_FRAMES = (
    "want NOUN ADJECTIVE now here",
    "NOUN here ADJECTIVE very",
    "NOUN now not ADJECTIVE so",
    "see NOUN ADJECTIVE here now",
    "what NOUN ADJECTIVE here",
    "so NOUN not NOUN now",
    "see NOUN here not NOUN",
    "want NOUN so not ADJECTIVE",
)

# Rules on eSpeak's phonemes: "q" qaf, "?" glottal stop, "dZ" jim, "Z;" its nearest to French j, "T" tha, "D" thal,
# "Z" zah, "dH" dad, "@" schwa, "," and "'" stress.
_ZAH = r"(?<!d)Z(?!;)"
_SHORT_VOWEL = r"(?<![aiu])[aiu](?![:.aiu])"
_SHORT_VOWEL_OF_FIRST_SYLLABLE = r"(^| )(Z;|[a-zA-Z?])'?[aiu](?=[a-zA-Z][,']?[aiu]:)"
PRONUNCIATIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "EGY": (("q", "?"), ("dZ", "g"), ("T", "t"), (_ZAH, "z"), ("D", "d")),
    "GLF": (("q", "g"), ("dZ", "j"), ("dH", "D"), ("k", "tS")),
    "LAV": (
        *(("q", "?"), ("dZ", "Z;"), ("T", "t"), (_ZAH, "z"), ("D", "d")),
        *(("a:", "e:"), (r"a[ht](?= |$)", "e")),
    ),
    "NOR": (
        *(("q", "g"), ("dZ", "Z;"), ("T", "t"), (_ZAH, "d"), ("D", "d")),
        *((_SHORT_VOWEL_OF_FIRST_SYLLABLE, r"\1\2"), (_SHORT_VOWEL, "@")),
    ),
}

_SUBJECTS = "my brother|the old teacher|her friend|the doctor|a young man|our neighbour|someone|the girl|his father"
_VERBS = "bought|found|forgot|opened|carried|painted|cleaned|wanted|sold|described"
_OBJECTS = "a blue chair|the letter|seven books|the wooden door|fresh bread|a small boat|her keys|the yellow map"
_PLACES = "in the garden|near the station|after lunch|on Monday|before the rain|at the market|by the river|last night"
ENGLISH = tuple(tuple(part.split("|")) for part in (_SUBJECTS, _VERBS, _OBJECTS, _PLACES))

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


# Speakers are assigned to the four dialects, or to the two languages, in turn: hence the multiples of 4 and 2.
SIZES = {
    "ssl": {"train": Size(34, 400, 4), "dev": Size(6, 36, 4)},
    "asr": {"train": Size(16, 300), "dev": Size(4, 40), "test": Size(8, 96)},
    "ser": {"train": Size(15, 240), "dev": Size(4, 48), "test": Size(6, 96)},
    "did": {"train": Size(24, 240, 4), "dev": Size(8, 48, 4), "test": Size(8, 96, 4)},
}


@dataclass(frozen=True)
class Planned:
    """An utterance before the synthesis. The path of its request is relative to the set's audio folder."""

    utt_id: str
    speaker: str
    request: Request
    text: str
    language: str
    dialect: str | None = None
    emotion: str | None = None


def prepare(out_dir: Path, *, seed: int = 0, scale: float = 1.0, jobs: int = 1) -> None:
    """Synthesise the corpus and write its data directories below `out_dir`. Complete sets are not written again.

    scale: factor for the number of speakers and utterances; every split keeps every class and at least two speakers.
    jobs: processes. The bytes depend on `seed` and `scale` alone. Raises CorpusError if eSpeak fails.
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
    """Texts, voices and prosody of every set and split, before the synthesis.

    The texts of dev and test are drawn first: neither ASR training nor unlabelled speech holds one of them.
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
    """Prosody of an emotion: its mean, scaled by the speaker's strength, plus random variation."""
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
            text = draw_other(held_out, word_string, draw, 2, 5)
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
                    texts.append(draw_other(held_out, word_string, draw, 2, 5))
                else:
                    texts.append(draw_other(held_out, dialect_sentence, draw, sounds or STANDARD, 1.0))
            prosody = _prosody(draw, draw.choice(list(EMOTIONS)), 1.0)
            yield _planned(speaker, number, split, seed, voice, " ".join(texts), prosody, sounds=sounds)


def draw_other(held_out: set[str], sentence: Callable[..., str], *arguments: object) -> str:
    """Draw sentences until one is not in the held-out texts."""
    while bare(text := sentence(*arguments)) in held_out:
        pass
    return text


def word_string(draw: random.Random, shortest: int, longest: int) -> str:
    """Between `shortest` and `longest` words of the ASR vocabulary, no word twice in a row."""
    words: list[str] = []
    for _ in range(draw.randint(shortest, longest)):
        words.append(draw.choice([word for word in WORDS if word not in words[-1:]]))
    return " ".join(words)


def dialect_sentence(draw: random.Random, dialect: str, share: float) -> str:
    """A sentence in which a dialect's own word replaces the standard word with probability `share`."""
    words = []
    for slot in draw.choice(_FRAMES).split():
        if slot == "NOUN":
            words.append(draw.choice(_NOUNS))
        elif slot == "ADJECTIVE":
            words.append(draw.choice(_ADJECTIVES))
        else:
            words.append(_OWN[slot][dialect if draw.random() < share else STANDARD])
    return " ".join(words)


def english_sentence(draw: random.Random) -> str:
    """Subject, verb, object and place."""
    return " ".join(draw.choice(part) for part in ENGLISH)


def _speak(audio_dir: Path, splits: dict[str, list[Planned]], jobs: int) -> None:
    """Synthesise the audio of a set, unless it is complete and of the same plan."""
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
