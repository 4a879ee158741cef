"""Bootstrap intervals: by speaker, seeded, paired, and equal to the textbook loop."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from downstream.score import stats

SPEAKERS = [f"s{i % 8}" for i in range(160)]


def outcomes(right: float, seed: int) -> tuple[list[str], list[str]]:
    generator = np.random.default_rng(seed)
    references = [str(x) for x in generator.integers(0, 3, len(SPEAKERS))]
    hypotheses = [r if generator.random() < right else "0" for r in references]
    return references, hypotheses


@pytest.mark.slow
def test_the_interval_is_that_of_resampling_speakers_one_by_one():
    references, hypotheses = outcomes(0.7, 0)
    scored = stats.score("ua", SPEAKERS, references, hypotheses)
    got = stats.bootstrap_ci(scored, "ua", draws=400, seed=3)
    weights = np.random.default_rng(3).multinomial(8, np.full(8, 1 / 8), size=400)
    values = []
    for weight in weights:
        rows = [i for i, s in enumerate(SPEAKERS) for _ in range(weight[int(s[1:])])]
        values.append(balanced_accuracy_score([references[i] for i in rows], [hypotheses[i] for i in rows]))
    low, high = np.percentile(values, [2.5, 97.5])
    assert (got.low, got.high) == (pytest.approx(low), pytest.approx(high))
    assert got.unit == "speaker"


def test_speakers_and_not_utterances_are_drawn():
    # every speaker is all right or all wrong: by utterance the interval would be far too narrow
    references = ["a"] * len(SPEAKERS)
    hypotheses = ["a" if int(s[1:]) < 4 else "b" for s in SPEAKERS]
    interval = stats.bootstrap_ci(stats.score("wa", SPEAKERS, references, hypotheses), "wa")
    assert interval.high - interval.low > 0.4


def test_one_speaker_is_resampled_by_utterance():
    references, hypotheses = outcomes(0.5, 1)
    interval = stats.bootstrap_ci(stats.score("wa", ["x"] * len(SPEAKERS), references, hypotheses), "wa")
    assert interval.unit == "utterance"
    assert 0 < interval.high - interval.low < 0.3


def test_the_same_seed_gives_the_same_interval():
    scored = stats.score("ua", SPEAKERS, *outcomes(0.6, 2))
    assert stats.bootstrap_ci(scored, "ua", seed=1) == stats.bootstrap_ci(scored, "ua", seed=1)
    assert stats.bootstrap_ci(scored, "ua", seed=1) != stats.bootstrap_ci(scored, "ua", seed=2)


def test_pairing_removes_differences_between_speakers():
    # speakers differ a lot, both systems alike: unpaired intervals overlap, the paired one does not hold 0
    generator = np.random.default_rng(5)
    errors = np.repeat(generator.integers(0, 10, 8), 20)[np.argsort(np.argsort(SPEAKERS, kind="stable"), kind="stable")]
    a = stats.Scored(tuple(SPEAKERS), np.stack([errors, np.full(160, 12)], 1).astype(float))
    b = stats.Scored(tuple(SPEAKERS), np.stack([errors + 1, np.full(160, 12)], 1).astype(float))
    (_, sums_a), (_, sums_b) = stats.by_unit(a), stats.by_unit(b)
    weights = stats.resample(len(sums_a))
    differences = stats.from_counts("wer", weights @ sums_a) - stats.from_counts("wer", weights @ sums_b)
    assert stats.central(differences)[1] < 0
    assert stats.bootstrap_ci(a, "wer").high > stats.bootstrap_ci(b, "wer").low


def test_mcnemar_is_the_exact_test_of_published_counts():
    """Table 10.1 in Agresti, Categorical Data Analysis: 794 | 150 / 86 | 570; p from R's binom.test(150, 236)."""
    first = np.repeat([True, True, False, False], [794, 150, 86, 570])
    second = np.repeat([True, False, True, False], [794, 150, 86, 570])
    assert stats.mcnemar(first, second) == stats.mcnemar(second, first) == pytest.approx(3.716e-05, rel=1e-2)
    assert stats.mcnemar(first, first) == 1.0


def test_bootstrap_p_is_small_only_for_a_clear_difference():
    draws = np.random.default_rng(0).normal(1.0, 1.0, 10_000)
    assert stats.bootstrap_p(draws) == stats.bootstrap_p(-draws) == pytest.approx(2 * 0.1587, abs=0.02)
    assert stats.bootstrap_p(draws + 9) == 1e-4 and stats.bootstrap_p(0 * draws) == 1.0
    assert stats.bootstrap_p(np.append(draws, np.nan)) == stats.bootstrap_p(draws)


def test_one_p_out_of_several_seeds_is_never_too_small():
    assert stats.combined_p([0.03]) == 0.03
    assert stats.combined_p([0.9, 0.01, 0.02]) == pytest.approx(0.03) and stats.combined_p([0.5, 0.8]) == 1.0
    # three equal tests are no more evidence than one
    same = np.random.default_rng(0).uniform(size=2000)
    assert np.mean([stats.combined_p([p] * 3) < 0.05 for p in same]) <= 0.05


def test_pairing_is_by_speaker_and_not_by_utterance():
    # eight people, each all better or all worse: hundreds of clips are eight observations
    references = ["a"] * len(SPEAKERS)
    first = ["a" if int(s[1:]) < 6 else "b" for s in SPEAKERS]
    second = ["a" if int(s[1:]) >= 6 else "b" for s in SPEAKERS]
    right = [np.array([r == h for r, h in zip(references, said, strict=True)]) for said in (first, second)]
    assert stats.mcnemar(*right) < 1e-9
    sums = [stats.by_unit(stats.score("accuracy", SPEAKERS, references, h, ["a", "b"]))[1] for h in (first, second)]
    one, two = (stats.from_counts("accuracy", stats.resample(8) @ own) for own in sums)
    assert stats.bootstrap_p(one - two) > 0.05
