"""EAED: a space in every name, 44.1 kHz, an actor in two series."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import eaed
from corpora.files import CorpusError

pytestmark = pytest.mark.usefixtures("no_disk_sync")
ACTORS = {
    "Series A": ["NellyKarim", "Nelly", "Amr Saad", "MonaZaki"],
    "Series B": ["NellyKarim", "Yousra", "HendSabry"],
}


def _tree(root: Path, write_clip) -> Path:
    seed = 0
    for series, actors in ACTORS.items():
        for actor in actors:
            for emotion in eaed.EMOTIONS:
                seed += 1
                spelling = "Happy" if emotion == "happy" and actor == "Yousra" else emotion
                write_clip(root / series / actor / f"{actor}_{spelling}_ 01.wav", seed, seconds=0.1, rate=44100)
    # a file in the folder of another actor: its name counts
    (root / "Series B/Yousra/Yousra_sad_ 01.wav").rename(root / "Series B/HendSabry/Yousra_sad_ 01.wav")
    return root


def test_folds(tmp_path, write_clip, caplog):
    eaed.prepare(_tree(tmp_path / "EAED", write_clip), tmp_path / "out", folds=2)
    own = [u for split in ("train", "dev", "test") for u in read_datadir(tmp_path / "out/fold2" / split)]
    assert all(validate_datadir(tmp_path / "out/fold2" / split) == [] for split in ("train", "dev", "test"))
    count = {speaker: len([u for u in own if u.speaker == speaker]) for speaker in {u.speaker for u in own}}
    assert count == {"nellykarim": 12, "nelly": 6, "amr_saad": 6, "monazaki": 6, "yousra": 6, "hendsabry": 6}
    assert {u.emotion for u in own} == set(eaed.EMOTIONS)
    assert abs(own[0].samples - 1600) <= 1
    assert "eaed, recordings: 42, published are 3614" in caplog.text


def test_too_few_actors_and_other_layouts(tmp_path, write_clip):
    corpus = _tree(tmp_path / "EAED", write_clip)
    with pytest.raises(CorpusError, match="6 speakers cannot make 5 folds"):
        eaed.prepare(corpus, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"expected files with names like .*found Series A/.*python -m corpora eaed"):
        eaed.prepare(corpus, tmp_path / "out", file=r"(?P<speaker>\d+)_(?P<emotion>\w+)\.wav")
