"""Units from data directories: complete, traceable, resumable to the same bytes; unreadable audio is listed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from corpora.audio import read_audio, write_audio
from corpora.datadir import Utterance, read_datadir, write_datadir
from corpora.files import TooManyBadFiles
from upstream.config import TargetConfig
from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder, frame_count
from upstream.model.family import Geometry
from upstream.model.modeldir import model_sha256, save_model
from upstream.units.codebook import Codebook
from upstream.units.features import LayerSource, MfccSource
from upstream.units.label import UnitsReport, fit_sample, fit_utterances, make_units
from upstream.units.units import Units, UnitsWriter, check_units

TINY = Geometry("tiny", 3, 32, 2, 64, "logmel", pos_conv_kernel=16, pos_conv_groups=2)
MFCC = TargetConfig(k=12, batch_seconds=4.0, seed=1)
SHARD_SECONDS = 5.0


def write_corpus(folder: Path, utterances: int, seed: int) -> Path:
    """Noise of changing colour and loudness, 0.1 to 1.6 s, of three speakers."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(utterances):
        samples = int(rng.integers(1600, 25_600))
        noise = rng.standard_normal(samples)
        wave = 0.05 * np.convolve(noise, rng.standard_normal(16), "same") * np.linspace(0.1, 1, samples)
        path = folder / "audio" / f"{i:03d}.wav"
        write_audio(path, np.clip(wave, -0.9, 0.9).astype(np.float32))
        records.append(Utterance(f"s{i % 3}-{i:03d}", f"s{i % 3}", path, samples))
    write_datadir(folder / "data", records)
    return folder / "data"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return {"train": write_corpus(folder / "train", 40, 0), "dev": write_corpus(folder / "dev", 8, 1)}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    torch.manual_seed(0)
    return save_model(build_encoder(TINY), tmp_path_factory.mktemp("model") / "tiny", {"name": "tiny"})


@pytest.fixture
def own_corpus(tmp_path):
    """A training split that a test may spoil."""
    return {"train": write_corpus(tmp_path / "corpus", 40, 0)}


def run(data: dict[str, Path], out_dir: Path, config: TargetConfig = MFCC) -> UnitsReport:
    return make_units(data, out_dir, config, shard_seconds=SHARD_SECONDS)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def labelled(caplog):
    """Numbers of the shards that were labelled since the last call."""
    caplog.set_level("INFO")

    def numbers() -> list[int]:
        paths = [record.args[0] for record in caplog.records if record.msg == "labelling %s"]
        caplog.clear()
        return [int(path.name[:6]) for path in paths]

    return numbers


def spoil(path: Path) -> bytes:
    """Make a file unreadable; size and time stay, as in a disk failure. Returns its content."""
    content, stat = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return content


def repair(path: Path, content: bytes) -> None:
    """Undo `spoil`."""
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_mfcc_units_are_the_nearest_centroids_of_each_utterance(corpus, tmp_path):
    report = run(corpus, tmp_path)
    assert set(contents(tmp_path)) == {
        "codebook.safetensors",
        "train.bin",
        "train.json",
        "dev.bin",
        "dev.json",
        "report.json",
    }
    codebook = Codebook.load(tmp_path / "codebook.safetensors")
    for split, path in corpus.items():
        units, utterances = Units.open(tmp_path, split), read_datadir(path)
        assert check_units(units, utterances, k=12, codebook_sha256=codebook.sha256) == utterances
        assert list(units) == [u.utt_id for u in utterances]
        for u in utterances:
            (frames,) = MfccSource().features([read_audio(u.audio)])
            np.testing.assert_array_equal(units[u.utt_id], codebook.assign(frames))
        assert report.splits[split].frames == sum(frame_count(u.samples) for u in utterances)
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert stored["splits"]["train"]["clusters_in_use"] == report.splits["train"].clusters_in_use == 12
    assert 0 < stored["codebook"]["inertia"] < stored["codebook"]["variance"]
    counts = Units.open(tmp_path, "train").histogram()
    shares = counts / counts.sum()
    assert report.splits["train"].perplexity == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), abs=0.01)


