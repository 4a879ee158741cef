"""A pre-training run: it learns, resumes to the same bytes, and refuses inputs of different origin."""

import csv
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from corpora.audio import read_audio, write_audio
from corpora.datadir import Utterance, read_datadir, write_datadir
from corpora.files import CorpusError, only_writer
from upstream.__main__ import main
from upstream.config import InitConfig, PretrainConfig
from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder, encode, frame_count, run_layers
from upstream.model.family import geometry
from upstream.model.modeldir import load_model, model_sha256, read_card, save_model
from upstream.pretrain.checkpoints import load_state, save_state
from upstream.pretrain.init import initial_model
from upstream.pretrain.module import Pretraining, set_dropout
from upstream.pretrain.train import native_bf16, pretrain
from upstream.units.units import UnitsInfo, UnitsWriter

TINY = geometry("mini_hst", width=32, heads=2, ffn=64, pos_conv_groups=4, pos_conv_kernel=8)
CONFIG = PretrainConfig(steps=12, batch_seconds=4.0, crop_seconds=2.0, valid_every=4, lr=2e-3, precision="fp32")
INFO = UnitsInfo(50, 4, "mfcc", "mfcc", None, None, "c" * 64, None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Tones of four pitches that change every 0.2 s; the unit of a frame is its pitch: learnable in a few steps."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("dev", 4)):
        utterances = []
        with UnitsWriter(root / "units", split, INFO) as writer:
            for i in range(count):
                samples = int(rng.integers(8000, 40000))
                pitch = np.repeat(rng.integers(4, size=samples // 3200 + 1), 3200)[:samples]
                phase = np.cumsum(2 * np.pi * 300 * 2.0**pitch / 16000)
                wav = (0.3 * np.sin(phase) + 0.01 * rng.standard_normal(samples)).astype(np.float32)
                path = root / "audio" / split / f"{i}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_audio(path, wav)
                language = "ar" if i % 3 else "en"
                utterances.append(Utterance(f"s{i % 2}-{split}{i:02d}", f"s{i % 2}", path, samples, language=language))
                frames = frame_count(samples)
                writer.add(utterances[-1].utt_id, pitch[200::320][:frames].astype(np.uint16))
        write_datadir(root / split, utterances)
    return root


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    pretrain(TINY, data, data / "units", out, CONFIG, card={"name": "tiny", "iteration": 1})
    return out


def rows(out):
    with open(out / "metrics.csv", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_a_run_learns_and_leaves_model_metrics_and_both_checkpoints(undisturbed):
    table = rows(undisturbed)
    assert [row["step"] for row in table] == ["4", "8", "12"]
    assert float(table[-1]["valid_loss"]) < float(table[0]["valid_loss"])
    assert {"best.pt", "last.pt"} <= {path.name for path in (undisturbed / "checkpoints").iterdir()}
    assert list((undisturbed / "tensorboard").glob("events*"))
    card = read_card(undisturbed / "model")
    assert card["name"] == "tiny" and card["units"]["k"] == 4 and card["steps"] == 12
    assert card["geometry"]["layers"] == 2 and card["hours"] > 0
    assert not any("head" in name for name in load_model(undisturbed / "model").state_dict())


@pytest.mark.slow
def test_enough_steps_predict_the_units(data, tmp_path):
    config = PretrainConfig(steps=120, batch_seconds=8.0, crop_seconds=2.0, valid_every=60, lr=3e-3, dropout=0.0)
    pretrain(TINY, data, data / "units", tmp_path, config)
    last = rows(tmp_path)[-1]
    assert float(last["valid_unmasked_accuracy"]) > 0.9 and float(last["valid_masked_accuracy"]) > 0.5


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
def test_a_published_encoder_is_trained_on_with_its_own_units_or_given_ones(data, tmp_path, kind):
    """HuBERT-Base has a group norm in its front end and norms after its layers, XLS-R neither."""
    base = kind == "hubert"
    config_class, model_class = (HubertConfig, HubertModel) if base else (Wav2Vec2Config, Wav2Vec2Model)
    config = config_class(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, conv_dim=[16] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, feat_extract_norm="group" if base else "layer",
        do_stable_layer_norm=not base, conv_bias=not base, mask_time_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model_class(config).save_pretrained(tmp_path / "theirs")
    Wav2Vec2FeatureExtractor(do_normalize=not base).save_pretrained(tmp_path / "theirs")
    theirs = load_model(tmp_path / "theirs")
    command = ["pretrain", "--data", str(data), "--init", str(tmp_path / "theirs")]
    settings = ["steps=3", "batch_seconds=4", "crop_seconds=2", "valid_every=3", "lr=1e-3", "precision=fp32"]
    assert main([*command, "--out", str(tmp_path / "own"), *settings]) == 0
    assert main([*command, "--out", str(tmp_path / "given"), "--units", str(data / "units"), *settings]) == 0
    for name, k in (("own", 500), ("given", 4)):
        trained, card = load_model(tmp_path / name / "model"), read_card(tmp_path / name / "model")
        assert card["units"]["k"] == k and card["init"]["source_sha256"] == model_sha256(tmp_path / "theirs")
        assert type(trained) is model_class and trained.config.feat_extract_norm == config.feat_extract_norm
        moved = [
            (value - trained.state_dict()[key]).abs().max().item()
            for key, value in theirs.state_dict().items()
            if "encoder.layers" in key
        ]
        assert 0 < max(moved) < 0.02, "three steps from the weights of the source"
    start = initial_model(None, [], InitConfig("model", str(tmp_path / "theirs")), seed=0)
    wavs = [torch.randn(9000), torch.randn(20000)]
    with torch.no_grad():
        for ours, expected in zip(encode(start, wavs).hidden_states, encode(theirs, wavs).hidden_states, strict=True):
            torch.testing.assert_close(ours, expected)


def test_killed_and_resumed_equals_undisturbed(data, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(Pretraining, "training_step", stopped_at(6))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        pretrain(TINY, data, data / "units", tmp_path, CONFIG)
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    leftover = tmp_path / "checkpoints" / f".last.tmp-{dead_process()}-0123abcd-{socket.gethostname()}.pt"
    leftover.write_bytes(b"half a checkpoint of a killed process")
    half_metrics = tmp_path / leftover.name.replace("last", "metrics").replace(".pt", ".csv")
    half_metrics.write_bytes(b"step,")
    pretrain(TINY, data, data / "units", tmp_path, CONFIG)
    assert rows(tmp_path) == rows(undisturbed)
    assert model_sha256(tmp_path / "model") == model_sha256(undisturbed / "model")
    assert not leftover.exists() and not half_metrics.exists()


def test_a_full_disk_keeps_the_last_state_and_the_run_resumes_later(data, undisturbed, tmp_path):
    """The limit on the size of files fails a write as a full disk does, in the middle of it."""
    import resource

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretraining, "training_step", stopped_at(6))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            pretrain(TINY, data, data / "units", tmp_path, CONFIG)
    shutil.rmtree(tmp_path / "tensorboard")
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="last.pt|best.pt|File too large"):
            pretrain(TINY, data, data / "units", tmp_path, CONFIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before
    assert len(before["last.pt"]) > 100_000
    pretrain(TINY, data, data / "units", tmp_path, CONFIG)
    assert model_sha256(tmp_path / "model") == model_sha256(undisturbed / "model")


def test_the_state_before_is_put_aside_only_for_a_complete_one(tmp_path):
    import resource

    for value in (1, 2):
        save_state(tmp_path / "last.pt", {"value": torch.full((50_000,), value)}, keep=tmp_path / "previous.pt")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="last.pt"):
            save_state(tmp_path / "last.pt", {"value": torch.full((50_000,), 3)}, keep=tmp_path / "previous.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert int(torch.load(tmp_path / "previous.pt", weights_only=True)["value"][0]) == 1


def test_settings_of_speed_may_change_when_a_run_resumes(data, undisturbed, monkeypatch):
    """Workers, checkpointing and limits do not change the result, so they belong to the same run."""
    monkeypatch.setattr("lightning.Trainer.fit", lambda *_: pytest.fail("trained again"))
    pretrain(TINY, data, data / "units", undisturbed, replace(CONFIG, workers=3, checkpointing=True, bad_steps=9))


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("kept", [0, 1000, 20_000])  # torch calls the first two damaged, the third an invalid argument
def test_a_truncated_last_checkpoint_falls_back_and_ends_the_same(data, undisturbed, tmp_path, caplog, kept):
    shutil.copytree(undisturbed / "checkpoints", tmp_path / "checkpoints")
    last = tmp_path / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:kept])
    pretrain(TINY, data, data / "units", tmp_path, CONFIG)
    assert "cannot be read" in caplog.text
    assert rows(tmp_path) == rows(undisturbed)
    assert model_sha256(tmp_path / "model") == model_sha256(undisturbed / "model")


def test_a_finished_run_is_not_trained_again(data, undisturbed, monkeypatch):
    monkeypatch.setattr("lightning.Trainer.fit", lambda *_: pytest.fail("trained again"))
    before = model_sha256(undisturbed / "model")
    pretrain(TINY, data, data / "units", undisturbed, CONFIG, card={"name": "tiny", "iteration": 1})
    assert model_sha256(undisturbed / "model") == before


def test_another_configuration_is_refused_and_touches_nothing(data, undisturbed):
    """Otherwise two validations would overwrite the earlier run."""
    before = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    for change, named in (
        ({"lr": 7e-3}, r"config.lr: 0.\d+ .*0.007"),
        ({"steps": 13, "seed": 9}, "config.steps: 12 .*13 .*config.seed: 0 .*9 "),
    ):
        with pytest.raises(UpstreamError, match=named):
            pretrain(TINY, data, data / "units", undisturbed, replace(CONFIG, **change))
    assert {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()} == before


def test_a_state_that_cannot_be_reached_is_an_error(undisturbed, monkeypatch):
    """Another process may reach it; with the earlier state this process would differ from it."""

    def unreachable(*_, **__):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(torch, "load", unreachable)
    with pytest.raises(OSError, match="Stale"):
        load_state(undisturbed / "checkpoints")


@pytest.mark.slow
def test_unreadable_audio_costs_its_clips_and_no_more(data, tmp_path, caplog):
    shutil.copytree(data, tmp_path / "data")
    for split in ("train", "dev"):
        copies = [replace(u, audio=tmp_path / "data/audio" / split / u.audio.name)
                  for u in read_datadir(data / split)]  # fmt: skip
        write_datadir(tmp_path / "data" / split, copies)
        copies[0].audio.write_bytes(b"")
    config = replace(CONFIG, steps=20, valid_every=10, bad_steps=2, bad_rate=0.25)
    pretrain(TINY, tmp_path / "data", data / "units", tmp_path / "out", config)
    assert "utterance s0-train00" in caplog.text
    assert all(np.isfinite(float(row["valid_loss"])) for row in rows(tmp_path / "out"))
    strict = replace(config, bad_steps=0, bad_rate=0.01)
    with pytest.raises(UpstreamError, match=r"\d+ of \d+ clips .*s0-train00"):
        pretrain(TINY, tmp_path / "data", data / "units", tmp_path / "other", strict)
    assert "dev utterance s0-dev00" in caplog.text
    limited = replace(config, bad_rate=0.2, bad_steps=100)
    with pytest.raises(UpstreamError, match="step 10: 1 of 4 dev clips"):
        pretrain(TINY, tmp_path / "data", data / "units", tmp_path / "dev", limited)
    for u in read_datadir(tmp_path / "data" / "train"):
        u.audio.write_bytes(b"")
    waveform = geometry("mini_hst", front_end="waveform", conv_channels=16, width=32, heads=2, pos_conv_groups=4)
    with pytest.raises(UpstreamError, match="step 2: .*3 steps"):
        pretrain(waveform, tmp_path / "data", data / "units", tmp_path / "third", config)
    with pytest.raises(UpstreamError, match="log-mel"):
        pretrain(TINY, tmp_path / "data", data / "units", tmp_path / "fourth", config)


def test_units_of_train_and_dev_from_different_codebooks_are_refused(data, tmp_path):
    shutil.copytree(data / "units", tmp_path / "units")
    index = tmp_path / "units/dev.json"
    index.write_text(index.read_text().replace("c" * 64, "d" * 64))
    with pytest.raises(UpstreamError, match="train and dev"):
        pretrain(TINY, data, tmp_path / "units", tmp_path / "out", CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("warmup", 32000),
        ("clip", -1.0),
        ("dropout", 1.5),
        ("temperature", -0.5),
        ("logit_temperature", 0.0),
        ("lr", float("nan")),
    ],
)
def test_impossible_values_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"\b{key}\b[\s\S]*{value}"):
        replace(CONFIG, **{key: value})


def test_clip_0_does_not_clip(data, tmp_path):
    loose, none = (
        pretrain(TINY, data, data / "units", tmp_path / name, replace(CONFIG, clip=clip, steps=4))
        for name, clip in (("loose", 1e9), ("none", 0.0))
    )
    assert model_sha256(loose) == model_sha256(none)


def test_another_precision_than_before_is_logged(data, tmp_path, caplog):
    config = replace(CONFIG, precision="auto", steps=2)
    pretrain(TINY, data, data / "units", tmp_path, config)
    now, other = ("bf16-mixed", "32-true")[:: 1 if native_bf16() else -1]
    last = tmp_path / "checkpoints" / "last.pt"
    torch.save(load_state(last.parent) | {"precision": other}, last)
    assert "were trained in" not in caplog.text
    pretrain(TINY, data, data / "units", tmp_path, config)
    assert f"steps up to 2 were trained in {other}, the others will be in {now}" in caplog.text


def stopped_at(number, step=Pretraining.training_step):
    def stopped(self, batches, batch_idx):
        if batches.number == number:
            raise KeyboardInterrupt
        return step(self, batches, batch_idx)

    return stopped


def test_a_pickle_as_checkpoint_is_not_executed(tmp_path, caplog):
    import pickle

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "last.pt").write_bytes(pickle.dumps(Trap()))
    assert load_state(tmp_path) is None
    assert not (tmp_path / "executed").exists() and "cannot be read" in caplog.text


