"""Units on disk: round trip, mismatches refused by name, and several label sets, each with a head and a column."""

import csv
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from corpora.datadir import Utterance, read_datadir
from upstream.config import PretrainConfig
from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder, collate, frame_count, run_layers
from upstream.model.family import HOP, geometry
from upstream.model.modeldir import load_model, read_card
from upstream.pretrain.data import PretrainDataset, StepSampler
from upstream.pretrain.module import Pretraining, UnitTask
from upstream.pretrain.objective import unit_loss
from upstream.pretrain.train import pretrain
from upstream.units.units import LabelSet, Units, UnitsInfo, UnitsWriter, check_units, open_labels

INFO = UnitsInfo(50, 100, "logmel", "exp/hl", 4, 32, "c0de", "0de1")
TINY = geometry("mini_hst", width=32, heads=2, ffn=64, pos_conv_groups=4, pos_conv_kernel=8)
CONFIG = PretrainConfig(steps=6, batch_seconds=4.0, crop_seconds=1.0, valid_every=3, precision="fp32")
GROUPS = ("ar", "en", "fr")
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


def test_round_trip(tmp_path):
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
    with pytest.raises(UpstreamError, match="65536"):
        UnitsInfo(50, 65536, "mfcc", "mfcc", None, None, "c0de", None)


def test_a_spawned_worker_gets_a_name_not_a_copy(tmp_path):
    labels = {"a": np.zeros(100_000, np.int64)}
    content = pickle.dumps(write(tmp_path, labels))
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content)["a"], labels["a"])


def test_writer_refuses_labels_and_repetitions(tmp_path):
    with pytest.raises(UpstreamError, match="utterance a .*100, but k=100"):
        write(tmp_path, {"a": np.array([1, 100])})
    with pytest.raises(UpstreamError, match="utterance a .*-1"):
        write(tmp_path, {"a": np.array([-1])})
    with pytest.raises(UpstreamError, match="utterance a"), UnitsWriter(tmp_path, "train", INFO) as writer:
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
    (tmp_path / ".train.bin.part").symlink_to("/dev/full")  # the writer's temporary file
    with pytest.raises(OSError, match="No space left"), UnitsWriter(tmp_path, "train", INFO) as writer:
        writer.add("b-1", np.array([1, 2, 3]))
    np.testing.assert_array_equal(Units.open(tmp_path, "train")["b-1"], before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.bin", "train.json"]


def test_an_old_index_never_accompanies_new_labels(tmp_path, monkeypatch):
    write(tmp_path, labels_of())
    replace = os.replace

    def killed(source, target):
        if Path(target).suffix == ".json":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, {utt_id: (values + 1) % 100 for utt_id, values in labels_of().items()})
    with pytest.raises(UpstreamError, match="train.json"):
        Units.open(tmp_path, "train")


def test_damaged_files_are_refused(tmp_path):
    with pytest.raises(UpstreamError, match="train.json"):
        Units.open(tmp_path, "train")
    units = write(tmp_path, labels_of())
    binary, index = tmp_path / "train.bin", tmp_path / "train.json"
    content = binary.read_bytes()
    binary.write_bytes(content[:-2])
    with pytest.raises(UpstreamError, match="train.bin: .*128 .*130"):
        Units.open(tmp_path, "train")
    binary.write_bytes(content[::-1])
    with pytest.raises(UpstreamError, match="train.bin"):
        units.verify()
    binary.unlink()
    with pytest.raises(UpstreamError, match="train.bin"):
        Units.open(tmp_path, "train")
    fields = json.loads(index.read_text(encoding="utf-8"))
    del fields["frame_rate"]
    index.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(UpstreamError, match="train.json.*frame_rate"):
        Units.open(tmp_path, "train")
    index.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="train.json"):
        Units.open(tmp_path, "train")


def test_check_accepts_matching_units_and_counts_clusters(tmp_path, caplog):
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
    with pytest.raises(UpstreamError, match=f"{name} .*{value} .*a-متكلم-1"):
        check_units(units, utterances(), **expected)


def test_check_refuses_unknown_fields(tmp_path):
    with pytest.raises(TypeError, match="`clusters`.* frame_rate, k"):
        check_units(write(tmp_path, labels_of()), utterances(), clusters=3)


def test_check_names_the_missing_utterance(tmp_path):
    labels = labels_of()
    del labels["a-متكلم-2"]
    with pytest.raises(UpstreamError, match="utterance a-متكلم-2"):
        check_units(write(tmp_path, labels), utterances())


