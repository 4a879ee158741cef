"""The cost table: true counts, compression relative to the teacher, threads as stated."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder
from upstream.model.family import Geometry, macs_per_second, parameters
from upstream.model.modeldir import save_model
from upstream.tools.cost import measure, real_time_factors, table

SHAPES = {
    "random_l": Geometry("random_l", 4, 32, 2, 64, "logmel", pos_conv_kernel=8, pos_conv_groups=4),
    "harness_l": Geometry("harness_l", 3, 32, 2, 64, "logmel", pos_conv_kernel=8, pos_conv_groups=4),
    "harness_s": Geometry("harness_s", 1, 16, 2, 32, "waveform", 8, pos_conv_kernel=8, pos_conv_groups=4),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    cards = {name: {"name": name, "iteration": 2} for name in SHAPES} | {"random_l": {}}
    return {name: save_model(build_encoder(g), folder / name, cards[name]) for name, g in SHAPES.items()}


def test_rows_hold_true_counts_and_compression_against_the_teacher(models, tmp_path):
    threads = torch.get_num_threads()
    rows = {row.upstream: row for row in measure(models, tmp_path / "c.csv", seconds=1.0, runs=3)}
    assert torch.get_num_threads() == threads
    assert list(rows) == list(SHAPES)
    for name, g in SHAPES.items():
        row = rows[name]
        assert (row.front_end, row.layers, row.width) == (g.front_end, g.layers, g.width)
        assert row.params_m == pytest.approx(parameters(g) / 1e6, abs=5e-5)
        assert row.macs_g_per_s == pytest.approx(macs_per_second(g, 1.0) / 1e9, abs=5e-5)
        expected = 100 * (1 - parameters(g) / parameters(SHAPES["harness_l"]))
        assert row.delta_s == pytest.approx(expected, abs=0.01)
        assert 0 < row.rtf_min <= row.rtf_cpu <= row.rtf_max
        assert (row.threads, row.seconds, row.runs) == (2, 1.0, 3)
    assert rows["harness_l"].delta_s == 0 and rows["random_l"].delta_s < 0 < rows["harness_s"].delta_s
    assert rows["harness_s"].iteration == "2" and rows["random_l"].iteration == ""


def test_file_is_the_rows_and_two_runs_differ_in_their_times_only(models, tmp_path):
    first = measure(models, tmp_path / "new" / "c.csv", seconds=0.5, runs=1)
    with open(tmp_path / "new" / "c.csv", encoding="utf-8", newline="") as stream:
        read = list(csv.DictReader(stream))
    assert read == [{k: str(v) for k, v in dataclasses.asdict(row).items()} for row in first]
    second = measure(models, tmp_path / "c.csv", seconds=0.5, runs=1)
    same = [{k: v for k, v in dataclasses.asdict(row).items() if not k.startswith("rtf")} for row in second]
    assert same == [{k: v for k, v in dataclasses.asdict(row).items() if not k.startswith("rtf")} for row in first]


def test_stated_threads_are_used_and_restored():
    used = []
    model = build_encoder(SHAPES["harness_l"]).eval()
    model.encoder.layers[0].register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    assert len(real_time_factors(model, seconds=0.1, threads=before + 1, runs=4)) == 4
    assert used == [before + 1] * 5 and torch.get_num_threads() == before


def test_without_the_teacher_the_largest_is_the_reference(models, tmp_path):
    some = {name: models[name] for name in ("random_l", "harness_s")}
    rows = {row.upstream: row for row in measure(some, tmp_path / "c.csv", seconds=0.1, runs=1)}
    assert rows["random_l"].delta_s == 0 < rows["harness_s"].delta_s


def test_table_shows_every_model_and_states_threads_and_seconds(models, tmp_path):
    text = table(measure(models, tmp_path / "c.csv", seconds=0.1, runs=1))
    for name in SHAPES:
        assert name in text
    assert text.splitlines()[0].split()[-1] == "RTF", "the last column holds the times"
    assert "median of 1 runs on 0.1 s of audio, CPU, 2 threads" in text


def test_an_empty_list_of_models_is_refused(tmp_path):
    with pytest.raises(UpstreamError, match="no model directory"):
        measure({}, tmp_path / "c.csv")
