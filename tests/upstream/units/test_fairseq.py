"""fairseq's manifest and labels: a round trip, other orders, and mismatches by file and line."""

from pathlib import Path

import numpy as np
import pytest

from corpora.audio import write_audio
from corpora.datadir import Utterance, read_datadir, write_datadir
from upstream.__main__ import main
from upstream.errors import UpstreamError
from upstream.model.encoder import frame_count
from upstream.units.fairseq import export_km, import_km, read_manifest
from upstream.units.units import Units, UnitsInfo, UnitsWriter, check_units

K = 7
INFO = UnitsInfo(50, K, "mfcc", "mfcc", None, None, "c" * 64, None)
SAMPLES = {"a-متكلم-1": 16000, "a-متكلم-2": 8123, "b-1": 400}
KM_INFO = UnitsInfo(50, 100, "logmel", "exp/hl", 4, 32, "c0de", "0de1")
KM_SAMPLES = {"a-متكلم-1": 16000, "a-متكلم-2": 400, "b-1": 5001}


@pytest.fixture
def data(tmp_path):
    """Audio in nested folders, one with a space and an Arabic name."""
    rng = np.random.default_rng(0)
    for split in ("train", "dev"):
        utterances = []
        with UnitsWriter(tmp_path / "units", split, INFO) as out:
            for utt_id, samples in SAMPLES.items():
                path = tmp_path / "audio" / split / utt_id.split("-")[0] / f"مقطع {utt_id}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_audio(path, 0.1 * rng.standard_normal(samples).astype(np.float32))
                utterances.append(Utterance(utt_id, utt_id.split("-")[0], path, samples))
                out.add(utt_id, rng.integers(K, size=frame_count(samples)))
        write_datadir(tmp_path / "data" / split, utterances)
    return tmp_path


def run(data, *arguments):
    return main(["units", "--data", str(data / "data"), *map(str, arguments)])


