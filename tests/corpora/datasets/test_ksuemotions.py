"""KSUEmotions: emotions by number, a speaker field that is a pattern."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import ksuemotions
from corpora.files import CorpusError, TooManyBadFiles, read_json

pytestmark = pytest.mark.usefixtures("no_disk_sync")


def _tree(root: Path, write_clip, *, speakers: int = 6) -> Path:
    for speaker in range(1, speakers + 1):
        for emotion in range(6):
            name = f"D05E0{emotion}P1S{speaker:02d}T01.flac"
            write_clip(root / "data/SPEECH/Phase_1" / f"S{speaker:02d}" / name, 10 * speaker + emotion, seconds=0.1)
    return root


def test_folds_emotions_and_speakers(tmp_path, write_clip, caplog):
    ksuemotions.prepare(_tree(tmp_path / "ksu", write_clip), tmp_path / "out", folds=2)
    names = dict(enumerate(ksuemotions.EMOTIONS))
    seen = set()
    for split in ("train", "dev", "test"):
        assert validate_datadir(tmp_path / "out/fold1" / split) == []
        for utterance in read_datadir(tmp_path / "out/fold1" / split):
            assert utterance.emotion == names[int(utterance.utt_id.split("E0")[1][0])]
            assert utterance.speaker in utterance.utt_id.split("-")[1]
            seen.add(utterance.utt_id)
    assert len(seen) == 36
    assert "6 speakers by the pattern" in caplog.text and "23 are published" in caplog.text
    assert read_json(tmp_path / "out/protocol.json")["disjoint_by"] == "speaker"


def test_emotions_can_be_left_out(tmp_path, write_clip):
    corpus = _tree(tmp_path / "ksu", write_clip)
    ksuemotions.prepare(corpus, tmp_path / "out", folds=2, emotions=("neutral", "angry"))
    assert {u.emotion for u in read_datadir(tmp_path / "out/fold1/train")} == {"neutral", "angry"}
    with pytest.raises(CorpusError, match="expected emotions among neutral.*found anger"):
        ksuemotions.prepare(corpus, tmp_path / "out", emotions=("anger",))


def test_unconfirmed_fields_show_what_was_found(tmp_path, write_clip):
    corpus = _tree(tmp_path / "ksu", write_clip)
    with pytest.raises(TooManyBadFiles, match=r"expected a speaker like .*X\\d\+\) in the name; set another"):
        ksuemotions.prepare(corpus, tmp_path / "out", speaker=r"(?P<speaker>X\d+)")
    with pytest.raises(CorpusError, match=r"no group \(\?P<speaker>"):
        ksuemotions.prepare(corpus, tmp_path / "out", speaker=r"S\d+")
    ksuemotions.prepare(corpus, tmp_path / "out", folds=2, speaker=r"Phase_1/(?P<speaker>S\d+)$")  # from the folder
    for path in corpus.rglob("*.flac"):
        path.rename(path.with_name(path.name.replace("E0", "M0")))
    with pytest.raises(CorpusError, match=r"names like \.\*E.*found data/SPEECH/.*D05M00P1S01T01.flac.*36 files"):
        ksuemotions.prepare(corpus, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"no such folder.*LDC2017S12"):
        ksuemotions.prepare(tmp_path / "nowhere", tmp_path / "out")


def test_a_number_that_is_no_emotion_is_counted(tmp_path, write_clip):
    corpus = _tree(tmp_path / "ksu", write_clip)
    write_clip(corpus / "data/SPEECH/Phase_1/S01/D05E09P1S01T01.flac", 999)
    ksuemotions.prepare(corpus, tmp_path / "out", folds=2)
    assert "expected an emotion from 0 to 5, found 9" in (tmp_path / "out/skipped.tsv").read_text()
