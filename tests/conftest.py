"""What all tests share: no network, one thread where it matters, and the real speech where there is some."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

# Read by libraries when they are imported, hence before any of them is.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Output with file names that are not UTF-8 cannot be sent from one process of pytest-xdist to another."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def real_speech() -> Path:
    """The folder with the four public corpora; the test is skipped where there is none."""
    folder = os.environ.get("HARNESS_REAL_SPEECH", "")
    if not folder:
        pytest.skip("HARNESS_REAL_SPEECH is not set: no real speech to test with")
    if not Path(folder).is_dir():
        pytest.fail(f"HARNESS_REAL_SPEECH={folder}: no such folder")
    return Path(folder)


@pytest.fixture(scope="session")
def encode():
    """A function that writes samples (n,) or (n, channels) in [-1, 1] through FFmpeg, to a file or as to a pipe."""
    import av
    import numpy as np

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.content = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, block: bytes) -> int:
            self.content += bytes(block)
            return len(block)

    def write(
        path: Path,
        samples: np.ndarray,
        rate: int,
        codec: str,
        form: str,
        *,
        pipe: bool = False,
        bits: int = 0,
        quality: int = 0,
        **options,
    ) -> bytes:
        samples = samples[:, None] if samples.ndim == 1 else samples
        layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
        sink = Pipe() if pipe else str(path)
        with av.open(sink, "w", format=form, options={key: str(value) for key, value in options.items()}) as out:
            stream = out.add_stream(codec, rate=rate, layout=layout)
            if bits:
                stream.bit_rate = bits
            if quality:  # a variable bit rate; `options` are those of the container
                stream.codec_context.options = {"flags": "+qscale", "global_quality": str(quality)}
            pcm = (samples * 32767).astype("<i2").reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout=layout)
            frame.sample_rate = rate
            for source in (frame, None):
                out.mux(stream.encode(source))
        if pipe:
            path.write_bytes(sink.content)
        return path.read_bytes()

    return write
