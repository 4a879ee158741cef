"""Compare codebooks of several PCA dimensions and k on one layer of a teacher, without transcripts.

Codebooks are fitted on a sample of `train` and measured on a sample of `dev`. The features of both samples are computed
once and kept until the table is complete; each row is written as soon as it is measured.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score
from tqdm import tqdm

from corpora.audio import SAMPLE_RATE
from corpora.batches import random_share
from corpora.datadir import Utterance, audio_sha256, read_datadir
from corpora.files import atomic_file, read_json, write_csv, write_json
from upstream.errors import UpstreamError
from upstream.model.encoder import frame_count
from upstream.model.family import FRAME_RATE
from upstream.model.states import advance, audio_bar
from upstream.units.codebook import Codebook, check_pca
from upstream.units.features import MfccSource, Source, feature_batches, open_source

DIMENSIONS = (16, 32, 64)
REFERENCE_K = 100  # clusters of each other layer that all rows are compared with
REFERENCES = 5  # layers besides the clustered one
BATCH_SECONDS = 60.0

SHOWN = {
    "pca": "PCA",
    "k": "K",
    "explained_variance": "variance kept",
    "distortion": "distortion",
    "in_use": "in use",
    "perplexity": "perplexity",
    "run_ms": "run (ms)",
    "speaker_nmi": "NMI speaker",
    "reference_nmi": "NMI layers",
}
PANELS = {
    "explained_variance": "share of variance kept",
    "distortion": "distortion (share of variance missed, dev)",
    "perplexity": "perplexity of the units (dev)",
    "run_ms": "mean run of a unit (ms, dev)",
    "speaker_nmi": "NMI with the speaker (dev)",
    "reference_nmi": "NMI with units of other layers (dev)",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """The grid: each `pca` with each `k`, on `source` and `layer` as in TargetConfig.

    `pca` None: DIMENSIONS below the width of the features, and no PCA. `against` lists the hidden states whose units
    the rows are compared with (None: up to five, spread over the depth). `minutes` of audio are drawn from train and as
    many from dev. `cmvn` as in TargetConfig.
    """

    source: str
    layer: int | None = None
    pca: list[int | float | None] | None = None
    k: list[int] = field(default_factory=lambda: [100, 500])
    against: list[int] | None = None
    minutes: float = 20.0
    seed: int = 0
    cmvn: bool = False

    def __post_init__(self) -> None:
        if self.pca == [] or not self.k or self.minutes <= 0:
            raise UpstreamError("sweep: at least one pca, one k, and minutes above 0 are needed")


def parse_dimensions(text: str) -> list[int | float | None]:
    """`16,0.95,none` as dimensions, shares of variance, and no PCA."""
    values: list[int | float | None] = []
    for part in (p.strip() for p in text.split(",")):
        try:
            values.append(None if part == "none" else int(part) if part.isdecimal() else float(part))
        except ValueError:
            raise UpstreamError(f"--pca {text}: `{part}` is not a dimension, a share of variance or `none`") from None
    return values


def sweep(data_dir: Path, out_dir: Path, config: Sweep) -> str:
    """Fill `<out_dir>/sweep.csv` and draw `sweep.png`; returns the table as text.

    Rows of an earlier run stay if they belong to the same audio, model and settings, also rows outside this grid.
    """
    out_dir = Path(out_dir)
    splits = {split: _sample(data_dir / split, config, number) for number, split in enumerate(("train", "dev"))}
    source = open_source(config.source, config.layer, batch_seconds=BATCH_SECONDS)
    references = _references(source, config.against)
    dimensions = [*(d for d in DIMENSIONS if d < source.dim), None] if config.pca is None else config.pca
    for pca in dimensions:
        check_pca(pca, source.dim)
    _keep_rows_of(out_dir, config, source, references, splits)
    rows = _read(out_dir / "sweep.csv")
    done = {(row["pca"], row["k"]) for row in rows}
    todo = [(pca, k) for pca in dimensions for k in config.k if (_name(pca), k) not in done]
    if todo:
        target, labels = _features(out_dir / "features", config, source, references, splits)
        for pca, k in tqdm(todo, desc="codebooks", unit="codebook"):
            rows.append(_row(target, labels, pca, k, config.seed))
            rows.sort(key=lambda row: (row["pca"] == "none", row["pca_dim"], row["pca"], row["k"]))
            write_csv(out_dir / "sweep.csv", rows[0], rows)
    shutil.rmtree(out_dir / "features", ignore_errors=True)
    table = pd.DataFrame(rows)
    _draw(table, source, config.cmvn, out_dir / "sweep.png")
    return table.rename(columns=SHOWN)[[*SHOWN.values()]].to_string(index=False, col_space=13)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    # Without pandas' own list of empty values: `pca` may be "none", and `by_layer` may be empty.
    missing = {"reference_mi": ["nan"], "reference_nmi": ["nan"]}
    table = pd.read_csv(path, dtype={"pca": str, "by_layer": str}, keep_default_na=False, na_values=missing)
    return table.to_dict("records")


def _name(pca: int | float | None) -> str:
    return "none" if pca is None else f"{pca:g}"


def _sample(path: Path, config: Sweep, stream: int) -> list[Utterance]:
    """Random utterances of at most `minutes` in all, at least one."""
    utterances = [u for u in read_datadir(path) if frame_count(u.samples) > 0]
    if not utterances:
        raise UpstreamError(f"{path}: no utterance is as long as one frame (25 ms)")
    rng = np.random.default_rng([config.seed, 5, stream])
    chosen = random_share([u.samples for u in utterances], config.minutes * 60 * SAMPLE_RATE, rng)
    return sorted((utterances[i] for i in chosen), key=lambda u: u.utt_id)


def _references(source: Source, against: Sequence[int] | None) -> list[int]:
    if isinstance(source, MfccSource):
        if against:
            raise UpstreamError("sweep: mfcc has no layers to compare with")
        return []
    depth = source.depth
    if against is None:
        spread = {round(i * depth / REFERENCES) for i in range(REFERENCES + 1)} - {source.layer}
        return sorted(spread)[-REFERENCES:]
    for layer in against:
        if not 0 <= layer <= depth:
            raise UpstreamError(f"sweep: layer {layer} is not one of the hidden states 0 to {depth}")
    return list(against)


def _keep_rows_of(
    out_dir: Path, config: Sweep, source: Source, references: list[int], splits: dict[str, list[Utterance]]
) -> None:
    """Record the origin of the rows in sweep.json; remove rows and features of another origin."""
    facts: dict[str, Any] = {
        **source.provenance(),
        "references": references,
        "minutes": config.minutes,
        "seed": config.seed,
        "utterances": audio_sha256([u for us in splits.values() for u in us]),
    }
    if config.cmvn:  # absent in the records of earlier versions
        facts["cmvn"] = True
    record = out_dir / "sweep.json"
    if record.is_file() and {**read_json(record), "source": None} != {**facts, "source": None}:
        log.warning("%s: the rows belong to another model, layer, sample or cmvn; starting again", out_dir)
        (out_dir / "sweep.csv").unlink(missing_ok=True)
        shutil.rmtree(out_dir / "features", ignore_errors=True)
    write_json(record, facts)


def _features(
    folder: Path, config: Sweep, source: Source, references: list[int], splits: dict[str, list[Utterance]]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[int, np.ndarray]]:
    """Features of the clustered layer by split, and the units of each other layer on dev (a plain k-means each).

    Features are computed once and stored, one file for each layer and split.
    """
    target: dict[str, dict[str, np.ndarray]] = {}
    labels: dict[int, np.ndarray] = {}
    for layer in [None, *references]:
        found = {}
        for split, utterances in splits.items():
            name = "target" if layer is None else str(layer)
            path = folder / f"{name}.{split}.safetensors"
            if not path.is_file():
                of = source if layer is None else open_source(config.source, layer, batch_seconds=BATCH_SECONDS)
                with atomic_file(path) as temporary:
                    temporary.write_bytes(save(_compute(of, utterances, f"layer {name} of {split}", config.cmvn)))
            found[split] = load_file(path)
        if layer is None:
            target = found
        else:
            codebook = Codebook.fit(found["train"]["features"], REFERENCE_K, seed=config.seed)
            labels[layer] = codebook.assign(found["dev"]["features"])
    return target, labels


def _compute(source: Source, utterances: Sequence[Utterance], title: str, cmvn: bool) -> dict[str, np.ndarray]:
    """Features (N, D), frames of each utterance, and the number of its speaker for each frame."""
    found: dict[str, np.ndarray] = {}
    unreadable: dict[str, str] = {}
    with audio_bar(title, utterances) as bar:
        for batch, frames in feature_batches(source, utterances, BATCH_SECONDS, unreadable, cmvn=cmvn):
            found |= {u.utt_id: x.cpu().numpy() for u, x in zip(batch, frames, strict=True)}
            advance(bar, batch)
    for utt_id, reason in unreadable.items():
        raise UpstreamError(f"{title}: utterance {utt_id}: {reason}")
    lengths = np.array([len(found[u.utt_id]) for u in utterances], np.int64)
    numbers = {name: number for number, name in enumerate(sorted({u.speaker for u in utterances}))}
    return {
        "features": np.concatenate([found[u.utt_id] for u in utterances]),
        "lengths": lengths,
        "speakers": np.repeat([numbers[u.speaker] for u in utterances], lengths),
    }


def _row(
    target: dict[str, dict[str, np.ndarray]],
    references: dict[int, np.ndarray],
    pca: int | float | None,
    k: int,
    seed: int,
) -> dict[str, Any]:
    """One row of sweep.csv.

    `explained_variance` is the share of the fit sample's variance that PCA keeps. The other measures are taken on dev:
    `distortion`, the share of the projected variance that the centroids miss; `in_use`, the clusters that occur;
    `entropy` of the labels in bits; `perplexity` = 2 ** entropy; `run_ms`, the mean duration of equal labels in a row;
    `speaker_nmi`, the normalised mutual information (NMI) with the speaker; `reference_mi` (bits) and `reference_nmi`,
    the mutual information with the units of other layers, averaged over the layers; `by_layer`, the NMI with each.
    """
    codebook = Codebook.fit(target["train"]["features"], k, pca=pca, seed=seed)
    dev = target["dev"]
    labels = codebook.assign(dev["features"])
    points = codebook.project(dev["features"])
    missed = np.square(points - codebook.centroids[labels], dtype=np.float64).sum()
    counts = np.bincount(labels, minlength=k)
    shares = counts[counts > 0] / len(labels)
    entropy = float(-(shares * np.log2(shares)).sum())
    # A run ends with its utterance.
    ends = np.cumsum(dev["lengths"])[:-1]
    changes = np.union1d(np.flatnonzero(np.diff(labels)) + 1, ends)
    by_layer = {layer: float(normalized_mutual_info_score(x, labels)) for layer, x in references.items()}
    bits = [float(mutual_info_score(x, labels) / np.log(2)) for x in references.values()]
    return {
        "pca": _name(pca),
        "k": k,
        "pca_dim": codebook.pca_dim or codebook.dim,
        "explained_variance": round(codebook.explained_variance, 4),
        "distortion": round(float(missed / np.square(points - points.mean(0), dtype=np.float64).sum()), 4),
        "in_use": int((counts > 0).sum()),
        "entropy": round(entropy, 4),
        "perplexity": round(2**entropy, 2),
        "run_ms": round(1000 / FRAME_RATE * len(labels) / (len(changes) + 1), 1),
        "speaker_nmi": round(float(normalized_mutual_info_score(dev["speakers"], labels)), 4),
        "reference_mi": round(float(np.mean(bits)), 4) if bits else float("nan"),
        "reference_nmi": round(float(np.mean(list(by_layer.values()))), 4) if by_layer else float("nan"),
        "by_layer": " ".join(f"{layer}:{value:.4f}" for layer, value in by_layer.items()),
    }


def _draw(table: pd.DataFrame, source: Source, cmvn: bool, path: Path) -> None:
    """One panel for each measure over the PCA dimension, one line for each k."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(table.sort_values("pca_dim", kind="stable")["pca"].unique())
    for axis, (name, title) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        for k, rows in table.groupby("k"):
            axis.plot(names, rows.set_index("pca")[name].reindex(names), marker="o", label=f"K={k}")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("PCA dimension or share")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    facts = source.provenance()
    layer = "" if facts["layer"] is None else f", hidden state {facts['layer']}"
    figure.suptitle(f"Units of {facts['source']}{layer}{', normalised over the utterance' if cmvn else ''}")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})
