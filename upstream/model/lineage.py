"""What came from what: every model directory carries the graph of its ancestors, and one command draws it.

A model's card names its own units, initialisation and teacher by the SHA-256 of the models behind them; `lineage` in
the card holds one entry for each of these, by hash, so that a shared model tells its history without the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from corpora.files import read_json
from upstream.model.modeldir import MODEL_TYPES, model_sha256, read_card

REPORT = "report.json"  # of a units folder
# What an ancestor's entry keeps of its card; the rest (licences, accuracies, ...) stays with the model itself.
KEPT = (
    *("name", "recipe", "iteration", "geometry", "data", "hours", "steps"),
    *("units", "label_sets", "init", "regression"),
)


def ancestors(model_dir: Path | str) -> dict[str, dict[str, Any]]:
    """The entries of a model directory and of all models that it comes from, by SHA-256 of their weights."""
    kind = read_json(Path(model_dir) / "config.json").get("model_type")
    if kind not in MODEL_TYPES:  # a published encoder of another family: it has no card of ours
        return {model_sha256(model_dir): {"name": f"{Path(model_dir).name} ({kind})"}}
    card = read_card(model_dir)
    own = {key: card[key] for key in KEPT if card.get(key) is not None}
    own.setdefault("name", Path(model_dir).name)
    return {**card.get("lineage", {}), model_sha256(model_dir): own}


def lineage(units: Sequence[Path], *models: str | None) -> dict[str, dict[str, Any]]:
    """The ancestors of a model trained on these units folders, from or beside these model directories."""
    found: dict[str, dict[str, Any]] = {}
    for folder in units:
        report = Path(folder) / REPORT
        if report.is_file():
            found |= read_json(report).get("lineage", {})
    for source in models:
        if source is not None:
            found |= ancestors(source)
    return found


def tree(model_dir: Path | str) -> str:
    """The history of a model directory as text; what was drawn once is not drawn again."""
    entries = ancestors(model_dir)
    root = model_sha256(model_dir)
    lines = [_title(root, entries[root])]
    lines += _branches(root, entries, "", {root})
    return "\n".join(lines)


def _branches(sha256: str, entries: dict[str, dict[str, Any]], indent: str, drawn: set[str]) -> Iterator[str]:
    edges = list(_edges(entries[sha256]))
    for number, (what, parent) in enumerate(edges):
        last = number == len(edges) - 1
        yield f"{indent}{'└── ' if last else '├── '}{what}"
        if parent is None:
            continue
        below = indent + ("    " if last else "│   ")
        if parent not in entries:
            yield f"{below}└── model {parent[:12]} (its card is not at hand)"
        elif parent in drawn:
            yield f"{below}└── {entries[parent]['name']} (above)"
        else:
            drawn.add(parent)
            yield f"{below}└── {_title(parent, entries[parent])}"
            yield from _branches(parent, entries, below + "    ", drawn)


def _edges(entry: dict[str, Any]) -> Iterable[tuple[str, str | None]]:
    """What a model was made from: a description, and the hash of the model behind it, if there is one."""
    sets = entry.get("label_sets") or ([entry["units"]] if entry.get("units") else [])
    for units in sets:
        name = f" {units['name']}, weight {units['weight']:g}" if len(sets) > 1 else ""
        layer = "" if units["layer"] is None else f" layer {units['layer']}"
        pca = "" if units["pca_dim"] is None else f", PCA {units['pca_dim']}"
        yield f"units{name}: {units['source']}{layer}{pca}, k={units['k']}", units["model_sha256"]
    regression = entry.get("regression")
    if regression:
        layers = ", ".join(map(str, regression["layers"]))
        yield f"features: layers {layers}, weight {regression['weight']:g}", regression["source_sha256"]
    init = entry.get("init") or {}
    if init:
        yield f"init: {init['kind']}", init.get("source_sha256")


def _title(sha256: str, entry: dict[str, Any]) -> str:
    facts = [entry["name"]]
    if "iteration" in entry:
        facts.append(f"iteration {entry['iteration']}")
    geometry = entry.get("geometry")
    if geometry:
        facts.append(f"{geometry['layers']} x {geometry['width']} {geometry['front_end']}")
    if "steps" in entry:
        facts.append(f"{entry['steps']} steps")
    if "hours" in entry:
        facts.append(f"{entry['hours']:g} h")
    data = entry.get("data")
    if data:
        facts.append(str(data.get("corpora", data)) if isinstance(data, dict) else str(data))
    return f"{', '.join(facts)} [{sha256[:12]}]"
