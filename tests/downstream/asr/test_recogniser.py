import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from corpora.audio import write_audio
from corpora.prepare.packed import pack
from downstream import DownstreamError
from downstream.__main__ import main
from downstream.asr.__main__ import main as asr
from downstream.asr.config import read_config
from downstream.asr.reading import ONNX_FILE, Reader, align, letter_probability, word_times
from downstream.asr.recogniser import (
    CHARACTERS,
    Recogniser,
    best_path,
    load_head,
    save_head,
    save_recogniser,
    warp_frequencies,
)
from downstream.asr.train_ctc import Trainer, collate, load_teacher, teacher_loss
from upstream.model.card import tree
from upstream.model.encoder import build_encoder, frame_count, run_layers
from upstream.model.family import Geometry
from upstream.model.modeldir import load_model, model_sha256, read_card, save_model
from upstream.model.onnx import export_onnx

TINY = Geometry("tiny", 2, 32, 2, 64, "logmel", pos_conv_kernel=8, pos_conv_groups=4, squeeze=2)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path]:
    """A model directory and a head directory beside each other, with random weights."""
    torch.manual_seed(0)
    model = Recogniser(build_encoder(TINY)).eval()
    save_model(model.encoder, tmp_path / "tiny", {"name": "tiny"})
    description = {"upstream": "tiny", "upstream_key": model_sha256(tmp_path / "tiny"), "text_profile": "modern"}
    save_head(model, tmp_path / "tiny" / "letters", description)
    return tmp_path / "tiny", tmp_path / "tiny" / "letters"


def test_logits_do_not_depend_on_the_padding() -> None:
    torch.manual_seed(0)
    model = Recogniser(build_encoder(TINY)).eval()
    wavs = torch.randn(2, 9000) * 0.1
    lengths = torch.tensor([9000, 5000])
    with torch.no_grad():
        together, frames = model(wavs, lengths)
        wavs[1, 5000:] = 7.0
        noisy, _ = model(wavs, lengths)
        alone, count = model(wavs[1:, :5000])
    assert frames.tolist() == [frame_count(9000), frame_count(5000)] and count.item() == frames[1]
    torch.testing.assert_close(together[1, : frames[1]], alone[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[1, : frames[1]], noisy[1, : frames[1]], atol=1e-5, rtol=1e-4)


def test_decoding_merges_repeats_and_drops_blanks() -> None:
    model = Recogniser(build_encoder(TINY))
    classes = model.encode_text("رررب")
    assert best_path([0, classes[0], classes[0], 0, classes[0], 1, 1, classes[3], 0], CHARACTERS) == "رر ب"


def test_a_head_directory_gives_back_the_same_logits(trained: tuple[Path, Path]) -> None:
    folder, head = trained
    torch.manual_seed(0)
    first = Recogniser(build_encoder(TINY)).eval()
    second = load_head(load_model(folder), head)
    wav = torch.randn(1, 8000) * 0.1
    with torch.no_grad():
        torch.testing.assert_close(first(wav)[0], second(wav)[0])


def test_another_encoder_is_refused(trained: tuple[Path, Path]) -> None:
    folder, head = trained
    save_model(build_encoder(TINY), folder.parent / "other", {"name": "other"})
    with pytest.raises(DownstreamError, match="other weights"):
        Reader(head, folder.parent / "other")


def test_the_export_is_preferred_and_reads_the_same(trained: tuple[Path, Path]) -> None:
    folder, head = trained
    wav = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 30000).astype(np.float32))
    assert Reader(head).engine == "torch"
    export_onnx(folder, folder / ONNX_FILE, precision="int8")
    exported, plain = Reader(head), Reader(head, engine="torch")
    assert (exported.engine, exported.file) == ("onnx", folder / ONNX_FILE)
    ours, theirs = exported.read_blocks([wav]), plain.read_blocks([wav])
    np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=0.05)
    head_json = json.loads((head / "head.json").read_text(encoding="utf-8"))
    (head / "head.json").write_text(json.dumps(head_json | {"upstream_key": "0"}), encoding="utf-8")
    with pytest.raises(DownstreamError, match="int8.onnx"):
        Reader(head)


