"""Speech from eSpeak: the same bytes for the same request, and audible differences where they are requested."""

from __future__ import annotations

import errno
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corpora.audio import SAMPLE_RATE, read_audio
from corpora.files import CorpusError
from corpora.sets.espeak import Espeak, Prosody, Request, Voice, render, spelling, synthesise

VOICE = Voice("ar", 90.0, 130.0, (100,) * 5, noise_db=-90.0)
HIGH = Voice("ar", 180.0, 260.0, (115,) * 5, breath=2, flutter=5, noise_db=-90.0)
TEXT = "قَالَ الرَّجُلُ كَلَامًا جَمِيلًا"


@pytest.fixture(scope="module")
def espeak(tmp_path_factory: pytest.TempPathFactory) -> Espeak:
    """The library in this process; it writes its voice into the current folder."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("espeak"))
    yield Espeak()
    os.chdir(before)


def requests(folder: Path, *some: Request) -> list[Request]:
    return [replace(request, path=folder / f"{n}.wav") for n, request in enumerate(some)]


SOME = (
    Request(Path(), TEXT, VOICE, seed=1),
    Request(Path(), TEXT, HIGH, Prosody(rate=1.2, pitch=2.0, range=1.5, gain_db=-3.0), seed=2),
    Request(Path(), "my brother opened the letter", replace(HIGH, language="en"), seed=3),
    Request(Path(), TEXT, VOICE, sounds=(("q", "?"), ("dZ", "g")), seed=4),
    Request(Path(), TEXT, VOICE, seed=5),
)


def test_bytes_do_not_depend_on_earlier_requests_or_the_number_of_processes(tmp_path: Path) -> None:
    first = requests(tmp_path, *SOME)
    synthesise(first)
    expected = [request.path.read_bytes() for request in first]
    assert len(set(expected)) == len(SOME)

    again = requests(tmp_path, *SOME)
    synthesise(list(reversed(again)), jobs=2)
    assert [request.path.read_bytes() for request in again] == expected

    alone = replace(SOME[1], path=tmp_path / "alone.wav")
    synthesise([alone])
    assert alone.path.read_bytes() == expected[1]


def test_output_is_speech_at_16_khz_between_two_short_pauses(tmp_path: Path) -> None:
    synthesise(requests(tmp_path, SOME[0]))
    samples = read_audio(tmp_path / "0.wav")
    assert 1.0 < len(samples) / SAMPLE_RATE < 4.0
    assert 0.05 < np.abs(samples).max() < 1.0
    assert np.abs(samples[: SAMPLE_RATE // 50]).max() < 0.001 < np.sqrt((samples**2).mean())


def fundamental(samples: np.ndarray) -> float:
    """Median fundamental frequency in Hz, by autocorrelation."""
    found = []
    for start in range(0, len(samples) - 800, 400):
        block = samples[start : start + 800]
        if np.abs(block).max() > 0.05:
            lags = np.correlate(block, block, "full")[799:]
            lag = 40 + int(np.argmax(lags[40:260]))
            if lags[lag] > 0.5 * lags[0]:
                found.append(SAMPLE_RATE / lag)
    return float(np.median(found))


def test_prosody_changes_the_audio(espeak: Espeak) -> None:
    def say(**changes: float) -> np.ndarray:
        return render(espeak, Request(Path(), TEXT, VOICE, Prosody(**changes)))

    plain = say()
    assert fundamental(say(pitch=6.0)) / fundamental(plain) == pytest.approx(2**0.5, rel=0.12)
    assert len(say(rate=1.4)) < 0.85 * len(plain)
    assert len(say(rate=0.7)) > 1.2 * len(plain)
    assert np.abs(say(gain_db=-6.0)).max() / np.abs(plain).max() == pytest.approx(0.5, rel=0.1)


def test_voices_differ_in_pitch_and_formants(espeak: Espeak) -> None:
    def spectrum(voice: Voice) -> np.ndarray:
        samples = render(espeak, Request(Path(), TEXT, voice))
        power = np.abs(np.fft.rfft(samples, 1 << 16)) ** 2
        return np.log10(power[: 1 << 14].reshape(64, -1).mean(axis=1) + 1e-9)

    low, high = (render(espeak, Request(Path(), TEXT, voice)) for voice in (VOICE, HIGH))
    assert fundamental(high) > 1.5 * fundamental(low)
    long, short = spectrum(VOICE), spectrum(replace(VOICE, formants=(115,) * 5))
    assert np.abs(long - short).mean() > 0.1
    bright, dark = (spectrum(replace(VOICE, darkness=value)) for value in (-0.4, 0.4))
    assert (bright - dark)[48:].mean() > (bright - dark)[:8].mean() + 0.5


@pytest.mark.parametrize(
    ("word", "sounds"),
    [
        ("قَلْب", (("q", "?"),)),
        ("قَلْب", (("q", "g"),)),
        ("جَمَل", (("dZ", "g"),)),
        ("جَمَل", (("dZ", "Z;"),)),
        ("ثَلَاثَة", (("T", "t"),)),
        ("ذَهَب", (("D", "d"),)),
        ("ضَيْف", (("dH", "D"),)),
        ("بَاب", (("a:", "e:"),)),
        ("كَبِير", (("a", "@"),)),
        ("كَلْب", (("k", "tS"),)),
    ],
)
def test_replaced_sounds_change_the_audio(espeak: Espeak, word: str, sounds: tuple) -> None:
    espeak.set_voice(replace(VOICE, flutter=0), Prosody())
    phonemes = espeak.phonemes(word)
    assert sounds[0][0] in phonemes
    before = espeak.speak(word)
    # The same phonemes spelled out sound like the word; the changed ones do not.
    same, after = espeak.speak(word, ((r"^", ""),)), espeak.speak(word, sounds)
    assert abs(len(same) - len(before)) < 50
    n = min(len(before), len(after))
    assert np.abs(before[:n] - after[:n]).max() > 0.1


@pytest.mark.parametrize(
    ("word", "phonemes"),
    [("الدَّرْس", "?add'aRs"), ("سِتَّة", "sitt,at"), ("مُعَلِّم", "muA'allim"), ("قُوَّة", "q'u:wat"), ("كِتَاب", "kit,a:b")],
)
def test_a_vowel_with_a_shadda_is_spoken_in_either_order(espeak: Espeak, word: str, phonemes: str) -> None:
    espeak.set_voice(VOICE, Prosody())
    shadda, vowels = "\u0651", "\u064e\u064f\u0650"
    canonical = word
    for vowel in vowels:
        canonical = canonical.replace(shadda + vowel, vowel + shadda)
    typed = canonical
    for vowel in vowels:
        typed = typed.replace(vowel + shadda, shadda + vowel)
    assert espeak.phonemes(canonical) == espeak.phonemes(typed) == phonemes
    assert spelling(canonical) == spelling(typed)


def test_english_and_arabic_are_spoken_by_their_own_rules(espeak: Espeak) -> None:
    espeak.set_voice(replace(VOICE, language="en"), Prosody())
    assert espeak.phonemes("hello world") == "h@l'oU w'3:ld"
    with pytest.raises(CorpusError, match="'fr'.*ar, en"):
        espeak.set_voice(replace(VOICE, language="fr"), Prosody())


def test_silence_is_an_error(espeak: Espeak) -> None:
    espeak.set_voice(VOICE, Prosody())
    with pytest.raises(CorpusError, match="''"):
        espeak.speak("")


def test_failed_utterance_is_named_and_the_rest_is_not_waited_for(tmp_path: Path) -> None:
    good, bad, *rest = requests(tmp_path, SOME[0], replace(SOME[0], text=""), *[SOME[0]] * 20)
    with pytest.raises(CorpusError, match=r"1\.wav: .*''"):
        synthesise([good, bad, *rest])
    assert good.path.exists() and not rest[-1].path.exists()


def test_refused_write_is_named(tmp_path: Path) -> None:
    # The processes inherit the limit; the kernel breaks off their writes, as on a full disk.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, before[1]))
    try:
        with pytest.raises(CorpusError, match=rf"0\.wav: OSError: .*{errno.EFBIG}"):
            synthesise(requests(tmp_path, SOME[0]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_process_that_dies_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    dead = [sys.executable, "-c", "import os; os._exit(3)"]
    with pytest.raises(CorpusError, match=r"\d\.wav: "):
        synthesise(requests(tmp_path, *SOME), jobs=2, server=dead)


def test_the_error_for_a_missing_library_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "espeakng_loader.py").write_text("raise ImportError('no such wheel')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CorpusError, match="no such wheel.*pip install espeakng-loader"):
        synthesise(requests(tmp_path, SOME[0]))


def test_long_paths_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # eSpeak keeps paths in buffers of 160 characters; a deep temporary folder must not reach them.
    deep = tmp_path.joinpath(*["a folder with a rather long name"] * 7)
    deep.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.chdir(deep)
    synthesise(requests(deep, SOME[0]))
    assert [path.name for path in deep.iterdir()] == ["0.wav"]
