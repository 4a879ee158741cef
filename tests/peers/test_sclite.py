"""Word and character errors against NIST's sclite (Debian package sctk)."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from downstream.score import metrics

# Debian's package puts all programmes of NIST behind one command.
SCLITE = ["sctk", "sclite"] if shutil.which("sctk") else ["sclite"] if shutil.which("sclite") else []
LETTERS = "ابتثجحخدذرزسشصضطظعغفقكلمنهويءآأإةىؤئ"


def texts(count: int, seed: int) -> tuple[list[str], list[str]]:
    """References of 1 to 12 words, and the same with random substitutions, deletions and insertions of letters."""
    rng = random.Random(seed)
    references, hypotheses = [], []
    for _ in range(count):
        words = ["".join(rng.choices(LETTERS, k=rng.randint(1, 7))) for _ in range(rng.randint(1, 12))]
        changed = []
        for letter in " ".join(words):
            kind = rng.random()
            if kind > 0.05:
                changed.append(letter)
            if 0.05 < kind < 0.10:
                changed.append(rng.choice(LETTERS + " "))
        references.append(" ".join(words))
        hypotheses.append(" ".join("".join(changed).split()))
    return references, hypotheses


def sclite_errors(references: list[list[str]], hypotheses: list[list[str]], folder: Path) -> tuple[int, int]:
    """Number of reference tokens and of errors in sclite's raw summary."""
    for name, lines in (("ref", references), ("hyp", hypotheses)):
        rows = (f"{' '.join(tokens)} (s-{number:04})\n" for number, tokens in enumerate(lines))
        (folder / f"{name}.trn").write_text("".join(rows), encoding="utf-8")
    command = [
        *SCLITE,
        "-r",
        "ref.trn",
        "trn",
        "-h",
        "hyp.trn",
        "trn",
        "-i",
        "rm",
        "-e",
        "utf-8",
        "-o",
        "rsum",
        "stdout",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    sums = next(line for line in done.stdout.splitlines() if re.match(r"\s*\|\s*Sum\s*\|", line))
    _, tokens, _, _, _, _, errors, _ = map(int, re.findall(r"\d+", sums))
    return tokens, errors


@pytest.mark.parametrize("metric", ["wer", "cer"])
def test_errors_equal_those_of_sclite(metric: str, tmp_path: Path) -> None:
    """sclite aligns with weights 4 (substitution), 3 and 3, so it may count a few errors more than the fewest."""
    if not SCLITE:
        pytest.skip("sclite is not installed (Debian package sctk)")
    references, hypotheses = texts(500, seed=0)
    split = str.split if metric == "wer" else lambda text: ["|" if letter == " " else letter for letter in text]
    tokens, errors = sclite_errors([split(t) for t in references], [split(t) for t in hypotheses], tmp_path)
    ours = metrics.counts(metric, references, hypotheses).sum(0)
    assert ours[1] == tokens
    assert ours[0] <= errors <= ours[0] * 1.01
