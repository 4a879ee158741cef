"""S3PRL's own `test/test_upstream.py` on the three names of the family."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

import upstream
from upstream.model.encoder import build_encoder, encode, frame_count
from upstream.model.family import Geometry
from upstream.model.modeldir import load_model, save_model

# HL with HuBERT's front end, the students with theirs, all small.
MODELS = {"harness_l": ("waveform", 4), "harness_s": ("logmel", 2), "harness_st": ("logmel", 2)}


@pytest.fixture(scope="module")
def suite(request: pytest.FixtureRequest, sources: Callable[[str], Path]) -> ModuleType:
    """Their file as a module, with no ground truth fetched."""
    request.config.addinivalue_line("markers", "upstream: S3PRL's own mark")
    file = sources("espnet-s3prl") / "test/test_upstream.py"
    spec = importlib.util.spec_from_file_location("s3prl_test_upstream", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random models under the family's names."""
    folder = tmp_path_factory.mktemp("models")
    shape = dict(conv_channels=16, pos_conv_kernel=8, pos_conv_groups=4)
    for seed, (name, (front_end, layers)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        save_model(build_encoder(Geometry(name, layers, 32, 2, 64, front_end, **shape)), folder / name, {"name": name})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_MODELS", str(folder))
        upstream.register("s3prl")
        yield folder


@pytest.mark.parametrize("name", MODELS)
def test_states_equal_the_extracted_ones(suite: ModuleType, models: Path, name: str, tmp_path: Path) -> None:
    """Their ground truth is a file of states; ours comes from the model directory without S3PRL, but for padding."""
    waveforms, lengths = suite.get_pseudo_wavs(seed=0, padded=True)
    with torch.no_grad():
        alone = [w[:n] for w, n in zip(waveforms, lengths.tolist(), strict=True)]
        states = encode(load_model(models / name), alone).hidden_states
        truth, _ = suite.S3PRLUpstream(name).eval()(waveforms, lengths)
    for theirs, ours in zip(truth, states, strict=True):
        for item, samples in enumerate(lengths.tolist()):
            theirs[item, : frame_count(samples)] = ours[item, : frame_count(samples)]
    torch.save(truth, tmp_path / f"{name}.pt")
    suite.EXTRACTED_GT_DIR = tmp_path
    suite._compare_with_extracted(name)


@pytest.mark.parametrize(
    "pseudo", [{}, *({"min_secs": 0.05, "max_secs": s, "n": n} for s, n in ((0.05, 1), (0.05, 2), (1, 3)))]
)
@pytest.mark.parametrize("name", MODELS)
def test_forward_and_backward(suite: ModuleType, name: str, pseudo: dict[str, float]) -> None:
    suite._test_forward_backward(name, **pseudo)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("layers", [None, [0, 2]])
def test_featurizer(suite: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, layers, normalise: bool) -> None:
    build = suite.S3PRLUpstream
    monkeypatch.setattr(suite, "S3PRLUpstream", lambda _: build(name))
    suite.test_featurizer(layers, normalise)


@pytest.mark.parametrize("name", MODELS)
def test_properties(suite: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    build = suite.S3PRLUpstream
    monkeypatch.setattr(suite, "S3PRLUpstream", lambda _: build(name))
    suite.test_upstream_properties()
