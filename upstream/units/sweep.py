"""The low-rank study: PCA dimension x k on one layer of a teacher, and what its units keep, without a transcript.

Everything is fitted on a sample of `train` and measured on one of `dev`. The features of both are computed once and
kept beside the table until it is complete; every row is written as soon as it is there.
"""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score
from tqdm import tqdm

from corpora.audio import SAMPLE_RATE
from corpora.batches import random_share
from corpora.datadir import Utterance, audio_sha256, read_datadir
from corpora.files import atomic_file, read_json, write_json
from upstream.model.encoder import frame_count
from upstream.units.codebook import Codebook, check_pca
from upstream.units.features import FRAME_RATE, MfccSource, Source, open_source
from upstream.units.labelling import advance, feature_batches, progress
from upstream.units.units import UnitsError

DIMENSIONS = (16, 32, 64)
REFERENCE_K = 100  # of the units of other layers, to which all rows are compared
REFERENCES = 5  # layers beside the one that is clustered
BATCH_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """What to try: `source` and `layer` as in TargetConfig, each `pca` (None: DIMENSIONS as far as the features have as
    many, and no PCA) with each `k`; `against` names the hidden states whose units the rows are compared with (None: up
    to five, spread over the depth). `minutes` of audio of train and as much of dev."""

    source: str
    layer: int | None = None
    pca: list[int | float | None] | None = None
    k: list[int] = field(default_factory=lambda: [100, 500])
    against: list[int] | None = None
    minutes: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pca == [] or not self.k or self.minutes <= 0:
            raise UnitsError("sweep: at least one pca, one k, and minutes above 0 are needed")


@dataclass(frozen=True)
class Row:
    """One codebook. `explained_variance`: share of the fit sample's variance that PCA keeps. On dev: `distortion`: the
    share of the projected variance that the centroids miss; `in_use`: clusters that occur; `entropy` of the labels in
    bits and `perplexity`, 2 to its power; `run_ms`: mean time for which a label stays; `speaker_nmi`: normalised mutual
    information with the speaker; `reference_mi`, `reference_nmi`: that with the units of other layers, in bits and
    normalised, averaged over them."""

    pca: str
    k: int
    pca_dim: int
    explained_variance: float
    distortion: float
    in_use: int
    entropy: float
    perplexity: float
    run_ms: float
    speaker_nmi: float
    reference_mi: float
    reference_nmi: float
    by_layer: str


@dataclass(frozen=True)
class _Sample:
    """Features (N, D) of one layer, frames of each utterance, and the number of its speaker for each frame."""

    features: np.ndarray
    lengths: np.ndarray
    speakers: np.ndarray


def parse_dimensions(text: str) -> list[int | float | None]:
    """`16,0.95,none` as dimensions, shares of variance, and no PCA."""
    values: list[int | float | None] = []
    for part in (p.strip() for p in text.split(",")):
        try:
            values.append(None if part == "none" else int(part) if part.isdecimal() else float(part))
        except ValueError:
            raise UnitsError(f"--pca {text}: `{part}` is no dimension, no share of variance, and not `none`") from None
    return values


def sweep(data_dir: Path, out_dir: Path, config: Sweep) -> str:
    """Fill `<out_dir>/sweep.csv` and draw `sweep.png`; returns the table as text. Rows that are there are kept, if they
    belong to the same audio, model and settings, also those of a grid that is not asked for now."""
    out_dir = Path(out_dir)
    splits = {split: _sample(data_dir / split, config, number) for number, split in enumerate(("train", "dev"))}
    source = open_source(config.source, config.layer, batch_seconds=BATCH_SECONDS)
    references = _references(source, config.against)
    dimensions = [*(d for d in DIMENSIONS if d < source.dim), None] if config.pca is None else config.pca
    for pca in dimensions:
        check_pca(pca, source.dim)
    _start(out_dir, config, source, references, splits)
    rows = {(row.pca, row.k): row for row in _read(out_dir / "sweep.csv")}
    todo = [(pca, k) for pca in dimensions for k in config.k if (_name(pca), k) not in rows]
    if todo:
        layers = _features(out_dir / "features", config, source, references, splits)
        labels = _reference_labels(layers, references, config.seed)
        for pca, k in tqdm(todo, desc="codebooks", unit="codebook"):
            row = _row(layers["target"], labels, pca, k, config.seed)
            rows[row.pca, row.k] = row
            _write(out_dir / "sweep.csv", _ordered(rows.values()))
    shutil.rmtree(out_dir / "features", ignore_errors=True)
    _draw(_ordered(rows.values()), source, out_dir / "sweep.png")
    return _table(_ordered(rows.values()))


