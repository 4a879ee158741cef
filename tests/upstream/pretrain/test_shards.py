"""Shards: readable by Lhotse, exact audio and labels, safe to interrupt, read in bounded memory."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from corpora.audio import encode_audio, read_audio, write_audio
from corpora.datadir import Utterance, read_datadir, write_datadir
from corpora.files import TooManyBadFiles
from upstream.config import PretrainConfig, RegressionConfig
from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder, frame_count
from upstream.model.family import geometry
from upstream.model.modeldir import model_sha256, read_card, save_model
from upstream.pretrain.module import Pretraining
from upstream.pretrain.shards import ShardDataset, ShardSampler, ShardsInfo, check_shards, read_shards, write_shards
from upstream.pretrain.train import pretrain
from upstream.units.units import Units, UnitsInfo, UnitsWriter

K = 200
INFO = UnitsInfo(50, K, "mfcc", "mfcc", None, None, "c" * 64, None)
CONFIG = PretrainConfig(
    steps=10, batch_seconds=6.0, crop_seconds=2.0, valid_every=3, precision="fp32", mix_shards=2, temperature=1.0
)
TINY = geometry("mini_hst", width=32, heads=2, ffn=64, pos_conv_groups=4, pos_conv_kernel=8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Every 320 samples of utterance n hold one value, which names utterance and frame; so do the units."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("dev", 3)):
        utterances = []
        with UnitsWriter(root / "units", split, INFO) as writer:
            for i in range(count):
                samples = int(rng.integers(3000, 60000))
                units = rng.integers(0, K, samples // 320 + 1)
                path = root / "audio" / split / f"نص {i}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_audio(path, (np.repeat(units, 320)[:samples] / 256).astype(np.float32))
                language = "ar" if i % 3 else "en"
                utterances.append(Utterance(f"s-{split}.{i:02d}", "s", path, samples, text="قال", language=language))
                writer.add(utterances[-1].utt_id, units[: frame_count(samples)])
        write_datadir(root / split, utterances)
    return root


def write(data, folder, **options):
    units = Units.open(data / "units", "train")
    options = {"shard_seconds": 8.0, "units": units, "units_info": {"units": units.info.facts()}} | options
    return write_shards(read_datadir(data / "train"), folder, "train", **options)


@pytest.fixture(scope="module")
def shards(data, tmp_path_factory):
    return write(data, tmp_path_factory.mktemp("shards"))


def test_lhotse_reads_our_shards(data, shards):
    from lhotse import CutSet

    utterances = {u.utt_id: u for u in read_datadir(data / "train")}
    units = Units.open(data / "units", "train")
    seen = []
    for cut in CutSet.from_shar(in_dir=str(shards.folder / "train")):
        u = utterances[cut.id]
        np.testing.assert_array_equal(cut.load_audio()[0], read_audio(u.audio))
        np.testing.assert_array_equal(cut.units.load(), units[u.utt_id])
        assert cut.supervisions[0].text == "قال" and cut.supervisions[0].language == u.language
        seen.append(cut.id)
    assert sorted(seen) == sorted(utterances) and seen != sorted(seen), "not shuffled"
    assert len(shards.shards) > 5 and sum(s["utterances"] for s in shards.shards) == len(seen)


def test_opus_keeps_every_sample_and_a_tenth_of_the_bytes(real_speech, tmp_path):
    paths = sorted((real_speech / "everyayah").rglob("*.mp3"))[:3] or sorted(real_speech.rglob("*.wav"))[:3]
    from corpora.audio import load_any

    utterances = []
    for i, path in enumerate(paths):
        write_audio(tmp_path / f"{i}.wav", load_any(path))
        samples = len(read_audio(tmp_path / f"{i}.wav"))
        utterances.append(Utterance(f"s-{i}", "s", tmp_path / f"{i}.wav", samples))
    sizes = {}
    for codec in ("flac", "opus"):
        info = write_shards(utterances, tmp_path / codec, "train", codec=codec)
        items = {item.utt_id: item for item in read_shards(info, [0])}
        for u in utterances:
            wav, decoded = read_audio(u.audio), items[u.utt_id].waveform(0, u.samples)
            assert len(decoded) == u.samples
            assert np.corrcoef(wav, decoded)[0, 1] > 0.95
        sizes[codec] = sum(len(item.content) for item in items.values())
    assert sizes["opus"] < 0.35 * sizes["flac"]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


KILLED = """
import os, signal, sys
from dataclasses import asdict, replace
from pathlib import Path
from corpora.datadir import read_datadir
from upstream.pretrain import shards
from upstream.units.units import Units
encode, done = shards.encode_audio, []
def die(wav, *rest):
    done.append(1)
    return os.kill(os.getpid(), signal.SIGKILL) if len(done) == 12 else encode(wav, *rest)
