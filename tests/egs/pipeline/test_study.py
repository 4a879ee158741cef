"""Studies: rows become runs of the recipe with shared units; the table compares each with its base row."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from corpora.files import CorpusError
from corpora.schema import flatten
from downstream import protocols
from downstream.report import drawing
from downstream.score import results
from downstream.score.results import Prediction
from egs.__main__ import command_line, job_of, main, shared_arguments
from egs.pipeline.recipe import EGS, load_recipe
from egs.pipeline.run import CHANGED
from egs.pipeline.study import Study, load_study
from egs.pipeline.study_results import curves_figure, write_results
from egs.pipeline.work import Job
from upstream.model.family import geometry

STUDIES = sorted(path.parent.name for path in EGS.glob("*/study.yaml"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_readable_and_of_equal_budget(name: str) -> None:
    study = load_study(name)
    plain = load_recipe(name)
    runs = [study.recipe.pretrain[study.run_of(row)] for row in study.rows]
    assert len({(run.train.steps, run.train.batch_seconds, run.train.seed) for run in runs}) == 1
    assert set(plain.pretrain) < set(study.recipe.pretrain)
    for key, run in plain.pretrain.items():
        assert study.recipe.pretrain[key] == run, "the study leaves the recipe's own runs alone"
    assert all(study.recipe.units[key] == config for key, config in plain.units.items())


def test_the_study_on_real_speech_varies_units_losses_and_initialisation() -> None:
    study = load_study("open_arabic")
    runs = {row: study.recipe.pretrain[study.run_of(row)] for row in study.rows}
    units = {row: study.recipe.units[next(iter(run.units))] for row, run in runs.items() if run.units}
    assert {(u.pca, u.k) for u in units.values()} >= {(None, 500), (16, 500), (64, 500), (None, 100), (16, 100)}
    assert runs["masked_only"].train.unmasked_weight == 0 < runs["base"].train.unmasked_weight
    assert not runs["regression"].units and runs["regression"].regression.layers
    assert study.recipe.family[runs["waveform"].geometry].front_end == "waveform"
    assert study.recipe.family[runs["base"].geometry].front_end == "logmel"
    assert len(runs["layers_2_4"].units) == 2 and len(runs["layers_2_4_6"].units) == 3
    assert {run.init.kind for run in runs.values()} == {"random", "every_nth", "first_n", "project"}
    assert all(len(task.seeds) == 3 and task.protocol == "light" for task in study.recipe.tasks.values())


def test_rows_change_their_own_values_and_share_the_rest() -> None:
    study = load_study("mini")
    runs = study.recipe.pretrain
    assert runs["study_no_pca"].units != runs["study_base"].units
    new = next(iter(runs["study_no_pca"].units))
    assert study.recipe.units[new].pca is None and study.recipe.units[new].k == study.recipe.units["student"].k
    assert runs["study_base"].units == {"student": 1.0} == runs["study_masked_only"].units
    assert list(runs["study_two_layers"].units.values()) == [1.0, 0.5]
    assert study.recipe.units[list(runs["study_two_layers"].units)[1]].layer == 2
    assert runs["study_base"].geometry == "hst" and study.recipe.family["hst"] == geometry("mini_hst")


def test_only_dependencies_of_the_rows_are_made() -> None:
    study = load_study("mini", only=["project"])
    assert list(study.rows) == ["base", "project"]
    assert study.wanted() == ["it1", "hl_it1", "it2", "hl_it2", "student", "study_base", "study_project"]
    assert "hst" not in study.wanted() and "hs" not in study.wanted()


def test_a_row_includes_the_rows_that_it_is_compared_with_and_trains_the_same() -> None:
    named = load_study("mini", ["study.rows.project.against=no_pca"], only=["project"])
    assert list(named.rows) == ["base", "project", "no_pca"] and "study_no_pca" in named.wanted()
    compared = {row: named.compared_with(row) for row in ("base", "project", "no_pca", "fbank")}
    assert compared == {"base": (), "project": ("no_pca",), "no_pca": ("base",), "fbank": ("base",)}
    several = load_study("mini", ["study.rows.project.against=[no_pca, hl_it2]"], only=["project"])
    assert list(several.rows) == ["base", "project", "no_pca"]
    assert several.compared_with("project") == ("no_pca", "harness_l"), "as the tables call it"
    assert "against" not in named.rows["project"]
    plain = load_study("mini").recipe.pretrain
    assert named.recipe.pretrain["study_project"] == plain["study_project"]
    as_base = load_study("mini", ["study.rows.project.against=no_pca", "study.base=project"], only=["project"])
    assert list(as_base.rows) == ["project"], "a base row is compared with nothing"


def test_overrides_reach_recipe_and_study() -> None:
    study = load_study("mini", ["study.common.steps=7", "pretrain.hl_it1.steps=9", "study.rows.base.lr=0.5"])
    assert study.recipe.pretrain["study_no_pca"].train.steps == 7
    assert study.recipe.pretrain["study_base"].train.lr == 0.5
    assert study.recipe.pretrain["hl_it1"].train.steps == 9


@pytest.mark.parametrize(
    ("overrides", "only", "message"),
    [
        (["study.rows.base.stpes=3"], None, "`rows.base.stpes`.*`steps`"),
        (["study.rows.base.units.kk=3"], None, r"`rows.base.units\[0\].kk`"),
        (["study.base=bas"], None, "`bas`"),
        (["study.rows.project.against=no_pac"], None, "`no_pac`.*`no_pca`"),
        (["study.rows.project.against=project"], ["project"], "`rows.project.against`: `project`"),
        (["study.rows.project.against=[base, base]"], None, "`rows.project.against`"),
        (["study.run=hts"], None, "`hts`"),
        (["study.upstreams=[fbanks]"], None, "`fbanks`"),
        ([], ["no_pac"], "`rows.no_pac`.*`no_pca`"),
        (["study.rows.base.geometry.heads=3"], None, "64 .* 3 heads"),
    ],
)
def test_errors_name_the_key(overrides: list[str], only: list[str] | None, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        load_study("mini", overrides, only=only)


def test_a_study_takes_no_local_upstreams_and_passes_its_options_to_stages(capsys) -> None:
    for option in ("--hubert", "--xlsr"):
        assert main(["study", "--recipe", "mini", option, "somewhere"]) == 2
        assert f"unrecognized arguments: {option} somewhere" in capsys.readouterr().err
    words = ["--recipe", "mini", "--exp", "my exp", "--jobs", "3", "--set", "study.common.steps=7"]
    shared = shared_arguments(command_line().parse_args(["study", *words]))
    assert shared == words
    job = job_of(command_line().parse_args(["stage", "--study", *shared, "study_base"]))
    assert job.recipe.pretrain["study_base"].train.steps == 7 and job.exp == Path("my exp/mini") and job.jobs == 3


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys) -> None:
    from egs.__main__ import main

    folders = ["--data", str(tmp_path / "data"), "--exp", str(tmp_path / "exp")]
    assert main(["study", "--recipe", "mini", "--rows", "no_pca", "--dry_run", *folders]) == 0
    shown = capsys.readouterr().out
    assert "2 rows (base, no_pca)" in shown
    assert "units study_units_pca_None; training study_no_pca" in shown and "masked_only" not in shown
    assert "the missing asr probes of every row and fbank, hl_it2: light, 1 seed\n" in shown
    assert main(["study", "--recipe", "mini", "--dry_run", "--report"]) == 2
    assert not list(tmp_path.rglob("*"))


def test_an_unknown_recipe_is_named() -> None:
    with pytest.raises(CorpusError, match="minni"):
        load_study("minni")


TEXT = "نعم لا شكرا"
AGAINST = ["study.rows.masked_only.against=[no_pca, base]"]


def _tag(study: Study) -> str:
    config = study.recipe.tasks["asr"]
    return protocols.load("asr", config.protocol, flatten(config.overrides)).tag


@pytest.fixture
def finished(tmp_path: Path) -> Job:
    """Results of three rows on six speakers: `no_pca` is wrong on every word where `base` is right on half, and
    `masked_only`, which is compared with it, on two."""
    study = load_study("mini", AGAINST, only=["masked_only"])
    exp = tmp_path / "mini"
    for row, wrong in (("base", 3), ("no_pca", 6), ("masked_only", 2)):
        for seed in (0, 1, 2):
            run_dir = exp / "study" / "probes" / row / f"seed{seed}"
            speakers = [f"s{i}" for i in range(6)]
            predictions = [
                Prediction(f"{s}-1", s, "test", TEXT, "" if i < wrong else TEXT) for i, s in enumerate(speakers)
            ]
            results.write_predictions(run_dir / "predictions.csv", predictions)
            row_values = {"recipe": "mini", "upstream": row, "task": "asr", "corpus": "mini", "split": "test"}
            row_values |= {"protocol": _tag(study), "head": "blstm", "metric": "cer", "value": wrong / 6, "n": 6}
            row_values |= {"seed": seed, "commit": "c", "run_dir": str(run_dir), "text_profile": ""}
            results.upsert(exp / "study" / "results.csv", [row_values])
        metrics = exp / study.run_of(row) / "metrics.csv"
        metrics.parent.mkdir(parents=True)
        metrics.write_text(
            "step,train_masked_accuracy,valid_masked_accuracy,seconds\n30,0.1,0.1,5.0\n60,0.2,0.2,90.0\n", "utf-8"
        )
    return Job(study.recipe, tmp_path / "data", exp, command="python -m egs study --recipe mini")


def test_the_table_holds_differences_with_intervals(finished: Job) -> None:
    study = load_study("mini", AGAINST, only=["masked_only"])
    shown = write_results(study, finished)
    with open(finished.exp / "study" / "study.csv", encoding="utf-8") as stream:
        read = list(csv.DictReader(stream))
        lines = {line["row"]: line for line in read[:3]}
    assert float(lines["base"]["value"]) == pytest.approx(0.5) and lines["base"]["difference"] == ""
    worse = lines["no_pca"]
    assert float(worse["difference"]) == pytest.approx(-0.5) and worse["verdict"] == "worse"
    assert float(worse["diff_low"]) < -0.5 < float(worse["diff_high"]) < 0
    assert worse["against"] == "base" and lines["base"]["against"] == ""
    other = lines["masked_only"]
    assert other["against"] == "no_pca" and other["verdict"] == "better"
    assert float(other["difference"]) == pytest.approx(4 / 6, abs=1e-6)
    assert (read[3]["row"], read[3]["against"], len(read)) == ("masked_only", "base", 4)
    assert float(read[3]["difference"]) == pytest.approx(1 / 6, abs=1e-6) and read[3]["value"] == other["value"]
    assert "masked_only against base: ASR test +16.7 [" in shown
    assert worse["changes"] == "units: {pca: null}" and worse["train_s"] == "90.0" and worse["speakers"] == "6"
    assert "no_pca" in shown and "-50.0" in shown and "worse" in shown and "(speakers: ASR test 6)" in shown
    page = (finished.exp / "study" / "STUDY.md").read_text(encoding="utf-8")
    assert "synthetic" in page.lower() and "python -m egs study --recipe mini" in page and "curves.png" in page
    assert (finished.exp / "study" / "study.png").stat().st_size > 5000
    assert (finished.exp / "study" / "curves.png").stat().st_size > 5000


def test_a_report_needs_only_the_results(finished: Job, capsys) -> None:
    """Corpora, units and models may be missing."""
    folders = ["--data", str(finished.data), "--exp", str(finished.exp.parent)]
    assert main(["study", "--recipe", "mini", "--rows", "no_pca", "--report", *folders]) == 0
    shown = capsys.readouterr().out
    assert "no_pca" in shown and "-50.0" in shown and "left out" not in shown


def test_a_base_row_alone_is_shown_without_differences(finished: Job) -> None:
    alone = load_study("mini", only=[])
    assert list(alone.rows) == ["base"]
    shown = write_results(alone, finished)
    assert "base" in shown and "no_pca" not in shown
    assert (finished.exp / "study" / "study.png").stat().st_size > 5000


def test_results_of_other_weights_or_protocols_are_left_out_with_a_note(finished: Job, tmp_path: Path) -> None:
    """Results of another protocol, other weights or another configuration do not belong to the current study."""
    study = load_study("mini", AGAINST, only=["masked_only"])
    table = finished.exp / "study" / "results.csv"
    rows = results.read_rows(table)
    other = [{**row, "protocol": "superb@0123", "run_dir": f"{row['run_dir']}_superb"} for row in rows]
    for row in other:
        source = Path(row["run_dir"].removesuffix("_superb"))
        shutil.copytree(source, row["run_dir"], dirs_exist_ok=True)
    results.upsert(table, [{**row, "value": "0.0"} for row in other])
    write_results(study, finished)
    page = (finished.exp / "study" / "STUDY.md").read_text(encoding="utf-8")
    assert "left out: base: ASR was measured with protocol superb@0123" in page
    with open(finished.exp / "study" / "study.csv", encoding="utf-8") as stream:
        assert [(line["row"], float(line["value"])) for line in csv.DictReader(stream)][:3] == [
            ("base", 0.5), ("masked_only", pytest.approx(2 / 6, abs=1e-6)), ("no_pca", 1.0)
        ]  # fmt: skip

    shown = write_results(study, finished, dict.fromkeys(["no_pca", "masked_only"], CHANGED))
    assert "left out: no_pca: its configuration or inputs changed" in shown
    drawing.save(curves_figure(study, finished, ["base"]), tmp_path)
    expected, drawn = (tmp_path / "curves.png"), (finished.exp / "study" / "curves.png")
    assert expected.read_bytes() == drawn.read_bytes(), "curves of rows that were left out"

    model = finished.model_dir(study.run_of("base"))
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"other weights")
    (model / "config.json").write_text("{}")
    for seed in (0, 1, 2):
        cell = finished.exp / "study" / "probes" / "base" / f"seed{seed}" / "cell.json"
        cell.write_text('{"upstream_key": "of the weights before"}')
    assert "left out: base: ASR was measured with other weights" in write_results(study, finished)


def test_equal_units_have_one_name_in_any_order_of_rows() -> None:
    """Also for values that are those of the main units; the stages of a study are started with all of its rows."""
    extra = ["study.rows.small_too={units: {pca: 32, k: 7}}", "study.rows.small={units: {k: 7}}"]
    assert load_study("mini").recipe.units["student"].pca == 32
    for only in (None, ["small"], ["small_too"], ["small_too", "small"]):
        study = load_study("mini", extra, only=only)
        names = {tuple(study.recipe.pretrain[f"study_{row}"].units) for row in ("small", "small_too")}
        assert names == {("study_units_k_7",)}
    whole = load_study("mini").recipe
    assert load_study("mini", only=["project"]).recipe == whole
