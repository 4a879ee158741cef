"""The steps of every corpus: counts, bad lines and recordings, segments, texts without words, audio that is in test."""

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

from corpora.audio import BLOCK_SECONDS, SAMPLE_RATE, hash_audio, load_any, read_audio
from corpora.datadir import read_datadir, validate_datadir
from corpora.files import CorpusError, TooManyBadFiles, read_json
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.sources import check_isolation, read_sources, remove_other_folds, taking_channel
from corpora.registry import CorpusInfo

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


def test_segments_stay_in_their_recording_and_odd_ones_are_listed(corpus, tmp_path, caplog):
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
    assert [row[0] for row in _rows(out / "skipped.tsv")] == ["list.csv:52"]
    assert [row[1:3] for row in _rows(out / "excluded.tsv")] == [["s-053", "list.csv:53"], ["s-055", "list.csv:55"]]
    summary = read_json(out / "summary.json")
    assert summary["sets"]["train"]["difference"] == 33 - 4 and summary["text_profile"] == "mgb"
    assert "(+29)" in caplog.text and "s-051 ends at 2.2 s" in caplog.text


def test_too_many_bad_lines_or_recordings_stop_with_the_first_one(corpus, tmp_path):
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [_item(n, start=5, end=6) for n in range(3)])
    with pytest.raises(TooManyBadFiles, match="3 of 3 lines.*list.csv:0: s-000 .*5 to 6 s.*a.wav"):
        work.write()
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [_item(1), _item(2, "gone.wav"), _item(3, "lost.wav")])
    with pytest.raises(TooManyBadFiles, match="2 of 3 files.*gone.wav: .*list.csv:2"):
        work.write()
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [_item(1), _item(2, "../a.wav"), _item(1)])
    work.bad("list.csv:7", "three fields")
    with pytest.raises(TooManyBadFiles, match="2 of 4 lines.*list.csv:2: .*../a.wav"):
        work.write()
    assert not (tmp_path / "out/train").exists()


def test_an_utterance_id_is_used_once(corpus, tmp_path):
    work = Preparation(INFO, corpus, tmp_path / "out", skip_limit=0.5)
    work.add("train", [_item(1), replace(_item(1, "b c.wav"), where="list.csv:9")])
    work.write()
    ((where, reason),) = _rows(tmp_path / "out/skipped.tsv")
    assert where == "list.csv:9" and "s-001" in reason and "list.csv:1" in reason


def test_training_has_no_audio_of_a_test_set(corpus, tmp_path):
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


def test_channels_are_separate(corpus, tmp_path):
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [_item(1, "b c.wav", channel=0), _item(2, "b c.wav", channel=1), _item(3, "b c.wav")])
    first, second, both = (read_audio(u.audio) for u in work.write()["train"])
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_allclose((first + second) / 2, both, atol=1e-4)
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [_item(1, "a.wav", channel=1)])
    with pytest.raises(TooManyBadFiles, match="channel 1"):
        work.write()


def test_the_user_can_choose_a_channel(tmp_path):
    """A stereo call, and a mono file beside it; another choice reads the recordings again."""
    call = np.stack([0.1 * np.ones(16000), 0.3 * np.ones(16000)], axis=1) * np.sin(np.arange(16000) / 9)[:, None]
    (tmp_path / "corpus").mkdir()
    soundfile.write(tmp_path / "corpus/a.wav", call, SAMPLE_RATE)
    soundfile.write(tmp_path / "corpus/mono.wav", call[::-1, 0], SAMPLE_RATE)

    def peak(channel: int | None) -> float:
        work = Preparation(INFO, tmp_path / "corpus", tmp_path / "out", skip_limit=0.5)
        work.add("train", [_item(1), _item(2, "mono.wav")])
        with taking_channel(channel):
            written = work.write({})["train"]
        assert read_json(tmp_path / "out/summary.json")["channel"] == channel
        assert [u.utt_id for u in written] == (["s-001", "s-002"] if channel != 1 else ["s-001"])
        if channel != 1:  # one channel is channel 0, and needs no copy
            assert written[1].audio == tmp_path / "corpus/mono.wav"
        return float(np.abs(read_audio(written[0].audio)).max())

    assert [round(peak(channel), 2) for channel in (None, 1, 0)] == [0.2, 0.3, 0.1]


