import csv
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from corpora.audio import AudioError, write_audio
from corpora.datadir import Utterance, read_datadir, write_datadir
from upstream.config import InitConfig, PretrainConfig
from upstream.model.encoder import frame_count
from upstream.model.family import geometry
from upstream.model.modeldir import load_model, model_sha256, read_card
from upstream.pretrain.bad_batches import TrainingError
from upstream.pretrain.checkpoints import _save, load_state
from upstream.pretrain.module import Pretraining, set_dropout
from upstream.pretrain.train import initial_model, pretrain
from upstream.units.units import UnitsError, UnitsInfo, UnitsWriter

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


def test_enough_steps_predict_the_units(data, tmp_path):
    config = PretrainConfig(steps=120, batch_seconds=8.0, crop_seconds=2.0, valid_every=60, lr=3e-3, dropout=0.0)
    pretrain(TINY, data, data / "units", tmp_path, config)
    last = rows(tmp_path)[-1]
    assert float(last["valid_unmasked_accuracy"]) > 0.9 and float(last["valid_masked_accuracy"]) > 0.5


def test_killed_and_resumed_equals_undisturbed(data, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(Pretraining, "training_step", stopped_at(6))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        pretrain(TINY, data, data / "units", tmp_path, CONFIG)
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    leftover = tmp_path / "checkpoints" / f".last.tmp-{dead_process()}-0123abcd-{socket.gethostname()}.pt"
    leftover.write_bytes(b"half a checkpoint of a killed process")
    pretrain(TINY, data, data / "units", tmp_path, CONFIG)
    assert rows(tmp_path) == rows(undisturbed)
    assert model_sha256(tmp_path / "model") == model_sha256(undisturbed / "model")
    assert not leftover.exists()


def test_a_full_disk_keeps_the_last_state_and_the_run_goes_on_later(data, undisturbed, tmp_path):
    """The limit on the size of files fails a write as a full disk does, in the middle of it."""
    import resource
    import shutil

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretraining, "training_step", stopped_at(6))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            pretrain(TINY, data, data / "units", tmp_path, CONFIG)
    shutil.rmtree(tmp_path / "tensorboard")
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="is the disk full|File too large"):
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
        _save(tmp_path / "last.pt", {"value": torch.full((50_000,), value)}, keep=tmp_path / "previous.pt")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="last.pt: cannot be written, is the disk full"):
            _save(tmp_path / "last.pt", {"value": torch.full((50_000,), 3)}, keep=tmp_path / "previous.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert int(torch.load(tmp_path / "previous.pt", weights_only=True)["value"][0]) == 1


def test_machinery_may_change_when_a_run_goes_on(data, undisturbed, monkeypatch):
    """Workers, checkpointing and limits decide how fast a run gets there, and start no other run."""
    monkeypatch.setattr("upstream.pretrain.train._fit", lambda *_: pytest.fail("trained again"))
    pretrain(TINY, data, data / "units", undisturbed, replace(CONFIG, workers=3, checkpointing=True, bad_steps=9))


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("kept", [0, 1000, 20_000])  # torch calls the first two damaged, the third an invalid argument
def test_a_truncated_last_checkpoint_falls_back_and_ends_the_same(data, undisturbed, tmp_path, caplog, kept):
    import shutil

    shutil.copytree(undisturbed / "checkpoints", tmp_path / "checkpoints")
    last = tmp_path / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:kept])
    pretrain(TINY, data, data / "units", tmp_path, CONFIG)
    assert "cannot be read" in caplog.text
    assert rows(tmp_path) == rows(undisturbed)
    assert model_sha256(tmp_path / "model") == model_sha256(undisturbed / "model")


def test_a_finished_run_is_not_trained_again(data, undisturbed, monkeypatch):
    monkeypatch.setattr("upstream.pretrain.train._fit", lambda *_: pytest.fail("trained again"))
    before = model_sha256(undisturbed / "model")
    pretrain(TINY, data, data / "units", undisturbed, CONFIG, card={"name": "tiny", "iteration": 1})
    assert model_sha256(undisturbed / "model") == before


