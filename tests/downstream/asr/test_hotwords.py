"""Decoding with hotwords, on posteriors made by hand."""

import time
from pathlib import Path

import numpy as np
import pytest

from downstream import DownstreamError
from downstream.asr.hotwords import Hotwords, decode, read_hotwords
from downstream.asr.reading import align, letter_frames
from downstream.asr.recogniser import CHARACTERS, best_path


def posteriors(text: str, doubt: dict[int, tuple[str, float]] | None = None) -> np.ndarray:
    """Log-probabilities of a text, two frames and a blank for each letter; at the positions in `doubt` another letter
    (an empty one: a blank) has so much of the probability."""
    rows = []
    for position, letter in enumerate(text):
        row = np.full(len(CHARACTERS), 1e-4)
        other, share = (doubt or {}).get(position, ("", 0.0))
        row[CHARACTERS.index(letter)] = 1 - share
        row[CHARACTERS.index(other) if other else 0] += share
        blank = np.full(len(CHARACTERS), 1e-4)
        blank[0] = 1.0
        rows += [row, row, blank]
    probabilities = np.array(rows)
    return np.log(probabilities / probabilities.sum(-1, keepdims=True)).astype(np.float32)


def read(log_probs: np.ndarray, *words: str, boost: float = 4.0) -> str:
    classes = decode(log_probs, CHARACTERS, Hotwords(words, boost))
    return " ".join("".join(CHARACTERS[label] for label in classes).split())


def test_without_a_hotword_in_sight_the_text_is_the_greedy_one() -> None:
    said = posteriors("قال سليم ممم", {1: ("ا", 0.3), 6: ("ر", 0.4)})
    assert read(said, "كتاب") == best_path(said.argmax(-1).tolist(), CHARACTERS) == "قال سليم ممم"


def test_a_hotword_wins_where_it_is_a_little_less_likely() -> None:
    said = posteriors("قال سالم", {6: ("ه", 0.3)})  # two frames: five times less likely
    assert read(said) == "قال سالم"
    assert read(said, "ساهم") == "قال ساهم"
    assert read(said, "ساهم", boost=1.0) == "قال سالم"


def test_a_hotword_is_not_invented() -> None:
    for share in (0.0, 0.05):  # 400 times less likely
        said = posteriors("قال سالم", {6: ("ه", share)})
        assert read(said, "ساهم", "ساهمون", "قال ساهم") == "قال سالم"
    silence = np.log(np.full((200, len(CHARACTERS)), 1e-4))
    silence[:, 0] = np.log(1 - 1e-4 * (len(CHARACTERS) - 1))
    assert read(silence, "ساهم") == ""
    assert read(posteriors("قال سالم", {6: ("ه", 0.01)}), "ساهم", boost=10.0) == "قال ساهم", "the bonus decides"
    assert read(posteriors("قال سالم", {6: ("ه", 0.001)}), "ساهم", boost=13.9) == "قال سالم", "below the floor"
    with pytest.raises(ValueError, match="below 14"):
        Hotwords(["ساهم"], 14.0)


def test_only_whole_words_have_the_bonus() -> None:
    said = posteriors("سالم", {2: ("ه", 0.3)})
    assert read(said, "ساهمون") == "سالم", "a beginning alone"
    assert read(posteriors("وسالم", {3: ("ه", 0.3)}), "ساهم") == "وسالم", "inside a longer word"
    assert read(posteriors("سالمون", {2: ("ه", 0.3)}), "ساهم") == "سالمون", "a longer word"


def test_phrases_and_words_inside_them() -> None:
    doubt = {5: ("ه", 0.3)}
    said = posteriors("قل سالم غدا", doubt)
    assert read(said, "قل ساهم") == "قل ساهم غدا"
    assert read(said, "ساهم غدا", "قل ساهم الله") == "قل ساهم غدا", "a phrase that breaks off hides no other"
    assert read(said, "قل ساهم الله") == "قل سالم غدا"
    both = posteriors("قل سالم", {5: ("ه", 0.3)})
    assert read(both, "قل", "قل ساهم") == "قل ساهم", "a phrase that begins with another hotword"
    hotwords = Hotwords(["قل", "قل هو الله"], 4.0)
    state, kept = "", 0.0
    for letter in "قل هم":
        state, kept = hotwords.step(state, kept, letter)
    assert (state, kept) == (None, 4.0) and hotwords.closed("قل هو") == 4.0


