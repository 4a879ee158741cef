"""README and guides match the code: family table, snippets, commands, paths."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from upstream.harness import hubconf
from upstream.model.encoder import build_encoder
from upstream.model.family import FAMILY, Geometry, delta_s, macs_per_second, parameters
from upstream.model.modeldir import save_model

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS = (ROOT / "docs/models.md").read_text(encoding="utf-8")
GUIDES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
PAGES = {ROOT / "README.md": README, ROOT / "CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text("utf-8"), **GUIDES}


def blocks(language: str, text: str = README + MODELS) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    text = "".join("".join(blocks("bash", page)) for page in PAGES.values())
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    """A folder in which `exp/mini/models/harness_st` is a tiny model, as the current folder."""
    folder = tmp_path / "exp" / "mini" / "models"
    torch.manual_seed(0)
    geometry = Geometry("tiny", 2, 16, 2, 32, "logmel", pos_conv_kernel=8, pos_conv_groups=4)
    save_model(build_encoder(geometry), folder / "harness_st", {"name": "harness_st"})
    live = replace(geometry, left_context=32)
    save_model(build_encoder(live), tmp_path / "exp/my/hst_fast_stream/model", {"name": "live"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_MODELS", "exp/mini/models")
    return folder


def reference(name: str) -> Geometry:
    """The HL of the group that a geometry belongs to."""
    group = name.split("_")[0]
    return FAMILY["hl" if group in ("hl", "hs", "hst") else f"{group}_hl"]


def test_family_table_is_the_code():
    found = [line for line in MODELS.splitlines() if re.match(r"\| `\w+` \| (waveform|logmel) ", line)]
    expected = [
        f"| `{name}` | {g.front_end} | {g.layers} x {g.width} | {g.heads} | {g.ffn} | {parameters(g) / 1e6:.2f} "
        f"| {delta_s(g, reference(name)):.1f} | {macs_per_second(g) / 1e9:.3f} |"
        for name, g in FAMILY.items()
        if not g.left_context and not g.cmvn
    ]
    assert found == expected


@pytest.mark.parametrize("number", range(len(blocks("python"))))
@pytest.mark.slow
def test_python_snippets_run_and_give_what_they_say(number, models):
    names: dict = {}
    if "hst.onnx" in blocks("python")[number]:
        from upstream.__main__ import main

        (command,) = [words for words in commands() if words[:4] == ["python", "-m", "upstream", "export"]]
        assert main(command[3:]) == 0
    exec(compile(blocks("python")[number], f"python block {number}", "exec"), names)
    if "hidden_states" in names:
        states = names["hidden_states"]
        assert [s.shape for s in states] == [(1, 50, 16)] * 3 and names["lengths"][0].tolist() == [50]
    elif "session" in names:
        assert names["last_hidden_state"].shape == (2, 49, 16) and names["frames"].tolist() == [49, 15]
    elif "live" in names:
        assert names["frames"].shape == (16, 16) and names["last"].shape == (8, 16)
    elif "features" in names:
        assert names["features"].shape == (1, 49, 16)
    else:
        assert [s.shape for s in names["encoded"].hidden_states] == [(2, 49, 16)] * 3
        assert names["encoded"].frames.tolist() == [49, 15]


@pytest.mark.slow
def test_espnet_configuration_builds_a_front_end(models):
    import upstream

    upstream.register()
    from espnet2.asr.frontend.s3prl import S3prlFrontend

    (text,) = blocks("yaml")
    config = yaml.safe_load(text)
    assert config["frontend"] == "s3prl" and config["freeze_param"] == ["frontend.upstream"]
    frontend = S3prlFrontend(fs=16000, **config["frontend_conf"])
    features, lengths = frontend(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    assert features.shape == (2, 50, 16) and lengths.tolist() == [50, 25]


@pytest.mark.slow
def test_espnet_command_registers_names_and_reaches_the_trainer(capsys):
    from downstream.espnet.__main__ import main

    (command,) = [words for words in commands() if words[:3] == ["python", "-m", "downstream.espnet"]]
    assert command[3] == "asr_train" and "--config" in command
    with pytest.raises(SystemExit) as stopped:
        main(["asr_train", "--help"])
    assert stopped.value.code == 0 and "--frontend_conf" in capsys.readouterr().out
    import s3prl.hub

    assert "harness_custom" in s3prl.hub.options()


def test_options_of_run_sh_exist():
    usage = subprocess.run([ROOT / "run.sh", "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"--[a-z_]+", usage))
    used = {word for words in commands() if words[0] == "./run.sh" for word in words if word.startswith("--")}
    used |= set(re.findall(r"--[a-z_]+", " ".join(re.findall(r"`(\./run\.sh[^`]*)`", README))))
    assert used and used <= known


def test_info_prints_the_model_of_the_snippets(models, capsys):
    from upstream.__main__ import main

    (command,) = [words for words in commands() if words[:4] == ["python", "-m", "upstream", "info"]]
    assert main(command[3:]) == 0 and capsys.readouterr().out.startswith("model     harness_st")


def test_every_interface_takes_at_most_five_lines():
    section = README.partition("## Use a model")[2].partition("\n## ")[0]
    snippets = blocks("python", section) + blocks("yaml", section) + blocks("bash", section)
    assert len(snippets) >= 7 and max(len(block.splitlines()) for block in snippets) <= 5


@pytest.mark.parametrize("words", [w for w in commands() if w[:3] == ["python", "-m", "upstream"]])
def test_upstream_commands_are_understood(words):
    from upstream.__main__ import parser

    parsed, unknown = parser().parse_known_args(words[3:])
    assert parsed.command == words[3] and not unknown


@pytest.mark.parametrize("words", [w for w in commands() if w[:3] == ["python", "-m", "downstream"]])
def test_downstream_commands_are_understood(words):
    from downstream.__main__ import build_parser

    parsed, unknown = build_parser().parse_known_args(words[3:])
    assert parsed.command == words[3] and not unknown


def test_recipes_and_names_are_all_there():
    listed = set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE))
    assert listed == {path.parent.name for path in (ROOT / "egs").glob("*/recipe.yaml")}
    table = (ROOT / "upstream/harness/README.md").read_text(encoding="utf-8")
    entries = {name for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")}
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == entries


def test_paths_in_the_text_exist():
    paths = []
    for page, text in PAGES.items():
        paths += [
            ROOT / path for path in re.findall(r"`((?:corpora|upstream|downstream|egs|tests|docs)/[\w./]*)`", text)
        ]
        paths += [page.parent / path for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", text)]
    assert len(paths) > 30
    assert [str(path) for path in paths if not path.exists()] == []


def test_readme_is_short_enough_to_be_read():
    assert len(README.splitlines()) <= 175
