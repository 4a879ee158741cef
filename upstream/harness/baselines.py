"""Find or fetch the published encoders of `baselines.yaml`, and register them on S3PRL's hub.

A baseline is read from the given folder, else from `$HARNESS_BASELINES/<name>`, else from the cache of earlier
downloads. Otherwise it is fetched: by S3PRL if it has an entry of its own, else from its repository, safetensors only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tabulate import tabulate

from corpora.files import read_json, sha256_file, write_json
from corpora.schema import nearest, record
from upstream.errors import UpstreamError
from upstream.harness.locate import cache_folder, is_url, refuse

TABLE = Path(__file__).with_suffix(".yaml")
VARIABLE = "HARNESS_BASELINES"
_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
_MARK = "fetched.json"


class BaselineError(UpstreamError):
    """A baseline that is not available; the message says why, and how to add it, in one line."""


@dataclass(frozen=True)
class Baseline:
    """One row of `baselines.yaml`, which explains the fields."""

    name: str
    source: str
    revision: str | None
    s3prl: str | None
    licence: str | None
    parameters: int
    sha256: str | None

    @property
    def url(self) -> str:
        """The address of its repository."""
        return f"{_endpoint()}/{self.source}"

    @property
    def how_to_add(self) -> str:
        """How to add it without network access."""
        return (
            f"on a machine with network fetch {', '.join(_FILES)} of {self.url} and put the folder at "
            f"${VARIABLE}/{self.name}, or give its path"
        )


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT.rstrip("/")


@cache
def table() -> dict[str, Baseline]:
    """The baselines by name, in the order of the file. Raises ValueError for a wrong row."""
    import yaml

    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {row["name"]: record(Baseline, row, str(TABLE)) for row in rows}


def baseline(name: str) -> Baseline:
    """The row of that name. Raises BaselineError with the nearest known name."""
    rows = table()
    if name not in rows:
        raise BaselineError(f"no baseline named `{name}`{nearest(name, rows)} (all: python -m upstream baselines)")
    return rows[name]


def local_folder(row: Baseline) -> Path | None:
    """The baseline's folder on this machine, if any: under $HARNESS_BASELINES, or downloaded earlier."""
    root = os.environ.get(VARIABLE)
    if root and (Path(root) / row.name / "config.json").is_file():
        return Path(root) / row.name
    fetched = cache_folder(row.url)
    return fetched if _is_complete(fetched, row) else None


def _is_complete(folder: Path, row: Baseline) -> bool:
    mark = folder / _MARK
    return mark.is_file() and row.revision in (None, read_json(mark)["revision"])


def fetch(row: Baseline) -> Path:
    """Fetch a baseline from its repository, in one process at a time, and check it; returns its folder.

    An interrupted download resumes. The last file written marks the folder as complete. Raises BaselineError without
    network, for a repository without safetensors, and for a wrong SHA-256.
    """
    from corpora.files import locked

    folder = cache_folder(row.url)
    with locked(folder):
        if _is_complete(folder, row):
            return folder
        try:
            revision, stated = _download(row, folder)
        except BaselineError:
            raise
        except Exception as error:  # the errors of the hub and of its HTTP client have no common base class
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BaselineError(
                f"{row.name}: cannot be fetched from {row.url} ({reason[:160]}); {row.how_to_add}"
            ) from error
        expected = row.sha256 or stated
        found = sha256_file(folder / "model.safetensors")
        if expected is not None and found != expected:
            (folder / "model.safetensors").unlink()
            raise BaselineError(
                f"{row.name}: model.safetensors from {row.url} has SHA-256 {found}, expected {expected}; it was "
                "deleted, fetch it again"
            )
        write_json(folder / _MARK, {"source": row.url, "revision": revision, "sha256": found})
    return folder


