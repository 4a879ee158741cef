"""From the names in a recipe to upstreams that S3PRL can build, each with a key that changes with its weights."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from corpora.files import read_json, sha256_json

# S3PRL's own entries that need no checkpoint. They see one utterance at a time: in a batch S3PRL's baselines get
# zeros from the padding of their companions. Each has one layer of this width, and 100 frames a second.
WIDTHS = {"fbank": 240, "mfcc": 39, "mel": 80, "linear": 201, "spectrogram": 257, "fbank_no_cmvn": 240}
BASELINES = tuple(WIDTHS)
ENTRY = "harness_custom"
# Encoders of other families in Transformers form (upstream.harness.other_encoders).
FOREIGN_ENTRY = "harness_transformers"


class UpstreamMissing(FileNotFoundError):
    """An upstream that cannot be had; the message says why and how to add it."""


@dataclass(frozen=True)
class Upstream:
    """An upstream under its name in tables, the S3PRL entry that builds it, and the hash of what it computes.

    `batched`: features do not depend on the companions in a batch, so several utterances may share a pass.
    """

    name: str
    entry: str
    path: Path | None
    key: str
    batched: bool

    @property
    def build(self) -> dict[str, object]:
        """Arguments of `s3prl.nn.S3PRLUpstream`."""
        return {"name": self.entry} | ({} if self.path is None else {"path_or_url": str(self.path)})


def resolve(name: str, models_dir: Path) -> Upstream:
    """An upstream by name: an S3PRL baseline, the model directory `<models_dir>/<name>`, `name=path` of one, or a row
    of `upstream/baselines.yaml`, which is fetched where it is not at hand.

    Raises UpstreamMissing where there is no such model directory.
    """
    label, _, given = name.partition("=")
    if not given and label in BASELINES:
        key = sha256_json({"entry": label, "s3prl": metadata.version("s3prl")})
        return Upstream(label, label, None, key, batched=False)
    path = Path(given) if given else Path(models_dir) / label
    if not given and not path.is_dir() and (published := _published(label)) is not None:
        if isinstance(published, Upstream):
            return published
        path = published
    for file in ("config.json", "model.safetensors"):
        if not (path / file).is_file():
            what = f"{path} has no {file}" if path.is_dir() else f"no model directory {path}"
            raise UpstreamMissing(f"{label}: {what}; {_how(label, given)}")
    from upstream.harness.other_encoders import OTHER_ENCODERS

    entry = FOREIGN_ENTRY if read_json(path / "config.json").get("model_type") in OTHER_ENCODERS else ENTRY
    return Upstream(label, entry, path, _model_key(path), batched=True)


def _published(label: str) -> Path | Upstream | None:
    """A row of the table of baselines: its folder, or S3PRL's own entry where S3PRL is to fetch it; else None."""
    from upstream.harness.baselines import BaselineError, local_folder, locate, table

    row = table().get(label)
    if row is None:
        return None
    if row.s3prl is not None and local_folder(row) is None:
        key = sha256_json({"entry": row.s3prl, "s3prl": metadata.version("s3prl")})
        return Upstream(label, label, None, key, batched=False)
    try:
        return locate(row)
    except BaselineError as error:
        raise UpstreamMissing(str(error)) from error


def _model_key(path: Path) -> str:
    """Hash of all that decides the features of a model directory: weights, geometry, input normalisation."""
    from upstream.model.modeldir import model_sha256

    config = {k: v for k, v in read_json(path / "config.json").items() if k != "harness"}  # but not its card
    preprocessor = path / "preprocessor_config.json"
    return sha256_json(
        {
            "weights": model_sha256(path),
            "config": config,
            "preprocessor": read_json(preprocessor) if preprocessor.is_file() else None,
        }
    )


def _how(label: str, given: str) -> str:
    if given:
        return "give the folder that holds config.json and model.safetensors"
    if label in ("hubert", "xlsr"):
        return f"give its local copy as --upstreams {label}=PATH (a folder in Transformers form)"
    return "run the stages that make it (./run.sh --stage 1 --stop_stage 9), or leave it out of --upstreams"
