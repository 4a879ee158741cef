"""BAVED: labels from file names, copies, and folds that are disjoint by speaker."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import _folds as folds
from corpora.datasets import baved
from corpora.files import CorpusError, TooManyBadFiles
from corpora.prepare.sources import read_sources

pytestmark = pytest.mark.usefixtures("no_disk_sync")


@pytest.fixture(scope="module")
def prepared(corpus_trees, tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("baved")
    corpus = corpus_trees.baved(root / "corpus")
    baved.prepare(corpus, root / "out", seed=1)
    return corpus, root / "out"


def _folds(out: Path) -> list[dict[str, list]]:
    return [
        {split: read_datadir(out / f"fold{number}/{split}") for split in ("train", "dev", "test")}
        for number in range(1, 6)
    ]


def test_labels_come_from_the_file_name(prepared):
    corpus, out = prepared
    moved = next((corpus / "0").glob("3-*-2-2-*.wav"))  # word 2 in the folder of word 0
    splits = [read_sources(out / "fold1" / split) for split in ("train", "dev", "test")]
    rows = {row.source: row.utt_id for own in splits for row in own}
    assert "-w2-e2-" in rows[f"0/{moved.name}"]
    for fold in _folds(out):
        for utterance in [u for own in fold.values() for u in own]:
            level = int(utterance.utt_id.split("-e")[1][0])
            assert utterance.emotion == ("low", "neutral", "high")[level]


def test_every_speaker_is_tested_once_and_splits_share_none(prepared):
    _, out = prepared
    tested = Counter()
    for number, fold in enumerate(_folds(out), 1):
        speakers = {split: {utterance.speaker for utterance in own} for split, own in fold.items()}
        assert not speakers["train"] & speakers["test"]
        assert not speakers["train"] & speakers["dev"]
        assert not speakers["dev"] & speakers["test"]
        tested.update(speakers["test"])
        for split, own in fold.items():
            assert validate_datadir(out / f"fold{number}/{split}") == []
            assert {utterance.emotion for utterance in own} == {"low", "neutral", "high"}
        assert sum(len(own) for own in fold.values()) == 63  # all distinct recordings, in every fold
    assert set(tested.values()) == {1} and len(tested) == 15


def test_copies_are_used_once_and_speakers_that_share_them_are_one_person(prepared):
    _, out = prepared
    rows = [row for split in ("train", "dev", "test") for row in read_sources(out / "fold1" / split)]
    assert len({row.sha256 for row in rows}) == len(rows)
    assert not [row for row in rows if row.source.startswith("0/1-")]  # speaker 1 is a copy of speaker 0


def test_speakers_that_share_one_recording_stay_together(corpus_trees, tmp_path):
    corpus = corpus_trees.baved(tmp_path / "corpus")
    source = next((corpus / "0").glob("7-*-0-1-*.wav"))
    shutil.copy(source, corpus / "0/9-m-29-0-1-900.wav")
    clips, _ = baved.read_clips(corpus, tmp_path / "audio")
    assert "baved009" not in {clip.speaker for clip in clips}
    assert len([clip for clip in clips if clip.speaker == "baved007"]) == 6  # 3 of speaker 7, 3 of speaker 9


def test_one_audio_with_two_labels_is_left_out(corpus_trees, tmp_path):
    corpus = corpus_trees.baved(tmp_path / "corpus")
    source = next((corpus / "0").glob("7-*-0-1-*.wav"))
    shutil.copy(source, corpus / "0/7-m-27-0-2-901.wav")
    clips, tally = baved.read_clips(corpus, tmp_path / "audio")
    assert not [clip for clip in clips if clip.recording.source in (f"0/{source.name}", "0/7-m-27-0-2-901.wav")]
    assert len(tally.skipped) == 2 and "several labels" in tally.skipped[0][1]


def test_too_few_speakers(corpus_trees, tmp_path):
    corpus = corpus_trees.baved(tmp_path / "corpus", speakers=8)
    with pytest.raises(CorpusError, match="7 speakers cannot make 5 folds"):
        baved.prepare(corpus, tmp_path / "out")
    baved.prepare(corpus, tmp_path / "out", folds=2)
    assert (tmp_path / "out/fold2/test/utt2emotion").exists() and not (tmp_path / "out/fold3").exists()


def test_odd_names_and_bad_files_are_counted(corpus_trees, tmp_path):
    corpus = corpus_trees.baved(tmp_path / "corpus")
    shutil.copy(next((corpus / "0").iterdir()), corpus / "0/notes.wav")
    clips, tally = baved.read_clips(corpus, tmp_path / "audio")
    assert len(clips) == 63
    assert [path.name for path, _ in tally.skipped] == ["notes.wav"]
    for path in sorted((corpus / "1").iterdir()):
        path.write_bytes(b"")
    with pytest.raises(TooManyBadFiles):
        baved.read_clips(corpus, tmp_path / "audio")


def test_missing_folder(tmp_path):
    with pytest.raises(CorpusError, match=r"no such folder.*BAVED="):
        baved.prepare(tmp_path / "nowhere", tmp_path / "out")


def test_real_folds(real_speech, tmp_path):
    clips, tally = baved.read_clips(real_speech / "baved", tmp_path / "audio")
    assert not tally.skipped
    assert len({clip.recording.sha256 for clip in clips}) == len(clips)
    labels: dict[str, Counter] = {}
    for clip in clips:
        labels.setdefault(clip.speaker, Counter())[clip.emotion] += 1
    for tests in (folds.speaker_folds(labels, 5, seed) for seed in range(3)):
        assert max(map(len, tests)) - min(map(len, tests)) <= 1
        for number, test in enumerate(tests):
            rest = {speaker: own for speaker, own in labels.items() if speaker not in test}
            dev = folds.dev_speakers(rest, number)
            for chosen in (test, dev, set(rest) - dev):
                assert set(sum((labels[speaker] for speaker in chosen), Counter())) == {"low", "neutral", "high"}
