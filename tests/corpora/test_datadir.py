"""Kaldi data directories: a round trip, and a named place for each format error."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora.audio import write_audio
from corpora.datadir import Utterance, read_datadir, validate_datadir, write_datadir
from corpora.files import CorpusError


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Recordings of 16001 and 400 samples, in a folder with a space in its name."""
    folder = tmp_path / "my audio"
    write_audio(folder / "long one.wav", np.full(16001, 0.1))
    write_audio(folder / "short.flac", np.full(400, 0.1))
    return folder


@pytest.fixture
def utterances(audio: Path) -> list[Utterance]:
    return [
        Utterance("s1-a", "s1", audio / "long one.wav", 16001, text="سلام عليكم", language="ar"),
        Utterance("s2-a", "s2", audio / "short.flac", 400, text="نعم", language="ar"),
        Utterance("s2-b", "s2", audio / "long one.wav", 16001, text="hello", language="en"),
    ]


@pytest.fixture
def datadir(tmp_path: Path, utterances: list[Utterance]) -> Path:
    write_datadir(tmp_path / "train", utterances)
    return tmp_path / "train"


def change(file: Path, old: str, new: str) -> None:
    content = file.read_bytes().decode()
    assert old in content
    file.write_bytes(content.replace(old, new, 1).encode())


def problem(datadir: Path) -> str:
    """The first problem; reading and validating agree on it."""
    found = validate_datadir(datadir)
    with pytest.raises(CorpusError) as caught:
        read_datadir(datadir)
    assert str(caught.value).startswith(found[0])
    return found[0].removeprefix(f"{datadir}/")


def test_round_trip_sorts_and_writes_kaldis_files(tmp_path: Path, utterances: list[Utterance]) -> None:
    write_datadir(tmp_path / "train", reversed(utterances))
    assert read_datadir(tmp_path / "train") == utterances and validate_datadir(tmp_path / "train") == []
    content = {path.name: path.read_bytes().decode() for path in (tmp_path / "train").iterdir()}
    assert sorted(content) == ["spk2utt", "text", "utt2dur", "utt2lang", "utt2num_samples", "utt2spk", "wav.scp"]
    assert content["spk2utt"] == "s1 s1-a\ns2 s2-a s2-b\n"
    assert content["text"] == "s1-a سلام عليكم\ns2-a نعم\ns2-b hello\n"
    assert content["utt2dur"] == "s1-a 1.0000625\ns2-a 0.025\ns2-b 1.0000625\n"
    assert content["wav.scp"].startswith(f"s1-a {tmp_path}/my audio/long one.wav\n")


