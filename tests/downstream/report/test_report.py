"""The report: its tables hold the values of the predictions."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from pathlib import Path

import jiwer
import numpy as np
import pytest

from corpora.files import write_json
from downstream import DownstreamError, report
from downstream.report.columns import Predictions, make_columns
from downstream.report.rows import read_rows
from downstream.score import metrics
from downstream.score.results import upsert, write_predictions


@pytest.fixture(scope="module")
def whole(tmp_path_factory, fake_results) -> Path:
    """Three tasks, six upstreams, two seeds, four folds for SER."""
    exp = tmp_path_factory.mktemp("root") / "exp" / "mini"
    for upstream in fake_results.ERRORS:
        for seed in (0, 1):
            fake_results.add(exp, "asr", upstream, seed=seed)
            fake_results.add(exp, "did", upstream, seed=seed)
            for fold in range(4):
                fake_results.add(exp, "ser", upstream, seed=seed, fold=fold)
    fake_results.add_costs(exp)
    fake_results.add_training(exp)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        report.build(exp, "mini")
    (exp / "printed").write_text(printed.getvalue(), encoding="utf-8")
    return exp


def comparisons(exp: Path) -> list[dict[str, str]]:
    with open(exp / "comparisons.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_everything_is_written_and_synthetic_speech_is_named_everywhere(whole, fake_results):
    shown = (whole / "printed").read_text(encoding="utf-8")
    page = (whole / "RESULTS.md").read_text(encoding="utf-8")
    for name in ("report/quality_params.png", "report/training.png"):
        assert (whole / name).read_bytes().startswith(b"\x89PNG") and f"]({name})" in page
    for text in (shown, page):
        assert "SYNTHETIC SPEECH" in text and "Results of mini (synthetic speech)" in text
        assert "100 frames per second" in text
        for upstream in fake_results.ERRORS:
            assert upstream in text
    for fact in ("date", "command", "commit", "versions", "hardware", "torch 2", "c0ffee", "./run.sh --recipe mini"):
        assert fact in page
    assert "12.3" not in shown, "a dev row reached the table"


@pytest.mark.slow
def test_a_second_report_differs_in_its_date_only(whole):
    def stable(name: str) -> str:
        return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", (whole / name).read_text(encoding="utf-8"))

    def written() -> dict[str, str | bytes]:
        plots = {path.name: path.read_bytes() for path in sorted((whole / "report").glob("*.[ps][nv]g"))}
        return plots | {name: stable(name) for name in ("RESULTS.md", "report/index.html", "report/tables.tex")}

    before = written(), (whole / "comparisons.csv").read_bytes()
    report.build(whole, "mini")
    assert before == (written(), (whole / "comparisons.csv").read_bytes())
    assert len(before[0]) > 10


@pytest.mark.slow
def test_times_stand_in_the_last_section_only(whole):
    page = (whole / "RESULTS.md").read_text(encoding="utf-8")
    tables, times = page.split("## Times")
    assert "RTF" not in tables and "0.0123" not in tables and "wall" not in tables
    assert "0.0123" in times
    assert re.search(r"\| harness_s +\| +ASR +\|.*\| +2 +\|.*\| +25\.0 +\|", times), "counted once a run, not a metric"


@pytest.mark.slow
def test_times_of_features_heads_and_grids(tmp_path: Path, fake_results, capsys: pytest.CaptureFixture):
    """Two commands, one with a cold and one with a warm cache; runs of older versions have their wall time only."""
    exp = tmp_path / "exp" / "mini"
    cold, warm = ({"started": 1.8e9 + day * 86400, "processes": 2} for day in (0, 1))
    for task, seed, grid, features, wall in (
        ("asr", 0, cold, 10.5, 200.0),
        ("ser", 0, cold, 0.5, 240.0),
        ("ser", 1, warm, 0.0, 3.0),
        ("ser", 2, warm, 0.0, 71.5),
        ("did", 0, None, None, None),
    ):
        run = fake_results.add(exp, task, "harness_s", seed=seed)
        found = {} if grid is None else {"extraction_s": features, "grid": grid | {"wall_s": wall}}
        write_json(run / "cell.json", {"dev": {}, **found})
    report.build(exp, "mini")
    runs, grids = (exp / "RESULTS.md").read_text(encoding="utf-8").split("### Time of the ")[1:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in runs.splitlines() if "harness_s" in line]
    light = ["light@aaaa0000"]
    assert cells == [
        ["harness_s", "ASR", *light, "1", "10.5", "2.0", "2.0", "12.5"],
        ["harness_s", "SER", *light, "3", "0.5", "37.0", "12.3", "37.5"],
        ["harness_s", "DID", *light, "1", "-", "-", "-", "12.5"],
    ]
    grids = " ".join(grids.split())
    assert "| ASR+SER | 2027-01-15 08:00:00 UTC | 2 | 2 | 11.0 | 14.0 | 240.0 |" in grids
    assert "| SER | 2027-01-16 08:00:00 UTC | 2 | 2 | 0.0 | 25.0 | 71.5 |" in grids
    page = (exp / "report" / "index.html").read_text(encoding="utf-8")
    assert "Time of the grids" in page and "71.5" in page and "10.5" in page
    assert "71.5" in capsys.readouterr().out


@pytest.mark.slow
def test_folds_are_pooled_and_seeds_averaged(whole, fake_results):
    rows = [r for r in read_rows(whole / "results.csv") if r.split == "test" and r.setting.task == "ser"]
    columns = {column.metric: column for column in make_columns(rows, Predictions(whole))}
    expected = []
    for seed in (0, 1):
        pooled = [
            p for fold in range(4) for p in fake_results.predict("ser", fake_results.ERRORS["harness_s"], seed, fold)
        ]
        expected.append(metrics.value("ua", [p.reference for p in pooled], [p.hypothesis for p in pooled]))
    found = columns["ua"].values["harness_s"]
    assert found.value == pytest.approx(np.mean(expected), abs=1e-12)
    assert found.utterances == 320 and found.folds == 4 and found.seeds == (0, 1) and found.counts is not None
    assert found.low < found.value < found.high
    assert found.spread == pytest.approx(np.std(expected, ddof=1))


@pytest.mark.slow
def test_intervals_are_those_of_the_paired_bootstrap(whole, fake_results):
    """Against jiwer's own counts per speaker and one draw after the other."""

    def error_rates(upstream: str, weights: np.ndarray) -> np.ndarray:
        rates = []
        for seed in (0, 1):
            errors, length = {}, {}
            for p in fake_results.predict("asr", fake_results.ERRORS[upstream], seed, None):
                found = jiwer.process_characters(p.reference, p.hypothesis)
                wrong = found.substitutions + found.deletions + found.insertions
                errors[p.speaker] = errors.get(p.speaker, 0) + wrong
                length[p.speaker] = length.get(p.speaker, 0) + found.hits + found.substitutions + found.deletions
            names = sorted(errors)
            rates.append(
                [
                    sum(n * errors[name] for n, name in zip(row, names, strict=True))
                    / sum(n * length[name] for n, name in zip(row, names, strict=True))
                    for row in weights
                ]
            )
        return np.mean(rates, axis=0)

    weights = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=10_000)
    gains = error_rates("fbank", weights) - error_rates("harness_l", weights)
    once = np.ones((1, 8), int)
    gain = float((error_rates("fbank", once) - error_rates("harness_l", once))[0])
    mine = next(c for c in comparisons(whole) if c["metric"] == "cer" and c["against"] == "fbank")
    assert mine["upstream"] == "harness_l" and mine["speakers"] == "8" and mine["seeds"] == "0 1"
    values = float(mine["difference"]), float(mine["ci_low"]), float(mine["ci_high"])
    assert values == pytest.approx((gain, *np.percentile(gains, [2.5, 97.5])), abs=2e-6)


