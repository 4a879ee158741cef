"""Configurations: bounds and choices are checked, errors name the key, and torch is not needed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from corpora.schema import record
from upstream.config import InitConfig, PretrainConfig, RegressionConfig, TargetConfig, settings_of


@pytest.mark.parametrize(
    "config, settings, token",
    [
        (TargetConfig, {"k": 1}, "`k`"),
        (TargetConfig, {"k": 65536}, "`k`"),
        (TargetConfig, {"pca": 0}, "`pca`"),
        (TargetConfig, {"layer": 3}, "`layer`"),
        (TargetConfig, {"kk": 3}, "`kk`; the nearest known one is `k`"),
        (InitConfig, {"kind": "every", "source": "m"}, "every_nth"),
        (InitConfig, {"kind": "model"}, "needs a source"),
        (InitConfig, {"source": "m"}, "takes no source"),
        (InitConfig, {"kind": "project", "source": "m", "layers": "top"}, "`layers`"),
        (InitConfig, {"kind": "project", "source": "m", "minutes": -1}, "`minutes`"),
        (RegressionConfig, {"source": "t"}, "`layers`"),
        (RegressionConfig, {"source": "t", "layers": []}, "`layers`"),
        (RegressionConfig, {"source": "t", "layers": [1, 1]}, "twice"),
        (RegressionConfig, {"source": "t", "layers": [-1]}, "`layers"),
        (RegressionConfig, {"source": "t", "layers": [1], "weight": 0}, "`weight`"),
        (RegressionConfig, {"source": "t", "layers": [1], "cosine": -0.5}, "`cosine`"),
        (PretrainConfig, {"steps": "ten"}, "`steps`"),
        (PretrainConfig, {"steps": True}, "`steps`"),
        (PretrainConfig, {"crop_seconds": 50}, "batch_seconds=40"),
        (PretrainConfig, {"logits": "dot"}, "`logits`"),
        (PretrainConfig, {"compile": "yes"}, "`compile`"),
        (PretrainConfig, {"precision": "fp16"}, "`precision`"),
        *(
            (PretrainConfig, {name: value}, f"`{name}`")
            for value, names in {
                0: "steps valid_every accumulate mix_shards mask_length crop_seconds lr logit_temperature projection "
                "masked_weight",
                -1: "workers bad_steps bad_rate warmup dropout layerdrop clip temperature weight_decay mask_prob "
                "unmasked_weight channel_db",
                1.5: "warmup dropout layerdrop mask_prob",
                float("nan"): "lr clip temperature dropout",
            }.items()
            for name in names.split()
        ),
    ],
)
def test_wrong_settings_name_their_key(config, settings, token):
    with pytest.raises(ValueError) as error:
        record(config, settings, "recipe.yaml")
    assert token in str(error.value) and "recipe.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_keep_their_types_and_an_int_is_accepted_for_a_float():
    config = record(PretrainConfig, {"batch_seconds": 20, "crop_seconds": 20.0, "steps": 3}, "recipe.yaml")
    assert config == PretrainConfig(steps=3, batch_seconds=20.0, crop_seconds=20.0)
    assert isinstance(config.batch_seconds, float) and isinstance(config.steps, int)
    found = [record(TargetConfig, {"pca": pca}, "recipe.yaml").pca for pca in (16, 0.9, None)]
    assert found == [16, 0.9, None] and isinstance(found[0], int)
    assert record(RegressionConfig, {"source": "t", "layers": [2, 4]}, "recipe.yaml").layers == [2, 4]


def test_configurations_are_plain_frozen_dataclasses():
    config = InitConfig("project", "m", "first_n", 0.0)
    assert dataclasses.asdict(config) == {"kind": "project", "source": "m", "layers": "first_n", "minutes": 0.0}
    assert dataclasses.replace(config, minutes=2.0).minutes == 2.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.kind = "random"
    with pytest.raises(ValueError, match="stepps"):
        PretrainConfig(stepps=3)


def test_configurations_are_imported_without_torch():
    code = "import sys, upstream.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_settings_that_change_nothing_do_not_invalidate_earlier_runs():
    """`cmvn` and `channel_db` came later: finished stages and stopped runs of earlier versions have no such key."""
    for config, name, value in ((TargetConfig(), "cmvn", True), (PretrainConfig(), "channel_db", 6.0)):
        assert {**settings_of(config), name: getattr(config, name)} == dataclasses.asdict(config)
        assert name not in settings_of(config)
        assert settings_of(dataclasses.replace(config, **{name: value}))[name] == value
