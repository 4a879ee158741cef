"""The English corpora, read through Lhotse's recipes: sample counts, texts, errors with file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import gigaspeech, librispeech, tedlium3, voxpopuli
from corpora.files import CorpusError, TooManyBadFiles

pytestmark = pytest.mark.usefixtures("no_disk_sync")


def _noise(path: Path, samples: int, rate: int = 16000, **form: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(sum(map(ord, path.name)) + samples)
    soundfile.write(path, 0.1 * draw.standard_normal(samples), rate, **form)
    return path


def _librispeech(root: Path) -> Path:
    for part, speaker, chapter in (("train-clean-5", 121, 7), ("train-clean-5", 1210, 8), ("dev-clean-2", 84, 9)):
        folder = root / part / str(speaker) / str(chapter)
        lines = []
        for number in range(3):
            utt_id = f"{speaker}-{chapter}-{number:04d}"
            _noise(folder / f"{utt_id}.flac", 3203 + number)  # no multiple of a millisecond
            lines.append(f"{utt_id} THE WORDS OF IT'S NUMBER {number}")
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("\n".join(lines) + "\n")
    return root


def test_librispeech(tmp_path, caplog):
    corpus = _librispeech(tmp_path / "LibriSpeech")
    librispeech.prepare(corpus, tmp_path / "out")
    train, dev = read_datadir(tmp_path / "out/train-clean-5"), read_datadir(tmp_path / "out/dev-clean-2")
    assert validate_datadir(tmp_path / "out/train-clean-5") == []
    assert [u.utt_id for u in dev] == ["84-9-0000", "84-9-0001", "84-9-0002"]
    assert [u.samples for u in dev] == [3203, 3204, 3205] and dev[0].start is None
    assert {u.speaker for u in train} == {"121", "1210"} and train[0].text == "the words of it's number 0"
    assert {u.language for u in train} == {"en"}
    assert "published are 1089 (-1086)" in caplog.text


def test_librispeech_broken(tmp_path):
    corpus = _librispeech(tmp_path / "LibriSpeech")
    with pytest.raises(CorpusError, match="expected the folders test-clean; found dev-clean-2"):
        librispeech.prepare(corpus, tmp_path / "out", parts=("test-clean",))
    with pytest.raises(CorpusError, match="parts test: expected some of train-clean-100"):
        librispeech.prepare(corpus, tmp_path / "out", parts=("test",))
    (corpus / "dev-clean-2/84/9/84-9-0002.flac").unlink()
    (corpus / "dev-clean-2/84/9/84-9-0001.flac").unlink()
    with pytest.raises(TooManyBadFiles, match="dropped by Lhotse"):  # Lhotse itself only warns
        librispeech.prepare(corpus, tmp_path / "out", parts=("dev-clean-2",))
    path = corpus / "dev-clean-2/84/9/84-9.trans.txt"
    path.write_text(path.read_text() + "85-9-0003 WORDS\n")
    with pytest.raises(CorpusError, match=r"84-9.trans.txt:4: expected '84-9-NNNN TEXT', found '85-9-0003 WORDS'"):
        librispeech.prepare(corpus, tmp_path / "out")


def _tedlium(root: Path) -> Path:
    _noise(root / "legacy/dev/sph/AlGore_2009.sph", 32007, format="NIST", subtype="PCM_16")
    stm = root / "legacy/dev/stm/AlGore_2009.stm"
    stm.parent.mkdir()
    stm.write_text(
        "AlGore_2009 1 AlGore_2009 0.10 0.40 <o,f0,male> it 's <unk> good(2) {BREATH} today\n"
        "AlGore_2009 1 inter_segment_gap 0.40 0.90 <o,,unknown> ignore_time_segment_in_scoring\n"
        "AlGore_2009 1 AlGore_2009 0.90 2.00 <o,f0,male> thank you\n"
    )
    return root


def test_tedlium(tmp_path):
    tedlium3.prepare(_tedlium(tmp_path / "ted"), tmp_path / "out")
    first, last = read_datadir(tmp_path / "out/dev")
    assert (first.text, first.start, first.end) == ("it's good today", 1600, 6400)
    assert (last.text, last.start, last.end) == ("thank you", 14400, 32000)
    assert soundfile.info(first.audio).frames == 32007  # the whole talk, as our reader counts it
    stm = tmp_path / "ted/legacy/dev/stm/AlGore_2009.stm"
    stm.write_text(stm.read_text() + "AlGore_2009 1 AlGore_2009 2.0x 2.1 <o,f0,male> again\n")
    with pytest.raises(CorpusError, match=r"AlGore_2009.stm:4: expected a time in seconds, found '2.0x'"):
        tedlium3.prepare(tmp_path / "ted", tmp_path / "out")
    stm.write_text("AlGore_2009 1 AlGore_2009 0.1 0.2 <o,f0,male> a\n")
    (tmp_path / "ted/legacy/dev/sph/AlGore_2009.sph").unlink()
    with pytest.raises(CorpusError, match="Lhotse's recipe for tedlium3 stopped: Mismatch: found 0"):
        tedlium3.prepare(tmp_path / "ted", tmp_path / "out")


def _gigaspeech(root: Path) -> Path:
    audios = []
    for aid, subset in (("POD1", "{XS}"), ("YOU1", "{DEV}")):
        _noise(root / f"audio/{aid}.opus", 32000, format="OGG", subtype="OPUS")
        texts = ["HELLO <COMMA> WORLD <PERIOD>", "<MUSIC>", "IT'S FINE <QUESTIONMARK>"]
        segments = [
            {
                "sid": f"{aid}_S{n:07d}", "speaker": "N/A", "begin_time": n / 2, "end_time": n / 2 + 0.4,
                "text_tn": text, "subsets": [subset],
            }
            for n, text in enumerate(texts)
        ]  # fmt: skip
        audios.append(
            {
                "aid": aid, "path": f"audio/{aid}.opus", "sample_rate": 16000, "channels": 1, "duration": 2.0,
                "subsets": [subset], "segments": segments,
            }
        )  # fmt: skip
    (root / "GigaSpeech.json").write_text(json.dumps({"dataset": "GigaSpeech", "audios": audios}))
    return root


def test_gigaspeech(tmp_path):
    corpus = _gigaspeech(tmp_path / "giga")
    gigaspeech.prepare(corpus, tmp_path / "out", subset="XS")
    own = read_datadir(tmp_path / "out/train")
    assert [(u.utt_id, u.speaker, u.text) for u in own] == [
        ("POD1_S0000000", "POD1", "hello world"), ("POD1_S0000002", "POD1", "it's fine"),
    ]  # fmt: skip
    assert "POD1_S0000001" in (tmp_path / "out/excluded.tsv").read_text()  # music alone
    assert len(read_datadir(tmp_path / "out/dev")) == 2
    assert not list((tmp_path / "out").glob(".lhotse-*"))
    with pytest.raises(CorpusError, match="subset=XXL: expected one of XL"):
        gigaspeech.prepare(corpus, tmp_path / "out", subset="XXL")
    path = corpus / "GigaSpeech.json"
    path.write_text(path.read_text()[:-200])
    with pytest.raises(CorpusError, match="GigaSpeech.json: damaged JSON near byte"):
        gigaspeech.prepare(corpus, tmp_path / "out")


def _voxpopuli(root: Path, rows: list[str]) -> Path:
    _noise(root / "raw_audios/en/2009/20090101-0900-PLENARY_en.ogg", 32000, format="OGG", subtype="VORBIS")
    header = "session_id|id_|original_text|normed_text|speaker_id|gender|start_time|end_time|split|paragraph_id|is_gold"
    with gzip.open(root / "asr_en.tsv.gz", "wt") as file:
        file.write("\n".join([header, *rows]) + "\n")
    return root


def test_voxpopuli(tmp_path):
    row = "20090101-0900-PLENARY|x|Hello, World.|hello world|{}|female|{}|{}|{}|1|False"
    corpus = _voxpopuli(
        tmp_path / "vox",
        [
            row.format(4545, 0.1, 0.9, "train"),
            row.format("None", 1.0, 1.5, "dev"),
            row.format(4546, 1.5, 1.6, "test"),
            row.format(1, 1.6, 1.9, "unused"),
        ],
    )
    voxpopuli.prepare(corpus, tmp_path / "out")
    (train,), (dev,) = read_datadir(tmp_path / "out/train"), read_datadir(tmp_path / "out/dev")
    assert (train.speaker, train.text, train.start, train.end) == ("4545", "hello world", 1600, 14400)
    assert dev.speaker == "20090101-0900-PLENARY"  # a speaker that is not known
    _voxpopuli(corpus, [row.format(1, 0.1, "later", "train")])
    with pytest.raises(CorpusError, match=r"asr_en.tsv.gz:2: expected a time in seconds, found 'later'"):
        voxpopuli.prepare(corpus, tmp_path / "out")
    (corpus / "asr_en.tsv.gz").unlink()
    with pytest.raises(CorpusError, match="expected raw_audios/en/ and asr_en.tsv.gz; found raw_audios/"):
        voxpopuli.prepare(corpus, tmp_path / "out")
