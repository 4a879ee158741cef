"""The directory of a recogniser that ships: 16-bit weights, heads that belong to them, export, card, sums."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import upstream
from corpora.audio import write_audio
from downstream.__main__ import main as downstream
from downstream.asr.__main__ import main
from downstream.asr.reading import ONNX_FILE, Reader
from downstream.asr.recogniser import Recogniser, save_head
from downstream.asr.ship import SUMS, sums
from upstream import shipped as module
from upstream.harness import hubconf
from upstream.model.encoder import build_encoder, encode
from upstream.model.family import Geometry
from upstream.model.modeldir import load_model, model_sha256, read_card, save_model
from upstream.names import SHIPPED

# Layers are wide enough that their weights are rounded.
SMALL = Geometry("small", 1, 64, 2, 128, "logmel", stem="convolution", positions="sinusoid")
FACTS = """summary: A recogniser of tones.
data: [{name: tones, hours: 1.5, licence: CC0}, {name: noise, hours: 0.5, licence: none stated}]
not_for: [speech]
licence: cc-by-4.0
licence_text: Weights CC BY 4.0.
"""


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with `model` and `head` as a training leaves them, and the texts of a card."""
    torch.manual_seed(0)
    model = Recogniser(build_encoder(SMALL)).eval()
    card = {"name": "start", "hours_heard": 3.0, "recogniser_teacher": {"weight": 1.0}}
    save_model(model.encoder, tmp_path / "model", card)
    description = {"upstream": "model", "upstream_key": model_sha256(tmp_path / "model"), "find": {"share": 0.2}}
    save_head(model, tmp_path / "head", description)
    (tmp_path / "card.yaml").write_text(FACTS, encoding="utf-8")
    (tmp_path / "scores.md").write_text("| CER |\n|---:|\n| 4.2 [4.0, 4.4] |\n", encoding="utf-8")
    return tmp_path


def ship(folder: Path, *further: str, out: str = "models/harness_open") -> int:
    given = ["--model", "model", "--head", "head", "--facts", "card.yaml", "--scores", "scores.md", "--out", out]
    paths = [str(folder / word) if i % 2 else word for i, word in enumerate(given)]
    return main(["ship", *paths, *further])


def test_weights_are_rounded_and_every_interface_reads_them_as_fp32(trained: Path, monkeypatch) -> None:
    assert ship(trained) == 0
    made = trained / "models/harness_open"
    held, exact = load_file(made / "model.safetensors"), load_file(trained / "model/model.safetensors")
    weight = "encoder.layers.0.feed_forward.intermediate_dense.weight"
    assert held[weight].dtype == torch.float16 and torch.equal(held[weight], exact[weight].half())
    assert torch.equal(held["feature_extractor.dft"], exact["feature_extractor.dft"])
    assert (made / "model.safetensors").stat().st_size < (trained / "model/model.safetensors").stat().st_size
    wav = 0.1 * torch.randn(9000, generator=torch.Generator().manual_seed(1))
    loaded = load_model(made)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    with torch.no_grad():
        top = encode(loaded, [wav]).hidden_states[-1]
        upstream.register("transformers")
        from transformers import AutoModel

        theirs = AutoModel.from_pretrained(made)
        assert {p.dtype for p in theirs.parameters()} == {torch.float32}
        torch.testing.assert_close(theirs(wav[None]).last_hidden_state, top, atol=2e-5, rtol=1e-4)
        states = hubconf.harness_custom(str(made))([wav])["hidden_states"]
        torch.testing.assert_close(states[-1][:, : top.shape[1]], top, atol=2e-5, rtol=1e-4)


def test_head_export_card_and_sums_belong_to_the_rounded_weights(trained: Path) -> None:
    assert ship(trained) == 0
    made = trained / "models/harness_open"
    reader = Reader(made / "letters")
    assert reader.engine == "onnx" and reader.description["upstream"] == "harness_open"
    assert reader.description["upstream_key"] == model_sha256(made) and reader.description["find"] == {"share": 0.2}
    checked = subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=made, capture_output=True, text=True)
    assert checked.returncode == 0 and len((made / SUMS).read_text().splitlines()) == 7, checked.stderr
    card = (made / "README.md").read_text(encoding="utf-8")
    for text in (
        "license: cc-by-4.0",
        "| tones | 1.5 | CC0 |",
        "| all | 2 | |",
        "4.2 [4.0, 4.4]",
        "- speech",
        "`int8.onnx`",
    ):
        assert text in card
    source = model_sha256(trained / "model")
    assert "recogniser_teacher" not in read_card(made)
    assert read_card(made)["lineage"][source]["recogniser_teacher"] == {"weight": 1.0}
    assert "rounded to 16 bits" in card and f"[{source[:12]}]" in card
    assert read_card(made)["lineage"][source]["name"] == "start"


