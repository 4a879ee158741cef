"""Groups of settings that may share a table."""

from __future__ import annotations

from downstream.report.columns import Predictions, comparable_settings, make_columns, mixed_settings
from downstream.report.rows import is_test, read_rows


def test_budgets_and_fine_tuning_have_their_own_tables_without_a_warning(tmp_path, fake_results):
    exp = tmp_path / "exp" / "mini"
    fake_results.add(exp, "asr", "harness_l", finetune="lora")
    fake_results.add(exp, "asr", "harness_l", finetune="probe", budget="10min")
    fake_results.add(exp, "asr", "harness_l", finetune="probe")
    fake_results.add(exp, "ser", "harness_l", finetune="probe")
    rows = [row for row in read_rows(exp / "results.csv") if is_test(row.split)]
    groups = comparable_settings({row.setting for row in rows})
    assert [[(s.task, s.finetune, s.budget) for s in group] for group in groups] == [
        [("asr", "probe", ""), ("ser", "probe", "")], [("asr", "probe", "10min")], [("asr", "lora", "")]
    ]  # fmt: skip
    assert mixed_settings(make_columns(rows, Predictions(exp))) == []
