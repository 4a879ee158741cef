import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from upstream.__main__ import _label_set, main
from upstream.encoder import build_encoder
from upstream.family import geometry, parameters
from upstream.modeldir import save_model
from upstream.targets.labelsets import LabelSet


def test_info_prints_what_the_directory_holds(tmp_path, capsys):
    torch.manual_seed(0)
    save_model(build_encoder(geometry("mini_hst")), tmp_path / "m", {"name": "نموذج", "iteration": 3})
    assert main(["info", str(tmp_path / "m")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"] == "نموذج" and facts["parameters"] == parameters(geometry("mini_hst"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["units", "--data", "d", "--out", "o", "kk=3"], "unknown key `kk`; the nearest known one is `k`"),
        (["units", "--data", "d", "--out", "o", "k"], "write settings as key=value"),
        (["pretrain", "--data", "d", "--units", "u", "--out", "o", "--geometry", "hst", "steps=0"], "at least 1"),
        (["info", "nowhere"], "no such model directory"),
        (["lineage", "nowhere"], "no such model directory"),
        (["pretrain", "--data", "d", "--out", "o", "--geometry", "hst"], "name --units or --teacher"),
        (["pretrain", "--data", "d", "--out", "o", "--geometry", "hst", "--teacher", "t"], "--teacher-layers"),
        (["pretrain", "--data", "d", "--units", "u:0", "--out", "o", "--geometry", "hst"], "weight 0.0 must be"),
    ],
)
def test_errors_are_one_line_with_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_label_sets_have_a_name_a_folder_and_a_weight():
    assert _label_set("exp/my/units") == LabelSet("units", Path("exp/my/units"))
    assert _label_set("low=exp/l-1:0.5") == LabelSet("low", Path("exp/l-1"), 0.5)
    assert _label_set("exp/l-1").name == "l_1", "a name of columns"
    assert _label_set("x=d:/units").folder == Path("d:/units")


def test_imports_without_s3prl_espnet_and_torchaudio():
    """GPU machines have torch and transformers only."""
    code = (
        "import sys\n"
        "for name in ('s3prl', 'espnet', 'espnet2', 'torchaudio'): sys.modules[name] = None\n"
        "import upstream.pretrain, upstream.targets.make, upstream.modeldir, upstream.compression, upstream.__main__\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
