"""Get ONNX Runtime for browsers from npm, in the version of the page's lock file, once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from corpora.files import atomic_dir, locked, read_json
from downstream import DownstreamError
from upstream.harness.locate import CACHE_VARIABLE

PACKAGE = "onnxruntime-web"
# The build for WebAssembly alone, without WebGPU.
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_LISTS = ("package.json", "package-lock.json")
_SECONDS = 900  # for `npm ci`: some 30 MB


def cache() -> Path:
    """The folder of what the page needs and a checkout lacks: in $HARNESS_CACHE, or in `.cache/harness`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "harness") / "web"


def wanted_version(page: Path) -> str:
    """The version of ONNX Runtime in the page's lock file."""
    return str(read_json(page / "package-lock.json")["packages"][f"node_modules/{PACKAGE}"]["version"])


def runtime(page: Path) -> Path:
    """The folder of `RUNTIME`: in the page's node_modules, in the cache, or installed there by `npm ci`.

    Raises DownstreamError where npm is missing or fails.
    """
    version = wanted_version(page)
    installed = page / "node_modules" / PACKAGE
    if _version(installed) == version and _complete(installed / "dist"):
        return installed / "dist"
    folder = cache() / f"{PACKAGE}-{version}"
    with locked(folder):
        if not _complete(folder):
            _install(page, folder, version)
    return folder


def _version(package: Path) -> str | None:
    path = package / "package.json"
    return str(read_json(path).get("version")) if path.is_file() else None


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in RUNTIME)


def _install(page: Path, folder: Path, version: str) -> None:
    remedy = (
        f"or copy {', '.join(RUNTIME)} of the npm package {PACKAGE} {version} (its folder dist) from another machine "
        f"to {folder}"
    )
    npm = shutil.which("npm")
    if npm is None:
        raise DownstreamError(
            f"npm is missing, which installs {PACKAGE} {version} for the page: install Node.js 18 or newer (Debian: "
            f"apt-get install npm), {remedy}"
        )
    with TemporaryDirectory() as scratch:
        for name in _LISTS:
            shutil.copy(page / name, scratch)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        try:
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise DownstreamError(f"`npm ci` did not end within {_SECONDS} s; look at the network, {remedy}") from error
        dist = Path(scratch) / "node_modules" / PACKAGE / "dist"
        if done.returncode or not _complete(dist):
            lines = [line for line in done.stderr.splitlines() if line.strip() and "complete log" not in line]
            reason = "; ".join(line.strip() for line in lines[:4]) or f"exit status {done.returncode}"
            raise DownstreamError(f"`npm ci` failed ({reason}); look at the network and npm's registry, {remedy}")
        with atomic_dir(folder) as temporary:
            for name in RUNTIME:
                shutil.copy(dist / name, temporary)