def test_labels_that_do_not_fit_stop_before_the_first_step(data, tmp_path):
    with UnitsWriter(tmp_path / "units", "train", INFO) as writer:
        writer.add("s0-train00", np.zeros(3, dtype=np.uint16))
    with UnitsWriter(tmp_path / "units", "dev", INFO) as writer:
        writer.add("s0-dev00", np.zeros(3, dtype=np.uint16))
    with pytest.raises(UpstreamError, match="s0-train00"):
        pretrain(TINY, data, tmp_path / "units", tmp_path / "out", CONFIG)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_model_that_gives_no_finite_loss_stops_the_run(data, tmp_path):
    broken = build_encoder(TINY)
    with torch.no_grad():
        broken.feature_projection.projection.bias.fill_(float("nan"))
    init = InitConfig("model", str(save_model(broken, tmp_path / "broken", {})))
    with pytest.raises(UpstreamError, match=r"step 5: .*nan.*s\d-train.* 6 of 6 "):
        pretrain(TINY, data, data / "units", tmp_path, CONFIG, init)
    assert not (tmp_path / "model").exists()


def test_continuing_takes_the_encoder_but_not_the_head(data, undisturbed, tmp_path):
    """Iteration 2 has other units: only the encoder is loaded, and the step count starts at 0."""
    init = InitConfig("model", str(undisturbed / "model"))
    model = initial_model(TINY, [], init, seed=5)
    reference = load_model(undisturbed / "model")
    for name, value in model.state_dict().items():
        assert torch.equal(value, reference.state_dict()[name]), name
    pretrain(TINY, data, data / "units", tmp_path, CONFIG, init)
    assert rows(tmp_path)[0]["step"] == "4"
    assert read_card(tmp_path / "model")["init"]["source_sha256"] == model_sha256(undisturbed / "model")