def _ordered(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.pca == "none", row.pca_dim, row.pca, row.k))


def _name(pca: int | float | None) -> str:
    return "none" if pca is None else f"{pca:g}"


def _sample(path: Path, config: Sweep, stream: int) -> list[Utterance]:
    """Random utterances of at most `minutes` in all, at least one."""
    utterances = [u for u in read_datadir(path) if frame_count(u.samples) > 0]
    if not utterances:
        raise UnitsError(f"{path}: no utterance is as long as one frame (25 ms)")
    rng = np.random.default_rng([config.seed, 5, stream])
    chosen = random_share([u.samples for u in utterances], config.minutes * 60 * SAMPLE_RATE, rng)
    return sorted((utterances[i] for i in chosen), key=lambda u: u.utt_id)


def _references(source: Source, against: Sequence[int] | None) -> list[int]:
    if isinstance(source, MfccSource):
        if against:
            raise UnitsError("sweep: mfcc has no layers to compare with")
        return []
    depth = source.depth
    if against is None:
        spread = {round(i * depth / REFERENCES) for i in range(REFERENCES + 1)} - {source.layer}
        return sorted(spread)[-REFERENCES:]
    for layer in against:
        if not 0 <= layer <= depth:
            raise UnitsError(f"sweep: layer {layer} is not one of the hidden states 0 to {depth}")
    return list(against)


def _start(
    out_dir: Path, config: Sweep, source: Source, references: list[int], splits: dict[str, list[Utterance]]
) -> None:
    """Note what the rows belong to; what belongs to something else makes room."""
    facts: dict[str, Any] = {
        **source.provenance(),
        "references": references,
        "minutes": config.minutes,
        "seed": config.seed,
        "utterances": audio_sha256([u for us in splits.values() for u in us]),
    }
    note = out_dir / "sweep.json"
    if note.is_file() and {**read_json(note), "source": None} != {**facts, "source": None}:
        log.warning("%s belongs to another model, layer or sample; starting again", out_dir)
        (out_dir / "sweep.csv").unlink(missing_ok=True)
        shutil.rmtree(out_dir / "features", ignore_errors=True)
    write_json(note, facts)


def _features(
    folder: Path, config: Sweep, source: Source, references: list[int], splits: dict[str, list[Utterance]]
) -> dict[str, dict[str, _Sample]]:
    """Layer (`target`, or its number) -> split -> sample; computed once, one layer after the other."""
    wanted: dict[str, Source] = {"target": source}
    layers: dict[str, dict[str, _Sample]] = {}
    for name in ["target", *map(str, references)]:
        for split, utterances in splits.items():
            path = folder / f"{name}.{split}.safetensors"
            if not path.is_file():
                of = wanted.get(name) or open_source(config.source, int(name), batch_seconds=BATCH_SECONDS)
                with atomic_file(path) as temporary:
                    temporary.write_bytes(save(_compute(of, utterances, f"layer {name} of {split}")))
            layers.setdefault(name, {})[split] = _Sample(**load_file(path))
    return layers


