"""Fit, store and apply a codebook: optional PCA, then k-means centroids; it maps a feature frame to one integer.

The file is safetensors with JSON metadata, not a pickle. PCA follows the paper's low-rank targets: fewer dimensions of
the teacher's features match the capacity of a small student.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor

from corpora.files import atomic_file
from upstream.errors import UpstreamError

MAX_K = 65535
METADATA_KEY = "harness_codebook"
ARRAYS = ("mean", "components", "scale", "centroids")
CHUNK = 16384  # frames scored at once: bounds the (CHUNK, k) score matrix
LLOYD_ITERATIONS = 100
MINI_BATCH_EPOCHS = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KMeansCost:
    """The largest k-means that uses the whole sample in every iteration, and the mini-batches of a larger one.

    `lloyd` bounds the multiply-accumulates of one iteration over the whole sample: about half a second on two cores.
    Above it `steps` mini-batches of `batch` frames take a fraction of the time, with an inertia within 3 % on speech.
    """

    lloyd: float = 1e10
    batch: int = 10000
    steps: int = 500


@dataclass(frozen=True)
class _Projection:
    components: np.ndarray  # (d, D), rows orthonormal
    scale: np.ndarray | None  # (d,), divides the projected features when whitening
    explained_variance: float


@dataclass(frozen=True, eq=False)
class Codebook:
    """Mean, optional projection from D to d dimensions, and k centroids.

    `mean` (D,), `components` (d, D) or None, `scale` (d,) or None, `centroids` (k, d), all float32. `facts` is
    JSON: the origin of the features and the statistics of the fit.
    """

    mean: np.ndarray
    centroids: np.ndarray
    components: np.ndarray | None = None
    scale: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def k(self) -> int:
        return len(self.centroids)

    @property
    def dim(self) -> int:
        """Width of the features that `assign` takes."""
        return len(self.mean)

    @property
    def pca_dim(self) -> int | None:
        return None if self.components is None else len(self.components)

    @property
    def explained_variance(self) -> float:
        """Share of the features' variance that the projection keeps; 1 without PCA."""
        return float(self.facts.get("explained_variance", 1.0))

    @property
    def inertia(self) -> float:
        """Mean squared distance of a frame of the fit sample to its centroid, in the projected space."""
        return float(self.facts.get("inertia", math.nan))

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        k: int,
        *,
        pca: int | float | None = None,
        whiten: bool = False,
        seed: int = 0,
        provenance: dict[str, Any] | None = None,
        cost: KMeansCost = KMeansCost(),
    ) -> Codebook:
        """Fit PCA and k-means to frames (N, D).

        `pca`: a dimension (int), a share of the variance to keep (float below 1), or None; `whiten` alone keeps
        every dimension. The same seed and number of threads give the same codebook. Raises UpstreamError for fewer
        distinct frames than k, features that are not finite, and a `pca` that does not fit.
        """
        if not 1 < k <= MAX_K:
            raise UpstreamError(f"k={k} must lie between 2 and {MAX_K} (units are stored as 16-bit integers)")
        if features.ndim != 2:
            raise UpstreamError(f"features have shape {features.shape}; expected (frames, dimensions)")
        if not all(np.isfinite(chunk).all() for chunk in _chunks(features)):
            raise UpstreamError("the features hold NaN or infinity: the model or its audio is broken")
        mean = features.mean(axis=0, dtype=np.float64)
        projection = None
        if pca is not None or whiten:
            projection = _fit_projection(features, mean, pca, whiten=whiten)
        mean32 = mean.astype(np.float32)
        components = projection.components if projection else None
        scale = projection.scale if projection else None
        points = np.empty((len(features), features.shape[1] if components is None else len(components)), np.float32)
        variance = 0.0
        for chunk, target in zip(_chunks(features), _chunks(points), strict=True):
            target[:] = _project(chunk, mean32, components, scale)
            variance += np.square(target, dtype=np.float64).sum() / len(points)
        _require_distinct(points, k)
        centroids = _fit_centroids(points, k, seed, cost)
        labels, inertia = _nearest(torch.from_numpy(points), torch.from_numpy(centroids))
        used = len(np.unique(labels))
        facts = {
            "explained_variance": projection.explained_variance if projection else 1.0,
            "inertia": inertia,
            "variance": float(variance),
            "fit_frames": len(features),
            "clusters_in_use": used,
            "seed": seed,
            "provenance": provenance or {},
        }
        if used < k:
            log.warning("only %d of %d clusters are in use on the fit sample: a smaller k is enough", used, k)
        return cls(mean32, centroids, components, scale, facts)

    def project(self, features: np.ndarray) -> np.ndarray:
        """Centre and project frames: (N, D) -> (N, d)."""
        self._check_width(features.shape)
        return _project(np.asarray(features, np.float32), self.mean, self.components, self.scale)

    def assign(self, features: np.ndarray | Tensor) -> np.ndarray:
        """Nearest centroid of each frame: (N, D) -> (N,) int64; of equal distances, the lower label.

        One matrix product with the centroids on the features' own device (||x||^2 is the same for all centroids).
        Raises UpstreamError for another width than that of the fit, and for frames that are not finite.
        """
        x = torch.as_tensor(features)
        self._check_width(x.shape)
        mean, matrix, centroids = (t if t is None else t.to(x.device) for t in self._tensors)
        labels = []
        for chunk in x.float().split(CHUNK):
            chunk = chunk - mean
            points = chunk if matrix is None else chunk @ matrix
            scores = torch.addmm(-0.5 * centroids.square().sum(dim=1), points, centroids.T)
            best = scores.max(dim=1)
            # A NaN or an infinity anywhere in a frame makes its best score not finite.
            if not torch.isfinite(best.values).all():
                raise UpstreamError("the features hold NaN or infinity: the model or its audio is broken")
            labels.append(best.indices)
        return torch.cat(labels).cpu().numpy() if labels else np.empty(0, np.int64)

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor | None, Tensor]:
        matrix = None
        if self.components is not None:
            rows = self.components if self.scale is None else self.components / self.scale[:, None]
            matrix = torch.from_numpy(np.ascontiguousarray(rows.T))
        return torch.from_numpy(self.mean), matrix, torch.from_numpy(self.centroids)

    def _check_width(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[1] != self.dim:
            raise UpstreamError(
                f"features have shape {tuple(shape)}, but this codebook was fitted on {self.dim} dimensions "
                f"({self.facts.get('provenance', {})})"
            )

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {name: getattr(self, name) for name in ARRAYS}
        return {name: np.ascontiguousarray(a) for name, a in arrays.items() if a is not None}

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the tensors and facts, independent of the file's layout.

        `data_sha256` is left out: it changes when the same audio is copied.
        """
        provenance = {k: v for k, v in self.facts.get("provenance", {}).items() if k != "data_sha256"}
        facts = {**self.facts, "provenance": provenance}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, array in sorted(self._arrays().items()):
            digest.update(f"{name} {array.shape} {array.dtype.str}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        metadata = {METADATA_KEY: json.dumps({"facts": self.facts, "sha256": self.sha256})}
        with atomic_file(path) as temporary:
            # Not `save_file`: only the owner can read its files.
            temporary.write_bytes(save(self._arrays(), metadata))

    @classmethod
    def load(cls, path: Path) -> Codebook:
        """Read a file that `save` wrote. Raises UpstreamError for another file or changed contents."""
        if not path.is_file():
            raise UpstreamError(f"{path}: no such codebook; `python -m upstream units` makes one")
        try:
            with safe_open(path, framework="np") as file:
                metadata = (file.metadata() or {}).get(METADATA_KEY)
                arrays = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise UpstreamError(f"{path}: not readable as safetensors ({error}); make the units again") from error
        if metadata is None or not {"mean", "centroids"} <= arrays.keys() <= set(ARRAYS):
            raise UpstreamError(f"{path}: a safetensors file, but not a codebook")
        stored = json.loads(metadata)
        codebook = cls(**arrays, facts=stored["facts"])
        if codebook.sha256 != stored["sha256"]:
            raise UpstreamError(f"{path}: the contents do not match their SHA-256; make the units again")
        return codebook


def check_pca(pca: int | float | None, dim: int) -> None:
    """Raise UpstreamError unless `pca` is None, an int from 1 to `dim`, or a share below 1."""
    # 1.0 could mean all of the variance or one dimension; True is an int in Python.
    ambiguous = isinstance(pca, bool) or isinstance(pca, float) and pca == 1
    if ambiguous or not (pca is None or 0 < pca < 1 or pca in range(1, dim + 1)):
        raise UpstreamError(f"pca={pca} must be a dimension from 1 to {dim}, or a share of variance below 1")


def _chunks(features: np.ndarray) -> list[np.ndarray]:
    return [features[i : i + CHUNK] for i in range(0, len(features), CHUNK)]


def _project(
    features: np.ndarray, mean: np.ndarray, components: np.ndarray | None, scale: np.ndarray | None
) -> np.ndarray:
    points = features - mean
    if components is not None:
        points = points @ components.T
    if scale is not None:
        points /= scale
    return points


def _fit_projection(features: np.ndarray, mean: np.ndarray, pca: int | float | None, *, whiten: bool) -> _Projection:
    """PCA from the covariance, summed chunk by chunk in double precision: exact, without a copy of the features."""
    samples, dim = features.shape
    check_pca(pca, dim)
    keep = dim if pca is None else pca
    by_share = 0 < keep < 1
    if samples < 2:
        raise UpstreamError(f"pca needs at least 2 frames, not {samples}")
    covariance = np.zeros((dim, dim))
    for chunk in _chunks(features):
        centred = chunk - mean
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance / (samples - 1))
    values, vectors = np.clip(values[::-1], 0, None), vectors[:, ::-1].T
    total = values.sum()
    if total == 0:
        raise UpstreamError("all frames are equal: there is no variance for PCA to explain")
    shares = np.cumsum(values) / total
    d = int(np.searchsorted(shares, keep) + 1) if by_share else int(keep)
    d = min(d, dim)
    rank = int((values > values[0] * dim * np.finfo(np.float32).eps).sum())
    if whiten and d > rank:
        raise UpstreamError(f"cannot whiten {d} dimensions, the features span only {rank}: choose a smaller pca")
    # The sign of an eigenvector is arbitrary; fixed here so that equal features give equal files.
    vectors = vectors[:d]
    vectors *= np.sign(vectors[np.arange(d), np.abs(vectors).argmax(axis=1)])[:, None]
    scale = np.sqrt(values[:d]).astype(np.float32) if whiten else None
    return _Projection(np.ascontiguousarray(vectors, np.float32), scale, float(shares[d - 1]))


def _require_distinct(points: np.ndarray, k: int) -> None:
    seen: set[bytes] = set()
    for chunk in _chunks(points):
        seen.update(row.tobytes() for row in chunk + np.float32(0))  # -0.0 becomes 0.0
        if len(seen) >= k:
            return
    raise UpstreamError(f"{len(seen)} distinct frames do not make {k} clusters: use more audio or a smaller k")


def _fit_centroids(points: np.ndarray, k: int, seed: int, cost: KMeansCost) -> np.ndarray:
    n, dim = points.shape
    common = {"init": "k-means++", "n_init": 1, "random_state": seed, "tol": 0.0}
    if n * k * dim <= cost.lloyd:
        # With more than two OpenMP threads the order of the partial sums, hence the rounding, is random.
        threads = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"]
        with threadpool_limits(min([2, *threads]), user_api="openmp"):
            model = KMeans(k, max_iter=LLOYD_ITERATIONS, copy_x=False, **common).fit(points)
    else:
        # A fixed number of steps: early stopping depends on sums whose order depends on the threads.
        epochs = max(MINI_BATCH_EPOCHS, math.ceil(cost.steps * cost.batch / n))
        model = MiniBatchKMeans(
            k,
            batch_size=cost.batch,
            max_iter=epochs,
            init_size=max(3 * k, 3 * cost.batch),
            max_no_improvement=None,
            reassignment_ratio=0.0,
            **common,
        ).fit(points)
    return np.ascontiguousarray(model.cluster_centers_, np.float32)


def _nearest(points: Tensor, centroids: Tensor) -> tuple[np.ndarray, float]:
    """Labels of projected points (N, d) and their mean squared distance to the centroid."""
    labels, total = [], 0.0
    for chunk in points.split(CHUNK):
        best = torch.addmm(-0.5 * centroids.square().sum(dim=1), chunk, centroids.T).max(dim=1).indices
        total += (chunk - centroids[best]).double().square().sum().item()
        labels.append(best)
    return torch.cat(labels).numpy(), total / len(points)
