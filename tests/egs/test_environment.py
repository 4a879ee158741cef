"""The environment of stage 0, with a stand-in for uv that writes down its arguments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import packaging
import pytest

UV = """#!/usr/bin/env bash
echo "$*" >>"{log}"
case $1 in
venv) for folder in "$@"; do :; done; rm -rf "$folder"; mkdir -p "$folder/bin"; touch "$folder/pyvenv.cfg"
      ln -s "{python}" "$folder/bin/python" ;;
pip) exit "${{UV_FAILS:-0}}" ;;
esac
"""


@dataclass
class Clone:
    """A folder with run.sh and a stand-in for uv on PATH."""

    folder: Path
    log: Path
    path: str
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        # The stand-ins for environments are links to this Python, without its packages: run.sh needs one of them.
        search = str(Path(packaging.__file__).parents[1])
        own = {"HARNESS_VENV": "", "PATH": self.path, "PYENV_ROOT": str(self.folder / "pyenv"), "PYTHONPATH": search}
        env = {**os.environ, **own, **variables}
        command = ["bash", "run.sh", "--stop_stage", "0", *options]
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=60)

    def uv(self) -> list[str]:
        """The commands of uv since the last call, without `--version`."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if line != "--version"]


@pytest.fixture
def clone(root: Path, tmp_path: Path) -> Clone:
    folder, bin_folder, log = tmp_path / "clone", tmp_path / "bin", tmp_path / "uv.log"
    (folder / "egs/TEMPLATE").mkdir(parents=True)
    (folder / "egs/mini").mkdir()
    bin_folder.mkdir()
    for name in ("run.sh", "egs/environment.sh", "egs/TEMPLATE/options.sh", "egs/mini/recipe.yaml"):
        shutil.copy(root / name, folder / name)
    (folder / "requirements.txt").write_text("packaging==1.0\n")
    (folder / "egs/__init__.py").write_text("")
    (folder / "egs/__main__.py").write_text("import sys; print('EGS', *sys.argv[1:])")
    (bin_folder / "uv").write_text(UV.format(log=log, python=sys.executable))
    (bin_folder / "python3.13").write_text(
        "#!/bin/sh\nexit 127\n"
    )  # as shims of version managers do; python3.12 must be found
    for path in bin_folder.iterdir():
        path.chmod(0o755)
    (bin_folder / "python3.12").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (bin_folder / "python3.12").chmod(0o755)
    return Clone(folder, log, f"{bin_folder}:/usr/bin:/bin")


@pytest.mark.parametrize("minor, chosen", [("13", True), ("11", False)])
def test_the_newest_python_is_preferred_on_path_or_of_pyenv(clone: Clone, minor: str, chosen: bool) -> None:
    """PATH has 3.12 and a shim of 3.13 that only prints an error."""
    python = clone.folder / f"pyenv/versions/3.{minor}.0/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\ncase "$*" in *print*) echo /of/pyenv ;; *) exec "{sys.executable}" "$@" ;; esac\n')
    python.chmod(0o755)
    assert clone.run().returncode == 0
    assert ("--python /of/pyenv " in clone.uv()[0]) is chosen


def test_uv_makes_it_once_and_again_when_the_requirements_change(clone: Clone) -> None:
    done = clone.run()
    assert done.returncode == 0 and "EGS check" in done.stdout, done.stderr
    made, installed = clone.uv()
    assert made.startswith("venv --quiet --clear --python /") and made.endswith(" .venv")
    assert installed == "pip install --python .venv/bin/python --requirements requirements.txt"
    started = time.monotonic()
    assert clone.run().returncode == 0 and clone.uv() == []
    assert time.monotonic() - started < 5, "a busy machine; alone it takes a tenth of a second"
    (clone.folder / "requirements.txt").write_text("packaging==2.0\n")
    assert clone.run().returncode == 0 and len(clone.uv()) == 2
    assert clone.run("--stage", "0", "--force").returncode == 0 and len(clone.uv()) == 2


def test_a_broken_installation_starts_again(clone: Clone) -> None:
    done = clone.run(UV_FAILS="1")
    assert done.returncode == 2 and "EGS" not in done.stdout
    assert len(clone.uv()) == 2
    assert clone.run().returncode == 0 and len(clone.uv()) == 2


def test_python_and_index_are_chosen_by_options(clone: Clone, tmp_path: Path) -> None:
    done = clone.run("--python", str(tmp_path / "bin/python3.13"))
    assert done.returncode == 2 and "python3.13" in done.stderr and clone.uv() == []
    assert clone.run("--python", sys.executable, "--index", "https://example.org/cpu").returncode == 0
    assert "--index https://example.org/cpu" in clone.uv()[1]
    assert clone.run("--python", sys.executable).returncode == 0 and clone.uv() == []


def test_an_environment_of_the_user_is_completed_and_never_cleared(clone: Clone, tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "bin").mkdir(parents=True)
    (own / "bin/python").symlink_to(sys.executable)
    assert clone.run(HARNESS_VENV=str(own)).returncode == 0
    assert clone.uv() == [f"pip install --python {own}/bin/python --requirements requirements.txt"]
    (clone.folder / "requirements.txt").write_text("absent==1.0 ; python_version < '3'\n")
    assert clone.run(HARNESS_VENV=str(own)).returncode == 0 and clone.uv() == []


def test_an_environment_of_another_clone_is_completed_and_never_cleared(clone: Clone, tmp_path: Path) -> None:
    other = tmp_path / "other/.venv"
    assert clone.run(HARNESS_VENV=str(other)).returncode == 0
    assert [line.split()[0] for line in clone.uv()] == ["venv", "pip"]
    (other / "harness-requirements.txt").write_text("packaging==2.0\n")
    assert clone.run(HARNESS_VENV=str(other)).returncode == 0
    assert [line.split()[0] for line in clone.uv()] == ["pip"]


def test_a_folder_that_is_no_environment_is_refused(clone: Clone) -> None:
    (clone.folder / ".venv").mkdir()
    (clone.folder / ".venv/notes").write_text("mine")
    done = clone.run()
    assert done.returncode == 2 and "not a virtual environment" in done.stderr
    assert (clone.folder / ".venv/notes").exists()


def test_the_second_of_two_runs_waits(clone: Clone) -> None:
    if shutil.which("flock") is None:
        pytest.skip("flock is not installed")
    with subprocess.Popen(["flock", clone.folder / ".venv.lock", "sleep", "2"]):
        time.sleep(0.5)
        done = clone.run()
    assert done.returncode == 0 and "waiting" in done.stdout
