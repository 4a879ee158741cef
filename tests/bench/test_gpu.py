"""bench/gpu.sh: a dry run measures every piece; finished pieces are kept, failed ones run again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PIECES = ("step", "mfu", "inference", "labelling", "ddp", "training")


def run(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([root / "bench/gpu.sh", *options], cwd=root, capture_output=True, text=True)


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """A stand-in for Python that notes its arguments, and fails for those that hold the word in the file `fails`."""
    path = tmp_path / "python"
    lines = (
        "#!/bin/sh",
        f'echo "$*" >> {tmp_path}/calls',
        f"fails=$(cat {tmp_path}/fails 2>/dev/null)",
        'case "$*" in *"${fails:-no word}"*) exit 3 ;; esac',
        "echo table",
    )
    path.write_text("\n".join(lines), encoding="utf-8")
    path.chmod(0o755)
    return path


def test_finished_pieces_are_kept_and_failed_ones_run_again(root: Path, tmp_path: Path, interpreter: Path) -> None:
    calls, out = tmp_path / "calls", tmp_path / "out"
    options = ("--python", str(interpreter), "--out", str(out))
    (tmp_path / "fails").write_text("bench.gpu labelling")
    first = run(root, *options)
    assert first.returncode == 1 and "labelling: failed with status 3" in first.stderr, first.stderr
    assert not (out / "labelling.txt").exists()
    assert {path.stem for path in out.glob("*.txt")} >= set(PIECES) - {"labelling"}

    (tmp_path / "fails").unlink()
    calls.unlink()
    second = run(root, *options)
    assert second.returncode == 0, second.stderr
    started = [line for line in calls.read_text().splitlines() if "import torchaudio" not in line]
    assert len(started) == 1 and "bench.gpu labelling --geometry hl" in started[0]
    assert second.stdout.count("kept") == len(PIECES) - 1


def test_a_failed_training_is_no_result(root: Path, tmp_path: Path, interpreter: Path) -> None:
    (tmp_path / "fails").write_text("upstream pretrain")
    done = run(root, "--python", str(interpreter), "--out", str(tmp_path / "out"))
    assert done.returncode == 1 and "training: failed with status 3" in done.stderr
    assert not (tmp_path / "out/training.txt").exists() and (tmp_path / "out/units.txt").exists()


def test_without_torchaudio_the_comparison_is_skipped(root: Path, tmp_path: Path, interpreter: Path) -> None:
    (tmp_path / "fails").write_text("import torchaudio")
    done = run(root, "--python", str(interpreter), "--out", str(tmp_path / "out"))
    assert done.returncode == 0 and "step: skipped, torchaudio" in done.stdout
    assert not (tmp_path / "out/step.txt").exists() and (tmp_path / "out/ddp.txt").exists()


def test_an_unknown_option_is_refused(root: Path) -> None:
    done = run(root, "--fast")
    assert done.returncode == 2 and "--fast" in done.stderr


@pytest.mark.slow
def test_a_dry_run_measures_every_piece(root: Path, tmp_path: Path) -> None:
    done = run(root, "--tiny", "true", "--python", sys.executable, "--out", str(tmp_path), "--minutes", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    for piece in PIECES:
        assert "|" in (tmp_path / f"{piece}.txt").read_text(), piece
    assert "ratio pretrain" in (tmp_path / "step.txt").read_text()
    row = (tmp_path / "ddp.txt").read_text().splitlines()[-1].split("|")
    assert [cell.strip() for cell in row[1:3]] == ["mini_hst", "2"]
    assert (tmp_path / "run/metrics.csv").is_file()
