"""Arabic text: profiles of normalisation for scoring, Quran spelling, Buckwalter's transliteration.

A profile is recorded with every error rate, since the rate depends on it. No profile turns a mark into a space, so
diacritised and bare text have the same words. White space becomes single spaces in every profile.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from corpora.quran_spelling import modern_spelling

# fatha, damma, kasra, their tanwin, shadda, sukun
_VOWEL_MARKS = re.compile("[\u064b-\u0652]")
# all marks above or below a letter, with Quranic marks and small letters
_ALL_MARKS = re.compile("[\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u08d3-\u08ff]")
_QURAN_MARKS = re.compile("[\u0610-\u061a\u0653-\u065f\u0670\u06d6-\u06ed\u08d3-\u08ff]")
_TATWEEL = "\u0640"
# Everything but the consonants that have one spelling.
_WEAK = re.compile("[^\u0628\u0629\u062a-\u0647]|\u0640")
# In Quran spelling a hamza may sit above a tatweel (with vowel marks between the two) where others write a ya.
_HAMZA_ON_TATWEEL = re.compile("\u0640([\u064b-\u0652]*)\u0654")

# Hamza on every seat and every form of alef: here Quran spelling and modern spelling differ most.
_WITHOUT_ALEF = str.maketrans("", "", "ءأإآاٱؤئى")

_EASTERN_DIGITS = {ord(arabic): str(value) for value, arabic in enumerate("٠١٢٣٤٥٦٧٨٩")}
_MGB_LETTERS = str.maketrans({"ة": "ه", "أ": "ا", "إ": "ا", "آ": "ا", "ى": "ي", "ؤ": "ء", "ئ": "ء"})
# Dialectal numerals and their standard spelling, in the letters that the profile leaves.
_MGB_WORDS = {
    "اتنين": "اثنين",
    "تنتين": "اثنتين",
    "تلات": "ثلاث",
    "تلاته": "ثلاثه",
    "تمان": "ثمان",
    "تمانيه": "ثمانيه",
}
_LEADERBOARD_LETTERS = str.maketrans({"پ": "ب", "ڤ": "ف", "آ": "ا", "أ": "ا", "إ": "ا", "ؤ": "و", "ئ": "ي", "ء": ""})
_LEADERBOARD_PUNCTUATION = str.maketrans("", "", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~،؛؟")
_GUILLEMETS = str.maketrans("", "", "«»")
_CONJUNCTION = "و"

# Letters of Persian and Urdu keyboards, and of transcribed foreign names, as the Arabic letters that they are read as.
_KEYBOARD_LETTERS = str.maketrans(
    {
        "\u06a9": "ك", "\u06aa": "ك", "\u06cc": "ي", "\u06d2": "ي", "\u06be": "ه", "\u06c1": "ه", "\u06d5": "ه",
        "\u06c0": "ه", "\u06c2": "ه", "\u06c3": "ة", "\u067e": "ب", "\u06a4": "ف",
    }
)  # fmt: skip

_BUCKWALTER = dict(
    zip(
        "ءآأؤإئابةتثجحخدذرزسشصضطظعغـفقكلمنهوىي\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\u0670ٱپچڤگژ",
        "'|>&<}AbptvjHxd*rzs$SDTZEg_fqklmnhwYyFNKaui~o`{PJVGR",
        strict=True,
    )
)
_TO_BUCKWALTER = str.maketrans(_BUCKWALTER)
_FROM_BUCKWALTER = str.maketrans({latin: arabic for arabic, latin in _BUCKWALTER.items()})


class _Without(dict[int, int | str | None]):
    """A translation table that deletes characters by Unicode category; it is filled at first use of each character."""

    def __init__(self, categories: tuple[str, ...], keep: str = "", *, spaces: bool = False):
        super().__init__((ord(character), character) for character in keep)
        self._categories = categories
        self._spaces = spaces  # all white space becomes U+0020

    def __missing__(self, code: int) -> int | str | None:
        character = chr(code)
        if self._spaces and character.isspace():
            self[code] = " "
        else:
            self[code] = None if unicodedata.category(character).startswith(self._categories) else code
        return self[code]


_NO_PUNCTUATION = _Without(("P", "S"))
_NO_PUNCTUATION_BUT_SIGNS = _Without(("P", "S"), keep="@%")
_NO_FORMAT = _Without(("Cf",))
_PRINTABLE = _Without(("Cc", "Cf", "Cs"), spaces=True)


def _mgb(text: str) -> str:
    text = " ".join(word for word in text.split() if not word.startswith("#"))
    text = _ALL_MARKS.sub("", text).translate(_NO_PUNCTUATION).translate(_MGB_LETTERS)
    return " ".join(_MGB_WORDS.get(word, word) for word in text.split())


def _leaderboard(text: str) -> str:
    text = _VOWEL_MARKS.sub("", text.translate(_LEADERBOARD_PUNCTUATION))
    return text.translate(_LEADERBOARD_LETTERS).translate(_EASTERN_DIGITS)


def _leaderboard_2026_07(text: str) -> str:
    words: list[str] = []
    lone = ""
    for word in _leaderboard(text.translate(_GUILLEMETS)).split():
        if word == _CONJUNCTION:
            lone += word
        else:
            words.append(lone + word)
            lone = ""
    return " ".join([*words, lone])


def _artst(text: str) -> str:
    text = _ALL_MARKS.sub("", text.translate(_EASTERN_DIGITS))
    return text.translate(_NO_PUNCTUATION_BUT_SIGNS).lower()


def _modern(text: str) -> str:
    text = _ALL_MARKS.sub("", text.translate(_EASTERN_DIGITS)).translate(_NO_PUNCTUATION)
    return text.replace("ٱ", "ا").replace(_TATWEEL, "")


def _letters(text: str) -> str:
    return _modern(text).translate(_WITHOUT_ALEF)


_STEPS: dict[str, Callable[[str], str]] = {
    "mgb": _mgb,
    "leaderboard": _leaderboard,
    "artst": _artst,
    "modern": _modern,
    "letters": _letters,
    "leaderboard-2024-12": _leaderboard,
    "leaderboard-2026-07": _leaderboard_2026_07,
}

PROFILES: tuple[str, ...] = ("none", *_STEPS)
LEADERBOARD = "leaderboard-2026-07"  # the rules of today


def normalise(text: str, profile: str, *, quran: bool = False) -> str:
    """Normalise a text for scoring under a profile.

    "none" keeps the text. "mgb" (MGB-2): teh marbuta as heh, alef, alef maksura and hamza unified, no diacritics,
    punctuation or hesitations (words that begin with #), six numerals in standard spelling. "leaderboard-2024-12" (Open
    Universal Arabic ASR, arXiv 2412.13788): no punctuation, vowel marks or hamza, alef unified, ASCII digits;
    "leaderboard" is another name of it. "leaderboard-2026-07" (the board since 2026-07-27): also without guillemets,
    and a lone waw is joined to the next word. "artst": no diacritics, no punctuation or symbols except @ and %, ASCII
    digits, lower case. "modern": no diacritics, tatweel, punctuation or symbols, ASCII digits, all letters unchanged.
    "letters": as "modern", and without hamza, its seats and every form of alef, so that Quran spelling and modern
    spelling have the same letters.

    quran: convert Quran spelling first: for "modern" and "letters" as `quran_spelling.modern_spelling` does, for the
    others as `from_quran` does. Raises ValueError for an unknown profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"text profile {profile!r} is not one of {', '.join(PROFILES)}")
    if quran:
        text = modern_spelling(text) if profile in ("modern", "letters") else from_quran(text)
    if profile != "none":
        text = _without_invisible(unicodedata.normalize("NFC", text))
        text = _STEPS[profile](text)
    return " ".join(text.split())


