import numpy as np
import pytest

from downstream.asr.augment import (
    AugmentConfig,
    add_noise,
    augment,
    change_speed,
    change_tempo,
    coloured_noise,
    telephone,
)

RATE = 16000


def _tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(RATE * seconds)) / RATE)).astype(np.float32)


def test_the_same_generator_gives_the_same_clip() -> None:
    clips = [_tone(300), _tone(700)]
    first, second = (augment(clips[0], np.random.default_rng(3), AugmentConfig(), clips) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("seed", range(20))
def test_every_effect_leaves_finite_samples_in_range(seed: int) -> None:
    everything = AugmentConfig(
        speed_share=1, room_share=1, noise_share=1, telephone_share=1, clip_share=1, tilt_share=1
    )
    clip = _tone(440, 0.3)
    changed = augment(clip, np.random.default_rng(seed), everything, [clip])
    assert changed.dtype == np.float32 and np.isfinite(changed).all() and np.abs(changed).max() <= 1
    assert abs(len(changed) / len(clip) - 1) < 0.15


def test_speed_changes_length_and_pitch() -> None:
    fast = change_speed(_tone(400), 1.25)
    assert len(fast) == 12800
    assert np.argmax(np.abs(np.fft.rfft(fast))) * RATE / len(fast) == pytest.approx(500, abs=2)


def test_noise_has_the_level_that_was_asked_for() -> None:
    clip = _tone(440)
    noise = coloured_noise(len(clip), np.random.default_rng(0))
    added = add_noise(clip, noise, 10.0) - clip
    assert 10 * np.log10(np.square(clip).mean() / np.square(added).mean()) == pytest.approx(10, abs=0.1)


def test_a_telephone_has_no_bass_and_no_treble() -> None:
    rng = np.random.default_rng(1)

    def passed(hz: float) -> float:
        return float(np.square(telephone(_tone(hz), rng)).mean() / np.square(_tone(hz)).mean())

    assert np.median([passed(6000) for _ in range(6)]) < 0.05
    quiet = [telephone(_tone(50) * 0.1 + _tone(1000), np.random.default_rng(i)) for i in range(6)]
    assert all(np.isfinite(x).all() for x in quiet)


def test_silence_stays_finite() -> None:
    silent = np.zeros(8000, np.float32)
    for seed in range(10):
        assert np.isfinite(augment(silent, np.random.default_rng(seed), AugmentConfig(), [silent])).all()


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.7])
def test_tempo_changes_length_and_keeps_pitch(factor: float) -> None:
    wav = _tone(300.0, 2.0)
    changed = change_tempo(wav, factor)
    assert len(changed) == pytest.approx(len(wav) / factor, rel=0.02)
    spectrum = np.abs(np.fft.rfft(changed * np.hanning(len(changed))))
    assert np.argmax(spectrum) * 16000 / len(changed) == pytest.approx(300.0, abs=4.0)
    middle = changed[2000:-2000]
    assert np.abs(middle).max() < 1.15 * np.abs(wav).max()
    assert np.square(middle).mean() == pytest.approx(np.square(wav).mean(), rel=0.15)
    assert len(change_tempo(wav[:100], factor)) >= 100
