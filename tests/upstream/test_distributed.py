"""Several processes: the same gradients and units as one, and none waits forever."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from corpora.audio import write_audio
from corpora.datadir import Utterance, write_datadir
from upstream.distributed import Place, place
from upstream.model.encoder import frame_count
from upstream.units.units import UnitsInfo, UnitsWriter

INFO = UnitsInfo(50, 4, "mfcc", "mfcc", None, None, "c" * 64, None)

# Trains a tiny model with everything random on; the first process keeps the gradients of every step.
TRAINING = """
import os, signal, sys
from pathlib import Path
from safetensors.torch import save_file
from upstream.pretrain import step as optimise
from upstream.config import PretrainConfig
from upstream.distributed import place
from upstream.model.family import geometry
from upstream.pretrain.train import pretrain

data, out, accumulate, break_rank = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
real, steps = optimise.nn.utils.clip_grad_norm_, []

def keep(parameters, clip):
    out.mkdir(exist_ok=True)
    if len(steps) == 4 and os.environ.get("KILL_RANK") == str(place().rank):
        os.kill(os.getpid(), signal.SIGKILL)
    grads = {str(i): p.grad.clone() for i, p in enumerate(parameters) if p.grad is not None}
    if place().is_first:
        save_file(grads, out / f"gradients{len(steps)}.safetensors")
    steps.append(1)
    return real(parameters, clip)

optimise.nn.utils.clip_grad_norm_ = keep
if break_rank >= 0:
    from upstream.pretrain.data import PretrainDataset
    whole = PretrainDataset.batch
    def broken(self, step, slot, clips):
        batch = whole(self, step, slot, clips)
        if step == 2 and slot == break_rank:
            batch.wavs[0][:] = float("nan")
        return batch
    PretrainDataset.batch = broken
if os.environ.get("UNREADABLE_RANK") == str(place().rank):
    from corpora.audio import AudioError
    from upstream.pretrain.data import PretrainDataset
    readable = PretrainDataset.waveform
    def unreadable(self, clip):
        if "train" in self.describe(clip)[0]:
            raise AudioError("no answer")
        return readable(self, clip)
    PretrainDataset.waveform = unreadable
if os.environ.get("STATELESS_RANK") == str(place().rank):
    sys.modules["upstream.pretrain.train"].load_state = lambda folder: None
config = PretrainConfig(
    steps=6, batch_seconds=3.0, crop_seconds=2.0, valid_every=3, lr=1e-3, precision="fp32", dropout=0.1,
    layerdrop=float(os.environ.get("LAYERDROP", "0.4")), accumulate=accumulate, workers=1, bad_steps=100,
)
tiny = geometry("mini_hst", layers=4, width=32, heads=2, ffn=64, pos_conv_groups=4, pos_conv_kernel=8)
print(pretrain(tiny, data, data / "units", out, config))
"""


def run(command, ranks, fails=False, **env):
    """A Python command on `ranks` processes of this machine; returns its standard error."""
    start = [sys.executable]
    if ranks > 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    script, *arguments = command
    result = subprocess.run(
        [*start, str(script), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (result.returncode != 0) == fails, result.stderr[-3000:]
    return result.stderr


def rows(out):
    """metrics.csv without the column of seconds."""
    with open(out / "metrics.csv", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise of very different lengths, so that the batches of two processes are very unequal."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 14), ("dev", 3)):
        utterances = []
        with UnitsWriter(root / "units", split, INFO) as writer:
            for i in range(count):
                samples = int(rng.integers(3000, 40000))
                path = root / "audio" / split / f"{i}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_audio(path, 0.1 * rng.standard_normal(samples).astype(np.float32))
                utterances.append(Utterance(f"s-{split}{i:02d}", "s", path, samples, language="ar" if i % 3 else "en"))
                writer.add(utterances[-1].utt_id, rng.integers(0, 4, frame_count(samples)).astype(np.uint16))
        write_datadir(root / split, utterances)
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The same run on one process with two batches a step, and on two processes with one."""
    root = tmp_path_factory.mktemp("runs")
    (root / "train.py").write_text(TRAINING)
    run([root / "train.py", data, root / "one", 2, -1], 1)
    run([root / "train.py", data, root / "two", 1, -1], 2)
    return root


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(trained):
    for step in range(6):
        one, two = (load_file(trained / name / f"gradients{step}.safetensors") for name in ("one", "two"))
        assert one.keys() == two.keys(), "LayerDrop chose other layers"
        for name, gradient in one.items():
            # later steps start from weights that already differ in the last bits
            bound = 1e-5 if step == 0 else 1e-2
            assert (gradient - two[name]).norm() <= bound * gradient.norm() + 1e-7, (step, name)
    assert len({len(load_file(p)) for p in (trained / "one").glob("gradients*")}) > 1, "no layer was ever dropped"


