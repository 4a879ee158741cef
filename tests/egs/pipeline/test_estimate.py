"""The estimate of a schedule, against the same arithmetic by hand; docs/scale.md shows the tables of its commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from egs.__main__ import main
from egs.pipeline.estimate import Machine, estimate
from egs.pipeline.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[3]
EIGHT = ROOT / "egs/harness/ssl1/conf/ssl_8gpu.yaml"


def test_hours_are_operations_over_what_the_gpus_do() -> None:
    costs = {cost.name: cost for cost in estimate(load_recipe("harness", config=EIGHT), 1000, Machine(8, 1e15, 0.5))}
    assert list(costs) == [
        "units it1", "hl_it1", "units it2", "hl_it2", "units student", "hs", "hst", "shards (flac)",
    ]  # fmt: skip
    # 250,000 steps of 8 x 2 x 200 s; HuBERT-Large's geometry takes about 20 GMAC for a second of audio
    assert costs["hl_it1"].shown == pytest.approx(250_000 * 3200 / 3600)
    assert costs["hl_it1"].hours == pytest.approx(250_000 * 3200 * 6 * 20e9 / (8 * 0.5e15) / 3600, rel=0.05)
    assert costs["hl_it2"].hours == pytest.approx(1.6 * costs["hl_it1"].hours)
    # half of the layers, forward alone: an eleventh of a step on as much audio, or a little more for the convolutions
    per_hour = costs["hl_it1"].hours / costs["hl_it1"].shown
    assert 1000 * per_hour / 6 < costs["units it2"].hours < 1000 * per_hour / 3
    assert costs["units it1"].hours == 0
    # two checkpoints of weights and moments, the best weights and the model, of 315 M parameters
    assert costs["hl_it1"].disk == pytest.approx(32 * 315.4e6, rel=0.01)
    assert costs["units it1"].disk == 1000 * 3600 * 50 * 2


def test_checkpointing_costs_a_pass_and_saves_memory() -> None:
    plain, thrifty = (
        {cost.name: cost for cost in estimate(load_recipe("harness", changes, config=EIGHT), 1000, Machine())}["hl_it1"]
        for changes in ([], ["pretrain.common.checkpointing=true"])
    )
    assert thrifty.hours == pytest.approx(plain.hours * 8 / 6) and thrifty.memory < plain.memory / 2


def test_the_command_prints_a_table_and_refuses_nonsense(capsys) -> None:
    command = ["estimate", "--recipe", "mini", "--hours", "1", "--price", "2"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "| hl_it1  " in printed and "at 2 a GPU hour" in printed
    assert main([*command, "--mfu", "2"]) == 2 and "--mfu" in capsys.readouterr().err


def test_the_tables_of_the_page_are_those_of_its_commands(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\npython -m egs (estimate [^`]*?)\n```\n\n((?:\|[^\n]*\n)+)", page)
    assert len(blocks) == 3
    for command, table in blocks:
        assert main(shlex.split(command.replace("\\\n", " "))) == 0
        assert capsys.readouterr().out.startswith(table)


@pytest.mark.parametrize("path", sorted(ROOT.glob("egs/*/ssl1/conf/*.yaml")), ids=lambda path: path.name)
def test_a_schedule_says_what_it_costs(path: Path) -> None:
    head = " ".join(line.strip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    ranks, hours = re.search(r"--ranks (\d+) --hours (\d+)", head).groups()
    found = re.search(r"(\d+) h on H100, (\d+) GB of memory per GPU, (\d+) GB of disk", head)
    costs = estimate(load_recipe("harness", config=path), float(hours), Machine(int(ranks)))
    sums = [sum(cost.hours for cost in costs), max(cost.memory for cost in costs) / 1e9]
    assert [int(number) for number in found.groups()] == [
        round(value) for value in [*sums, sum(cost.disk for cost in costs) / 1e9]
    ]  # fmt: skip
