"""Atomic writing, fingerprints and the count of bad files."""

from __future__ import annotations

import csv
import errno
import inspect
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from corpora.files import (
    BadFileTally,
    CorpusError,
    TooManyBadFiles,
    atomic_dir,
    atomic_file,
    for_spreadsheet,
    from_spreadsheet,
    only_writer,
    read_json,
    sha256_file,
    sha256_json,
    tree_fingerprint,
    write_csv,
    write_json,
    write_text,
    write_tsv,
    writes,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_atomic_file_takes_its_name_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "units.bin"
    with atomic_file(target) as temporary:
        assert temporary.suffix == ".bin" and temporary.parent == target.parent and temporary.name.startswith(".")
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new" and names(target.parent) == ["units.bin"]


def test_atomic_file_keeps_the_old_content_on_error(tmp_path: Path) -> None:
    target = tmp_path / "results.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="boom"), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("boom")
    assert target.read_text() == "old" and names(tmp_path) == ["results.csv"]


def test_an_unwritten_atomic_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a.txt"), atomic_file(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


def test_full_disk_at_sync_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "config.json"
    write_json(target, {"a": 1})
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        write_json(target, {"a": 2})
    assert caught.value.errno == errno.ENOSPC
    assert read_json(target) == {"a": 1} and names(tmp_path) == ["config.json"]


def test_full_disk_in_a_folder_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    with atomic_dir(target) as temporary:
        (temporary / "weights").write_text("old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"), atomic_dir(target) as temporary:
        (temporary / "weights").write_text("new")
    assert (target / "weights").read_text() == "old" and names(tmp_path) == ["model"]


def test_a_write_that_fails_halfway_keeps_the_old_file(tmp_path: Path) -> None:
    # A limit on the size of files: the kernel itself breaks off the write, as on a full disk.
    code = """
import resource, sys
from pathlib import Path
from corpora.files import write_text
target = Path(sys.argv[1])
write_text(target, "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_text(target, "x" * 100000)
except OSError as error:
    print("refused", error.errno)
"""
    target = tmp_path / "a.txt"
    done = subprocess.run([sys.executable, "-c", code, target], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused", str(errno.EFBIG)]
    assert target.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_atomic_dir_replaces_a_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "hl.it1"
    for content in ("first", "second"):
        with atomic_dir(target) as temporary:
            (temporary / content).mkdir()
            (temporary / content / "f").write_text(content)
    assert names(tmp_path) == ["hl.it1"] and names(target) == ["second"]


def test_atomic_dir_keeps_the_old_folder_on_error(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with atomic_dir(target) as temporary:
        (temporary / "f").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_dir(target) as temporary:
        (temporary / "f").write_text("new")
        raise KeyboardInterrupt
    assert (target / "f").read_text() == "old" and names(tmp_path) == ["model"]


def test_leftovers_of_a_killed_process_are_removed_and_files_of_a_running_one_stay(tmp_path: Path) -> None:
    target = tmp_path / "units"
    code = """
import sys, time
from pathlib import Path
from corpora.files import atomic_dir
with atomic_dir(Path(sys.argv[1])) as temporary:
    (temporary / "half").write_text("x")
    print("there", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code, target], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "there\n"
        with atomic_dir(target) as temporary:
            (temporary / "f").write_text("while the other runs")
        assert len(names(tmp_path)) == 2
        writer.send_signal(signal.SIGKILL)
    with atomic_dir(target) as temporary:
        (temporary / "f").write_text("after it was killed")
    assert names(tmp_path) == ["units"]


def test_leftovers_of_another_host_stay(tmp_path: Path) -> None:
    other = tmp_path / ".units.tmp-999999999-0123abcd-another-host"
    other.mkdir()
    with atomic_dir(tmp_path / "units") as temporary:
        (temporary / "f").write_text("x")
    assert other.is_dir()


def test_text_is_utf8_with_line_feeds(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "utt1 سَلَام\nutt2 نعم\n")
    assert (tmp_path / "text").read_bytes() == "utt1 سَلَام\nutt2 نعم\n".encode()
    write_json(tmp_path / "a.json", {"z": "عربي", "a": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "z": "عربي",\n  "a": 1\n}\n'


def test_broken_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text('{"a": 1,\n "b" 2}')
    with pytest.raises(ValueError, match=r"card\.json: .*line 2 column 6"):
        read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match=r"card\.json: .*byte 7"):
        read_json(path)
    path.write_bytes('{"a": "نعم"}'.encode("utf-8-sig"))  # Windows writes a byte order mark
    assert read_json(path) == {"a": "نعم"}


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json(json.loads('{"b": [2], "a": 1}'))
    assert sha256_json({"a": 1}) != sha256_json({"a": 1.5})


def test_fingerprint_sees_names_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_text("one")
    before = tree_fingerprint(tmp_path)
    assert tree_fingerprint(tmp_path) == before
    (tmp_path / "a" / "f").write_text("longer")
    after = tree_fingerprint(tmp_path)
    assert after != before
    (tmp_path / "a" / "f").rename(tmp_path / "a" / "g")
    assert tree_fingerprint(tmp_path) not in (before, after)
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nothing here")
    assert len(tree_fingerprint(tmp_path)) == 64, "a dangling link must not stop a recipe that does without it"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        tree_fingerprint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("bad", "total", "stops"),
    [(0, 100, False), (1, 10, False), (5, 100, False), (6, 100, True), (2, 10, True), (1, 1, True), (2, 3000, False)],
)
def test_tally_stops_past_five_percent(bad: int, total: int, stops: bool) -> None:
    tally = BadFileTally(total)
    for number in range(bad):
        tally.skip(Path(f"bad {number}.wav"), "truncated")
    if stops:
        with pytest.raises(TooManyBadFiles, match=rf"{bad} of {total} files .*bad 0\.wav: truncated"):
            tally.check()
    else:
        tally.check()


def test_tally_logs_and_lists_every_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tally = BadFileTally(1000)
    with caplog.at_level(logging.WARNING):
        tally.skip(Path("a b.wav"), ValueError("truncated\nhere"))
        tally.check()
    assert "left out a b.wav: truncated here" in caplog.text and "1 of 1000" in caplog.text
    tally.write(tmp_path / "bad.tsv")
    assert (tmp_path / "bad.tsv").read_text() == "path\treason\na b.wav\ttruncated here\n"


@dataclass(frozen=True)
class Measured:
    a: float
    b: bool | None


@pytest.mark.parametrize("kind", [dict, Measured])
def test_csv_has_a_header_and_keeps_every_value(tmp_path: Path, kind: type) -> None:
    path = tmp_path / "x.csv"
    write_csv(path, ["a", "b"], [])
    assert path.read_bytes() == b"a,b\n"
    write_csv(path, ["a", "b"], [kind(a=1, b=None), kind(a=0.1, b=True)])
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["a", "b"], ["1", ""], ["0.1", "True"]]
    with pytest.raises(ValueError, match="'b'"):
        write_csv(path, ["a"], [kind(a=2, b=None)])


def test_one_writer_of_a_folder_at_a_time(tmp_path: Path):
    out = tmp_path / "out"
    code = (
        "import sys, pathlib\nfrom corpora.files import CorpusError, only_writer\n"
        "try:\n    with only_writer(pathlib.Path(sys.argv[1])): print('free')\n"
        "except CorpusError as error: print(error)\n"
    )
    link = tmp_path / "link"
    link.symlink_to(out)

    def other(path: Path) -> str:
        return subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout

    with only_writer(out):
        assert f"{out} is in use by process {os.getpid()}" in other(out)
        assert f"process {os.getpid()}" in other(link), "the same folder under another name"
    assert other(out) == "free\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link"], "a lock file is left"
    (tmp_path / ".out.lock").write_text("1\n")  # of a killed process
    assert other(out) == "free\n"


def test_a_function_that_locks_its_folder(tmp_path: Path):
    @writes("out")
    def make(data: int, out: Path) -> int:
        with pytest.raises(CorpusError, match="in use"), only_writer(out):
            pass
        return data

    @writes("out", when=lambda: False)
    def never(out: Path) -> bool:
        with only_writer(out):
            return True

    assert make(3, out=tmp_path / "a") == 3 and make(4, tmp_path / "a") == 4 and never(tmp_path / "b")
    assert list(inspect.signature(make).parameters) == ["data", "out"]


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@x", "\tx", "'=x", "''-x", "- نعم"])
def test_text_that_a_spreadsheet_would_compute_is_quoted_and_restored(tmp_path: Path, text: str):
    assert for_spreadsheet(text) == f"'{text}" and from_spreadsheet(f"'{text}") == text
    write_csv(tmp_path / "x.csv", ["a"], [{"a": text}])
    assert f"'{text}" in (tmp_path / "x.csv").read_text(encoding="utf-8")
    write_tsv(tmp_path / "x.tsv", ["a"], [[text]])
    assert (tmp_path / "x.tsv").read_text(encoding="utf-8").splitlines()[1].startswith("'")


@pytest.mark.parametrize("value", ["a", "'a", "-5", "+1.5e3", "", "it's", -5, 0.1, None])
def test_numbers_and_usual_text_stay(value: object):
    assert for_spreadsheet(value) == value
    if isinstance(value, str):
        assert from_spreadsheet(value) == value


@pytest.mark.parametrize("content", ["[" * 100_000 + "]" * 100_000, "9" * 5000, "{", "\udcff"])
def test_json_that_cannot_be_read_is_one_error(tmp_path: Path, content: str):
    (tmp_path / "x.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CorpusError, match=r"x\.json"):
        read_json(tmp_path / "x.json")
