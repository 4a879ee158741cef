"""Files of run directories."""

from __future__ import annotations

import json

import pytest

from downstream import DownstreamError
from downstream.report import runs
from downstream.report.contents import gather
from downstream.report.rows import is_test, read_rows


def test_broken_files_of_a_run_are_named(tmp_path, fake_results):
    folder = tmp_path / "exp" / "mini"
    run = fake_results.add(folder, "asr", "harness_l")
    fake_results.add_details(run, "harness_l", "cer")
    rows = [row for row in read_rows(folder / "results.csv") if is_test(row.split)]
    found = runs.read_runs(rows, folder)[0]
    assert found.curve.steps == [20, 40] and found.curve.dev == [0.2, 0.4], "only the chosen learning rate"
    assert found.weights == (0.2,) * 5 and found.dev == {"0.001": 0.3, "0.01": 0.4} and found.command
    (run / "layer_weights.json").write_text(json.dumps({"weights": [0.5, 0.6]}))
    with pytest.raises(DownstreamError, match=r"layer_weights\.json.*1\.1000"):
        runs.read_runs(rows, folder)
    (run / "layer_weights.json").unlink()
    (run / "curve.csv").write_text("lr,step,train_loss,metric\n0.001,1,2,cer\n")
    with pytest.raises(DownstreamError, match=r"curve\.csv.*'dev'"):
        runs.read_runs(rows, folder)
    with pytest.raises(DownstreamError, match="`nobody`"):
        gather(folder, "mini", {}, "command", "nobody")
