"""Label budgets: nested subsets of a training set, the same for every upstream and seed.

The items of a speaker (and class) are shuffled once, and the item that ends the first tenth of a speaker's speech comes
before those that end the second tenth of any other. Every prefix of this order holds about the same share of each
speaker, and a smaller budget is a part of every larger one.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from corpora.audio import SAMPLE_RATE
from downstream.probe.data import Item

_SEED = 0
_UNITS = {"s": 1, "min": 60, "h": 3600}


class BudgetError(ValueError):
    """A budget that cannot be read, or that this training set cannot fill."""


@dataclass(frozen=True)
class Budget:
    """`tag` as in the column `budget`; either `seconds` or a `share` of the training set."""

    tag: str
    seconds: float | None = None
    share: float | None = None


def parse(text: str) -> Budget | None:
    """Read `10min`, `1h`, `90s` or a share such as `0.1`; `all` is None. Raises BudgetError."""
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
        raise BudgetError(f"budget `{text}`: give hours, minutes or seconds (1h, 10min, 90s), a share (0.1), or all")
    return None if share == 1 else Budget(f"{share:g}", share=share)


def select(items: Sequence[Item], budget: Budget | None, *, by_label: bool) -> list[Item]:
    """The items within a budget, in their old order; `by_label` keeps the shares of the classes as well.

    Raises BudgetError for a budget above what there is, and for one that holds no item, or not every class.
    """
    if budget is None:
        return list(items)
    total = sum(item.samples for item in items)
    limit = budget.share * total if budget.seconds is None else budget.seconds * SAMPLE_RATE
    if limit > total:
        raise BudgetError(
            f"budget {budget.tag}: the training set holds {total / SAMPLE_RATE / 60:.1f} min only; leave the budget "
            "out, or give a share, for instance 0.5"
        )
    chosen: set[str] = set()
    spent = 0
    for item in _order(items, by_label):
        # The first one that does not fit ends it: going on with shorter ones would break the nesting.
        if spent + item.samples > limit:
            break
        chosen.add(item.utt_id)
        spent += item.samples
    kept = [item for item in items if item.utt_id in chosen]
    if not kept:
        raise BudgetError(f"budget {budget.tag} is shorter than its first utterance; give more")
    missing = sorted({i.label for i in items} - {i.label for i in kept}) if by_label else []
    if missing:
        raise BudgetError(f"budget {budget.tag} leaves no utterance of class `{missing[0]}`; give more")
    return kept


def _order(items: Sequence[Item], by_label: bool) -> list[Item]:
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item.utt_id):
        groups[item.speaker, item.label if by_label else ""].append(item)
    ranked: list[tuple[float, float, Item]] = []
    for key, group in sorted(groups.items()):
        generator = random.Random(f"{_SEED} {key}")
        generator.shuffle(group)
        total = sum(item.samples for item in group)
        heard = 0
        for item in group:
            heard += item.samples
            ranked.append((heard / total, generator.random(), item))
    return [item for *_, item in sorted(ranked, key=lambda entry: entry[:2])]
