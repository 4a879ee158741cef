"""Resolve names of upstreams to entries of S3PRL, each with a key that changes with its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from corpora import machine
from corpora.files import read_json, sha256_json
from corpora.names import check_name
from upstream.errors import UpstreamError
from upstream.names import LOCAL_UPSTREAMS, SHIPPED
from upstream.shipped import shipped

# S3PRL's baselines without a checkpoint and their widths; each has one layer and 100 frames per second. They run on one
# utterance at a time, because in a batch the padding would change their features.
WIDTHS = {"fbank": 240, "mfcc": 39, "mel": 80, "linear": 201, "spectrogram": 257, "fbank_no_cmvn": 240}
BASELINES = tuple(WIDTHS)
ENTRY = "harness_custom"
# Entry for encoders of other families in Transformers form (upstream.harness.other_encoders).
FOREIGN_ENTRY = "harness_transformers"


class UpstreamMissing(FileNotFoundError):
    """An upstream without weights; the message says why and how to add it."""


@dataclass(frozen=True)
class Upstream:
    """An upstream: its name in tables, the S3PRL entry that builds it, and the hash of its weights and configuration.

    `batched`: features do not depend on the other utterances of a batch, so several utterances may share a pass.
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
    """An upstream by name.

    A name is a baseline of S3PRL, a model directory `<models_dir>/<name>`, `name=path` of a model directory, a model
    that ships (`upstream.names.SHIPPED`), or a row of `upstream/harness/baselines.yaml`, which is downloaded if
    necessary. Raises UpstreamMissing if there is none, CorpusError for a name that cannot be the name of a folder, and
    UpstreamError for an encoder of another frame rate.
    """
    label, _, given = name.partition("=")
    check_name(label, "upstream")  # it names folders of features and of probes
    if not given and label in BASELINES:
        key = sha256_json({"entry": label, "s3prl": _s3prl_version()})
        return Upstream(label, label, None, key, batched=False)
    path = Path(given) if given else Path(models_dir) / label
    if not given and not path.is_dir() and label in SHIPPED:
        try:
            path = shipped(label)
        except UpstreamError as error:
            raise UpstreamMissing(str(error)) from None
    if not given and not path.is_dir() and (published := _published(label)) is not None:
        if isinstance(published, Upstream):
            return published
        path = published
    if any(path.glob("model-*-of-*.safetensors")):
        from upstream.model.modeldir import check_weights  # takes seconds to import

        try:
            check_weights(path)
        except ValueError as error:
            raise UpstreamMissing(f"{label}: {error}") from None
    for file in ("config.json", "model.safetensors"):
        if not (path / file).is_file():
            problem = f"{path} has no {file}" if path.is_dir() else f"no model directory {path}"
            raise UpstreamMissing(f"{label}: {problem}; {_advice(label, given)}")
    from upstream.harness.other_encoders import OTHER_ENCODERS
    from upstream.model.rate import check_directory

    check_directory(path)
    kind = read_json(path / "config.json")
    entry = FOREIGN_ENTRY if isinstance(kind, dict) and kind.get("model_type") in [*OTHER_ENCODERS] else ENTRY
    return Upstream(label, entry, path, _model_key(path), batched=True)


def _published(label: str) -> Path | Upstream | None:
    """The folder of a row of the table of baselines, or S3PRL's entry if S3PRL downloads it; None for other names."""
    from upstream.harness.baselines import BaselineError, local_folder, locate, table

    row = table().get(label)
    if row is None:
        return None
    if row.s3prl is not None and local_folder(row) is None:
        key = sha256_json({"entry": row.s3prl, "s3prl": _s3prl_version()})
        return Upstream(label, label, None, key, batched=False)
    try:
        return locate(row)
    except BaselineError as error:
        raise UpstreamMissing(str(error)) from error


def _s3prl_version() -> str:
    """Package and version of the S3PRL that is installed: ESPnet's fork, espnet-s3prl, has the same module name."""
    return next((" ".join(found) for found in machine.versions(("espnet-s3prl", "s3prl")).items()), "none")


def _model_key(path: Path) -> str:
    """Hash of everything that changes the features of a model directory: weights, geometry, input normalisation."""
    from upstream.model.configcheck import read_object
    from upstream.model.modeldir import model_sha256

    config = {
        k: v for k, v in read_object(path / "config.json").items() if k != "harness"
    }  # `harness` is the model card
    preprocessor = path / "preprocessor_config.json"
    return sha256_json(
        {
            "weights": model_sha256(path),
            "config": config,
            "preprocessor": read_json(preprocessor) if preprocessor.is_file() else None,
        }
    )


def _advice(label: str, given: str) -> str:
    if given:
        return "give the folder that holds config.json and model.safetensors"
    if label in LOCAL_UPSTREAMS:
        return f"give its local copy as --upstreams {label}=PATH (a folder in Transformers form)"
    return "run the stages that make it (./run.sh --stage 1 --stop_stage 9), or leave it out of --upstreams"