def test_a_hotword_stays_in_the_beam_until_it_is_complete() -> None:
    rows = []
    for letter in "قرطبة":  # last of three in each frame, hence last of 243 texts: 3.5 nats behind the first one
        row = np.full(len(CHARACTERS), 1e-6)
        row[[CHARACTERS.index(c) for c in ("ش", "ض", letter)]] = 0.4, 0.4, 0.2
        rows += [row, np.eye(len(CHARACTERS))[0] + 1e-6]
    said = np.log(np.array(rows))
    assert read(said, "قرطبة") == "قرطبة" and read(said) != "قرطبة"


def test_time_is_linear_and_bounded() -> None:
    rng = np.random.default_rng(0)
    worst = rng.dirichlet(np.ones(len(CHARACTERS)), size=2000).astype(np.float32)  # every letter possible in each frame
    words = ["".join(rng.choice(list(CHARACTERS[2:]), 6)) for _ in range(100)]

    def seconds(frames: int) -> float:
        begin = time.process_time()
        decode(np.log(worst[:frames]), CHARACTERS, Hotwords(words))
        return time.process_time() - begin

    assert seconds(2000) < 8 * seconds(500) + 0.2, "four times the frames"


def test_lists_and_files_are_read_in_the_spelling_of_the_recogniser(tmp_path: Path) -> None:
    assert read_hotwords("قُلْ هُوَ، الله,", CHARACTERS) == ["قل هو", "الله"]
    path = tmp_path / "words.txt"
    path.write_text("ٱلۡحَمۡدُ لِلَّهِ\n\nكتاب\n", encoding="utf-8")
    assert read_hotwords(str(path), CHARACTERS) == ["الحمد لله", "كتاب"]
    words = [f"كلمة{letter}" for letter in "ابتثجحخدذرزسشصضطظعغفقكلمنهوي"]  # longer than a name may be
    assert read_hotwords(",".join(words), CHARACTERS) == words
    path.write_text("كتاب\nhello\n", encoding="utf-8")
    with pytest.raises(DownstreamError, match=r"words.txt:2: `hello` has no letter"):
        read_hotwords(str(path), CHARACTERS)
    with pytest.raises(DownstreamError, match=r"neither a file nor a word: `absent.txt`"):
        read_hotwords("absent.txt", CHARACTERS)
    with pytest.raises(DownstreamError, match="no words"):
        read_hotwords(" ,", CHARACTERS)


def test_letters_have_the_frames_of_the_whole_alignment() -> None:
    text = "قال سالم لكم كتاب"
    said = posteriors(text)
    heard = [CHARACTERS.index(letter) for letter in text]
    assert letter_frames(said, heard) == align(said, heard) == [(3 * i, 3 * i + 1) for i in range(len(text))]
    said[12:24] = posteriors("سالم", {2: ("ه", 0.4), 3: ("", 0.4)})
    for other in ("قال ساهم لكم كتاب", "قال سال لكم كتاب", "قل سالم لكم كتابب", "ققال سالم لكم كتا", "لكم"):
        classes = [CHARACTERS.index(letter) for letter in other]
        found = letter_frames(said, classes)
        assert len(found) == len(classes) and all(a[1] < b[0] for a, b in zip(found, found[1:], strict=False))
        # Letters that were heard where the whole alignment has them keep their frames.
        same = [a == b for a, b in zip(found, align(said, classes), strict=True)]
        assert sum(same) >= len(classes) - 4, other
    with pytest.raises(ValueError, match="do not fit"):
        letter_frames(said[:5], heard)
