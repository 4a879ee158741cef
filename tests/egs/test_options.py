"""The command line of run.sh: every option is listed with its default, and a wrong one is refused with the nearest."""

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
def house(root: Path, tmp_path: Path) -> Path:
    """A folder with run.sh and an `egs` package that only prints what it is called with."""
    shutil.copy(root / "run.sh", tmp_path / "run.sh")
    (tmp_path / "egs" / "TEMPLATE").mkdir(parents=True)
    shutil.copy(root / "egs" / "TEMPLATE" / "options.sh", tmp_path / "egs" / "TEMPLATE")
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
    (package / "environment.py").write_text(textwrap.dedent(show))
    (package / "__main__.py").write_text(textwrap.dedent(show))
    return tmp_path


def call(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Who runs the tests may have named corpora of their own.
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


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [(["--stop-stge", "3"], "stop_stage"), (["--recip", "x"], "recipe"), (["--forced"], "force"), (["--sed=1"], "set")],
)
def test_unknown_option_names_the_nearest(root: Path, arguments: list[str], nearest: str) -> None:
    done = call(root, *arguments)
    assert done.returncode == 2
    assert f"nearest known one is --{nearest} " in done.stderr


def test_what_is_like_no_option_gets_no_suggestion(root: Path) -> None:
    done = call(root, "--verbose")
    assert done.returncode == 2
    assert "unknown option --verbose (./run.sh --help lists all)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage"], "--stage needs a value"),
        (["--stage", "--force"], "--stage needs a value"),
        (["--stage", "14"], "0 to 13"),
        (["--stage", "two"], "0 to 13"),
        (["--stage", "8", "--stop_stage", "7"], "nothing to do"),
        (["--jobs", "0"], "number of processes"),
        (["stage", "3"], "unexpected argument 'stage'"),
        (["--recipe", "mimi"], "there are: mini open_arabic"),
        (["--force=maybe"], "true or false"),
    ],
)
def test_wrong_values_are_refused(house: Path, arguments: list[str], message: str) -> None:
    done = call(house, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "CALLED" not in done.stdout


def test_spellings_of_an_option_are_the_same(house: Path) -> None:
    expected = routed(call(house, "--stage", "7", "--stop_stage", "8", "--jobs", "3"))
    assert "'--stage' '7'" in expected and "'--stop_stage' '8'" in expected and "'--jobs' '3'" in expected
    assert routed(call(house, "--stage=7", "--stop-stage", "8", "--nj", "3")) == expected
    assert routed(call(house, "--stage", "7", "--stop-stage=8", "--nj=3")) == expected


def test_values_reach_python_whole(house: Path) -> None:
    line = routed(call(house, "--exp", "my exp", "--set", "a.b=[1, 2]", "--set", "c=x y", "--force"))
    assert "'--exp' 'my exp'" in line
    assert "'--set' 'a.b=[1, 2]' '--set' 'c=x y'" in line
    assert "'--force'" in line
    assert "'--force'" not in routed(call(house, "--force", "false"))
    assert "'--stage'" not in routed(call(house))


def test_db_sh_names_folders_and_the_environment_wins(house: Path) -> None:
    assert routed(call(house, "--recipe", "open_arabic")).endswith("BAVED=from db.sh")
    assert routed(call(house, "--recipe", "open_arabic", BAVED="/else where")).endswith("BAVED=/else where")
    assert routed(call(house)).endswith("BAVED=")


def test_a_python_that_does_not_run_is_passed_over(house: Path, tmp_path: Path) -> None:
    """Version managers leave shims on PATH that answer only with an error."""
    shims = tmp_path / "shims"
    shims.mkdir()
    (shims / "python3.11").write_text("#!/bin/sh\nexit 127\n")
    (shims / "python3.11").chmod(0o755)
    (shims / "python3.12").symlink_to(sys.executable)
    done = call(house, "--stop_stage", "0", PATH=f"{shims}:{os.environ['PATH']}", HARNESS_VENV="")
    assert "CALLED environment.py '--venv' '.venv'" in done.stdout
    done = call(house, "--python", str(shims / "python3.11"), HARNESS_VENV="")
    assert done.returncode == 2 and "no Python 3.10, 3.11 or 3.12 among" in done.stderr


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
