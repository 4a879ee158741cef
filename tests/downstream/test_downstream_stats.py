"""Bootstrap intervals: by speaker, seeded, paired, and equal to the textbook loop."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from downstream import stats

SPEAKERS = [f"s{i % 8}" for i in range(160)]


def outcomes(right: float, seed: int) -> tuple[list[str], list[str]]:
    generator = np.random.default_rng(seed)
    references = [str(x) for x in generator.integers(0, 3, len(SPEAKERS))]
    hypotheses = [r if generator.random() < right else "0" for r in references]
    return references, hypotheses


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


def test_pairing_takes_out_what_both_share():
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


def runs(metric: str, right: tuple[float, float]) -> tuple[stats.Scored, stats.Scored]:
    references, first = outcomes(right[0], 1)
    _, second = outcomes(right[1], 1)
    labels = ["0", "1", "2"]
    return tuple(stats.score(metric, SPEAKERS, references, h, labels) for h in (first, second))


def test_mcnemar_is_the_exact_test_of_published_counts():
    """Table 10.1 in Agresti, Categorical Data Analysis: 794 | 150 / 86 | 570; p from R's binom.test(150, 236)."""
    references = ["a"] * 1600
    first = ["a"] * 794 + ["a"] * 150 + ["b"] * 86 + ["b"] * 570
    second = ["a"] * 794 + ["b"] * 150 + ["a"] * 86 + ["b"] * 570
    found = stats.mcnemar(references, first, second)
    assert found.value == pytest.approx(64 / 1600)
    assert (found.low, found.high) == (pytest.approx(0.0212, abs=5e-4), pytest.approx(0.0588, abs=5e-4))
    assert found.p == pytest.approx(3.716e-05, rel=1e-2)
    assert stats.mcnemar(references, first, first).p == 1.0


def test_the_permutation_test_agrees_with_scipy():
    from scipy.stats import permutation_test

    first, second = runs("accuracy", (0.75, 0.65))
    found = stats.permutation(first, second, "accuracy", seed=1)
    per_speaker = [stats.from_counts("accuracy", stats.by_unit(r)[1]) for r in (first, second)]
    theirs = permutation_test(
        per_speaker, lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True
    )
    assert found.value == pytest.approx(theirs.statistic)
    assert found.p == pytest.approx(theirs.pvalue, abs=0.02)


def test_a_clear_difference_is_seen_and_none_is_not():
    first, second = runs("ua", (0.9, 0.3))
    for test in (stats.paired_bootstrap, stats.permutation):
        found = test(first, second, "ua", draws=2000)
        assert found.low > 0 and found.p < 0.02
        same = test(first, first, "ua", draws=2000)
        assert (same.value, same.p) == (0, 1)


def test_pairing_is_by_speaker_and_not_by_utterance():
    # eight people, each all better or all worse: hundreds of clips are eight observations
    references = ["a"] * len(SPEAKERS)
    first = ["a" if int(s[1:]) < 6 else "b" for s in SPEAKERS]
    second = ["a" if int(s[1:]) >= 6 else "b" for s in SPEAKERS]
    assert stats.mcnemar(references, first, second).p < 1e-9
    scored = [stats.score("accuracy", SPEAKERS, references, h, ["a", "b"]) for h in (first, second)]
    assert stats.permutation(*scored, "accuracy").p > 0.1
    assert stats.paired_bootstrap(*scored, "accuracy").p > 0.05


def test_only_runs_over_the_same_utterances_are_paired():
    first, second = runs("wa", (0.9, 0.8))
    other = stats.Scored(second.speakers[::-1], second.counts)
    with pytest.raises(ValueError, match="not scored on the same utterances"):
        stats.paired_bootstrap(first, other, "wa")
