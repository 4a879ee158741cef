"""Sweep over PCA and k: measures against loops and scikit-learn, resume after a kill, one pass over the audio."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from corpora.audio import read_audio, write_audio
from corpora.datadir import read_datadir, write_datadir
from upstream.__main__ import main
from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder
from upstream.model.family import geometry
from upstream.model.modeldir import save_model
from upstream.units.codebook import Codebook
from upstream.units.features import open_source
from upstream.units.sweep import Sweep, parse_dimensions, sweep

SHAPE = geometry("mini_hl", layers=3, width=32, heads=2, ffn=64, pos_conv_groups=4, pos_conv_kernel=8)


@pytest.fixture(scope="module")
def place(tmp_path_factory, noise_corpus):
    root = tmp_path_factory.mktemp("sweep")
    noise_corpus(root / "data", 8, 4, samples=(16000, 40000))
    torch.manual_seed(0)
    save_model(build_encoder(SHAPE), root / "model", {"name": "teacher"})
    return root


CONFIG = {"layer": 2, "pca": [4, 0.9, None], "k": [8, 20], "against": [1, 3]}


def rows(out):
    with open(out / "sweep.csv", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def swept(place):
    sweep(place / "data", place / "out", Sweep(str(place / "model"), **CONFIG))
    return place / "out"


def test_every_pair_has_a_row_and_the_features_are_gone(swept):
    assert [(r["pca"], r["k"]) for r in rows(swept)] == [(p, k) for p in ("4", "0.9", "none") for k in ("8", "20")]
    assert (swept / "sweep.png").stat().st_size > 10_000 and not (swept / "features").exists()
    kept = {r["pca"]: float(r["explained_variance"]) for r in rows(swept)}
    assert kept["4"] < 0.9 <= kept["0.9"] < kept["none"] == 1.0


def test_measures_are_those_of_the_definitions(place, swept):
    """One row again from scratch, with plain loops and scikit-learn."""
    frames = {}
    for split in ("train", "dev"):
        for layer in (1, 2):
            source = open_source(str(place / "model"), layer)
            utterances = read_datadir(place / "data" / split)
            frames[split, layer] = [source.features([read_audio(u.audio)])[0].numpy() for u in utterances]
    codebook = Codebook.fit(np.concatenate(frames["train", 2]), 8, pca=4)
    labels = [codebook.assign(x) for x in frames["dev", 2]]
    runs = [1 + int((np.diff(x) != 0).sum()) for x in labels]
    joint = np.concatenate(labels)
    shares = np.bincount(joint, minlength=8) / len(joint)
    entropy = -sum(p * np.log2(p) for p in shares if p > 0)
    reference = Codebook.fit(np.concatenate(frames["train", 1]), 100).assign(np.concatenate(frames["dev", 1]))
    speakers = np.repeat([u.speaker for u in read_datadir(place / "data" / "dev")], [len(x) for x in labels])
    row = rows(swept)[0]
    # Batches of other neighbours move a feature by rounding, and a frame on a border with it.
    assert float(row["entropy"]) == pytest.approx(entropy, abs=0.02)
    assert float(row["run_ms"]) == pytest.approx(20 * len(joint) / sum(runs), rel=0.02)
    assert int(row["in_use"]) == int((shares > 0).sum())
    assert float(row["speaker_nmi"]) == pytest.approx(normalized_mutual_info_score(speakers, joint), abs=0.01)
    by_layer = dict(part.split(":") for part in row["by_layer"].split())
    assert float(by_layer["1"]) == pytest.approx(normalized_mutual_info_score(reference, joint), abs=0.03)
    assert set(by_layer) == {"1", "3"}


@pytest.fixture
def fits(monkeypatch):
    """k of every codebook that is fitted."""
    fit, done = Codebook.fit, []

    def counted(features, k, **options):
        done.append(k)
        return fit(features, k, **options)

    monkeypatch.setattr(Codebook, "fit", counted)
    return done


def test_a_killed_sweep_resumes_with_its_stored_features(place, swept, tmp_path, fits, monkeypatch):
    count = Codebook.fit

    def killed(features, k, **options):
        if sum(k in CONFIG["k"] for k in fits) == 3:
            raise KeyboardInterrupt
        return count(features, k, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Codebook, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(place / "data", tmp_path, Sweep(str(place / "model"), **CONFIG))
    assert len(rows(tmp_path)) == 3
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}
    assert len(stored) == 2 * 3
    fits.clear()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        sweep(place / "data", tmp_path, Sweep(str(place / "model"), **CONFIG))
    assert rows(tmp_path) == rows(swept) and sum(k in CONFIG["k"] for k in fits) == 3
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()} == stored


@pytest.mark.slow
def test_another_layer_starts_again_and_a_finished_sweep_does_nothing(place, tmp_path, fits):
    small = {"pca": [2], "k": [4], "against": [0]}
    sweep(place / "data", tmp_path, Sweep(str(place / "model"), layer=1, **small))
    before = rows(tmp_path)
    sweep(place / "data", tmp_path, Sweep(str(place / "model"), layer=3, **small))
    assert rows(tmp_path) != before
    fits.clear()
    sweep(place / "data", tmp_path, Sweep(str(place / "model"), layer=3, **small))
    assert fits == []


@pytest.mark.slow
def test_rows_of_another_grid_stay_but_not_those_of_other_audio(place, tmp_path, fits):
    data, out = tmp_path / "data", tmp_path / "out"
    for split in ("train", "dev"):
        copies = []
        for u in read_datadir(place / "data" / split):
            copies.append(replace(u, audio=tmp_path / "audio" / split / u.audio.name))
            copies[-1].audio.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(u.audio, copies[-1].audio)
        write_datadir(data / split, copies)
    sweep(data, out, Sweep("mfcc", pca=[None, 5], k=[4]))
    table = sweep(data, out, Sweep("mfcc", pca=[9], k=[4]))
    assert [r["pca"] for r in rows(out)] == ["5", "9", "none"] == [x.split()[0] for x in table.splitlines()[1:]]
    fits.clear()
    sweep(data, out, Sweep("mfcc", pca=[9, 5], k=[4]))
    assert fits == []
    first = rows(out)[1]
    write_audio(copies[0].audio, -0.1 * read_audio(copies[0].audio)[::-1])
    sweep(data, out, Sweep("mfcc", pca=[9], k=[4]))
    assert [r["pca"] for r in rows(out)] == ["9"] and rows(out)[0] != first
    with pytest.raises(UpstreamError, match="pca=40 .*39"):
        sweep(data, out, Sweep("mfcc", pca=[7, 40], k=[4]))
    assert len(rows(out)) == 1, "nothing was fitted before the error"


@pytest.mark.slow
def test_the_command_line(place, tmp_path, capsys):
    arguments = ["sweep", "--data", str(place / "data"), "--model", "mfcc", "--out", str(tmp_path / "o")]
    assert main([*arguments, "--pca", "5,none", "--k", "4"]) == 0
    assert "none" in capsys.readouterr().out and len(rows(tmp_path / "o")) == 2
    assert main([*arguments, "--pca", "5,some"]) == 2
    assert "`some`" in capsys.readouterr().err
    assert main([*arguments, "--k", "4,x"]) == 2
    assert main([*arguments, "--against", "1"]) == 2
    assert "mfcc" in capsys.readouterr().err
    other = str(tmp_path / "default")
    assert main([*arguments[:-1], other, "--k", "4"]) == 0
    assert [r["pca"] for r in rows(tmp_path / "default")] == ["16", "32", "none"], "of 39 dimensions"


def test_dimensions_shares_and_none():
    assert parse_dimensions("16, 0.95,none") == [16, 0.95, None]
    with pytest.raises(UpstreamError):
        Sweep("mfcc", k=[])


def test_units_of_normalised_features_say_less_of_the_channel(tmp_path, noise_corpus):
    """Two speakers, one of them with a microphone of its own: `cmvn` removes what it adds, and starts a new table."""
    data = tmp_path / "data"
    noise_corpus(data, 8, 8, samples=(16000, 24000))
    for u in read_datadir(data / "train") + read_datadir(data / "dev"):
        if u.speaker.endswith("1"):
            wav = read_audio(u.audio)
            write_audio(u.audio, 0.02 * np.cumsum(wav - wav.mean()).astype(np.float32))
    shares = []
    for cmvn in (False, True):
        sweep(data, tmp_path / "out", Sweep("mfcc", pca=[None], k=[8], cmvn=cmvn))
        shares.append(float(rows(tmp_path / "out")[0]["speaker_nmi"]))
    assert len(rows(tmp_path / "out")) == 1 and shares[1] < 0.7 * shares[0]
