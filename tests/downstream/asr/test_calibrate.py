import numpy as np
import pytest

from downstream.asr.calibrate import Trial, choose, least_probability, trial
from downstream.asr.recogniser import CHARACTERS
from downstream.find import Finder, TextList

LINES = ["قلهوالله", "الحمدلله", "مالكيومالدين"]


def _finder(lines: list[str]) -> Finder:
    return Finder(TextList([f"v{i}" for i in range(len(lines))], lines, lines), CHARACTERS)


def _certain(text: str) -> np.ndarray:
    labels = [label for character in text for label in (CHARACTERS.index(character), 0)]
    probabilities = np.full((len(labels), len(CHARACTERS)), 1e-4)
    probabilities[np.arange(len(labels)), labels] = 0.99
    return np.log(probabilities)


def test_a_trial_knows_what_is_right() -> None:
    heard = "قلهوللله"  # one letter of eight is wrong
    right = trial(_finder(LINES), _certain(heard), heard, LINES[0])
    assert right.right
    assert not trial(_finder(LINES), _certain(heard), heard, LINES[1]).right
    absent = trial(_finder(LINES[1:]), _certain(heard), heard, None)
    assert not absent.right and absent.likelihood < right.likelihood - 1


def test_the_limit_is_the_lowest_with_few_wrong_answers() -> None:
    inside = [Trial(-0.1, True), Trial(-1.0, True), Trial(-1.6, True), Trial(-0.2, False)]
    outside = [Trial(-1.5, False), Trial(-2.0, False), Trial(-3.0, False)]
    limits, shares = choose(inside, outside, wrong=0.0)
    assert limits.likelihood == -1.49
    assert shares == {"found_in_the_list": 0.5, "found_outside": 0.0}
    looser, shares = choose(inside, outside, wrong=0.34)
    assert looser.likelihood == -1.99
    assert shares == {"found_in_the_list": 0.75, "found_outside": pytest.approx(1 / 3)}


def test_the_limit_for_noise_is_above_most_noise_and_below_all_speech() -> None:
    noise = [0.0] * 10 + [0.2] * 9 + [0.9]
    assert least_probability([0.8, 0.6], noise, wrong=0.05) == 0.3  # 0.2, and a quarter of the way to 0.6
    assert least_probability([0.8, 0.6], noise, wrong=0.0) == 0.6  # not 0.825
    assert least_probability([0.8, 0.2996], noise, wrong=0.0) == 0.299  # rounded down
    assert least_probability([0.8], noise, wrong=1.0) == 0.2
    assert least_probability([], noise, wrong=0.05) == 0.0
