import json
from pathlib import Path

import numpy as np
import pytest
import torch

from corpora.audio import write_audio
from corpora.prepare.packed import pack
from downstream.asr.cut import cut, cut_store
from downstream.asr.recogniser import CHARACTERS, Recogniser, save_head
from downstream.asr.train_ctc import Clips, Source
from upstream.model.encoder import build_encoder
from upstream.model.family import Geometry
from upstream.model.modeldir import model_sha256, save_model

INDEX = {character: i for i, character in enumerate(CHARACTERS)}


def _spoken(words: list[str], pauses: list[int], frames: int = 10) -> np.ndarray:
    """Log-probabilities in which each character takes `frames` frames, and each word is followed by its pause."""
    labels: list[int] = []
    for word, pause in zip(words, pauses, strict=True):
        for character in word:
            labels += [INDEX[character]] * frames + [0]
        labels += [0] * (pause // 2) + [1] * bool(pause) + [0] * (pause // 2)
    probabilities = np.full((len(labels), len(CHARACTERS)), 1e-4)
    probabilities[np.arange(len(labels)), labels] = 0.99
    return np.log(probabilities)


def test_pieces_have_all_words_and_end_in_the_longest_pauses() -> None:
    words = ["قل", "هو", "الله", "احد", "الله", "الصمد"]
    log_probs = _spoken(words, [2, 110, 2, 2, 30, 0])
    seconds = len(log_probs) * 0.02
    pieces = cut(log_probs, words, INDEX, seconds, longest=4.0)
    assert [piece.text for piece in pieces] == ["قل هو", "الله احد الله", "الصمد"]
    assert pieces[0].start == 0.0 and pieces[-1].end == seconds
    assert [a.end for a in pieces[:-1]] == [b.start for b in pieces[1:]]
    assert all(piece.end - piece.start <= 4.0 for piece in pieces)
    assert 0.94 < pieces[0].end < 3.14  # inside the pause of 110 frames behind 47 frames
    assert max(piece.loss for piece in pieces) < 0.2


def test_a_piece_with_another_text_is_unlikely() -> None:
    log_probs = _spoken(["قل", "هو"], [60, 0])
    first, second = cut(log_probs, ["قل", "مع"], INDEX, len(log_probs) * 0.02, longest=1.5)
    assert first.loss < 0.2 and second.loss > 1.5


def test_a_word_longer_than_a_piece_stays_whole() -> None:
    log_probs = _spoken(["المستقيم", "قل"], [20, 0], frames=20)
    pieces = cut(log_probs, ["المستقيم", "قل"], INDEX, len(log_probs) * 0.02, longest=1.0)
    assert [piece.text for piece in pieces] == ["المستقيم", "قل"]


def test_a_store_is_cut_into_clips_that_training_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Recogniser(build_encoder(Geometry("tiny", 1, 32, 2, 64, "logmel", pos_conv_kernel=8, pos_conv_groups=4)))
    save_model(model.encoder, tmp_path / "model", {"name": "tiny"})
    key = model_sha256(tmp_path / "model")
    save_head(model, tmp_path / "head", {"upstream": "model", "upstream_key": key, "text_profile": "modern"})
    rng = np.random.default_rng(0)
    for name, seconds in (("a", 2), ("b", 7)):
        write_audio(tmp_path / f"{name}.wav", rng.uniform(-0.3, 0.3, 16000 * seconds))
    pack({name: tmp_path / f"{name}.wav" for name in "ab"}, tmp_path / "store")
    (tmp_path / "text").write_text("a قل هو\nb قل هو الله احد الله الصمد\n", encoding="utf-8")
    arguments = (tmp_path / "head", tmp_path / "model", tmp_path / "store", tmp_path / "text", tmp_path / "cut")
    hours = cut_store(*arguments, longest=3.0)
    assert sum(hours.values()) == pytest.approx(9 / 3600, rel=1e-6)
    first = (tmp_path / "cut.segments").read_bytes()
    done = tmp_path / "cut.jsonl"
    assert [json.loads(line)["id"] for line in done.read_text(encoding="utf-8").splitlines()] == ["b"]
    with open(done, "a", encoding="utf-8") as file:
        file.write('{"id": "a", "pie')  # a killed run
    cut_store(*arguments, longest=3.0)
    assert (tmp_path / "cut.segments").read_bytes() == first
    clips = Clips(Source(str(tmp_path / "store"), str(tmp_path / "cut.text"), segments=str(tmp_path / "cut.segments")))
    assert len(clips["a-000"]) == clips.samples("a-000") == 32000
    assert all(clips.samples(name) == len(clips[name]) for name in clips)