def test_long_audio_is_read_in_windows(trained: tuple[Path, Path]) -> None:
    reader = Reader(trained[1])
    samples = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 16000 * 70).astype(np.float32))
    reading = reader.read_blocks([samples])
    assert reading.seconds == 70.0 and len(reading.log_probs) == frame_count(16000 * 70)
    np.testing.assert_allclose(np.exp(reading.log_probs).sum(-1), 1, atol=1e-4)


def test_a_head_of_squeezed_layers_reads_every_second_frame(trained: tuple[Path, Path]) -> None:
    folder, head = trained
    samples = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 16000 * 41).astype(np.float32))
    every = Reader(head).read_blocks([samples]).log_probs
    written = json.loads((head / "head.json").read_text(encoding="utf-8"))
    (head / "head.json").write_text(json.dumps(written | {"stride": 2}), encoding="utf-8")
    reader = Reader(head)
    found = reader.read_blocks(samples.split(9000))
    np.testing.assert_allclose(found.log_probs, every[::2], atol=1e-5)
    assert found.seconds == 41.0 and reader.seconds_per_frame == 0.04
    export_onnx(folder, folder / ONNX_FILE)
    np.testing.assert_allclose(Reader(head).read_blocks([samples]).log_probs, every[::2], atol=1e-3)
    with torch.no_grad():
        logits, frames = load_head(load_model(folder), head)(samples[None, :9000], torch.tensor([8000]))
    assert logits.shape[1] == 14 and frames.tolist() == [12]  # of 28 and 24
    (head / "head.json").write_text(json.dumps(written | {"stride": 3}), encoding="utf-8")
    with pytest.raises(ValueError, match="stride 3.*1 or 2"):
        load_head(load_model(folder), head)


def test_the_alignment_follows_the_probabilities() -> None:
    text = "بسم الله"
    classes = [CHARACTERS.index(c) for c in text]
    frames = []
    for label in classes:
        frames += [label, label, 0]
    probabilities = np.full((len(frames), len(CHARACTERS)), 0.001)
    probabilities[np.arange(len(frames)), frames] = 0.96
    assert align(np.log(probabilities), classes) == [(3 * i, 3 * i + 1) for i in range(len(classes))]
    words = word_times(np.log(probabilities), classes, CHARACTERS, 0.04)
    assert words == [("بسم", 0.0, 0.32), ("الله", 0.48, 0.92)]
    many = np.tile(np.log(probabilities), (30, 1))  # more states than one byte counts
    assert align(many, classes * 30)[-1][1] == len(many) - 2
    with pytest.raises(ValueError, match="do not fit"):
        align(np.log(probabilities[:5]), classes)


