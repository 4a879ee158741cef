"""results.csv: rows of a run replace each other, two writers lose nothing, Arabic survives."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from downstream import DownstreamError
from downstream.score import results
from downstream.score.results import Prediction


def row(run_dir: str, **values: object) -> dict[str, object]:
    return {"recipe": "mini", "task": "ser", "upstream": "fbank", "metric": "ua", "split": "test", "seed": 0,
            "run_dir": run_dir, **values}  # fmt: skip


def test_rows_of_a_run_replace_its_older_rows_of_any_protocol(tmp_path: Path):
    path = tmp_path / "results.csv"
    results.upsert(path, [row("a", protocol="light@1", value=0.1), row("b", value=0.2)])
    results.upsert(path, [row("a", protocol="light@2", value=0.3)])
    got = {r["run_dir"]: (r["protocol"], r["value"]) for r in results.read_rows(path)}
    assert got == {"a": ("light@2", "0.3"), "b": ("", "0.2")}


def test_the_header_is_the_agreed_one(tmp_path: Path):
    results.upsert(tmp_path / "results.csv", [row("a")])
    header = (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == (
        "recipe,upstream,front_end,iteration,task,corpus,split,protocol,head,metric,value,ci_low,ci_high,n,seed,fold,"
        "finetune,budget,lr,params_m,macs_g_per_s,rtf_cpu,text_profile,wall_s,commit,run_dir"
    )


def test_an_unknown_column_is_refused(tmp_path: Path):
    with pytest.raises(DownstreamError, match="`uar`"):
        results.upsert(tmp_path / "results.csv", [row("a", uar=1)])


def test_a_file_of_another_form_is_named(tmp_path: Path):
    (tmp_path / "results.csv").write_text("recipe,upstream\nmini,fbank\n", encoding="utf-8")
    with pytest.raises(DownstreamError, match=r"results.csv: .*`front_end`"):
        results.upsert(tmp_path / "results.csv", [row("a")])


def _write(path: str, who: str) -> None:
    for number in range(15):
        results.upsert(Path(path), [row(f"{who}{number}")])


def test_two_writers_lose_no_row(tmp_path: Path):
    path = tmp_path / "results.csv"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(str(path), who)) for who in "xy"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results.read_rows(path)) == 30


def test_the_order_of_rows_does_not_depend_on_the_order_of_writing(tmp_path: Path):
    rows = [row("a", seed=10), row("b", seed=2), row("c", upstream="harness_l")]
    results.upsert(tmp_path / "one.csv", rows)
    for each in reversed(rows):
        results.upsert(tmp_path / "two.csv", [each])
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert [r["run_dir"] for r in results.read_rows(tmp_path / "one.csv")] == ["b", "a", "c"]


def test_predictions_keep_arabic_commas_and_quotes(tmp_path: Path):
    predictions = [Prediction("s-1", "s", "test", 'نعم، "لا"', ""), Prediction("s-2", "s", "test", "a,b", "أ\u064e")]
    results.write_predictions(tmp_path / "predictions.csv", predictions)
    assert results.read_predictions(tmp_path / "predictions.csv") == predictions
    assert b"\r" not in (tmp_path / "predictions.csv").read_bytes()


def test_sizes_come_from_the_compression_table(tmp_path: Path):
    assert results.model_columns(tmp_path) == {}
    (tmp_path / "compression.csv").write_text(
        "upstream,front_end,iteration,params_m,macs_g_per_s,delta_s,rtf_cpu\nharness_l,logmel,2,5.1,0.26,,0.01\n",
        encoding="utf-8",
    )
    assert results.model_columns(tmp_path)["harness_l"] == {
        "front_end": "logmel", "iteration": "2", "params_m": "5.1", "macs_g_per_s": "0.26", "rtf_cpu": "0.01",
    }  # fmt: skip