def test_units_that_name_their_speaker_are_reported_and_cmvn_helps(tmp_path, caplog):
    """Each of two speakers has a microphone of its own: low-pass or high-pass noise, with a rhythm that both share."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(24):
        noise = rng.standard_normal(16_000) * (1 + np.sin(np.arange(16_000) / 400))
        wave = np.convolve(noise, [1, 1, 1, 1] if i % 2 else [1, -1], "same")
        path = tmp_path / f"{i:02d}.wav"
        write_audio(path, (0.05 * wave).astype(np.float32))
        records.append(Utterance(f"s{i % 2}-{i:02d}", f"s{i % 2}", path, 16_000))
    write_datadir(tmp_path / "data", records)
    plain, normalised = (
        run({"train": tmp_path / "data"}, tmp_path / f"units{cmvn}", replace(MFCC, cmvn=cmvn)).splits["train"]
        for cmvn in (False, True)
    )
    units = Units.open(tmp_path / "unitsFalse", "train")
    labels = np.concatenate([units[u.utt_id] for u in records])
    speakers = np.concatenate([np.full(len(units[u.utt_id]), i % 2) for i, u in enumerate(records)])
    expected = mutual_info_score(speakers, labels) / np.log(2)  # two speakers who speak equally long: one bit
    assert plain.speaker_share == pytest.approx(expected, abs=0.05) and expected > 0.9  # less what chance gives
    assert normalised.speaker_share < 0.3
    assert [Units.open(tmp_path / f"units{cmvn}", "train").info.cmvn for cmvn in (False, True)] == [False, True]
    assert [r.args[1] > 90 for r in caplog.records if "cmvn=true" in r.msg] == [True]


def test_many_speakers_of_short_clips_do_not_look_like_units_of_speakers(tmp_path, caplog):
    """A clip of a second uses few of the units, which alone looks like information about its speaker."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(40):
        noise = rng.standard_normal(16_000) * (1 + np.sin(np.arange(16_000) / 400))
        write_audio(tmp_path / f"{i:02d}.wav", (0.05 * noise).astype(np.float32))
        records.append(Utterance(f"s{i // 2:02d}-{i:02d}", f"s{i // 2:02d}", tmp_path / f"{i:02d}.wav", 16_000))
    write_datadir(tmp_path / "data", records)
    report = run({"train": tmp_path / "data"}, tmp_path / "units", replace(MFCC, k=100)).splits["train"]
    assert report.speaker_share < 0.1 and not [r for r in caplog.records if "cmvn=true" in r.msg]


def test_layer_units_follow_the_model_through_pca(corpus, model_dir, tmp_path):
    config = replace(MFCC, source=str(model_dir), pca=6)
    report = run(corpus, tmp_path, config)
    assert report.info.layer == 2
    assert (report.info.front_end, report.info.pca_dim) == ("logmel", 6)
    assert report.info.model_sha256 == model_sha256(model_dir)
    codebook = Codebook.load(tmp_path / "codebook.safetensors")
    units, utterances = Units.open(tmp_path, "train"), read_datadir(corpus["train"])
    source = LayerSource(model_dir, 2)
    expected = [codebook.assign(source.features([read_audio(u.audio)])[0]) for u in utterances]
    agree = np.concatenate([units[u.utt_id] for u in utterances]) == np.concatenate(expected)
    assert agree.mean() > 0.998, "beyond rounding, batching changed the units"
    with pytest.raises(UpstreamError, match="layer .*2.*3"):
        check_units(units, utterances, layer=3)


def test_one_codebook_for_all_splits_fitted_on_train(corpus, tmp_path):
    both = run({"dev": corpus["dev"], "train": corpus["train"]}, tmp_path / "both")
    train = run({"train": corpus["train"]}, tmp_path / "train")
    assert both.info == train.info
    assert Units.open(tmp_path / "both", "dev").info == Units.open(tmp_path / "both", "train").info


