"""`validate` opens and decodes all audio: what is unreadable, too short, or not as long as stated is named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora.__main__ import main
from corpora.audio import write_audio
from corpora.datadir import Utterance, write_datadir
from corpora.prepare import validation
from corpora.prepare.validation import check_datadir

pytestmark = pytest.mark.usefixtures("no_disk_sync")
RECORDINGS = 6


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A data directory of whole recordings of 16000 samples: s-0 to s-5."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    for number in range(RECORDINGS):
        write_audio(tmp_path / f"audio/{number}.wav", noise)
    utterances = [Utterance(f"s-{n}", "s", tmp_path / f"audio/{n}.wav", 16000) for n in range(RECORDINGS)]
    write_datadir(tmp_path / "data/train", utterances)
    return tmp_path / "data/train"


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: round(share * len(content))])


def test_audio_that_is_not_what_the_directory_says(whole: Path, tmp_path: Path) -> None:
    assert check_datadir(whole) == []
    audio = tmp_path / "audio"
    (audio / "0.wav").write_bytes(b"no audio")
    cut(audio / "1.wav")
    write_audio(audio / "2.wav", np.full(15000, 0.1))
    soundfile.write(audio / "3.wav", np.full(8000, 0.1), 8000)
    soundfile.write(audio / "4.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    found = [line.removeprefix(f"{whole}/") for line in check_datadir(whole)]
    expected = [
        ("wav.scp:1: s-0: ", "0.wav: cannot be read as audio"),
        ("wav.scp:2: s-1: ", "1.wav: truncated"),
        ("wav.scp:3: s-2: ", "2.wav holds 15000 samples, but utt2num_samples says 16000"),
        ("wav.scp:4: s-3: ", "3.wav: 8000 Hz"),
        ("wav.scp:5: s-4: ", "4.wav: samples hold NaN"),
    ]
    assert len(found) == len(expected)
    for line, (place, reason) in zip(found, expected, strict=True):
        assert line.startswith(place) and reason in line


def test_segments_past_the_end(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.full(16000, 0.1))
    spans = {"s-0": (0, 16000), "s-1": (8000, 16001), "s-2": (20000, 30000)}
    written = [Utterance(i, "s", tmp_path / "a.wav", b - a, a, b) for i, (a, b) in spans.items()]
    write_datadir(tmp_path / "data", written)
    first, second = check_datadir(tmp_path / "data")
    assert first == f"{tmp_path}/data/segments:2: s-1: {tmp_path}/a.wav ends at 1 s, but the segment ends at 1.00006 s"
    assert second.startswith(f"{tmp_path}/data/segments:3: s-2: ")
    assert len(check_datadir(tmp_path / "data", quick=True)) == 2


def test_quick_reads_headers_only_and_says_so(whole: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    path = tmp_path / "audio/0.flac"
    write_audio(path, noise)
    utterance = Utterance("s-0", "s", path, 16000)
    write_datadir(whole, [utterance])
    cut(path, 0.8)
    assert main(["validate", str(whole), "--quick"]) == 0
    assert capsys.readouterr().out == f"{whole}: ok (headers only; the audio was not decoded)\n"
    assert main(["validate", str(whole)]) == 2
    shown = capsys.readouterr()
    assert shown.out == f"{whole}: 1 problems\n" and "0.flac: " in shown.err
    write_datadir(whole, [Utterance("s-0", "s", path, 15000)])
    assert "holds 16000 samples" in check_datadir(whole, quick=True)[0]


def test_an_interrupted_check_continues(whole: Path, tmp_path: Path, monkeypatch) -> None:
    read: list[str] = []
    count = validation._count

    def stopped(task):
        if len(read) == 4:
            raise KeyboardInterrupt
        read.append(task.audio.name)
        return count(task)

    cut(tmp_path / "audio/1.wav")
    monkeypatch.setattr(validation, "_count", stopped)
    with pytest.raises(KeyboardInterrupt):
        check_datadir(whole)
    with open(whole / ".checked.jsonl", "a", encoding="utf-8") as file:
        file.write('["torn')
    assert read == ["0.wav", "1.wav", "2.wav", "3.wav"]
    write_audio(tmp_path / "audio/0.wav", np.full(15000, 0.1))  # changed since
    read.clear()
    problems = check_datadir(whole)
    assert read == ["0.wav", "1.wav", "4.wav", "5.wav"]  # a bad recording may have been repaired
    assert len(problems) == 2
    assert not (whole / ".checked.jsonl").exists()


def test_processes_find_the_same(tmp_path: Path) -> None:
    for number in range(70):
        write_audio(tmp_path / f"{number:02d}.wav", np.full(800, 0.1))
    written = [Utterance(f"s-{n:02d}", "s", tmp_path / f"{n:02d}.wav", 800) for n in range(70)]
    write_datadir(tmp_path / "data", written)
    for number in (3, 66):
        cut(tmp_path / f"{number:02d}.wav")
    assert check_datadir(tmp_path / "data", jobs=2) == check_datadir(tmp_path / "data")
    assert len(check_datadir(tmp_path / "data")) == 2


def test_one_unreadable_folder_does_not_stop_the_others(whole: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    write_datadir(whole.parent / "a_closed", [Utterance("s-0", "s", tmp_path / "audio/0.wav", 16000)])
    (whole.parent / "b_hidden").mkdir()
    read, scan = Path.read_bytes, os.scandir

    def closed_file(path: Path) -> bytes:
        if path.parent.name == "a_closed":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    def closed_folder(path):
        if Path(path).name == "b_hidden":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(Path, "read_bytes", closed_file)
    monkeypatch.setattr(os, "scandir", closed_folder)
    other = tmp_path / "other"
    write_datadir(other, [Utterance("s-0", "s", tmp_path / "audio/0.wav", 16000)])
    assert main(["validate", str(whole.parent), str(other)]) == 2
    shown = capsys.readouterr()
    assert f"{whole}: ok\n" in shown.out and f"{other}: ok\n" in shown.out and "a_closed: 3 problems" in shown.out
    assert f"{whole.parent}/b_hidden: cannot be read (Permission denied)" in shown.err
    assert "a_closed/utt2spk: cannot be read (Permission denied)" in shown.err and "Traceback" not in shown.err


def test_linked_directories_and_those_without_wav_scp_are_checked(whole: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "train").symlink_to(whole, target_is_directory=True)
    (folder / "above").symlink_to(tmp_path, target_is_directory=True)
    assert main(["validate", str(folder)]) == 0
    assert f"{folder}/train: ok\n" in (shown := capsys.readouterr().out)
    assert shown.count(": ok") == 1  # under one of its names
    (whole / "wav.scp").unlink()
    assert main(["validate", str(folder)]) == 2
    assert "wav.scp: no such file" in capsys.readouterr().err
