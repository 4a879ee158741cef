"""The pieces of bench/gpu.sh that have no script of their own: MFU, throughput, a DDP step, and data for a training.

    python -m bench.gpu mfu        --geometry hl [--clips 16] [--seconds 15.6]
    python -m bench.gpu inference  --geometry hl,hs_logmel
    python -m bench.gpu labelling  --geometry hl [--minutes 10]
    torchrun --nproc_per_node 2 -m bench.gpu ddp --geometry hl
    python -m bench.gpu corpus     --minutes 10 --out DIR
    python -m bench.gpu trained    DIR

bf16 on a GPU, 32 bits on a CPU, random weights and noise. They need neither S3PRL, ESPnet nor torchaudio.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.common import alternate, hardware, medians, print_table
from bench.pretrain import K, autocast, make_batch, operations, our_step, peak_memory, peak_operations
from corpora.audio import SAMPLE_RATE, write_audio
from corpora.datadir import Utterance, write_datadir
from upstream.config import PretrainConfig
from upstream.model.encoder import build_encoder, encode
from upstream.model.family import FAMILY, geometry
from upstream.model.modeldir import save_model
from upstream.pretrain.module import Pretraining
from upstream.units.codebook import Codebook
from upstream.units.features import LayerSource, feature_batches
from upstream.units.label import ShardedLabelling
from upstream.units.units import UnitsInfo

LABELLING_SECONDS = 240.0  # padded audio of one forward pass


class _Compute(nn.Module):
    """The loss of a training module as a forward pass, which DDP can wrap."""

    def __init__(self, module: Pretraining) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: Tensor) -> object:
        return self.module.compute(*arguments)


def device() -> torch.device:
    """This process's GPU, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def training_module(name: str) -> Pretraining:
    """A geometry in our training module, its layers compiled on a GPU as in training."""
    torch.manual_seed(0)
    module = Pretraining(build_encoder(geometry(name)), K, PretrainConfig()).to(device()).train()
    if torch.cuda.is_available():
        for layer in module.encoder.encoder.layers:
            layer.compile(dynamic=True)
    return module


def mfu(name: str, clips: int, seconds: float, runs: int) -> None:
    """Time a training step: operations per second as a share of the GPU's peak."""
    batch = make_batch(clips, seconds, device())
    # Counted on a plain module: the counter does not see inside compiled layers.
    plain = Pretraining(build_encoder(geometry(name)), K, PretrainConfig()).to(device()).train()
    flops = operations(our_step(plain, batch))
    del plain
    step = our_step(training_module(name), batch)
    time = medians(alternate({name: step}, runs))[name]
    peak = peak_operations()
    share = f"{100 * flops / time / peak:.1f} %" if peak else "unknown (no peak of this processor)"
    row = [name, f"{time:.4f}", f"{clips * seconds / time:.1f}", f"{flops / time / 1e12:.2f}", share]
    print_table(["step", "seconds", "s audio / s", "TFLOP/s", "MFU", "GiB"], [[*row, f"{peak_memory(step):.1f}"]])


@torch.inference_mode()
def inference(names: list[str], clips: int, seconds: float, runs: int) -> None:
    """Time passes from waveforms to hidden states."""
    wavs = list(0.1 * torch.randn(clips, int(seconds * SAMPLE_RATE), device=device()))
    passes = {}
    for name in names:
        model = build_encoder(geometry(name)).to(device()).eval()

        def run(model: nn.Module = model) -> None:
            with autocast():
                encode(model, wavs)

        passes[name] = run
    rows = [[name, f"{t:.4f}", f"{clips * seconds / t:.0f}"] for name, t in medians(alternate(passes, runs)).items()]
    print_table(["pass", "seconds", "s audio / s"], rows)


