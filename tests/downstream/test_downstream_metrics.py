"""Metrics against jiwer, scikit-learn, and the mistakes that people make with them."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from downstream import metrics

REFERENCES = ["صفر واحد", "نعم", "ابدأ الآن يا صديقي"]
HYPOTHESES = ["صفر", "لا", "ابدأ الآن يا صديق"]


def test_error_rates_are_micro_averages():
    # 3 word errors over 7 words; the mean of the sentences' rates (0.5, 1, 0.25) would be 0.583
    assert metrics.value("wer", REFERENCES, HYPOTHESES) == pytest.approx(3 / 7)
    assert metrics.value("cer", REFERENCES, HYPOTHESES) == pytest.approx(jiwer.cer(REFERENCES, HYPOTHESES))


@pytest.mark.parametrize("metric", ["wer", "cer"])
def test_counts_add_up_to_jiwer(metric: str):
    generator = np.random.default_rng(0)
    alphabet = list("ابت ث ")
    texts = ["".join(generator.choice(alphabet, size)).split() for size in generator.integers(3, 30, 80)]
    texts = [" ".join(words) or "ا" for words in texts]
    references, hypotheses = texts[:40], texts[40:]
    total = metrics.counts(metric, references, hypotheses).sum(0)
    assert metrics.from_counts(metric, total) == pytest.approx(metrics.value(metric, references, hypotheses))


def test_an_empty_reference_counts_its_insertions():
    assert metrics.value("wer", ["", "نعم لا"], ["نعم", "نعم لا"]) == pytest.approx(1 / 2)
    assert metrics.from_counts("wer", metrics.counts("wer", ["", "نعم لا"], ["نعم", "نعم لا"]).sum(0)) == 0.5


def test_references_that_are_all_empty_are_an_error():
    with pytest.raises(metrics.MetricError, match="all 2 references are empty"):
        metrics.value("cer", ["", ""], ["ا", ""])


def test_buckwalter_braces_are_letters():
    # sclite reads {a/b} as alternatives; jiwer must not
    assert metrics.value("wer", ["{lrHmn {lrHym"], ["lrHmn {lrHym"]) == 0.5


def test_diacritics_are_scored_by_profile():
    assert metrics.tidy("مُحَمَّدٌ  رَسُولُ", "mgb") == "محمد رسول"
    assert metrics.tidy("مُحَمَّدٌ", "none") != "محمد"


def test_class_metrics_agree_with_scikit_learn():
    generator = np.random.default_rng(1)
    references = [str(x) for x in generator.integers(0, 3, 90)]
    # class 3 is predicted but never there: it lowers macro-F1 and leaves UA alone
    hypotheses = [str(x) for x in generator.integers(0, 4, 90)]
    expected = {
        "wa": np.mean([r == h for r, h in zip(references, hypotheses, strict=True)]),
        "ua": balanced_accuracy_score(references, hypotheses),
        "macro_f1": f1_score(references, hypotheses, average="macro"),
    }
    for metric, value in expected.items():
        assert metrics.value(metric, references, hypotheses) == pytest.approx(value)
        assert metrics.from_counts(metric, metrics.counts(metric, references, hypotheses).sum(0)) == pytest.approx(
            value
        )


def test_a_class_without_items_in_a_draw_is_left_out_of_the_mean():
    sums = metrics.counts("ua", ["a", "a"], ["a", "b"], labels=["a", "b", "c"]).sum(0)
    assert metrics.from_counts("ua", sums) == 0.5


@pytest.mark.parametrize(
    ("metric", "references", "hypotheses", "message"),
    [
        ("werr", ["a"], ["a"], "unknown"),
        ("wer", ["a"], [], "1 references but 0 hypotheses"),
        ("ua", [], [], "no utterances"),
    ],
)
def test_what_cannot_be_scored_is_refused(metric: str, references: list, hypotheses: list, message: str):
    with pytest.raises(metrics.MetricError, match=message):
        metrics.value(metric, references, hypotheses)
