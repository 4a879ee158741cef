"""Convert Quran (Uthmani) spelling to modern spelling without diacritics, as people type and recognisers write it.

    ٱلصَّلَوٰةَ -> الصلاة    هَٰذَا -> هذا    ءَامَنُواْ -> آمنوا    يَـٰٓأَيُّهَا -> يا أيها    مَسۡـُٔولٗا -> مسؤولا

A dagger alef is written as an alef or dropped, as in the dictionary form. Waw and ya that represent an alef become an
alef. A hamza gets its seat from the vowels around it. Silent letters are dropped. Small letters inside a word are
written out. Input is the text of the King Fahd Complex as quran.json and Tanzil have it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

_FATHA, _DAMMA, _KASRA, _SHADDA, _SILENT = "\u064e", "\u064f", "\u0650", "\u0651", "\u0652"
_DAGGER, _SMALL_WAW, _SMALL_SEEN = "\u0670", "\u06e5", "\u06dc"
_A = {_FATHA, "\u064b", "\u0657", _DAGGER}
_U = {_DAMMA, "\u064c", "\u065e"}
_I = {_KASRA, "\u064d", "\u0656"}
_TANWIN_A = {"\u064b", "\u0657"}
_SMALL_YA = {"\u06e6", "\u06e7"}
_HAMZA_ABOVE, _HAMZA_BELOW, _SMALL_NOON, _TATWEEL = "\u0654", "\u0655", "\u06e8", "\u0640"
_SUKUN = "\u06e1"
_MARK = re.compile("[\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u08d3-\u08ff]")
_NOT_TEXT = re.compile("[\u06dd\u06de\u06e9]")
_NO_CONNECTION = set("ادذرزوأآء")  # letters that do not join the next one

# Bare words whose dagger alef is not written in modern spelling, with their prefixes and suffixes.
_NO_ALEF = re.compile(
    "[أوفبكل]{0,2}(هذا|هذه|هذان|هؤلاء|هكذا|ذلك(م|ما|ن)?|أولئك(م)?|لكن(ه|ها|هم|ا|ي|كم)?|(ال)?رحمن|رحمن|"
    "(ال)?إله(ا|ه|ك|كم|نا|هم|ي|ين)?|الله|لله|اللهم)"
)
# Bare words with another modern spelling.
_WORDS = {
    "رءا": "رأى",
    "ترءا": "تراءى",
    "ونءا": "ونأى",
    "يبنؤم": "يا ابن أم",
    "لءيكة": "الأيكة",
    "أيه": "أيها",
    "بأييكم": "بأيكم",
    "فادرءتم": "فادارأتم",
    "أءله": "أإله",
    "ءألهتنا": "أآلهتنا",
    "ءاعجمي": "أأعجمي",
    "السيأ": "السيئ",
    "الليي": "اللائي",
    "والليي": "واللائي",
    "ليسءوا": "ليسوءوا",
}
# The female ending that the Quran writes open in some places, where the letter before it has a fatha.
_OPEN_TA = re.compile("[وفبل]?(ال)?(رحمت|نعمت|امرأت|سنت|لعنت|شجرت|قرت|معصيت|كلمت|بقيت|فطرت|ابنت|غيبت|جنت|بينت)")
_TWO_LAMS = (
    (re.compile("^([وفبك]?)اليل"), r"\1الليل"),
    (re.compile("^([وفبك]?)ال(ات|ائ|ذان|ذين)"), r"\1ال\2"),
)


@dataclass
class _Letter:
    base: str
    marks: set[str] = field(default_factory=set)

    @property
    def vowel(self) -> str:
        for name, marks in (("i", _I), ("u", _U), ("a", _A)):
            if self.marks & marks:
                return name
        return ""

    @property
    def vowel_without_dagger(self) -> bool:
        return bool(self.marks & ((_A - {_DAGGER}) | _U | _I | {_SHADDA}))


def in_quran_spelling(text: str) -> bool:
    """Whether a text has a letter that only Quran spelling has: alef wasla, or its sign of a letter without vowel.

    There an alef with a maddah is a long alef; in any other text it is a hamza and an alef.
    """
    return "\u0671" in text or "\u06e1" in text


def modern_spelling(text: str) -> str:
    """The words of a Quran text as they are written today, without diacritics; white space becomes single spaces."""
    text = _NOT_TEXT.sub(" ", unicodedata.normalize("NFC", text)).replace("آ", "ا\u0653")
    return " ".join(_word(word) for word in text.split())


def _word(word: str) -> str:
    for prefix, written in (("وَي", "ويا "), ("ي", "يا "), ("ه", "ها ")):
        # The vocative and `ha` are words of their own today: a ya or ha with a dagger alef before a further word.
        match = re.match(f"{prefix}\u064e?\u0640?\u0670\u0653?(?=[^\u0653]{{2}})", word)
        rest = word[match.end() :] if match else ""
        if match and (prefix != "ه" or _bare(rest).startswith("أنتم")):
            return written + _word(rest)
    letters = _letters(word)
    bare = "".join(letter.base for letter in letters)
    if bare in _WORDS:
        return _WORDS[bare]
    keeps_alef = not _NO_ALEF.fullmatch(bare)
    open_ta = (
        bool(_OPEN_TA.fullmatch(bare))
        and len(letters) > 1
        and _FATHA in letters[-2].marks
        and _DAGGER not in letters[-2].marks
    )
    if open_ta and letters[-1].vowel:
        letters[-1].base = "ة"
    out: list[str] = []
    skip = False
    for i, letter in enumerate(letters):
        if skip:
            skip = False
            continue
        before = letters[i - 1] if i else None
        after = letters[i + 1] if i + 1 < len(letters) else None
        last = after is None
        base = letter.base
        dagger = _DAGGER in letter.marks
        if _SILENT in letter.marks and base in "اوي":
            if _silent_is_written(letters, i):
                out.append(base)
            continue
        if base == "ء":
            prefixed = all(earlier.base in "وفبكل" for earlier in letters[:i])
            written, skip = _hamza(letter, before, after, prefixed=prefixed, last_but_one=i + 2 == len(letters))
            out.append(written)
            dagger = dagger and not written.endswith("آ") and not skip
        elif (
            base == "ؤ" and after is not None and i + 2 == len(letters) and after.base == "ا" and _SILENT in after.marks
        ):
            seat = "ء" if before is not None and (_DAGGER in before.marks or before.base == "ا") else "أ"
            out.append("ؤ" if before is not None and before.vowel == "u" else seat)
            skip = True
        elif base == "أ" and ("\u0653" in letter.marks or (dagger and keeps_alef)):
            out.append("آ")
            dagger = False
        elif base == "إ" and after is not None and after.base == "ي" and _SILENT in after.marks and "ملإ" in bare:
            out.append("ئ")
        elif base == "و" and dagger and not letter.vowel_without_dagger:
            out.append("ا")
            dagger = False
        elif base == "ى" and not last and (dagger or not letter.vowel):
            out.append("ا")
            dagger = False
        elif base == "ص" and _SMALL_SEEN in letter.marks:
            out.append("س")
        else:
            out.append(base)
        if dagger and base != "ى" and keeps_alef:
            out.append("ا")
        out.append(_small_letters(letter, last, bare))
    result = "".join(out)
    if re.search("ءو$", bare):
        result += "ا"
    result = re.sub("^([وف])سأل(?=$|[ه و])", r"\1اسأل", result) if _SUKUN in word[:4] else result
    for pattern, written in _TWO_LAMS:
        result = pattern.sub(written, result)
    if "ٱلَّ" in word and re.match("[وف]?ال(اتي|ائي|ذان|ذين)", result) and ("ال" + "ذين" not in result or "ذَي" in word):
        result = re.sub("^([وف]?)ال", r"\1الل", result)
    return result


def _letters(word: str) -> list[_Letter]:
    """The letters of a word with their marks. A tatweel that carries a hamza, a ya or a noon is that letter."""
    letters: list[_Letter] = []
    for char in word:
        if _MARK.fullmatch(char):
            if letters:
                letters[-1].marks.add(char)
        else:
            letters.append(_Letter("ا" if char == "ٱ" else char))
    whole: list[_Letter] = []
    for letter in letters:
        if letter.base == _TATWEEL:
            if _HAMZA_ABOVE in letter.marks or _HAMZA_BELOW in letter.marks:
                if letter.marks & _SMALL_YA:
                    whole.append(_Letter("ي", letter.marks - _SMALL_YA))
                letter.base = "ء"
            elif letter.marks & _SMALL_YA:
                letter = _Letter("ي", letter.marks - _SMALL_YA)
            elif _SMALL_NOON in letter.marks:
                letter.base = "ن"
            elif _SMALL_WAW in letter.marks:
                letter = _Letter("و", letter.marks - {_SMALL_WAW})
            else:
                if whole:
                    whole[-1].marks |= letter.marks
                continue
        elif _HAMZA_ABOVE in letter.marks:  # a hamza after the letter, without a seat
            whole.append(_Letter(letter.base, {_FATHA} if letter.vowel == "a" else set()))
            letter = _Letter("ء", {_SUKUN})
        elif _HAMZA_BELOW in letter.marks and letter.base in "يى":
            letter = _Letter("ء" if whole and whole[-1].base == "ا" else "ئ", letter.marks)
        whole.append(letter)
    return whole


def _bare(word: str) -> str:
    return "".join(letter.base for letter in _letters(word))


def _hamza(
    letter: _Letter, before: _Letter | None, after: _Letter | None, *, prefixed: bool, last_but_one: bool
) -> tuple[str, bool]:
    """A hamza without a seat as it is written today, and whether it swallows the next letter (an alef)."""
    alef = after is not None and after.base == "ا" and _SILENT not in after.marks
    own = letter.vowel
    if before is None:
        if alef or "\u0653" in letter.marks:
            return "آ", alef
        return ("آ" if _DAGGER in letter.marks else "إ" if own == "i" else "أ"), False
    if after is None:
        return "ء", False
    tail = before.vowel
    # A long vowel: the letter carries none itself, or a dagger alef follows the one that it carries.
    long = "ا" if before.base in "اى" or _DAGGER in before.marks else ""
    resting = before.base in "وي" and not before.vowel
    if letter.marks & _TANWIN_A and alef and last_but_one:
        if long:
            return "ء", True
        if tail == "a":
            return "أ", True
        if resting and before.base == "ي" or tail == "i":
            return "ئ", False
        return ("ء" if before.base in _NO_CONNECTION else "ئ"), False
    if prefixed and alef and own == "a" and tail == "i":
        return "آ", True
    if own == "i" or (tail == "i" and not long) or (resting and before.base == "ي"):
        return "ئ", False
    if own == "u":
        return ("ء" if long and after.base == "و" else "ؤ"), False
    if long:
        return "ء", False
    if tail == "u":
        return "ؤ", False
    if alef or _DAGGER in letter.marks:
        return "آ", alef
    if resting:
        return "ء", False
    return "أ", False


def _silent_is_written(letters: list[_Letter], i: int) -> bool:
    """Letters that are not read: the alef after a final waw and the waw of ulaika and uli stay, others go."""
    base = letters[i].base
    if base == "ا":
        return i + 1 == len(letters) and i > 0 and letters[i - 1].base == "و" and _DAGGER not in letters[i - 1].marks
    if base == "و":
        return i + 1 < len(letters) and letters[i + 1].base == "ل" and letters[i - 1].base == "أ"
    return False


def _small_letters(letter: _Letter, last: bool, bare: str) -> str:
    """Small waw and ya are written out, except at the end after a ha (a pronoun), and in the name Dawud."""
    if _SMALL_WAW in letter.marks and not last and "داود" not in bare:
        return "و"
    if letter.marks & _SMALL_YA and not (last and letter.base == "ه"):
        return "ي"
    return ""
