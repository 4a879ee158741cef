"""A pickled checkpoint read in a process of its own, where it can build nothing but tensors and plain values.

The parent gets a safetensors file and JSON, never an object. In the child `torch.load(weights_only=True)` refuses every
class; those that fairseq files are known to hold are replaced by inert stand-ins, none is ever imported.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

# What becomes a stand-in: these packages and these names. Anything else is refused, whatever it is.
INERT_PACKAGES = ("fairseq.", "omegaconf.", "lightning.", "pytorch_lightning.")
INERT_NAMES = {
    *("bool", "dict", "float", "int", "list", "str", "tuple"),
    *("argparse.Namespace", "collections.defaultdict", "pathlib.PosixPath", "typing.Any"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"),
}
STATE_KEYS = ("model", "state_dict", "model_state_dict")
LIMIT_S = 900
_CONFIG_CHARACTERS = 1_000_000
_CONFIG_DEPTH = 12
ROOT = Path(__file__).resolve().parents[2]


class PickleError(ValueError):
    """A checkpoint that is refused or cannot be read, with the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint by name, and what else it holds as plain values."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]


def read_checkpoint(path: Path | str) -> Checkpoint:
    """State dict and settings of a checkpoint: safetensors, or a pickle read in isolation. Raises PickleError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise PickleError(f"{path}: no such checkpoint file")
    if path.suffix == ".safetensors":
        try:
            return Checkpoint(load_file(path), {})
        except SafetensorError as error:
            raise PickleError(f"{path}: not a whole safetensors file: {error}") from error
    _refuse_bomb(path)
    with TemporaryDirectory() as scratch:
        tensors, config = Path(scratch) / "tensors.safetensors", Path(scratch) / "config.json"
        # Neither tokens nor proxies of the caller; python must find torch and this package, and nothing else.
        environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p)]), "HOME": scratch}
        environment |= {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        command = [sys.executable, "-m", __name__, str(path.resolve()), str(tensors), str(config)]
        try:
            done = subprocess.run(
                command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired as error:
            raise PickleError(f"{path}: reading it took more than {LIMIT_S} s") from error
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            reason = lines[-1] if lines else f"the reading process died (status {done.returncode})"
            raise PickleError(f"{path}: refused: {reason}")
        return Checkpoint(load_file(tensors), json.loads(config.read_text(encoding="utf-8")))


def _refuse_bomb(path: Path) -> None:
    """torch writes its archives uncompressed: one that unpacks to more than its size is no checkpoint."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > path.stat().st_size:
        raise PickleError(f"{path}: refused: the archive unpacks to {unpacked} bytes, more than its own size")


class _Inert:
    """Stands where a class of fairseq or omegaconf stood: keeps what it is given and does nothing."""

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


def _load(path: Path) -> Any:
    """`torch.load` with one stand-in more for each inert class that it meets."""
    import pickle

    import torch

    stand_ins: dict[str, type] = {}
    for _ in range(100):
        try:
            with torch.serialization.safe_globals([(made, name) for name, made in stand_ins.items()]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+) (?:was not an allowed global|whose module)", str(error))
            if not found:
                raise PickleError(f"not a checkpoint that torch can read: {_first_sentence(error)}") from None
            name = found[1]
            if not (name in INERT_NAMES or name.startswith(INERT_PACKAGES)):
                raise PickleError(f"it wants to run `{name}`; only tensors and plain values are read") from None
            # torch leaves the module of built-in types out of its message; files spell it in two ways.
            full = [name] if "." in name else [f"builtins.{name}", f"__builtin__.{name}"]
            stand_ins |= dict.fromkeys(full, type(name.rsplit(".", 1)[-1], (_Inert,), {}))
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PickleError(f"not a checkpoint that torch can read: {_first_sentence(error)}") from None
    raise PickleError("it holds more than 100 kinds of objects")


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0][:300]


def _state(obj: Any) -> dict[str, Any]:
    """The state dict within a checkpoint: under one of the usual keys, or the object itself."""
    import torch

    for key in STATE_KEYS:
        if isinstance(obj, dict) and isinstance(obj.get(key), dict):
            return obj[key]
    if isinstance(obj, dict) and any(isinstance(value, torch.Tensor) for value in obj.values()):
        return obj
    raise PickleError(f"no state dict in it: neither tensors by name nor one of the keys {', '.join(STATE_KEYS)}")


def plain(obj: Any, depth: int = 0) -> Any:
    """Settings as JSON values: stand-ins become what they held, tensors and what lies deeper than 12 levels vanish."""
    if obj is None or isinstance(obj, bool | int | float | str):
        return obj
    if depth > _CONFIG_DEPTH:
        return None
    if isinstance(obj, _Inert):
        held = {k: v for k, v in vars(obj).items() if k != "arguments"}
        for key in ("_content", "_val"):  # omegaconf's containers and leaves
            if key in held:
                return plain(held[key], depth + 1)
        arguments = vars(obj)["arguments"]
        return plain(held or (arguments[0] if len(arguments) == 1 else arguments), depth + 1)
    if isinstance(obj, dict):
        return {str(key): plain(value, depth + 1) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [plain(value, depth + 1) for value in obj]
    return None


def _main(source: Path, tensors: Path, config: Path) -> None:
    import torch
    from safetensors.torch import save_file

    obj = _load(source)
    state = {str(name): value for name, value in _state(obj).items() if isinstance(value, torch.Tensor)}
    size = source.stat().st_size
    for name, value in state.items():
        # A view of one number can claim any shape and would be written out in full.
        if value.numel() * value.element_size() > size or value.layout != torch.strided:
            raise PickleError(f"tensor `{name}` of shape {tuple(value.shape)} is larger than the file")
    if sum(value.numel() * value.element_size() for value in state.values()) > 2 * size:
        raise PickleError("its tensors together are more than twice as large as the file")
    settings = {key: value for key, value in obj.items() if value is not state and key in SETTINGS}
    text = json.dumps(plain(settings))
    if len(text) > _CONFIG_CHARACTERS:
        raise PickleError(f"its settings are {len(text)} characters long")
    save_file({name: value.detach().contiguous().clone() for name, value in state.items()}, tensors)
    config.write_text(text, encoding="utf-8")


# Settings of fairseq (`args` of old files, `cfg` of new ones) and of Lightning; optimiser states are left behind.
SETTINGS = ("args", "cfg", "hyper_parameters")

if __name__ == "__main__":
    try:
        _main(*map(Path, sys.argv[1:]))
    except PickleError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
