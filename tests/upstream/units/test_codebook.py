"""PCA and k-means against scikit-learn and brute force; the file; errors."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from upstream.errors import UpstreamError
from upstream.units.codebook import Codebook, KMeansCost


def features(n: int = 3000, dim: int = 12, seed: int = 0) -> np.ndarray:
    """Correlated frames far from the origin, as hidden states are."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((dim, dim)) * np.geomspace(1, 0.05, dim)
    return (rng.standard_normal((n, dim)) @ mixing.T + 50 * rng.standard_normal(dim)).astype(np.float32)


def brute_force(codebook: Codebook, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances (N, k) in double precision, in the projected space, and their argmin."""
    points = x.astype(np.float64) - codebook.mean
    if codebook.components is not None:
        points = points @ codebook.components.T.astype(np.float64)
    if codebook.scale is not None:
        points = points / codebook.scale
    distances = np.square(points[:, None] - codebook.centroids).sum(-1)
    return distances, distances.argmin(1)


@pytest.mark.parametrize("pca, whiten", [(None, False), (5, False), (0.9, True), (None, True)])
def test_assignment_equals_brute_force(pca, whiten):
    x = features(20_000)  # more than one chunk
    codebook = Codebook.fit(x, 40, pca=pca, whiten=whiten)
    labels = codebook.assign(x)
    distances, expected = brute_force(codebook, x)
    chosen = distances[np.arange(len(x)), labels]
    np.testing.assert_allclose(chosen, distances.min(1), rtol=1e-3, atol=1e-4)
    assert (labels == expected).mean() > 0.999
    np.testing.assert_array_equal(labels, codebook.assign(torch.from_numpy(x)))
    assert codebook.inertia == pytest.approx(distances.min(1).mean(), rel=1e-4)


def test_a_tie_goes_to_the_lower_label():
    codebook = Codebook(np.zeros(2, np.float32), np.float32([[1, 0], [-1, 0], [0, 1]]))
    assert codebook.assign(np.zeros((1, 2), np.float32)).tolist() == [0]
    assert codebook.assign(np.empty((0, 2), np.float32)).tolist() == []


@pytest.mark.parametrize("pca", [1, 5, 12, 0.5, 0.95])
def test_pca_equals_scikit_learn(pca):
    x = features()
    codebook = Codebook.fit(x, 8, pca=pca)
    expected = PCA(pca, svd_solver="full").fit(x.astype(np.float64))
    assert codebook.pca_dim == expected.n_components_
    assert codebook.explained_variance == pytest.approx(expected.explained_variance_ratio_.sum(), abs=1e-6)
    np.testing.assert_allclose(codebook.mean, expected.mean_, rtol=1e-6)
    alignment = (codebook.components * expected.components_).sum(axis=1)
    np.testing.assert_allclose(np.abs(alignment), 1, atol=1e-4)


def test_whitening_gives_unit_variance():
    x = features()
    points = Codebook.fit(x, 8, pca=6, whiten=True).project(x)
    np.testing.assert_allclose(points.std(axis=0, ddof=1), 1, rtol=1e-3)
    expected = PCA(6, whiten=True, svd_solver="full").fit_transform(x.astype(np.float64))
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-2)


@pytest.mark.parametrize("cost", [KMeansCost(), KMeansCost(lloyd=0, batch=500, steps=200)])
def test_k_means_is_as_good_as_scikit_learn(cost):
    x = features()
    reference = KMeans(30, n_init=3, random_state=1).fit(x - x.mean(0))
    assert Codebook.fit(x, 30, cost=cost).inertia < 1.08 * reference.inertia_ / len(x)


@pytest.mark.parametrize("cost", [KMeansCost(), KMeansCost(lloyd=0, batch=500, steps=50)])
def test_equal_for_a_seed_and_only_for_it(cost):
    x = features()
    first, second = (Codebook.fit(x, 30, pca=6, seed=3, cost=cost) for _ in range(2))
    assert first.sha256 == second.sha256
    assert Codebook.fit(x, 30, pca=6, seed=4, cost=cost).sha256 != first.sha256


def test_finds_separate_clusters():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(5), 200)
    x = (100 * rng.standard_normal((5, 8))[truth] + rng.standard_normal((1000, 8))).astype(np.float32)
    codebook = Codebook.fit(x, 5)
    labels = codebook.assign(x)
    assert len({(a, b) for a, b in zip(truth, labels, strict=True)}) == 5
    assert codebook.facts["clusters_in_use"] == 5


def test_fewer_distinct_frames_than_clusters():
    x = np.repeat(features(7), 100, axis=0)
    with pytest.raises(UpstreamError, match="7 distinct .* 8 clusters"):
        Codebook.fit(x, 8)
    assert Codebook.fit(x, 7).facts["clusters_in_use"] == 7


@pytest.mark.parametrize("pca", [0, -1, 13, 1.0, 1.5, True, 0.0])
def test_refuses_a_pca_that_does_not_fit(pca):
    with pytest.raises(UpstreamError, match=f"pca={pca} .*12"):
        Codebook.fit(features(), 8, pca=pca)


def test_refuses_to_whiten_without_variance():
    x = features()
    x[:, 3] = x[:, 4]
    with pytest.raises(UpstreamError, match="11"):
        Codebook.fit(x, 8, whiten=True)
    with pytest.raises(UpstreamError, match="equal"):
        Codebook.fit(np.ones((50, 4), np.float32), 8, pca=2)


@pytest.mark.parametrize("k", [0, 1, 65536])
def test_refuses_a_k_that_does_not_fit(k):
    with pytest.raises(UpstreamError, match=f"k={k} .*65535"):
        Codebook.fit(features(), k)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_features_that_are_not_finite(value):
    x = features()
    codebook = Codebook.fit(x, 8, pca=4)
    x[17, 5] = value
    with pytest.raises(UpstreamError, match="NaN"):
        Codebook.fit(x, 8)
    with pytest.raises(UpstreamError, match="NaN"):
        codebook.assign(x)


def test_refuses_features_of_another_width():
    codebook = Codebook.fit(features(), 8, provenance={"layer": 9})
    with pytest.raises(UpstreamError, match=r"\(4, 13\).*12 .*'layer': 9"):
        codebook.assign(np.zeros((4, 13), np.float32))


@pytest.mark.parametrize("pca, whiten", [(None, False), (6, False), (6, True)])
def test_file_gives_the_codebook_back(tmp_path, pca, whiten):
    codebook = Codebook.fit(features(), 20, pca=pca, whiten=whiten, provenance={"source": "نموذج"})
    codebook.save(tmp_path / "codebook.safetensors")
    again = Codebook.load(tmp_path / "codebook.safetensors")
    assert again.sha256 == codebook.sha256
    assert again.facts == codebook.facts
    assert (again.k, again.dim, again.pca_dim) == (20, 12, pca)
    np.testing.assert_array_equal(again.assign(features(seed=1)), codebook.assign(features(seed=1)))
    assert (tmp_path / "codebook.safetensors").stat().st_mode & 0o044, "others cannot read it"


def test_identity_covers_contents_and_origin():
    x = features()
    codebook = Codebook.fit(x, 8, provenance={"layer": 9})
    assert Codebook.fit(x, 8, provenance={"layer": 12}).sha256 != codebook.sha256
    moved = Codebook(codebook.mean, codebook.centroids + 1, facts=codebook.facts)
    assert moved.sha256 != codebook.sha256


def test_refuses_other_files(tmp_path):
    with pytest.raises(UpstreamError, match="nothing.safetensors"):
        Codebook.load(tmp_path / "nothing.safetensors")
    (tmp_path / "pickle").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(UpstreamError, match="pickle"):
        Codebook.load(tmp_path / "pickle")
    save_file({"mean": np.zeros(3, np.float32)}, tmp_path / "other")
    with pytest.raises(UpstreamError, match="other"):
        Codebook.load(tmp_path / "other")


def test_notices_changed_contents(tmp_path):
    path = tmp_path / "codebook.safetensors"
    Codebook.fit(features(), 8).save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UpstreamError, match="SHA-256"):
        Codebook.load(path)