def test_a_chosen_channel_does_not_replace_the_channels_of_a_corpus(corpus, tmp_path):
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [_item(1, "b c.wav", channel=0)])
    with taking_channel(1), pytest.raises(CorpusError, match=r"--channel 1: probe names the channel .*list.csv:1"):
        work.write()


def test_a_second_run_reads_only_changed_recordings(corpus, tmp_path):
    journal = tmp_path / "out/audio/ingested.jsonl"

    def read_by_run() -> list[str]:
        """The recordings that a run reads, which it appends to the journal."""
        before = journal.read_text().count("\n") if journal.exists() else 0
        work = Preparation(INFO, corpus, tmp_path / "out")
        work.add("train", [_item(1), _item(2, "b c.wav")])
        work.write()
        return [line.split('"')[1] for line in journal.read_text().split("\n")[before:] if line.startswith("[")]

    assert read_by_run() == ["a.wav", "b c.wav"]
    with journal.open("a") as file:
        file.write('["a.wav", [null, 99')  # torn by kill -9
    assert read_by_run() == ["a.wav"]  # the torn line only
    _noise(corpus / "a.wav", 1.5, seed=3)
    assert "a.wav" in read_by_run()
    assert read_datadir(tmp_path / "out/train")[0].samples == 24000
    assert read_by_run() == []  # the torn line hides no entry
    (tmp_path / "out/audio/b c.wav.wav").unlink()
    assert read_by_run() == ["b c.wav"]
    assert (tmp_path / "out/audio/b c.wav.wav").exists()


_RUN = """
import sys
from pathlib import Path
from corpora.prepare.preparation import Item, Preparation
from corpora.registry import CorpusInfo
work = Preparation(CorpusInfo("probe", "", ("asr",), None, "", "open", "", ""), Path(sys.argv[1]), Path(sys.argv[2]))
work.add("train", [Item(f"s-{n:03d}", "s", f"{n:03d}.wav", f"list:{n}", "x") for n in range(40)])
work.write()
"""


def test_a_killed_run_resumes_and_gives_the_output_of_an_undisturbed_one(tmp_path):
    corpus = tmp_path / "corpus"
    for number in range(40):
        _noise(corpus / f"{number:03d}.wav", 30, 8000, seed=number)  # 20 ms or more to convert
    journal = tmp_path / "out/audio/ingested.jsonl"
    command = [sys.executable, "-c", _RUN, str(corpus), str(tmp_path / "out")]
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


def test_a_recording_longer_than_a_block_is_converted_without_a_seam(tmp_path):
    _noise(tmp_path / "x.wav", BLOCK_SECONDS + 3.3, 11025, 2)
    work = Preparation(INFO, tmp_path, tmp_path / "out")
    work.add("train", [_item(1, "x.wav")])
    made = work.write()["train"][0]
    np.testing.assert_allclose(read_audio(made.audio), load_any(tmp_path / "x.wav"), atol=2 / 32768)


def test_a_set_of_an_earlier_run_is_named(corpus, tmp_path, caplog):
    for split in ("dev", "train"):
        work = Preparation(INFO, corpus, tmp_path / "out")
        work.add(split, [_item(1)])
        work.write({})
    assert f"{tmp_path / 'out'}: dev is of an earlier run and was not written now" in caplog.text