def test_a_second_run_does_nothing(corpus, model_dir, tmp_path, labelled):
    config = replace(MFCC, source=str(model_dir))
    first = run(corpus, tmp_path, config)
    before, fitted = contents(tmp_path), (tmp_path / "codebook.safetensors").stat().st_mtime_ns
    assert labelled()
    assert run(corpus, tmp_path, config) == first
    assert labelled() == [] and (tmp_path / "codebook.safetensors").stat().st_mtime_ns == fitted
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "change", [{"k": 13}, {"seed": 2}, {"pca": 5}, {"cmvn": True}, {"layer": 1}, {"fit_hours": 0.001}]
)
@pytest.mark.slow
def test_another_configuration_starts_again(own_corpus, model_dir, tmp_path, labelled, change):
    config = replace(MFCC, source=str(model_dir))
    first = run(own_corpus, tmp_path / "units", config)
    labelled()
    second = run(own_corpus, tmp_path / "units", replace(config, **change))
    assert second.info.codebook_sha256 != first.info.codebook_sha256
    assert labelled(), "units of the old codebook were kept"
    assert Units.open(tmp_path / "units", "train").info == second.info


def test_other_audio_starts_again(own_corpus, tmp_path):
    first = run(own_corpus, tmp_path / "units")
    path = read_datadir(own_corpus["train"])[3].audio
    write_audio(path, -0.5 * read_audio(path)[::-1])
    second = run(own_corpus, tmp_path / "units")
    assert second.info.codebook_sha256 != first.info.codebook_sha256


def test_a_moved_model_is_still_the_same(corpus, model_dir, tmp_path, labelled):
    run(corpus, tmp_path / "units", replace(MFCC, source=str(model_dir)))
    (tmp_path / "moved").symlink_to(model_dir)
    labelled()
    run(corpus, tmp_path / "units", replace(MFCC, source=str(tmp_path / "moved")))
    assert labelled() == []


