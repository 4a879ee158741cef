"""A small corpus of noise for several tests of pre-training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from corpora.audio import write_audio
from corpora.datadir import Utterance, write_datadir

NoiseCorpus = Callable[..., dict[str, list[Utterance]]]


@pytest.fixture(scope="session")
def noise_corpus() -> NoiseCorpus:
    """Writes `<root>/{train,dev}`: noise of changing loudness, two speakers, optionally a language by utterance."""

    def write(
        root: Path,
        train: int,
        dev: int,
        *,
        samples: tuple[int, int] = (9000, 40000),
        language: Callable[[int], str] | None = None,
    ) -> dict[str, list[Utterance]]:
        rng = np.random.default_rng(0)
        corpus: dict[str, list[Utterance]] = {}
        for split, count in (("train", train), ("dev", dev)):
            corpus[split] = []
            for i in range(count):
                length = int(rng.integers(*samples))
                path = root / "audio" / split / f"{i}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                envelope = 0.05 + np.abs(np.sin(np.arange(length) / rng.uniform(500, 3000)))
                write_audio(path, (0.1 * envelope * rng.standard_normal(length)).astype(np.float32))
                group = None if language is None else language(i)
                speaker = f"s{i % 2}"
                corpus[split].append(Utterance(f"{speaker}-{split}{i:02d}", speaker, path, length, language=group))
            write_datadir(root / split, corpus[split])
        return corpus

    return write
