"""Fixtures: small labelled sets of tones, and tiny upstreams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from corpora.audio import SAMPLE_RATE, write_audio
from corpora.datadir import Utterance, write_datadir

LETTERS = "ابتج"
EMOTIONS = ("angry", "calm", "sad")


def tone(hertz: float, seconds: float, seed: int, loud: float = 0.3) -> np.ndarray:
    """A tone with a little noise, float32 (n,)."""
    samples = int(seconds * SAMPLE_RATE)
    noise = np.random.default_rng(seed).standard_normal(samples) * 0.01
    return (loud * np.sin(2 * np.pi * hertz * np.arange(samples) / SAMPLE_RATE) + noise).astype(np.float32)


def spoken(text: str, seed: int) -> np.ndarray:
    """Each letter as 120 ms of its own tone, a space as noise."""
    hertz = {letter: 400.0 * (number + 1) for number, letter in enumerate(LETTERS)}
    parts = [tone(hertz.get(c, 50.0), 0.12, seed * 100 + i, 0.3 if c in hertz else 0.0) for i, c in enumerate(text)]
    return np.concatenate(parts)


@pytest.fixture(scope="session")
def speak() -> Callable[[str, int], np.ndarray]:
    """speak(text, seed) -> its samples, a tone for each letter."""
    return spoken


@pytest.fixture(scope="session")
def write_set() -> Callable[..., Path]:
    """write_set(folder, "asr", {"train": 12, ...}) -> folder with a data directory a split; two speakers each."""

    def write(folder: Path, task: str, sizes: dict[str, int]) -> Path:
        for number, (split, size) in enumerate(sizes.items()):
            utterances = []
            for i in range(size):
                speaker = f"{split}{i % 2}"
                utt_id = f"{speaker}-{i:03d}"
                generator = np.random.default_rng([number, i])
                label = {}
                if task == "asr":
                    words = ["".join(generator.choice(list(LETTERS), 2)) for _ in range(int(generator.integers(1, 4)))]
                    label = {"text": " ".join(words)}
                    samples = spoken(label["text"], 1000 * number + i)
                else:
                    kind = i % len(EMOTIONS)
                    label = {"emotion" if task == "ser" else "dialect": EMOTIONS[kind]}
                    # CMVN takes the mean away from fbank: what differs is how an utterance ends.
                    samples = np.concatenate(
                        [tone(500, 0.2, 1000 * number + i), tone(300.0 * (kind + 1), 0.2 + 0.01 * i, i)]
                    )
                audio = folder / "audio" / f"{utt_id}.wav"
                write_audio(audio, samples)
                utterances.append(Utterance(utt_id, speaker, audio, len(samples), **label))
            write_datadir(folder / split, utterances)
        return folder

    return write


@pytest.fixture
def make_set(tmp_path: Path, write_set: Callable[..., Path]) -> Callable[..., Path]:
    """make_set("asr", {"train": 12, ...}) -> the same in a folder of the test."""
    return lambda task, sizes, name="data": write_set(tmp_path / name / task, task, sizes)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with `tiny_a` and `tiny_b`: two layers, width 32, random weights."""
    import torch

    from upstream.model.encoder import build_encoder
    from upstream.model.family import geometry
    from upstream.model.modeldir import save_model

    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("tiny_a", "tiny_b")):
        torch.manual_seed(seed)
        model = build_encoder(geometry("mini_hst", width=32, ffn=64)).eval()
        save_model(model, folder / name, {"name": name})
    return folder
