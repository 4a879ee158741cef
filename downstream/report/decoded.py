"""Decoded examples: references and hypotheses aligned by letters, a letter with its diacritics being one."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np

from downstream.report.columns import task_order
from downstream.report.evidence import Predictions
from downstream.report.rows import Setting, upstream_order
from downstream.report.runs import Run
from downstream.score.results import Prediction

COUNT = 6


@dataclass(frozen=True)
class Piece:
    """A stretch of text: `equal`, `wrong` (substituted), `extra` (inserted) or `lost` (deleted, from the reference)."""

    kind: str
    text: str


@dataclass(frozen=True)
class Hypothesis:
    """What an upstream's probe wrote, as pieces; `rate` is its character error rate, a share."""

    upstream: str
    pieces: list[Piece]
    rate: float


@dataclass(frozen=True)
class Example:
    """An utterance with its reference and what became of it; `direction` is `rtl` or `ltr`."""

    setting: Setting
    split: str
    utt_id: str
    speaker: str
    reference: str
    direction: str
    hypotheses: list[Hypothesis]


def examples(runs: list[Run], predictions: Predictions, first: str, count: int = COUNT) -> list[Example]:
    """`count` utterances of each ASR setting and test split, from the best to the worst decoded by `first`, in even
    steps; all upstreams of the lowest seed."""
    chosen = []
    asr = [run for run in runs if run.setting.task == "asr"]
    for setting in task_order({run.setting for run in asr}):
        own = [run for run in asr if run.setting == setting]
        seed = min(run.seed for run in own)
        said: dict[tuple[str, str], dict[str, Prediction]] = {}
        for run in own:
            if run.seed == seed:
                for p in predictions.of(run.run_dir) or ():
                    said.setdefault((p.split, p.utt_id), {})[run.upstream] = p
        names = upstream_order({run.upstream for run in own})
        judge = first if first in names else names[-1]
        for split in sorted({row.split for run in own for row in run.rows}):
            rated = sorted(
                (_rate(by[judge].reference, by[judge].hypothesis), utt_id)
                for (where, utt_id), by in said.items()
                if where == split and judge in by and by[judge].reference
            )
            places = np.unique(np.linspace(0, len(rated) - 1, min(count, len(rated))).round().astype(int))
            chosen += [_example(setting, said[split, rated[place][1]], names) for place in places]
    return chosen


def _example(setting: Setting, by: dict[str, Prediction], names: list[str]) -> Example:
    p = next(iter(by.values()))
    made = [
        Hypothesis(name, align(p.reference, by[name].hypothesis), _rate(p.reference, by[name].hypothesis))
        for name in names
        if name in by
    ]
    return Example(setting, p.split, p.utt_id, p.speaker, p.reference, direction(p.reference), made)


def align(reference: str, hypothesis: str) -> list[Piece]:
    """The hypothesis as pieces, with what it lacks of the reference between them."""
    from rapidfuzz.distance import Levenshtein

    left, right = letters(reference), letters(hypothesis)
    pieces: list[Piece] = []
    for op in Levenshtein.opcodes(left, right):
        lost, said = "".join(left[op.src_start : op.src_end]), "".join(right[op.dest_start : op.dest_end])
        if op.tag == "equal":
            pieces.append(Piece("equal", said))
        elif op.tag == "replace":
            pieces.append(Piece("wrong", said))
        else:
            pieces.append(Piece("extra", said) if op.tag == "insert" else Piece("lost", lost))
    return pieces


def letters(text: str) -> list[str]:
    """Characters, each with the combining marks that follow it."""
    made: list[str] = []
    for character in text:
        if made and unicodedata.combining(character):
            made[-1] += character
        else:
            made.append(character)
    return made


def direction(text: str) -> str:
    """`rtl` or `ltr`: that of the first character that has one."""
    for character in text:
        kind = unicodedata.bidirectional(character)
        if kind in ("R", "AL"):
            return "rtl"
        if kind == "L":
            return "ltr"
    return "ltr"


def _rate(reference: str, hypothesis: str) -> float:
    from downstream.score.metrics import counts

    edits, length = counts("cer", [reference], [hypothesis])[0]
    return float(edits / length) if length else float(bool(hypothesis))
