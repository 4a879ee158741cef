import numpy as np

from downstream.asr.calibrate import Trial, choose, trial
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
    assert right.right and right.share == 0.125 and right.gap > 0.3
    assert not trial(_finder(LINES), _certain(heard), heard, LINES[1]).right
    absent = trial(_finder(LINES[1:]), _certain(heard), heard, None)
    assert not absent.right and absent.share > 0.4


def test_the_limits_are_the_widest_without_wrong_answers() -> None:
    inside = [Trial(0.1, 0.5, True), Trial(0.3, 0.3, True), Trial(0.45, 0.12, True), Trial(0.5, 0.03, True)]
    outside = [Trial(0.55, 0.01, False), Trial(0.5, 0.05, False), Trial(0.52, 0.02, False)]
    limits, shares = choose(inside, outside, wrong=0.0)
    assert shares == {"found_in_the_list": 0.75, "found_outside": 0.0}
    assert limits.share < 0.5 and limits.gap > 0.05
    _, looser = choose(inside, outside, wrong=0.5)
    assert looser["found_in_the_list"] == 1.0


def test_wrong_answers_inside_do_not_count() -> None:
    _, shares = choose([Trial(0.1, 0.5, False), Trial(0.2, 0.5, True)], [Trial(0.6, 0.0, False)], wrong=0.0)
    assert shares["found_in_the_list"] == 0.5
