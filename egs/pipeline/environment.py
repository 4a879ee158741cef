"""The virtual environment of stage 0: made, completed or left alone. Standard library only, for any Python 3.10-3.12.

    python3.11 -m egs.pipeline.environment --venv .venv --requirements requirements.txt

A stamp inside the environment holds the hash of the requirements, empty until they are installed: an installation that
was killed starts again from an empty folder. An environment that somebody else made (`--keep`, no stamp) is never
deleted; what the requirements ask for and is missing there is installed into it.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from datetime import datetime
from pathlib import Path

STAMP = "harness-stamp.json"
NEEDED_BYTES = 9_000_000_000  # the CUDA build of torch alone unpacks to 6 GB
PIN = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)\s*(;\s*python_version\s*(?P<sign><|>=)\s*\"(?P<python>[\d.]+)\")?"
)
INSTALLED = """
import importlib.metadata, json
print(json.dumps({d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}))
"""


class EnvironmentFailure(RuntimeError):
    """The environment cannot be made; the message says what to do."""


def read_pins(requirements: Path, python: tuple[int, int]) -> dict[str, str]:
    """Pinned versions by canonical name, for one version of Python; a line that is not an exact pin is an error."""
    pins = {}
    for number, line in enumerate(requirements.read_text(encoding="utf-8").splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        match = PIN.fullmatch(line)
        if match is None:
            raise EnvironmentFailure(f"{requirements}:{number}: `{line}` is not an exact pin (name==version)")
        if match["sign"]:
            bound = tuple(int(part) for part in match["python"].split("."))
            if (python < bound) != (match["sign"] == "<"):
                continue
        pins[canonical(match["name"])] = match["version"]
    return pins


def canonical(name: str) -> str:
    """A distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def differences(installed: dict[str, str], pins: dict[str, str]) -> list[str]:
    """What an environment lacks or has in another version. A local build (`2.8.0+cu128`) is the version it extends."""
    found = {canonical(name): version for name, version in installed.items()}
    lines = []
    for name, version in pins.items():
        have = found.get(name)
        if have is None:
            lines.append(f"{name} {version} is missing")
        elif have.split("+")[0] != version.split("+")[0]:
            lines.append(f"{name} {have} is not {version}")
    return lines


def ensure(venv: Path, requirements: Path, *, keep: bool, same_python: bool, force: bool) -> bool:
    """Make `venv` hold the requirements; True when something was installed.

    `keep`: the folder is somebody's own, never delete it. `same_python`: rebuild where it was made by another
    version of Python than the running one. `force`: install again. Raises EnvironmentFailure.
    """
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    foreign = keep and not _stamp(venv) and (venv / "bin/python").exists()
    if not force and (_complete(venv, wanted, same_python) or foreign and not _lacking(venv, requirements)):
        return False
    venv.parent.mkdir(parents=True, exist_ok=True)
    with open(venv.parent / f"{venv.name}.lock", "w", encoding="utf-8") as lock:
        _wait_for(lock, venv)
        if not force and _complete(venv, wanted, same_python):
            return False
        if not foreign:
            reusable = _stamp(venv).get("requirements") and not force
            if venv.exists() and not (reusable and (not same_python or _stamp(venv).get("python") == _version())):
                _remove(venv)
            if not (venv / "bin/python").exists():
                _create(venv)
            _write_stamp(venv, "")
        _install(venv, requirements)
        lacking = _lacking(venv, requirements)
        if lacking:
            raise EnvironmentFailure(f"{venv}: after the installation {'; '.join(lacking)}")
        if not foreign:
            _write_stamp(venv, wanted)
    return True


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _stamp(venv: Path) -> dict[str, str]:
    try:
        return json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _complete(venv: Path, wanted: str, same_python: bool) -> bool:
    stamp = _stamp(venv)
    if stamp.get("requirements") != wanted or not os.access(venv / "bin/python", os.X_OK):
        return False
    return not same_python or stamp.get("python") == _version()


def _write_stamp(venv: Path, wanted: str) -> None:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    ran = subprocess.run([venv / "bin/python", "-c", code], check=True, capture_output=True, text=True)
    made_by = ran.stdout.strip()
    temporary = venv / f".{STAMP}"
    temporary.write_text(json.dumps({"requirements": wanted, "python": made_by}) + "\n", encoding="utf-8")
    os.replace(temporary, venv / STAMP)