@given(st.lists(st.tuples(st.integers(0, 15000), st.integers(1, 1000)), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_segments_are_exact_to_the_sample(tmp_path_factory: pytest.TempPathFactory, spans: list) -> None:
    folder = tmp_path_factory.mktemp("segments")
    for name in ("a", "b"):
        (folder / name).mkdir()
        write_audio(folder / name / "same stem.wav", np.full(16000, 0.1))
    written = [
        Utterance(f"s-{n:02d}", "s", folder / "ab"[n % 2] / "same stem.wav", length, start, start + length)
        for n, (start, length) in enumerate(spans)
    ]
    write_datadir(folder / "data", written)
    assert read_datadir(folder / "data") == written


def test_lengths_of_a_foreign_directory_come_from_segments_or_headers(datadir: Path, audio: Path) -> None:
    (datadir / "utt2num_samples").unlink()
    assert [u.samples for u in read_datadir(datadir)] == [16001, 400, 16001]
    soundfile.write(audio / "short.flac", np.full(400, 0.1), 8000)
    assert "wav.scp:2: " in problem(datadir) and "8000 Hz" in problem(datadir)
    (audio / "short.flac").write_bytes(b"no audio")
    assert "wav.scp:2: " in problem(datadir) and "short.flac: cannot be read as audio" in problem(datadir)


def test_relative_paths_stay_relative_inside_the_current_folder(
    tmp_path: Path, audio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_datadir(Path("data/train"), [Utterance("s-a", "s", Path("my audio/short.flac"), 400)])
    assert (tmp_path / "data/train/wav.scp").read_text() == "s-a my audio/short.flac\n"
    assert read_datadir(Path("data/train"))[0].audio == Path("my audio/short.flac")
    monkeypatch.chdir(tmp_path / "data")
    with pytest.raises(CorpusError, match=r"wav\.scp:1: .*s-a.*current folder"):
        read_datadir(Path("train"))
    write_datadir(Path("train"), [Utterance("s-a", "s", Path("../my audio/short.flac"), 400)])
    assert read_datadir(Path("train"))[0].audio == audio / "short.flac"


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("text", "نعم\n", "نعم\r\n", "text:2: forbidden character U+000D (CARRIAGE RETURN) in column 9"),
        (
            "utt2spk",
            "s1-a",
            "\ufeffs1-a",
            "utt2spk:1: forbidden character U+FEFF (ZERO WIDTH NO-BREAK SPACE) in column 1",
        ),
        ("text", "سلام ", "سلام\u00a0", "text:1: forbidden character U+00A0 (NO-BREAK SPACE) in column 10"),
        ("text", "سلام", "سل\u200cام", "text:1: forbidden character U+200C (ZERO WIDTH NON-JOINER) in column 8"),
        ("text", "نعم", "\u200fنعم", "text:2: forbidden character U+200F (RIGHT-TO-LEFT MARK) in column 6"),
        ("text", "سلام ", "سلام\t", "text:1: forbidden character U+0009 (TAB) in column 10"),
        ("text", "s2-a نعم", "s2-a", "text:2: empty transcript of s2-a"),
        ("text", "s2-a نعم", "s2-a  ", "text:2: empty transcript of s2-a"),
        ("text", "s2-a نعم\n", "", "text: 1 of the ids in utt2spk are missing, as s2-a"),
        ("text", "s2-b", "s2-c", "text: 1 of the ids in utt2spk are missing, as s2-b"),
        ("utt2lang", "s2-a ar", "s2-a ar en", "utt2lang:2: language 'ar en' of s2-a is not one word"),
        ("utt2lang", "s2-a ar", "s2-a", "utt2lang:2: empty language of s2-a"),
        ("utt2spk", "s2-a s2\n", "s2-a s2\ns2-a s2\n", "utt2spk:3: id s2-a occurs twice, first in line 2"),
        ("utt2spk", "s1-a s1\ns2-a s2\n", "s2-a s2\ns1-a s1\n", "utt2spk:2: id s1-a comes after s2-a; sort bytewise"),
        ("utt2spk", "s2-b s2", "s2-b s3", "utt2spk:3: utterance id s2-b does not start with its speaker id s3"),
        ("utt2spk", "s2-b s2\n", "s2-b s2", "utt2spk: the last line does not end with a line feed"),
        ("utt2spk", "s2-b s2\n", "s2-b s2\n\n", "utt2spk:4: no id at the start of the line"),
        ("spk2utt", "s2-a s2-b", "s2-a", "spk2utt: the utterances of speaker s2 differ from utt2spk"),
        ("wav.scp", "s2-b ", "s2-b sox in.wav -t wav - |", "wav.scp:3: s2-b is a command, not a file"),
        ("wav.scp", "short.flac", "gone.flac", "wav.scp:2: audio of s2-a is missing: "),
        ("wav.scp", "s2-b", "s2-c", "wav.scp: 1 of the ids in utt2spk are missing, as s2-b"),
        ("utt2num_samples", "400", "0", "utt2num_samples:2: '0' is not a number of samples"),
        ("utt2num_samples", "400", "1" + 20 * "0", "utt2num_samples:2: 100000000000000000000 samples; no recording is"),
        ("utt2num_samples", "400", 5000 * "9", "utt2num_samples:2: 9999"),
        ("utt2num_samples", "400", "400.5", "utt2num_samples:2: '400.5' is not a number of samples"),
    ],
)
def test_a_format_error_is_named(datadir: Path, file: str, old: str, new: str, expected: str) -> None:
    if "|" in new:
        old, new = (datadir / file).read_text().splitlines()[2], new
    change(datadir / file, old, new)
    assert problem(datadir).startswith(expected)


def test_missing_and_empty_files(datadir: Path, tmp_path: Path) -> None:
    (datadir / "spk2utt").unlink()
    assert problem(datadir) == "spk2utt: no such file"
    (datadir / "utt2spk").write_text("")
    assert problem(datadir) == "utt2spk: empty file"
    with pytest.raises(CorpusError, match="nowhere"):
        read_datadir(tmp_path / "nowhere")
    assert validate_datadir(tmp_path / "nowhere")


def test_bytes_that_are_no_utf8(datadir: Path) -> None:
    content = (datadir / "text").read_bytes()
    (datadir / "text").write_bytes(content.replace("نعم".encode(), b"\xe4\xf6"))
    assert problem(datadir) == "text:2: not UTF-8 (byte 0xE4)"


def test_line_numbers_are_those_of_the_file_after_a_repeated_id(datadir: Path) -> None:
    change(datadir / "wav.scp", "s2-a", "s1-a x\ns2-a")
    change(datadir / "wav.scp", "short.flac", "gone.flac")
    assert any("wav.scp:3: audio of s2-a is missing" in line for line in validate_datadir(datadir))


def test_all_problems_are_listed_and_counted(datadir: Path) -> None:
    change(datadir / "text", "سلام ", "سلام\u00a0")
    change(datadir / "wav.scp", "short.flac", "gone.flac")
    assert len([line for line in validate_datadir(datadir) if "gone" in line or "U+00A0" in line]) == 2
    with pytest.raises(CorpusError, match=r"\d+ more.*python -m corpora validate"):
        read_datadir(datadir)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("s2-a long 0.5 0.25", "segments:2: segment s2-a from 0.5 to 0.25 s holds no audio"),
        ("s2-a long 0.5 0.5", "segments:2: segment s2-a from 0.5 to 0.5 s holds no audio"),
        ("s2-a other 0 1", "segments:2: recording other is not in wav.scp"),
        ("s2-a long 0", "segments:2: expected 'utterance recording start end', found 's2-a long 0'"),
        ("s2-a long zero 1", "segments:2: expected 'utterance recording start end'"),
        ("s2-a long 0 1e20", "segments:2: segment s2-a ends at 1e20 s; no recording is that long"),
        ("s2-a long nan 1", "segments:2: expected 'utterance recording start end'"),
    ],
)
def test_segments_that_make_no_sense(tmp_path: Path, audio: Path, entry: str, expected: str) -> None:
    spans = {"s1-a": (0, 8000), "s2-a": (8000, 16001)}
    written = [Utterance(i, i[:2], audio / "long one.wav", b - a, a, b) for i, (a, b) in spans.items()]
    write_datadir(tmp_path / "train", written)
    change(tmp_path / "train" / "wav.scp", "long_one", "long")
    lines = (tmp_path / "train" / "segments").read_text().splitlines()
    (tmp_path / "train" / "segments").write_text(f"{lines[0].replace('long_one', 'long')}\n{entry}\n")
    assert problem(tmp_path / "train").startswith(expected)


