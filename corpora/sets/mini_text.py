"""What the synthetic mini corpus says: words, phrases and sentences, drawn by a seeded random generator.

Arabic carries its diacritics, because eSpeak reads what is written; transcripts leave them out.
"""

from __future__ import annotations

import random

STANDARD = "standard"
DIALECTS = ("EGY", "GLF", "LAV", "NOR")

# The vocabulary of the ASR set, in pausal form.
WORDS = (
    "وَاحِد اِثْنَان ثَلَاثَة أَرْبَعَة خَمْسَة سِتَّة سَبْعَة ثَمَانِيَة تِسْعَة عَشَرَة "
    "نَعَم يَمِين يَسَار فَوْق تَحْت أَمَام قِف اِبْدَأ اِفْتَح أَغْلِق بَيْت كِتَاب قَلَم شَمْس قَمَر مَاء نُور طَرِيق"
).split()

# Every phrase is spoken in every emotion, so that the words do not tell them apart.
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

# Words of a dialect's own, in the order of DIALECTS after the standard form.
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


def word_string(draw: random.Random, shortest: int, longest: int) -> str:
    """Between `shortest` and `longest` words of the ASR vocabulary, no word twice in a row."""
    words: list[str] = []
    for _ in range(draw.randint(shortest, longest)):
        words.append(draw.choice([word for word in WORDS if word not in words[-1:]]))
    return " ".join(words)


def dialect_sentence(draw: random.Random, dialect: str, share: float) -> str:
    """A sentence in which each word that `dialect` has for itself replaces the standard one at probability `share`."""
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
