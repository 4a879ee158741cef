"""ESPnet's own `test_s3prl.py`, with models of the family in place of its filterbank."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import upstream
from upstream.model.encoder import build_encoder
from upstream.model.family import Geometry
from upstream.model.modeldir import save_model

CONF = [({}, True, -1), ({}, False, -1), ({"tile_factor": 1}, False, -1), ({}, False, 0)]


@pytest.fixture(scope="module")
def suite(sources: Callable[[str], Path]) -> ModuleType:
    pytest.importorskip("espnet2", reason="ESPnet has no version for this Python")
    file = sources("espnet") / "test/espnet2/asr/frontend/test_s3prl.py"
    spec = importlib.util.spec_from_file_location("espnet_test_s3prl", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["waveform-1", "logmel-1", "logmel-2"])
def front_end(request: pytest.FixtureRequest, suite: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Their tests build `S3prlFrontend(upstream="mel")`; here it gets a model directory."""
    upstream.register("s3prl")
    torch.manual_seed(0)
    kind, squeeze = request.param.split("-")
    shape = dict(conv_channels=8, pos_conv_kernel=8, pos_conv_groups=4, squeeze=int(squeeze))
    model = build_encoder(Geometry("tiny", 2, 16, 2, 32, kind, **shape))
    path = str(save_model(model, tmp_path_factory.mktemp("model") / "m", {"name": "m"}))
    theirs = suite.S3prlFrontend

    def ours(frontend_conf: dict[str, Any], **options: Any) -> torch.nn.Module:
        return theirs(frontend_conf=frontend_conf | {"upstream": "harness_custom", "path_or_url": path}, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "S3prlFrontend", ours)
        yield


@pytest.mark.parametrize("name", ["test_frontend_init", "test_frontend_output_size"])
def test_front_end(suite: ModuleType, front_end: None, tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)  # it makes a folder `hub`
    getattr(suite, name)()


@pytest.mark.parametrize("conf, multilayer, layer", CONF)
def test_backward(suite: ModuleType, front_end: None, tmp_path: Path, monkeypatch, conf, multilayer, layer) -> None:
    monkeypatch.chdir(tmp_path)
    suite.test_frontend_backward(16000, {"upstream": "mel"} | conf, multilayer, layer)
