"""The package: one version, complete metadata in sdist and wheel, and the console script `harness`."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import setuptools
from packaging.metadata import Metadata

from corpora import __version__
from egs.cli import COMMANDS, main

PARTS = ("corpora", "upstream", "downstream", "egs", "web", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
FILES = ("CHANGELOG.md", "CITATION.cff", "requirements.in", "requirements.txt")
BUILD = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"


def test_every_file_names_the_same_version(root: Path) -> None:
    citation = re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\S+)", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation and newest and {citation[1], newest[1]} == {__version__}


@pytest.mark.slow
def test_sdist_and_wheel_are_complete(root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in (*PARTS, *FILES):
        if (root / name).is_dir():
            left = shutil.ignore_patterns("__pycache__", "node_modules")
            shutil.copytree(root / name, source / name, symlinks=True, ignore=left)
        else:
            shutil.copy(root / name, source / name)
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (source / "dist").glob("*.whl")
    (sdist,) = (source / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [archive.read(name) for name in names if name.endswith(".dist-info/METADATA")]
        (entries,) = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    if int(setuptools.__version__.partition(".")[0]) < 77:  # pyproject.toml asks for 77; this environment may have less
        metadata = re.sub(rb"License-File: .*\n", b"", metadata)
    facts = Metadata.from_email(metadata, validate=True)  # what `twine check` and registries ask for
    assert str(facts.version) == __version__ and facts.summary and facts.description and facts.requires_python
    assert facts.description_content_type == "text/markdown" and facts.classifiers and facts.project_urls
    assert message_from_bytes(metadata)["License"] == "Apache-2.0"
    assert "harness = egs.cli:main" in entries
    assert {"egs/mini/recipe.yaml", "upstream/harness/baselines.yaml", "downstream/report/page.html.j2"} <= names
    page = {f"downstream/web/static/{path.name}" for path in (root / "web").iterdir() if path.is_file()}
    assert page - {"downstream/web/static/.npmrc"} <= names  # of the page; npm's packages come from npm
    assert {*FILES, "LICENSE", "README.md", "pyproject.toml"} <= packed
    assert not [name for name in names if name.startswith("tests/")]


def test_the_script_runs_each_command_with_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    for command, (package, _) in COMMANDS.items():
        found = importlib.import_module(f"{package}.__main__")
        monkeypatch.setattr(found, "main", lambda arguments, package=package: arguments == ["--x", package] and 7)
        assert main([command, "--x", package]) == 7


def test_the_script_shows_help_and_version_and_refuses_unknown_commands(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0 and capsys.readouterr().out.strip() == __version__
    assert main([]) == 0 and all(f"harness {name} " in capsys.readouterr().out for name in ("corpora",))
    assert main(["upstrem"]) == 2 and "no command `upstrem`" in capsys.readouterr().err