def test_length_that_contradicts_the_segment(tmp_path: Path, audio: Path) -> None:
    write_datadir(tmp_path / "train", [Utterance("s-a", "s", audio / "long one.wav", 8000, 0, 8000)])
    change(tmp_path / "train" / "utt2num_samples", "8000", "9000")
    assert problem(tmp_path / "train") == "utt2num_samples:1: 9000 samples, but segments gives 8000"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"utt_id": "s1-a"}, "utterance id s1-a is given twice"),
        ({"utt_id": "x-b"}, "x-b does not start with its speaker id s2"),
        ({"utt_id": "s2 b"}, "utterance id 's2 b' and speaker id 's2' must be one word each"),
        ({"utt_id": "s2-ب\u200f"}, r"forbidden character U\+200F"),
        ({"text": ""}, "text: empty transcript of s2-b"),
        ({"text": "  "}, "text: empty transcript of s2-b"),
        ({"text": None}, "text: 1 of 3 utterances have no text, as s2-b"),
        ({"text": "two\nlines"}, r"text:3: forbidden character U\+000A"),
        ({"language": "a b"}, "utt2lang: language 'a b' of s2-b is not one word"),
        ({"samples": 0}, "s2-b has 0 samples"),
        ({"start": 5, "end": 10}, "runs from sample 5 to 10, but its length is given as 16001"),
        ({"audio": Path("/audio/a.wav |")}, "begins or ends with white space or a pipe"),
        ({"audio": Path("/audio/a.wav ")}, "begins or ends with white space or a pipe"),
        ({"audio": Path("/audio/a\u2028b.wav")}, r"wav\.scp:3: forbidden character U\+2028"),
    ],
)
def test_the_writer_refuses_data_that_the_reader_refuses(
    tmp_path: Path, utterances: list[Utterance], changes: dict, expected: str
) -> None:
    utterances[2] = replace(utterances[2], **changes)
    with pytest.raises(CorpusError, match=expected):
        write_datadir(tmp_path / "train", utterances)
    assert not (tmp_path / "train").exists()


