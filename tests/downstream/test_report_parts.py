"""The parts of the report that decide what is shown: fronts, losses, scores, alignments, LaTeX."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest

from downstream import DownstreamError
from downstream.report import budgets, compression, decoded, figures, latex, runs, score
from downstream.report.boards import leaderboard
from downstream.report.cells import make_cells
from downstream.report.columns import mixed_protocols, split_settings
from downstream.report.contents import gather
from downstream.report.drawing import SERIES, Figure, Panel, save
from downstream.report.evidence import Predictions
from downstream.report.rows import ReportError, is_test, read_rows
from downstream.report.tables import Model
from downstream.score import metrics


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory, made_up: Any) -> Path:
    """ASR and SER, two seeds, the teacher as in the other tests, a student whose emotion recognition is bad."""
    folder = tmp_path_factory.mktemp("root") / "exp" / "open_arabic"
    for upstream in ("fbank", "harness_l", "harness_s", "harness_st"):
        for seed in (0, 1):
            kind = {"corpus": "real", "recipe": "open_arabic", "finetune": "probe"}
            run = made_up.add(folder, "asr", upstream, seed=seed, **kind)
            made_up.add_details(run, upstream, "cer")
            made_up.add(folder, "ser", upstream, seed=seed, **kind)
    made_up.add_costs(folder)
    return folder


@pytest.fixture(scope="module")
def cells(exp: Path) -> dict:
    return make_cells([row for row in read_rows(exp / "results.csv") if is_test(row.split)], Predictions(exp))


KNOWN = {"harness_l": Model(delta_s=0.0), "harness_s": Model(delta_s=46.7), "harness_st": Model(delta_s=86.7)}


def test_every_training_run_has_a_panel_whatever_its_recipe_calls_it(tmp_path: Path):
    """Earlier iterations first; what learns no units, has just begun, was trained again, or belongs to a study has no
    panel."""
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
    assert [panel.title for panel in figures.training(tmp_path, "x").panels] == ["uncarded", "first", "teacher", "wide"]


def test_a_pareto_front_holds_what_nothing_cheaper_beats():
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (4.0, 0.9), (4.0, 0.8)]
    assert figures.pareto(points) == [(1.0, 0.5), (2.0, 0.7), (4.0, 0.9)]
    rng = np.random.default_rng(0)
    cloud = [(float(c), float(q)) for c, q in rng.integers(0, 9, (40, 2))]
    kept = {p for p in cloud if not any(o != p and o[0] <= p[0] and o[1] >= p[1] for o in cloud)}
    assert set(figures.pareto(cloud)) == kept


def test_label_budgets_stand_in_their_order():
    assert budgets.in_order({"", "1h", "10min", "0.5", "10h", "0.05", "90s"}) == [
        "0.05", "0.5", "90s", "10min", "1h", "10h", ""
    ]  # fmt: skip
    assert [budgets.shown(b) for b in ("0.05", "10min", "", "all")] == ["5 %", "10min", "all", "all"]


def test_relative_losses_are_those_of_a_plain_bootstrap(cells, made_up):
    made = compression.losses(cells, KNOWN)
    assert {(loss.upstream, loss.column.setting.task) for loss in made} == {
        (name, task) for name in ("harness_s", "harness_st") for task in ("asr", "ser")
    }
    loss = next(x for x in made if x.upstream == "harness_st" and x.column.setting.task == "asr")
    assert loss.column.metric == "cer" and loss.delta_s == 86.7

    def rates(upstream: str, weights: np.ndarray) -> np.ndarray:
        found = []
        for seed in (0, 1):
            sums = np.zeros((8, 2))
            for p in made_up.predict("asr", made_up.ERRORS[upstream], seed, None):
                out = jiwer.process_characters(p.reference, p.hypothesis)
                edits = out.substitutions + out.deletions + out.insertions
                sums[int(p.speaker[1:])] += edits, out.hits + out.substitutions + out.deletions
            drawn = weights @ sums
            found.append(drawn[:, 0] / drawn[:, 1])
        return np.mean(found, axis=0)

    weights = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=10_000)
    once = np.ones((1, 8))
    student, teacher = rates("harness_st", once)[0], rates("harness_l", once)[0]
    assert loss.value == pytest.approx(student / teacher - 1, abs=1e-9) and loss.value > 0.5
    draws = rates("harness_st", weights) / rates("harness_l", weights) - 1
    assert (loss.low, loss.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=1e-9)
    accuracy = next(x for x in made if x.upstream == "harness_st" and x.column.setting.task == "ser")
    assert 0 < accuracy.low < accuracy.value < accuracy.high < 1, "a lower UA is a loss too"


def test_the_score_is_the_formula_and_leaves_out_what_shows_no_gain(cells):
    group = split_settings({key[0] for key in cells})[0]
    found = score.scores(cells, group, "harness_l")
    assert found.values["fbank"] == 0 and found.values["harness_l"] == pytest.approx(1000) and found.left == []
    value = {(key[0].task, key[3]): cell.value for key, cell in cells.items() if key[2] in ("cer", "ua")}
    by_hand = [
        (value[task, "harness_st"] - value[task, "fbank"]) / (value[task, "harness_l"] - value[task, "fbank"])
        for task in ("asr", "ser")
    ]
    assert found.values["harness_st"] == pytest.approx(500 * sum(by_hand))
    swapped = {
        (*key[:3], {"fbank": "harness_l", "harness_l": "fbank"}.get(key[3], key[3])) if key[0].task == "ser" else key: c
        for key, c in cells.items()
    }
    found = score.scores(swapped, group, "harness_l")
    assert [column.setting.task for column in found.columns] == ["asr"]
    assert len(found.left) == 1 and "SER UA" in found.left[0] and "not shown to be better than fbank" in found.left[0]
    assert score.scores(cells, group, "hubert") is None


def test_the_score_of_superb():
    # SUPERB-like, by hand: ASR halves the way to the reference, SER overshoots by a quarter.
    own, base, best = {"asr": {"wer": 0.3}, "ser": {"ua": 0.75}}, {"asr": {"wer": 0.5}, "ser": {"ua": 0.5}}, None
    best = {"asr": {"wer": 0.1}, "ser": {"ua": 0.7}}
    assert metrics.superb_score(own, base, best) == pytest.approx(1000 * (0.5 + 1.25) / 2)
    with pytest.raises(DownstreamError, match="does not differ"):
        metrics.superb_score(own, base, base)


def test_marks_say_which_differences_hold(cells):
    board = leaderboard(cells, split_settings({key[0] for key in cells})[0], KNOWN, "board")
    marks = {name: board.entries[name, 0].marks for name in board.upstreams}
    assert marks == {"fbank": "", "harness_l": "▲", "harness_s": "▲", "harness_st": "▲†"}
    assert board.entries["harness_l", 0].best and not board.entries["harness_st", 0].best
    assert board.marks() == [("▲", "better than fbank"), ("†", "worse than harness_l")]


def test_budgets_and_fine_tuning_stand_apart_but_are_no_accident(tmp_path, made_up):
    exp = tmp_path / "exp" / "mini"
    made_up.add(exp, "asr", "harness_l", finetune="lora")
    made_up.add(exp, "asr", "harness_l", finetune="probe", budget="10min")
    made_up.add(exp, "asr", "harness_l", finetune="probe")
    made_up.add(exp, "ser", "harness_l", finetune="probe")
    rows = [row for row in read_rows(exp / "results.csv") if is_test(row.split)]
    groups = split_settings({row.setting for row in rows})
    assert [[(s.task, s.finetune, s.budget) for s in group] for group in groups] == [
        [("asr", "probe", ""), ("ser", "probe", "")], [("asr", "probe", "10min")], [("asr", "lora", "")]
    ]  # fmt: skip
    assert mixed_protocols(make_cells(rows, Predictions(exp))) == []


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("كِتَاب باب", "كِتَب باب قمر"),
        ("قُلْ هُوَ اللَّهُ أَحَدٌ", "قل هو الله احد"),
        ("", "قمر"),
        ("قمر", ""),
        ("seven", "sevens eleven"),
    ],
)
def test_an_alignment_loses_no_letter(reference, hypothesis):
    pieces = decoded.align(reference, hypothesis)
    assert "".join(p.text for p in pieces if p.kind != "lost") == hypothesis
    assert "".join(p.text for p in pieces if p.kind == "equal") == hypothesis or reference != hypothesis
    for piece in pieces:
        letters = decoded.letters(piece.text)
        assert "".join(letters) == piece.text and piece.text
        assert not re.match("[\u064b-\u0652]", piece.text), "a piece begins with a diacritic of the letter before"


def test_alignments_mark_what_differs():
    pieces = decoded.align("كِتَاب قمر", "كِتَب قمرر")
    assert [(p.kind, p.text) for p in pieces if p.kind != "equal"] == [("lost", "ا"), ("extra", "ر")]
    pieces = decoded.align("كِتَاب", "كُتَاب")
    assert [(p.kind, p.text) for p in pieces] == [("wrong", "كُ"), ("equal", "تَاب")]
    assert decoded.direction("«باب» 3") == "rtl" and decoded.direction("3 doors") == "ltr"


def test_examples_go_from_the_best_to_the_worst(exp, made_up):
    found = gather(exp, "open_arabic", {}, "command").examples
    assert len(found) == decoded.COUNT and {e.split for e in found} == {"test"}
    rates = [next(h.rate for h in e.hypotheses if h.upstream == "harness_l") for e in found]
    said = made_up.predict("asr", made_up.ERRORS["harness_l"], 0, None)
    all_rates = [jiwer.cer(p.reference, p.hypothesis) for p in said]
    assert rates == sorted(rates) and rates[0] == min(all_rates) and rates[-1] == pytest.approx(max(all_rates))


def test_broken_files_of_a_run_are_named(exp, tmp_path, made_up):
    folder = tmp_path / "exp" / "mini"
    run = made_up.add(folder, "asr", "harness_l")
    made_up.add_details(run, "harness_l", "cer")
    rows = [row for row in read_rows(folder / "results.csv") if is_test(row.split)]
    found = runs.read_runs(rows, folder)[0]
    assert found.curve.steps == [20, 40] and found.curve.dev == [0.2, 0.4], "only the rate that was chosen"
    assert found.weights == (0.2,) * 5 and found.dev == {"0.001": 0.3, "0.01": 0.4} and found.command
    (run / "layer_weights.json").write_text(json.dumps({"weights": [0.5, 0.6]}))
    with pytest.raises(ReportError, match=r"layer_weights\.json: the layer weights add up to 1\.1000"):
        runs.read_runs(rows, folder)
    (run / "layer_weights.json").unlink()
    (run / "curve.csv").write_text("lr,step,train_loss,metric\n0.001,1,2,cer\n")
    with pytest.raises(ReportError, match=r"curve\.csv: not a learning curve \(column 'dev' is missing\)"):
        runs.read_runs(rows, folder)
    with pytest.raises(ReportError, match="reference `nobody` has no row"):
        gather(folder, "mini", {}, "command", "nobody")


def test_latex_escapes_what_it_must():
    assert latex.escape("a_b & 50 % {x} #1 ~ ^ \\ $\n") == (
        r"a\_b \& 50 \% \{x\} \#1 \textasciitilde{} \textasciicircum{} \textbackslash{} \$"
    )


def test_the_latex_tables_are_whole(exp, tmp_path):
    text = latex.render(gather(exp, "open_arabic", {}, "./run.sh --recipe open_arabic"))
    assert "SYNTHETIC" not in text and "% command: ./run.sh --recipe open_arabic" in text
    tables = re.findall(r"\\begin{tabular}{(\w+)}(.*?)\\end{tabular}", text, flags=re.DOTALL)
    assert len(tables) == 2
    for align, body in tables:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert all(len(re.findall(r"(?<!\\)&", line)) == len(align) - 1 for line in lines)
        for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
            assert body.count(rule) == 1
    rows = {line.split("&")[0].strip(): line for line in tables[0][1].splitlines() if "&" in line}
    assert r"\textbf{" in rows[r"harness\_l"] and r"\textbf{" not in rows[r"harness\_st"]
    assert r"$^{\blacktriangle\dagger}$" in rows[r"harness\_st"] and "[" in rows["fbank"]
    if shutil.which("pdflatex"):
        page = rf"\documentclass{{article}}\usepackage{{booktabs,amssymb}}\begin{{document}}{text}\end{{document}}"
        (tmp_path / "page.tex").write_text(page, encoding="utf-8")
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"], cwd=tmp_path, capture_output=True
        )
        assert done.returncode == 0, done.stdout[-2000:]


def test_a_panel_of_the_page_follows_its_theme_and_keeps_text(tmp_path: Path):
    drawn = []

    def draw(axes: Any) -> dict[str, str]:
        drawn.append(axes)
        axes.plot([0, 1], [0, 1], color=SERIES[3], gid="tip-1")
        axes.set_xlabel("كِتَاب <باب>")
        return {"tip-1": 'a "tip" <b>'}

    panels = [Panel("title", draw, "what & it shows"), Panel("other", draw, "another")]
    svg, other = save(Figure("key", "of both", "", panels, {"legend": 3}), tmp_path)
    assert len(drawn) == 2 and {path.name for path in tmp_path.iterdir()} == {"key.png", "key.svg"}
    assert ">title<" in svg and ">other<" not in svg and ">other<" in other and "of both" not in svg + other
    assert ">legend<" not in svg and 'aria-label="another"' in other
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (svg, other)]
    assert ids[0] and ids[1] and not ids[0] & ids[1]
    left, top, width, height = (float(x) for x in re.search(r'viewBox="([^"]+)"', other)[1].split())
    assert left > 200 and 150 < width < 72 * 4.1 + 8 and 150 < height < 72 * (3.2 + 0.9) and top < 40
    assert 'aria-label="what &amp; it shows"' in svg and "كِتَاب &lt;باب&gt;" in svg
    assert "<title>a &quot;tip&quot; &lt;b&gt;</title>" in svg and 'class="tip"' in svg
    assert "var(--s3)" in svg and "var(--ink)" in svg and "<style" not in svg and "<metadata" not in svg
    assert re.findall(r"(?:fill|stroke): #\w+", svg) == [], "a colour that no theme changes"
    assert [svg, other] == save(Figure("key", "of both", "", panels, {"legend": 3}), tmp_path)
