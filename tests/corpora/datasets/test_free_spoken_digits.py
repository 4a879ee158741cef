"""Free Spoken Digits: 8 kHz to 16 kHz, very short clips, the publisher's split."""

from __future__ import annotations

import shutil

import pytest
import soundfile

from corpora.audio import read_audio
from corpora.datadir import read_datadir
from corpora.datasets import free_spoken_digits
from corpora.files import TooManyBadFiles

pytestmark = pytest.mark.usefixtures("no_disk_sync")


def test_digits_are_converted_and_split_by_index(corpus_trees, tmp_path):
    corpus = corpus_trees.free_spoken_digits(tmp_path / "corpus")
    free_spoken_digits.prepare(corpus, tmp_path / "out")
    for split, indices in (("train", {"5", "6"}), ("test", {"0", "4"})):
        utterances = read_datadir(tmp_path / "out" / split)
        assert {utterance.utt_id.split("_")[-1] for utterance in utterances} == indices
        for utterance in utterances:
            digit = int(utterance.utt_id.split("-")[1][0])
            assert utterance.text == free_spoken_digits.DIGITS[digit]
            seconds = 0.14 if digit == 6 else 0.4
            assert len(read_audio(utterance.audio)) == utterance.samples == pytest.approx(seconds * 16000, abs=4)


def test_utterances_without_a_frame_are_left_out_and_listed(corpus_trees, tmp_path):
    corpus = corpus_trees.free_spoken_digits(tmp_path / "corpus")
    soundfile.write(corpus / "recordings/0_theo_5.wav", corpus_trees.speech(1, 0.025, 8000)[:199], 8000)
    soundfile.write(corpus / "recordings/0_theo_6.wav", corpus_trees.speech(1, 0.025, 8000)[:200], 8000)
    words, tally = free_spoken_digits.read_words(corpus, tmp_path / "audio")
    sources = {word.recording.source: word.recording.samples for word in words["train"]}
    assert sources["recordings/0_theo_6.wav"] == 400
    assert "recordings/0_theo_5.wav" not in sources
    assert [path.name for path, _ in tally.skipped] == ["0_theo_5.wav"]
    assert "398 samples" in tally.skipped[0][1]


def test_a_copy_of_a_test_digit_does_not_train(corpus_trees, tmp_path):
    corpus = corpus_trees.free_spoken_digits(tmp_path / "corpus")
    shutil.copy(corpus / "recordings/3_theo_0.wav", corpus / "recordings/3_theo_9.wav")
    words, _ = free_spoken_digits.read_words(corpus, tmp_path / "audio")
    assert "recordings/3_theo_9.wav" not in {word.recording.source for word in words["train"]}


def test_many_bad_recordings_stop_the_stage(corpus_trees, tmp_path):
    corpus = corpus_trees.free_spoken_digits(tmp_path / "corpus")
    for path in sorted((corpus / "recordings").iterdir())[:8]:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(TooManyBadFiles, match="truncated"):
        free_spoken_digits.prepare(corpus, tmp_path / "out")


def test_real_digits(real_speech, tmp_path):
    corpus = tmp_path / "corpus"
    (corpus / "recordings").mkdir(parents=True)
    for path in sorted((real_speech / "free_spoken_digits/recordings").glob("6_*.wav")):
        (corpus / "recordings" / path.name).symlink_to(path)
    words, tally = free_spoken_digits.read_words(corpus, tmp_path / "audio")
    assert not tally.skipped and {word.text for own in words.values() for word in own} == {"six"}
    assert all(len(read_audio(word.recording.path)) == word.recording.samples for word in words["train"])
