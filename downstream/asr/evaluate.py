"""Error rates of a CTC recogniser on clips with text: characters, words, and letters without alef and hamza."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from corpora.audio import SAMPLE_RATE
from corpora.prepare.packed import PackedAudio
from corpora.text import normalise
from downstream.asr.recogniser import Recogniser, best_path
from downstream.score.stats import central, resample


def read_text(path: Path) -> dict[str, str]:
    """A Kaldi `text` file: id and transcript."""
    rows = (line.split(" ", 1) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip())
    return {row[0]: row[1].strip() for row in rows if len(row) == 2 and row[1].strip()}


def read_dev(source: Any, clips: int | None = None) -> list[tuple[np.ndarray, str]]:
    """Waveforms and texts of a source; `clips` of them, evenly spread over the ids (None: all)."""
    audio, texts = PackedAudio(Path(source.audio)), read_text(Path(source.text))
    ids = sorted(set(audio) & set(texts))
    if clips is not None and clips < len(ids):
        ids = [ids[i] for i in np.linspace(0, len(ids) - 1, clips).astype(int)]
    return [(audio[name].astype(np.float32) / 32768, texts[name]) for name in ids]


@torch.inference_mode()
def transcribe(model: Recogniser, wavs: Sequence[np.ndarray], batch_seconds: float = 60.0) -> list[str]:
    """Greedy texts, in the order of the clips."""
    order = sorted(range(len(wavs)), key=lambda i: len(wavs[i]))
    texts = [""] * len(wavs)
    batch: list[int] = []
    for place, i in enumerate(order):
        batch.append(i)
        last = place + 1 == len(order)
        if last or (len(batch) + 1) * len(wavs[order[place + 1]]) > batch_seconds * SAMPLE_RATE:
            lengths = torch.tensor([len(wavs[j]) for j in batch])
            padded = pad_sequence([torch.from_numpy(wavs[j]) for j in batch], batch_first=True)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits, frames = model(padded, lengths)
            best = logits.argmax(-1)
            for row, j in enumerate(batch):
                texts[j] = best_path(best[row, : frames[row]].tolist(), model.characters)
            batch = []
    return texts


def error_rates(model: Recogniser, clips: Iterable[tuple[np.ndarray, str]]) -> tuple[dict[str, float], list[list[str]]]:
    """Micro CER and WER of the modern spelling, CER of the profile `letters`; and the pairs (reference, hypothesis)."""
    clips = list(clips)
    hypotheses = transcribe(model, [wav for wav, _ in clips])
    pairs = [[reference, hypothesis] for (_, reference), hypothesis in zip(clips, hypotheses, strict=True)]
    return {key: float(errors.sum() / max(1, totals.sum())) for key, (errors, totals) in _errors(pairs).items()}, pairs


def intervals(pairs: Sequence[Sequence[str]]) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each rate by a bootstrap over clips; it does not cover other speakers."""
    weights, ends = resample(len(pairs), draws=2000), {}
    for key, (errors, totals) in _errors(pairs).items():
        ends[key] = central((weights @ errors) / np.maximum(1, weights @ totals))
    return ends


def _errors(pairs: Sequence[Sequence[str]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By rate: errors and length of the reference of every pair, (clips,) each."""
    from rapidfuzz.distance import Levenshtein

    rows: dict[str, list[tuple[int, int]]] = {"cer": [], "wer": [], "letters": []}
    for reference, hypothesis in pairs:
        bare = [normalise(text, "letters").replace(" ", "") for text in (reference, hypothesis)]
        for key, a, b in (
            ("cer", reference, hypothesis), ("wer", reference.split(), hypothesis.split()), ("letters", *bare),
        ):  # fmt: skip
            rows[key].append((Levenshtein.distance(a, b), len(a)))
    counts = {key: np.array(values, dtype=np.int64).reshape(-1, 2) for key, values in rows.items()}
    return {key: (values[:, 0], values[:, 1]) for key, values in counts.items()}