def test_mask_changes_the_output_after_continuing(undisturbed):
    module = Pretraining(load_model(undisturbed / "model"), 4, CONFIG).eval()
    wav = 0.1 * torch.randn(1, 8000)
    mask = torch.zeros(1, frame_count(8000), dtype=torch.bool)
    mask[0, 5:10] = True
    with torch.no_grad():
        plain = run_layers(module.encoder, wav)[0][-1]
        masked = run_layers(module.encoder, wav, time_mask=mask)[0][-1]
    assert (plain - masked).abs().max() > 1e-3


def test_initialisation_statistics(data):
    """Right after initialisation states have about unit scale and predictions are near chance."""
    utterances = read_datadir(data / "train")
    model = initial_model(TINY, utterances, InitConfig(), seed=0)
    model.eval()
    wavs = [torch.from_numpy(read_audio(u.audio)) for u in utterances[:4]]
    with torch.no_grad():
        states = encode(model, wavs).hidden_states
        features = model.feature_extractor(wavs[0][None])
    assert abs(float(features.mean())) < 1.0 and 0.3 < float(features.std()) < 2.0
    for state in states:
        assert 0.1 < float(state.std()) < 3.0
    assert model.feature_extractor.mean.unique().numel() > 1


def test_log_mel_statistics_are_measured_unless_the_teacher_has_them(data, undisturbed, tmp_path):
    waveform = geometry("mini_hst", front_end="waveform", conv_channels=16, width=32, heads=2, pos_conv_groups=4)
    teacher = save_model(build_encoder(waveform), tmp_path / "teacher", {})
    utterances = read_datadir(data / "train")
    measured = initial_model(TINY, utterances, InitConfig(), 0).feature_extractor
    student = initial_model(TINY, utterances, InitConfig("first_n", str(teacher)), 0).feature_extractor
    assert torch.equal(student.mean, measured.mean) and torch.equal(student.std, measured.std)


