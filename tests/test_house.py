"""The order of the packages and of the folders inside them: who may import whom, no circles, no private names.

    egs -> downstream -> upstream -> corpora;  bench imports all of them
    corpora     base (the modules of the folder itself) <- prepare <- datasets <- sets
    upstream    base <- model <- units <- pretrain <- harness, tools
    downstream  base <- score <- probe <- asr, ser, did <- grid <- report;  espnet, web beside them
    egs         base <- pipeline

`__main__` and the modules in ABOVE stand above all folders of their package, and no other module of it imports them.
Imports inside functions and imports for type checking count as well. The lists of known exceptions must become shorter:
an entry that is no longer needed fails.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("corpora", "upstream", "downstream", "egs", "bench")
# A folder may import the folders that are listed with it, itself, and the modules of the package's own folder.
ORDER = {
    "corpora": {"": (), "prepare": (), "datasets": ("prepare",), "sets": ("prepare", "datasets")},
    "upstream": {
        "": (),
        "model": (),
        "units": ("model",),
        "pretrain": ("model", "units"),
        "harness": ("model", "units", "pretrain"),
        "tools": ("model", "units", "pretrain"),
    },
    "downstream": {
        "": (),
        "score": (),
        "probe": ("score",),
        "asr": ("score", "probe"),
        "ser": ("score", "probe"),
        "did": ("score", "probe"),
        "grid": ("score", "asr", "ser", "did", "probe"),
        "report": ("score", "asr", "ser", "did", "probe", "grid"),
        "espnet": ("score", "asr", "probe", "grid", "report"),
        "web": ("score", "asr", "probe"),
    },
    "egs": {"": (), "pipeline": ()},
}
# The public interface of a package, and commands that use all of it.
ABOVE = {"upstream", "upstream.streaming", "downstream.predict", "downstream.traits"}

# Known exceptions. Remove an entry when its import has gone; add none.
# Both call `upstream.register()`, the public way to put our names on S3PRL's hub.
UPWARD: set[tuple[str, str]] = {("upstream.harness.launch", "upstream"), ("upstream.units.features", "upstream")}
CIRCLES: set[frozenset[str]] = set()
PRIVATE: set[tuple[str, str]] = set()
CROWDED: set[str] = set()


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Module name -> syntax tree, of all packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(name: str) -> Iterator[tuple[str, str]]:
    """Pairs (module, imported name or an empty string) of the imports of one module from these packages."""
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, "") if whole in modules() else (node.module, alias.name)


@functools.cache
def arrows() -> frozenset[tuple[str, str]]:
    """Pairs (importing module, imported module)."""
    return frozenset((name, target) for name in modules() for target, _ in imported(name) if target != name)


def package_of(name: str) -> str:
    return name.split(".")[0]


def folder_of(name: str) -> str:
    """The folder inside the package; empty for the package's own folder, `above` for modules above all folders."""
    if name in ABOVE or name == f"{package_of(name)}.__main__":
        return "above"
    parts = name.split(".")
    folders = ORDER[parts[0]]
    return parts[1] if len(parts) > 1 and parts[1] in folders else ""


def test_packages_import_one_way() -> None:
    rank = {package: place for place, package in enumerate(PACKAGES)}
    wrong = {(a, b) for a, b in arrows() if rank[package_of(a)] < rank[package_of(b)]}
    assert not wrong


@pytest.mark.parametrize("package", ORDER)
def test_folders_import_one_way(package: str) -> None:
    def fits(importer: str, target: str) -> bool:
        own, other = folder_of(importer), folder_of(target)
        return own in ("above", other) or other in (*ORDER[package][own], "")

    wrong = {(a, b) for a, b in arrows() if package_of(a) == package_of(b) == package and not fits(a, b)}
    known = {(a, b) for a, b in UPWARD if package_of(a) == package}
    assert wrong - known == set(), "a folder imports one above it"
    assert known - wrong == set(), "these entries of UPWARD are no longer needed"


def test_no_circles() -> None:
    assert circles() - CIRCLES == set(), "modules import each other in a circle"
    assert CIRCLES - circles() == set(), "these entries of CIRCLES are no longer needed"


def circles() -> set[frozenset[str]]:
    """Groups of modules that import each other, directly or through others (Tarjan's algorithm)."""
    targets: dict[str, list[str]] = {name: [] for name in modules()}
    for a, b in sorted(arrows()):
        targets[a].append(b)
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for target in targets[name]:
            if target not in number:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in stack:
                lowest[name] = min(lowest[name], number[target])
        if lowest[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.add(frozenset(group))

    for name in targets:
        if name not in number:
            visit(name)
    return found


def test_no_private_names_cross_modules() -> None:
    wrong = {
        (name, f"{target}.{what}")
        for name in modules()
        for target, what in imported(name)
        if what.startswith("_") and not what.startswith("__") and target != name
    }
    assert wrong - PRIVATE == set(), "private names are imported"
    assert PRIVATE - wrong == set(), "these entries of PRIVATE are no longer needed"


def test_no_folder_is_crowded() -> None:
    """About 14 modules in a folder. `corpora/datasets` is the exception: it has one module per corpus."""
    counts: dict[str, int] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            folder = path.parent.relative_to(ROOT).as_posix()
            counts[folder] = counts.get(folder, 0) + 1
    crowded = {folder for folder, count in counts.items() if count > 16} - {"corpora/datasets"}
    assert crowded - CROWDED == set()
    assert CROWDED - crowded == set(), "these entries of CROWDED are no longer needed"


def test_nothing_imports_torchaudio() -> None:
    """Newer versions cannot be imported beside S3PRL, and GPU machines lack it; imports inside functions count too."""
    found = set()
    for name, tree in modules().items():
        for node in ast.walk(tree) if package_of(name) != "bench" else ():  # bench compares with it
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                targets = [node.module or ""]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                targets = [str(own.value) for own in node.args if isinstance(own, ast.Constant)]
            else:
                continue
            found |= {name for target in targets if target.split(".")[0] == "torchaudio"}
    assert found == set()
