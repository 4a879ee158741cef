from pathlib import Path

import pytest
import torch

from downstream.asr.__main__ import main
from downstream.asr.average import Shares, mean
from downstream.asr.reading import Reader
from downstream.asr.recogniser import Recogniser, load_head, save_recogniser
from upstream.model.card import tree
from upstream.model.encoder import build_encoder, squeezed
from upstream.model.family import Geometry
from upstream.model.modeldir import load_model, model_sha256, read_card, save_model

START = Geometry(
    "start", 2, 32, 2, 64, "logmel", pos_conv_kernel=1, pos_conv_groups=4, stem="convolution", positions="sinusoid"
)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """start/{model,head} at 50 Hz, and what a training made of it, trained/{model,head} at 25 Hz."""
    torch.manual_seed(0)
    start = Recogniser(build_encoder(START)).eval()
    save_model(build_encoder(START), tmp_path / "random", {"name": "random", "geometry": START.facts()})
    save_recogniser(start, tmp_path / "start/model", tmp_path / "start/head", "start", tmp_path / "random", {})
    trained = Recogniser(squeezed(start.encoder), stride=2).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    origin = {"init": {"kind": "fine-tuned", "source_sha256": model_sha256(tmp_path / "start/model")}}
    source = tmp_path / "start/model"
    save_recogniser(trained, tmp_path / "trained/model", tmp_path / "trained/head", "trained", source, origin)
    return tmp_path


def average(folder: Path, out: str, *options: str) -> int:
    return main(
        [
            "average", "--model", f"{folder}/trained/model", "--head", f"{folder}/trained/head",
            "--start-model", f"{folder}/start/model", "--start-head", f"{folder}/start/head",
            "--out", f"{folder}/{out}", *options,
        ]
    )  # fmt: skip


def recogniser(folder: Path, name: str) -> Recogniser:
    return load_head(load_model(folder / name / "model"), folder / name / "head")


def test_the_mean_of_a_squeezed_recogniser_and_its_start(folders: Path) -> None:
    assert average(folders, "mean", "--share", "0.8", "--lower", "1", "--lower-share", "0.5") == 0
    trained, found = recogniser(folders, "trained"), recogniser(folders, "mean")
    start = Recogniser(squeezed(recogniser(folders, "start").encoder))
    start.head.load_state_dict(recogniser(folders, "start").head.state_dict())
    pairs = zip(trained.named_parameters(), start.parameters(), found.parameters(), strict=True)
    for (name, new), old, value in pairs:
        if "upsampler" not in name:
            share = 0.5 if "layers.0." in name else 0.8
            torch.testing.assert_close(value, old + share * (new - old), msg=name)
    reader = Reader(folders / "mean/head", folders / "mean/model")
    assert reader.stride == 2 and len(reader.read_blocks([torch.randn(16000)]).log_probs) == 25
    card = read_card(folders / "mean/model")
    key = model_sha256(folders / "start/model")
    expected = f"mean: 0.8 of this one, 0.2 of its start {key[:12]}; lowest 1 layers 0.5 and 0.5"
    assert card["init"]["kind"] == expected and key in card["lineage"]
    assert card["geometry"]["name"] == "start_fast" and card["geometry"]["squeeze"] == 2
    kinds = [line for line in tree(folders / "mean/model").splitlines() if "init:" in line]
    assert "init: mean" in kinds[0] and "init: fine-tuned" in kinds[1]


def test_a_share_of_none_gives_the_start(folders: Path) -> None:
    assert average(folders, "mean", "--share", "0") == 0
    start = Recogniser(squeezed(recogniser(folders, "start").encoder), stride=2).eval()
    start.head.load_state_dict(recogniser(folders, "start").head.state_dict())
    wav = 0.1 * torch.randn(1, 16000)
    torch.testing.assert_close(recogniser(folders, "mean")(wav)[0], start(wav)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--share", "1.5"], "--share 1.5"),
        (["--lower", "-1"], "--lower -1"),
        (["--lower", "9"], "has 2 layers"),
        (["--lower-share", "0.5"], "also give --lower"),
        (["--start-head", "trained/head"], "--start-model"),
        (["--out", "trained"], "would replace"),
    ],
)
def test_bad_options_are_refused(
    folders: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    named = [f"{folders}/{value}" if "trained" in value else value for value in options]
    assert average(folders, "mean", *named) == 2 and message in capsys.readouterr().err
    assert not (folders / "mean").exists()


def test_recognisers_that_have_no_mean(folders: Path) -> None:
    trained = recogniser(folders, "trained")
    others = {"characters": Recogniser(trained.encoder, ["<blank>", " ", "ا"], stride=2), "in the other": None}
    for message, other in others.items():
        with pytest.raises(ValueError, match=message):
            mean(trained, other or recogniser(folders, "start"), Shares())