def test_units_of_another_model_are_refused(data, tmp_path):
    with pytest.raises(UpstreamError, match="model_sha256"):
        pretrain(TINY, data, data / "units", tmp_path, CONFIG, expected_units={"model_sha256": "d" * 64})


def test_dropout_stays_out_of_attention_and_ffn():
    model = build_encoder(TINY)
    set_dropout(model, 0.25, 0.0)
    layer = model.encoder.layers[0]
    assert layer.dropout.p == layer.feed_forward.output_dropout.p == 0.25
    assert layer.feed_forward.intermediate_dropout.p == layer.attention.dropout == 0.0


def test_a_run_resumes_with_as_many_processes_as_before(data, undisturbed, tmp_path):
    shutil.copytree(undisturbed / "checkpoints", tmp_path / "checkpoints")
    last = tmp_path / "checkpoints" / "last.pt"
    torch.save(load_state(last.parent) | {"step": 8, "positions": [(0, 0, 1), (0, 0, 1)]}, last)
    with pytest.raises(UpstreamError, match=" 2 processes"):
        pretrain(TINY, data, data / "units", tmp_path, CONFIG)


def test_two_runs_in_one_folder_are_refused_at_once(data, tmp_path):
    """Otherwise one of them is lost, and the message speaks of a learning rate."""
    with only_writer(tmp_path / "out"), pytest.raises(CorpusError, match=f"out is in use by process {os.getpid()}"):
        pretrain(TINY, data, data / "units", tmp_path / "out", replace(CONFIG, seed=7))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"no state"])
def test_damaged_best_weights_are_named_with_what_to_delete(data, undisturbed, tmp_path, content):
    shutil.copytree(undisturbed, tmp_path / "run")
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    best.write_bytes(content)
    with pytest.raises(UpstreamError, match=rf"{re.escape(str(best))}.*delete the folder .*checkpoints"):
        pretrain(TINY, data, data / "units", tmp_path / "run", CONFIG, card={"name": "tiny", "iteration": 1})
