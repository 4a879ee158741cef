"""The English corpora through Lhotse's recipes: its parsing, our sample counts, errors with file and line."""

from __future__ import annotations

import gzip
import json

import pytest
import soundfile

from corpora.datadir import read_datadir
from corpora.datasets import gigaspeech, librispeech, tedlium3, voxpopuli
from corpora.files import CorpusError, TooManyBadFiles

pytestmark = pytest.mark.usefixtures("no_disk_sync")


def test_librispeech(tree, tmp_path, caplog):
    corpus = tree("librispeech")
    librispeech.prepare(corpus, tmp_path / "out")
    train, dev = read_datadir(tmp_path / "out/train-clean-5"), read_datadir(tmp_path / "out/dev-clean-2")
    assert [u.utt_id for u in dev] == ["84-9-0000", "84-9-0001", "84-9-0002"]
    assert [u.samples for u in dev] == [3203, 3204, 3205] and dev[0].start is None
    assert {u.speaker for u in train} == {"121", "1210"} and train[0].text == "the words of it's number 0"
    assert "published are 1089 (-1086)" in caplog.text
    with pytest.raises(CorpusError, match="test-clean; found dev-clean-2"):
        librispeech.prepare(corpus, tmp_path / "out", parts=("test-clean",))
    with pytest.raises(CorpusError, match="parts test: .*train-clean-100"):
        librispeech.prepare(corpus, tmp_path / "out", parts=("test",))
    for number in (1, 2):
        (corpus / f"dev-clean-2/84/9/84-9-000{number}.flac").unlink()
    with pytest.raises(TooManyBadFiles, match="dev-clean-2"):  # Lhotse itself only warns
        librispeech.prepare(corpus, tmp_path / "out", parts=("dev-clean-2",))


def test_tedlium(tree, tmp_path):
    corpus = tree("tedlium3")
    tedlium3.prepare(corpus, tmp_path / "out")
    first, last = read_datadir(tmp_path / "out/dev")
    assert (first.text, first.start, first.end) == ("it's good today", 1600, 6400)
    assert (last.text, last.start, last.end) == ("thank you", 14400, 32000)
    assert soundfile.info(first.audio).frames == 32007  # the whole talk, as our reader counts it
    (corpus / "legacy/dev/sph/AlGore_2009.sph").unlink()
    with pytest.raises(CorpusError, match="tedlium3"):
        tedlium3.prepare(corpus, tmp_path / "out")


def test_gigaspeech(tree, tmp_path):
    corpus = tree("gigaspeech")
    gigaspeech.prepare(corpus, tmp_path / "out")
    assert [(u.utt_id, u.speaker, u.text) for u in read_datadir(tmp_path / "out/train")] == [
        ("POD1_S0000000", "POD1", "hello world"), ("POD1_S0000002", "POD1", "it's fine"),
    ]  # fmt: skip
    assert "POD1_S0000001" in (tmp_path / "out/excluded.tsv").read_text()  # music alone
    assert not list((tmp_path / "out").glob(".lhotse-*"))
    with pytest.raises(CorpusError, match="subset='XXL': .*XL"):
        gigaspeech.prepare(corpus, tmp_path / "out", subset="XXL")
    (corpus / "GigaSpeech.json").write_text(json.dumps({"dataset": "GigaSpeech"}))
    with pytest.raises(CorpusError, match="GigaSpeech.json: .*audios"):
        gigaspeech.prepare(corpus, tmp_path / "out")


def test_voxpopuli(tree, tmp_path):
    corpus = tree("voxpopuli")
    voxpopuli.prepare(corpus, tmp_path / "out")
    (train,), (dev,) = read_datadir(tmp_path / "out/train"), read_datadir(tmp_path / "out/dev")
    assert (train.speaker, train.text, train.start, train.end) == ("4545", "hello world", 1600, 14400)
    assert dev.speaker == "20090101-0900-PLENARY"  # a speaker that is not known
    path = corpus / "asr_en.tsv.gz"
    whole = path.read_bytes()
    text = gzip.decompress(whole).decode()
    for old, new, token in (
        ("|0.1|", "|later|", "asr_en.tsv.gz:2: .*'later'"),
        ("|0.1|", "|1.1|", "asr_en.tsv.gz:2: .*1.1"),
        ("|0.1|", "|", "asr_en.tsv.gz:2: .*11 fields"),
        ("normed_text", "text", "asr_en.tsv.gz:1: .*missing: normed_text"),
    ):
        path.write_bytes(gzip.compress(text.replace(old, new).encode()))
        with pytest.raises(CorpusError, match=token):
            voxpopuli.prepare(corpus, tmp_path / "out")
    path.write_bytes(whole[:-20])
    with pytest.raises(CorpusError, match=r"asr_en.tsv.gz:\d"):
        voxpopuli.prepare(corpus, tmp_path / "out")
    path.unlink()
    with pytest.raises(CorpusError, match="asr_en.tsv.gz; found raw_audios/"):
        voxpopuli.prepare(corpus, tmp_path / "out")
