"""Models that ship: found by name in a checkout and in a wheel, and by no other name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from upstream import shipped as module
from upstream.__main__ import main
from upstream.errors import UpstreamError
from upstream.harness import hubconf
from upstream.model.encoder import build_encoder
from upstream.model.family import geometry
from upstream.model.modeldir import load_model, model_sha256, save_model
from upstream.names import SHIPPED
from upstream.shipped import MODELS, model_path, shipped


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models that ship, with a tiny `harness_open` and without `harness_open_tiny`."""
    torch.manual_seed(0)
    save_model(build_encoder(geometry("mini_hst")), tmp_path / "models/harness_open", {"name": "harness_open"})
    monkeypatch.setattr(module, "MODELS", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


def test_the_name_is_a_model_for_every_interface(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load_model("harness_open")
    expert = hubconf.harness_open(refresh=False, model_config=None)
    for a, b in zip(loaded.parameters(), expert.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert main(["info", "harness_open"]) == 0
    assert model_sha256(models / "harness_open") in capsys.readouterr().out
    assert main(["lineage", "harness_open"]) == 0


def test_a_missing_model_says_where_it_was_searched(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for load in (load_model, model_sha256, lambda name: hubconf.harness_open_tiny()):
        with pytest.raises(UpstreamError, match=rf"harness_open_tiny.*{models}.*harness_open\b.*repository"):
            load("harness_open_tiny")
    assert main(["info", "harness_open_tiny"]) == 2
    assert "repository" in capsys.readouterr().err


def test_other_names_never_lead_to_models_that_ship(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(models / "harness_open", models / "harness_st")
    monkeypatch.delenv("HARNESS_MODELS", raising=False)
    with pytest.raises(UpstreamError, match="HARNESS_MODELS"):
        hubconf.harness_st()
    with pytest.raises(UpstreamError, match="no such model directory"):
        load_model("harness_st")
    with pytest.raises(UpstreamError, match="no model of this name ships"):
        shipped("harness_st")


def test_a_folder_of_this_name_here_is_meant_first(models: Path) -> None:
    (models.parent / "harness_open").mkdir()
    assert model_path("harness_open") == Path("harness_open")


@pytest.mark.slow
def test_a_wheel_contains_the_models_and_finds_them(models: Path, root: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for package in ("corpora", "upstream"):
        shutil.copytree(root / package, tree / package, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copyfile(root / file, tree / file)
    shutil.copytree(models, tree / "models")
    letters = tree / "models/harness_open/letters"
    letters.mkdir()
    (letters / "head.json").write_text("{}")
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True, timeout=900)
    (wheel,) = (tree / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    shutil.rmtree(tree)
    code = (
        "import upstream; from upstream.shipped import shipped; upstream.load_model('harness_open');"
        "print(upstream.__file__); print((shipped('harness_open') / 'letters/head.json').read_text())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, timeout=900,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert done.stdout.splitlines() == [str(tmp_path / "site/upstream/__init__.py"), "{}"], done.stderr


def test_the_link_leads_to_the_models_of_the_checkout(root: Path) -> None:
    assert MODELS.resolve() == (root / "models").resolve()
    folders = {path.name for path in MODELS.iterdir() if path.is_dir()}
    assert folders <= set(SHIPPED)
    total = sum(file.stat().st_size for file in MODELS.resolve().rglob("*") if file.is_file())
    assert total <= 75e6, "megabytes that every clone downloads"
