"""Describe a model directory: its facts (`info`), and the models and units that it was made from (`lineage`).

The card of a model names its units, initialisation and teacher by the SHA-256 of their models. `lineage` in the card
has one entry for each of these ancestors, so that a shared model shows its history without their folders.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from corpora.files import read_json
from corpora.schema import convert
from upstream.errors import UpstreamError
from upstream.model.configcheck import read_object
from upstream.model.encoder import front_end_of, geometry_of, left_context_of, normalises_waveform, squeeze_of
from upstream.model.family import FRAME_RATE, macs_per_second
from upstream.model.modeldir import CARD_KEY, MODEL_TYPES, check_weights, model_sha256, read_card, read_model
from upstream.model.rate import OURS, Frames, frames_of, stated_frames
from upstream.shipped import model_path

REPORT = "report.json"  # of a units folder
_DEEPEST = 100  # generations that are drawn
_UNUSABLE = f"all other commands need {OURS}, and refuse this model"
# Encoders of other families that `harness_transformers` runs, with their keys of config.json that are not HuBERT's.
_OTHER_KEYS = {
    "wavlm": {},
    "wav2vec2-bert": {},
    "whisper": {
        "num_hidden_layers": "encoder_layers",
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "intermediate_size": "encoder_ffn_dim",
    },
}
# Keys of an ancestor's card that its entry contains.
KEPT = (
    *("name", "recipe", "iteration", "geometry", "data", "hours", "steps"),
    *("units", "label_sets", "init", "regression", "recogniser_teacher"),
)


@dataclass
class _Units:
    """The fields of a label set that are shown."""

    name: str | None = None
    weight: float | None = None
    source: str | None = None
    layer: int | None = None
    pca_dim: int | None = None
    k: int | None = None
    model_sha256: str | None = None
    codebook_sha256: str | None = None


@dataclass
class _Geometry:
    name: str | None = None
    layers: int | None = None
    width: int | None = None
    front_end: str | None = None


@dataclass
class _Init:
    kind: str | None = None
    source_sha256: str | None = None


@dataclass
class _Regression:
    layers: list[int] | None = None
    weight: float | None = None
    source_sha256: str | None = None


@dataclass
class _Teacher:
    hours: float | None = None
    weight: float | None = None
    source_sha256: str | None = None


@dataclass
class _Entry:
    """The fields of a card, or of an ancestor in it, that are shown."""

    name: str | None = None
    recipe: str | None = None
    iteration: int | None = None
    geometry: _Geometry | None = None
    data: dict[str, Any] | str | None = None
    hours: float | None = None
    steps: int | None = None
    units: _Units | None = None
    label_sets: list[_Units] | None = None
    init: _Init | None = None
    regression: _Regression | None = None
    recogniser_teacher: _Teacher | None = None


@dataclass
class _Card(_Entry):
    lineage: dict[str, _Entry] | None = None
    delta_s: float | None = None
    valid_masked_accuracy: float | None = None
    units_source: str | None = None
    init_source: str | None = None
    fine_tuned: str | None = None
    hours_heard: float | None = None
    imported_from: str | None = None
    source: str | None = None
    source_sha256: str | None = None


def checked_card(path: Path | str) -> dict[str, Any]:
    """The card of a model directory. Raises CorpusError, with the key, for a value of another type than it has."""
    card = read_card(path)
    convert(_Card, card, str(Path(path) / "config.json"), CARD_KEY)
    return card


def facts(path: Path | str) -> dict[str, Any]:
    """The card of a model directory and the facts read from its weights, which replace equal keys of the card.

    Of a WavLM, w2v-BERT 2.0 or Whisper directory: what its JSON files and the header of its weights say.
    """
    path = model_path(path)
    if (path / "config.json").is_file():
        kind = read_object(path / "config.json").get("model_type")
        if isinstance(kind, str) and kind in _OTHER_KEYS:
            return _other_facts(path, kind)
    model, card = read_model(path), checked_card(path)
    config, frames = model.config, frames_of(model.config)
    shown: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": model_sha256(path),
        "bytes": (path / "model.safetensors").stat().st_size,
        "model_type": config.model_type,
        "front_end": front_end_of(model),
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "ffn": config.intermediate_size,
        "squeeze": squeeze_of(model),
        "normalise": normalises_waveform(model),
        "frame_rate": frames.rate,
        "hop": frames.hop,
        "receptive_field": frames.field,
    }
    if left := left_context_of(model):
        shown |= {"left_context": left, "chunk": config.chunk}
    if getattr(config, "cmvn", False):
        shown["cmvn"] = True
    try:
        shown["macs_g_per_s"] = round(macs_per_second(geometry_of(model)) / 1e9, 4)
    except UpstreamError:  # other convolutions than HuBERT's; all other facts still hold
        shown["macs_g_per_s"] = None
    return card | shown if card else shown


def _other_facts(path: Path, kind: str) -> dict[str, Any]:
    check_weights(path)
    config, names = read_object(path / "config.json"), _OTHER_KEYS[kind]
    try:
        frames = stated_frames(path)
        rate = frames.rate
    except (TypeError, ValueError, AttributeError) as error:
        raise UpstreamError(f"{path}: config.json and preprocessor_config.json state no frame rate") from error
    try:
        with safe_open(path / "model.safetensors", "pt") as file:
            # Whisper's decoder is not read.
            sizes = [math.prod(file.get_slice(n).get_shape()) for n in file.keys() if "decoder." not in n]
    except (SafetensorError, OSError) as error:
        raise UpstreamError(f"{path}: model.safetensors cannot be read: {error}") from error
    keys = {"layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads"}
    keys["ffn"] = "intermediate_size"
    if lacking := [key for key in keys.values() if not isinstance(config.get(names.get(key, key)), int)]:
        raise UpstreamError(f"{path}: config.json lacks a whole number `{names.get(lacking[0], lacking[0])}`")
    return {
        "parameters": sum(sizes),
        "sha256": model_sha256(path),
        "bytes": (path / "model.safetensors").stat().st_size,
        "model_type": kind,
        **{name: config[names.get(key, key)] for name, key in keys.items()},
        "frame_rate": rate,
        "hop": frames.hop,
    }


def _describe_other(path: Path, f: Mapping[str, Any]) -> str:
    whisper = f["model_type"] == "whisper"
    size = f"{f['parameters'] / 1e6:.2f} M parameters"
    made = f"s3prl:harness_transformers={path}"
    lines = {
        "model": path.name,
        "encoder": f"{f['model_type']}, {f['layers']} layers of width {f['width']}, {f['heads']} heads, FFN {f['ffn']}",
        "size": size + (", without the decoder, which is not read" if whisper else ""),
        "input": "16 kHz waveform" + (", in windows of 30 s that silence fills" if whisper else ""),
        "output": f"{f['frame_rate']:.4g} frames per second, hidden states 0 to {f['layers']}",
        "use": f"--upstreams NAME={path} (benchmark), source={made} (units)"
        + (", --source (regress, which copies its layers)" if whisper else ""),
        "weights": f"{f['bytes'] / 1e6:.2f} MB, SHA-256 {f['sha256']}",
    }
    return "\n".join(f"{label:<10}{text}" for label, text in lines.items())


def describe(path: Path | str) -> str:
    """The facts as a few aligned lines; facts that the directory does not state are left out."""
    f = facts(path)
    if f["model_type"] in _OTHER_KEYS:
        return _describe_other(Path(path), f)
    geometry, data, units, init = (f.get(key) or {} for key in ("geometry", "data", "units", "init"))
    data = data if isinstance(data, dict) else {"corpora": data}
    imported = f.get("imported_from")
    # Label and parts of each line; a part without a value is left out, and a line without a part, too.
    lines: list[tuple[str, list[str | None]]] = [
        ("model", [str(f.get("name") or Path(path).name)]),
        (
            "encoder",
            [
                _fill("geometry {}", geometry.get("name")),
                f"{f['front_end']} front end" + (", normalised over the clip" if f.get("cmvn") else ""),
                f"{f['layers']} layers of width {f['width']}, {f['heads']} heads, FFN {f['ffn']}",
                _fill("layers at {:g} Hz", None if f["squeeze"] == 1 else FRAME_RATE / f["squeeze"]),
                _fill("streams with {:g} s of left context", f["left_context"] / FRAME_RATE)
                if f.get("left_context")
                else None,
            ],
        ),
        ("size", [f"{f['parameters'] / 1e6:.2f} M parameters", _fill("ΔS {:.4g} % against HL", f.get("delta_s"))]),
        ("cost", [_fill("{:.3f} GMAC per second of audio", f["macs_g_per_s"])]),
        ("input", ["16 kHz waveform", "normalised to mean 0 and variance 1" if f["normalise"] else "not normalised"]),
        ("output", [f"{f['frame_rate']:.4g} frames per second", f"hidden states 0 to {f['layers']}"]),
        ("frames", [] if (own := Frames(f["hop"], f["receptive_field"])) == OURS else [f"{own}; {_UNUSABLE}"]),
        (
            "training",
            [
                _fill("iteration {}", f.get("iteration")),
                _fill("{} steps", f.get("steps")),
                _fill("{:.3g} h of audio", f.get("hours")),
                _fill("corpora {}", data.get("corpora")),
                _fill("recipe {}", f.get("recipe")),
                _fill("masked accuracy {} on dev", f.get("valid_masked_accuracy")),
                _fill("fine-tuned ({})", f.get("fine_tuned")),
                _fill("{:.3g} h of audio with repetitions", f.get("hours_heard")),
            ],
        ),
        (
            "units",
            [
                f"{units.get('k')} clusters of {units.get('source')}",
                _fill("state {}", units.get("layer")),
                "no PCA" if units.get("pca_dim") is None else f"PCA to {units['pca_dim']} dimensions",
                _fill("made by {}", f.get("units_source")),
                _fill("codebook {:.12}", units.get("codebook_sha256")),
            ]
            if units
            else [],
        ),
        (
            "start",
            [init.get("kind"), _fill("from {}", f.get("init_source")), _fill("{:.12}", init.get("source_sha256"))],
        ),
        ("imported", [imported, f.get("source"), _fill("{:.12}", f.get("source_sha256"))] if imported else []),
        ("weights", [f"{f['bytes'] / 1e6:.2f} MB, SHA-256 {f['sha256']}"]),
    ]
    shown = [(label, ", ".join(part for part in parts if part)) for label, parts in lines]
    return "\n".join(f"{label:<10}{text}" for label, text in shown if text)


def _fill(form: str, value: Any) -> str | None:
    return None if value is None else form.format(value)


def ancestors(model_dir: Path | str) -> dict[str, dict[str, Any]]:
    """The entries of a model directory and of all its ancestors, by the SHA-256 of their weights.

    The directory of another kind of encoder, such as Whisper, has no card: its entry is its name and kind.
    """
    model_dir = model_path(model_dir)
    config = model_dir / "config.json"
    kind = read_json(config).get("model_type") if config.is_file() else None
    if kind is not None and kind not in MODEL_TYPES:
        return {model_sha256(model_dir): {"name": f"{model_dir.name} ({kind})"}}
    card = checked_card(model_dir)
    own = {key: card[key] for key in KEPT if card.get(key) is not None}
    own.setdefault("name", model_dir.name)
    return {**(card.get("lineage") or {}), model_sha256(model_dir): own}


def lineage(units: Sequence[Path], *models: str | None) -> dict[str, dict[str, Any]]:
    """The ancestors of a model that is trained on these units folders and uses these model directories."""
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
    """The lineage of a model directory as text; each ancestor is drawn once."""
    entries = ancestors(model_dir)
    root = model_sha256(model_dir)
    return "\n".join([_title(root, entries[root]), *_branches(root, entries, "", {root})])


def _branches(sha256: str, entries: Mapping[str, dict[str, Any]], indent: str, drawn: set[str]) -> Iterator[str]:
    edges = list(_edges(entries[sha256]))
    for number, (label, parent) in enumerate(edges):
        last = number == len(edges) - 1
        yield f"{indent}{'└── ' if last else '├── '}{label}"
        if parent is None:
            continue
        below = indent + ("    " if last else "│   ")
        if parent not in entries:
            yield f"{below}└── model {parent[:12]} (its card is missing)"
        elif parent in drawn:
            yield f"{below}└── {entries[parent].get('name') or 'model'} (above)"
        elif len(below) > 4 * _DEEPEST:
            yield f"{below}└── further ancestors are not shown"
        else:
            drawn.add(parent)
            yield f"{below}└── {_title(parent, entries[parent])}"
            yield from _branches(parent, entries, below + "    ", drawn)


def _edges(entry: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """The inputs of a model's training: a label, and the SHA-256 of the model that made the input, or None."""
    sets = entry.get("label_sets") or ([entry["units"]] if entry.get("units") else [])
    for units in sets:
        name = f" {units.get('name')}, weight {units.get('weight') or 1:g}" if len(sets) > 1 else ""
        layer = "" if units.get("layer") is None else f" layer {units['layer']}"
        pca = "" if units.get("pca_dim") is None else f", PCA {units['pca_dim']}"
        cmvn = ", cmvn" if units.get("cmvn") else ""
        yield f"units{name}: {units.get('source')}{layer}{cmvn}{pca}, k={units.get('k')}", units.get("model_sha256")
    regression = entry.get("regression")
    if regression:
        layers = ", ".join(map(str, regression.get("layers") or []))
        yield f"features: layers {layers}, weight {regression.get('weight') or 1:g}", regression.get("source_sha256")
    teacher = entry.get("recogniser_teacher")
    if teacher:
        stated = [_fill("weight {:g}", teacher.get("weight")), _fill("{:g} h", teacher.get("hours"))]
        yield f"probabilities of: {', '.join(filter(None, stated))}", teacher.get("source_sha256")
    init = entry.get("init")
    if init:
        yield f"init: {init.get('kind')}", init.get("source_sha256")


def _title(sha256: str, entry: Mapping[str, Any]) -> str:
    geometry, data = entry.get("geometry"), entry.get("data")
    parts = [
        entry.get("name") or "model",
        _fill("iteration {}", entry.get("iteration")),
        f"{geometry.get('layers')} x {geometry.get('width')} {geometry.get('front_end')}" if geometry else None,
        _fill("{} steps", entry.get("steps")),
        _fill("{:g} h", entry.get("hours")),
        str(data.get("corpora", data) if isinstance(data, dict) else data) if data else None,
    ]
    return f"{', '.join(part for part in parts if part)} [{sha256[:12]}]"
