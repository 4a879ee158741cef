"""Errors on one line, and values of options."""

from __future__ import annotations

import argparse
import errno
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from corpora.command import Parser, device, fail, number, one_line, whole
from corpora.files import CorpusError


def test_a_full_disk_names_the_file_the_free_space_and_what_is_kept(tmp_path: Path):
    named = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "absent" / "model.bin"))
    bare = OSError(errno.ENOSPC, "No space left on device")
    for error, output, where in ((named, None, tmp_path / "absent" / "model.bin"), (bare, tmp_path, tmp_path)):
        line = one_line(error, output)
        assert line.startswith(f"{where}: the disk is full") and "MB that are free" in line and "kept" in line
        assert "Errno" not in line
    assert "quota" in one_line(OSError(errno.EDQUOT, "Disk quota exceeded"), tmp_path)


def test_advice_to_load_without_the_check_for_code_is_not_repeated(tmp_path: Path):
    import pickle

    import torch

    (tmp_path / "x.pt").write_bytes(pickle.dumps({"a": print}))
    with pytest.raises(pickle.UnpicklingError) as error:
        torch.load(tmp_path / "x.pt", weights_only=True)
    assert "weights_only" in str(error.value), "torch no longer gives this advice"
    line = one_line(error.value)
    assert "weights_only" not in line and "re-running" not in line.lower() and "\n" not in line


def test_unexpected_exceptions_are_one_line_and_say_so(capsys: pytest.CaptureFixture, monkeypatch):
    monkeypatch.delenv("HARNESS_TRACEBACK", raising=False)
    assert fail("x", KeyError("k"), 3) == 3
    assert capsys.readouterr().err.splitlines() == [
        "x: error: 'k' (KeyError: a defect of this program; HARNESS_TRACEBACK=1 prints its place)"
    ]
    assert fail("x", ValueError("a\nb")) == 2
    assert capsys.readouterr().err == "x: error: a b\n"
    assert one_line(AssertionError()) == "AssertionError"
    monkeypatch.setenv("HARNESS_TRACEBACK", "1")
    fail("x", KeyError("k"))
    assert "KeyError" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_error(unbuffered: str):
    """As with `| head`: the output fails in the command, or, with a buffer, at its end."""
    command = [sys.executable, "-m", "corpora", "--list"]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        (whole(1), {"1": 1, "007": 7}, ["0", "-1", "1.5", "", "x", "9" * 19, "١"]),
        (whole(0), {"0": 0}, ["-1"]),
        (number(0, above=True), {"0.5": 0.5, "1e-3": 1e-3}, ["0", "-1", "nan", "inf", "x", ""]),
        (number(0, 1), {"0": 0.0, "1": 1.0}, ["1.1", "-0.1"]),
        (number(), {"-3": -3.0}, [str(math.inf)]),
        (device, {"auto": "auto", "cuda:1": "cuda:1", "cpu": "cpu"}, ["gpu", "cuda:", "cuda:x", "mps", ""]),
    ],
)
def test_values_of_options(kind, good: dict, bad: list[str]):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="expected"):
            kind(text)


def test_a_wrong_command_line_is_an_exception_and_no_usage_text():
    parser = Parser(prog="python -m x")
    parser.add_argument("--jobs", type=whole(1))
    with pytest.raises(CorpusError, match=r"--jobs.*'-2'.*python -m x --help"):
        parser.parse_args(["--jobs", "-2"])
