"""Protocols: only known keys, one hash for one meaning, SUPERB's values under the name `superb`."""

from __future__ import annotations

import pytest

from downstream import DownstreamError, protocols
from downstream.protocols import load


def test_the_hash_follows_values_that_decide_a_number():
    plain = load("ser", "light")
    assert load("ser", "light").tag == plain.tag == f"light@{plain.hash[:8]}"
    assert load("ser", "light", {"problem.train.log_step": 7}).hash == plain.hash
    assert load("ser", "light", {"problem.train.total_steps": 80}).hash != plain.hash
    assert load("ser", "light", {"learning_rates": [1e-3]}).hash != plain.hash


@pytest.mark.parametrize(
    ("task", "name", "overrides", "message"),
    [
        ("asr", "lite", {}, "`lite`.*`light`"),
        ("kws", "light", {}, "`kws`"),
        ("ser", "light", {"problem.train.total_step": 5}, "`problem.train.total_steps`"),
        ("ser", "light", {"problem.train.total_steps": 5}, "total_steps .*eval_step"),
        ("ser", "light", {"learning_rates": []}, "learning_rates"),
        ("ser", "light", {"learning_rates": [1e-3, "fast"]}, "`learning_rates` is 'fast'"),
        (
            "ser",
            "light",
            {"learning_rates": [-1e-3], "min_ms": -5},
            "`learning_rates` is -0.001.*`min_ms` is -5|min_ms.*learn",
        ),
        ("ser", "light", {"learning_rates": [float("nan")]}, "nan"),
        ("ser", "light", {"learning_rates": 1e-3}, "`learning_rates`"),
        ("ser", "light", {"problem.train.total_steps": "many"}, "'many'"),
        ("ser", "light", {"problem.train.eval_step": 1.5}, "1.5"),
        ("ser", "light", {"problem.build_batch_sampler.train.batch_size": 0}, "batch_size` is 0"),
        ("ser", "light", {"search_share": 2}, "search_share"),
        ("ser", "light", {"speaker_disjoint": "yes"}, "'yes'"),
        ("ser", "../asr/light", {}, "'../asr/light'"),
    ],
)
def test_unknown_names_and_contradictions_are_refused(task: str, name: str, overrides: dict, message: str):
    with pytest.raises(ValueError, match=message):
        load(task, name, overrides)


def test_overrides_from_the_command_line_are_yaml():
    got = protocols.parse_overrides(["learning_rates=[1.0e-3,0.01]", "min_ms=80", "text_profile=none"])
    assert got == {"learning_rates": [1e-3, 1e-2], "min_ms": 80, "text_profile": "none"}
    with pytest.raises(DownstreamError, match="min_ms={"):
        protocols.parse_overrides(["min_ms={"])
    with pytest.raises(DownstreamError, match="`steps`"):
        protocols.parse_overrides(["steps"])


@pytest.mark.slow
@pytest.mark.parametrize("task", protocols.TASKS)
def test_superb_has_the_defaults_of_s3prl(task: str):
    from downstream.probe.train import problem_of

    theirs = type(problem_of(task)).__mro__[2 if task == "asr" else 3]().default_config()
    ours = load(task, "superb").config["problem"]
    assert theirs["build_optimizer"]["conf"]["lr"] in load(task, "superb").config["learning_rates"]
    for part in ("build_batch_sampler", "build_featurizer", "build_model"):
        assert ours[part] == theirs[part]
    head = dict(ours["build_downstream"])
    assert head.pop("total_rate", None) is None
    if task == "asr":
        theirs["build_downstream"]["specaug_conf"] = {
            k: list(v) if isinstance(v, tuple) else v for k, v in theirs["build_downstream"]["specaug_conf"].items()
        }
    assert head == theirs["build_downstream"]
    for key in ("total_steps", "eval_step", "gradient_clipping", "gradient_accumulate", "valid_metric"):
        assert ours["train"][key] == theirs["train"][key]
    assert ours["train"]["valid_higher_better"] == theirs["train"]["valid_higher_better"]
