"""Metrics against jiwer, scikit-learn, and the mistakes that people make with them."""

from __future__ import annotations

from collections.abc import Callable

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score

from downstream import DownstreamError
from downstream.score import metrics

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
    with pytest.raises(DownstreamError, match="all 2 references"):
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
    # class 3 is predicted but not in the references: it lowers macro-F1, not UA
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
        ("werr", ["a"], ["a"], "werr"),
        ("wer", ["a"], [], "1 references but 0 hypotheses"),
        ("ua", [], [], "no utterances"),
    ],
)
def test_unusable_predictions_are_refused(metric: str, references: list, hypotheses: list, message: str):
    with pytest.raises(DownstreamError, match=message):
        metrics.value(metric, references, hypotheses)


@pytest.mark.parametrize(("metric", "rate"), [("wer_macro", jiwer.wer), ("cer_macro", jiwer.cer)])
def test_macro_averages_are_means_of_utterances(metric: str, rate: Callable[[str, str], float]):
    references, hypotheses = [*REFERENCES, ""], [*HYPOTHESES, "كلمة زائدة"]
    expected = np.mean([rate(r, h) for r, h in zip(references, hypotheses, strict=True)])
    assert metrics.value(metric, references, hypotheses) == pytest.approx(expected)
    assert metrics.value(metric, references, hypotheses) != metrics.value(metric[:3], references, hypotheses)
    total = metrics.counts(metric, references, hypotheses).sum(0)
    assert metrics.from_counts(metric, total) == pytest.approx(expected)


def multi(references: list[list[str]], hypotheses: list[str]) -> float:
    return float(metrics.from_counts("mr_wer", metrics.multi_reference_counts(references, hypotheses).sum(0)))


texts = st.lists(st.sampled_from(["ا", "ب", "ت", "ث"]), max_size=6).map(" ".join)


@given(st.lists(st.tuples(st.lists(texts, min_size=1, max_size=4), texts), min_size=1, max_size=4))
def test_more_transcriptions_never_make_it_worse(pairs: list[tuple[list[str], str]]):
    for references, hypothesis in pairs:
        got = multi([references], [hypothesis])
        assert np.isnan(got) or got <= min(jiwer.wer(text, hypothesis) for text in references)
    ones = [references[:1] for references, _ in pairs]
    hypotheses = [hypothesis for _, hypothesis in pairs]
    if any(text for (text,) in ones):
        assert multi(ones, hypotheses) == pytest.approx(jiwer.wer([text for (text,) in ones], hypotheses))


def test_a_word_is_right_where_any_transcription_has_it():
    # the spellings of dialect differ from one transcriber to the next (MGB-3)
    references = [["عايز اروح البيت", "عاوز أروح البيت"]]
    assert multi(references, ["عاوز اروح البيت"]) == 0
    assert multi(references, ["عاوز اروح"]) == pytest.approx(1 / 3)
    assert multi(references, ["عاوز اروح الى البيت"]) == pytest.approx(1 / 3)


def literal_cavg(references: list[str], decisions: np.ndarray, labels: list[str]) -> float:
    """The formula of the evaluation plan, term by term."""
    total = 0.0
    said = np.array(references)
    for t, target in enumerate(labels):
        cost = 0.5 * (1 - decisions[said == target, t].mean())
        for other in labels:
            if other != target:
                cost += 0.5 / (len(labels) - 1) * decisions[said == other, t].mean()
        total += cost
    return total / len(labels)


def test_cavg_is_nists_formula():
    generator = np.random.default_rng(0)
    labels = ["EGY", "GLF", "LAV", "MSA", "NOR"]
    references = [str(x) for x in generator.choice(labels, 200, p=[0.4, 0.3, 0.1, 0.1, 0.1])]
    scores = generator.standard_normal((200, 5)) + 1.5 * np.array([[r == x for x in labels] for r in references])
    decisions = metrics.accepted(scores)
    got = metrics.from_counts("cavg", metrics.cavg_counts(references, decisions, labels).sum(0))
    assert got == pytest.approx(literal_cavg(references, decisions, labels))
    assert 0.05 < got < 0.5
    # one decision an utterance makes it a function of the mean recall
    hard = np.eye(5, dtype=bool)[scores.argmax(1)]
    recall = balanced_accuracy_score(references, [labels[i] for i in scores.argmax(1)])
    got = metrics.from_counts("cavg", metrics.cavg_counts(references, hard, labels).sum(0))
    assert got == pytest.approx(0.5 * 5 / 4 * (1 - recall))
    everything = metrics.cavg_counts(references, np.ones((200, 5), bool), labels).sum(0)
    assert metrics.from_counts("cavg", everything) == pytest.approx(0.5)


def test_a_class_is_accepted_above_the_mean_of_the_others():
    likelihoods = np.log([[0.4, 0.35, 0.25], [1 / 3, 1 / 3, 1 / 3], [0.98, 0.01, 0.01]])
    assert metrics.accepted(likelihoods + 7).tolist() == [[True, True, False], [True] * 3, [True, False, False]]


def test_confusion_is_scikit_learns():
    assert metrics.confusion(["a", "a", "b"], ["a", "c", "b"], ["a", "b", "c"]).tolist() == [
        [1, 0, 1],
        [0, 1, 0],
        [0, 0, 0],
    ]


def test_the_score_is_superbs():
    """Against the published SUPERB table: fbank, wav2vec 2.0 Large as the reference, HuBERT Base; PR and ER."""
    fbank = {"pr": {"per": 0.8201}, "er": {"acc": 0.3539}}
    best = {"pr": {"per": 0.0475}, "er": {"acc": 0.6564}}
    hubert = {"pr": {"per": 0.0541}, "er": {"acc": 0.6492}}
    expected = 1000 / 2 * ((0.0541 - 0.8201) / (0.0475 - 0.8201) + (0.6492 - 0.3539) / (0.6564 - 0.3539))
    assert metrics.superb_score(hubert, fbank, best) == pytest.approx(expected)
    assert metrics.superb_score(fbank, fbank, best) == 0
    assert metrics.superb_score(best, fbank, best) == pytest.approx(1000)
    with pytest.raises(DownstreamError, match="er acc is missing"):
        metrics.superb_score({"pr": {"per": 0.1}}, fbank, best)
