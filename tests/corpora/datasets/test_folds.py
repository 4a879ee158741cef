"""Folds that are disjoint by speaker: seeded, balanced, and never a label that is scored without being trained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from corpora.datasets import _folds as folds
from corpora.datasets._emotion import Clip
from corpora.files import CorpusError, read_json
from corpora.prepare.sources import Recording

pytestmark = pytest.mark.usefixtures("no_disk_sync")


def _clips(root: Path, write_clip, emotions: dict[str, str], per: int = 3) -> list[Clip]:
    """`per` clips of each emotion (by first letter) of each speaker."""
    clips = []
    for place, (speaker, letters) in enumerate(emotions.items()):
        for letter in letters:
            for number in range(per):
                utt_id = f"{speaker}-{letter}{number}"
                path = write_clip(root / f"{utt_id}.wav", 1000 * place + 100 * ord(letter) + number, seconds=0.05)
                recording = Recording(path.name, path, 800, utt_id)
                clips.append(Clip(utt_id, speaker, letter, recording, "made"))
    return clips


def test_folds_are_seeded_and_balanced():
    draw = [300, 290, 100, 60, 40] + [7] * 34
    labels = {
        f"s{index:02d}": Counter(low=n // 3 + 1, neutral=n // 3, high=n - 2 * (n // 3)) for index, n in enumerate(draw)
    }
    chosen = folds.speaker_folds(labels, 5, seed=0)
    assert sorted(len(fold) for fold in chosen) == [7, 8, 8, 8, 8]
    assert set().union(*chosen) == set(labels)
    assert chosen == folds.speaker_folds(labels, 5, seed=0) != folds.speaker_folds(labels, 5, seed=1)
    large = [fold & {"s00", "s01", "s02", "s03", "s04"} for fold in chosen]
    assert all(len(own) == 1 for own in large)  # the five large speakers are in five folds
    rest = {speaker: labels[speaker] for speaker in set(labels) - chosen[0]}
    dev = folds.dev_speakers(rest, seed=0)
    assert dev == folds.dev_speakers(dict(sorted(rest.items())), seed=0)  # the order of a dict changes nothing
    size = sum(labels[speaker].total() for speaker in dev) / sum(own.total() for own in rest.values())
    assert 0.08 < size < 0.16 and dev < set(rest)


def test_the_protocol_names_every_speaker_once(tmp_path, write_clip):
    clips = _clips(tmp_path / "audio", write_clip, {f"s{n}": "ab" for n in range(6)})
    folds.write_folds("made", clips, tmp_path / "out", folds=3, least=2, seed=4)
    protocol = read_json(tmp_path / "out/protocol.json")
    tested = [speaker for part in protocol["parts"].values() for speaker in part["test"]]
    assert sorted(tested) == [f"s{n}" for n in range(6)]
    assert protocol["emotions"] == {"a": 18, "b": 18} and protocol["seed"] == 4
    assert all(not set(part["test"]) & set(part["dev"]) for part in protocol["parts"].values())


def test_the_last_speaker_of_a_label_stays_in_training(tmp_path, write_clip):
    # c is heard from two speakers: when one is tested, the other must be trained on, not be dev
    speakers = {"s0": "abc", "s1": "abc", "s2": "ab", "s3": "ab", "s4": "ab", "s5": "ab"}
    clips = _clips(tmp_path / "audio", write_clip, speakers, per=2)
    for seed in range(3):
        folds.write_folds("made", clips, tmp_path / "out", folds=3, least=2, seed=seed)
        for part in read_json(tmp_path / "out/protocol.json")["parts"].values():
            trained = set(speakers) - {*part["test"], *part["dev"]}
            assert trained & {"s0", "s1"} and not set(part["test"]) & set(part["dev"])


def test_a_label_of_one_speaker_cannot_be_scored(tmp_path, write_clip):
    speakers = {"v0": "abc", "v1": "ab", "v2": "ab", "v3": "ab", "v4": "ab", "v5": "ab"}
    clips = _clips(tmp_path / "audio", write_clip, speakers)
    with pytest.raises(CorpusError, match=r"would score c without training it: 1 video has it \(v0\).*--set emotions"):
        folds.write_folds("made", clips, tmp_path / "out", folds=3, least=2, speaker_word="video")
    assert not (tmp_path / "out").exists()
