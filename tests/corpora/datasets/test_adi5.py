"""ADI-5: labels from folders, programmes from names, counts against the published ones."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import adi5
from corpora.files import CorpusError, TooManyBadFiles, read_json
from corpora.prepare.sources import read_sources

pytestmark = pytest.mark.usefixtures("no_disk_sync")


def _tree(root: Path, write_clip) -> Path:
    seed = 0
    for place, dialect in enumerate(adi5.DIALECTS):
        names = {
            "train": [f"{dialect}{number:06d}.wav" for number in range(1, 6)],
            "dev": [f"{_md5(f'd{place}{n}')}__{n}.10_{n}.50.wav" for n in range(2)],
            "test": [f"{_md5(f't{place}{n}')}_{'MF'[n]}_{n:04d}_{n}.10_{n}.50.wav" for n in range(2)],
        }
        for split, own in names.items():
            for name in own:
                seed += 1
                write_clip(root / split / "wav" / dialect / name, seed)
    return root


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def test_splits_labels_and_programmes(tmp_path, write_clip):
    corpus = _tree(tmp_path / "adi5", write_clip)
    adi5.prepare(corpus, tmp_path / "out")
    sizes = {}
    for split in ("train", "dev", "test"):
        assert validate_datadir(tmp_path / "out" / split) == []
        utterances = read_datadir(tmp_path / "out" / split)
        sizes[split] = len(utterances)
        sources = {row.utt_id: row.source for row in read_sources(tmp_path / "out" / split)}
        for utterance in utterances:
            assert sources[utterance.utt_id].split("/")[2] == utterance.dialect
            assert utterance.speaker == utterance.utt_id.split("_")[0]
    assert sizes == {"train": 25, "dev": 10, "test": 10}


def test_the_difference_from_the_published_counts_is_reported(tmp_path, write_clip, caplog):
    corpus = _tree(tmp_path / "adi5", write_clip)
    adi5.prepare(corpus, tmp_path / "out")
    gap = read_json(tmp_path / "out/summary.json")["sets"]["test"]["differs_from_published"]
    assert gap == {"EGY": 2 - 302, "GLF": 2 - 250, "LAV": 2 - 334, "MSA": 2 - 262, "NOR": 2 - 344}
    assert "adi5: test differs from the published counts: EGY -300" in caplog.text
    assert {split: sum(own.values()) for split, own in adi5.PUBLISHED.items()} == {
        "train": 14592, "dev": 1566, "test": 1492,
    }  # fmt: skip


def test_a_programme_of_test_is_not_in_dev(tmp_path, write_clip):
    corpus = _tree(tmp_path / "adi5", write_clip)
    shared = _md5("t00")
    write_clip(corpus / "dev/wav/EGY" / f"{shared}__7.00_7.20.wav", 900)
    adi5.prepare(corpus, tmp_path / "out")
    assert shared not in {u.speaker for u in read_datadir(tmp_path / "out/dev")}
    assert read_json(tmp_path / "out/summary.json")["sets"]["dev"]["of_shared_programmes"] == 1
    adi5.prepare(corpus, tmp_path / "kept", shared="keep")
    assert shared in {u.speaker for u in read_datadir(tmp_path / "kept/dev")}
    with pytest.raises(CorpusError, match=f"1 utterances of dev are of 1 programmes.*as {shared}"):
        adi5.prepare(corpus, tmp_path / "refused", shared="refuse")


def test_a_recording_of_test_is_not_in_train(tmp_path, write_clip):
    corpus = _tree(tmp_path / "adi5", write_clip)
    copy = next((corpus / "test/wav/MSA").iterdir())
    shutil.copy(copy, corpus / "train/wav/MSA/MSA000777.wav")
    adi5.prepare(corpus, tmp_path / "out")
    assert "MSA000777" in (tmp_path / "out/excluded.tsv").read_text()
    assert "MSA000777" not in {u.utt_id for u in read_datadir(tmp_path / "out/train")}


def test_contradictions_and_odd_names_are_counted(tmp_path, write_clip):
    corpus = _tree(tmp_path / "adi5", write_clip)
    (corpus / "train/wav/EGY/EGY000001.wav").rename(corpus / "train/wav/GLF/EGY000001.wav")
    write_clip(corpus / "dev/wav/NOR/notes.wav", 901)
    adi5.prepare(corpus, tmp_path / "out")
    skipped = (tmp_path / "out/skipped.tsv").read_text()
    assert "train/wav/GLF/EGY000001.wav\tfolder GLF and name do not agree" in skipped
    assert "NOR/notes.wav\texpected a name" in skipped
    shutil.copy(corpus / "dev/wav/EGY" / f"{_md5('d00')}__0.10_0.50.wav", corpus / "dev/wav/NOR")
    with pytest.raises(TooManyBadFiles, match="lines cannot be used"):
        adi5.prepare(corpus, tmp_path / "out")


def test_another_layout_is_refused(tmp_path):
    (tmp_path / "adi5/train").mkdir(parents=True)
    with pytest.raises(CorpusError, match=r"expected \{train,dev,test\}/wav/.*found train/.*ADI5="):
        adi5.prepare(tmp_path / "adi5", tmp_path / "out")
