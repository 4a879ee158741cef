"""Linear probes for speaker and language on hidden states of small models."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from corpora.audio import write_audio
from corpora.datadir import Utterance, write_datadir
from downstream import DownstreamError
from downstream.__main__ import main
from downstream.traits import TraitSet, pooled_states, probe_models, recall_difference, score_answers
from upstream.model.encoder import build_encoder
from upstream.model.family import geometry
from upstream.model.modeldir import save_model

WORDS = ["نعم", "لا", "شكرا", "يمين", "يسار", "صفر"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("large", "small")):
        torch.manual_seed(seed)
        model = build_encoder(geometry("mini_hst", layers=2 - seed)).eval()
        model.feature_extractor.set_statistics(torch.full((80,), -6.0), torch.full((80,), 3.0))
        save_model(model, root / name, {"name": name})
    return {name: root / name for name in ("large", "small")}


def tone(pitch: float, word: int, samples: int) -> np.ndarray:
    """A buzz of the speaker's pitch; the word is in its loudness over time."""
    time = np.arange(samples) / 16000
    buzz = sum(np.sin(2 * np.pi * k * pitch * time) / k for k in range(1, 8))
    return (0.05 * buzz * (1.2 + np.sin(2 * np.pi * (word + 1) * time))).astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Six speakers of one pitch each; three of them, whose pitch is high, speak English."""
    root = tmp_path_factory.mktemp("traits")
    rows = []
    for number, pitch in enumerate((80, 100, 125, 250, 320, 400)):
        for word, text in enumerate(WORDS):
            for take in range(2):
                path = root / "audio" / f"{number}-{word}-{take}.wav"
                path.parent.mkdir(exist_ok=True)
                samples = 6000 + 160 * word + 37 * take
                write_audio(path, tone(pitch * (1 + 0.01 * take), word, samples))
                rows.append(Utterance(f"s{number}-{word}{take}", f"s{number}", path, samples, text=text,
                                      language="en" if number > 2 else "ar"))  # fmt: skip
    write_datadir(root / "speaker/train", [r for r in rows if r.text in WORDS[:4]])
    write_datadir(root / "speaker/test", [r for r in rows if r.text in WORDS[4:]])
    write_datadir(root / "language/train", [r for r in rows if r.speaker in ("s0", "s2", "s3", "s5")])
    write_datadir(root / "language/test", [r for r in rows if r.speaker in ("s1", "s4")])
    return root


def test_probes_find_speaker_and_language(models, data):
    probes = probe_models(models, data, against=["large"], reference="large")
    states = {(p.model, p.trait, p.state) for p in probes}
    assert len(states) == len(probes) == 2 * (3 + 2)
    chosen = {(p.model, p.trait): p for p in probes if p.chosen}
    assert len(chosen) == 4
    for (_, trait), probe in chosen.items():
        assert probe.value > 0.9, (trait, probe)
        assert probe.classes == {"speaker": 6, "language": 2}[trait]
    assert chosen["large", "speaker"].delta_s == 0 < chosen["small", "speaker"].delta_s
    # The chosen state is compared with the other's chosen state, the top with the top, also where one state is both.
    value = {(p.model, p.trait, p.state): p.value for p in probes}
    for probe in probes:
        if probe.model == "large":
            assert probe.differences == ()
            continue
        (found,) = probe.differences
        assert found.against == "large"
        assert (found.chosen is None) is not probe.chosen and (found.top is None) is (probe.state < 1)
        if found.chosen:
            assert found.chosen[0] == pytest.approx(probe.value - chosen["large", probe.trait].value)
        if found.top:
            assert found.top[0] == pytest.approx(probe.value - value["large", probe.trait, 2])
            assert found.top[1] <= found.top[0] <= found.top[2]
    assert all(p.ci_low <= p.value <= p.ci_high for p in probes)


def test_the_state_is_chosen_without_the_test_part(models, data, tmp_path):
    """With the labels of the test shuffled the same state is reported, and its recall falls to chance."""
    from corpora.datadir import read_datadir

    for split in ("train", "test"):
        rows = read_datadir(data / "speaker" / split)
        if split == "test":
            names = np.random.default_rng(0).permutation([r.speaker for r in rows])
            pairs = enumerate(zip(names, rows, strict=True))
            rows = [Utterance(f"{s}-{i:02d}", s, r.audio, r.samples, text=r.text) for i, (s, r) in pairs]
        write_datadir(tmp_path / "speaker" / split, rows)
    one = {"large": models["large"]}
    own, other = (next(p for p in probe_models(one, folder, reference="large") if p.chosen and p.trait == "speaker")
                  for folder in (data, tmp_path))  # fmt: skip
    assert (own.state, own.held_out) == (other.state, other.held_out)
    assert other.value < 0.6 < own.value


def test_batches_change_nothing(models, data):
    from corpora.datadir import read_datadir
    from upstream.model.modeldir import load_model

    model, rows = load_model(models["large"]).eval(), read_datadir(data / "speaker/test")
    together = pooled_states(model, rows, "together")
    np.testing.assert_allclose(pooled_states(model, rows, "single", pass_seconds=0.0), together, atol=1e-5)
    assert together.shape == (3, len(rows), 64)


def test_the_command_writes_table_states_and_figure(models, data, tmp_path, capsys):
    given = ",".join(f"{name}={path}" for name, path in models.items())
    arguments = ["traits", "--models", given, "--data", str(data), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--against", "large"]) == 0
    shown = capsys.readouterr().out
    assert "6 classes; training: 48 recordings; test: 24 of 6 speakers" in shown
    with open(tmp_path / "out" / "traits.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {"chosen_against_large", "top_against_large_low"} < rows[0].keys() and rows[0]["top_against_large"] == ""
    assert len(rows) == 10 and sum(row["chosen"] == "True" for row in rows) == 4
    page = (tmp_path / "out" / "TRAITS.md").read_text(encoding="utf-8")
    assert "## Linear probes for the speaker" in page and "ΔS against large" in page
    assert "--against large" in page and "| small |" in " ".join(page.split())
    assert (tmp_path / "out" / "traits.png").stat().st_size > 5000

    assert main(["traits", "--models", "large", "--data", str(data), "--out", str(tmp_path)]) == 2
    assert "NAME=DIR" in capsys.readouterr().err
    assert main([*arguments, "--against", "large,lage"]) == 2
    assert "not among the models (large, small)" in capsys.readouterr().err


def test_data_without_classes_is_refused(models, data, tmp_path):
    with pytest.raises(DownstreamError, match="speaker/"):
        probe_models(models, tmp_path, reference="large")
    from corpora.datadir import read_datadir

    write_datadir(tmp_path / "speaker/train", [r for r in read_datadir(data / "speaker/train") if r.speaker < "s2"])
    write_datadir(tmp_path / "speaker/test", read_datadir(data / "speaker/test"))
    with pytest.raises(DownstreamError, match="s2"):
        probe_models(models, tmp_path, reference="large")
    two = [r for r in read_datadir(data / "language/train") if r.speaker in ("s0", "s3")]
    write_datadir(tmp_path / "language/train", two)
    write_datadir(tmp_path / "language/test", read_datadir(data / "language/test"))
    (tmp_path / "speaker").rename(tmp_path / "aside")
    with pytest.raises(DownstreamError, match="too few"):
        probe_models(models, tmp_path, reference="large")
    write_datadir(tmp_path / "language/test", two)
    with pytest.raises(DownstreamError, match="s0 .*train"):
        probe_models(models, tmp_path, reference="large")
    (tmp_path / "aside").rename(tmp_path / "speaker")
    write_datadir(tmp_path / "speaker/test", [r for r in read_datadir(data / "speaker/test") if r.speaker == "s0"])
    with pytest.raises(DownstreamError, match="at least two"):
        probe_models(models, tmp_path, reference="large")


def test_intervals_are_those_of_drawn_speakers():
    """Where every speaker is a class, a draw is the mean over the speakers drawn, those drawn twice counted twice."""
    right = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    speakers = tuple(f"s{i // 2}" for i in range(8))
    run = score_answers(
        TraitSet(np.array(speakers), np.array(speakers), speakers, []), np.where(right, speakers, "other")
    )
    assert run.recall == pytest.approx(right.mean()) and set(run.strata) == {""}
    shares = np.array([1.0, 0.5, 0.0, 1.0])
    drawn = run.drawn()
    assert drawn.mean() == pytest.approx(shares.mean(), abs=0.01)
    assert drawn.std() == pytest.approx(shares.std() / 2, rel=0.03)  # of a mean of four


def test_languages_are_drawn_apart_and_count_alike():
    labels = np.array(["ar"] * 12 + ["en"] * 4)
    speakers = tuple(["a", "b", "c"][i % 3] for i in range(12)) + ("x", "x", "y", "y")
    answers = np.array(["ar"] * 12 + ["ar", "ar", "en", "en"])
    run = score_answers(TraitSet(labels, np.array(speakers), speakers, []), answers)
    assert run.recall == pytest.approx(0.75)
    # All of Arabic is right in every draw; of English none, one or both of two speakers.
    assert set(np.round(run.drawn(), 6)) == {0.5, 0.75, 1.0}


def test_the_difference_is_of_paired_draws():
    labels = np.array(["x", "y", "x", "y", "x", "y"])
    speakers = ("a", "a", "b", "b", "c", "c")
    part = TraitSet(labels, np.array(speakers), speakers, [])
    bad = score_answers(part, np.array(["x", "x", "x", "y", "y", "x"]))
    assert recall_difference(bad, bad) == (0, 0, 0) and np.ptp(bad.drawn()) > 0
    good = score_answers(part, labels)
    value, low, high = recall_difference(good, bad)
    assert value == pytest.approx(0.5) and low < value < high
