"""Compare two models: linear CKA of every hidden state of one with every hidden state of the other.

Kornblith et al., "Similarity of Neural Network Representations Revisited" (2019), equation 3 and section 3: for
centred features X (n, p) and Y (n, q) of the same n frames, ||Y'X||^2 / (||X'X|| ||Y'Y||), Frobenius norms.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from corpora.audio import FORMATS, SAMPLE_RATE, find_audio, load_any, read_audio
from corpora.datadir import read_datadir
from corpora.files import atomic_file, write_csv
from upstream.errors import UpstreamError
from upstream.model.encoder import encode
from upstream.model.family import RECEPTIVE_FIELD
from upstream.model.modeldir import load_model

# The first minute of a clip is enough, and the states of an hour would not fit in memory.
LONGEST_S = 60
# Wider tables do not fit a terminal; only the best match of each state is printed then.
WIDEST = 14
_COLUMNS = ("first", "state_first", "second", "state_second", "cka", "frames")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Similarity:
    """CKA of state i of `first` with state j of `second`, (L1+1, L2+1), on `frames` frames of `clips` clips."""

    first: str
    second: str
    cka: np.ndarray
    frames: int
    clips: int


def linear_cka(first: Sequence[Tensor], second: Sequence[Tensor]) -> np.ndarray:
    """Linear CKA of every (n, p) with every (n, q), features of the same n frames; 0 if one of the two is constant."""
    left, right = ([f.double() - f.double().mean(0) for f in side] for side in (first, second))
    norms = [[torch.linalg.matrix_norm(f.T @ f) for f in side] for side in (left, right)]
    found = np.zeros((len(left), len(right)))
    for i, x in enumerate(tqdm(left, unit="state", desc="CKA")):
        for j, y in enumerate(right):
            scale = norms[0][i] * norms[1][j]
            found[i, j] = torch.linalg.matrix_norm(y.T @ x) ** 2 / scale if scale > 0 else 0.0
    return found


def audio_clips(paths: Sequence[Path]) -> list[tuple[str, Path, int | None, int | None]]:
    """Clips (name, file, first sample, end; None: whole file) of audio files, of folders, and of data directories."""
    clips: list[tuple[str, Path, int | None, int | None]] = []
    for path in paths:
        if (path / "wav.scp").is_file():
            clips += [(u.utt_id, u.audio, u.start, u.end) for u in read_datadir(path)]
        elif path.is_dir():
            found, others = find_audio(path)
            if others:
                log.warning("%s: left out %d files that are no audio, as %s", path, len(others), others[0])
            clips += [(str(p), p, None, None) for p in found]
        elif path.is_file():
            clips.append((str(path), path, None, None))
        else:
            raise UpstreamError(f"{path}: no such file or folder")
    if not clips:
        where = ", ".join(map(str, paths))
        raise UpstreamError(f"no audio ({FORMATS}) and no data directory in {where}")
    return clips


@torch.no_grad()
def compare(
    first: Path, second: Path, audio: Sequence[Path], *, frames: int = 4000, seed: int = 0, channel: int | None = None
) -> Similarity:
    """CKA between all hidden states of two model directories on about `frames` frames drawn evenly from the audio.

    Both models get the same frames.  channel: of audio files with several, from 0; None: the average.  Raises
    UpstreamError for different frame rates and for audio below one frame.
    """
    models = [load_model(path) for path in (first, second)]
    clips = audio_clips([Path(path) for path in audio])
    generator = torch.Generator().manual_seed(seed)
    if len(clips) > frames:
        clips = [clips[i] for i in sorted(torch.randperm(len(clips), generator=generator)[:frames].tolist())]
    share = -(-frames // len(clips))
    collected: list[list[Tensor]] = []
    used = 0
    for name, file, start, end in tqdm(clips, unit="clip", desc="states"):
        samples = load_any(file, channel) if start is None else read_audio(file, start, end)
        wav = torch.from_numpy(samples[: LONGEST_S * SAMPLE_RATE])
        if len(wav) < RECEPTIVE_FIELD:
            log.warning("%s: %d samples are too short for one frame, left out", name, len(wav))
            continue
        states = [encode(model, [wav]).hidden_states for model in models]
        counts = {s[0].shape[1] for s in states}
        if len(counts) > 1:
            raise UpstreamError(f"{name}: the models give {sorted(counts)} frames; their frame rates differ")
        chosen = torch.randperm(counts.pop(), generator=generator)[:share]
        collected.append([state[0, chosen] for layers in states for state in layers])
        used += 1
    if used == 0:
        raise UpstreamError("no clip is long enough for one frame (25 ms)")
    features = [torch.cat(parts) for parts in zip(*collected, strict=True)]
    if len(features[0]) < 3:
        raise UpstreamError(f"{len(features[0])} frames are too few for a comparison; give more audio")
    depth = len(models[0].encoder.layers) + 1
    matrix = linear_cka(features[:depth], features[depth:])
    names = _names(first, second)
    return Similarity(*names, matrix, len(features[0]), used)


def _names(first: Path, second: Path) -> tuple[str, str]:
    a, b = Path(first), Path(second)
    return (a.name, b.name) if a.name != b.name else (str(a), str(b))


def table(similarity: Similarity) -> str:
    """The matrix as text; for deep models only the best match of each state of the first."""
    cka = similarity.cka
    lines = [
        f"Linear CKA of hidden states: {similarity.first} (rows) and {similarity.second} (columns), "
        f"{similarity.frames} frames of {similarity.clips} clips"
    ]
    if cka.shape[1] <= WIDEST:
        lines.append("state" + "".join(f"{j:>6}" for j in range(cka.shape[1])))
        lines += [f"{i:>5}" + "".join(f"{value:>6.2f}" for value in row) for i, row in enumerate(cka)]
    else:
        lines.append("state  most similar   CKA")
        lines += [f"{i:>5}  {int(row.argmax()):>12}  {row.max():>4.2f}" for i, row in enumerate(cka)]
    return "\n".join(lines)


def write(similarity: Similarity, png: Path) -> Path:
    """Write a heat map, and a CSV with the numbers next to it; returns the path of the CSV."""
    from matplotlib.figure import Figure

    png = Path(png)
    if png.suffix.lower() != ".png":
        raise UpstreamError(f"{png}: the heat map is a PNG; its name must end in .png")
    rows, columns = similarity.cka.shape
    figure = Figure(figsize=(1.8 + 0.32 * columns, 1.4 + 0.32 * rows), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(similarity.cka, origin="lower", vmin=0, vmax=1, cmap="viridis", aspect="equal")
    axes.set(xlabel=f"state of {similarity.second}", ylabel=f"state of {similarity.first}")
    axes.set(xticks=range(0, columns, 1 + columns // 14), yticks=range(0, rows, 1 + rows // 14))
    figure.colorbar(image, ax=axes, label="linear CKA")
    with atomic_file(png) as temporary:
        figure.savefig(temporary, dpi=130, metadata={"Software": None})
    out = png.with_suffix(".csv")
    cells = (
        (similarity.first, i, similarity.second, j, f"{value:.6f}", similarity.frames)
        for i, row in enumerate(similarity.cka)
        for j, value in enumerate(row)
    )
    write_csv(out, _COLUMNS, (dict(zip(_COLUMNS, cell, strict=True)) for cell in cells))
    return out
