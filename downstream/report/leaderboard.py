"""Leaderboards: upstreams with their costs, the headline metric of every test set, and the SUPERB-like score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from downstream.report.columns import Column, Measurement, headline_columns, pair
from downstream.report.rows import upstream_order
from downstream.report.tables import Table, UpstreamFacts, number, percent
from downstream.score.metrics import superb_score
from downstream.score.stats import central
from upstream.names import FBANK, TEACHER

FBANK_NOTE = (
    "fbank: S3PRL's log-mel features with deltas, each normalised over its utterance, 100 frames per second (every "
    "other upstream gives 50); no parameters"
)
# (other upstream, whether better than it) -> mark of a significant difference, and its meaning
MARKS = {
    (FBANK, True): ("▲", f"better than {FBANK}"),
    (FBANK, False): ("▼", f"worse than {FBANK}"),
    (TEACHER, True): ("‡", f"better than {TEACHER}"),
    (TEACHER, False): ("†", f"worse than {TEACHER}"),
}
FACTS = {
    "front_end": "front end",
    "iteration": "it.",
    "params_m": "params (M)",
    "delta_s": "ΔS (%)",
    "macs_g_per_s": "GMAC/s",
    "rtf_cpu": "RTF",
}


@dataclass(frozen=True)
class Entry:
    """One value of a leaderboard: whether it is the best of its column, and its marks.

    A mark stands for a paired difference whose 95 % interval excludes 0.
    """

    measurement: Measurement
    best: bool
    marks: str


@dataclass(frozen=True)
class Leaderboard:
    """One leaderboard; `entries` by (upstream, number of the column)."""

    title: str
    columns: list[Column]
    upstreams: list[str]
    known: dict[str, UpstreamFacts]
    entries: dict[tuple[str, int], Entry]
    notes: list[str]

    def facts(self, name: str) -> dict[str, str]:
        """Facts about an upstream as text, by the keys of FACTS."""
        known = self.known.get(name, UpstreamFacts())
        return {
            "front_end": known.front_end or "-",
            "iteration": known.iteration or "-",
            "params_m": number(known.params_m, 2),
            "delta_s": number(known.delta_s),
            "macs_g_per_s": number(known.macs_g_per_s, 3),
            "rtf_cpu": number(known.rtf_cpu, 4),
        }

    def marks(self) -> list[tuple[str, str]]:
        """The marks in use, with their meaning."""
        used = "".join(entry.marks for entry in self.entries.values())
        return [(mark, meaning) for mark, meaning in MARKS.values() if mark in used]

    def table(self) -> Table:
        """As text, without marks. RTF is left out because it differs from run to run."""
        shown = [key for key in FACTS if key != "rtf_cpu"]
        header = ["upstream", *(FACTS[key] for key in shown), *(column.heading for column in self.columns)]
        rows = []
        for name in self.upstreams:
            facts = self.facts(name)
            own = [column.values.get(name) for column in self.columns]
            values = ["-" if m is None else percent(m.value, m.low, m.high) for m in own]
            rows.append([name, *(facts[key] for key in shown), *values])
        return Table(self.title, header, rows, self.notes)


def leaderboard(columns: Sequence[Column], known: dict[str, UpstreamFacts], title: str) -> Leaderboard:
    """The leaderboard of columns whose settings may share a table (`comparable_settings`)."""
    shown = headline_columns(columns)
    entries = {}
    for place, column in enumerate(shown):
        sign = column.info.sign
        best = max(sign * measurement.value for measurement in column.values.values())
        for name, measurement in column.values.items():
            is_best = len(column.values) > 1 and sign * measurement.value == best
            entries[name, place] = Entry(measurement, is_best, _marks(column, name))
    names = upstream_order({name for column in columns for name in column.values})
    notes = [setting.describe() for setting in dict.fromkeys(column.setting for column in columns)]
    notes.append(
        "value [95 % interval by speaker, or by utterance if there is one speaker], all in percent; "
        "↓ lower is better, ↑ higher is better"
    )
    if FBANK in names:
        notes.append(FBANK_NOTE)
    return Leaderboard(title, shown, names, known, entries, notes + _missing_runs(columns))


def _marks(column: Column, name: str) -> str:
    """Marks of one upstream, from the paired bootstrap against `fbank` and the teacher."""
    marks = ""
    for against in (FBANK, TEACHER):
        # A difference between teacher and fbank is marked at the teacher.
        if against not in column.values or name in (against, FBANK):
            continue
        found = pair({name: column.values[name], against: column.values[against]})
        if isinstance(found, str):
            continue
        low, high = central(column.info.sign * (found.draws[name] - found.draws[against]))
        if low > 0 or high < 0:
            marks += MARKS[against, low > 0][0]
    return marks


def _missing_runs(columns: Sequence[Column]) -> list[str]:
    """Notes on upstreams with fewer seeds or folds than others of the same column."""
    notes = set()
    for column in columns:
        task = column.setting.task.upper()
        seeds = {seed for measurement in column.values.values() for seed in measurement.seeds}
        folds = max(measurement.folds for measurement in column.values.values())
        for name, measurement in column.values.items():
            if missing := sorted(seeds - set(measurement.seeds)):
                notes.add(f"{name}: {task} lacks seed {', '.join(map(str, missing))} that others have")
            wanted = folds * len(measurement.seeds)
            if len(measurement.rows) < wanted:
                done = f"{len(measurement.rows)} of {wanted} runs over seeds and folds"
                notes.add(f"{name}: {task} has only {done}")
    return sorted(notes)


@dataclass(frozen=True)
class SuperbScores:
    """SUPERB-like scores (0: `fbank`, 1000: the reference) of the upstreams with results in all columns used.

    `skipped` lists the other columns, each with the reason.
    """

    reference: str
    columns: list[Column]
    values: dict[str, float]
    skipped: list[str]

    def table(self) -> Table:
        """The scores, with their formula."""
        rows = [[name, f"{value:.0f}"] for name, value in self.values.items()]
        notes = [
            f"1000 / tasks x sum over tasks of the mean over columns of (m - {FBANK}) / ({self.reference} - {FBANK}): "
            f"{FBANK} has 0 and {self.reference} 1000 by definition; columns: "
            f"{', '.join(column.heading for column in self.columns)}"
        ]
        notes += [f"not in the score: {line}" for line in self.skipped]
        return Table(f"SUPERB-like score, reference {self.reference}", ["upstream", "score"], rows, notes)

    def bars(self) -> dict[str, float]:
        """Length of each score's bar in percent of the longest; 0 for negative scores."""
        longest = max([1000.0, *self.values.values()])
        return {name: float(np.clip(100 * value / longest, 0, 100)) for name, value in self.values.items()}


