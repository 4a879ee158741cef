"""CALLHOME Egyptian: SPHERE files, two channels, misspelt folders, marked transcripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora.audio import read_audio
from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import callhome_egyptian
from corpora.files import CorpusError, TooManyBadFiles

pytestmark = pytest.mark.usefixtures("no_disk_sync")

TRANSCRIPT = """# a comment
0.10 0.60 A: +izzayyak ya {laugh} &maHmud

0.50 1.10 B1: %ah <English okay> ((mish fahim))
 // bass kwayyis
1.10 1.30 A: [[noise]] {breath}
"""


@pytest.fixture
def corpus(tmp_path) -> Path:
    root = tmp_path / "callhome"
    draw = np.random.default_rng(0)
    for spoken, written in (("train", "train"), ("devtest", "devtest"), ("evltest", "evaltest")):
        audio = root / "callhome/arabic" / spoken / f"ar_{spoken}_1.sph"
        audio.parent.mkdir(parents=True)
        # Side B is ten times louder.
        samples = draw.standard_normal((12000, 2)) * (0.01, 0.1)
        soundfile.write(audio, samples, 8000, format="NIST", subtype="ULAW")
        text = root / "callhome_arabic_trans_970711/transcrp" / written / "roman" / f"ar_{spoken}_1.txt"
        text.parent.mkdir(parents=True)
        text.write_bytes(TRANSCRIPT.replace("\n", "\r\n").encode())
    return root


def test_sides_are_channels(corpus, tmp_path):
    callhome_egyptian.prepare(corpus, tmp_path / "out")
    for split in ("train", "dev", "test"):
        assert validate_datadir(tmp_path / "out" / split) == []
        first, second = read_datadir(tmp_path / "out" / split)
        assert (first.text, second.text) == ("izzayyak ya maHmud", "ah okay mish fahim bass kwayyis")
        assert (first.start, first.end, second.start, second.end) == (1600, 9600, 8000, 17600)
        assert first.speaker.endswith("_1_A") and second.speaker.endswith("_1_B1")
        loud = [np.sqrt(np.mean(read_audio(u.audio, u.start, u.end) ** 2)) for u in (first, second)]
        assert loud[1] > 5 * loud[0]
    assert (tmp_path / "out/excluded.tsv").read_text().count("no words") == 3
    assert len((tmp_path / "out/overlaps.tsv").read_text().splitlines()) == 1  # the sides do not overlap themselves


def test_packed_sphere_files_name_the_converter(corpus, tmp_path):
    packed = corpus / "callhome/arabic/devtest/ar_devtest_1.sph"
    head = b"NIST_1A\n   1024\nsample_coding -s26 ulaw,embedded-shorten-v2.00\nend_head\n"
    content = packed.read_bytes()
    packed.write_bytes(head.ljust(1024) + b"ajkg\x02" * 100)
    with pytest.raises(TooManyBadFiles, match=r"devtest_1.sph: a SPHERE file packed with shorten.*sph2pipe -f wav"):
        callhome_egyptian.prepare(corpus, tmp_path / "out")
    packed.with_name("unpacked.sph").write_bytes(content)
    samples, rate = soundfile.read(packed.with_name("unpacked.sph"))
    soundfile.write(packed.with_suffix(".wav"), samples, rate)
    callhome_egyptian.prepare(corpus, tmp_path / "out")
    assert read_datadir(tmp_path / "out/dev")[0].audio.name == "ar_devtest_1.wav.0.wav"


def test_broken_trees(corpus, tmp_path):
    text = corpus / "callhome_arabic_trans_970711/transcrp/train/roman/ar_train_1.txt"
    text.write_text("A: hello\n" + TRANSCRIPT + "1.3 1.2 B: la\n")
    with pytest.raises(TooManyBadFiles, match=r"roman/ar_train_1.txt:1: expected '<start> <end> <A or B>: <text>'"):
        callhome_egyptian.prepare(corpus, tmp_path / "out")
    (corpus / "callhome/arabic/evltest").rename(corpus / "callhome/arabic/evtest")
    with pytest.raises(CorpusError, match=r"the test set lacks its folder callhome/arabic/evltest"):
        callhome_egyptian.prepare(corpus, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"transcrp/train/script: expected \*.txt; found none"):
        callhome_egyptian.prepare(corpus, tmp_path / "out", script="script")
    with pytest.raises(CorpusError, match=r"expected callhome/arabic/.*CALLHOME_EGYPTIAN=.*LDC97S45"):
        callhome_egyptian.prepare(tmp_path, tmp_path / "out")
