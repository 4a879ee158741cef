"""Alignment of decoded examples."""

from __future__ import annotations

import re

import jiwer
import pytest

from downstream.report import examples
from downstream.report.contents import gather


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("كِتَاب باب", "كِتَب باب قمر"),
        ("قُلْ هُوَ اللَّهُ أَحَدٌ", "قل هو الله احد"),
        ("", "قمر"),
        ("قمر", ""),
        ("seven", "sevens eleven"),
    ],
)
def test_an_alignment_loses_no_letter(reference, hypothesis):
    pieces = examples.align(reference, hypothesis)
    assert "".join(p.text for p in pieces if p.kind != "deleted") == hypothesis
    assert "".join(p.text for p in pieces if p.kind == "equal") == hypothesis or reference != hypothesis
    for piece in pieces:
        letters = examples.letters(piece.text)
        assert "".join(letters) == piece.text and piece.text
        assert not re.match("[\u064b-\u0652]", piece.text), "a piece begins with a diacritic of the letter before"


def test_alignments_mark_differences():
    pieces = examples.align("كِتَاب قمر", "كِتَب قمرر")
    assert [(p.kind, p.text) for p in pieces if p.kind != "equal"] == [("deleted", "ا"), ("inserted", "ر")]
    pieces = examples.align("كِتَاب", "كُتَاب")
    assert [(p.kind, p.text) for p in pieces] == [("substituted", "كُ"), ("equal", "تَاب")]
    assert examples.direction("«باب» 3") == "rtl" and examples.direction("3 doors") == "ltr"


@pytest.mark.slow
def test_examples_go_from_the_best_to_the_worst(real_exp, fake_results):
    found = gather(real_exp, "open_arabic", {}, "command").examples
    assert len(found) == examples.COUNT and {e.split for e in found} == {"test"}
    rates = [next(h.rate for h in e.hypotheses if h.upstream == "harness_l") for e in found]
    said = fake_results.predict("asr", fake_results.ERRORS["harness_l"], 0, None)
    all_rates = [jiwer.cer(p.reference, p.hypothesis) for p in said]
    assert rates == sorted(rates) and rates[0] == min(all_rates) and rates[-1] == pytest.approx(max(all_rates))
