"""Compare our labelling with the usual way: dump features to disk, then predict with scikit-learn.

    python -m bench.units [--minutes 1] [--runs 5] [--audio FOLDER]

Both sides run the same forward pass (HuBERT-Base geometry, cut at layer 9) over the same batches of the same audio,
with the same 500 centroids. `overhead` is the additional time beyond reading and the forward pass, as a share of these.
Audio: files under --audio (default: HARNESS_REAL_SPEECH), else noise.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans

from bench.common import alternate, hardware, medians, print_table
from corpora.audio import SAMPLE_RATE, AudioError, load_any, write_audio
from corpora.datadir import Utterance
from upstream.model.encoder import build_encoder
from upstream.model.family import Geometry
from upstream.model.modeldir import save_model
from upstream.units.codebook import Codebook
from upstream.units.features import LayerSource, feature_batches
from upstream.units.label import ShardedLabelling
from upstream.units.units import Units, UnitsInfo

K, LAYER, BATCH_SECONDS = 500, 9, 60.0
BASE = Geometry("base", 12, 768, 12, 3072)


def collect(folder: Path, audio: Path | None, minutes: float) -> list[Utterance]:
    """About `minutes` of speech from a folder, or of noise, as 16 kHz files."""
    room, utterances = minutes * 60 * SAMPLE_RATE, []
    rng = np.random.default_rng(0)
    paths = sorted(p for p in audio.rglob("*") if p.suffix in (".wav", ".mp3", ".flac")) if audio else []
    order = rng.permutation(len(paths)).tolist()
    while room > 0:
        try:
            noise = 0.1 * rng.standard_normal(int(rng.integers(SAMPLE_RATE, 10 * SAMPLE_RATE)))
            wav = load_any(paths[order.pop()]) if paths else noise
        except AudioError:
            continue
        except IndexError:
            break
        path = folder / f"{len(utterances):05d}.wav"
        write_audio(path, wav)
        utterances.append(Utterance(f"s-{path.stem}", "s", path, len(wav)))
        room -= len(wav)
    return utterances


def main() -> None:
    """Run the benchmark and print its table and ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=5)
    real = os.environ.get("HARNESS_REAL_SPEECH")
    parser.add_argument("--audio", type=Path, default=Path(real) if real else None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        compare(Path(temporary), args.audio, args.minutes, args.runs)


def compare(folder: Path, audio: Path | None, minutes: float, runs: int) -> None:
    """Time the forward pass alone, our labelling, dump and predict, and our labelling one utterance at a time."""
    utterances = collect(folder, audio, minutes)
    seconds = sum(u.samples for u in utterances) / SAMPLE_RATE
    torch.manual_seed(0)
    model = save_model(build_encoder(BASE), folder / "model", {"name": "base"})
    source = LayerSource(model, LAYER, batch_seconds=BATCH_SECONDS)
    sample = torch.cat([x for _, row in feature_batches(source, utterances[: K // 50], BATCH_SECONDS, {}) for x in row])
    centroids = sample[torch.from_numpy(np.random.default_rng(0).choice(len(sample), K))].numpy()
    codebook = Codebook(np.zeros(source.dim, np.float32), centroids)
    kmeans = KMeans(K, init=centroids, n_init=1, max_iter=1).fit(centroids)
    kmeans.cluster_centers_ = centroids
    info = UnitsInfo(**source.provenance(), k=K, pca_dim=None, codebook_sha256="0" * 64)

    def forward() -> None:
        for _ in feature_batches(source, utterances, BATCH_SECONDS, {}):
            pass

    def label(batch_seconds: float, out: Path) -> None:
        ShardedLabelling(out, "train", info, utterances, data_sha256="").run(source, codebook, batch_seconds, [])

    dumps = folder / "dump"

    def dump() -> None:
        dumps.mkdir(exist_ok=True)
        for batch, features in feature_batches(source, utterances, BATCH_SECONDS, {}):
            for u, x in zip(batch, features, strict=True):
                np.save(dumps / f"{u.utt_id}.npy", x.numpy())

    def predict() -> None:
        with open(folder / "train.km", "w", encoding="ascii") as file:
            for u in utterances:
                file.write(" ".join(map(str, kmeans.predict(np.load(dumps / f"{u.utt_id}.npy")))) + "\n")

    def dump_and_predict() -> None:
        dump()
        predict()

    label(BATCH_SECONDS, folder / "ours")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    candidates = {
        "reading and forward pass alone": forward,
        "ours": lambda: label(BATCH_SECONDS, folder / "ours"),
        "dump, then predict": dump_and_predict,
    }
    time = medians(alternate(candidates, runs))
    alone = medians(alternate({"ours, one by one": lambda: label(0.0, folder / "alone")}, 1, warm_up=0))
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - peak

    units = Units.open(folder / "ours", "train")
    with open(folder / "train.km", encoding="ascii") as file:
        theirs = [np.array(line.split(), int) for line in file]
    pairs = [(units[u.utt_id], row) for u, row in zip(utterances, theirs, strict=True)]
    agree = np.concatenate([a == b for a, b in pairs]).mean()
    disk = {
        "ours": sum(p.stat().st_size for p in (folder / "ours").iterdir()),
        "dump, then predict": sum(p.stat().st_size for p in dumps.iterdir()),
    }
    disk["ours, one by one"] = disk["ours"]
    base = time["reading and forward pass alone"]
    rows = [
        [name, f"{t:.2f}", f"{t / seconds:.4f}", f"{100 * (t / base - 1):+.1f} %", f"{disk.get(name, 0) / seconds:.0f}"]
        for name, t in (time | alone).items()
    ]
    kind = "speech" if audio else "noise"
    print(f"{hardware()}; {seconds:.0f} s of {kind} in {len(utterances)} files, medians of {runs} alternating runs")
    print_table(["labelling", "seconds", "RTF", "overhead", "bytes on disk / s"], rows)
    share = disk["dump, then predict"] / disk["ours"]
    print(f"labels equal to scikit-learn's: {100 * agree:.3f} %; disk 1/{share:.0f}; "
          f"peak memory after {runs} more passes {growth:+.0f} MiB")  # fmt: skip
    print(f"ratio units_overhead {time['ours'] / base - 1:.4f}")


if __name__ == "__main__":
    main()