def _download(row: Baseline, folder: Path) -> tuple[str, str | None]:
    """Fetch the files into `folder`; returns their commit, and the SHA-256 that the hub states for the weights."""
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi(endpoint=_endpoint()).model_info(row.source, revision=row.revision, files_metadata=True)
    files = {file.rfilename: file for file in info.siblings or ()}
    if "model.safetensors" not in files:
        raise BaselineError(
            f"{row.name}: {row.url} has no model.safetensors at this revision, and pickles are never loaded; convert "
            f"its weights (python -m upstream import) and put the folder at ${VARIABLE}/{row.name}"
        )
    snapshot_download(
        row.source,
        revision=info.sha,
        local_dir=folder,
        allow_patterns=list(_FILES),
        endpoint=_endpoint(),
    )
    lfs = files["model.safetensors"].lfs
    return info.sha, None if lfs is None else lfs.sha256


def locate(row: Baseline, given: str | Path | None = None) -> Path:
    """The folder of a baseline: the given one, a local one, or fetched now. Raises BaselineError."""
    if given is not None:
        if is_url(given) or not (Path(given) / "config.json").is_file():
            raise BaselineError(
                f"{row.name}: {given} is no folder with config.json and model.safetensors; {row.how_to_add}"
            )
        return Path(given)
    return local_folder(row) or fetch(row)


def entries(hub: ModuleType) -> dict[str, Callable[..., Any]]:
    """Entries for `s3prl.hub`: one for every row, and `harness_transformers` for any folder of these model types."""

    def harness_transformers(ckpt: str | None = None, refresh: bool = False, **options: Any) -> Any:
        """A model directory in Transformers form: HuBERT, wav2vec 2.0, WavLM, w2v-BERT 2.0 or Whisper."""
        from upstream.harness.other_encoders import expert_of

        refuse("harness_transformers", options)
        if ckpt is None:
            raise UpstreamError("harness_transformers needs a model directory: path_or_url=DIR")
        return expert_of(ckpt)

    found: dict[str, Callable[..., Any]] = {"harness_transformers": harness_transformers}
    for row in table().values():
        theirs = None if row.s3prl is None else getattr(hub, row.s3prl)
        # On a second registration the hub holds our entry, which keeps S3PRL's own.
        found[row.name] = _entry(row, getattr(theirs, "of_s3prl", theirs))
    return found


def _entry(row: Baseline, of_s3prl: Callable[..., Any] | None) -> Callable[..., Any]:
    def load(ckpt: str | None = None, refresh: bool = False, **options: Any) -> Any:
        from upstream.harness.other_encoders import expert_of

        if of_s3prl is not None and ckpt is None and local_folder(row) is None:
            return _of_s3prl(row, of_s3prl, refresh, options)
        refuse(row.name, options)
        return expert_of(locate(row, ckpt))

    load.__name__ = load.__qualname__ = row.name
    load.__doc__ = f"{row.source}: a local folder, or fetched ({row.licence or 'licence not stated'})."
    load.of_s3prl = of_s3prl  # type: ignore[attr-defined]
    return load


def _of_s3prl(row: Baseline, entry: Callable[..., Any], refresh: bool, options: dict[str, Any]) -> Any:
    try:
        return entry(refresh=refresh, **options)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BaselineError(f"{row.name}: S3PRL cannot fetch it ({reason[:160]}); {row.how_to_add}") from error


def listing() -> str:
    """The table as text: name, parameters, licence, source, and local folder."""
    rows = []
    for row in table().values():
        place = local_folder(row)
        state = str(place) if place else f"no; {'S3PRL fetches it' if row.s3prl else 'fetched at first use'}"
        rows.append((row.name, row.parameters / 1e6, row.licence or "not stated", row.source, state))
    shown = tabulate(rows, ("name", "params (M)", "licence", "source", "local folder"), floatfmt=".1f")
    files = f"{', '.join(_FILES)} of {_endpoint()}/<source>"
    return f"{shown}\nWithout network: put {files} into <name>/ under a folder that {VARIABLE} names."
