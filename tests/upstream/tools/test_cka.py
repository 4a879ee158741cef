"""CKA against its kernel form, its invariances, and the command on audio of several kinds."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from corpora.audio import write_audio
from corpora.datadir import Utterance, write_datadir
from upstream.__main__ import main
from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder
from upstream.model.family import geometry
from upstream.model.modeldir import save_model
from upstream.tools.cka import audio_clips, compare, table
from upstream.tools.cka import linear_cka as cka_matrix


def features(n: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator).double()
    return torch.randn(n, width, generator=generator).double() @ mixing + 3


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(cka_matrix([x], [y])[0, 0])


def kernel_cka(x: np.ndarray, y: np.ndarray) -> float:
    """The definition by centred Gram matrices and HSIC, n x n."""
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n
    k, m = centre @ (x @ x.T) @ centre, centre @ (y @ y.T) @ centre
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def test_cka_equals_its_kernel_form():
    x, y = features(60, 7, 0), features(60, 11, 1)
    y[:, :7] += x
    assert linear_cka(x, y) == pytest.approx(kernel_cka(x.numpy(), y.numpy()), abs=1e-9)
    assert cka_matrix([x, y], [y])[:, 0] == pytest.approx([linear_cka(x, y), 1.0], abs=1e-9)


def test_cka_ignores_rotation_scale_and_shift_but_not_a_stretch():
    x, y = features(80, 6, 0), features(80, 9, 1)
    rotation = torch.linalg.qr(features(6, 6, 2))[0]
    assert linear_cka(x, x) == pytest.approx(1.0)
    assert linear_cka(x @ rotation * -3.0 + 5.0, y) == pytest.approx(linear_cka(x, y), abs=1e-6)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), abs=1e-12)
    stretch = torch.diag(torch.tensor([100.0, 1, 1, 1, 1, 1]).double())
    assert abs(linear_cka(x @ stretch, y) - linear_cka(x, y)) > 0.01
    assert linear_cka(torch.ones(10, 3), y[:10].float()) == 0.0


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_model(build_encoder(geometry("mini_hst")), folder / "a", {})
    save_model(build_encoder(geometry("mini_hst", layers=3)), folder / "b", {})
    return folder


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("صوت")
    rng = np.random.default_rng(0)
    for i, samples in enumerate((8000, 12000, 100)):
        write_audio(folder / f"مقطع {i}.wav", 0.1 * rng.normal(size=samples))
    return folder


def test_command_prints_a_table_and_writes_a_plot(models, audio, tmp_path, capsys):
    out = tmp_path / "cka.png"
    paths = [str(audio / "مقطع 0.wav"), str(audio)]
    assert main(["compare", str(models / "a"), str(models / "b"), "--audio", *paths, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("Linear CKA of hidden states: a (rows) and b (columns), ")
    assert lines[1].split() == ["state", "0", "1", "2", "3"] and len(lines) == 6
    assert out.read_bytes().startswith(b"\x89PNG")
    with open(out.with_suffix(".csv"), encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 12 and all(0 <= float(r["cka"]) <= 1 for r in rows)
    assert float(rows[0]["cka"]) == pytest.approx(float(lines[2].split()[1]), abs=0.005)


def test_a_model_equals_itself_on_the_diagonal(models, audio):
    found = compare(models / "a", models / "a", [audio], frames=50)
    assert found.clips == 2 and found.frames <= 52
    assert np.diag(found.cka) == pytest.approx(1.0) and np.allclose(found.cka, found.cka.T)
    assert "(rows)" in table(found)


def test_data_directories_are_read_by_their_segments(audio, tmp_path):
    whole = audio / "مقطع 1.wav"
    write_datadir(tmp_path / "d", [Utterance("s-1", "s", whole, 4000, 1000, 5000)])
    assert audio_clips([tmp_path / "d"]) == [("s-1", whole, 1000, 5000)]


def test_missing_audio_and_short_audio_are_refused(models, audio, tmp_path):
    with pytest.raises(UpstreamError, match="nowhere"):
        compare(models / "a", models / "b", [tmp_path / "nowhere"])
    with pytest.raises(UpstreamError, match="no audio"):
        compare(models / "a", models / "b", [tmp_path])
    with pytest.raises(UpstreamError, match="25 ms"):
        compare(models / "a", models / "b", [audio / "مقطع 2.wav"])
    assert main(["compare", str(models / "a"), str(models / "b"), "--audio", str(audio), "--out", "cka.jpg"]) == 2