def from_quran(text: str) -> str:
    """Quran spelling converted to the letters and vowel marks of ordinary text.

    Alef wasla becomes alef; dagger alef, small high letters, pause and recitation marks and tatweel disappear.
    """
    text = _HAMZA_ON_TATWEEL.sub("ئ\\1", unicodedata.normalize("NFC", text))
    return _QURAN_MARKS.sub("", text).replace("ٱ", "ا").replace(_TATWEEL, "")


def bare(text: str) -> str:
    """The text without diacritics; letters stay as they are."""
    return _ALL_MARKS.sub("", unicodedata.normalize("NFC", text))


def fold(text: str) -> str:
    """The text for comparison with other texts, never for scoring: one code for every letter and digit.

    Presentation forms and ligatures become letters (NFKC); letters of Persian keyboards, peh and veh become Arabic
    letters; digits become ASCII. Format characters disappear, letters are in lower case.
    """
    text = unicodedata.normalize("NFKC", _without_invisible(text)).translate(_KEYBOARD_LETTERS).casefold()
    text = unicodedata.normalize("NFC", text)  # a hamza above a Persian letter belongs to the Arabic one
    return "".join(str(unicodedata.digit(c)) if c.isdigit() else c for c in text)


def text_key(text: str) -> str:
    """Consonant skeleton of an Arabic text: texts that differ only in a vowel, a hamza or a pause mark have one key.

    The key is coarser than every text profile, so splits that share no key share no text under any profile (but for the
    six numerals of "mgb" under "letters"). Hesitations are left out and numerals are in standard spelling, as in "mgb".
    """
    text = from_quran(fold(text)).replace("ة", "ه")
    words = (word for word in text.split() if not word.startswith("#"))
    return "".join(_WEAK.sub("", _MGB_WORDS.get(_bare_letters(word), word)) for word in words)


def comparison_key(text: str) -> str:
    """Key of a text in any script: `text_key`, and the other letters and digits without regard to case."""
    others = (letter for letter in fold(text) if letter.isalnum() and not "\u0600" <= letter < "\u0700")
    return f"{text_key(text)} {''.join(others)}".strip()


def _bare_letters(word: str) -> str:
    """A word without marks and punctuation."""
    return _ALL_MARKS.sub("", word).translate(_NO_PUNCTUATION)


def printable(text: str) -> str:
    """The text as data directories allow it: no format or control characters, all white space U+0020."""
    return text.translate(_PRINTABLE)


def _without_invisible(text: str) -> str:
    """Remove format characters (joiners, direction marks, byte order mark), which change no letter and no word."""
    return text.translate(_NO_FORMAT)


def to_buckwalter(text: str) -> str:
    """Arabic letters and marks in Buckwalter's transliteration; other characters stay."""
    return text.translate(_TO_BUCKWALTER)


def from_buckwalter(text: str) -> str:
    """Buckwalter's transliteration in Arabic letters and marks; other characters stay, digits among them."""
    return text.translate(_FROM_BUCKWALTER)
