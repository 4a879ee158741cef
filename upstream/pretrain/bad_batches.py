"""Batches whose loss or gradient is not finite: kept for inspection, skipped, counted; too many end the run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.files import atomic_file, write_json

if TYPE_CHECKING:
    from upstream.pretrain.data import Batch

KEPT = 100  # dumps of one run; the first ones tell what is wrong

log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training cannot go on; says at which step and on which utterances."""


class BadBatches:
    """The bad steps of a run. `folder` receives `step<number>-batch<slot>.{safetensors,json}` of each of them."""

    def __init__(self, folder: Path, allowed: int, rate: float) -> None:
        self.folder, self.allowed, self.rate = folder, allowed, rate
        self.count = 0

    def add(self, step: int, reason: str, batches: Sequence[Batch]) -> None:
        """Count one bad step (on every process), and keep the batches of this process that were to blame.

        Raises TrainingError when the bad steps are more than `allowed` and more than `rate` of the `step` + 1 done.
        """
        self.count += 1
        where = []
        for batch in batches:
            if self.count <= KEPT:
                where.append(str(self._keep(batch, reason)))
        names = [utt_id for batch in batches for utt_id in batch.utt_ids]
        told = f"step {step}: {reason}" + (f"; utterances: {', '.join(names)}" if names else "")
        log.warning("%s; skipped%s", told, f", kept in {', '.join(where)}" if where else "")
        if self.count > max(self.allowed, self.rate * (step + 1)):
            raise TrainingError(
                f"{told}. {self.count} of {step + 1} steps were skipped (allowed: {self.allowed}, or {self.rate:.1%}): "
                f"look at what {self.folder} holds, lower lr, or raise bad_steps and bad_rate."
            )

    def _keep(self, batch: Batch, reason: str) -> Path:
        from safetensors.torch import save

        tensors = {f"wav.{i}": wav.clone() for i, wav in enumerate(batch.wavs)}
        tensors |= {"labels": batch.labels, "mask": batch.mask, "valid": batch.valid}
        base = self.folder / f"step{batch.step:07d}-batch{batch.slot}"
        rows: list[dict[str, Any]] = [
            {
                "utt_id": utt_id,
                "tensor": f"wav.{i}",
                "samples": len(wav),
                "peak": float(wav.abs().max()),
                "rms": float(wav.square().mean().sqrt()),
                "frames": int(batch.valid[i].sum()),
                "masked": int((batch.mask & batch.valid)[i].sum()),
            }
            for i, (utt_id, wav) in enumerate(zip(batch.utt_ids, batch.wavs, strict=True))
        ]
        with atomic_file(base.with_suffix(".safetensors")) as temporary:
            temporary.write_bytes(save(tensors))
        write_json(
            base.with_suffix(".json"),
            {"step": batch.step, "batch": batch.slot, "reason": reason, "utterances": rows},
        )
        return base.with_suffix(".json")


class Unreadable:
    """Clips whose audio could not be read on this process: silent in their batches, and named; too many end the run."""

    def __init__(self, allowed: int, rate: float, what: str = "") -> None:
        """`what`: clips of which kind, for messages."""
        self.allowed, self.rate, self.what = allowed, rate, what
        self.seen = 0
        self.reasons: dict[str, str] = {}
        self.lost = 0
        self.silent_steps = 0  # in a row, without one clip that could be read

    def add(self, step: int, batches: Sequence[Batch]) -> None:
        """Count the clips of a step."""
        lost = 0
        for batch in batches:
            self.seen += len(batch.wavs)
            lost += sum(utt_id in batch.unreadable for utt_id in batch.utt_ids)
            for utt_id, reason in batch.unreadable.items():
                if utt_id not in self.reasons:
                    log.warning("step %d: %sutterance %s is left out: %s", step, self.what, utt_id, reason)
                self.reasons[utt_id] = reason
        self.lost += lost
        self.silent_steps = self.silent_steps + 1 if lost and lost == sum(len(b.wavs) for b in batches) else 0

    def check_silence(self, step: int) -> None:
        """Raise TrainingError when more steps in a row than are allowed had no audio at all."""
        if self.silent_steps > self.allowed:
            told = self._told([self.summary()])
            raise TrainingError(f"step {step}: not one of the last {self.silent_steps} steps had audio; {told}")

    def summary(self) -> tuple[int, int, list[tuple[str, str]]]:
        """What this process tells the others: clips lost and seen, and the first utterance that was lost."""
        return self.lost, self.seen, list(self.reasons.items())[:1]

    def check(self, step: int, summaries: Sequence[tuple[int, int, list[tuple[str, str]]]]) -> None:
        """Raise TrainingError when the clips lost on all processes are more than `allowed` and than `rate` of all."""
        lost, seen = sum(s[0] for s in summaries), sum(s[1] for s in summaries)
        if lost > max(self.allowed, self.rate * seen):
            raise TrainingError(f"step {step}: {self._told(summaries)}")

    def _told(self, summaries: Sequence[tuple[int, int, list[tuple[str, str]]]]) -> str:
        lost, seen = sum(s[0] for s in summaries), sum(s[1] for s in summaries)
        utt_id, reason = next(first for *_, firsts in summaries for first in firsts)
        limit = f"allowed: {self.allowed}, or {self.rate:.1%}"
        return (
            f"{lost} of {seen} {self.what}clips could not be read ({limit}); the first is of utterance {utt_id}: "
            f"{reason}. Repair the audio and start the command again, which goes on from the last checkpoint, or raise "
            "bad_steps and bad_rate."
        )