def test_transcribe_and_find_open_the_head(trained: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    audio = tmp_path / "noise.wav"
    write_audio(audio, np.random.default_rng(0).uniform(-0.3, 0.3, 16000))
    assert main(["transcribe", str(audio), "--model", str(trained[1]), "--words"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["seconds"] == 1.0 and isinstance(row["text"], str) and isinstance(row["words"], list)
    texts = tmp_path / "texts"
    texts.write_text("a كتاب\nb قلم\n", encoding="utf-8")
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    options = ["--model", str(trained[1]), "--texts", str(texts), "--spans", "2"]
    assert main(["find", str(audio), str(broken), *options]) == 1
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert set(first) == {"audio", "seconds", "text", "found", "score", "margin"}
    assert second["found"] == [] and "broken.wav" in second["error"]
    assert main(["find", str(audio), *options, "--format", "tsv"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split("\t") == ["audio", "found", "score", "margin", "seconds", "text", "error", "note"]
    assert len(line.split("\t")) == 8


def test_a_window_of_noise_gives_no_text(trained: tuple[Path, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wav = torch.from_numpy(rng.uniform(-0.3, 0.3, 16000 * 40).astype(np.float32))
    before = Reader(trained[1]).read_blocks([wav])
    *others, last = before.letters
    assert before.text and len(others) == 2 and last < min(others)
    file = trained[1] / "head.json"
    written = json.loads(file.read_text(encoding="utf-8"))

    def limited(least: object) -> Reader:
        file.write_text(json.dumps(written | {"least_probability": least}), encoding="utf-8")
        return Reader(trained[1])

    assert limited(last - 1e-4).read_blocks([wav]).text == before.text
    found = limited((last + min(others)) / 2).read_blocks([wav])
    heard = len(found.log_probs) - int((found.log_probs[::-1].argmax(-1) == 0).cumprod().sum())
    assert 0 < heard < len(found.log_probs) - 100 and found.letters == before.letters
    np.testing.assert_array_equal(found.log_probs[:heard], before.log_probs[:heard])
    assert (found.log_probs[heard:, 0] > -1e-6).all() and found.text and before.text.startswith(found.text)
    assert limited(1.0).read_blocks([wav]).text == ""
    write_audio(tmp_path / "noise.wav", wav[:16000].numpy())
    said = ["transcribe", str(tmp_path / "noise.wav"), "--model", str(trained[1]), "--out", str(tmp_path / "said")]
    assert main([*said, "--words", "--hotwords", "كتاب"]) == 0
    row = json.loads((tmp_path / "said").read_text(encoding="utf-8"))
    assert row["text"] == "" and row["words"] == []
    for wrong in (None, "x", 1.5, float("nan")):
        with pytest.raises(ValueError, match="head.json: `least_probability` must be a number from 0 to 1"):
            limited(wrong)


def test_the_probability_of_letters() -> None:
    values = torch.tensor([[0.1, 0.6, 0.3], [0.9, 0.05, 0.05], [0.2, 0.3, 0.5]]).log()
    assert letter_probability(values) == pytest.approx(0.55)
    assert letter_probability(values[1:2]) is None and letter_probability(values[:0]) is None


def _training(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    files, rows = {}, []
    for i in range(12):
        write_audio(tmp_path / f"{i}.wav", rng.uniform(-0.3, 0.3, 12000 + 500 * i))
        files[f"u{i:02d}"] = tmp_path / f"{i}.wav"
        rows.append(f"u{i:02d} {'بسم' if i % 2 else 'قل هو'}\n")
    pack(files, tmp_path / "store")
    (tmp_path / "text").write_text("".join(rows), encoding="utf-8")
    torch.manual_seed(0)
    save_model(build_encoder(TINY), tmp_path / "start", {"name": "start"})
    config = tmp_path / "ctc.yaml"
    source = f"{{audio: {tmp_path}/store, text: {tmp_path}/text}}"
    config.write_text(
        f"model: {tmp_path}/start\nout: {tmp_path}/out\nsources: [{source}]\ndev: {{seen: {source}}}\nhours: 0.02\n"
        "batch_seconds: 4\nwarm_steps: 5\nwarm_hours: 0.01\nlongest: [[0.0, 16.0]]\nwarmup_hours: 0.001\n"
        "augment_hours: 0.001\nwarp: 0.15\nsnapshot_hours: 1.0\n",
        encoding="utf-8",
    )
    return config


def test_a_training_that_was_killed_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    config = _training(tmp_path)

    def heard_twice(folder: str, *, killed: bool) -> dict[str, torch.Tensor]:
        trainer = Trainer(read_config(config, [f"out={tmp_path}/{folder}"]))
        for half in range(2):
            rows, seconds = trainer.examples.batches(trainer.heard)
            for row in rows[:3]:
                trainer.step(row)
            trainer.heard += seconds
            if killed and half == 0:
                trainer.save()
                trainer = Trainer(read_config(config, [f"out={tmp_path}/{folder}"]))
        return trainer.model.state_dict()

    whole, resumed = heard_twice("whole", killed=False), heard_twice("resumed", killed=True)
    for name, value in whole.items():
        torch.testing.assert_close(value, resumed[name], msg=name)


def test_a_run_leaves_a_model_and_a_head_that_transcribe(tmp_path: Path) -> None:
    Trainer(read_config(_training(tmp_path))).run()
    out = tmp_path / "out"
    reader = Reader(out / "head", out / "model")
    assert reader.description["text_profile"] == "modern"
    rows = [json.loads(line) for line in (out / "dev.jsonl").read_text().splitlines()]
    assert set(rows[-1]["seen"]) == {"cer", "wer", "letters"}


def test_a_step_of_a_streaming_recogniser_masks_with_a_random_chunk(tmp_path: Path, monkeypatch) -> None:
    from upstream.model import encoder

    config = _training(tmp_path)
    torch.manual_seed(0)
    save_model(build_encoder(replace(TINY, left_context=32)), tmp_path / "start", {"name": "start"})
    drawn = []
    real = encoder._chunk_mask
    monkeypatch.setattr(
        encoder, "_chunk_mask", lambda frames, chunk, left: drawn.append(2 * chunk) or real(frames, chunk, left)
    )
    trainer = Trainer(read_config(config, ["dropout=0"]))  # attention by products
    assert set(drawn) == {16}, "the head alone is trained on states of the usual chunk"
    drawn.clear()
    rows, _ = trainer.examples.batches(0.0)
    for row in (rows * 8)[:8]:
        assert np.isfinite(trainer.step(row)["loss"])
    assert len(drawn) == 8 and len(set(drawn)) > 3 and 8 <= min(drawn) <= max(drawn) <= 64


def test_calibration_writes_both_limits(tmp_path: Path, trained: tuple[Path, Path], capsys) -> None:
    _training(tmp_path)
    (tmp_path / "list").write_text("a قل هو\nb بسم\nc كتاب\n", encoding="utf-8")
    file, store = trained[1] / "head.json", ["--audio", str(tmp_path / "store"), "--text", str(tmp_path / "text")]
    command = ["calibrate", "--head", str(trained[1]), *store, "--texts", str(tmp_path / "list")]
    assert asr(command) == 0
    said, written = json.loads(capsys.readouterr().out), json.loads(file.read_text(encoding="utf-8"))
    assert written["find"] == {"likelihood": said["likelihood"], "bonus": 2.0}
    assert 0 < written["least_probability"] == said["least_probability"] and 0 <= said["noise_with_letters"] <= 1
    # A limit of before is no limit of the calibration.
    file.write_text(json.dumps(written | {"least_probability": 1.0}), encoding="utf-8")
    assert asr(command) == 0 and json.loads(capsys.readouterr().out) == said


def test_frozen_layers_keep_their_weights(tmp_path: Path) -> None:
    trainer = Trainer(read_config(_training(tmp_path), ["freeze=1"]))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    rows, _ = trainer.examples.batches(0.0)
    for row in rows[:2]:
        trainer.step(row)
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any("layers.0" in name or "feature_projection" in name or "pos_conv" in name for name in changed)
    assert any("layers.1" in name for name in changed) and "head.weight" in changed


@pytest.mark.parametrize(
    ("override", "message"),
    [("freeze_stem=true", "freeze_stem"), ("squeeze=3", "squeeze=3"), ("freeze=3", "freeze=3")],
)
def test_an_encoder_that_cannot_be_trained_so_is_refused(tmp_path: Path, override: str, message: str) -> None:
    config = _training(tmp_path)
    with pytest.raises(ValueError, match=message):
        Trainer(read_config(config, [override]))


def test_an_encoder_without_a_log_mel_front_end_is_refused(tmp_path: Path) -> None:
    config = _training(tmp_path)
    waveform = replace(TINY, front_end="waveform", squeeze=1, conv_channels=16)
    save_model(build_encoder(waveform), tmp_path / "waveform", {"name": "waveform"})
    with pytest.raises(ValueError, match="log-mel"):
        Trainer(read_config(config, [f"model={tmp_path}/waveform"]))


def test_a_training_squeezes_whispers_geometry_and_its_head_reads_25_frames_a_second(tmp_path: Path) -> None:
    config = _training(tmp_path)
    plain = replace(TINY, squeeze=1, stem="convolution", positions="sinusoid")
    save_model(build_encoder(plain), tmp_path / "start", {"name": "start", "geometry": plain.facts()})
    trainer = Trainer(read_config(config, ["squeeze=2", "freeze_stem=true"]))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    rows, _ = trainer.examples.batches(0.0)
    for row in rows[:2]:
        trainer.step(row)
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if "feature_projection" in name} - changed == {
        f"encoder.feature_projection.{conv}.{part}" for conv in ("conv1", "conv2") for part in ("weight", "bias")
    }
    trainer.export(tmp_path / "out/model", tmp_path / "out/head")
    card = read_card(tmp_path / "out/model")
    assert card["geometry"] == replace(plain, name="tiny_fast", squeeze=2).facts()
    reader = Reader(tmp_path / "out/head", tmp_path / "out/model")
    reading = reader.read_blocks([torch.randn(16000 * 3)])
    assert reader.stride == 2 and len(reading.log_probs) == 75
    top = run_layers(load_model(tmp_path / "out/model"), torch.randn(1, 16000))[0][-1]
    assert torch.equal(top[:, 1::2], top[:, :-1:2]), "interfaces that read every frame would get untrained ones"


@pytest.mark.slow
def test_a_training_starts_from_the_head_of_an_earlier_one(tmp_path: Path) -> None:
    Trainer(read_config(_training(tmp_path))).run()
    first = tmp_path / "out"
    later = [f"model={first}/model", f"head={first}/head", f"out={tmp_path}/later"]
    trainer = Trainer(read_config(tmp_path / "ctc.yaml", later))
    torch.testing.assert_close(
        trainer.model.head.weight, load_head(load_model(first / "model"), first / "head").head.weight
    )
    assert trainer.optimizer.param_groups[1]["params"][0] is trainer.model.head.weight


def test_the_teachers_loss_is_the_cross_entropy_of_the_valid_frames() -> None:
    logits, wanted = torch.randn(2, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    frames = torch.tensor([5, 3])
    rows = [(logits[b, t], wanted[b, t].softmax(-1)) for b in range(2) for t in range(frames[b])]
    expected = sum(torch.nn.functional.cross_entropy(row[None], p[None]) for row, p in rows) / 11
    torch.testing.assert_close(teacher_loss(logits, wanted, frames, 11), expected)


def test_a_student_learns_the_probabilities_of_a_teacher(tmp_path: Path) -> None:
    config = _training(tmp_path)
    sharp = Trainer(read_config(config, [f"out={tmp_path}/teacher"]))
    with torch.no_grad():
        sharp.average["head.weight"].mul_(30)
    sharp.export(tmp_path / "teacher/model", tmp_path / "teacher/head")
    given = [f"teacher={tmp_path}/teacher/model", f"teacher_head={tmp_path}/teacher/head"]
    short = ["rate=0.002", "head_rate=0.01", "augment_hours=1e9", "warmup_hours=1e-6", "decay_share=0.1"]
    losses = {}
    for hours in (1e-9, 1.0):
        trainer = Trainer(read_config(config, [*given, *short, f"teacher_hours={hours}"]))
        rows, _ = trainer.examples.batches(0.0)
        wavs, lengths, targets = collate(
            trainer.model, rows[0], trainer.examples, np.random.default_rng(0), trainer.config, 0.0
        )
        trainer.heard = 1.0
        for _ in range(30):
            told = trainer.step(rows[0])
        assert set(told) == ({"loss", "teacher_loss"} if hours == 1.0 else {"loss"})
        with torch.no_grad():
            logits, frames = trainer.model(wavs, lengths)
            wanted, _ = load_teacher(trainer.config, trainer.model)(wavs, lengths)
        losses[hours] = float(teacher_loss(logits, wanted, frames, sum(map(len, targets))))
    assert losses[1.0] < 0.7 * losses[1e-9], "beyond `teacher_hours` it is CTC alone"
    trainer.heard = 0.01 * 3600
    trainer.export(tmp_path / "out/model", tmp_path / "out/head")
    stated = read_card(tmp_path / "out/model")["recogniser_teacher"]
    assert stated == {"source_sha256": model_sha256(tmp_path / "teacher/model"), "weight": 1.0, "hours": 0.01}
    assert "probabilities of: weight 1, 0.01 h" in tree(tmp_path / "out/model")
    trainer.heard = 3600.0
    trainer.step(rows[0])
    assert trainer.teacher is None
    for wrong, message in (
        (given[:1], "also give teacher_head"), (given[1:], "also give teacher,"),
        ([*given, "teacher_weight=0"], "teacher_weight"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Trainer(read_config(config, wrong))
    with pytest.raises(DownstreamError, match="other weights"):
        Trainer(read_config(config, [f"teacher={tmp_path}/start", given[1]]))


def test_the_teacher_hears_augmented_audio_without_masks(tmp_path: Path, monkeypatch) -> None:
    config = _training(tmp_path)
    Trainer(read_config(config, [f"out={tmp_path}/teacher"])).export(tmp_path / "t/model", tmp_path / "t/head")
    trainer = Trainer(read_config(config, [f"teacher={tmp_path}/t/model", f"teacher_head={tmp_path}/t/head"]))
    trainer.heard = 3600.0 * trainer.config.augment_hours  # every clip is augmented
    heard, hooks = {}, {}

    def watch(name: str, model: Recogniser) -> None:
        front = model.encoder.feature_extractor
        model.register_forward_pre_hook(lambda _, given: heard.update({name: given[0]}))
        front.register_forward_hook(lambda *_: hooks.update({name: len(front._forward_hooks)}))

    watch("student", trainer.model)
    watch("teacher", trainer.teacher)
    rows, _ = trainer.examples.batches(0.0)
    trainer.step(rows[0])
    assert torch.equal(heard["student"], heard["teacher"])
    assert hooks == {"student": 2, "teacher": 1}, "SpecAugment is a hook on the front end"


def test_a_teacher_of_another_frame_rate_is_refused(tmp_path: Path) -> None:
    config = _training(tmp_path)
    plain = replace(TINY, squeeze=1)
    save_recogniser(Recogniser(build_encoder(plain)), tmp_path / "m", tmp_path / "h", "m", tmp_path / "start", {})
    with pytest.raises(ValueError, match="50 frames a second, the student's head 25"):
        Trainer(read_config(config, [f"teacher={tmp_path}/m", f"teacher_head={tmp_path}/h"]))


def test_warping_moves_the_frequencies() -> None:
    centres = 100.0 * torch.arange(1, 21)
    frames = centres[None, None, :, None].expand(2, 2, 20, 3).contiguous()
    warped = warp_frequencies(frames, torch.tensor([1.0, 1.1]), centres)
    torch.testing.assert_close(warped[0], frames[0])
    torch.testing.assert_close(warped[1, :, :18], 1.1 * frames[1, :, :18])
    assert warped[1, 0, -1, 0] == 2000


@pytest.mark.parametrize(
    ("override", "message"),
    [("ratee=1", "rate"), ("augment.spede=1", "speed"), ("batch_seconds=many", "batch_seconds")],
)
def test_a_configuration_is_checked(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(_training(tmp_path), [override])


def test_subtitles_of_one_file_and_of_several(trained: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    files = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for seed, file in enumerate(files):
        write_audio(file, np.random.default_rng(seed).uniform(-0.3, 0.3, 16000))
    options = ["--model", str(trained[1]), "--format"]
    assert main(["transcribe", str(files[0]), *options, "vtt"]) == 0
    assert (shown := capsys.readouterr().out).startswith("WEBVTT\n")
    assert main(["transcribe", str(files[0]), *options, "vtt", "--out", str(tmp_path / "one.vtt")]) == 0
    assert (tmp_path / "one.vtt").read_text(encoding="utf-8") == shown
    assert main(["transcribe", *map(str, files), *options, "srt"]) == 2
    assert "name a folder" in capsys.readouterr().err
    broken = tmp_path / "c.wav"
    broken.write_bytes(b"RIFF")
    assert main(["transcribe", *map(str, files), str(broken), *options, "srt", "--out", str(tmp_path / "subs")]) == 1
    assert "c.wav" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "subs").iterdir()} == {"a.srt", "b.srt"}
    (tmp_path / "x").mkdir()
    twin = tmp_path / "x" / "a.wav"
    twin.write_bytes(files[0].read_bytes())
    assert main(["transcribe", str(files[0]), str(twin), *options, "srt", "--out", str(tmp_path / "subs")]) == 2
    assert "both become" in capsys.readouterr().err
    named = tmp_path / "subs" / "c.srt"  # audio under the name that its subtitles would have
    named.write_bytes(files[0].read_bytes())
    assert main(["transcribe", str(named), str(files[1]), *options, "srt", "--out", str(tmp_path / "subs")]) == 2
    assert "which would be lost" in capsys.readouterr().err and named.read_bytes() == files[0].read_bytes()


def test_hotwords_change_text_and_words_alike(trained: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    audio = tmp_path / "noise.wav"
    write_audio(audio, np.random.default_rng(0).uniform(-0.3, 0.3, 16000))
    options = ["--model", str(trained[1]), "--words", "--hotwords"]
    assert main(["transcribe", str(audio), *options, "كتاب"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert [word["word"] for word in row["words"]] == row["text"].split()
    assert main(["transcribe", str(audio), *options, "hello"]) == 2
    assert "no letter" in capsys.readouterr().err
