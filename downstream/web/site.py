"""Assemble the page for one recogniser: every file by its path below the address of the page.

    index.html, sw.js             the page, and the service worker that keeps all files for use without a network
    page/<digest>/                scripts, style, page.json (facts of the model, list of texts)
    model/<digest>/               encoder.onnx, head.bin (linear layer, fp32)
    ort/<version>/                ONNX Runtime

A path with a digest or version always has the same content, so browsers may keep it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from corpora import __version__
from corpora.files import atomic_dir, locked, sha256_file
from downstream import DownstreamError
from downstream.asr.reading import ONNX_FILE, encoder_of
from downstream.asr.recogniser import check_weights, linear_layer, read_description
from downstream.find import limits_of, read_texts
from downstream.web.packages import RUNTIME, cache, runtime, wanted_version
from upstream.model.modeldir import model_sha256
from upstream.model.onnx import OnnxEncoder, export_onnx
from upstream.shipped import model_path

PAGE = Path(__file__).parent / "static"  # a link to web/ in a checkout; a wheel has the files at this place
PRECISIONS = ("int8", "fp32")
_OTHERS = {"index.html", "sw.js", "package.json", "package-lock.json"}
_SUFFIXES = {".js", ".css", ".svg"}

Files = dict[str, bytes | Path]


@dataclass(frozen=True)
class Exported:
    """An encoder for ONNX Runtime: the file, and the facts in it (`upstream.model.onnx`)."""

    path: Path
    facts: dict[str, str]


def assemble(
    head: Path,
    model: Path | None = None,
    *,
    texts: Path | None = None,
    spans: int = 1,
    precision: str = "int8",
    page: Path = PAGE,
) -> Files:
    """The files of the page for a head directory: path -> content, or the file that holds it.

    Without `model` the encoder is searched near the head. `texts` is a list in Kaldi form, `spans` the largest number
    of its lines in one recording. The encoder is exported to the cache where its directory lacks it. Raises
    DownstreamError for a head of another encoder, and where files of the page or npm are missing.
    """
    if not (page / "index.html").is_file():
        raise DownstreamError(
            f"{page}: the files of the page (web/ of the repository) are missing from this installation; use a "
            "checkout, or a wheel that was built from one with its links"
        )
    head = Path(head)
    description = read_description(head)
    folder = model_path(model) if model is not None else encoder_of(head, description)
    encoder = exported(folder, precision)
    check_weights(head, encoder.facts["source_sha256"], folder, "--model")
    width = int(encoder.facts["width"])
    layer = linear_layer(head, width, int(encoder.facts.get("squeeze", 1)))
    weights = b"".join(np.ascontiguousarray(values, "<f4").tobytes() for values in layer)
    version = wanted_version(page)
    folder_of_model = f"model/{_digest(sha256_file(encoder.path).encode(), weights)}"
    facts: dict[str, Any] = {
        "toolkit": __version__,
        "name": folder.resolve().name,
        "head": head.resolve().name,
        "characters": description["characters"],
        "width": width,
        "squeeze": int(encoder.facts.get("squeeze", 1)),
        "stride": int(description.get("stride", 1)),
        "precision": precision,
        "bytes": encoder.path.stat().st_size,
        "encoderKey": encoder.facts["source_sha256"],
        "headKey": description["upstream_key"],
        "encoder": f"../../{folder_of_model}/encoder.onnx",
        "weights": f"../../{folder_of_model}/head.bin",
        "ort": f"../../ort/{version}/",
        "find": vars(limits_of(description)),
        "leastProbability": description["least_probability"],
        "spans": spans,
    }
    if texts is not None:
        facts |= {"texts": _texts(texts, description["characters"]), "textsName": texts.name}
    own: Files = {
        path.name: path.read_bytes()
        for path in sorted(page.iterdir())
        if path.suffix in _SUFFIXES and path.name not in _OTHERS
    }
    own["page.json"] = json.dumps(facts, ensure_ascii=False).encode()
    index = (page / "index.html").read_text(encoding="utf-8")
    worker = (page / "sw.js").read_text(encoding="utf-8")
    digest = _digest(index.encode(), worker.encode(), *(part for item in own.items() for part in item))
    files: Files = {f"page/{digest}/{name}": content for name, content in own.items()}
    files |= {f"{folder_of_model}/encoder.onnx": encoder.path, f"{folder_of_model}/head.bin": weights}
    libraries = runtime(page)
    files |= {f"ort/{version}/{name}": libraries / name for name in RUNTIME}
    kept = json.dumps(["./", *files])
    worker = _replaced(worker, r"^const VERSION = .*;$", f'const VERSION = "{digest}";')
    worker = _replaced(worker, r"^const FILES = .*;$", f"const FILES = {kept};")
    index = _replaced(index, r'(href|src)="\./', rf'\1="./page/{digest}/', count=3)
    return {"index.html": index.encode(), "sw.js": worker.encode(), **files}


def exported(folder: Path, precision: str) -> Exported:
    """The encoder of a model directory as an ONNX file: its int8.onnx, or an export in the cache, made where missing.

    Raises DownstreamError where the packages for an export are missing, and UpstreamError as the export does.
    """
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise DownstreamError(f"Python packages that export the model are missing: pip install {names}")
    key = model_sha256(folder)
    if precision == "int8" and (folder / ONNX_FILE).is_file():
        facts = OnnxEncoder(folder / ONNX_FILE, threads=1).facts
        if facts.get("source_sha256") == key:  # otherwise it was exported from other weights
            return Exported(folder / ONNX_FILE, facts)
    path = cache() / f"{key[:16]}-{precision}-{__version__}.onnx"
    with locked(path):
        if not path.is_file():
            export_onnx(folder, path, precision=precision)
    return Exported(path, OnnxEncoder(path, threads=1).facts)


def write_site(files: Files, out: Path) -> None:
    """Write the page as a folder for any web server, whole or not at all; an older one is replaced."""
    with atomic_dir(out) as folder:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())


def _texts(path: Path, characters: list[str]) -> dict[str, list[str]]:
    """ids, texts in the recogniser's spelling, and the lines as they stand in the file."""
    listed = read_texts(path, characters)
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    return {"ids": listed.ids, "texts": listed.texts, "lines": [line.partition(" ")[2].strip() for line in lines]}


def _digest(*parts: bytes | str | Path) -> str:
    whole = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part if isinstance(part, bytes) else part.read_bytes()
        whole.update(len(content).to_bytes(8, "little") + content)
    return whole.hexdigest()[:12]


def _replaced(text: str, pattern: str, by: str, count: int = 1) -> str:
    changed, times = re.subn(pattern, by, text, flags=re.MULTILINE)
    if times != count:
        raise DownstreamError(f"the files of the page do not fit this program: `{pattern}` was found {times} times")
    return changed