shards.encode_audio = die
units = Units.open(Path(sys.argv[1]) / "units", "train")
shards.write_shards(
    read_datadir(Path(sys.argv[1]) / "train"), Path(sys.argv[2]), "train", shard_seconds=8.0, units=units,
    units_info={"units": units.info.facts()},
)
"""


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_shards(data, shards, tmp_path):
    result = subprocess.run([sys.executable, "-c", KILLED, data, tmp_path], capture_output=True, timeout=120)
    assert result.returncode == -signal.SIGKILL, result.stderr
    done = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "train").glob("[cr]*")}
    assert 4 <= len(done) < 2 * len(shards.shards) and not (tmp_path / "train.json").exists()
    with pytest.raises(UpstreamError, match="train.json"):
        ShardsInfo.open(tmp_path, "train")
    write(data, tmp_path)
    assert all((tmp_path / "train" / name).stat().st_mtime_ns == time for name, time in done.items())
    ours, theirs = contents(tmp_path), contents(shards.folder)
    assert ours.keys() == theirs.keys(), "files of the killed run are left"
    for name in ours:  # gzip stores the name and time of what it packs
        assert ours[name] == theirs[name] or name.suffix == ".gz", name


def test_other_units_replace_the_labels_and_nothing_else(data, tmp_path):
    first = write(data, tmp_path)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "train").iterdir()}
    units = Units.open(data / "units", "train")
    other = {utt_id: (K - 1 - units[utt_id]) for utt_id in list(units)[1:]}
    second = write(data, tmp_path, units=other, units_info={"units": units.info.facts() | {"layer": 9}})
    assert second.sha256 == first.sha256 and second.units["units"]["layer"] == 9
    assert all((p.stat().st_mtime_ns == t) == (not p.name.startswith("units")) for p, t in times.items())
    items = {item.utt_id: item.units for n in range(len(second.shards)) for item in read_shards(second, [n])}
    assert items.keys() == other.keys(), "an utterance without units has nothing to train on"
    assert all(np.array_equal(items[utt_id], labels) for utt_id, labels in other.items())
    left = {u.utt_id: u.samples / 16000 / 3600 for u in read_datadir(data / "train") if u.utt_id not in other}
    assert sum(second.hours.values()) == pytest.approx(sum(first.hours.values()) - sum(left.values()))
    assert second.audio_hours == first.audio_hours == first.hours
    bare = write(data, tmp_path, units=None, units_info=None)
    assert bare.units is None and not list((tmp_path / "train").glob("units*"))
    with pytest.raises(UpstreamError, match="--units"):
        check_shards(bare, {"units": INFO.facts()})


def test_units_of_another_origin_or_length_are_refused(data, shards, tmp_path):
    check_shards(shards, {"units": INFO.facts()})
    with pytest.raises(UpstreamError, match="layer"):
        check_shards(shards, {"units": INFO.facts() | {"layer": 3}})
    short = dict(Units.open(data / "units", "train"))
    short["s-train.04"] = short["s-train.04"][:-1]
    with pytest.raises(UpstreamError, match=r"utterance s-train.04"):
        write(data, tmp_path, units=short)
    assert not (tmp_path / "train.json").exists()


def test_bad_audio_is_left_out_and_too_much_of_it_stops(data, tmp_path):
    utterances = read_datadir(data / "train")
    for u in utterances[:2]:
        (tmp_path / u.audio.name).write_bytes(u.audio.read_bytes()[:300])
    bad = [Utterance(u.utt_id, u.speaker, tmp_path / u.audio.name, u.samples) for u in utterances[:2]]
    info = write_shards([bad[0], *utterances[1:]], tmp_path / "one", "train", shard_seconds=8.0)
    assert sum(s["utterances"] for s in info.shards) == 29
    read = list(read_shards(info, range(len(info.shards))))
    assert bad[0].utt_id not in {item.utt_id for item in read}
    seconds = {group: 3600 * hours for group, hours in info.hours.items()}
    assert seconds == pytest.approx(
        {group: sum(i.samples for i in read if i.language == group) / 16000 for group in ("ar", "en")}
    ), "hours of left-out audio"
    with pytest.raises(TooManyBadFiles, match="2 of 30"):
        write_shards([*bad, *utterances[2:]], tmp_path / "two", "train", shard_seconds=8.0)


def test_repaired_audio_costs_its_own_shard(data, tmp_path):
    """Whether the file has changed, or was unreadable for a while."""
    audio = tmp_path / "audio"
    utterances = [replace(u, audio=audio / u.audio.name) for u in read_datadir(data / "train")]
    audio.mkdir()
    for u in read_datadir(data / "train"):
        shutil.copy(u.audio, audio)

    def write_again():
        units = Units.open(data / "units", "train")
        return write_shards(utterances, tmp_path / "out", "train", shard_seconds=8.0, units=units,
                            units_info={"units": units.info.facts()})  # fmt: skip

    lost = utterances[0].audio
    content, stat = lost.read_bytes(), lost.stat()
    for audio_bytes, expected in ((bytes(len(content)), 29), (content, None)):  # size and time stay, as in an outage
        lost.write_bytes(audio_bytes)
        os.utime(lost, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert expected is None or sum(s["utterances"] for s in write_again().shards) == expected
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/train").iterdir()}
    info = write_again()
    assert sum(s["utterances"] for s in info.shards) == 30
    changed = {p.name.partition(".")[2][:6] for p, time in times.items() if p.stat().st_mtime_ns != time}
    assert len(changed) == 1 < len(info.shards) and len(times) == 3 * len(info.shards)
    assert all(len(item.units) == frame_count(item.samples) for item in read_shards(info, range(len(info.shards))))
    os.utime(utterances[0].audio)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/train").iterdir()}
    write_again()
    assert {p.name.partition(".")[2][:6] for p, time in times.items() if p.stat().st_mtime_ns != time} == changed


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_epoch_shows_every_utterance_once_in_bounded_batches(data, shards, ranks):
    seen: Counter[str] = Counter()
    orders = set()
    for rank in range(ranks):
        sampler = ShardSampler(shards, CONFIG, stop=10**9, rank=rank, ranks=ranks)
        for step in sampler:
            if step.position[0] > 0:
                break
            (clips,) = step.parts
            assert len(clips) * max(c.samples for c in clips) <= CONFIG.batch_seconds * 16000
            seen.update(c.utterance.utt_id for c in clips)
        orders.add(tuple(map(tuple, sampler.blocks(0))))
        assert sampler.blocks(0) != sampler.blocks(1)
    limit = CONFIG.crop_seconds * 16000
    for u in read_datadir(data / "train"):  # an utterance longer than a crop gives several
        assert seen[u.utt_id] == 1 or 1 <= int(u.samples / limit) <= seen[u.utt_id] <= int(u.samples / limit) + 1
    assert len(seen) == 30
    assert len(orders) == ranks


def test_crops_from_shards_keep_their_labels(shards):
    dataset = ShardDataset(CONFIG)
    for step in ShardSampler(shards, CONFIG, stop=12):
        batch = dataset[step].parts[0]
        for wav, labels, valid in zip(batch.wavs, batch.labels, batch.valid, strict=True):
            frames = int(valid.sum())
            assert frames == frame_count(len(wav))
            np.testing.assert_array_equal((wav.numpy()[::320][:frames] * 256).round(), labels[:frames])


def test_a_position_continues_the_reading(shards):
    config = PretrainConfig(**(asdict(CONFIG) | {"accumulate": 2}))
    for rank in (0, 1):
        whole = list(ShardSampler(shards, config, stop=25, rank=rank, ranks=2))
        assert whole[-1].position[0] > 0, "the test should cross an epoch"
        for start in (1, 8, 24):
            resumed = ShardSampler(
                shards, config, start=start, stop=25, position=whole[start - 1].position, rank=rank, ranks=2
            )
            names = [[[c.utterance.utt_id for c in part] for part in step.parts] for step in resumed]
            assert names == [[[c.utterance.utt_id for c in part] for part in step.parts] for step in whole[start:]]


def test_more_processes_than_shards_are_refused(shards):
    with pytest.raises(UpstreamError, match="--shard-minutes"):
        ShardSampler(shards, CONFIG, rank=0, ranks=100)


@pytest.mark.slow
def test_training_from_shards_survives_a_kill(data, shards, tmp_path, monkeypatch):
    """With data workers, and without a data directory `train`."""
    config = PretrainConfig(**(asdict(CONFIG) | {"workers": 1, "accumulate": 2}))
    alone = tmp_path / "data"
    alone.mkdir()
    (alone / "dev").symlink_to(data / "dev")
    pretrain(TINY, alone, data / "units", tmp_path / "whole", config, shards=shards.folder)
    real = Pretraining.training_step

    def killed(self, step, batch_idx):
        if step.number == 7:
            raise KeyboardInterrupt
        return real(self, step, batch_idx)

    monkeypatch.setattr(Pretraining, "training_step", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        pretrain(TINY, alone, data / "units", tmp_path / "killed", config, shards=shards.folder)
    monkeypatch.undo()
    pretrain(TINY, alone, data / "units", tmp_path / "killed", config, shards=shards.folder)
    assert model_sha256(tmp_path / "killed" / "model") == model_sha256(tmp_path / "whole" / "model")


@pytest.mark.slow
def test_features_alone_need_no_units_in_the_shards(data, tmp_path):
    """The same audio gives the same model, whether the shards hold units of all, of some, or of no utterances."""
    torch.manual_seed(1)
    teacher = save_model(build_encoder(TINY), tmp_path / "teacher", {"name": "teacher"})
    units = Units.open(data / "units", "train")
    some = {utt_id: units[utt_id] for utt_id in list(units)[::3]}
    made = {"all": {}, "some": {"units": some}, "none": {"units": None, "units_info": None}}
    found = {}
    for name, options in made.items():
        folder = write(data, tmp_path / f"shards {name}", **options).folder
        regression = RegressionConfig(str(teacher), [1, 2])
        config = replace(CONFIG, steps=6)
        model = pretrain(TINY, data, [], tmp_path / name, config, regression=regression, shards=folder)
        found[name] = (model_sha256(model), read_card(model)["hours"])
    assert len(set(found.values())) == 1, found
    with pytest.raises(UpstreamError, match="shards --units"):
        pretrain(TINY, data, data / "units", tmp_path / "refused", CONFIG, shards=tmp_path / "shards none")


# Prints by how much resident memory grows (MiB) while an epoch is read, decoding included. The kernel's own peak would
# hide it: it remembers what the imports and even the parent process once took.
STREAM = """
import psutil, sys
from pathlib import Path
from upstream.config import PretrainConfig
from upstream.pretrain.shards import ShardDataset, ShardSampler, ShardsInfo
config = PretrainConfig(batch_seconds=40, mix_shards=2)
info = ShardsInfo.open(Path(sys.argv[1]), "train")
dataset = ShardDataset(config)
resident = lambda: psutil.Process().memory_info().rss / 2**20
seen = []
for step in ShardSampler(info, config, stop=10**9):
    if step.position[0] > 0:
        break
    dataset[step]
    seen.append(resident())
