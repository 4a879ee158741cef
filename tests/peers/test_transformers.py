"""Transformers' common model tests on both front ends. Their package is named `tests` too, hence another process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Base classes that their file imports and that the source distribution leaves out; they test exporters and generation.
ABSENT = {"exporters/test_export.py": "ExportTesterMixin", "generation/test_utils.py": "GenerationTesterMixin"}


@pytest.mark.parametrize("front_end", ["Waveform", "LogMel"])
def test_common_model_tests(
    front_end: str, sources: Callable[[str], Path], packages: Callable[..., Path], root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "suite"
    shutil.copytree(sources("transformers") / "tests", folder / "tests")
    for name, mixin in ABSENT.items():
        path = folder / "tests" / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text(f"class {mixin}:\n    pass\n")
        for package in (folder / "tests", path.parent):
            (package / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("common_model_tests.py"), folder / "tests/test_harness.py")
    search = os.pathsep.join([str(root), str(packages("parameterized", "pytest-timeout"))])
    command = [sys.executable, "-m", "pytest", "tests/test_harness.py", "-q", "-k", front_end, "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": search, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    summary = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and summary and int(summary[1]) > 30, done.stdout[-4000:] + done.stderr[-1000:]
