"""Results of ASR and SER on real speech, for the tests of single parts of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from downstream.report.columns import Column, Predictions, make_columns
from downstream.report.rows import is_test, read_rows
from downstream.report.tables import UpstreamFacts


@pytest.fixture(scope="package")
def real_exp(tmp_path_factory: pytest.TempPathFactory, made_up: Any) -> Path:
    """ASR and SER, two seeds; the student harness_st is much worse than the teacher."""
    folder = tmp_path_factory.mktemp("root") / "exp" / "open_arabic"
    for upstream in ("fbank", "harness_l", "harness_s", "harness_st"):
        for seed in (0, 1):
            kind = {"corpus": "real", "recipe": "open_arabic", "finetune": "probe"}
            run = made_up.add(folder, "asr", upstream, seed=seed, **kind)
            made_up.add_details(run, upstream, "cer")
            made_up.add(folder, "ser", upstream, seed=seed, **kind)
    made_up.add_costs(folder)
    return folder


@pytest.fixture(scope="package")
def columns(real_exp: Path) -> list[Column]:
    """The columns of `real_exp`."""
    return make_columns(
        [row for row in read_rows(real_exp / "results.csv") if is_test(row.split)], Predictions(real_exp)
    )


@pytest.fixture(scope="session")
def known() -> dict[str, UpstreamFacts]:
    """Parameters saved by the models of `real_exp`."""
    sizes = {"harness_l": 0.0, "harness_s": 46.7, "harness_st": 86.7}
    return {name: UpstreamFacts(delta_s=delta) for name, delta in sizes.items()}