@pytest.mark.slow
def test_verdicts_follow_the_evidence(whole):
    verdicts = {
        (c["task"], c["upstream"], c["against"], c["baseline"]): (c["verdict"], c["gain_kept"], float(c["difference"]))
        for c in comparisons(whole)
        if c["metric"] in ("cer", "ua", "accuracy")
    }
    for task in ("asr", "ser", "did"):
        assert verdicts[task, "harness_l", "fbank", ""][0] == "shown"
        assert verdicts[task, "harness_l", "random_l", ""][2] > 0
        # the same error rate and the same noise: identical predictions keep the whole gain
        assert verdicts[task, "harness_s", "harness_l", "fbank"] == ("shown", "1.0", 0.0)
        verdict, kept, difference = verdicts[task, "harness_st", "harness_l", "fbank"]
        assert verdict == "not shown" and float(kept) < 0.5 and difference < 0
        assert verdicts[task, "harness_l", "harness_l_it1", "fbank"][0] == "shown"


@pytest.mark.slow
def test_each_difference_has_the_p_of_its_own_test(whole, fake_results):
    """Accuracies: the exact McNemar test, written out; error rates and UA: the bootstrap."""
    from scipy.stats import binom

    found = {(c["task"], c["upstream"], c["against"]): (float(c["p"]), c["test"]) for c in comparisons(whole)}
    values = []
    for seed in (0, 1):
        right = {
            name: {p.utt_id: p.reference == p.hypothesis for p in fake_results.predict("did", error, seed, None)}
            for name, error in fake_results.ERRORS.items()
        }
        pairs = [(right["harness_l"][utt_id], right["harness_st"][utt_id]) for utt_id in right["harness_l"]]
        apart = pairs.count((True, False)), pairs.count((False, True))
        values.append(min(1.0, 2 * binom.cdf(min(apart), sum(apart), 0.5)))
    p, test = found["did", "harness_st", "harness_l"]
    assert test == "McNemar" and p == pytest.approx(min(1.0, 2 * min(values)), rel=1e-3)
    assert found["did", "harness_s", "harness_l"] == (1.0, "McNemar"), "the same predictions"
    for task in ("asr", "ser"):
        assert found[task, "harness_l", "fbank"] == (1e-4, "bootstrap")
    assert " McNemar" in (whole / "RESULTS.md").read_text(encoding="utf-8")