def _lacking(venv: Path, requirements: Path) -> list[str]:
    python = venv / "bin/python"
    code = "import sys, json; print(json.dumps(sys.version_info[:2]))" + INSTALLED
    lines = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    major, minor = json.loads(lines[0])
    return differences(json.loads(lines[1]), read_pins(requirements, (major, minor)))


def _wait_for(lock, venv: Path) -> None:
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        say(f"another run is making {venv}; waiting for it")
        fcntl.lockf(lock, fcntl.LOCK_EX)


def _remove(venv: Path) -> None:
    if any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        raise EnvironmentFailure(
            f"{venv} exists and is not a virtual environment: move it away, or name another one in HARNESS_VENV"
        )
    say(f"removing {venv}: it is incomplete or to be made again")
    shutil.rmtree(venv)


def _create(venv: Path) -> None:
    free = shutil.disk_usage(venv.parent).free
    if free < NEEDED_BYTES:
        raise EnvironmentFailure(
            f"{venv} needs about {NEEDED_BYTES / 1e9:.0f} GB and the disk has {free / 1e9:.1f} GB free: "
            "free some, or name a folder on another disk in HARNESS_VENV"
        )
    # A venv must not be made by the interpreter of the very venv that is replaced.
    base = getattr(sys, "_base_executable", sys.executable)
    made = subprocess.run([base, "-m", "venv", venv], capture_output=True, text=True)
    if made.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        raise EnvironmentFailure(
            f"{base} -m venv {venv} failed: {(made.stdout + made.stderr).strip()} "
            "(on Debian and Ubuntu the package python3-venv is needed)"
        )


def _install(venv: Path, requirements: Path) -> None:
    # What is there already counts as well, so that the count ends at the total.
    total = len(read_pins(requirements, sys.version_info[:2]))
    log_path = venv / "install.log"
    say(f"installing {total} pinned packages into {venv} (7 GB, a few minutes; log: {log_path})")
    command = [venv / "bin/python", "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    tail: deque[str] = deque(maxlen=15)
    count = 0
    with (
        open(log_path, "w", encoding="utf-8") as log,
        subprocess.Popen(
            [*command, "-r", requirements], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as pip,
    ):
        assert pip.stdout is not None
        for line in pip.stdout:
            log.write(line)
            tail.append(line)
            if line.startswith(("Collecting ", "Requirement already satisfied: ", "Processing ")):
                count += 1
                if count % 20 == 0:
                    say(f"  {min(count, total)} of {total} packages fetched")
            elif line.startswith("Installing collected packages"):
                say("  all fetched; unpacking them")
    if pip.returncode:
        what = f"exit status {pip.returncode}" if pip.returncode > 0 else f"signal {-pip.returncode}"
        raise EnvironmentFailure(
            f"pip failed with {what}; its last lines:\n{''.join(tail)}"
            f"The whole log is {log_path}; the next run starts again."
        )


def say(message: str) -> None:
    """Print with time and place, as run.sh does."""
    print(f"{datetime.now().isoformat(timespec='seconds')} (environment) {message}", flush=True)


def main() -> int:
    """Parse the command line; exit status 2 with one line on a failure."""
    parser = argparse.ArgumentParser(prog="python -m egs.pipeline.environment", allow_abbrev=False)
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--requirements", type=Path, required=True)
    parser.add_argument("--keep", action="store_true", help="never delete the folder: it is somebody's own")
    parser.add_argument("--same_python", action="store_true", help="rebuild where another Python version made it")
    parser.add_argument("--force", action="store_true", help="install again")
    parser.add_argument("--describe", action="store_true", help="say what it holds, even where nothing was to do")
    args = parser.parse_args()
    try:
        made = ensure(args.venv, args.requirements, keep=args.keep, same_python=args.same_python, force=args.force)
    except EnvironmentFailure as error:
        print(f"error: stage 0: {error}", file=sys.stderr)
        return 2
    if made:
        say(f"{args.venv} is complete")
    if made or args.describe:
        subprocess.run([args.venv / "bin/python", "-m", "egs", "check"], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
