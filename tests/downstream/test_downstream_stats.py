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


def runs(right: float, metric: str = "ua") -> list[stats.Scored]:
    return [stats.score(metric, SPEAKERS, *outcomes(right, seed), ["0", "1", "2"]) for seed in range(3)]


def test_equal_systems_differ_by_nothing():
    difference = stats.paired_bootstrap(runs(0.7), runs(0.7), "ua")
    assert (difference.delta, difference.low, difference.high) == (0, 0, 0)


def test_a_better_system_is_shown_to_be_better():
    difference = stats.paired_bootstrap(runs(0.9), runs(0.5), "ua")
    assert difference.low > 0.1
    systems = (runs(0.9), runs(0.5))
    means = [np.mean([stats.from_counts("ua", run.counts.sum(0)) for run in system]) for system in systems]
    assert difference.delta == pytest.approx(means[0] - means[1])


def test_pairing_takes_out_what_both_share():
    # speakers differ a lot, both systems alike: unpaired intervals overlap, the paired one does not hold 0
    generator = np.random.default_rng(5)
    errors = np.repeat(generator.integers(0, 10, 8), 20)[np.argsort(np.argsort(SPEAKERS, kind="stable"), kind="stable")]
    a = stats.Scored(tuple(SPEAKERS), np.stack([errors, np.full(160, 12)], 1).astype(float))
    b = stats.Scored(tuple(SPEAKERS), np.stack([errors + 1, np.full(160, 12)], 1).astype(float))
    difference = stats.paired_bootstrap([a], [b], "wer")
    assert difference.high < 0
    assert stats.bootstrap_ci(a, "wer").high > stats.bootstrap_ci(b, "wer").low


def test_systems_tested_on_other_speakers_cannot_be_paired():
    a = stats.score("wa", ["x", "y"], ["a", "a"], ["a", "b"])
    b = stats.score("wa", ["x", "z"], ["a", "a"], ["a", "b"])
    with pytest.raises(ValueError, match="different speakers"):
        stats.paired_bootstrap([a], [b], "wa")