@pytest.mark.parametrize("samples", [5001 + 320, 5001 - 320])
def test_check_names_the_utterance_of_another_length(tmp_path, samples):
    units = write(tmp_path, labels_of())
    frames = frame_count(samples)
    with pytest.raises(UpstreamError, match=f"utterance b-1 .*15 .*{samples} .*{frames}"):
        check_units(units, utterances({**SAMPLES, "b-1": samples}))


def test_check_names_the_label_beyond_k(tmp_path):
    units = write(tmp_path, labels_of())
    content = bytearray((tmp_path / "train.bin").read_bytes())
    content[2 * 49 : 2 * 50] = (100).to_bytes(2, "little")
    (tmp_path / "train.bin").write_bytes(content)
    with pytest.raises(UpstreamError, match="utterance a-متكلم-2 .*100, but k=100"):
        check_units(units, utterances())


def test_check_refuses_a_single_label(tmp_path):
    units = write(tmp_path, {"a": np.full(frame_count(64000), 7)})
    with pytest.raises(UpstreamError, match="every frame from a "):
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
    with pytest.raises(KeyError, match="a-متكلم-1 .*truncated"):
        units["a-متكلم-1"]


def info(k, layer=None):
    return UnitsInfo(50, k, "mfcc", "mfcc", layer, None, "c" * 64, None)