def test_no_gain_is_not_shown(tmp_path, fake_results):
    exp = tmp_path / "exp" / "mini"
    for upstream in ("harness_l", "fbank"):
        fake_results.add(exp, "asr", upstream)
    run = exp / "probes" / "asr" / "fbank" / "aaaa0000seed0"
    write_predictions(run / "predictions.csv", fake_results.predict("asr", fake_results.ERRORS["harness_l"], 5, None))
    p = fake_results.predict("asr", fake_results.ERRORS["harness_l"], 5, None)
    for row in (rows := list(csv.DictReader(open(exp / "results.csv", encoding="utf-8")))):
        if row["upstream"] == "fbank" and row["split"] == "test":
            row["value"] = metrics.value(row["metric"], [x.reference for x in p], [x.hypothesis for x in p])
    upsert(exp / "results.csv", rows)
    report.build(exp, "mini")
    assert {c["verdict"] for c in comparisons(exp)} == {"not shown"}


@pytest.mark.slow
def test_rows_of_different_protocols_never_share_a_table(tmp_path, capsys, fake_results):
    exp = tmp_path / "exp" / "mini"
    for upstream in ("fbank", "harness_l"):
        fake_results.add(exp, "asr", upstream)
        fake_results.add(exp, "ser", upstream, fold=0)
    fake_results.add(exp, "asr", "harness_s", protocol="light@bbbb1111")
    report.build(exp, "mini")
    shown = capsys.readouterr().out
    assert "ASR has rows of 2 settings, in separate tables and not comparable" in shown
    assert re.search(r"light@aaaa0000.*: fbank, harness_l; ASR: protocol light@bbbb1111.*: harness_s\)", shown)
    one, two = shown.split("table 2 of 2")
    assert "table 1 of 2" in one and "ASR: protocol light@bbbb1111" not in one.split("table 1 of 2")[1]
    other = two.split("\n\n")[0]
    assert "harness_s" in other and "fbank" not in other and "light@aaaa0000" not in other
    assert not [c for c in comparisons(exp) if c["upstream"] == "harness_s"]


