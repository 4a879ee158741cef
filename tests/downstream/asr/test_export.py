"""A recogniser that is exported for Transformers: the same logits and texts as ours, in its pipeline too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import upstream
from corpora.files import read_json, write_json
from downstream import DownstreamError
from downstream.asr.__main__ import main
from downstream.asr.export import export_recogniser, vocabulary
from downstream.asr.reading import Reader
from downstream.asr.recogniser import CHARACTERS, Recogniser, load_head, save_head
from upstream.model.encoder import build_encoder
from upstream.model.family import Geometry
from upstream.model.modeldir import load_model, model_sha256, save_model

SIZES = {"pos_conv_kernel": 8, "pos_conv_groups": 4}


def trained(folder: Path, geometry: Geometry) -> tuple[Path, Path]:
    """A model and a head directory; its weights are large, so that frames get different characters."""
    torch.manual_seed(0)
    model = Recogniser(build_encoder(geometry)).eval()
    with torch.no_grad():
        model.head.weight.mul_(40)
    save_model(model.encoder, folder / "model", {"name": "tiny"})
    save_head(model, folder / "head", {"upstream": "model", "upstream_key": model_sha256(folder / "model")})
    return folder / "model", folder / "head"


def test_the_pipeline_gives_our_text(tmp_path: Path) -> None:
    from transformers import AutoModelForCTC, AutoProcessor, pipeline

    upstream.register("transformers")
    model, head = trained(tmp_path, Geometry("tiny", 2, 32, 2, 64, "logmel", **SIZES))
    out = tmp_path / "whole"
    assert main(["export", "--model", str(model), "--head", str(head), "--out", str(out)]) == 0
    wav = np.random.default_rng(0).normal(0, 0.1, 40000).astype(np.float32)
    wav[:20000] *= 0.01
    ours = Reader(head, model, engine="torch").read_blocks([torch.from_numpy(wav)])
    theirs = pipeline("automatic-speech-recognition", str(out))
    assert type(theirs.model).__name__ == "LogMelHubertForCTC"
    assert len(ours.text) > 10 and " ".join(theirs(wav)["text"].split()) == ours.text

    inputs = AutoProcessor.from_pretrained(out)(
        [wav, wav[:9000]], sampling_rate=16000, return_tensors="pt", padding=True
    )
    with torch.no_grad():
        logits = AutoModelForCTC.from_pretrained(out).eval()(**inputs).logits
    np.testing.assert_allclose(logits[0].log_softmax(-1), ours.log_probs, atol=2e-3)
    # Our own functions read the encoder of the directory.
    assert load_head(load_model(out), head)(torch.from_numpy(wav)[None])[1].item() == len(ours.log_probs)


def test_a_head_of_every_second_frame_gives_the_same_text_in_the_pipeline(tmp_path: Path) -> None:
    from transformers import pipeline

    upstream.register("transformers")
    model, head = trained(tmp_path, Geometry("tiny", 2, 32, 2, 64, "logmel", squeeze=2, **SIZES))
    written = read_json(head / "head.json")
    write_json(head / "head.json", written | {"stride": 2})
    export_recogniser(model, head, tmp_path / "whole")
    wav = np.random.default_rng(0).normal(0, 0.1, 40000).astype(np.float32)
    ours = Reader(head, model, engine="torch").read_blocks([torch.from_numpy(wav)])
    theirs = pipeline("automatic-speech-recognition", str(tmp_path / "whole"))(wav)["text"]
    assert len(ours.text) > 10 and " ".join(theirs.split()) == ours.text


def test_the_tokenizer_has_the_classes_of_the_head(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model, head = trained(tmp_path, Geometry("tiny", 2, 32, 2, 64, "logmel", **SIZES))
    tokenizer = AutoTokenizer.from_pretrained(export_recogniser(model, head, tmp_path / "whole"))
    text = "قل هو الله احد"
    assert tokenizer(text).input_ids == load_head(load_model(model), head).encode_text(text)
    assert tokenizer.decode(tokenizer("رب قل").input_ids) == "رب قل"


def test_a_foreign_encoder_and_characters_without_tokens_are_refused(tmp_path: Path) -> None:
    geometry = Geometry("tiny", 2, 32, 2, 64, "logmel", **SIZES)
    _, head = trained(tmp_path, geometry)
    other = save_model(build_encoder(geometry), tmp_path / "other", {"name": "other"})
    with pytest.raises(DownstreamError, match="other weights.*--model"):
        export_recogniser(other, head, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    waveform = Geometry("tiny", 2, 32, 2, 64, "waveform", conv_channels=8, **SIZES)
    with pytest.raises(DownstreamError, match="only recognisers with a log-mel"):
        export_recogniser(*trained(tmp_path / "waveform", waveform), tmp_path / "whole")
    for characters in (["<blank>", " ", "|"], ["<blank>", "ا", "ا"], ["<blank>", "لا"]):
        with pytest.raises(DownstreamError, match="must differ"):
            vocabulary(characters)
    assert vocabulary(CHARACTERS)["|"] == 1
