"""Decoded examples: references and hypotheses aligned letter by letter, diacritics with their letter."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np

from downstream.report.columns import Predictions
from downstream.report.rows import Setting, task_order, upstream_order
from downstream.report.runs import ProbeRun
from downstream.score.results import Prediction

COUNT = 6


@dataclass(frozen=True)
class Piece:
    """A part of a hypothesis: `equal`, `substituted`, `inserted`, or `deleted` (text of the reference)."""

    kind: str
    text: str


@dataclass(frozen=True)
class Hypothesis:
    """The transcription by an upstream's probe, as pieces; `rate` is its character error rate, a share."""

    upstream: str
    pieces: list[Piece]
    rate: float


@dataclass(frozen=True)
class Example:
    """An utterance with its reference and all hypotheses; `direction` is `rtl` or `ltr`."""

    setting: Setting
    split: str
    utt_id: str
    speaker: str
    reference: str
    direction: str
    hypotheses: list[Hypothesis]


def examples(runs: list[ProbeRun], predictions: Predictions, first: str, count: int = COUNT) -> list[Example]:
    """`count` utterances of each ASR setting and test split, with the hypotheses of all upstreams at the lowest seed.

    They are evenly spaced from the lowest to the highest CER of the upstream `first` (the last one without it).
    """
    chosen = []
    asr = [run for run in runs if run.setting.task == "asr"]
    for setting in task_order({run.setting for run in asr}):
        own = [run for run in asr if run.setting == setting]
        seed = min(run.seed for run in own)
        predicted: dict[tuple[str, str], dict[str, Prediction]] = {}
        for run in own:
            if run.seed == seed:
                for p in predictions.of(run.run_dir) or ():
                    predicted.setdefault((p.split, p.utt_id), {})[run.upstream] = p
        names = upstream_order({run.upstream for run in own})
        ranked_by = first if first in names else names[-1]
        for split in sorted({row.split for run in own for row in run.rows}):
            rated = sorted(
                (_rate(by[ranked_by].reference, by[ranked_by].hypothesis), utt_id)
                for (part, utt_id), by in predicted.items()
                if part == split and ranked_by in by and by[ranked_by].reference
            )
            places = np.unique(np.linspace(0, len(rated) - 1, min(count, len(rated))).round().astype(int))
            chosen += [_example(setting, predicted[split, rated[place][1]], names) for place in places]
    return chosen


def _example(setting: Setting, by: dict[str, Prediction], names: list[str]) -> Example:
    p = next(iter(by.values()))
    hypotheses = [
        Hypothesis(name, align(p.reference, by[name].hypothesis), _rate(p.reference, by[name].hypothesis))
        for name in names
        if name in by
    ]
    return Example(setting, p.split, p.utt_id, p.speaker, p.reference, direction(p.reference), hypotheses)


def align(reference: str, hypothesis: str) -> list[Piece]:
    """The hypothesis as pieces, with the deleted text of the reference between them."""
    from rapidfuzz.distance import Levenshtein

    left, right = letters(reference), letters(hypothesis)
    pieces: list[Piece] = []
    for op in Levenshtein.opcodes(left, right):
        if op.tag == "delete":
            pieces.append(Piece("deleted", "".join(left[op.src_start : op.src_end])))
        else:
            kind = {"equal": "equal", "replace": "substituted", "insert": "inserted"}[op.tag]
            pieces.append(Piece(kind, "".join(right[op.dest_start : op.dest_end])))
    return pieces


def letters(text: str) -> list[str]:
    """Characters, each with the combining marks that follow it."""
    found: list[str] = []
    for character in text:
        if found and unicodedata.combining(character):
            found[-1] += character
        else:
            found.append(character)
    return found


def direction(text: str) -> str:
    """Writing direction of the first character that has one: `rtl` or `ltr`."""
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