def test_transcribe_and_find_use_it_where_no_head_is_named(trained: Path, monkeypatch, capsys) -> None:
    audio = trained / "tone.wav"
    write_audio(audio, np.random.default_rng(0).uniform(-0.3, 0.3, 16000))
    (trained / "texts").write_text("a كتاب\n", encoding="utf-8")
    monkeypatch.setattr(module, "MODELS", trained / "models")
    assert downstream(["transcribe", str(audio)]) == 2
    assert "lacks this model" in (said := capsys.readouterr().err) and "--model" in said
    assert ship(trained) == 0
    capsys.readouterr()
    assert downstream(["transcribe", str(audio)]) == 0
    assert downstream(["find", str(audio), "--texts", str(trained / "texts")]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["seconds"] == 1.0 and second["text"] == first["text"]
    monkeypatch.chdir(trained)
    assert ship(trained, "--no-onnx", out="models/harness_open_tiny") == 0
    tiny = trained / "models/harness_open_tiny"
    assert not (tiny / ONNX_FILE).exists() and ONNX_FILE not in (tiny / "README.md").read_text(encoding="utf-8")
    text = Reader(tiny / "letters", engine="torch").read(audio).text
    capsys.readouterr()
    lists = ["--texts", str(trained / "texts")]
    inside = "models/harness_open_tiny"
    for named in (
        "harness_open_tiny",
        "harness_open_tiny/letters",
        inside,
        f"{inside}/letters",
        f"{inside}/letters/head.json",
    ):
        for command in (["transcribe", str(audio)], ["find", str(audio), *lists]):
            assert downstream([*command, "--model", named]) == 0
            assert json.loads(capsys.readouterr().out)["text"] == text
    for command in (["transcribe", str(audio)], ["find", str(audio), *lists]):
        assert downstream([*command, "--model", "harness_opne"]) == 2
        assert "these ship: harness_open, harness_open_tiny" in capsys.readouterr().err
    (trained / "harness_open_tiny").mkdir()  # a folder of this name here is meant first
    for named in ("harness_open_tiny", "harness_open_tiny/letters"):
        assert downstream(["transcribe", str(audio), "--model", named]) == 2
        assert named in capsys.readouterr().err
    assert downstream(["web", "--head", "harness_open/words"]) == 2
    assert "words: head.json is missing; name a head directory with --head" in capsys.readouterr().err
    assert downstream(["emotion", str(audio)]) == 2 and "required: --model" in capsys.readouterr().err
    shutil.rmtree(trained / "models/harness_open/letters")
    assert downstream(["transcribe", str(audio)]) == 2
    assert "letters: head.json is missing" in capsys.readouterr().err


def test_what_cannot_ship_leaves_nothing(trained: Path, capsys) -> None:
    (trained / "scores.md").write_text(" \n", encoding="utf-8")
    assert ship(trained) == 2 and "scores are empty" in capsys.readouterr().err
    (trained / "scores.md").write_text("| CER |", encoding="utf-8")
    (trained / "card.yaml").write_text(FACTS.replace("licence: CC0", "license: CC0"), encoding="utf-8")
    assert ship(trained) == 2 and "data" in capsys.readouterr().err
    (trained / "card.yaml").write_text(FACTS, encoding="utf-8")
    assert ship(trained, "--head", str(trained / "head")) == 2 and "each name once" in capsys.readouterr().err
    other = save_model(build_encoder(SMALL), trained / "other", {"name": "other"})
    assert ship(trained, "--model", str(other)) == 2 and "other weights" in capsys.readouterr().err
    state = load_file(trained / "model/model.safetensors")
    state["feature_projection.conv2.weight"][0, 0, 0] = 1e6
    save_file(state, trained / "model/model.safetensors", metadata={"format": "pt"})
    head = trained / "head/head.json"
    known = json.loads(head.read_text(encoding="utf-8")) | {"upstream_key": model_sha256(trained / "model")}
    head.write_text(json.dumps(known), encoding="utf-8")
    assert ship(trained) == 2 and "conv2.weight` holds values beyond 65,504" in capsys.readouterr().err
    assert not list((trained / "models").glob("*"))


@pytest.mark.parametrize("name", SHIPPED)
def test_models_of_this_repository_are_whole(name: str) -> None:
    folder = module.MODELS / name
    assert (folder / SUMS).read_text(encoding="utf-8") == sums(folder)
    for head in folder.glob("*/head.json"):
        for engine in ("torch", "onnx") if (folder / ONNX_FILE).is_file() else ("torch",):
            reading = Reader(head.parent, engine=engine).read_blocks([torch.zeros(16000)])
            assert np.isfinite(reading.log_probs).all()