def superb_scores(columns: Sequence[Column], reference: str) -> SuperbScores | None:
    """Scores over headline columns; None without results of `fbank` or the reference.

    A column in which the reference is not significantly better than `fbank` is skipped: its divisor is near 0.
    """
    used: list[Column] = []
    skipped: list[str] = []
    for column in headline_columns(columns):
        values = column.values
        if FBANK not in values or reference not in values:
            continue
        found = pair({name: values[name] for name in (FBANK, reference)})
        if isinstance(found, str):
            skipped.append(f"{column.heading}: {reference} and {FBANK} cannot be paired")
        elif central(column.info.sign * (found.draws[reference] - found.draws[FBANK]))[0] <= 0:
            skipped.append(f"{column.heading}: {reference} is not shown to be better than {FBANK}")
        else:
            used.append(column)
    if not used and not skipped:
        return None
    names = upstream_order(set.intersection(*(set(column.values) for column in used))) if used else []

    def of(name: str) -> dict[str, dict[str, float]]:
        by_task: dict[str, dict[str, float]] = {column.setting.task: {} for column in used}
        for column in used:
            by_task[column.setting.task][column.heading] = column.values[name].value
        return by_task

    values = {name: superb_score(of(name), of(FBANK), of(reference)) for name in names}
    return SuperbScores(reference, used, values, skipped)
