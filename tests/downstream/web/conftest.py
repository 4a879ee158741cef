"""Chromium, clips and pages for the tests of the page; each fixture says why its tests are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.web import find_chromium, open_chromium, use_cache
from corpora.audio import load_any, write_audio
from downstream.asr.recogniser import Recogniser, save_head
from downstream.web.packages import PACKAGE, runtime
from downstream.web.site import PAGE
from upstream.model.encoder import build_encoder
from upstream.model.family import Geometry
from upstream.model.modeldir import model_sha256, save_model

TEXT = ("قَالَ الرَّجُلُ", "نَعَم", "السَّلَامُ عَلَيْكُم")


@pytest.fixture(scope="session")
def recogniser() -> Callable[..., Path]:
    """A function that writes a tiny recogniser with random weights; it returns its head directory."""

    def make(folder: Path, seed: int = 0) -> Path:
        torch.manual_seed(seed)
        geometry = Geometry("tiny", 2, 16, 2, 32, "logmel", pos_conv_kernel=8, pos_conv_groups=4)
        encoder = build_encoder(geometry).eval()
        save_model(encoder, folder, {"name": "tiny"})
        save_head(Recogniser(encoder), folder / "head", {"upstream": "tiny", "upstream_key": model_sha256(folder)})
        return folder / "head"

    return make


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of ONNX Runtime for browsers; exports of the tests go to a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "which", lambda name: None)  # tests use no network
        try:
            found = runtime(PAGE)
        except ValueError:
            pytest.skip(f"{PACKAGE} is not installed: `npm ci` in web/ (.ci/run does it where npm exists)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", "")
        use_cache(tmp_path_factory.mktemp("cache") / "own")
        yield found


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """A function that starts Chromium with further arguments; all of them end with the session."""
    if find_chromium() is None:
        pytest.skip("no chromium or no chromedriver: apt-get install chromium chromium-driver")
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(open_chromium(tmp_path_factory.mktemp("profile"), arguments))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three short clips as 16 kHz WAV: real ones where HARNESS_REAL_SPEECH has them, else from eSpeak."""
    import os

    folder = tmp_path_factory.mktemp("clips")
    real = os.environ.get("HARNESS_REAL_SPEECH")
    if real:
        sources = [
            next(iter(sorted((Path(real) / place).rglob(pattern))))
            for place, pattern in (
                ("arabic_speech_commands/dataset", "*.wav"), ("everyayah", "*.mp3"), ("baved", "*.wav"),
            )
        ]  # fmt: skip
        found = []
        for number, source in enumerate(sources):
            write_audio(folder / f"{number}.wav", load_any(source)[: 20 * 16000])
            found.append(folder / f"{number}.wav")
        return found
    from corpora.sets.espeak import Request, Voice, synthesise

    voice = Voice("ar", 90.0, 130.0, (100,) * 5, noise_db=-90.0)
    paths = [folder / f"{number}.wav" for number in range(len(TEXT))]
    synthesise([Request(path, text, voice, seed=1) for path, text in zip(paths, TEXT, strict=True)])
    return paths


@pytest.fixture(scope="session")
def long_clip(clips: list[Path]) -> np.ndarray:
    """Samples of 32 s: two windows."""
    whole = np.concatenate([load_any(clip) for clip in clips])
    return np.tile(whole, -(-32 * 16000 // len(whole)))[: 32 * 16000]
