import pytest

from corpora.quran_spelling import modern_spelling
from corpora.text import normalise

# Uthmani word or phrase -> the spelling of today's dictionaries, without diacritics
WORDS = {
    # a dagger alef that is written
    "ٱلۡكِتَٰبُ": "الكتاب",
    "ٱلۡعَٰلَمِينَ": "العالمين",
    "ٱلصَّـٰلِحَٰتِ": "الصالحات",
    "ٱلسَّمَٰوَٰتِ": "السماوات",
    "إِسۡحَٰقَ": "إسحاق",
    "جَنَّـٰتٖ": "جنات",
    "ٱلَّـٰتِي": "اللاتي",
    "هَٰهُنَا": "هاهنا",
    # a dagger alef that is not
    "ٱلرَّحۡمَٰنِ": "الرحمن",
    "هَٰذَا": "هذا",
    "ذَٰلِكَ": "ذلك",
    "وَلَٰكِنَّ": "ولكن",
    "إِلَٰهَكُمۡ": "إلهكم",
    "أُوْلَـٰٓئِكَ": "أولئك",
    "هَـٰٓؤُلَآءِ": "هؤلاء",
    # waw and alef maksura that stand for an alef
    "ٱلصَّلَوٰةَ": "الصلاة",
    "ٱلزَّكَوٰةَ": "الزكاة",
    "ٱلرِّبَوٰاْ": "الربا",
    "ٱلتَّوۡرَىٰةَ": "التوراة",
    "هَدَىٰكُمۡ": "هداكم",
    "مُوسَىٰ": "موسى",
    # the vocative is a word of its own
    "يَـٰٓأَيُّهَا": "يا أيها",
    "يَٰمُوسَىٰ": "يا موسى",
    "وَيَٰقَوۡمِ": "ويا قوم",
    "يَـٰٓـَٔادَمُ": "يا آدم",
    "هَـٰٓأَنتُمۡ": "ها أنتم",
    # the seat of hamza
    "ءَامَنُواْ": "آمنوا",
    "ٱلۡقُرۡءَانَ": "القرآن",
    "بِـَٔايَٰتِنَا": "بآياتنا",
    "ءَأَنذَرۡتَهُمۡ": "أأنذرتهم",
    "شَيۡـٔٗا": "شيئا",
    "مَسۡـُٔولٗا": "مسؤولا",
    "يَسۡـَٔلُونَكَ": "يسألونك",
    "ٱلۡأَفۡـِٔدَةِ": "الأفئدة",
    "ٱلسَّيِّـَٔاتِ": "السيئات",
    "سَوۡءَٰتُهُمَا": "سوآتهما",
    "جَآءَكُمۡ": "جاءكم",
    "أَءِنَّا": "أئنا",
    "ٱلضُّعَفَـٰٓؤُاْ": "الضعفاء",
    "ٱلۡمَلَؤُاْ": "الملأ",
    "ٱمۡرِيٕٖ": "امرئ",
    "فَسۡـَٔلُوٓاْ": "فاسألوا",
    "رَءَا": "رأى",
    "ٱلۡأٓخِرَةِ": "الآخرة",
    # letters that are not read, and small ones that are
    "قَالُواْ": "قالوا",
    "مِاْئَةَ": "مئة",
    "لَأَاْذۡبَحَنَّهُۥٓ": "لأذبحنه",
    "لَهُۥ": "له",
    "بِهِۦ": "به",
    "يُحۡيِۦ": "يحيي",
    "ٱلنَّبِيِّـۧنَ": "النبيين",
    "دَاوُۥدَ": "داود",
    "يَسۡتَوُۥنَ": "يستوون",
    "نُـۨجِي": "ننجي",
    # the female ending, one lam for two
    "رَحۡمَتَ": "رحمة",
    "ٱلَّيۡلِ": "الليل",
    "وَٱلَّذَانِ": "واللذان",
    "ٱلَّذِينَ": "الذين",
}


@pytest.mark.parametrize(("uthmani", "modern"), WORDS.items())
def test_a_quran_word_is_written_as_today(uthmani: str, modern: str) -> None:
    assert modern_spelling(uthmani) == modern


def test_pause_marks_and_signs_leave_the_words_as_they_are() -> None:
    verse = "ذَٰلِكَ ٱلۡكِتَٰبُ لَا رَيۡبَۛ فِيهِۛ هُدٗى لِّلۡمُتَّقِينَ ۩"
    assert modern_spelling(verse) == "ذلك الكتاب لا ريب فيه هدى للمتقين"


def test_the_profile_letters_compares_both_spellings_alike() -> None:
    uthmani = "ٱلصَّلَوٰةَ وَٱلسَّمَٰوَٰتِ هَٰذَا"
    assert normalise(uthmani, "letters", quran=True) == normalise("الصلاة والسماوات هذا", "letters")


def test_the_profile_modern_keeps_ordinary_text_but_marks() -> None:
    assert normalise("كَتَبَ الـوَلَدُ، رِسَالَةً!", "modern") == "كتب الولد رسالة"
    assert normalise("هٰذا", "modern") == "هذا"
