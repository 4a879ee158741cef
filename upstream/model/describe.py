"""What a model directory holds and where it comes from, for people and for machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from upstream.model.encoder import front_end_of, normalises_waveform
from upstream.model.family import macs_per_second
from upstream.model.modeldir import load_model, model_sha256, read_card
from upstream.tools.cost import geometry_of


def facts(path: Path) -> dict[str, Any]:
    """The card of a model directory, and beside it what its weights themselves show (these keys come first)."""
    model, card = load_model(path), read_card(path)
    config = model.config
    shown: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": model_sha256(path),
        "bytes": (Path(path) / "model.safetensors").stat().st_size,
        "model_type": config.model_type,
        "front_end": front_end_of(model),
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "ffn": config.intermediate_size,
        "normalise": normalises_waveform(model),
    }
    try:
        shown["macs_g_per_s"] = round(macs_per_second(geometry_of(model)) / 1e9, 4)
    except ValueError:  # convolutions of another kind; everything else still holds
        shown["macs_g_per_s"] = None
    return card | shown if card else shown


def describe(path: Path) -> str:
    """The facts as a few aligned lines; what a directory does not state is left out."""
    f = facts(path)
    geometry = f.get("geometry") or {}
    lines: list[tuple[str, str]] = [("model", str(f.get("name") or Path(path).name))]

    def add(label: str, *parts: str | None) -> None:
        held = [part for part in parts if part]
        if held:
            lines.append((label, ", ".join(held)))

    named = f"geometry {geometry['name']}" if geometry.get("name") else None
    shape = f"{f['layers']} layers of width {f['width']}, {f['heads']} heads, FFN {f['ffn']}"
    add("encoder", named, f"{f['front_end']} front end", shape)
    delta = None if f.get("delta_s") is None else round(f["delta_s"], 2)
    add("size", f"{f['parameters'] / 1e6:.2f} M parameters", None if delta is None else f"ΔS {delta:g} % against HL")
    add("cost", None if f["macs_g_per_s"] is None else f"{f['macs_g_per_s']:.3f} GMAC per second of audio")
    normalised = "normalised to mean 0 and variance 1" if f["normalise"] else "as it is"
    add("input", f"16 kHz waveform, {normalised}")
    add("output", f"50 frames per second, hidden states 0 to {f['layers']}")
    data = f.get("data") or {}
    add(
        "training",
        _said("iteration {}", f.get("iteration")),
        _said("{} steps", f.get("steps")),
        _said("{:.3g} h of audio", f.get("hours")),
        _said("corpora {}", data.get("corpora")),
        _said("recipe {}", f.get("recipe")),
        _said("masked accuracy {} on dev", f.get("valid_masked_accuracy")),
    )
    units = f.get("units") or {}
    if units:
        pca = units.get("pca_dim")
        layer = units.get("layer")
        add(
            "units",
            f"{units.get('k')} clusters of {units.get('source')}" + ("" if layer is None else f", state {layer}"),
            "no PCA" if pca is None else f"PCA to {pca} dimensions",
            _said("made by {}", f.get("units_source")),
            _said("codebook {:.12}", units.get("codebook_sha256")),
        )
    start = f.get("init") or {}
    add("start", start.get("kind"), _said("from {}", f.get("init_source")), _said("{:.12}", start.get("source_sha256")))
    imported = f.get("imported_from")
    add("imported", imported, f.get("source") if imported else None, _said("{:.12}", f.get("source_sha256")))
    lines.append(("weights", f"{f['bytes'] / 1e6:.2f} MB, SHA-256 {f['sha256']}"))
    return "\n".join(f"{label:<10}{text}" for label, text in lines)


def _said(form: str, value: Any) -> str | None:
    return None if value is None else form.format(value)
