"""Pareto fronts, and the panels of pre-training runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from downstream.report import plots


def test_every_pretraining_run_has_a_panel(tmp_path: Path):
    """Panels by iteration; none for runs without units, with one step, set aside, or of a study."""
    both = "step,train_masked_accuracy,valid_masked_accuracy\n100,0.2,0.19\n200,0.3,0.28\n"
    for name, iteration, text in (
        ("wide", 3, both), ("teacher", 2, both), ("begun", 1, both[:-14]), ("first", 1, both), ("uncarded", None, both),
        ("regression", 3, both.replace("0.2", "0.0").replace("0.3", "0.0")), ("empty", 3, "step\n"),
        ("teacher.old-8e1637223912", 2, both), ("study_base", 3, both),
    ):  # fmt: skip
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "metrics.csv").write_text(text)
        (tmp_path / name / "config.json").write_text(json.dumps({"units": [] if name == "regression" else {"k": 9}}))
        if iteration is not None:
            card = {"harness": {"iteration": iteration}}
            (tmp_path / name / "model" / "config.json").write_text(json.dumps(card))
    assert [panel.title for panel in plots.training(tmp_path, "x").panels] == ["uncarded", "first", "teacher", "wide"]


def test_no_cheaper_point_beats_the_pareto_front():
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (4.0, 0.9), (4.0, 0.8)]
    assert plots.pareto(points) == [(1.0, 0.5), (2.0, 0.7), (4.0, 0.9)]
    rng = np.random.default_rng(0)
    cloud = [(float(c), float(q)) for c, q in rng.integers(0, 9, (40, 2))]
    kept = {p for p in cloud if not any(o != p and o[0] <= p[0] and o[1] >= p[1] for o in cloud)}
    assert set(plots.pareto(cloud)) == kept
