"""MASC: cues of subtitles, lists with and without a header, dialects, videos that lack their subtitles."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import masc
from corpora.files import CorpusError, TooManyBadFiles

pytestmark = pytest.mark.usefixtures("no_disk_sync")

VTT = """WEBVTT
Kind: captions

NOTE a comment

1
00:00:00.000 --> 00:00:00.700 align:start position:0%
12] <c.yellow>مرحبا</c>
بكم &amp; أهلا

00:00.600 --> 00:01.100
نعم

00:00:01.100 --> 00:00:01.300
[موسيقى]
"""


@pytest.fixture
def corpus(tmp_path, noise) -> Path:
    root = tmp_path / "masc"
    (root / "subsets").mkdir(parents=True)
    (root / "subtitles").mkdir()
    for video in ("-aB_cdefghi", "AbCdEfGhIjK", "xyz12345678"):
        noise(root / f"audios/{video}.wav", 1.5)
        (root / f"subtitles/{video}.ar.vtt").write_bytes(VTT.replace("\n", "\r\n").encode("utf-8-sig"))
    (root / "subsets/clean_train.csv").write_text(
        "video_id,category,video_duration,channel_id,country,dialect,gender,transcript_duration\n"
        "-aB_cdefghi,News,1.5,UC1,Saudi Arabia,Modern Standard,male,1.3\n"
    )
    (root / "subsets/noisy_test_meta.csv").write_text("AbCdEfGhIjK,News,1.5,UC1,Egypt,Egyptian,,1.3\n")
    (root / "subsets/clean_dev_meta.csv").write_text("xyz12345678,News,1.5,UC1,Egypt,,,1.3\r\n")
    return root


def test_cues_become_segments(corpus, tmp_path):
    masc.prepare(corpus.parent, tmp_path / "out")
    train = read_datadir(tmp_path / "out/clean_train")
    assert [(u.text, u.start, u.end, u.dialect) for u in train] == [
        ("مرحبا بكم اهلا", 0, 11200, "Modern_Standard"),
        ("نعم", 9600, 17600, "Modern_Standard"),
        ("موسيقى", 17600, 20800, "Modern_Standard"),
    ]
    assert train[0].audio == corpus / "audios/-aB_cdefghi.wav"
    assert [u.dialect for u in read_datadir(tmp_path / "out/noisy_test")] == ["Egyptian"] * 3
    assert {u.dialect for u in read_datadir(tmp_path / "out/clean_dev")} == {"unknown"}
    assert sorted(path.parent.name for path in (tmp_path / "out").rglob("utt2spk")) == [
        "clean_dev", "clean_train", "noisy_test"
    ]  # fmt: skip
    assert all(validate_datadir(path.parent) == [] for path in (tmp_path / "out").rglob("utt2spk"))
    assert (tmp_path / "out/overlaps.tsv").read_text().count("0.10") == 3


def test_the_order_of_columns_is_an_option(corpus, tmp_path):
    (corpus / "subsets/noisy_test_meta.csv").write_text("AbCdEfGhIjK,Egyptian\n")
    (corpus / "subsets/clean_dev_meta.csv").write_text("x,y\n")
    with pytest.raises(TooManyBadFiles, match=r"clean_dev_meta.csv:1: expected 8 fields \(video_id.*found 2"):
        masc.prepare(corpus, tmp_path / "out")
    (corpus / "subsets/clean_train.csv").unlink()
    (corpus / "subsets/clean_dev_meta.csv").unlink()
    masc.prepare(corpus, tmp_path / "out", columns=("video_id", "dialect"))
    assert read_datadir(tmp_path / "out/noisy_test")[0].dialect == "Egyptian"
    with pytest.raises(CorpusError, match="lacks dialect"):
        masc.prepare(corpus, tmp_path / "out", columns=("video_id",))


def test_broken_trees(corpus, tmp_path):
    header = corpus / "subsets/clean_train.csv"
    header.write_text("video_id,variety\nxyz12345678,Egyptian\n")
    with pytest.raises(CorpusError, match=r"clean_train.csv:1: expected the columns video_id, dialect; found video"):
        masc.prepare(corpus, tmp_path / "out")
    header.write_text("video_id,dialect\nxyz12345678,Egyptian\ngone,Egyptian\nlost,Egyptian\n")
    with pytest.raises(TooManyBadFiles, match=r"2 of 5 files of subtitles.*gone.ar.vtt: no such file .named by"):
        masc.prepare(corpus, tmp_path / "out")
    (corpus / "audios").rename(corpus / "audio")
    with pytest.raises(CorpusError, match=r"expected audios/<video>.wav.*found audio/, subsets/, subtitles/"):
        masc.prepare(corpus, tmp_path / "out")
