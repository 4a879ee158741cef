"""Subtitles from words with times."""

import pytest

from downstream.subtitles import CHARACTERS, PAUSE, SECONDS, cues, subtitles


def spoken(*words: str, gap: float = 0.1, seconds: float = 0.4) -> list[tuple[str, float, float]]:
    return [(word, i * (seconds + gap), i * (seconds + gap) + seconds) for i, word in enumerate(words)]


def test_a_pause_ends_a_cue() -> None:
    words = [("بسم", 0.5, 0.9), ("الله", 1.0, 1.4), ("الرحمن", 1.4 + PAUSE, 3.0)]
    assert cues(words) == [("بسم الله", 0.5, 1.4), ("الرحمن", 2.0, 3.0)]


def test_cues_are_short_and_hold_every_word_once_in_order() -> None:
    words = spoken(*("كلمة" + "ا" * (i % 5) for i in range(200)))
    found = cues(words)
    assert " ".join(text for text, _, _ in found).split() == [word for word, _, _ in words]
    assert all(len(text) <= CHARACTERS and end - start <= SECONDS for text, start, end in found)
    assert max(len(text) for text, _, _ in found) > CHARACTERS - 9, "lines are filled"
    slow = cues(spoken(*"ابتثجحخ", seconds=2.4))  # two fit
    assert all(end - start <= SECONDS for _, start, end in slow) and [len(t.split()) for t, _, _ in slow] == [
        2,
        2,
        2,
        1,
    ]


def test_a_long_line_ends_at_its_longest_gap() -> None:
    words = spoken(*["خمسة"] * 12)  # eight of them fit
    assert len(cues(words)[0][0].split()) == 8
    later = [(w, a + 0.2 * (i >= 6), b + 0.2 * (i >= 6)) for i, (w, a, b) in enumerate(words)]
    assert len(cues(later)[0][0].split()) == 6
    assert cues([("ا" * 60, 0.0, 9.0), ("ب", 9.1, 9.2)])[0] == ("ا" * 60, 0.0, 9.0)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("srt", "1\n00:59:59,990 --> 01:00:01,000\nقل هو\n\n2\n01:00:02,500 --> 01:00:03,007\nأحد\n\n"),
        ("vtt", "WEBVTT\n\n00:59:59.990 --> 01:00:01.000\nقل هو\n\n01:00:02.500 --> 01:00:03.007\nأحد\n\n"),
    ],
)
def test_files_have_the_times_and_text_of_their_format(form: str, expected: str) -> None:
    words = [("قل", 3599.99, 3600.5), ("هو", 3600.6, 3601.0), ("أحد", 3602.5, 3603.007)]
    assert subtitles(words, form) == expected


def test_nothing_spoken_is_a_file_without_cues() -> None:
    assert (subtitles([], "srt"), subtitles([], "vtt")) == ("", "WEBVTT\n\n")


def test_markup_is_escaped_in_webvtt_only() -> None:
    assert "a&lt;b" in subtitles([("a<b", 0.0, 1.0)], "vtt") and "a<b" in subtitles([("a<b", 0.0, 1.0)], "srt")
