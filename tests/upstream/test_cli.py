import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import HubertConfig, HubertModel

from upstream.__main__ import label_set, main
from upstream.config import InitConfig, RegressionConfig
from upstream.model.encoder import build_encoder
from upstream.model.family import geometry, macs_per_second, parameters
from upstream.model.modeldir import save_model
from upstream.units.units import LabelSet

CARD = {
    "name": "نموذج", "iteration": 3, "delta_s": 85.95, "hours": 0.498, "steps": 300, "valid_masked_accuracy": 0.1357,
    "units": {"k": 100, "layer": 3, "pca_dim": 32, "source": "harness_l", "codebook_sha256": "45" * 32},
    "init": {"kind": "first_n", "source_sha256": "5e" * 32}, "init_source": "hl_it2", "data": {"corpora": "mini"},
}  # fmt: skip


def test_info_prints_the_facts_of_a_directory(tmp_path, capsys):
    torch.manual_seed(0)
    save_model(build_encoder(geometry("mini_hst")), tmp_path / "m", CARD)
    assert main(["info", "--json", str(tmp_path / "m")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"] == "نموذج" and facts["parameters"] == parameters(geometry("mini_hst"))
    assert facts["macs_g_per_s"] == round(macs_per_second(geometry("mini_hst")) / 1e9, 4)
    assert main(["info", str(tmp_path / "m")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["model"] == "نموذج" and lines["size"] == "0.12 M parameters, ΔS 85.95 % against HL"
    assert lines["encoder"] == "logmel front end, 2 layers of width 64, 2 heads, FFN 256"
    for fact in ("iteration 3", "300 steps", "0.498 h of audio", "corpora mini", "0.1357"):
        assert fact in lines["training"]
    assert lines["units"].startswith("100 clusters of harness_l, state 3, PCA to 32 dimensions, codebook 4545")
    assert lines["start"].startswith("first_n, from hl_it2, 5e5e")


def test_info_of_a_directory_without_a_card_prints_the_facts_of_its_weights(tmp_path, capsys):
    torch.manual_seed(0)
    model = HubertModel(
        HubertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=[8, 16],
            conv_kernel=[400, 1], conv_stride=[320, 1], num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        )
    )  # fmt: skip
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "preprocessor_config.json").write_text('{"do_normalize": false}')
    assert main(["info", str(tmp_path / "theirs")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("model     theirs\nencoder   waveform front end, 2 layers")
    assert "None" not in out and "cost" not in out


PRETRAIN = ["pretrain", "--data", "d", "--units", "u", "--out", "o", "--geometry", "mini_hst"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["units", "--data", "d", "--out", "o", "kk=3"], "`kk`; the nearest known one is `k`"),
        (["units", "--data", "d", "--out", "o", "k"], "`k`: write settings as key=value"),
        (["pretrain", "--data", "d", "--units", "u", "--out", "o", "--geometry", "hst", "steps=0"], "`steps`"),
        (["info", "nowhere"], "no such model directory"),
        (["lineage", "nowhere"], "no such model directory"),
        (["pretrain", "--data", "d", "--out", "o", "--geometry", "hst"], "--units or --teacher"),
        (["pretrain", "--data", "d", "--out", "o", "--geometry", "hst", "--teacher", "t"], "--teacher-layers"),
        ([*PRETRAIN, "--teacher-layers", "1"], "--teacher-layers"),
        ([*PRETRAIN, "--teacher-normalise"], "--teacher-normalise"),
        ([*PRETRAIN, "--init-layers", "first_n"], "--init-layers"),
        ([*PRETRAIN, "--init", "model", "--init-source", "m", "--init-minutes", "0"], "--init-minutes"),
        ([*PRETRAIN, "--init", "project", "--init-source", "m", "--init-minutes", "-1"], "`init.minutes`"),
        (["pretrain", "--data", "d", "--units", "u", "--out", "o"], "--geometry: name one"),
        (
            ["pretrain", "--data", "d", "--units", "u", "--out", "o", "--init", "nowhere"],
            "nowhere: no such model directory",
        ),
        (["pretrain", "--data", "d", "--out", "o", "--init", "m", "--shards", "s"], "--units or --teacher"),
        (["pretrain", "--data", "d", "--units", "u:0", "--out", "o", "--geometry", "hst"], "weight 0.0"),
    ],
)
def test_errors_are_one_line_with_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_pretrain_receives_its_options(monkeypatch, capsys):
    import upstream.pretrain.train

    asked = {}
    monkeypatch.setattr(
        upstream.pretrain.train,
        "pretrain",
        lambda geometry, data, sets, out, config, init, card, **runs: asked.update(init=init, **runs),
    )
    init = ["--init", "project", "--init-source", "m", "--init-layers", "first_n", "--init-minutes", "0"]
    teacher = ["--teacher", "t", "--teacher-layers", "1,2", "--teacher-weight", "0.5", "--teacher-cosine", "0"]
    assert main([*PRETRAIN, *init, *teacher, "--teacher-normalise"]) == 0
    assert asked["init"] == InitConfig("project", "m", "first_n", 0.0)
    assert asked["regression"] == RegressionConfig("t", [1, 2], 0.5, 0.0, True)
    assert main([*PRETRAIN, "--teacher", "t", "--teacher-layers", "1"]) == 0
    assert asked["init"] == InitConfig() and asked["regression"] == RegressionConfig("t", [1])


def test_label_sets_have_a_name_a_folder_and_a_weight():
    assert label_set("exp/my/units") == LabelSet("units", Path("exp/my/units"))
    assert label_set("low=exp/l-1:0.5") == LabelSet("low", Path("exp/l-1"), 0.5)
    assert label_set("exp/l-1").name == "l_1", "the name must be valid in a column name"
    assert label_set("x=d:/units").folder == Path("d:/units")


def test_help_wrong_options_and_the_table_of_baselines_load_no_heavy_library():
    """torch takes seconds, S3PRL ten, and ESPnet's tokenizers ask the network."""
    code = (
        "import contextlib, io, sys\n"
        "from upstream.__main__ import main\n"
        f"wrong = {[*PRETRAIN, '--teacher-layers', '1']}\n"
        "for words in (['--help'], ['pretrain', '--help'], ['info', '--help'], wrong, ['baselines']):\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main(words)\n"
        "heavy = {'torch', 'transformers', 'lightning', 's3prl', 'espnet2', 'nltk'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