def test_another_configuration_is_refused_and_touches_nothing(data, undisturbed):
    """Two validations later the run before would be gone."""
    before = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    for change, named in (
        ({"lr": 7e-3}, r"config.lr: 0.\d+ there, 0.007 now"),
        ({"steps": 13, "seed": 9}, "config.steps: 12 there, 13 now; config.seed: 0 there, 9 now"),
    ):
        with pytest.raises(TrainingError, match=f"belongs to another configuration .{named}.. Give this run another"):
            pretrain(TINY, data, data / "units", undisturbed, replace(CONFIG, **change))
    assert {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()} == before


def test_a_state_that_cannot_be_reached_is_not_given_up(undisturbed, monkeypatch):
    """Another process may reach it; going back alone would part them."""

    def unreachable(*_, **__):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(torch, "load", unreachable)
    with pytest.raises(OSError, match="Stale"):
        load_state(undisturbed / "checkpoints", "any")


def test_audio_that_becomes_unreadable_costs_its_clips_and_no_more(data, tmp_path, monkeypatch, caplog):
    import shutil

    shutil.copytree(data, tmp_path / "data")
    for split in ("train", "dev"):
        copies = [replace(u, audio=tmp_path / "data/audio" / split / u.audio.name)
                  for u in read_datadir(data / split)]  # fmt: skip
        write_datadir(tmp_path / "data" / split, copies)
        copies[0].audio.write_bytes(b"")
    config = replace(CONFIG, steps=20, valid_every=10, bad_steps=2, bad_rate=0.25)
    pretrain(TINY, tmp_path / "data", data / "units", tmp_path / "out", config)
    assert "utterance s0-train00 is left out" in caplog.text
    assert all(np.isfinite(float(row["valid_loss"])) for row in rows(tmp_path / "out"))
    strict = replace(config, bad_steps=0, bad_rate=0.01)
    with pytest.raises(TrainingError, match=r"\d+ of \d+ clips could not be read .* utterance s0-train00: .*goes on"):
        pretrain(TINY, tmp_path / "data", data / "units", tmp_path / "other", strict)
    assert "dev utterance s0-dev00 is left out" in caplog.text
    limited = replace(config, bad_rate=0.2, bad_steps=100)
    with pytest.raises(TrainingError, match="step 10: 1 of 4 dev clips could not be read"):
        pretrain(TINY, tmp_path / "data", data / "units", tmp_path / "dev", limited)

    def outage(path, *_):
        raise AudioError(f"{path}: no answer")

    monkeypatch.setattr("upstream.pretrain.data.read_audio", outage)
    with pytest.raises(TrainingError, match="step 2: not one of the last 3 steps had audio"):
        pretrain(TINY, tmp_path / "data", data / "units", tmp_path / "third", config)


def test_units_of_train_and_dev_from_different_codebooks_are_refused(data, tmp_path):
    import shutil

    shutil.copytree(data / "units", tmp_path / "units")
    index = tmp_path / "units/dev.json"
    index.write_text(index.read_text().replace("c" * 64, "d" * 64))
    with pytest.raises(UnitsError, match="train and dev have units of different origin"):
        pretrain(TINY, data, tmp_path / "units", tmp_path / "out", CONFIG)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warmup": 32000}, r"warmup=32000 must lie in \[0, 1\]: it is a share of the steps"),
        ({"clip": -1.0}, "clip=-1.0 must be at least 0: .* 0 for no limit"),
        ({"dropout": 1.5}, "dropout=1.5 must lie"),
        ({"temperature": -0.5}, "temperature=-0.5 must be at least 0"),
        ({"logit_temperature": 0.0}, "logit_temperature=0.0 must be positive"),
        ({"lr": float("nan")}, "lr=nan must be positive"),
    ],
)
def test_values_with_which_nothing_would_be_learnt_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **values)


def test_clip_0_does_not_clip(data, tmp_path):
    loose, none = (
        pretrain(TINY, data, data / "units", tmp_path / name, replace(CONFIG, clip=clip, steps=4))
        for name, clip in (("loose", 1e9), ("none", 0.0))
    )
    assert model_sha256(loose) == model_sha256(none)


def test_going_on_in_another_precision_is_said(data, tmp_path, monkeypatch, caplog):
    config = replace(CONFIG, precision="auto")
    for steps, native in ((6, False), (6, True)):
        monkeypatch.setattr("upstream.pretrain.train.native_bf16", lambda native=native: native)
        with monkeypatch.context() as patch:
            if not native:
                patch.setattr(Pretraining, "training_step", stopped_at(steps))
            try:
                pretrain(TINY, data, data / "units", tmp_path, config)
            except (KeyboardInterrupt, SystemExit):
                assert not native
    assert "steps up to 4 were trained in 32-true, the others will be in bf16-mixed" in caplog.text


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
    assert load_state(tmp_path, "x") is None
    assert not (tmp_path / "executed").exists() and "cannot be read" in caplog.text