@pytest.mark.slow
def test_two_processes_have_the_metrics_and_weights_of_one(trained):
    for one, two in zip(rows(trained / "one"), rows(trained / "two"), strict=True):
        assert one == pytest.approx(two, rel=2e-2, abs=2e-2)
    weights = [load_file(trained / name / "model" / "model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=2e-3, rtol=2e-2)


@pytest.mark.slow
def test_after_a_kill_of_one_of_two_processes_the_run_ends_as_undisturbed(data, trained):
    run([trained / "train.py", data, trained / "killed", 1, -1], 2, fails=True, KILL_RANK="1")
    assert not (trained / "killed" / "model").exists() and (trained / "killed" / "checkpoints" / "last.pt").exists()
    run([trained / "train.py", data, trained / "killed", 1, -1], 2)
    models = [(trained / name / "model" / "model.safetensors").read_bytes() for name in ("two", "killed")]
    assert models[0] == models[1]
    assert rows(trained / "killed") == rows(trained / "two")


@pytest.mark.slow
def test_a_process_without_readable_audio_does_not_block_the_others(data, trained):
    """Without LayerDrop DDP expects a gradient of every parameter, also of the head, from every process."""
    log = run([trained / "train.py", data, trained / "unreadable", 1, -1], 2, UNREADABLE_RANK="1", LAYERDROP="0")
    assert "no answer" in log
    assert len(rows(trained / "unreadable")) == 2 and (trained / "unreadable/model/model.safetensors").is_file()
    assert all(np.isfinite(row["valid_loss"]) for row in rows(trained / "unreadable"))


@pytest.mark.slow
@pytest.mark.parametrize("done", [3, 6])
def test_processes_that_find_different_states_do_not_train(data, trained, done):
    """DDP would average gradients of different weights, or one process would wait forever at the end."""
    out = trained / f"stateless{done}"
    run([trained / "train.py", data, out, 1, -1], 2, fails=done == 3, KILL_RANK="1" if done == 3 else "none")
    before = {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()}
    log = run([trained / "train.py", data, out, 1, -1], 2, fails=True, STATELESS_RANK="1")
    assert f"process 0: step {done}; process 1: step 0" in log
    assert {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()} == before
    run([trained / "train.py", data, out, 1, -1], 2)
    assert (out / "model/model.safetensors").read_bytes() == (trained / "two/model/model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_bad_batch_of_one_process_is_skipped_by_both(data, trained):
    run([trained / "train.py", data, trained / "bad", 1, 1], 2)
    kept = sorted(path.name for path in (trained / "bad" / "bad_batches").iterdir())
    assert kept == ["step0000002-batch1.json", "step0000002-batch1.safetensors"], "or the innocent process kept its own"
    record = json.loads((trained / "bad" / "bad_batches" / kept[0]).read_text())
    tensors = load_file(trained / "bad" / "bad_batches" / kept[1])
    assert record["step"] == 2 and "nan" in record["reason"] and record["utterances"][0]["utt_id"].startswith("s-train")
    assert len(tensors["wav.0"]) == record["utterances"][0]["samples"]
    assert tensors["labels"].shape == (*tensors["mask"].shape, 1) and tensors["mask"].shape == tensors["valid"].shape
    assert rows(trained / "bad")[-1]["bad_steps"] == 1
    weights = load_file(trained / "bad" / "model" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    gradients = [load_file(trained / name / "gradients1.safetensors") for name in ("two", "bad")]
    assert all(torch.equal(gradients[1][name], g) for name, g in gradients[0].items()), "the steps before are untouched"


UNITS = """
import sys
from upstream.__main__ import main
from upstream.units.label import make_units
make_units.__kwdefaults__["shard_seconds"] = 3.0
sys.exit(main(["units", "--data", sys.argv[1], "--out", sys.argv[2], "k=6", "batch_seconds=2"]))
"""


@pytest.mark.slow
def test_two_processes_write_the_units_of_one(data, tmp_path):
    bad = data / "audio" / "train" / "5.wav"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:500])
    (tmp_path / "units.py").write_text(UNITS)
    try:
        for name, ranks in (("one", 1), ("two", 2)):
            errors = run([tmp_path / "units.py", data, tmp_path / name], ranks)
            assert errors.count("units of train") >= ranks
    finally:
        bad.write_bytes(whole)
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {"train.bin", "train.json", "dev.bin", "codebook.safetensors", "train.left_out.tsv", "report.json"} <= names
    assert names == {path.name for path in (tmp_path / "two").iterdir()}
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert "s-train05" in (tmp_path / "one" / "train.left_out.tsv").read_text()


def test_places():
    assert place({}) == Place(0, 1, 0, 1)
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert place(torchrun) == Place(5, 8, 1, 4) and place(torchrun).nodes == 2
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    assert place(slurm) == Place(3, 4, 1, 2) and not place(slurm).is_first
    assert place(slurm | torchrun) == place(torchrun)
    with pytest.raises(ValueError, match="--ntasks-per-node"):
        place(slurm | {"SLURM_STEP_TASKS_PER_NODE": "3,1"})
    with pytest.raises(ValueError, match="rank 4 of 4"):
        place(slurm | {"SLURM_PROCID": "4"})


def test_a_batch_script_without_srun_is_one_process(caplog):
    batch = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    assert place(batch) == Place() and "no srun" in caplog.text
    assert place(batch | {"SLURM_STEP_ID": "0"}).ranks == 4
