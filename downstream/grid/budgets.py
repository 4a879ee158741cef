"""Label budgets: their notation, and nested subsets of a training set.

A budget is a duration (`10min`, `1h`, `90s`), a share of the training set (`0.1`), or `all`. Subsets do not depend on
upstream or seed. Every subset holds about the same share of each speaker and class, and lies within every larger one:

    speaker a   a1 a2 a3 a4        shuffled once; a2 ends at half of the speaker's speech
    speaker b   b1 b2
    order       a1 a2 b1 a3 a4 b2  merged by the share of the speaker's speech at which an utterance ends
    subset      the first utterances of the order that fit the budget
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from corpora.audio import SAMPLE_RATE
from downstream import DownstreamError
from downstream.probe.data import LabelledUtterance

_SEED = 0
_UNITS = {"s": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Budget:
    """`tag` is the value of the column `budget`; either `seconds` or a `share` of the training set is set."""

    tag: str
    seconds: float | None = None
    share: float | None = None


def parse(text: str) -> Budget | None:
    """Read `10min`, `1h`, `90s` or a share such as `0.1`; `all` and the empty text are None. Raises DownstreamError."""
    text = text.strip().lower()
    if text in ("all", ""):
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", text)
    if match and float(match[1]) > 0:
        return Budget(f"{float(match[1]):g}{match[2]}", seconds=float(match[1]) * _UNITS[match[2]])
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise DownstreamError(
            f"budget `{text}`: give hours, minutes or seconds (1h, 10min, 90s), a share (0.1), or all"
        )
    return None if share == 1 else Budget(f"{share:g}", share=share)


def shown(text: str) -> str:
    """A budget for people: shares as percent, no budget as `all`."""
    budget = parse(text)
    if budget is None:
        return "all"
    return budget.tag if budget.share is None else f"{100 * budget.share:g} %"


def rank(text: str) -> tuple[int, float]:
    """A sort key: shares, then durations, then `all`; each from small to large."""
    budget = parse(text)
    if budget is None:
        return 2, 0.0
    return (0, budget.share) if budget.seconds is None else (1, budget.seconds)


def in_order(texts: Iterable[str]) -> list[str]:
    """Budgets from the smallest to `all`."""
    return sorted(texts, key=rank)


def select(items: Sequence[LabelledUtterance], budget: Budget | None, *, by_label: bool) -> list[LabelledUtterance]:
    """The items within a budget, in their given order; `by_label` also keeps the shares of the classes.

    Raises DownstreamError for a budget above the size of the training set, and for one without any item or without an
    item of some class.
    """
    if budget is None:
        return list(items)
    total = sum(item.samples for item in items)
    limit = budget.share * total if budget.seconds is None else budget.seconds * SAMPLE_RATE
    if limit > total:
        raise DownstreamError(
            f"budget {budget.tag}: the training set holds only {total / SAMPLE_RATE / 60:.1f} min; leave the budget "
            "out, or give a share, for instance 0.5"
        )
    chosen: set[str] = set()
    used = 0
    for item in _order(items, by_label):
        # Stop at the first item that does not fit: shorter later ones would break the nesting.
        if used + item.samples > limit:
            break
        chosen.add(item.utt_id)
        used += item.samples
    kept = [item for item in items if item.utt_id in chosen]
    if not kept:
        raise DownstreamError(f"budget {budget.tag} is shorter than its first utterance; give more")
    missing = sorted({i.label for i in items} - {i.label for i in kept}) if by_label else []
    if missing:
        raise DownstreamError(f"budget {budget.tag} leaves no utterance of class `{missing[0]}`; give more")
    return kept


def _order(items: Sequence[LabelledUtterance], by_label: bool) -> list[LabelledUtterance]:
    groups: dict[tuple[str, str], list[LabelledUtterance]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item.utt_id):
        groups[item.speaker, item.label if by_label else ""].append(item)
    ranked: list[tuple[float, float, LabelledUtterance]] = []
    for key, group in sorted(groups.items()):
        generator = random.Random(f"{_SEED} {key}")
        generator.shuffle(group)
        total = sum(item.samples for item in group)
        end = 0
        for item in group:
            end += item.samples
            ranked.append((end / total, generator.random(), item))
    return [item for *_, item in sorted(ranked, key=lambda entry: entry[:2])]
