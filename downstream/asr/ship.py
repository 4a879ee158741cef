"""Make the directory of a recogniser that ships: `python -m downstream.asr ship`.

    model directory (fp32) + head directories -> config.json, model.safetensors (large weights in 16 bits),
    preprocessor_config.json, int8.onnx, one folder for each head, README.md (the card), SHA256SUMS

The heads get the hash of the rounded weights. The directory appears whole or not at all, after the rounded recogniser
was compared with the original.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from corpora.audio import SAMPLE_RATE
from corpora.files import CorpusError, atomic_dir, read_json, sha256_file, write_json, write_text
from corpora.names import check_name
from corpora.schema import record
from downstream import DownstreamError
from downstream.asr.reading import ONNX_FILE, Reader
from downstream.asr.recogniser import check_weights, read_description
from upstream.model.card import ancestors, tree
from upstream.model.family import FRAME_RATE
from upstream.model.modeldir import CARD_KEY, load_model, model_sha256, read_card
from upstream.model.onnx import export_onnx

SUMS = "SHA256SUMS"
# Keys of a card about the training of its weights, which the shipped directory only rounds.
ORIGIN = ("units", "label_sets", "regression", "recogniser_teacher")
# Tensors with fewer values (norms, biases) and the constants of the front end stay exact: together they are small.
SMALLEST_HALF = 4096
# Probabilities of the rounded recogniser may differ by so much from those of the original.
TOLERANCE = 0.03


@dataclass(frozen=True)
class Speech:
    """One source of the training speech."""

    name: str
    hours: float
    licence: str


@dataclass(frozen=True)
class Facts:
    """What the card says and the model directory does not know: one YAML file."""

    summary: str
    data: list[Speech]
    not_for: list[str]
    licence: str  # SPDX identifier of the weights
    licence_text: str
    language: list[str] = field(default_factory=lambda: ["ar"])


def read_facts(path: Path) -> Facts:
    """The facts of a card. Raises CorpusError for a key that is missing, unknown, empty or of a wrong type."""
    values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    if not isinstance(values, dict):
        raise CorpusError(f"{path}: expected the keys {', '.join(Facts.__dataclass_fields__)}")
    facts = record(Facts, values, str(path))
    if not facts.data or not facts.not_for:
        raise CorpusError(f"{path}: `{'data' if not facts.data else 'not_for'}` is empty; a card states it")
    return facts


def ship(model: Path, heads: Mapping[str, Path], out: Path, *, facts: Facts, scores: str, onnx: bool = True) -> Path:
    """Write the directory `out` from a model directory and its CTC heads by name; `scores` is Markdown for the card.

    An older directory is replaced as a whole, so all heads must be given. Without `onnx` there is no int8.onnx.
    Raises DownstreamError for a head of other weights, for weights that 16 bits cannot hold, and for a rounded
    recogniser that differs.
    """
    model, out = Path(model), Path(out)
    if not heads:
        raise DownstreamError("give at least one head, --head DIR")
    if not scores.strip():
        raise DownstreamError("the scores are empty; a card states how well the recogniser reads, and how to repeat it")
    source = model_sha256(model)
    for name, head in heads.items():
        check_name(name, "--head")
        check_weights(head, source, model, "--model")
    with atomic_dir(out) as folder:
        _write_half(model, folder, out.name)
        for name, head in heads.items():
            (folder / name).mkdir()
            shutil.copyfile(head / "head.safetensors", folder / name / "head.safetensors")
            description = read_description(head) | {"upstream": out.name, "upstream_key": model_sha256(folder)}
            write_json(folder / name / "head.json", description)
        if onnx:
            export_onnx(folder, folder / ONNX_FILE, precision="int8")
        for name, head in heads.items():
            _compare(head, model, folder / name, folder)
        write_text(folder / "README.md", _card(folder, out.name, list(heads), facts, scores))
        write_text(folder / SUMS, sums(folder))
    return out


def sums(folder: Path) -> str:
    """The SHA-256 of every file in a folder except SHA256SUMS, as `sha256sum -c` reads them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    return "".join(f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)


