"""ANAD: whole videos held out, a list with stray characters, units that are there twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import anad
from corpora.files import CorpusError, read_json

pytestmark = pytest.mark.usefixtures("no_disk_sync")


def _tree(root: Path, write_clip, *, surprised: tuple[int, ...] = (3, 4, 6)) -> Path:
    lines = ["name,ZCR,Emotion "]
    for video in range(1, 9):
        emotion = "surprised" if video in surprised else ("happy", "angry")[video % 2]
        part = f"1sec_segmented_part{1 + video % 3}"
        for unit in range(1, 5):
            name = f"V{video}_1 ({unit}).wav"
            write_clip(root / part / part / name, 10 * video + unit, seconds=0.2, rate=44100)
            lines.append(f"{name}',0.1,{emotion}")
        write_clip(root / f"V{video}.wav", 500 + video)  # the whole call is no unit
    (root / "ANAD.csv").write_bytes(("\r\n".join(lines) + "\r\n").encode())
    twin = root / "1sec_segmented_part3/1sec_segmented_part3/V1_1 (1).wav"
    shutil.copy(root / "1sec_segmented_part2/1sec_segmented_part2/V1_1 (1).wav", twin)
    return root


def test_every_video_is_tested_once(tmp_path, write_clip, caplog):
    anad.prepare(_tree(tmp_path / "ANAD", write_clip), tmp_path / "out", folds=3)
    videos = []
    for fold in range(1, 4):
        parts = {split: read_datadir(tmp_path / f"out/fold{fold}" / split) for split in ("train", "dev", "test")}
        assert all(validate_datadir(tmp_path / f"out/fold{fold}" / split) == [] for split in parts)
        own = [{u.speaker for u in part} for part in parts.values()]
        assert sum(map(len, own)) == len(set().union(*own)) == 8
        assert sum(map(len, parts.values())) == 32
        assert {u.emotion for u in parts["train"]} == set(anad.EMOTIONS)
        videos += own[2]
    assert sorted(videos) == [f"V{n}" for n in range(1, 9)]
    assert read_json(tmp_path / "out/protocol.json")["disjoint_by"] == "video"
    assert "anad, recordings: 32, published are 1384" in caplog.text


def test_an_emotion_of_one_video(tmp_path, write_clip):
    corpus = _tree(tmp_path / "ANAD", write_clip, surprised=(3,))
    with pytest.raises(CorpusError, match=r"would score surprised without training it: 1 video has it \(V3\)"):
        anad.prepare(corpus, tmp_path / "out")
    anad.prepare(corpus, tmp_path / "out", emotions=("angry", "happy"), folds=3)
    assert not [u for u in read_datadir(tmp_path / "out/fold1/train") if u.speaker == "V3"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("V1_1 (1).wav,0.1,happy", r"ANAD.csv:34: V1_1 \(1\).wav is happy here and angry before"),
        ("V1_1 (1).wav,0.1,bored", r"ANAD.csv:34: expected one of angry, happy, surprised, found 'bored'"),
        ("unit1.wav,0.1,happy", r"ANAD.csv:34: expected a name like .*found 'unit1.wav'"),
        ("V1_1 (1).wav,happy", r"ANAD.csv:34: expected 3 fields \(name, ZCR, Emotion\), found 2"),
    ],
)
def test_a_broken_list_names_its_line(tmp_path, write_clip, line, message):
    corpus = _tree(tmp_path / "ANAD", write_clip)
    with (corpus / "ANAD.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CorpusError, match=message):
        anad.prepare(corpus, tmp_path / "out")


def test_missing_parts(tmp_path, write_clip):
    corpus = _tree(tmp_path / "ANAD", write_clip)
    with (corpus / "ANAD.csv").open("a") as file:
        file.write("V8_9 (9).wav,0.1,angry\n")
    anad.prepare(corpus, tmp_path / "out", folds=3)
    assert "V8_9 (9).wav" in (tmp_path / "out/skipped.tsv").read_text()
    with pytest.raises(CorpusError, match="expected a list of labels labels.csv"):
        anad.prepare(corpus, tmp_path / "out", table="labels.csv")
    with pytest.raises(CorpusError, match="ANAD.csv:1: expected the columns name, Mood; .*missing: Mood"):
        anad.prepare(corpus, tmp_path / "out", emotion_column="Mood")
