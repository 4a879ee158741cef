"""requirements.txt agrees with requirements.in: the documented command made it, and every bound holds."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def requirements(path: Path) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def applies(requirement: Requirement, python: str) -> bool:
    environment = {"python_version": python, "python_full_version": f"{python}.5", "sys_platform": "linux"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def test_the_header_is_the_documented_command(root: Path) -> None:
    lines = (root / "requirements.txt").read_text().splitlines()
    command = next(line.strip("# ") for line in lines if "uv pip" in line)
    assert f"#     {command}\n" in (root / "requirements.in").read_text()


def test_every_line_is_an_exact_pin(root: Path) -> None:
    for pin in requirements(root / "requirements.txt"):
        assert [spec.operator for spec in pin.specifier] == ["=="] and "*" not in str(pin.specifier), pin


@pytest.mark.parametrize("python", PYTHONS)
def test_every_direct_requirement_is_pinned_within_its_bound(root: Path, python: str) -> None:
    pins: dict[str, list[str]] = {}
    for pin in requirements(root / "requirements.txt"):
        if applies(pin, python):
            pins.setdefault(canonicalize_name(pin.name), []).append(next(iter(pin.specifier)).version)
    assert not [name for name, versions in pins.items() if len(versions) > 1], "one version of each"
    for wanted in requirements(root / "requirements.in"):
        if applies(wanted, python):
            versions = pins.get(canonicalize_name(wanted.name), [])
            assert versions and wanted.specifier.contains(versions[0], prereleases=True), f"{wanted}: {versions}"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_bounds_of_the_package_allow_the_pins(root: Path, python: str) -> None:
    """`pip install .` and requirements.txt: what the package asks for is pinned, in a version that it allows."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert python in SpecifierSet(project["requires-python"])
    pins = {canonicalize_name(p.name): p for p in requirements(root / "requirements.txt") if applies(p, python)}
    texts = project["dependencies"] + [text for extra in project["optional-dependencies"].values() for text in extra]
    for wanted in map(Requirement, texts):
        if applies(wanted, python):
            version = next(iter(pins[canonicalize_name(wanted.name)].specifier)).version
            assert wanted.specifier.contains(version, prereleases=True), f"{wanted}: {version}"


def test_every_direct_requirement_of_the_package_is_one_of_the_environment(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = project["dependencies"] + [text for extra in project["optional-dependencies"].values() for text in extra]
    chosen = {canonicalize_name(wanted.name) for wanted in requirements(root / "requirements.in")}
    assert {canonicalize_name(Requirement(text).name) for text in texts} <= chosen


@pytest.mark.parametrize(
    "name", ["torchaudio", "onnxruntime", "s3prl", "espnet2", "lightning", "transformers", "lhotse"]
)
def test_the_pins_of_this_python_fit_each_other(name: str) -> None:
    """The libraries of torchaudio, for instance, need symbols of the torch that they were built with."""
    if name == "espnet2" and sys.version_info >= (3, 14):
        pytest.skip("ESPnet has no version for Python 3.14")
    importlib.import_module(name)
