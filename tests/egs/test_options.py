"""The command line of run.sh and of the templates: options, defaults, aliases, and errors that name the option."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """A folder with run.sh and an `egs` package that only prints its arguments."""
    shutil.copy(root / "run.sh", tmp_path / "run.sh")
    (tmp_path / "egs" / "TEMPLATE").mkdir(parents=True)
    shutil.copy(root / "egs" / "TEMPLATE" / "options.sh", tmp_path / "egs" / "TEMPLATE")
    shutil.copy(root / "egs" / "environment.sh", tmp_path / "egs")
    (tmp_path / "requirements.txt").write_text("")
    package = tmp_path / "egs"
    (package / "mini").mkdir(parents=True)
    (package / "mini" / "recipe.yaml").write_text("")
    (package / "open_arabic").mkdir()
    (package / "open_arabic" / "recipe.yaml").write_text("")
    (package / "open_arabic" / "db.sh").write_text("BAVED=${BAVED:-from db.sh}\n")
    (package / "__init__.py").write_text("")
    show = """
        import os, sys
        print("CALLED", __file__.split("/")[-1], *map(repr, sys.argv[1:]), "BAVED=" + os.environ.get("BAVED", ""))
    """
    (package / "__main__.py").write_text(textwrap.dedent(show))
    return tmp_path


def call(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # The environment of the tests may name corpora.
    inherited = {key: value for key, value in os.environ.items() if key != "BAVED"}
    env = {**inherited, "HARNESS_VENV": sys.prefix, **environment}
    return subprocess.run(
        ["bash", str(folder / "run.sh"), *arguments], capture_output=True, text=True, env=env, timeout=60
    )


def routed(done: subprocess.CompletedProcess[str]) -> str:
    """The line with which run.sh called `python -m egs run`."""
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if "__main__.py 'run'" in line][-1]


def options_of(script: str) -> dict[str, str]:
    """Variables of the option block and their defaults."""
    block = script[script.index("# Every variable of this block") : script.index("options=(")]
    return dict(re.findall(r"^([a-z_]+)=(\S*)$", block, re.MULTILINE))


def test_help_lists_every_option_with_its_default(root: Path) -> None:
    script = (root / "run.sh").read_text()
    text = call(root, "--help").stdout
    names = re.search(r"^options=\((.*)\)$", script, re.MULTILINE)[1].split()
    variables = options_of(script)
    assert set(names) == set(variables)
    names += re.search(r"^lists=\((.*)\)$", script, re.MULTILINE)[1].split()
    for name in names:
        entry = re.search(rf"^    --{name} .*?\(default: ([^;)]*)", text, re.MULTILINE | re.DOTALL)
        assert entry, f"--{name} is not in --help with a default"
        default = variables.get(name, "")
        if default:
            assert entry[1] == default, name


@pytest.mark.parametrize("option", ["--verbose", "--recip", "--sed=1"])
def test_an_unknown_option_is_refused_by_name(root: Path, option: str) -> None:
    done = call(root, option, "x")
    assert done.returncode == 2
    assert option.partition("=")[0] in done.stderr and "--help" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage"], "--stage needs a value"),
        (["--stage", "--force"], "--stage needs a value"),
        (["--stage", "14"], "0 to 13"),
        (["--stage", "two"], "0 to 13"),
        (["--stage", "8", "--stop_stage", "7"], "no stage to run"),
        (["--jobs", "0"], "--jobs 0"),
        (["stage", "3"], "unexpected argument 'stage'"),
        (["--recipe", "mimi"], "recipes: mini open_arabic"),
        (["--force=maybe"], "true or false"),
    ],
)
def test_wrong_values_are_refused(folder: Path, arguments: list[str], message: str) -> None:
    done = call(folder, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "CALLED" not in done.stdout


def test_spellings_of_an_option_are_the_same(folder: Path) -> None:
    expected = routed(call(folder, "--stage", "7", "--stop_stage", "8", "--jobs", "3"))
    assert "'--stage' '7'" in expected and "'--stop_stage' '8'" in expected and "'--jobs' '3'" in expected
    assert routed(call(folder, "--stage=7", "--stop-stage", "8", "--nj", "3")) == expected
    assert routed(call(folder, "--stage", "7", "--stop-stage=8", "--nj=3")) == expected


def test_values_reach_python_whole(folder: Path) -> None:
    line = routed(call(folder, "--exp", "my exp", "--set", "a.b=[1, 2]", "--set", "c=x y", "--force"))
    assert "'--exp' 'my exp'" in line
    assert "'--set' 'a.b=[1, 2]' '--set' 'c=x y'" in line
    assert "'--force'" in line
    assert "'--force'" not in routed(call(folder, "--force", "false"))
    assert "'--stage'" not in routed(call(folder))


def test_db_sh_names_folders_and_the_environment_overrides_it(folder: Path) -> None:
    assert routed(call(folder, "--recipe", "open_arabic")).endswith("BAVED=from db.sh")
    assert routed(call(folder, "--recipe", "open_arabic", BAVED="/else where")).endswith("BAVED=/else where")
    assert routed(call(folder)).endswith("BAVED=")


@pytest.mark.parametrize("name", ["asr1/asr.sh", "probe.sh", "ssl1/ssl.sh"])
def test_help_of_a_template_names_every_option_with_its_default(root: Path, name: str) -> None:
    script = (root / "egs/TEMPLATE" / name).read_text()
    block = script[script.index("# Every variable of this block") : script.index("options=(")]
    text = script[script.index("cat <<'EOH'") : script.index("\nEOH\n")]
    variables = re.findall(r'^(\w+)="?(.*?)"?$', block, re.MULTILINE)
    assert len(variables) > 8
    for option, default in variables:
        entry = re.search(rf"^    --{option} .*?\(default: ([^;)]*)", text, re.MULTILINE | re.DOTALL)
        assert entry, f"--{option} is not in --help"
        assert not default or entry[1] == default, option


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shell_is_clean(root: Path) -> None:
    scripts = [path.relative_to(root).as_posix() for path in [*root.glob("*.sh"), *root.glob("tests/*.sh")]]
    # A recipe's files are links to those of TEMPLATE, which are checked once.
    scripts += [p.relative_to(root).as_posix() for p in root.glob("egs/**/*.sh") if not p.is_symlink()]
    done = subprocess.run(["shellcheck", "-x", ".ci/run", *scripts], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert len(scripts) > 4
