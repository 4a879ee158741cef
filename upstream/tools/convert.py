"""One foreign checkpoint in, one model directory out."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import HubertModel, Wav2Vec2Config, Wav2Vec2Model

from corpora.files import sha256_file
from upstream.model.encoder import encode
from upstream.model.modeldir import load_model, save_model
from upstream.tools.naming import spelling, to_transformers
from upstream.tools.pickles import read_checkpoint
from upstream.tools.shape import Settings, ShapeError, encoder_config, from_espnet, from_fairseq

KINDS = ("auto", "transformers", "torchaudio", "espnet", "fairseq")
log = logging.getLogger(__name__)


class ImportModelError(ValueError):
    """A checkpoint that cannot become a model directory, with the reason."""


def import_model(source: Path | str, out: Path | str, kind: str = "auto", settings: Settings | None = None) -> Path:
    """Write a foreign checkpoint as a model directory, whole or not at all.

    `transformers`: a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`; `torchaudio`: the state
    dict of a HuBERT or wav2vec 2.0 model, bare or in a training checkpoint; `espnet`: a HuBERT checkpoint, its
    `config.yaml` beside it; `fairseq`: a HuBERT or wav2vec 2.0 file. Pickles are read in an isolated process. What
    `settings` states goes before what the checkpoint says. Raises ValueError with the reason.
    """
    source = Path(source)
    if not source.exists():
        raise ImportModelError(f"{source}: no such file or folder")
    if kind not in KINDS:
        raise ImportModelError(f"kind `{kind}` is unknown; choose from {', '.join(KINDS)}")
    if source.is_dir() != (kind == "transformers") and kind != "auto":
        raise ImportModelError(f"{source}: kind {kind} wants a {'folder' if kind == 'transformers' else 'file'}")
    if source.is_dir():
        model, found, weights = _from_folder(source)
        if settings and settings != Settings():
            raise ImportModelError(f"{source}: config.json states the geometry; leave the settings out")
    else:
        model, found = _from_file(source, kind, settings or Settings())
        weights = source
    with torch.no_grad():
        states = encode(model, [0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))]).hidden_states
    if not all(torch.isfinite(state).all() for state in states):
        raise ImportModelError(f"{source}: the imported model gives values that are not finite")
    card: dict[str, Any] = {
        "name": Path(out).name,
        "imported_from": found,
        "source": weights.name,
        "source_sha256": sha256_file(weights),
    }
    return save_model(model, Path(out), card)


def _from_folder(source: Path) -> tuple[HubertModel, str, Path]:
    weights = source / "model.safetensors"
    if weights.is_file():
        return load_model(source), "transformers", weights
    weights = source / "pytorch_model.bin"
    if not weights.is_file():
        raise ImportModelError(f"{source}: neither model.safetensors nor pytorch_model.bin is in it")
    from safetensors.torch import save_file

    with TemporaryDirectory() as scratch:
        save_file(read_checkpoint(weights).tensors, Path(scratch) / "model.safetensors")
        for name in ("config.json", "preprocessor_config.json"):
            if (source / name).is_file():
                shutil.copyfile(source / name, Path(scratch) / name)
        return load_model(scratch), "transformers", weights


def _from_file(source: Path, kind: str, given: Settings) -> tuple[HubertModel, str]:
    checkpoint = read_checkpoint(source)
    names, prefix = spelling(checkpoint.tensors)
    espnet = prefix.startswith("encoder.")  # ESPnet's models keep their encoder under this name
    found = "espnet" if espnet else names
    if found == "transformers":
        raise ImportModelError(f"{source}: weights of Transformers; give the folder that also holds config.json")
    if kind not in ("auto", found):
        raise ImportModelError(f"{source}: this is a checkpoint of {found}, not of {kind}")
    tensors = to_transformers(checkpoint.tensors)
    stated, conv = Settings(), None
    if espnet:
        stated, conv = from_espnet(_espnet_config(source))
    elif found == "fairseq":
        stated, conv = from_fairseq(checkpoint.config)
    merged = {key: value for key, value in vars(given).items() if value is not None}
    settings = replace(stated, **merged)
    wav2vec2 = any(name.removeprefix(prefix).startswith(("quantizer.", "project_q.")) for name in checkpoint.tensors)
    try:
        config = encoder_config(tensors, settings, conv, wav2vec2=wav2vec2)
    except ShapeError as error:
        raise ImportModelError(f"{source}: {error}") from error
    model = (Wav2Vec2Model if isinstance(config, Wav2Vec2Config) else HubertModel)(config).eval()
    try:
        missing, unexpected = model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    except RuntimeError as error:
        raise ImportModelError(f"{source}: {' '.join(str(error).split())}") from error
    missing = [name for name in missing if name != "masked_spec_embed"]
    if missing or unexpected:
        what = f"lacks `{missing[0]}`" if missing else f"holds `{unexpected[0]}`, which the encoder has no place for"
        raise ImportModelError(f"{source}: {what} ({len(missing)} missing, {len(unexpected)} left over)")
    log.info(
        "%s: %s, %d layers of width %d, %d heads, %s",
        source, found, config.num_hidden_layers, config.hidden_size, config.num_attention_heads,
        "norms first" if config.do_stable_layer_norm else "norms last",
    )  # fmt: skip
    return model, found


def _espnet_config(source: Path) -> dict[str, Any]:
    import yaml

    path = source.parent / "config.yaml"
    if not path.is_file():
        log.warning("%s: no config.yaml beside it; heads and the order of norms are those usual for its width", source)
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ImportModelError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ImportModelError(f"{path}: not ESPnet's configuration")
    return config
