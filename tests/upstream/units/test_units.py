"""Units on disk: what is written comes back, and whatever does not belong together is refused by name."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from corpora.datadir import Utterance
from upstream.model.encoder import frame_count
from upstream.units import units as units_module
from upstream.units.units import (
    Units,
    UnitsError,
    UnitsInfo,
    UnitsWriter,
    check_units,
    export_km,
    import_km,
)

INFO = UnitsInfo(50, 100, "logmel", "exp/hl", 4, 32, "c0de", "0de1")
SAMPLES = {"a-متكلم-1": 16000, "a-متكلم-2": 400, "b-1": 5001}


def utterances(samples: dict[str, int] = SAMPLES) -> list[Utterance]:
    return [Utterance(utt_id, utt_id[0], Path(f"{utt_id}.wav"), n) for utt_id, n in samples.items()]


def labels_of(samples: dict[str, int] = SAMPLES, k: int = INFO.k) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {utt_id: rng.integers(0, k, frame_count(n)) for utt_id, n in samples.items()}


def write(folder: Path, labels: dict[str, np.ndarray], info: UnitsInfo = INFO) -> Units:
    with UnitsWriter(folder, "train", info) as writer:
        for utt_id, values in labels.items():
            writer.add(utt_id, values)
    return Units.open(folder, "train")


def test_what_is_written_comes_back(tmp_path):
    labels = labels_of()
    units = write(tmp_path, labels)
    assert units.info == INFO
    assert list(units) == list(labels)
    for utt_id, values in labels.items():
        assert units[utt_id].dtype == np.uint16
        np.testing.assert_array_equal(units[utt_id], values)
    assert (tmp_path / "train.bin").stat().st_size == 2 * sum(map(len, labels.values()))
    np.testing.assert_array_equal(units.histogram(), np.bincount(np.concatenate([*labels.values()]), minlength=100))
    units.verify()
    with pytest.raises(ValueError, match="read-only"):
        units["b-1"][0] = 1


def test_largest_label_survives(tmp_path):
    info = UnitsInfo(50, 65535, "mfcc", "mfcc", None, None, "c0de", None)
    units = write(tmp_path, {"a": np.array([0, 65534, 256])}, info)
    assert (tmp_path / "train.bin").read_bytes() == b"\x00\x00\xfe\xff\x00\x01"
    assert units["a"].tolist() == [0, 65534, 256]


def test_k_beyond_16_bits_is_refused():
    with pytest.raises(UnitsError, match="65536 does not fit"):
        UnitsInfo(50, 65536, "mfcc", "mfcc", None, None, "c0de", None)


def test_a_spawned_worker_gets_a_name_not_a_copy(tmp_path):
    labels = {"a": np.zeros(100_000, np.int64)}
    content = pickle.dumps(write(tmp_path, labels))
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content)["a"], labels["a"])


def test_writer_refuses_labels_and_repetitions(tmp_path):
    with pytest.raises(UnitsError, match="utterance a has label 100, but k=100"):
        write(tmp_path, {"a": np.array([1, 100])})
    with pytest.raises(UnitsError, match="utterance a has label -1"):
        write(tmp_path, {"a": np.array([-1])})
    with pytest.raises(UnitsError, match="given twice"), UnitsWriter(tmp_path, "train", INFO) as writer:
        writer.add("a", np.array([1]))
        writer.add("a", np.array([1]))
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_old_units(tmp_path):
    before = write(tmp_path, labels_of())["b-1"].copy()
    with pytest.raises(RuntimeError), UnitsWriter(tmp_path, "train", INFO) as writer:
        writer.add("b-1", np.array([1, 2, 3]))
        raise RuntimeError
    np.testing.assert_array_equal(Units.open(tmp_path, "train")["b-1"], before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_leaves_the_old_units(tmp_path):
    before = write(tmp_path, labels_of())["b-1"].copy()
    with pytest.raises(OSError, match="No space left"), UnitsWriter(tmp_path, "train", INFO) as writer:
        writer._file.close()
        writer._file = open("/dev/full", "wb")  # noqa: SIM115
        writer.add("b-1", np.array([1, 2, 3]))
    np.testing.assert_array_equal(Units.open(tmp_path, "train")["b-1"], before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.bin", "train.json"]


def test_an_old_index_never_stands_beside_new_labels(tmp_path, monkeypatch):
    write(tmp_path, labels_of())

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(units_module, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, {utt_id: (values + 1) % 100 for utt_id, values in labels_of().items()})
    with pytest.raises(UnitsError, match="no such units"):
        Units.open(tmp_path, "train")


def test_damaged_files_are_refused(tmp_path):
    with pytest.raises(UnitsError, match="no such units"):
        Units.open(tmp_path, "train")
    units = write(tmp_path, labels_of())
    binary, index = tmp_path / "train.bin", tmp_path / "train.json"
    content = binary.read_bytes()
    binary.write_bytes(content[:-2])
    with pytest.raises(UnitsError, match="train.bin: holds 128 bytes, the index needs 130"):
        Units.open(tmp_path, "train")
    binary.write_bytes(content[::-1])
    with pytest.raises(UnitsError, match="not the file that train.json describes"):
        units.verify()
    binary.unlink()
    with pytest.raises(UnitsError, match="train.bin: is missing"):
        Units.open(tmp_path, "train")
    fields = json.loads(index.read_text(encoding="utf-8"))
    del fields["frame_rate"]
    index.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(UnitsError, match="not an index of units.*frame_rate"):
        Units.open(tmp_path, "train")
    index.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="train.json"):
        Units.open(tmp_path, "train")


def test_check_accepts_what_fits_and_counts_clusters(tmp_path, caplog):
    units = write(tmp_path, labels_of())
    with caplog.at_level("INFO"):
        kept = check_units(units, utterances(), k=100, layer=4, model_sha256="0de1", codebook_sha256="c0de")
    assert kept == utterances()
    assert f"{len(np.unique(units.labels))} of 100 clusters in use" in caplog.text


@pytest.mark.parametrize(
    "expected",
    [
        {"frame_rate": 100},
        {"k": 500},
        {"layer": 12},
        {"layer": None},
        {"model_sha256": "other"},
        {"codebook_sha256": "other"},
        {"front_end": "waveform"},
    ],
)
def test_check_refuses_units_of_something_else(tmp_path, expected):
    units = write(tmp_path, labels_of())
    (name, value), *_ = expected.items()
    with pytest.raises(UnitsError, match=f"{name} is .*, expected {value} .*a-متكلم-1"):
        check_units(units, utterances(), **expected)


def test_check_knows_no_other_field(tmp_path):
    with pytest.raises(TypeError, match="no field `clusters`; known: frame_rate, k"):
        check_units(write(tmp_path, labels_of()), utterances(), clusters=3)


def test_check_names_the_missing_utterance(tmp_path):
    labels = labels_of()
    del labels["a-متكلم-2"]
    with pytest.raises(UnitsError, match="no units for utterance a-متكلم-2"):
        check_units(write(tmp_path, labels), utterances())


@pytest.mark.parametrize("samples", [5001 + 320, 5001 - 320])
def test_check_names_the_utterance_of_another_length(tmp_path, samples):
    units = write(tmp_path, labels_of())
    frames = frame_count(samples)
    with pytest.raises(UnitsError, match=f"utterance b-1 has 15 units, but its {samples} samples give {frames}"):
        check_units(units, utterances({**SAMPLES, "b-1": samples}))


def test_check_names_the_label_beyond_k(tmp_path):
    units = write(tmp_path, labels_of())
    content = bytearray((tmp_path / "train.bin").read_bytes())
    content[2 * 49 : 2 * 50] = (100).to_bytes(2, "little")
    (tmp_path / "train.bin").write_bytes(content)
    with pytest.raises(UnitsError, match="utterance a-متكلم-2 has label 100, but k=100"):
        check_units(units, utterances())


def test_check_refuses_a_single_label(tmp_path):
    units = write(tmp_path, {"a": np.full(frame_count(64000), 7)})
    with pytest.raises(UnitsError, match="every frame from a on has the same label"):
        check_units(units, utterances({"a": 64000}))


def test_left_out_utterances_are_dropped_and_explained(tmp_path):
    labels = labels_of()
    with UnitsWriter(tmp_path, "train", INFO) as writer:
        writer.add("b-1", labels["b-1"])
        writer.leave_out("a-متكلم-1", "truncated")
        writer.leave_out("a-متكلم-2", "too short")
    units = Units.open(tmp_path, "train")
    kept = check_units(units, utterances({**SAMPLES, "a-متكلم-2": 399}))
    assert [u.utt_id for u in kept] == ["b-1"]
    with pytest.raises(KeyError, match="a-متكلم-1 was left out: truncated"):
        units["a-متكلم-1"]


def test_km_round_trip(tmp_path):
    units = write(tmp_path / "units", labels_of())
    manifest = utterances()[::-1]
    export_km(units, tmp_path / "train.km", manifest)
    lines = (tmp_path / "train.km").read_bytes().decode().split("\n")
    assert lines[0] == " ".join(str(label) for label in units["b-1"])
    assert lines[3:] == [""]
    import_km(tmp_path / "train.km", manifest, tmp_path / "again", "train", INFO)
    again = Units.open(tmp_path / "again", "train")
    assert list(again) == [u.utt_id for u in manifest]
    for utt_id in units:
        np.testing.assert_array_equal(again[utt_id], units[utt_id])


def test_km_export_needs_every_utterance(tmp_path):
    units = write(tmp_path, labels_of())
    with pytest.raises(UnitsError, match="1 of these utterances have no units, first c-1"):
        export_km(units, tmp_path / "train.km", utterances({**SAMPLES, "c-1": 400}))
    assert not (tmp_path / "train.km").exists()


def test_km_of_fairseq_mfcc_at_100_hz(tmp_path):
    rows = {utt_id: np.arange((n - 400) // 160 + 1) % 100 for utt_id, n in SAMPLES.items()}
    text = "\ufeff" + "".join(" ".join(map(str, row)) + "\r\n" for row in rows.values())
    (tmp_path / "train.km").write_bytes(text.encode())
    import_km(tmp_path / "train.km", utterances(), tmp_path, "train", INFO, km_rate=100)
    units = Units.open(tmp_path, "train")
    assert check_units(units, utterances()) == utterances()
    assert units["b-1"].tolist() == rows["b-1"][::2].tolist()
    with pytest.raises(UnitsError, match=r"train.km:1: utterance a-متكلم-1 has 98 labels at 50 Hz, expected 49"):
        import_km(tmp_path / "train.km", utterances(), tmp_path, "train", INFO)
    with pytest.raises(UnitsError, match="labels at 25 Hz"):
        import_km(tmp_path / "train.km", utterances(), tmp_path, "train", INFO, km_rate=25)


def test_km_errors_name_the_line(tmp_path):
    path = tmp_path / "train.km"
    rows = [" ".join(map(str, values)) for values in labels_of().values()]
    path.write_text("\n".join(rows[:2]) + "\n")
    with pytest.raises(UnitsError, match="2 lines for 3 utterances"):
        import_km(path, utterances(), tmp_path, "train", INFO)
    path.write_text("\n".join([rows[0], "x", rows[2]]) + "\n")
    with pytest.raises(UnitsError, match="train.km:2: utterance a-متكلم-2: not a line of integers"):
        import_km(path, utterances(), tmp_path, "train", INFO)
    path.write_text("\n".join([rows[0], "", rows[2]]) + "\n")
    with pytest.raises(UnitsError, match="train.km:2: utterance a-متكلم-2 has 0 labels at 50 Hz, expected 1"):
        import_km(path, utterances(), tmp_path, "train", INFO)
    path.write_text("\n".join([rows[0], "100", rows[2]]) + "\n")
    with pytest.raises(UnitsError, match="utterance a-متكلم-2 has label 100, but k=100"):
        import_km(path, utterances(), tmp_path, "train", INFO)
