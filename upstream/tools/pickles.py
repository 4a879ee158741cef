"""Read a pickled checkpoint in a separate process that can build only tensors and plain values.

The caller gets a safetensors file and JSON, never an unpickled object. In the child `torch.load(weights_only=True)`
refuses every class; known classes of fairseq's files are replaced by inert stand-ins, and none is imported.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from upstream.errors import UpstreamError

# Only classes of these packages and with these names become stand-ins. All others are refused.
INERT_PACKAGES = ("fairseq.", "omegaconf.", "lightning.", "pytorch_lightning.")
INERT_NAMES = {
    *("bool", "dict", "float", "int", "list", "str", "tuple"),
    *("argparse.Namespace", "collections.defaultdict", "pathlib.PosixPath", "typing.Any"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"),
}
STATE_KEYS = ("model", "state_dict", "model_state_dict")
# Settings of fairseq (`args` in old files, `cfg` in new ones) and of Lightning.
SETTINGS_KEYS = ("args", "cfg", "hyper_parameters")
LIMIT_S = 900
_SETTINGS_CHARACTERS = 1_000_000
_SETTINGS_DEPTH = 12
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint by name, and its settings as plain values."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]


def read_checkpoint(path: Path | str) -> Checkpoint:
    """State dict and settings of a checkpoint: safetensors, or a pickle read in isolation. Raises UpstreamError."""
    path = Path(path)
    if not path.is_file():
        raise UpstreamError(f"{path}: no such checkpoint file")
    if path.suffix == ".safetensors":
        try:
            return Checkpoint(load_file(path), {})
        except SafetensorError as error:
            raise UpstreamError(f"{path}: not a whole safetensors file: {error}") from error
    _refuse_bomb(path)
    with TemporaryDirectory() as scratch:
        tensors, config = Path(scratch) / "tensors.safetensors", Path(scratch) / "config.json"
        # No tokens and no proxies of the caller; only the paths that Python needs to import torch and this package.
        environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p)]), "HOME": scratch}
        environment |= {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        command = [sys.executable, "-m", __name__, str(path.resolve()), str(tensors), str(config)]
        try:
            done = subprocess.run(
                command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired as error:
            raise UpstreamError(f"{path}: reading it took more than {LIMIT_S} s") from error
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            reason = lines[-1] if lines else f"the reading process died (status {done.returncode})"
            raise UpstreamError(f"{path}: refused: {reason}")
        return Checkpoint(load_file(tensors), json.loads(config.read_text(encoding="utf-8")))


def _refuse_bomb(path: Path) -> None:
    """torch writes uncompressed archives: a file that unpacks to more than its own size is no checkpoint."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > path.stat().st_size:
        raise UpstreamError(f"{path}: refused: the archive unpacks to {unpacked} bytes, more than its own size")


def unpickle(path: Path) -> Checkpoint:
    """The restricted reading of a pickle. Call it only in an isolated process; `read_checkpoint` starts one."""
    obj = _load(path)
    state = _state(obj)
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    size, total = path.stat().st_size, 0
    for name, value in tensors.items():
        # A view of one number can have any shape, and would be written in full.
        if value.numel() * value.element_size() > size or value.layout != torch.strided:
            raise UpstreamError(f"tensor `{name}` of shape {tuple(value.shape)} is larger than the file")
        total += value.numel() * value.element_size()
    if total > 2 * size:
        raise UpstreamError("its tensors together are more than twice as large as the file")
    settings = {key: _plain(value) for key, value in obj.items() if value is not state and key in SETTINGS_KEYS}
    characters = len(json.dumps(settings))
    if characters > _SETTINGS_CHARACTERS:
        raise UpstreamError(f"its settings have {characters} characters, more than {_SETTINGS_CHARACTERS}")
    return Checkpoint({name: value.detach().contiguous().clone() for name, value in tensors.items()}, settings)


class _Inert:
    """Replaces a class of fairseq or omegaconf: stores its arguments and does nothing."""

    def __new__(cls, *arguments: object, **options: object) -> _Inert:
        made = super().__new__(cls)
        made.__dict__["arguments"] = list(arguments)
        return made

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        self.__dict__[str(key)] = value

    def append(self, value: object) -> None:
        self.__dict__["arguments"].append(value)


@contextmanager
def _only(allowed: list[Any]) -> Iterator[None]:
    """Let torch build these classes and no others; libraries such as S3PRL add some for the whole process."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(allowed)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _load(path: Path) -> Any:
    """`torch.load`, repeated with one more stand-in for each inert class that the file names."""
    stand_ins: dict[str, type] = {}
    for _ in range(100):
        try:
            with _only([(made, name) for name, made in stand_ins.items()]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+) (?:was not an allowed global|whose module)", str(error))
            if not found:
                raise UpstreamError(f"not a checkpoint that torch can read: {_first_sentence(error)}") from None
            name = found[1]
            if not (name in INERT_NAMES or name.startswith(INERT_PACKAGES)):
                raise UpstreamError(f"loading it would run `{name}`; only tensors and plain values are read") from None
            # torch's message omits the module of built-in types; files spell it in two ways.
            full = [name] if "." in name else [f"builtins.{name}", f"__builtin__.{name}"]
            stand_ins |= dict.fromkeys(full, type(name.rsplit(".", 1)[-1], (_Inert,), {}))
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UpstreamError(f"not a checkpoint that torch can read: {_first_sentence(error)}") from None
    raise UpstreamError("it holds more than 100 kinds of objects")


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0][:300]


def _state(obj: Any) -> dict[str, Any]:
    """The state dict of a checkpoint: under one of the usual keys, or the object itself."""
    if isinstance(obj, dict):
        for key in STATE_KEYS:
            if isinstance(obj.get(key), dict):
                return obj[key]
        if any(isinstance(value, Tensor) for value in obj.values()):
            return obj
    raise UpstreamError(f"no state dict in it: neither tensors by name nor one of the keys {', '.join(STATE_KEYS)}")


def _plain(obj: Any, depth: int = 0) -> Any:
    """Settings as JSON values: stand-ins become their contents; tensors and values below 12 levels become None."""
    if obj is None or isinstance(obj, bool | int | float | str):
        return obj
    if depth > _SETTINGS_DEPTH:
        return None
    if isinstance(obj, _Inert):
        held = {k: v for k, v in vars(obj).items() if k != "arguments"}
        for key in ("_content", "_val"):  # omegaconf's containers and leaves
            if key in held:
                return _plain(held[key], depth + 1)
        arguments = vars(obj)["arguments"]
        return _plain(held or (arguments[0] if len(arguments) == 1 else arguments), depth + 1)
    if isinstance(obj, dict):
        return {str(key): _plain(value, depth + 1) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value, depth + 1) for value in obj]
    return None


def _main(source: Path, tensors: Path, config: Path) -> None:
    checkpoint = unpickle(source)
    save_file(checkpoint.tensors, tensors)
    config.write_text(json.dumps(checkpoint.config), encoding="utf-8")


if __name__ == "__main__":
    try:
        _main(*map(Path, sys.argv[1:]))
    except UpstreamError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
