"""Finding a known text: what is searched is built from log-probabilities, so no model is needed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import ctc_loss

from corpora.files import CorpusError
from downstream import DownstreamError
from downstream.asr.recogniser import CHARACTERS
from downstream.find import Finder, Limits, merge_blanks, read_texts

TEXTS = """v1 بسم الله الرحمن الرحيم
v2 الحمد لله رب العالمين
v3 الرحمن الرحيم
v4 مالك يوم الدين
v5 إياك نعبد وإياك نستعين
v6 قل أعوذ برب الناس
"""


def spoken(text: str, sure: float = 0.9, frames: int = 2, seed: int = 0) -> np.ndarray:
    """Log-probabilities in which each letter of a text lasts some frames, with a blank behind."""
    rng = np.random.default_rng(seed)
    rows = []
    for letter in text:
        for label in [CHARACTERS.index(letter)] * frames + [0]:
            noise = rng.dirichlet(np.ones(len(CHARACTERS))) * (1 - sure)
            noise[label] += sure
            rows.append(noise)
    return np.log(np.array(rows) + 1e-9).astype(np.float32)


def greedy(log_probs: np.ndarray) -> str:
    best = log_probs.argmax(-1)
    kept = [b for i, b in enumerate(best) if b and (i == 0 or best[i - 1] != b)]
    return "".join(CHARACTERS[b] for b in kept)


@pytest.fixture
def verses(tmp_path: Path) -> Path:
    path = tmp_path / "verses.txt"
    path.write_text(TEXTS, encoding="utf-8")
    return path


def find(path: Path, text: str, spans: int = 1, **options: float):
    probabilities = spoken(text, **options)
    return Finder(read_texts(path, CHARACTERS), CHARACTERS, spans=spans).find(probabilities, greedy(probabilities))


def test_a_line_is_found_though_letters_are_wrong(verses: Path) -> None:
    assert find(verses, "ملك يوم الذين", sure=0.6).ids == ["v4"]
    assert find(verses, "الرحمن الرحيم").ids == ["v3"]


def test_consecutive_lines_are_found_in_order(verses: Path) -> None:
    text = "الحمد لله رب العالمين الرحمن الرحيم مالك يوم الدين"
    found = find(verses, text, spans=5)
    assert found.ids == ["v2", "v3", "v4"] and found.margin > 0
    assert len(find(verses, text, spans=1).ids) <= 1
    assert find(verses, text, spans=10**12).ids == found.ids


def test_a_text_that_is_not_in_the_list_is_none(verses: Path) -> None:
    found = find(verses, "تفضل بالجلوس هنا يا سيدي")
    assert found.ids == [] and found.margin < 0


def test_a_maddah_is_read_as_the_spelling_of_the_list_means_it(tmp_path: Path) -> None:
    for name, text, read in (("modern", "آمنوا ما", "آمنوا ما"), ("quran", "ٱلۡكِتَٰبِ مَآ", "الكتاب ما")):
        (tmp_path / name).write_text(f"v1 {text}\n", encoding="utf-8")
        assert read_texts(tmp_path / name, CHARACTERS).texts == [read]


def test_a_bad_recording_is_found_if_no_other_line_is_near(verses: Path) -> None:
    garbled = "قا أعز برل ناص"  # 5 of 13 letters of v6 differ
    lines = read_texts(verses, CHARACTERS)
    probabilities = spoken(garbled)
    strict = Finder(lines, CHARACTERS, limits=Limits(share=0.1, gap=1.0)).find(probabilities, garbled)
    assert strict.ids == [] and strict.margin < 0
    assert Finder(lines, CHARACTERS, limits=Limits(share=0.1, gap=0.1)).find(probabilities, garbled).ids == ["v6"]


def test_equal_lines_and_spans_with_the_line_are_no_rivals(tmp_path: Path) -> None:
    path = tmp_path / "refrain.txt"
    path.write_text("a فبأي آلاء ربكما تكذبان\nb كل من عليها فان\nc فبأي آلاء ربكما تكذبان\n", encoding="utf-8")
    said = "فبأ الاء ربكم تكذبن"
    finder = Finder(read_texts(path, CHARACTERS), CHARACTERS, spans=2, limits=Limits(share=0.0, gap=0.2))
    assert finder.find(spoken(said), said).ids == ["a"]


def test_probabilities_decide_between_texts_that_are_equally_near(tmp_path: Path) -> None:
    path = tmp_path / "near.txt"
    path.write_text("a قال كتاب\nb قال كتاب\nc قال كتان\n", encoding="utf-8")
    probabilities = spoken("قال كتام")
    frame = 3 * 7 + 2  # the last letter could be either; it sounds more like that of `c`
    for letter, share in (("ب", 0.01), ("ن", 0.08)):
        probabilities[frame - 2 : frame, CHARACTERS.index(letter)] = np.log(share)
    finder = Finder(read_texts(path, CHARACTERS), CHARACTERS, limits=Limits(share=0.3, gap=1.0))
    found = finder.find(probabilities, "قال كتام")
    assert found.ids == ["c"] and found.margin == pytest.approx(0.3 - 1 / 7, abs=1e-4)


def test_the_likelihood_decides_where_it_was_calibrated(verses: Path) -> None:
    garbled = "قا أعز برل ناص"  # 5 of 13 letters of v6 differ
    lines = read_texts(verses, CHARACTERS)
    unsure, sure = spoken(garbled, sure=0.3), spoken(garbled, sure=0.999)
    for probabilities, ids in ((unsure, ["v6"]), (sure, [])):
        finder = Finder(lines, CHARACTERS, spans=3, limits=Limits(likelihood=-2.0))
        found = finder.find(probabilities, garbled)
        assert found.ids == ids and (found.margin >= 0) == bool(ids)
    refrain = Finder(lines, CHARACTERS, limits=Limits(likelihood=-0.5)).find(spoken("الرحمن الرحيم"), "الرحمن الرحيم")
    assert refrain.ids == ["v3"] and refrain.score > -0.2


def test_a_bonus_finds_a_line_whose_letters_were_hardly_heard(tmp_path: Path) -> None:
    path = tmp_path / "two.text"
    path.write_text("long قال كتاب كبير\nshort قال كبير\n", encoding="utf-8")
    probabilities = spoken("قال كبير", sure=0.9)
    word = spoken("كتاب ", sure=0.02)  # each of its letters has less than the blank
    word[:, 0] = np.logaddexp(word[:, 0], np.log(0.9))
    probabilities = np.concatenate([probabilities[:12], word, probabilities[12:]])
    lines = read_texts(path, CHARACTERS)
    for bonus, expected in ((0.0, "short"), (4.0, "long")):
        limits = Limits(likelihood=-100.0, bonus=bonus)
        assert Finder(lines, CHARACTERS, limits=limits).find(probabilities, "قال كبير").ids == [expected]


def test_silence_is_none(verses: Path) -> None:
    silence = np.log(np.full((50, len(CHARACTERS)), 1e-3, np.float32))
    silence[:, 0] = np.log(0.96)
    found = Finder(read_texts(verses, CHARACTERS), CHARACTERS).find(silence, "")
    assert found.ids == [] and found.score is None


def test_diacritics_and_uthmani_spelling_are_searched_as_modern(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("a ٱلۡحَمۡدُ لِلَّهِ رَبِّ ٱلۡعَٰلَمِينَ\n\nb مَٰلِكِ يَوۡمِ ٱلدِّينِ\n", encoding="utf-8")
    assert read_texts(path, CHARACTERS).texts == ["الحمد لله رب العالمين", "مالك يوم الدين"]


def test_what_follows_the_id_is_the_text(tmp_path: Path, caplog) -> None:
    """A tab is as good as a space; without ids the first words of the texts would be lost without a word."""
    path = tmp_path / "list.tsv"
    path.write_bytes("\ufeff\u200fa\tقال كتاب\u200f\r\nb  كل من عليها\r\n\u200f\r\n".encode("utf-16-le"))
    found = read_texts(path, CHARACTERS)
    assert (found.ids, found.texts) == (["a", "b"], ["قال كتاب", "كل من عليها"]) and not caplog.text
    path.write_text("قال كتاب\nكل من عليها\n", encoding="utf-8")
    read_texts(path, CHARACTERS)
    assert "list.tsv: the first word of each line is taken for its id, as قال" in caplog.text
    path.write_bytes("a كتاب\n".encode("cp1256"))
    with pytest.raises(CorpusError, match="list.tsv:1: not UTF-8"):
        read_texts(path, CHARACTERS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no lines"),
        ("a كتاب\na قلم\n", ":2: the id a is also in line 1"),
        ("a\n", ":1: a, the id, has no text"),
        ("a كتاب\nb hello\n", ":2: b, the id, has no text"),
    ],
)
def test_a_list_that_cannot_be_searched_says_where(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DownstreamError, match=message):
        read_texts(path, CHARACTERS)


def test_merged_blanks_keep_the_likelihood_of_a_text() -> None:
    """A text with and without letters that were not written: nearly the same loss from a quarter of the frames."""
    text = "قل أعوذ برب الناس"
    pause = np.full((60, len(CHARACTERS)), 1e-4 / (len(CHARACTERS) - 1))
    pause[:, 0] = 1 - 1e-4
    sounds = np.split(spoken(text, sure=0.95), len(text))
    whole = np.concatenate([part for sound in sounds for part in (sound, np.log(pause).astype(np.float32)[:20])])
    merged = merge_blanks(whole)
    assert len(merged) < len(whole) / 3
    for other in (text, text + " من", text.replace("ب", ""), "مالك يوم الدين"):
        labels = torch.tensor([[CHARACTERS.index(letter) for letter in other]])
        losses = [
            float(ctc_loss(torch.from_numpy(rows)[:, None], labels, [len(rows)], [labels.shape[1]], reduction="sum"))
            for rows in (whole, merged)
        ]
        assert losses[1] == pytest.approx(losses[0], abs=0.05 * len(other)), other
    np.testing.assert_allclose(merge_blanks(whole[:3]), whole[:3], rtol=1e-5)  # no blank that is sure
    np.testing.assert_allclose(merged[:, 0].sum(), whole[:, 0].sum(), rtol=1e-5)