def _write_half(source: Path, folder: Path, name: str) -> None:
    """The model directory `source` with its large weights in 16 bits, and a card that names the original."""
    state = load_file(source / "model.safetensors")
    exact = {key for key, _ in load_model(source).named_buffers()}
    for key, value in state.items():
        if key in exact or not value.is_floating_point() or value.numel() < SMALLEST_HALF:
            continue
        state[key] = value.half()
        if not torch.isfinite(state[key]).all():
            raise DownstreamError(f"{source}: `{key}` holds values beyond 65,504, which 16 bits cannot store")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(source / "preprocessor_config.json", folder / "preprocessor_config.json")
    shutil.copymode(folder / "preprocessor_config.json", folder / "model.safetensors")
    config = read_json(source / "config.json")
    own = {key: value for key, value in read_card(source).items() if key not in ORIGIN}
    origin = {"kind": "rounded to 16 bits", "source_sha256": model_sha256(source)}
    card = {**own, "name": name, "init": origin, "lineage": ancestors(source)}
    # Transformers loads weights in the precision that is stated here, whatever the file holds.
    write_json(folder / "config.json", config | {"dtype": "float32", CARD_KEY: card})


def _compare(head: Path, model: Path, new_head: Path, new_model: Path) -> None:
    """Raise DownstreamError where the probabilities of the rounded recogniser, or of its export, are not as before."""
    chance = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 200 * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE)
    signal = torch.from_numpy((0.1 * tone + 0.02 * chance.standard_normal(len(tone))).astype(np.float32))
    before = np.exp(Reader(head, model, engine="torch").read_blocks([signal]).log_probs)
    after = np.exp(Reader(new_head, new_model, engine="torch").read_blocks([signal]).log_probs)
    if (difference := float(np.abs(after - before).max())) > TOLERANCE:
        raise DownstreamError(
            f"{model}: with weights of 16 bits the probabilities change by {difference:.3f} (at most {TOLERANCE}), so "
            "the directory was not written"
        )
    if (new_model / ONNX_FILE).is_file():
        Reader(new_head, new_model, engine="onnx").read_blocks([signal])  # the export belongs to this head, and runs


def _card(folder: Path, name: str, heads: list[str], facts: Facts, scores: str) -> str:
    model = load_model(folder)
    config = model.config
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    rows = "\n".join(f"| {speech.name} | {speech.hours:g} | {speech.licence} |" for speech in facts.data)
    strides = sorted({read_description(folder / head).get("stride", 1) for head in heads})
    rates = " or ".join(f"{FRAME_RATE / stride:g}" for stride in strides)
    hours = sum(speech.hours for speech in facts.data)
    contents = {
        "model.safetensors": "the encoder; large weights in 16 bits",
        ONNX_FILE: "the encoder for ONNX Runtime, weights of matrix products in 8 bits",
        **{f"{head}/head.safetensors": f"linear layer to characters (`{head}/head.json` lists them)" for head in heads},
    }
    files = "\n".join(
        f"| `{file}` | {(folder / file).stat().st_size / 1e6:.2f} | {text} |"
        for file, text in contents.items()
        if (folder / file).is_file()
    )
    return f"""---
license: {facts.licence}
language: {json.dumps(facts.language)}
pipeline_tag: automatic-speech-recognition
tags: [speech, arabic, ctc]
---
# {name}

{facts.summary.strip()}

{millions:.2f} M parameters: {config.num_hidden_layers} layers of width {config.hidden_size}. Input: a 16 kHz waveform.
Output: hidden states, 50 frames per second, and characters by a linear layer with CTC, {rates} frames per second.

| file | MB | contents |
|---|---:|---|
{files}

## Use

```bash
python -m downstream transcribe recording.mp3 --model {name}/{heads[0]}
```

```python
from upstream import encode, load_model

model = load_model("{name}")  # the name if it ships with the toolkit, else the path of this directory
```

## Training speech

| speech | hours | licence |
|---|---:|---|
{rows}
| all | {hours:g} | |

## Origin

```
{tree(folder)}
```

## Scores

{scores.strip()}

## Not for

{chr(10).join(f"- {line}" for line in facts.not_for)}

## Licence

{facts.licence_text.strip()}
"""