def test_round_trip_through_fairseqs_files(data):
    assert run(data, "--out", data / "units", "--export-km", data / "km") == 0
    assert sorted(p.name for p in (data / "km").iterdir()) == [
        "dev.km", "dev.tsv", "dict.km.txt", "train.km", "train.tsv",
    ]  # fmt: skip
    assert (data / "km" / "dict.km.txt").read_text().splitlines() == [f"{i} 1" for i in range(K)]
    lines = (data / "km" / "train.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == str(data / "audio" / "train") and lines[1] == "a/مقطع a-متكلم-1.wav\t16000"
    assert run(data, "--out", data / "again", "--import-km", data / "km", f"k={K}") == 0
    for split in ("train", "dev"):
        before, after = Units.open(data / "units", split), Units.open(data / "again", split)
        assert after.info.k == K and after.info.source == "km:km"
        for utt_id in SAMPLES:
            np.testing.assert_array_equal(before[utt_id], after[utt_id])
        assert check_units(after, read_datadir(data / "data" / split), k=K)


def test_a_manifest_of_another_order_and_place_with_windows_line_ends(data):
    """Labels follow their audio, also if the manifest has another root."""
    run(data, "--out", data / "units", "--export-km", data / "km")
    for split in ("train", "dev"):
        rows = (data / "km" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        labels = (data / "km" / f"{split}.km").read_text().splitlines()
        text = "\r\n".join(["D:/elsewhere", *rows[:0:-1]]) + "\r\n"
        (data / "km" / f"{split}.tsv").write_bytes(text.encode())
        (data / "km" / f"{split}.km").write_bytes(("\r\n".join(labels[::-1]) + "\r\n").encode())
    assert run(data, "--out", data / "again", "--import-km", data / "km", f"k={K}") == 0
    before, after = Units.open(data / "units", "train"), Units.open(data / "again", "train")
    assert all(np.array_equal(before[u], after[u]) for u in SAMPLES)


def test_a_mismatch_is_named_with_its_line(data, capsys):
    run(data, "--out", data / "units", "--export-km", data / "km")
    utterances = read_datadir(data / "data" / "train")
    manifest = data / "km" / "train.tsv"
    good = manifest.read_text(encoding="utf-8")
    manifest.write_text(good.replace("16000", "16001"), "utf-8")
    with pytest.raises(UpstreamError, match=r"train.tsv:2: utterance a-متكلم-1 .*16000 .*16001"):
        read_manifest(manifest, utterances)
    manifest.write_text(good.replace("b-1.wav", "b-9.wav"), "utf-8")
    with pytest.raises(UpstreamError, match=r"train.tsv:4: .*b-9.wav"):
        read_manifest(manifest, utterances)
    manifest.write_text(good, "utf-8")
    assert run(data, "--out", data / "again", "--import-km", data / "km") == 2
    assert "k=..." in capsys.readouterr().err
    assert run(data, "--out", data / "again", "--import-km", data / "km", "k=3") == 2
    assert "but k=3" in capsys.readouterr().err and not (data / "again" / "train.json").exists()
    assert run(data, "--out", data / "units", "--export-km", data / "km", "k=3") == 2
    assert "unknown key `k`" in capsys.readouterr().err


def test_segments_have_no_manifest(data, capsys):
    utterances = read_datadir(data / "data" / "train")
    first = utterances[0]
    halves = [Utterance("a-1", "a", first.audio, 8000, 0, 8000), Utterance("a-2", "a", first.audio, 8000, 8000, 16000)]
    write_datadir(data / "data" / "train", halves)
    with UnitsWriter(data / "units", "train", Units.open(data / "units", "dev").info) as out:
        for half in halves:
            out.add(half.utt_id, np.zeros(frame_count(half.samples), int))
    assert run(data, "--out", data / "units", "--export-km", data / "km") == 2
    error = capsys.readouterr().err
    assert "utterance a-1" in error and not (data / "km" / "train.tsv").exists()


def utterances(samples: dict[str, int] = KM_SAMPLES) -> list[Utterance]:
    return [Utterance(utt_id, utt_id[0], Path(f"{utt_id}.wav"), n) for utt_id, n in samples.items()]


def labels_of(samples: dict[str, int] = KM_SAMPLES, k: int = KM_INFO.k) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {utt_id: rng.integers(0, k, frame_count(n)) for utt_id, n in samples.items()}


def write(folder: Path, labels: dict[str, np.ndarray], info: UnitsInfo = KM_INFO) -> Units:
    with UnitsWriter(folder, "train", info) as writer:
        for utt_id, values in labels.items():
            writer.add(utt_id, values)
    return Units.open(folder, "train")


def test_km_round_trip(tmp_path):
    units = write(tmp_path / "units", labels_of())
    manifest = utterances()[::-1]
    export_km(units, tmp_path / "train.km", manifest)
    lines = (tmp_path / "train.km").read_bytes().decode().split("\n")
    assert lines[0] == " ".join(str(label) for label in units["b-1"])
    assert lines[3:] == [""]
    import_km(tmp_path / "train.km", manifest, tmp_path / "again", "train", KM_INFO)
    again = Units.open(tmp_path / "again", "train")
    assert list(again) == [u.utt_id for u in manifest]
    for utt_id in units:
        np.testing.assert_array_equal(again[utt_id], units[utt_id])


def test_km_export_needs_every_utterance(tmp_path):
    units = write(tmp_path, labels_of())
    with pytest.raises(UpstreamError, match="c-1"):
        export_km(units, tmp_path / "train.km", utterances({**KM_SAMPLES, "c-1": 400}))
    assert not (tmp_path / "train.km").exists()


def test_km_of_fairseq_mfcc_at_100_hz(tmp_path):
    rows = {utt_id: np.arange((n - 400) // 160 + 1) % 100 for utt_id, n in KM_SAMPLES.items()}
    text = "\ufeff" + "".join(" ".join(map(str, row)) + "\r\n" for row in rows.values())
    (tmp_path / "train.km").write_bytes(text.encode())
    import_km(tmp_path / "train.km", utterances(), tmp_path, "train", KM_INFO, km_rate=100)
    units = Units.open(tmp_path, "train")
    assert check_units(units, utterances()) == utterances()
    assert units["b-1"].tolist() == rows["b-1"][::2].tolist()
    with pytest.raises(UpstreamError, match=r"train.km:1: utterance a-متكلم-1 .*98 .*49"):
        import_km(tmp_path / "train.km", utterances(), tmp_path, "train", KM_INFO)
    with pytest.raises(UpstreamError, match="25 Hz"):
        import_km(tmp_path / "train.km", utterances(), tmp_path, "train", KM_INFO, km_rate=25)


def test_km_errors_name_the_line(tmp_path):
    path = tmp_path / "train.km"
    rows = [" ".join(map(str, values)) for values in labels_of().values()]
    path.write_text("\n".join(rows[:2]) + "\n")
    with pytest.raises(UpstreamError, match="2 .*3 utterances"):
        import_km(path, utterances(), tmp_path, "train", KM_INFO)
    path.write_text("\n".join([rows[0], "x", rows[2]]) + "\n")
    with pytest.raises(UpstreamError, match="train.km:2: utterance a-متكلم-2"):
        import_km(path, utterances(), tmp_path, "train", KM_INFO)
    path.write_text("\n".join([rows[0], "", rows[2]]) + "\n")
    with pytest.raises(UpstreamError, match="train.km:2: utterance a-متكلم-2 .*0 .*1"):
        import_km(path, utterances(), tmp_path, "train", KM_INFO)
    path.write_text("\n".join([rows[0], "100", rows[2]]) + "\n")
    with pytest.raises(UpstreamError, match="utterance a-متكلم-2 .*100, but k=100"):
        import_km(path, utterances(), tmp_path, "train", KM_INFO)