def _compute(source: Source, utterances: Sequence[Utterance], what: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    bad: dict[str, str] = {}
    with progress(what, utterances) as bar:
        for batch, frames in feature_batches(source, utterances, BATCH_SECONDS, bad):
            found |= {u.utt_id: x.cpu().numpy() for u, x in zip(batch, frames, strict=True)}
            advance(bar, batch)
    if bad:
        raise UnitsError(f"{what}: utterance {next(iter(bad))}: {next(iter(bad.values()))}")
    lengths = np.array([len(found[u.utt_id]) for u in utterances], np.int64)
    numbers = {name: number for number, name in enumerate(sorted({u.speaker for u in utterances}))}
    return {
        "features": np.concatenate([found[u.utt_id] for u in utterances]),
        "lengths": lengths,
        "speakers": np.repeat([numbers[u.speaker] for u in utterances], lengths),
    }


def _reference_labels(
    layers: dict[str, dict[str, _Sample]], references: Sequence[int], seed: int
) -> dict[int, np.ndarray]:
    """Units of the other layers on dev, each from a plain k-means of its own."""
    labels = {}
    for layer in tqdm(references, desc="units of other layers", unit="layer"):
        codebook = Codebook.fit(layers[str(layer)]["train"].features, REFERENCE_K, seed=seed)
        labels[layer] = codebook.assign(layers[str(layer)]["dev"].features)
    return labels


def _row(
    target: dict[str, _Sample], references: dict[int, np.ndarray], pca: int | float | None, k: int, seed: int
) -> Row:
    codebook = Codebook.fit(target["train"].features, k, pca=pca, seed=seed)
    dev = target["dev"]
    labels = codebook.assign(dev.features)
    points = codebook.project(dev.features)
    missed = np.square(points - codebook.centroids[labels], dtype=np.float64).sum()
    counts = np.bincount(labels, minlength=k)
    shares = counts[counts > 0] / len(labels)
    entropy = float(-(shares * np.log2(shares)).sum())
    # A run ends with its utterance.
    ends = np.cumsum(dev.lengths)[:-1]
    changes = np.union1d(np.flatnonzero(np.diff(labels)) + 1, ends)
    by_layer = {layer: float(normalized_mutual_info_score(x, labels)) for layer, x in references.items()}
    bits = [float(mutual_info_score(x, labels) / np.log(2)) for x in references.values()]
    return Row(
        pca=_name(pca),
        k=k,
        pca_dim=codebook.pca_dim or codebook.dim,
        explained_variance=round(codebook.explained_variance, 4),
        distortion=round(float(missed / np.square(points - points.mean(0), dtype=np.float64).sum()), 4),
        in_use=int((counts > 0).sum()),
        entropy=round(entropy, 4),
        perplexity=round(2**entropy, 2),
        run_ms=round(1000 / FRAME_RATE * len(labels) / (len(changes) + 1), 1),
        speaker_nmi=round(float(normalized_mutual_info_score(dev.speakers, labels)), 4),
        reference_mi=round(float(np.mean(bits)), 4) if bits else float("nan"),
        reference_nmi=round(float(np.mean(list(by_layer.values()))), 4) if by_layer else float("nan"),
        by_layer=" ".join(f"{layer}:{value:.4f}" for layer, value in by_layer.items()),
    )


def _write(path: Path, rows: Sequence[Row]) -> None:
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    kinds = {"str": str, "int": int, "float": float}
    with open(path, encoding="utf-8", newline="") as stream:
        return [Row(**{f.name: kinds[str(f.type)](record[f.name]) for f in fields(Row)}) for record in
                csv.DictReader(stream)]  # fmt: skip


COLUMNS = {
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


def _table(rows: Sequence[Row]) -> str:
    lines = ["  ".join(f"{title:>13}" for title in COLUMNS.values())]
    for row in rows:
        lines.append("  ".join(f"{getattr(row, name):>13}" for name in COLUMNS))
    return "\n".join(lines)


PANELS = {
    "explained_variance": "share of variance kept",
    "distortion": "distortion (share of variance missed, dev)",
    "perplexity": "perplexity of the units (dev)",
    "run_ms": "mean run of a unit (ms, dev)",
    "speaker_nmi": "NMI with the speaker (dev)",
    "reference_nmi": "NMI with units of other layers (dev)",
}


def _draw(rows: Sequence[Row], source: Source, path: Path) -> None:
    """One panel a measure, PCA dimension against it, a line for each k."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(row.pca for row in rows))
    names.sort(key=lambda name: next(row.pca_dim for row in rows if row.pca == name))
    for axis, (name, title) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        for k in sorted({row.k for row in rows}):
            points = {row.pca: getattr(row, name) for row in rows if row.k == k}
            axis.plot(names, [points[n] for n in names], marker="o", label=f"K={k}")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("PCA dimension or share")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    facts = source.provenance()
    layer = "" if facts["layer"] is None else f", hidden state {facts['layer']}"
    figure.suptitle(f"Units of {facts['source']}{layer}")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})