KILLED = """
import os, signal, sys
from pathlib import Path
from upstream.config import TargetConfig
from upstream.errors import UpstreamError
from upstream.units.codebook import Codebook
from upstream.units.label import make_units
from upstream.units.units import UnitsWriter

train, dev, out, where = sys.argv[1:]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if where == "codebook":
    Codebook.save = die
elif where == "shard":
    assign = Codebook.assign
    # In the third shard, before it is written.
    done = lambda: list(Path(out).glob(".train.shards/[!.]*"))
    Codebook.assign = lambda *args: die() if len(done()) == 2 else assign(*args)
elif where == "join":
    UnitsWriter.__exit__ = die
make_units(
    {"train": Path(train), "dev": Path(dev)}, Path(out), TargetConfig(k=12, batch_seconds=4.0, seed=1),
    shard_seconds=5.0,
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where, done", [("codebook", 0), ("shard", 2), ("join", 99)])
def test_killed_and_resumed_gives_the_same_bytes(corpus, tmp_path, labelled, where, done):
    undisturbed = run(corpus, tmp_path / "undisturbed")
    result = subprocess.run(
        [sys.executable, "-c", KILLED, corpus["train"], corpus["dev"], tmp_path / "killed", where],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert not (tmp_path / "killed" / "train.json").exists()
    labelled()
    assert run(corpus, tmp_path / "killed") == undisturbed
    plan = {split: shard_numbers(path) for split, path in corpus.items()}
    assert len(plan["train"]) > 3
    assert labelled() == plan["train"][done:] + plan["dev"], "a kill may lose the shard it hit, and no more"
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def shard_numbers(data_dir: Path) -> list[int]:
    """Numbers of the shards of a split."""
    room, count = 0.0, 0
    for u in read_datadir(data_dir):
        if room <= 0:
            room, count = SHARD_SECONDS, count + 1
        room -= u.samples / 16000
    return list(range(count))


def test_a_damaged_shard_is_labelled_again(corpus, tmp_path, monkeypatch, labelled):
    undisturbed = run({"train": corpus["train"]}, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        patch.setattr(UnitsWriter, "__enter__", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run({"train": corpus["train"]}, tmp_path / "units")
    shard = sorted((tmp_path / "units").rglob("000001-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:100])
    labelled()
    assert run({"train": corpus["train"]}, tmp_path / "units") == undisturbed
    assert labelled() == [1]
    assert contents(tmp_path / "units") == contents(tmp_path / "undisturbed")


def test_one_bad_file_is_left_out_and_listed(own_corpus, tmp_path):
    bad = read_datadir(own_corpus["train"])[7]
    bad.audio.write_bytes(bad.audio.read_bytes()[:200])
    report = run(own_corpus, tmp_path / "units").splits["train"]
    assert (report.utterances, report.unreadable) == (39, 1)
    listed = (tmp_path / "units" / "train.left_out.tsv").read_text(encoding="utf-8")
    assert bad.utt_id in listed
    units, utterances = Units.open(tmp_path / "units", "train"), read_datadir(own_corpus["train"])
    assert bad.audio.name in units.left_out[bad.utt_id]
    assert [u.utt_id for u in check_units(units, utterances)] == list(units)


def test_too_many_bad_files_stop_the_stage(own_corpus, tmp_path):
    for u in read_datadir(own_corpus["train"])[4:9]:
        u.audio.write_bytes(b"")
    with pytest.raises(TooManyBadFiles, match=r"of 40 .*s\d-0"):
        run(own_corpus, tmp_path / "units")
    assert not (tmp_path / "units" / "train.json").exists()


def test_too_many_bad_files_outside_the_fit_stop_it_too(corpus, tmp_path):
    dev = write_corpus(tmp_path / "dev", 8, 1)
    for u in read_datadir(dev)[:2]:
        u.audio.write_bytes(b"")
    with pytest.raises(TooManyBadFiles, match="2 of 8"):
        run({"train": corpus["train"], "dev": dev}, tmp_path / "units")
    assert not (tmp_path / "units" / "dev.json").exists()
    assert (tmp_path / "units" / "train.json").exists()


@pytest.mark.parametrize("touched", [False, True])
def test_after_an_outage_the_same_command_resumes(own_corpus, tmp_path, labelled, touched):
    """Unreadable audio is tried again, also if its file has not changed; codebook and other shards are kept."""
    config = replace(MFCC, fit_hours=0.001)
    lost = [u.audio for u in read_datadir(own_corpus["train"])[-3:]]
    undisturbed = run(own_corpus, tmp_path / "undisturbed", config)
    audio = [spoil(path) for path in lost]
    for _ in range(2):
        with pytest.raises(TooManyBadFiles, match=f"3 of 40 .*{lost[0].name}"):
            run(own_corpus, tmp_path / "units", config)
    fitted = (tmp_path / "units/codebook.safetensors").stat().st_mtime_ns
    for path, content in zip(lost, audio, strict=True):
        repair(path, content)
        if touched:
            os.utime(path)
    labelled()
    assert run(own_corpus, tmp_path / "units", config) == undisturbed
    assert (tmp_path / "units/codebook.safetensors").stat().st_mtime_ns == fitted
    last = shard_numbers(own_corpus["train"])[-1]
    assert last > 3 and set(labelled()) <= {last - 1, last}, "intact shards were labelled again"
    assert Units.open(tmp_path / "units", "train").left_out == {}
    assert (tmp_path / "units/train.bin").read_bytes() == (tmp_path / "undisturbed/train.bin").read_bytes()


def test_complete_units_report_that_left_out_audio_is_readable(own_corpus, tmp_path, caplog):
    lost = read_datadir(own_corpus["train"])[7].audio
    content = spoil(lost)
    for _ in range(2):
        assert run(own_corpus, tmp_path / "units").splits["train"].unreadable == 1
    assert "readable now" not in caplog.text
    repair(lost, content)
    assert run(own_corpus, tmp_path / "units").splits["train"].unreadable == 1
    assert "readable now; delete" in caplog.text and "train.json" in caplog.text


def test_an_impossible_pca_is_refused_before_any_audio_is_read(own_corpus, tmp_path):
    for u in read_datadir(own_corpus["train"]):
        spoil(u.audio)
    for pca in (40, 1.5):
        with pytest.raises(UpstreamError, match=f"pca={pca} .*39"):
            run(own_corpus, tmp_path, replace(MFCC, pca=pca))
    with pytest.raises(ValueError, match="pca"):
        replace(MFCC, pca=True)


def test_audio_of_another_length_than_its_record_is_left_out(own_corpus, tmp_path):
    u = read_datadir(own_corpus["train"])[0]
    write_audio(u.audio, read_audio(u.audio)[:-1])
    run(own_corpus, tmp_path / "units")
    left_out = Units.open(tmp_path / "units", "train").left_out[u.utt_id]
    assert str(u.samples - 1) in left_out and str(u.samples) in left_out


def test_segments_of_a_recording_get_their_own_units(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "long.flac"
    wave = (0.1 * rng.standard_normal(48000) * np.linspace(0.01, 1, 48000)).astype(np.float32)
    write_audio(path, wave)
    cuts = [(0, 16000), (12345, 30000), (30000, 48000)]
    write_datadir(
        tmp_path / "data",
        [Utterance(f"s-{i}", "s", path, b - a, a, b) for i, (a, b) in enumerate(cuts)],
    )
    run({"train": tmp_path / "data"}, tmp_path / "units", replace(MFCC, k=5))
    codebook = Codebook.load(tmp_path / "units" / "codebook.safetensors")
    units = Units.open(tmp_path / "units", "train")
    for i, (a, b) in enumerate(cuts):
        expected = codebook.assign(MfccSource().features([read_audio(path, a, b)])[0])
        np.testing.assert_array_equal(units[f"s-{i}"], expected)


def test_clips_below_one_frame_are_counted_not_labelled(own_corpus, tmp_path):
    utterances = read_datadir(own_corpus["train"])
    for i, samples in enumerate((1, 399, 400)):
        path = tmp_path / f"short{i}.wav"
        write_audio(path, np.full(samples, 0.1, np.float32))
        utterances.append(Utterance(f"s3-{i}", "s3", path, samples))
    write_datadir(own_corpus["train"], utterances)
    report = run(own_corpus, tmp_path / "units").splits["train"]
    assert (report.too_short, report.utterances, report.unreadable) == (2, 41, 0)
    units = Units.open(tmp_path / "units", "train")
    assert len(units["s3-2"]) == 1
    assert units.left_out["s3-1"] == "shorter than one frame (400 samples)"
    write_datadir(tmp_path / "only_short", utterances[-3:-1])
    with pytest.raises(UpstreamError, match="only_short"):
        run({"train": tmp_path / "only_short"}, tmp_path / "nothing")


def test_fit_hours_bound_the_sample(corpus):
    chosen = fit_utterances(read_datadir(corpus["train"]), 6 / 3600, MFCC.seed)
    samples = fit_sample(MfccSource(), chosen, MFCC)
    assert 4 < sum(u.samples for u in chosen) / 16000 <= 6
    assert len(samples) == sum(frame_count(u.samples) for u in chosen)
    assert {u.speaker for u in chosen} == {"s0", "s1", "s2"}, "not a random sample"


def test_memory_of_the_fit_is_bounded(corpus):
    utterances = read_datadir(corpus["train"])
    samples = fit_sample(MfccSource(), utterances, MFCC, limit=4 * 39 * 300)
    assert 200 < len(samples) <= 300
    whole = np.concatenate(MfccSource().features([read_audio(u.audio) for u in utterances]))
    energy, all_energy = samples[:, 0], whole[:, 0]  # C0, which rises through every utterance
    assert abs(energy.mean() - all_energy.mean()) < 0.2 * all_energy.std(), "not spread over the utterances"
    np.testing.assert_array_equal(samples, fit_sample(MfccSource(), utterances, MFCC, limit=4 * 39 * 300))


def test_a_broken_model_is_named(corpus, tmp_path):
    model = build_encoder(TINY)
    with torch.no_grad():
        model.encoder.layers[1].final_layer_norm.weight[3] = float("nan")
    save_model(model, tmp_path / "broken", {})
    with pytest.raises(UpstreamError, match="utterance s.*broken"):
        run(corpus, tmp_path / "units", replace(MFCC, source=str(tmp_path / "broken")))


def test_more_clusters_than_frames(corpus, tmp_path):
    with pytest.raises(UpstreamError, match="5000 clusters"):
        run({"train": corpus["dev"]}, tmp_path, replace(MFCC, k=5000))
    assert not (tmp_path / "codebook.safetensors").exists()


def test_copied_audio_gives_the_same_codebook_and_units(own_corpus, tmp_path):
    """A copy changes the times of files: there may be a second fit, with the same result."""
    first = run(own_corpus, tmp_path / "units")
    bytes_before = (tmp_path / "units" / "train.bin").read_bytes()
    for utterance in read_datadir(own_corpus["train"]):
        os.utime(utterance.audio, (1, 1))
    second = run(own_corpus, tmp_path / "units")
    assert second.info == first.info
    assert (tmp_path / "units" / "train.bin").read_bytes() == bytes_before
