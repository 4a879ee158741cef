"""S3PRL upstreams as feature sources: the features of our own source, and wrong frame rates."""

import numpy as np
import pytest
import torch

from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder
from upstream.model.family import geometry
from upstream.model.modeldir import save_model
from upstream.units.features import open_source

pytest.importorskip("s3prl", reason="the source is S3PRL's")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    torch.manual_seed(0)
    shape = geometry("mini_hst", width=32, heads=2, ffn=64, pos_conv_groups=4, pos_conv_kernel=8)
    return save_model(build_encoder(shape), tmp_path_factory.mktemp("m") / "tiny", {"name": "tiny"})


def test_features_equal_those_of_the_model_directory_and_carry_a_stable_hash(model_dir):
    source = open_source(f"s3prl:harness_custom={model_dir}", 1)
    rng = np.random.default_rng(0)
    wavs = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in (16000, 7777, 801)]
    ours = open_source(str(model_dir), 1)
    for theirs, mine in zip(source.features(wavs), ours.features(wavs), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5)
    facts = source.provenance()
    assert facts["source"] == "s3prl:harness_custom" and facts["layer"] == 1
    assert facts["model_sha256"] == open_source(f"s3prl:harness_custom={model_dir}").provenance()["model_sha256"]
    assert source.lineage() == {facts["model_sha256"]: {"name": "s3prl:harness_custom"}}


def test_another_rate_an_unknown_name_and_a_missing_layer_are_named(model_dir):
    with pytest.raises(UpstreamError, match="fbank: 100 frames per second, but units are at 50 Hz"):
        open_source("s3prl:fbank")
    with pytest.raises(UpstreamError, match="S3PRL has no upstream of this name; the nearest known one is `hubert"):
        open_source("s3prl:hubrt")
    with pytest.raises(UpstreamError, match="layer 9 is not one of the hidden states 0 to 2"):
        open_source(f"s3prl:harness_custom={model_dir}", 9)
