"""EYASE: six speakers, one tested in each fold; a layout that is a pattern."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import eyase
from corpora.files import CorpusError, TooManyBadFiles

pytestmark = pytest.mark.usefixtures("no_disk_sync")
SPEAKERS = ("fm01", "fm02", "fm03", "sm01", "sm02", "sm03")


def _tree(root: Path, write_clip) -> Path:
    for place, speaker in enumerate(SPEAKERS):
        for n, emotion in enumerate(("ang", "hap", "neu", "sad")):
            for take in range(2):
                name = f"{speaker}_{emotion} ({take + 1}).wav"
                write_clip(root / "EYASE" / name, 100 * place + 10 * n + take, seconds=0.1, rate=44100)
    return root


def test_one_speaker_is_tested_in_each_fold(tmp_path, write_clip):
    eyase.prepare(_tree(tmp_path / "corpus", write_clip), tmp_path / "out")
    tested = []
    for fold in range(1, 7):
        test = read_datadir(tmp_path / f"out/fold{fold}/test")
        assert validate_datadir(tmp_path / f"out/fold{fold}/test") == []
        assert sorted(u.emotion for u in test) == ["angry"] * 2 + ["happy"] * 2 + ["neutral"] * 2 + ["sad"] * 2
        tested += {u.speaker for u in test}
    assert sorted(tested) == list(SPEAKERS)


def test_another_layout(tmp_path, write_clip):
    corpus = _tree(tmp_path / "corpus", write_clip)
    for path in list(corpus.rglob("*.wav")):
        speaker, rest = path.stem.split("_")
        target = corpus / rest.split(" ")[0] / f"{speaker} {rest[-2]}.wav"
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    with pytest.raises(CorpusError, match=r"expected files with names like .*found ang/fm01 1.wav, .*48 files"):
        eyase.prepare(corpus, tmp_path / "out", file=r"(?P<speaker>\w+)_(?P<emotion>\w+) \(\d+\)\.wav")


def test_words_that_are_no_emotion_are_counted(tmp_path, write_clip):
    corpus = _tree(tmp_path / "corpus", write_clip)
    write_clip(corpus / "EYASE/fm01_xyz (1).wav", 5)
    eyase.prepare(corpus, tmp_path / "out")
    assert "expected one of angry, happy, neutral, sad, found 'xyz'" in (tmp_path / "out/skipped.tsv").read_text()
    for take in range(4):
        write_clip(corpus / f"EYASE/fm01_xyz ({take + 2}).wav", 6 + take)
    with pytest.raises(TooManyBadFiles):
        eyase.prepare(corpus, tmp_path / "out")