def test_speaker_ids_that_sort_against_their_utterances_are_refused(tmp_path: Path, audio: Path) -> None:
    # Sorted by utterance: s12_a before s1_a, as "2" < "_"; sorted by speaker: s1 before s12. Kaldi needs one order.
    pair = [Utterance(f"{s}_a", s, audio / "short.flac", 400) for s in ("s1", "s12")]
    with pytest.raises(CorpusError, match=r"utt2spk:2: .*s1 .*s12"):
        write_datadir(tmp_path / "train", pair)
    write_datadir(tmp_path / "train", [replace(u, utt_id=u.utt_id.replace("_", "-")) for u in pair])


def test_nothing_is_written_for_nothing_and_other_folders_are_not_replaced(
    tmp_path: Path, audio: Path, utterances: list[Utterance]
) -> None:
    with pytest.raises(CorpusError, match="train"):
        write_datadir(tmp_path / "train", [])
    with pytest.raises(CorpusError, match="not replaced"):
        write_datadir(audio, utterances)
    assert (audio / "long one.wav").exists()


def test_full_disk_keeps_the_old_directory(
    datadir: Path, utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_datadir(datadir, utterances[:1])
    assert read_datadir(datadir) == utterances
    assert [path.name for path in datadir.parent.iterdir() if "tmp" in path.name] == []


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_the_locale_changes_nothing(tmp_path: Path, audio: Path, root: Path, locale: str) -> None:
    code = """
import sys
from pathlib import Path
from corpora.datadir import Utterance, validate_datadir, write_datadir
audio, out = Path(sys.argv[1]), Path(sys.argv[2])
ids = ["B", "a", "é", "ب", "ت", "Z9"]
write_datadir(out, [Utterance(f"{i}-1", i, audio, 400, text="سَلَام") for i in ids])
(out / "text").write_bytes((out / "text").read_bytes().replace("ت-1 ".encode(), "ت-1 \\u200f".encode()))
print(ascii(validate_datadir(out)))
"""
    environment = {
        **os.environ,
        "LC_ALL": locale,
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": str(root),
    }
    out = tmp_path / "train"
    (tmp_path / "script.py").write_text(code, encoding="utf-8")
    command = [sys.executable, tmp_path / "script.py", audio / "short.flac", out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "text:6: forbidden character U+200F (RIGHT-TO-LEFT MARK) in column 5" in done.stdout
    ids = [line.split()[0] for line in (out / "wav.scp").read_bytes().decode().splitlines()]
    assert ids == ["B-1", "Z9-1", "a-1", "é-1", "ب-1", "ت-1"]