def test_labels_that_do_not_fit_stop_before_the_first_step(data, tmp_path):
    with UnitsWriter(tmp_path / "units", "train", INFO) as writer:
        writer.add("s0-train00", np.zeros(3, dtype=np.uint16))
    with UnitsWriter(tmp_path / "units", "dev", INFO) as writer:
        writer.add("s0-dev00", np.zeros(3, dtype=np.uint16))
    with pytest.raises(UnitsError, match="s0-train00"):
        pretrain(TINY, data, tmp_path / "units", tmp_path / "out", CONFIG)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_model_that_gives_no_finite_loss_stops_the_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr("upstream.pretrain.train.initial_model", broken_model)
    with pytest.raises(TrainingError, match=r"step 5: the loss is nan, .*; utterances: s\d-train.* 6 of 6 steps"):
        pretrain(TINY, data, data / "units", tmp_path, CONFIG)
    assert not (tmp_path / "model").exists()


def broken_model(*args):
    model = initial_model(*args)
    with torch.no_grad():
        model.feature_projection.projection.bias.fill_(float("nan"))
    return model


def test_continuing_takes_the_encoder_but_not_the_head(data, undisturbed, tmp_path):
    """Iteration 2 has other units: what is loaded is the encoder alone, and the step count starts at 0."""
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
    from upstream.model.encoder import run_layers

    wav = 0.1 * torch.randn(1, 8000)
    mask = torch.zeros(1, frame_count(8000), dtype=torch.bool)
    mask[0, 5:10] = True
    with torch.no_grad():
        plain = run_layers(module.encoder, wav)[0][-1]
        masked = run_layers(module.encoder, wav, time_mask=mask)[0][-1]
    assert (plain - masked).abs().max() > 1e-3


def test_initialisation_statistics(data):
    """Right after initialisation states have about unit scale and predictions are near chance."""
    from corpora.datadir import read_datadir

    utterances = read_datadir(data / "train")
    model = initial_model(TINY, utterances, InitConfig(), seed=0)
    from corpora.audio import read_audio
    from upstream.model.encoder import encode

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
    from corpora.datadir import read_datadir
    from upstream.model.encoder import build_encoder
    from upstream.model.modeldir import save_model

    waveform = geometry("mini_hst", front_end="waveform", conv_channels=16, width=32, heads=2, pos_conv_groups=4)
    teacher = save_model(build_encoder(waveform), tmp_path / "teacher", {})
    utterances = read_datadir(data / "train")
    measured = initial_model(TINY, utterances, InitConfig(), 0).feature_extractor
    student = initial_model(TINY, utterances, InitConfig("first_n", str(teacher)), 0).feature_extractor
    assert torch.equal(student.mean, measured.mean) and torch.equal(student.std, measured.std)


def test_units_of_another_model_are_refused(data, tmp_path):
    with pytest.raises(UnitsError, match="model_sha256"):
        pretrain(TINY, data, data / "units", tmp_path, CONFIG, expected_units={"model_sha256": "d" * 64})


def test_dropout_stays_out_of_attention_and_ffn():
    from upstream.model.encoder import build_encoder

    model = build_encoder(TINY)
    set_dropout(model, 0.25, 0.0)
    layer = model.encoder.layers[0]
    assert layer.dropout.p == layer.feed_forward.output_dropout.p == 0.25
    assert layer.feed_forward.intermediate_dropout.p == layer.attention.dropout == 0.0


def test_a_run_goes_on_with_as_many_processes_as_it_had(data, tmp_path, monkeypatch):
    state = {"step": 1, "positions": [(0, 0, 1), (0, 0, 1)], "best": 0.1, "rows": [], "seconds": 1.0}
    state |= {"bad_steps": 0, "shown": {}}
    monkeypatch.setattr("upstream.pretrain.train.load_state", lambda *_: state)
    with pytest.raises(TrainingError, match="stopped with 2 processes"):
        pretrain(TINY, data, data / "units", tmp_path, CONFIG)
