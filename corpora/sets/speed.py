"""Speed perturbation: resample speech to other speeds. Pitch and formants shift, so each copy is another speaker.

Source: Ko et al. 2015, "Audio augmentation for speech recognition"; ids as in Kaldi's `perturb_data_dir_speed.sh`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import soxr

from corpora.audio import SAMPLE_RATE, audio_info, write_audio
from corpora.datadir import Utterance, read_utterance
from corpora.files import sha256_json
from corpora.machine import parallel
from corpora.names import check_name
from corpora.prepare.sources import Provenance

_FORMAT = 1  # raise it when the perturbed samples change: files of an older format are then not reused


def prefix(factor: float) -> str:
    """Prefix of utterance and speaker ids at a speed: `sp0.9-`."""
    return f"sp{factor:g}-"


def perturb(utterances: Sequence[Utterance], factor: float, audio_dir: Path, *, jobs: int = 1) -> list[Utterance]:
    """The utterances at `factor` times their speed (1.1: a tenth faster and higher), written under `audio_dir`.

    Ids and speakers begin with `prefix(factor)`: a perturbed voice counts as another speaker. Files of an interrupted
    run are reused, files of another set of utterances are removed. Raises ValueError for a factor outside 0.5 to 2.
    """
    check_factor(factor)
    plan = [[u.utt_id, u.start, u.samples, str(u.audio), u.audio.stat().st_mtime_ns] for u in utterances]
    folder = audio_dir / sha256_json([_FORMAT, factor, plan])[:12]
    folder.mkdir(parents=True, exist_ok=True)
    made = [
        replace(
            u,
            utt_id=prefix(factor) + u.utt_id,
            speaker=prefix(factor) + u.speaker,
            audio=folder / f"{prefix(factor)}{check_name(u.utt_id, 'utterance id')}.wav",
            start=None,
            end=None,
        )
        for u in utterances
    ]
    tasks = [(u, m.audio, factor) for u, m in zip(utterances, made, strict=True)]
    lengths = list(parallel(_render, tasks, jobs=jobs, label=f"speed {factor:g}", unit="utt"))
    for other in audio_dir.iterdir():
        if other.is_dir() and other != folder:
            shutil.rmtree(other)
    return [replace(m, samples=samples) for m, samples in zip(made, lengths, strict=True)]


def perturbed_sources(sources: Sequence[Provenance], factor: float) -> list[Provenance]:
    """The recordings of perturbed utterances, which are those of the originals."""
    return [replace(row, utt_id=prefix(factor) + row.utt_id) for row in sources]


def check_factor(factor: float) -> None:
    """Raise ValueError for a speed outside 0.5 to 2: the result would not resemble speech."""
    if not 0.5 <= factor <= 2:
        raise ValueError(f"speed {factor}: expected a factor between 0.5 and 2, for instance 0.9 or 1.1")


def _render(task: tuple[Utterance, Path, float]) -> int:
    """Write one utterance unless its file exists; return its length in samples."""
    u, path, factor = task
    if not path.exists():
        samples = read_utterance(u)
        write_audio(path, soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE, quality="HQ"))
    return audio_info(path).samples
