"""Several label sets: side by side for every crop, checked one by one, a head and a column each."""

import csv

import numpy as np
import pytest
import torch

from corpora.datadir import read_datadir
from upstream.config import PretrainConfig
from upstream.model.encoder import frame_count
from upstream.model.family import HOP, geometry
from upstream.model.modeldir import load_model, read_card
from upstream.pretrain.data import PretrainDataset, StepSampler
from upstream.pretrain.module import Pretraining, TrainingError, UnitTask
from upstream.pretrain.objective import unit_loss
from upstream.pretrain.train import pretrain
from upstream.units.labelsets import LabelSet, open_labels
from upstream.units.units import UnitsError, UnitsInfo, UnitsWriter

TINY = geometry("mini_hst", width=32, heads=2, ffn=64, pos_conv_groups=4, pos_conv_kernel=8)
CONFIG = PretrainConfig(steps=6, batch_seconds=4.0, crop_seconds=1.0, valid_every=3, precision="fp32")
GROUPS = ("ar", "en", "fr")


def info(k, layer=None):
    return UnitsInfo(50, k, "mfcc", "mfcc", layer, None, "c" * 64, None)


@pytest.fixture(scope="module")
def data(tmp_path_factory, noise_corpus):
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


def sets(data):
    return [LabelSet("fine", data / "fine"), LabelSet("coarse", data / "coarse", weight=0.5)]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    pretrain(TINY, data, sets(data), out, CONFIG, card={"name": "two"})
    return out


def test_every_crop_has_the_labels_of_every_set_from_its_own_frames(data):
    utterances, labels = open_labels(sets(data), read_datadir(data / "train"), "train")
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


def test_loss_is_the_weighted_sum_over_sets(data):
    utterances, labels = open_labels(sets(data), read_datadir(data / "train"), "train")
    step = next(iter(StepSampler(utterances, CONFIG)))
    batch = PretrainDataset(utterances, labels, CONFIG)[step].parts[0]
    torch.manual_seed(0)
    from upstream.model.encoder import build_encoder, collate, run_layers

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


def test_hours_shown_by_group_are_counted_for_any_languages(data, trained):
    """Three groups, one of which no code of ours names; what the steps showed, not what the epoch planned."""
    utterances = read_datadir(data / "train")
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


def test_temperature_0_shows_three_languages_alike(data):
    utterances = read_datadir(data / "train")
    config = PretrainConfig(steps=800, batch_seconds=4.0, crop_seconds=2.5, temperature=0.0)
    shown = dict.fromkeys(GROUPS, 0)
    for step in StepSampler(utterances, config):
        for clip in step.parts[0]:
            shown[utterances[clip.utterance].language] += clip.samples
    assert max(shown.values()) < 1.2 * min(shown.values())
    plain = StepSampler(utterances, PretrainConfig(temperature=1.0))
    assert plain.hours["ar"] > 3 * plain.hours["fr"]


def test_each_set_is_checked(data, tmp_path):
    utterances = read_datadir(data / "train")
    with UnitsWriter(tmp_path / "short", "train", info(50)) as writer:
        for utterance in utterances:
            writer.add(utterance.utt_id, np.zeros(frame_count(utterance.samples) - 1, int))
    with pytest.raises(UnitsError, match=r"short.*s0-train00 has"):
        open_labels([*sets(data), LabelSet("short", tmp_path / "short")], utterances, "train")
    with pytest.raises(UnitsError, match="coarse.*k is 5, expected 50"):
        open_labels([sets(data)[0], LabelSet("coarse", data / "coarse", expected={"k": 50})], utterances, "train")
    with pytest.raises(UnitsError, match="a name of its own"):
        open_labels([sets(data)[0], sets(data)[0]], utterances, "train")
    with pytest.raises(UnitsError, match="weight 0 must be positive"):
        LabelSet("fine", data / "fine", weight=0)


def test_what_one_set_leaves_out_no_set_is_trained_on(data, tmp_path):
    utterances = read_datadir(data / "train")
    with UnitsWriter(tmp_path / "units", "train", info(50)) as writer:
        writer.leave_out(utterances[0].utt_id, "cannot be read")
        for utterance in utterances[1:]:
            writer.add(utterance.utt_id, np.arange(frame_count(utterance.samples)) % 50)
    kept, labels = open_labels([*sets(data), LabelSet("part", tmp_path / "units")], utterances, "train")
    assert kept == utterances[1:]
    assert labels[kept[0].utt_id].shape == (frame_count(kept[0].samples), 3)


def test_nothing_to_learn_is_refused():
    from upstream.model.encoder import build_encoder

    with pytest.raises(TrainingError, match="nothing to learn"):
        Pretraining(build_encoder(TINY), {}, CONFIG)
    with pytest.raises(TrainingError, match="mask_prob=0"):
        Pretraining(build_encoder(TINY), 5, PretrainConfig(mask_prob=0.0))