print(max(seen) - seen[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
    """16 shards of 6 MB of noise are read, two at a time."""
    path, samples = tmp_path / "noise.wav", 16000 * 20
    noise = np.random.default_rng(0).uniform(-1, 1, samples).astype(np.float32)
    write_audio(path, noise)
    content = encode_audio(noise, "FLAC")
    monkeypatch.setattr("upstream.pretrain.shards.encode_audio", lambda *_: content)
    utterances = [Utterance(f"s-{i:04d}", "s", path, samples) for i in range(160)]
    units = {u.utt_id: np.zeros(frame_count(samples), np.uint16) for u in utterances}
    info = write_shards(utterances, tmp_path / "out", "train", shard_seconds=199, units=units, units_info={})
    assert len(info.shards) == 16
    assert sum(p.stat().st_size for p in (tmp_path / "out" / "train").iterdir()) > 90 * 2**20
    result = subprocess.run([sys.executable, "-c", STREAM, tmp_path / "out"], capture_output=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 40, "MiB; the whole corpus in memory would be 90"


def test_label_sets_in_another_order_are_refused(shards):
    """Labels of several sets are columns: the same names in another order would train each head on another's."""
    own = INFO.facts()
    both = replace(shards, units={"fine": own, "coarse": own | {"layer": 3}})
    check_shards(both, {"fine": own, "coarse": own | {"layer": 3}})
    with pytest.raises(UpstreamError, match="fine, coarse"):
        check_shards(both, {"coarse": own | {"layer": 3}, "fine": own})
    with pytest.raises(UpstreamError, match="coarse"):
        check_shards(both, {"fine": own})
