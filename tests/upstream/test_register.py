"""`upstream.register()` is explicit, idempotent and lazy; every new process needs its own call."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import upstream
from upstream.harness.baselines import table

ROOT = Path(__file__).resolve().parents[2]


def run(code: str) -> str:
    """Run code in a fresh interpreter at the repository root; returns its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_unknown_interface_is_named():
    with pytest.raises(ValueError, match="`espnet`.*s3prl, transformers"):
        upstream.register("espnet")


@pytest.mark.slow
def test_public_functions_are_imported_at_their_first_use():
    out = run("""
        import sys, upstream
        before = "torch" in sys.modules
        functions = [getattr(upstream, name).__name__ for name in upstream.__all__]
        print(before, functions == upstream.__all__)
    """)
    assert out.strip() == "False True"
    with pytest.raises(AttributeError, match="encode_all"):
        upstream.encode_all  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    out = run("""
        import sys
        import upstream, upstream.model.family, upstream.config
        print([name for name in ("torch", "transformers", "s3prl", "espnet2") if name in sys.modules])
    """)
    assert out.strip() == "[]"


@pytest.mark.slow
def test_upstream_imports_and_registers_without_s3prl_espnet_and_torchaudio():
    """GPU machines have torch and transformers only."""
    out = run("""
        import sys
        from importlib.machinery import PathFinder
        class Without(PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                absent = name.split(".")[0] in ("s3prl", "espnet", "espnet2", "torchaudio")
                return None if absent else super().find_spec(name, path, target)
        sys.meta_path[sys.meta_path.index(PathFinder)] = Without
        import importlib, pathlib
        for path in sorted(pathlib.Path("upstream").rglob("*.py")):
            importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
        import upstream
        print(upstream.register())
        try:
            upstream.register("s3prl")
        except ImportError as error:
            print(error)
    """)
    assert out.splitlines()[0] == "['transformers']"
    assert "pip install -r requirements.txt" in out.splitlines()[1]


@pytest.mark.slow
def test_names_are_on_the_hub_only_after_the_call_and_a_second_call_changes_nothing():
    out = run("""
        import s3prl.hub
        before = set(s3prl.hub.options())
        import upstream, upstream.harness.hubconf
        assert set(s3prl.hub.options()) == before
        for _ in range(2):
            assert upstream.register() == ["s3prl", "transformers"]
            print(sorted(set(s3prl.hub.options()) - before))
        from transformers import AutoConfig
        print(type(AutoConfig.for_model("harness_logmel_hubert")).__name__)
    """).splitlines()
    names = {"harness_custom", "harness_l", "harness_l_it1", "harness_local"}
    names |= {"harness_open", "harness_open_tiny", "harness_s", "harness_st", "harness_url", "random_l"}
    assert out[-3] == out[-2] and out[-1] == "LogMelHubertConfig"
    found = set(ast.literal_eval(out[-2]))
    # S3PRL has entries of its own for some of the published encoders.
    assert names | {"harness_transformers"} <= found <= names | {"harness_transformers", *table()}
