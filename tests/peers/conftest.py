"""Source distributions of other projects, with test suites that run on our models; `.ci/run --nightly` fetches them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def nightly() -> None:
    """These tests need the network, hence they are skipped unless HARNESS_NIGHTLY=1."""
    if os.environ.get("HARNESS_NIGHTLY") != "1":
        pytest.skip("suites of other projects are fetched: HARNESS_NIGHTLY=1, or .ci/run --nightly")


@pytest.fixture(scope="session")
def uv() -> str:
    """The command that installs and fetches packages."""
    found = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    return found or pytest.skip("uv is not installed")


@pytest.fixture(scope="session")
def packages(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that installs packages into a folder of their own, for PYTHONPATH; skips where that fails."""

    def install(*names: str) -> Path:
        folder = tmp_path_factory.mktemp("packages")
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder), "--no-deps"]
        done = subprocess.run([*command, *names], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{', '.join(names)} could not be fetched: {done.stderr.strip()[-200:]}")
        return folder

    return install


@pytest.fixture(scope="session")
def sources(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that unpacks the source distribution of an installed package, in its version; skips without it."""

    def fetch(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        fetched = [uv, "tool", "run", "--python", sys.executable, "--with", "setuptools", "pip", "download", "--quiet"]
        fetched += ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder)]
        done = subprocess.run([*fetched, f"{name}=={version(name)}"], capture_output=True, text=True)
        archives = [*folder.glob("*.tar.gz")]  # also there if pip could not read its metadata afterwards
        if not archives:
            pytest.skip(f"the sources of {name} {version(name)} could not be fetched: {done.stderr.strip()[-200:]}")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(folder, filter="data")
        return next(path for path in folder.iterdir() if path.is_dir())

    return fetch