def labelling(name: str, minutes: float, runs: int) -> None:
    """Time units from audio files: reading, forward pass, nearest of 500 centroids, label files."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        utterances = noise(folder, minutes)
        save_model(build_encoder(geometry(name)), folder / "model", {"name": name})
        source = LayerSource(folder / "model", batch_seconds=LABELLING_SECONDS)
        sample = torch.cat([x for _, row in feature_batches(source, utterances[:5], 60.0, {}) for x in row]).numpy()
        centroids = sample[np.random.default_rng(0).choice(len(sample), K)]
        codebook = Codebook(np.zeros(source.dim, np.float32), centroids)
        info = UnitsInfo(**source.provenance(), k=K, pca_dim=None, codebook_sha256="0" * 64)

        def label() -> None:
            out = Path(tempfile.mkdtemp(dir=folder))
            ShardedLabelling(out, "train", info, utterances, data_sha256="").run(
                source, codebook, LABELLING_SECONDS, []
            )

        time = medians(alternate({name: label}, runs))[name]
    audio = sum(u.samples for u in utterances) / SAMPLE_RATE
    print_table(["labelling", "seconds", "s audio / s"], [[name, f"{time:.2f}", f"{audio / time:.0f}"]])


def ddp(name: str, clips: int, seconds: float, runs: int) -> None:
    """Time a step of several processes, and compare their weights afterwards. Raises RuntimeError if they differ."""
    # NCCL refuses two processes on one GPU; gloo copies the gradients through memory.
    gpus = torch.cuda.device_count()
    nccl = gpus >= int(os.environ["LOCAL_WORLD_SIZE"])
    if gpus:
        torch.cuda.set_device(device())
    dist.init_process_group("nccl" if nccl else "gloo")
    try:
        module = training_module(name)
        wrapped = nn.parallel.DistributedDataParallel(_Compute(module))
        batch = make_batch(clips, seconds, device())
        for wav in batch.wavs:  # other audio on every process
            wav *= 1 + dist.get_rank()
        time = medians(alternate({name: our_step(module, batch, wrapped)}, runs))[name]
        total = torch.stack([p.detach().double().sum() for p in module.parameters()]).cpu()
        sums: list[Tensor | None] = [None] * dist.get_world_size()
        dist.all_gather_object(sums, total)
        if not all(torch.equal(total, other) for other in sums):
            raise RuntimeError("the weights of the processes differ after the same steps")
        if dist.get_rank() == 0:
            audio = clips * seconds * dist.get_world_size()
            row = [name, dist.get_world_size(), gpus, dist.get_backend(), f"{time:.4f}", f"{audio / time:.1f}"]
            print_table(["step", "processes", "GPUs", "exchange", "seconds", "s audio / s"], [row])
    finally:
        dist.destroy_process_group()


def noise(folder: Path, minutes: float) -> list[Utterance]:
    """Utterances of noise, 2 to 15 s each."""
    rng, room, utterances = np.random.default_rng(0), int(minutes * 60 * SAMPLE_RATE), []
    while room > 0:
        samples = int(rng.integers(2 * SAMPLE_RATE, 15 * SAMPLE_RATE))
        path = folder / "audio" / f"{len(utterances):05d}.wav"
        write_audio(path, (0.1 * rng.standard_normal(samples)).astype(np.float32))
        utterances.append(Utterance(f"s-{path.stem}", "s", path, samples))
        room -= samples
    return utterances


def corpus(minutes: float, out: Path) -> None:
    """Write `OUT/{train,dev}`, data directories of noise, and the audio to `OUT/wav`."""
    for split, share in (("train", 1.0), ("dev", 0.05)):
        write_datadir(out / split, noise((out / "wav" / split).resolve(), minutes * share))


def trained(folder: Path) -> None:
    """The last line of a training's log: steps, seconds, and audio per second."""
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    print_table(list(last), [list(last.values())])


def main() -> None:
    """Run one piece and print its table."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="piece", required=True)
    timed = {"mfu": mfu, "inference": inference, "ddp": ddp, "labelling": labelling}
    for name in timed:
        piece = commands.add_parser(name)
        piece.add_argument("--geometry", default="hl", help=", ".join(FAMILY))
        piece.add_argument("--runs", type=int, default=5)
        if name == "labelling":
            piece.add_argument("--minutes", type=float, default=10.0 if gpu else 1.0)
        else:
            piece.add_argument("--clips", type=int, default=16 if gpu else 2)
            piece.add_argument("--seconds", type=float, default=15.6 if gpu else 5.0)
    data = commands.add_parser("corpus")
    data.add_argument("--minutes", type=float, required=True)
    data.add_argument("--out", type=Path, required=True)
    commands.add_parser("trained").add_argument("folder", type=Path)
    args = vars(parser.parse_args())
    name = args.pop("piece")
    if name == "corpus":
        return corpus(**args)
    if name == "trained":
        return trained(**args)
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{hardware()}; {'bf16' if gpu else 'fp32'}, median of {args['runs']}")
    if name == "inference":
        return inference(args.pop("geometry").split(","), **args)
    return partial(timed[name], args.pop("geometry"))(**args)


if __name__ == "__main__":
    main()