@pytest.mark.slow
def test_what_is_missing_is_named_with_its_reason_and_never_made_up(tmp_path, capsys, fake_results):
    exp = tmp_path / "exp" / "open_arabic"
    for upstream in ("fbank", "harness_l"):
        fake_results.add(exp, "asr", upstream, corpus="asc", recipe="open_arabic")
        fake_results.add(exp, "ser", upstream, fold=0, corpus="baved", recipe="open_arabic")
    (exp / "probes" / "ser").rename(exp / "gone")
    models = exp / "models" / "harness_s"
    models.mkdir(parents=True)
    (models / "config.json").write_text("{}")
    report.build(exp, "open_arabic", left_out={"did": "no open corpus", "xlsr": "give it with --xlsr PATH"})
    shown = capsys.readouterr().out
    assert "SYNTHETIC" not in shown
    assert "DID is missing: no open corpus" in shown
    assert "xlsr is missing from ASR, SER: give it with --xlsr PATH" in shown
    assert re.search(r"harness_st is missing from ASR, SER: no model directory .*stage 9", shown)
    assert "harness_s is missing from ASR, SER: no results" in shown
    assert "harness_st " not in shown.split("\n\n")[0]
    page = (exp / "RESULTS.md").read_text(encoding="utf-8")
    assert "means of the rows of results.csv" in page
    assert re.search(r"not compared: SER test ua: harness_l against fbank: harness_l: no predictions", page)


@pytest.mark.slow
def test_fewer_seeds_or_folds_are_named(tmp_path, capsys, fake_results):
    exp = tmp_path / "exp" / "mini"
    for seed in (0, 1):
        fake_results.add(exp, "asr", "harness_l", seed=seed)
        for fold in (0, 1):
            fake_results.add(exp, "ser", "harness_l", seed=seed, fold=fold)
    fake_results.add(exp, "asr", "fbank")
    for seed, fold in ((0, 0), (0, 1), (1, 0)):
        fake_results.add(exp, "ser", "fbank", seed=seed, fold=fold)
    report.build(exp, "mini")
    shown = capsys.readouterr().out
    assert "fbank: ASR lacks seed 1 that others have" in shown
    assert "fbank: SER has only 3 of 4 runs over seeds and folds" in shown
    found = comparisons(exp)
    assert {c["task"] for c in found} == {"asr"} and {c["seeds"] for c in found} == {"0"}


def test_predictions_that_contradict_the_results_are_refused(tmp_path, fake_results):
    exp = tmp_path / "exp" / "mini"
    run = fake_results.add(exp, "asr", "harness_l")
    predictions = fake_results.predict("asr", fake_results.ERRORS["harness_l"], 0, None)
    write_predictions(run / "predictions.csv", predictions[:-1])
    with pytest.raises(DownstreamError, match=r"cer .*results\.csv"):
        report.build(exp, "mini")


def test_broken_or_absent_results_are_named(tmp_path, fake_results):
    exp = tmp_path / "exp" / "mini"
    with pytest.raises(DownstreamError, match=r"results\.csv: no results"):
        report.build(exp, "mini")
    fake_results.add(exp, "did", "fbank")
    with pytest.raises(DownstreamError, match="`nope`.*mini"):
        report.build(exp, "nope")
    assert not (exp / "RESULTS.md").exists()
    text = (exp / "results.csv").read_text(encoding="utf-8")
    (exp / "results.csv").write_text(text.replace(",accuracy,0.123,", ",accuracy,oops,"), encoding="utf-8")
    with pytest.raises(DownstreamError, match=r"results\.csv, line \d: .*`value`.*`oops`"):
        report.build(exp, "mini")


def test_a_run_directory_relative_to_the_root_is_found(tmp_path, fake_results):
    exp = tmp_path / "exp" / "mini"
    run = fake_results.add(exp, "did", "fbank")
    rows = list(csv.DictReader(open(exp / "results.csv", encoding="utf-8")))
    (exp / "results.csv").unlink()
    upsert(exp / "results.csv", [row | {"run_dir": str(run.relative_to(tmp_path))} for row in rows])
    columns = make_columns([r for r in read_rows(exp / "results.csv") if r.split == "test"], Predictions(exp))
    assert columns and all(m.counts is not None for column in columns for m in column.values.values())