def test_folds_of_an_earlier_run_go(tmp_path, caplog):
    """A benchmark trains on every fold that it finds."""
    for name in ("fold1", "fold2", "fold3", "fold10", "fold", "folder"):
        (tmp_path / name / "test").mkdir(parents=True)
        if name != "fold10":
            (tmp_path / name / "test/sources.tsv").touch()
    remove_other_folds(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold", "fold1", "fold10", "fold2", "folder"]
    assert "fold3 is of an earlier run with more than 2 folds" in caplog.text


def test_nothing_left_is_an_error(corpus, tmp_path):
    work = Preparation(INFO, corpus, tmp_path / "out")
    work.add("train", [])
    with pytest.raises(CorpusError, match="probe"):
        work.write()


def test_only_plain_files_are_used_in_place_and_remarks_are_logged(tmp_path, caplog, encode):
    """A stereo file in opposite phase, WebM under the name of a WAV, a WAV from a pipe, and one of floating point."""
    corpus = tmp_path / "corpus"
    _noise(corpus / "plain.wav", 1.0)
    wave = soundfile.read(corpus / "plain.wav", dtype="float32")[0]
    soundfile.write(corpus / "phase.wav", np.stack([wave, -wave], axis=1), SAMPLE_RATE)
    encode(corpus / "webm.wav", wave, SAMPLE_RATE, "libopus", "webm")
    encode(corpus / "pipe.wav", wave, SAMPLE_RATE, "pcm_s16le", "wav", pipe=True)
    soundfile.write(corpus / "float.wav", 30 * wave, SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(corpus / "double.wav", wave, SAMPLE_RATE, subtype="DOUBLE")
    names = ["plain.wav", "phase.wav", "webm.wav", "pipe.wav", "float.wav", "double.wav"]
    work = Preparation(INFO, corpus, tmp_path / "out", skip_limit=0.2)
    work.add("train", [_item(n, name) for n, name in enumerate(names)])
    made = {u.audio.name.removesuffix(".wav").removesuffix(".wav"): u for u in work.write()["train"]}
    assert sorted(made) == ["double", "phase", "pipe", "plain", "webm"]
    assert [name for name, u in made.items() if u.audio.parent == corpus] == ["plain"]
    for utterance in made.values():
        assert np.abs(read_audio(utterance.audio)).max() > 0.1 and abs(utterance.samples - SAMPLE_RATE) < 200
    assert "1 recordings, as" in caplog.text and "opposite phase" in caplog.text
    assert "floating-point samples reach" in (tmp_path / "out/skipped.tsv").read_text()


def test_names_with_marks_of_direction_are_converted(tmp_path):
    """Telephones put U+200F and no-break spaces into Arabic names; Kaldi's lists cannot hold them."""
    names = ["\u200fتسجيل\u00a0١.wav", "تسجيل ٢.wav", "\u200e.wav"]
    corpus = tmp_path / "\u202bدروس"
    for name in names:
        _noise(corpus / name, 0.1)
    for root, out in ((tmp_path, "whole"), (corpus, "out")):  # the mark is in the folder too
        work = Preparation(INFO, root, tmp_path / out)
        folder = "" if root == corpus else f"{corpus.name}/"
        work.add("train", [_item(n, folder + name) for n, name in enumerate(names)])
        written = work.write()["train"]
        assert validate_datadir(tmp_path / out / "train") == [] and len(written) == 3
        assert len({u.audio for u in written}) == 3 and all(u.audio.is_file() for u in written)
        assert [row.source for row in read_sources(tmp_path / out / "train")] == [folder + name for name in names]
    plain = Preparation(INFO, tmp_path / "plain", tmp_path / "other")
    _noise(tmp_path / "plain" / names[1], 0.1)
    plain.add("train", [_item(0, names[1])])
    assert plain.write()["train"][0].audio == tmp_path / "plain" / names[1]  # other Arabic names stay in place


def test_a_name_that_is_not_utf8_is_left_out_by_name(tmp_path):
    names = [f"{number:02d}.wav" for number in range(24)] + ["caf\udce9.wav"]
    for name in names:
        _noise(tmp_path / "corpus" / name.replace("\udce9", "e"), 0.1)
    (tmp_path / "corpus/cafe.wav").rename(tmp_path / "corpus" / names[-1])
    work = Preparation(INFO, tmp_path / "corpus", tmp_path / "out")
    work.add("train", [_item(n, name) for n, name in enumerate(names)])
    assert len(work.write()["train"]) == 24
    (row,) = _rows(tmp_path / "out/skipped.tsv")
    assert row[0].endswith(r"caf\udce9.wav") and "not UTF-8" in row[1]
    assert validate_datadir(tmp_path / "out/train") == []
