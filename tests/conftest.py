"""What all tests share: no network, one thread where it matters, and the real speech where there is some."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read by libraries when they are imported, hence before any of them is.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent


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
