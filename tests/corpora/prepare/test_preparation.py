"""What every corpus shares: counts, bad lines and recordings, segments, texts without words, audio that is in test."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora.audio import SAMPLE_RATE, hash_audio, load_any, read_audio
from corpora.datadir import read_datadir, validate_datadir
from corpora.files import TooManyBadFiles, read_json
from corpora.prepare.ingest import CorpusError
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.sources import check_isolation, read_sources
from corpora.registry import CorpusInfo
from corpora.tables import safe_id

pytestmark = pytest.mark.usefixtures("no_disk_sync")

INFO = CorpusInfo("probe", "Probe", ("asr",), 1.0, "none", "open", "by hand", "x", published={"train": 4, "test": 1})


def _noise(path: Path, seconds: float, rate: int = SAMPLE_RATE, channels: int = 1, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate)


def _item(number: int, source: str = "a.wav", **values: object) -> Item:
    return Item(f"s-{number:03d}", "s", source, f"list.csv:{number}", "كلمة", **values)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    _noise(tmp_path / "corpus/a.wav", 2.0)
    _noise(tmp_path / "corpus/b c.wav", 1.0, 8000, 2, seed=1)
    return tmp_path / "corpus"


def _rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def test_segments_stay_in_their_recording_and_what_is_odd_is_named(corpus, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    work = Preparation(INFO, corpus, tmp_path / "out", text_profile="mgb")
    fine = [_item(n, start=n * 0.05, end=n * 0.05 + 0.05) for n in range(30)]
    odd = [
        _item(50, start=1.0, end=1.7),  # overlaps 51
        _item(51, start=1.6, end=2.2),  # runs 0.2 s past the end: cut
        _item(52, start=1.9, end=2.6),  # 0.6 s past the end: refused
        replace(_item(53, "b c.wav", start=0.5, end=0.75), text="\u200f؟ #اه"),
        replace(_item(54, "b c.wav", start=0.5, end=0.75), text="مدرسة\u00a0\ufeffجديدة\t"),
        _item(55, start=0.3, end=0.31),
    ]
    work.add("train", fine + odd)
    work.write()
    out = tmp_path / "out"
    assert validate_datadir(out / "train") == []
    made = {u.utt_id: u for u in read_datadir(out / "train")}
    assert set(made) == {u.utt_id for u in fine} | {"s-050", "s-051", "s-054"}
    assert made["s-054"].text == "مدرسه جديده"
    assert (made["s-051"].start, made["s-051"].end) == (25600, 32000)
    assert (made["s-054"].audio.name, made["s-054"].start, made["s-054"].end) == ("b c.wav.wav", 8000, 12000)
    assert made["s-050"].audio == corpus / "a.wav"  # not cut, not copied
    assert ["train", "s-051", "s-050", "0.10"] in _rows(out / "overlaps.tsv")
    assert _rows(out / "skipped.tsv") == [["list.csv:52", "s-052 runs from 1.9 to 2.6 s, but a.wav has 2 s"]]
    assert [row[1:3] for row in _rows(out / "excluded.tsv")] == [["s-053", "list.csv:53"], ["s-055", "list.csv:55"]]
    summary = read_json(out / "summary.json")
    assert summary["sets"]["train"]["difference"] == 33 - 4 and summary["text_profile"] == "mgb"
    assert "probe, train: 33, published are 4 (+29); 2 left out" in caplog.text
    assert "the published set test (1 utterances) is not here" in caplog.text
    assert "s-051 ends at 2.2 s, a.wav has 2 s" in caplog.text


def test_too_many_bad_lines_or_recordings_stop_with_the_first_one(corpus, tmp_path):
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [_item(n, start=5, end=6) for n in range(3)])
    with pytest.raises(TooManyBadFiles, match=r"3 of 3 lines.*list.csv:0: s-000 runs from 5 to 6 s, but a.wav has 2 s"):
        work.write()
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [_item(1), _item(2, "gone.wav"), _item(3, "lost.wav")])
    with pytest.raises(TooManyBadFiles, match=r"2 of 3 files.*gone.wav: no such file, named by list.csv:2"):
        work.write()
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [_item(1), _item(2, "../a.wav"), _item(1)])
    work.bad("list.csv:7", "three fields")
    with pytest.raises(TooManyBadFiles, match=r"2 of 4 lines.*list.csv:2: the path '../a.wav' leaves"):
        work.write()
    assert not (tmp_path / "out/train").exists()


def test_an_utterance_id_is_used_once(corpus, tmp_path):
    work = Preparation(INFO, corpus, tmp_path / "out", skip_limit=0.5)
    work.add("train", [_item(1), replace(_item(1, "b c.wav"), where="list.csv:9")])
    work.write()
    assert _rows(tmp_path / "out/skipped.tsv") == [["list.csv:9", "utterance id s-001 is there already, in list.csv:1"]]


def test_training_holds_no_audio_of_a_test_set(corpus, tmp_path):
    """The same samples under another name and in another container; of a shared recording only the shared stretch."""
    soundfile.write(corpus / "copy.flac", read_audio(corpus / "a.wav"), SAMPLE_RATE)
    _noise(corpus / "c.wav", 1.0, seed=2)
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [_item(1), _item(2, "c.wav", start=0.0, end=0.5), _item(3, "c.wav", start=0.4, end=0.9)])
    work.add("test", [_item(4, "copy.flac"), _item(5, "c.wav", start=0.5, end=1.0)])
    work.write()
    assert [u.utt_id for u in read_datadir(tmp_path / "out/train")] == ["s-002"]
    assert [row[:2] for row in _rows(tmp_path / "out/excluded.tsv")] == [["train", "s-001"], ["train", "s-003"]]
    assert len(read_datadir(tmp_path / "out/test")) == 2
    assert read_json(tmp_path / "out/summary.json")["recordings_in_training_and_held_out"] == 1  # c.wav
    check_isolation([tmp_path / "out/train"], [])
    assert read_sources(tmp_path / "out/test")[0].source == "copy.flac"


def test_channels_are_taken_apart(corpus, tmp_path):
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [_item(1, "b c.wav", channel=0), _item(2, "b c.wav", channel=1), _item(3, "b c.wav")])
    first, second, both = (read_audio(u.audio) for u in work.write()["train"])
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_allclose((first + second) / 2, both, atol=1e-4)
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [_item(1, "a.wav", channel=1)])
    with pytest.raises(TooManyBadFiles, match="channel 1 asked for, the file has 1"):
        work.write()


def test_a_second_run_reads_only_what_has_changed(corpus, tmp_path, monkeypatch):
    def run() -> None:
        work = Preparation(INFO, corpus, tmp_path / "out")
        work.add("train", [_item(1), _item(2, "b c.wav")])
        work.write()

    run()
    journal = tmp_path / "out/audio/ingested.jsonl"
    with journal.open("a") as file:
        file.write('["a.wav", [null, 99')  # torn by kill -9
    monkeypatch.setattr("corpora.prepare.ingest.hash_audio", lambda path: pytest.fail(f"{path} is read again"))
    run()
    monkeypatch.setattr("corpora.prepare.ingest.hash_audio", hash_audio)
    _noise(corpus / "a.wav", 1.5, seed=3)
    run()
    assert read_datadir(tmp_path / "out/train")[0].samples == 24000
    monkeypatch.setattr("corpora.prepare.ingest.hash_audio", lambda path: pytest.fail(f"{path} is read again"))
    run()  # the torn line has swallowed nothing
    monkeypatch.setattr("corpora.prepare.ingest.hash_audio", hash_audio)
    (tmp_path / "out/audio/b c.wav.wav").unlink()
    run()
    assert (tmp_path / "out/audio/b c.wav.wav").exists()


_SLOW = """
import sys, time
from pathlib import Path
import corpora.prepare.ingest
from corpora.prepare.preparation import Item, Preparation
from corpora.registry import CorpusInfo
convert = corpora.prepare.ingest.convert_audio
corpora.prepare.ingest.convert_audio = lambda *own: (time.sleep(0.05), convert(*own))[1]
work = Preparation(CorpusInfo("probe", "", ("asr",), None, "", "open", "", ""), Path(sys.argv[1]), Path(sys.argv[2]))
work.add("train", [Item(f"s-{n:03d}", "s", f"{n:03d}.wav", f"list:{n}", "x") for n in range(40)])
work.write()
"""


def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(tmp_path):
    corpus = tmp_path / "corpus"
    for number in range(40):
        _noise(corpus / f"{number:03d}.wav", 0.1, 8000, seed=number)
    journal = tmp_path / "out/audio/ingested.jsonl"
    command = [sys.executable, "-c", _SLOW, str(corpus), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not (journal.exists() and journal.read_bytes().count(b"\n") >= 5):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.01)
        finally:
            process.kill()
    assert not (tmp_path / "out/train").exists()
    made = {line.split('"')[1] for line in journal.read_text().splitlines()[:5]}
    before = {name: (tmp_path / f"out/audio/{name}.wav").stat().st_ino for name in made}

    def prepare(out: Path) -> Path:
        work = Preparation(INFO, corpus, out)
        work.add("train", [_item(n, f"{n:03d}.wav") for n in range(40)])
        work.write()
        return out / "train"

    resumed, whole = prepare(tmp_path / "out"), prepare(tmp_path / "other")
    assert {name: (tmp_path / f"out/audio/{name}.wav").stat().st_ino for name in made} == before
    assert read_sources(resumed) == read_sources(whole)
    for name in ("utt2num_samples", "text", "spk2utt"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_processes_change_nothing(tmp_path):
    for number in range(64):
        _noise(tmp_path / f"corpus/{number:03d}.wav", 0.05, 8000, seed=number)

    def prepare(jobs: int) -> list[tuple]:
        work = Preparation(INFO, tmp_path / "corpus", tmp_path / f"out{jobs}", jobs=jobs)
        work.add("train", [_item(n, f"{n:03d}.wav") for n in range(64)])
        made = work.write()["train"]
        return [(u.utt_id, u.samples, hash_audio(u.audio)) for u in made]

    assert prepare(1) == prepare(2)


def test_a_long_recording_is_converted_by_the_minute(tmp_path, monkeypatch):
    monkeypatch.setattr("corpora.audio._BLOCK_SECONDS", 1)
    _noise(tmp_path / "x.wav", 3.3, 44100, 2)
    work = Preparation(INFO, tmp_path, tmp_path / "out")
    work.add("train", [_item(1, "x.wav")])
    made = work.write()["train"][0]
    np.testing.assert_allclose(read_audio(made.audio), load_any(tmp_path / "x.wav"), atol=2 / 32768)


def test_nothing_left_is_an_error(corpus, tmp_path):
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [])
    with pytest.raises(CorpusError, match="no utterance of probe is left"):
        work.write()


def test_ids_of_names_sort_below_what_follows_them():
    assert safe_id("ab_1.x") == "ab_1.x"
    assert safe_id("a-b") != safe_id("a_b") and safe_id("a-b").startswith("a_b_")
    assert safe_id("متحدث 1").isascii() and safe_id("متحدث 1") != safe_id("متحدث 2")
    assert os.fsencode(safe_id("a-b") + "-1") > os.fsencode(safe_id("a-b"))
