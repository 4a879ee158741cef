"""Labelled data that cannot be used is refused with a name; what is left out is the same for every upstream."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from corpora.audio import write_audio
from corpora.datadir import read_datadir, write_datadir
from corpora.files import CorpusError
from downstream.probe.data import TaskDataError, ctc_frames_needed, folds_of, load_task
from downstream.protocols import load

SIZES = {"train": 12, "dev": 6, "test": 6}


def change(folder: Path, number: int, **values: object) -> str:
    """Rewrite one utterance of a data directory; returns its id."""
    utterances = read_datadir(folder)
    utterances[number] = replace(utterances[number], **values)
    write_datadir(folder, utterances)
    return utterances[number].utt_id


def shorten(folder: Path, number: int, samples: int) -> str:
    utterance = read_datadir(folder)[number]
    import numpy as np

    write_audio(utterance.audio, np.zeros(samples, np.float32))
    return change(folder, number, samples=samples)


def test_splits_items_and_hash(make_set: Callable[..., Path]):
    folder = make_set("ser", {**SIZES, "test_other": 4})
    data = load_task(folder, load("ser", "light"))
    assert list(data.splits) == ["train", "dev", "test", "test_other"]
    assert data.tests == ["test", "test_other"]
    assert [len(items) for items in data.splits.values()] == [12, 6, 6, 4]
    assert load_task(folder, load("ser", "light")).hash == data.hash


def test_the_hash_follows_labels_and_audio(make_set: Callable[..., Path]):
    folder = make_set("ser", SIZES)
    before = load_task(folder, load("ser", "light")).hash
    change(folder / "test", 0, emotion="sad")
    labels = load_task(folder, load("ser", "light")).hash
    shorten(folder / "test", 1, 8000)
    assert len({before, labels, load_task(folder, load("ser", "light")).hash}) == 3


def test_clips_under_50_ms_are_left_out_everywhere(make_set: Callable[..., Path], caplog: pytest.LogCaptureFixture):
    folder = make_set("ser", SIZES)
    short = shorten(folder / "test", 0, 799)
    shorten(folder / "test", 1, 800)
    data = load_task(folder, load("ser", "light"))
    assert data.left_out["test"] == [short]
    assert len(data.splits["test"]) == 5
    assert short in caplog.text and "50 ms" in caplog.text


def test_too_many_short_clips_stop_the_task(make_set: Callable[..., Path]):
    folder = make_set("ser", SIZES)
    first = shorten(folder / "test", 0, 400)
    shorten(folder / "test", 1, 400)
    with pytest.raises(TaskDataError, match=f"2 of 6 utterances are shorter than 50 ms .* the first is {first}"):
        load_task(folder, load("ser", "light"))


def test_a_class_that_training_lacks_names_the_utterance(make_set: Callable[..., Path]):
    folder = make_set("did", SIZES)
    utt_id = change(folder / "test", 3, dialect="gulf")
    with pytest.raises(TaskDataError, match=f"utt2dialect: utterance {utt_id} has the label `gulf`, which training"):
        load_task(folder, load("did", "light"))


def test_a_speaker_on_both_sides_is_refused(make_set: Callable[..., Path]):
    folder = make_set("ser", SIZES)
    shutil.rmtree(folder / "test")
    shutil.copytree(folder / "train", folder / "test")
    with pytest.raises(TaskDataError, match="speaker train0 .* is also in train"):
        load_task(folder, load("ser", "light"))


def test_ctc_needs_a_blank_between_equal_letters():
    assert ctc_frames_needed("") == 1  # S3PRL ends every text with <eos>
    assert ctc_frames_needed("ابت") == 4
    assert ctc_frames_needed("اللهم") == 7


def test_training_text_that_ctc_cannot_align_is_left_out(make_set: Callable[..., Path]):
    folder = make_set("asr", {**SIZES, "train": 40})
    frames = read_datadir(folder / "train")[0].samples // 640
    fits = change(folder / "train", 0, text="اب" * ((frames - 1) // 2))
    data = load_task(folder, load("asr", "light"))
    assert data.left_out["train"] == []
    change(folder / "train", 0, text="ا" * (frames // 2 + 1))
    data = load_task(folder, load("asr", "light"))
    assert data.left_out["train"] == [fits]
    assert fits not in [item.utt_id for item in data.splits["train"]]


def test_test_text_is_never_left_out_for_its_length(make_set: Callable[..., Path]):
    folder = make_set("asr", SIZES)
    change(folder / "test", 0, text="اب " * 60)
    assert len(load_task(folder, load("asr", "light")).splits["test"]) == 6


def test_text_is_scored_and_trained_in_one_profile(make_set: Callable[..., Path]):
    folder = make_set("asr", SIZES)
    change(folder / "train", 0, text="أَبٌ  تَاجٌ")
    item = next(i for i in load_task(folder, load("asr", "light")).splits["train"])
    assert item.label == "اب تاج"


def test_a_text_of_marks_only_is_an_empty_label(make_set: Callable[..., Path]):
    folder = make_set("asr", SIZES)
    utt_id = change(folder / "dev", 0, text="\u064b\u064e")
    with pytest.raises(TaskDataError, match=f"utterance {utt_id} has an empty label in text profile mgb"):
        load_task(folder, load("asr", "light"))


def test_unknown_characters_stay_when_few_and_stop_when_many(
    make_set: Callable[..., Path], caplog: pytest.LogCaptureFixture
):
    folder = make_set("asr", {**SIZES, "test": 40})
    utt_id = change(folder / "test", 5, text="اب ز")
    assert len(load_task(folder, load("asr", "light")).splits["test"]) == 40
    assert f"the first is {utt_id} with `ز` (U+0632)" in caplog.text
    for number in range(4):
        change(folder / "test", number, text="زز")
    with pytest.raises(TaskDataError, match="5 of 40 utterances hold characters .* one text profile"):
        load_task(folder, load("asr", "light"))


def test_missing_pieces_are_named(make_set: Callable[..., Path]):
    folder = make_set("ser", SIZES)
    with pytest.raises(TaskDataError, match="no file text, which asr needs"):
        load_task(folder, load("asr", "light"))
    shutil.rmtree(folder / "dev")
    with pytest.raises(TaskDataError, match=r"no data directory .*dev"):
        load_task(folder, load("ser", "light"))
    with pytest.raises(TaskDataError, match="no test set"):
        load_task(make_set("ser", {"train": 6, "dev": 6}, "other"), load("ser", "light"))


def test_missing_audio_is_named(make_set: Callable[..., Path]):
    folder = make_set("ser", SIZES)
    audio = read_datadir(folder / "train")[0].audio
    audio.unlink()
    with pytest.raises(CorpusError, match=audio.name):
        load_task(folder, load("ser", "light"))


def test_folds_are_numbers(tmp_path: Path):
    for name in ("fold1", "fold10", "fold2", "folded", "train"):
        (tmp_path / name).mkdir()
    assert folds_of(tmp_path) == [1, 2, 10]


def test_a_speaker_of_dev_in_test_is_refused(make_set: Callable[..., Path]):
    """Dev chooses checkpoint and learning rate: a test on its speakers is no test on unseen ones."""
    folder = make_set("did", SIZES)
    utterances = [
        replace(u, utt_id=u.utt_id.replace("test", "dev") + "x", speaker=u.speaker.replace("test", "dev"))
        for u in read_datadir(folder / "test")
    ]
    write_datadir(folder / "test", utterances)
    with pytest.raises(TaskDataError, match=r"speaker dev0 .* is also in dev; .*programme or video for dialect"):
        load_task(folder, load("did", "light"))


def test_one_recording_under_two_ids_is_refused(make_set: Callable[..., Path]):
    """The same video uploaded twice, or a speaker with two numbers: the ids say nothing."""
    folder = make_set("did", SIZES)
    known = read_datadir(folder / "train")[0]
    one = read_datadir(folder / "test")[0]
    shutil.copyfile(known.audio, one.audio)
    utt_id = change(folder / "test", 0, samples=known.samples)
    with pytest.raises(TaskDataError, match=f"utterance {utt_id} is the very recording of {known.utt_id} in train"):
        load_task(folder, load("did", "light"))


def test_other_transcriptions_are_read_beside_the_text(make_set: Callable[..., Path]):
    folder = make_set("asr", SIZES)
    first, second = read_datadir(folder / "test")[:2]
    (folder / "test" / "text.omar").write_text(f"{first.utt_id} أَب تاج\n", encoding="utf-8")
    (folder / "test" / "text_ali").write_text(f"{first.utt_id} {first.text}\n{second.utt_id} تاب\n", encoding="utf-8")
    before = load_task(folder, load("asr", "light"))
    others = {item.utt_id: item.others for item in before.splits["test"]}
    assert others[first.utt_id] == ("اب تاج",) and others[second.utt_id] == ("تاب",)
    assert others[read_datadir(folder / "test")[2].utt_id] == ()
    (folder / "test" / "text.omar").write_text(f"{first.utt_id} أَب\n", encoding="utf-8")
    assert load_task(folder, load("asr", "light")).hash != before.hash
    (folder / "test" / "text.omar").write_text("nobody-1 أَب\n", encoding="utf-8")
    with pytest.raises(TaskDataError, match=r"text.omar:1: utterance nobody-1 is not in"):
        load_task(folder, load("asr", "light"))


def test_normalised_text_cannot_be_scored_in_another_profile(
    make_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    from downstream.probe import data

    folder = make_set("asr", SIZES)
    for split in SIZES:
        for number in range(SIZES[split]):
            change(folder / split, number, text="هاب")
    monkeypatch.setattr(data, "_ENOUGH_LETTERS", 10)
    load_task(folder, load("asr", "light"))
    with pytest.raises(TaskDataError, match="was normalised to the profile mgb before, .* not be those of leaderboard"):
        load_task(folder, load("asr", "light", {"text_profile": "leaderboard"}))
    change(folder / "train", 0, text="هابة")
    for split in ("dev", "test"):
        change(folder / split, 0, text="هابة")
    load_task(folder, load("asr", "light", {"text_profile": "leaderboard", "max_left_out": 0.5}))


def test_the_corpus_is_what_the_test_set_says(make_set: Callable[..., Path]):
    from corpora.prepare.sources import Provenance, write_sources

    folder = make_set("ser", SIZES)
    assert load_task(folder, load("ser", "light")).corpus == ""
    write_sources(folder / "test", [Provenance("test0-000", "baved", "0/a.wav", "0" * 64)])
    write_sources(folder / "train", [Provenance("train0-000", "eyase", "0/b.wav", "1" * 64)])
    assert load_task(folder, load("ser", "light")).corpus == "baved"


def test_audio_that_cannot_be_read_is_found_once(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from downstream.probe import data

    loaded = load_task(make_set("ser", {**SIZES, "train": 30}), load("ser", "light"))
    bad = loaded.splits["train"][3]
    bad.audio.write_bytes(bad.audio.read_bytes()[:-200])  # truncated after it was listed
    kept = data.readable(loaded, tmp_path)
    assert kept.splits["train"] == [item for item in loaded.splits["train"] if item is not bad]
    assert kept.splits["test"] == loaded.splits["test"]
    monkeypatch.setattr(data, "read_utterance", None)
    assert data.readable(loaded, tmp_path) == kept