@pytest.fixture(scope="module")
def sets_data(tmp_path_factory, noise_corpus):
    """Three languages, most clips Arabic, one in nine French; in `fine` the unit of frame t is t modulo 50, in `coarse`
    it is that divided by 10."""
    root = tmp_path_factory.mktemp("sets")
    corpus = noise_corpus(root, 18, 4, language=lambda i: GROUPS[2 if i % 9 == 8 else int(i % 3 == 2)])
    for split, utterances in corpus.items():
        with (
            UnitsWriter(root / "fine", split, info(50)) as fine,
            UnitsWriter(root / "coarse", split, info(5)) as coarse,
        ):
            for utterance in utterances:
                labels = np.arange(frame_count(utterance.samples)) % 50
                fine.add(utterance.utt_id, labels)
                coarse.add(utterance.utt_id, labels // 10)
    return root


def two_sets(data):
    return [LabelSet("fine", data / "fine"), LabelSet("coarse", data / "coarse", weight=0.5)]


@pytest.fixture(scope="module")
def trained(sets_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    pretrain(TINY, sets_data, two_sets(sets_data), out, CONFIG, card={"name": "two"})
    return out


def test_every_crop_has_the_labels_of_every_set_from_its_own_frames(sets_data):
    utterances, labels = open_labels(two_sets(sets_data), read_datadir(sets_data / "train"), "train")
    dataset = PretrainDataset(utterances, labels, CONFIG)
    starts = set()
    for step in StepSampler(utterances, CONFIG, stop=8):
        batch = dataset[step].parts[0]
        for row, clip in enumerate(step.parts[0]):
            frames = np.arange(clip.first // HOP, clip.first // HOP + frame_count(clip.samples)) % 50
            assert np.array_equal(batch.labels[row, : len(frames), 0], frames)
            assert np.array_equal(batch.labels[row, : len(frames), 1], frames // 10)
            assert int(batch.valid[row].sum()) == len(frames)
            starts.add(clip.first)
    assert len(starts) > 5, "crops start in many places"


def test_loss_is_the_weighted_sum_over_two_sets(sets_data):
    utterances, labels = open_labels(two_sets(sets_data), read_datadir(sets_data / "train"), "train")
    step = next(iter(StepSampler(utterances, CONFIG)))
    batch = PretrainDataset(utterances, labels, CONFIG)[step].parts[0]
    torch.manual_seed(0)
    module = Pretraining(build_encoder(TINY), {"fine": UnitTask(50), "coarse": UnitTask(5, 0.5)}, CONFIG).eval()
    result = module.compute(batch)
    padded, lengths = collate(module.encoder, batch.wavs)
    top = run_layers(module.encoder, padded, lengths, time_mask=batch.mask)[0][-1]
    weights = {"masked_weight": 1.0, "unmasked_weight": 0.1}
    alone = [
        unit_loss(module.heads[name], top, batch.labels[..., i], batch.mask, batch.valid, **weights).loss
        for i, name in enumerate(("fine", "coarse"))
    ]
    torch.testing.assert_close(result.loss, alone[0] + 0.5 * alone[1])
    assert module.heads["fine"].units.shape[0] == 50 and module.heads["coarse"].units.shape[0] == 5


def test_a_run_logs_every_set_and_the_main_one_and_exports_no_head(trained):
    with open(trained / "metrics.csv", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    assert last["valid_masked_accuracy"] == last["valid_masked_accuracy_fine"]
    # A constant guess is right in a fifth of the coarse units and in a fiftieth of the fine ones.
    assert float(last["valid_masked_accuracy_coarse"]) > float(last["valid_masked_accuracy_fine"])
    assert {"train_unmasked_accuracy_coarse", "train_masked_accuracy_fine"} <= set(last)
    card = read_card(trained / "model")
    assert card["units"]["k"] == 50
    assert [(s["name"], s["weight"], s["k"]) for s in card["label_sets"]] == [("fine", 1.0, 50), ("coarse", 0.5, 5)]
    assert not any("head" in name for name in load_model(trained / "model").state_dict())


def test_hours_in_the_steps_are_counted_for_any_languages(sets_data, trained):
    """Three groups, also `fr`, which our code does not name; hours of the steps so far, not of the whole epoch."""
    utterances = read_datadir(sets_data / "train")
    shown = dict.fromkeys(GROUPS, 0)
    for step in StepSampler(utterances, CONFIG):
        for clip in step.parts[0]:
            shown[utterances[clip.utterance].language] += clip.samples
    hours = {group: round(samples / 16000 / 3600, 4) for group, samples in shown.items()}
    assert min(hours.values()) > 0
    with open(trained / "metrics.csv", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    assert {group: float(last[f"hours_{group}"]) for group in GROUPS} == hours
    assert set(read_card(trained / "model")["hours_shown"]) == set(GROUPS)


def test_temperature_0_shows_three_languages_equally(sets_data):
    utterances = read_datadir(sets_data / "train")
    config = PretrainConfig(steps=800, batch_seconds=4.0, crop_seconds=2.5, temperature=0.0)
    shown = dict.fromkeys(GROUPS, 0)
    for step in StepSampler(utterances, config):
        for clip in step.parts[0]:
            shown[utterances[clip.utterance].language] += clip.samples
    assert max(shown.values()) < 1.2 * min(shown.values())
    plain = StepSampler(utterances, PretrainConfig(temperature=1.0))
    assert plain.hours["ar"] > 3 * plain.hours["fr"]


def test_each_set_is_checked(sets_data, tmp_path):
    utterances = read_datadir(sets_data / "train")
    with UnitsWriter(tmp_path / "short", "train", info(50)) as writer:
        for utterance in utterances:
            writer.add(utterance.utt_id, np.zeros(frame_count(utterance.samples) - 1, int))
    with pytest.raises(UpstreamError, match=r"short.*s0-train00"):
        open_labels([*two_sets(sets_data), LabelSet("short", tmp_path / "short")], utterances, "train")
    with pytest.raises(UpstreamError, match="coarse.*k .*5.*50"):
        open_labels(
            [two_sets(sets_data)[0], LabelSet("coarse", sets_data / "coarse", expected={"k": 50})], utterances, "train"
        )
    with pytest.raises(UpstreamError, match="fine, fine"):
        open_labels([two_sets(sets_data)[0], two_sets(sets_data)[0]], utterances, "train")
    with pytest.raises(UpstreamError, match="fine: weight 0"):
        LabelSet("fine", sets_data / "fine", weight=0)


def test_an_utterance_left_out_by_one_set_is_not_trained_on(sets_data, tmp_path):
    utterances = read_datadir(sets_data / "train")
    with UnitsWriter(tmp_path / "units", "train", info(50)) as writer:
        writer.leave_out(utterances[0].utt_id, "cannot be read")
        for utterance in utterances[1:]:
            writer.add(utterance.utt_id, np.arange(frame_count(utterance.samples)) % 50)
    kept, labels = open_labels([*two_sets(sets_data), LabelSet("part", tmp_path / "units")], utterances, "train")
    assert kept == utterances[1:]
    assert labels[kept[0].utt_id].shape == (frame_count(kept[0].samples), 3)


def test_nothing_to_learn_is_refused():
    with pytest.raises(UpstreamError, match="units or a teacher"):
        Pretraining(build_encoder(TINY), {}, CONFIG)
    with pytest.raises(UpstreamError, match="mask_prob=0"):
        Pretraining(build_encoder(TINY), 5, PretrainConfig(mask_prob=0.0))
