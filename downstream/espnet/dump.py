"""Data directories as ESPnet reads them: one audio file an utterance, text in one profile, lengths within bounds.

<out>/wav.scp text utt2spk spk2utt utt2num_samples     left_out.tsv (utterance, reason)
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from corpora.audio import SAMPLE_RATE, audio_info, write_audio
from corpora.datadir import Utterance, read_datadir, read_utterance, write_datadir
from corpora.files import CorpusError, atomic_file
from corpora.machine import parallel
from corpora.sets.speed import check_factor, perturb
from downstream.score.metrics import tidy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DumpConfig:
    """Bounds in seconds; `speeds` are factors of speed perturbation (1 is the speech as it is), for training alone.

    Of a set that is `scored` nothing is left out, whatever its length or text.
    """

    min_seconds: float = 0.1
    max_seconds: float = 30.0
    text_profile: str = "none"
    speeds: tuple[float, ...] = (1.0,)
    scored: bool = False

    def __post_init__(self) -> None:
        if not 0.025 <= self.min_seconds < self.max_seconds:
            raise ValueError(
                f"an utterance of {self.min_seconds} to {self.max_seconds} s: the shortest must be 0.025 s (one frame) "
                "or more, and the longest above it"
            )
        for speed in self.speeds:
            check_factor(speed)


def dump(data_dir: Path, out_dir: Path, config: DumpConfig, *, jobs: int = 1) -> Path:
    """Write `data_dir` as ESPnet reads it; audio is written only where there are segments or another speed.

    Utterances without text, or outside the bounds, are left out, counted by reason and listed. Raises CorpusError
    when nothing is left. Files that an interrupted run wrote are kept.
    """
    utterances = read_datadir(data_dir)
    if not config.scored:
        utterances = [_with_text(u, config.text_profile, data_dir) for u in utterances]
    audio_dir = out_dir.with_name(f"{out_dir.name}_audio")
    kept: list[Utterance] = []
    for speed in config.speeds:
        if speed == 1:
            kept += _whole_files(utterances, audio_dir / "segments", jobs)
        else:
            kept += perturb(utterances, speed, audio_dir / f"speed{speed:g}", jobs=jobs)
    reasons = {u.utt_id: reason for u in kept if (reason := _unusable(u, config))}
    usable = [u for u in kept if u.utt_id not in reasons]
    if not usable:
        raise CorpusError(
            f"{data_dir}: none of the {len(kept)} utterances can be used; the first: {next(iter(reasons.items()))}"
        )
    write_datadir(out_dir, usable)
    with atomic_file(out_dir / "left_out.tsv") as path:
        path.write_text("".join(f"{key}\t{why}\n" for key, why in reasons.items()), encoding="utf-8")
    for why, count in Counter(reasons.values()).most_common():
        log.info("%s: %d of %d utterances left out: %s", data_dir, count, len(kept), why)
    hours = sum(u.samples for u in usable) / SAMPLE_RATE / 3600
    log.info("%s: %d utterances, %.2f h", out_dir, len(usable), hours)
    return out_dir


def _with_text(utterance: Utterance, profile: str, data_dir: Path) -> Utterance:
    if utterance.text is None:
        raise CorpusError(f"{data_dir}: there is no `text`; ASR needs the words of every utterance")
    return replace(utterance, text=tidy(utterance.text, profile))


def _unusable(utterance: Utterance, config: DumpConfig) -> str:
    """Why an utterance cannot be used; empty when it can."""
    if config.scored:
        return ""
    if not utterance.text:
        return f"no text under the profile {config.text_profile}"
    if utterance.samples < config.min_seconds * SAMPLE_RATE:
        return f"shorter than {config.min_seconds:g} s"
    if utterance.samples > config.max_seconds * SAMPLE_RATE:
        return f"longer than {config.max_seconds:g} s"
    return ""


def _whole_files(utterances: Sequence[Utterance], folder: Path, jobs: int) -> list[Utterance]:
    """The utterances with a file each: ESPnet's `sound` reads whole files and no segments."""
    cut = [u for u in utterances if u.start is not None or u.end is not None]
    if not cut:
        return list(utterances)
    made = {u.utt_id: folder / f"{u.utt_id}.wav" for u in cut}
    list(parallel(_cut, [(u, made[u.utt_id]) for u in cut], jobs=jobs, label="segments", unit="utt"))
    return [replace(u, audio=made[u.utt_id], start=None, end=None) if u.utt_id in made else u for u in utterances]


def _cut(task: tuple[Utterance, Path]) -> None:
    utterance, path = task
    if path.exists() and audio_info(path).samples == utterance.samples:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, read_utterance(utterance))
