"""The environment of stage 0: exact pins, a stamp that is written last, and nothing deleted that is not ours."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from egs.pipeline.environment import EnvironmentFailure, differences, ensure, read_pins

OURS = {"keep": False, "same_python": False, "force": False}


def wheel(folder: Path, name: str, version: str) -> None:
    """The smallest wheel that pip takes."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"version = '{version}'\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in place of the network, and a disk that is large enough."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        wheel(folder, "harness_probe", version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr("egs.pipeline.environment.NEEDED_BYTES", 0)
    return folder


def installed(venv: Path) -> str:
    code = "import harness_probe; print(harness_probe.version)"
    return subprocess.run([venv / "bin/python", "-c", code], capture_output=True, text=True).stdout.strip()


def test_the_requirements_are_exact_pins_for_every_python(root: Path) -> None:
    for minor in (10, 11, 12):
        pins = read_pins(root / "requirements.txt", (3, minor))
        assert pins["torch"] == pins["torchaudio"] == "2.8.0"
        assert {"s3prl", "espnet", "transformers", "numpy", "pytest", "ruff"} <= set(pins)
    older, newer = (read_pins(root / "requirements.txt", (3, minor)) for minor in (10, 11))
    assert older["numpy"] != newer["numpy"]


def test_the_environment_that_runs_the_tests_is_the_pinned_one(root: Path) -> None:
    # In a process of its own: setuptools, once imported, puts the packages that it carries in front of the installed.
    code = (
        "import importlib.metadata, json\n"
        "print(json.dumps({d.metadata['Name']: d.version for d in importlib.metadata.distributions()}))"
    )
    listing = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert differences(json.loads(listing), read_pins(root / "requirements.txt", sys.version_info[:2])) == []


def test_a_loose_requirement_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("# why\nsix==1.17.0  # comment\n\ntorch>=2.8\n")
    with pytest.raises(EnvironmentFailure, match=r"r\.txt:4: `torch>=2\.8` is not an exact pin"):
        read_pins(tmp_path / "r.txt", (3, 11))


def test_differences_compare_canonical_names_and_public_versions() -> None:
    pins = {"sed-eval": "0.2.1", "torch": "2.8.0", "six": "1.17.0"}
    assert differences({"sed_eval": "0.2.1", "torch": "2.8.0+cu128", "Six": "1.17.0"}, pins) == []
    assert differences({"sed_eval": "0.2.0", "torch": "2.9.0"}, pins) == [
        "sed-eval 0.2.0 is not 0.2.1",
        "torch 2.9.0 is not 2.8.0",
        "six 1.17.0 is missing",
    ]


def test_made_whole_or_again_and_updated_in_place(registry: Path, tmp_path: Path) -> None:
    venv, requirements = tmp_path / "venv", tmp_path / "requirements.txt"
    requirements.write_text("harness-probe==3.0\n")
    with pytest.raises(EnvironmentFailure, match=r"(?s)pip failed .*harness-probe==3\.0.*install\.log"):
        ensure(venv, requirements, **OURS)

    # What is left looks whole, as after a kill in the middle of pip: it must not be built upon.
    leftover = venv / "leftover"
    leftover.write_text("")
    requirements.write_text("harness-probe==1.0\n")
    assert ensure(venv, requirements, **OURS) is True
    assert installed(venv) == "1.0" and not leftover.exists()
    assert ensure(venv, requirements, **OURS) is False

    kept = venv / "kept"
    kept.write_text("")
    requirements.write_text("harness-probe==2.0\n")
    assert ensure(venv, requirements, **OURS) is True
    assert installed(venv) == "2.0" and kept.exists(), "a complete environment is updated in place"


def test_somebody_elses_environment_is_completed_but_never_deleted(registry: Path, tmp_path: Path) -> None:
    venv, requirements = tmp_path / "venv", tmp_path / "requirements.txt"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    (venv / "theirs").write_text("")
    requirements.write_text("harness-probe==1.0\n")
    theirs = OURS | {"keep": True}
    assert ensure(venv, requirements, **theirs) is True
    assert ensure(venv, requirements, **theirs) is False
    requirements.write_text("harness-probe==2.0\n")
    assert ensure(venv, requirements, **theirs) is True
    assert installed(venv) == "2.0" and (venv / "theirs").exists()


def test_a_folder_that_is_no_environment_is_left_alone(registry: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / "thesis.txt").write_text("chapter 1")
    (tmp_path / "requirements.txt").write_text("harness-probe==1.0\n")
    with pytest.raises(EnvironmentFailure, match="is not a virtual environment"):
        ensure(venv, tmp_path / "requirements.txt", **OURS)
    assert (venv / "thesis.txt").exists()


def test_a_full_disk_is_said_before_anything_is_installed(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egs.pipeline.environment.NEEDED_BYTES", 10**18)
    (tmp_path / "requirements.txt").write_text("harness-probe==1.0\n")
    with pytest.raises(EnvironmentFailure, match=r"needs about .* GB and the disk has .* free"):
        ensure(tmp_path / "venv", tmp_path / "requirements.txt", **OURS)
    assert not (tmp_path / "venv").exists()


def test_a_second_run_waits_for_the_first(registry: Path, tmp_path: Path, root: Path) -> None:
    (tmp_path / "requirements.txt").write_text("harness-probe==1.0\n")
    command = [sys.executable, "-m", "egs.pipeline.environment", "--venv", tmp_path / "venv"]
    with open(tmp_path / "venv.lock", "w", encoding="utf-8") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            [*command, "--requirements", tmp_path / "requirements.txt"], cwd=root, stdout=subprocess.PIPE, text=True
        ) as run:
            assert run.stdout is not None
            assert "another run is making" in run.stdout.readline()
            time.sleep(0.2)
            assert run.poll() is None and not (tmp_path / "venv").exists()
            run.send_signal(signal.SIGKILL)
