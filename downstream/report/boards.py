"""The leaderboards: upstreams as rows, their costs, and the headline metric of every test split, marked."""

from __future__ import annotations

from dataclasses import dataclass

from downstream.report.cells import Cell, Key
from downstream.report.columns import Column, columns_of
from downstream.report.comparisons import TEACHER, paired_draws
from downstream.report.rows import Setting, metric_info, upstream_order
from downstream.report.tables import Model
from downstream.report.text import Table, number, percent
from downstream.score.stats import central

FBANK = "fbank"
FBANK_NOTE = "fbank: S3PRL's log-mel features, 100 frames per second (every other upstream gives 50); no parameters"
# (against, better there) -> mark, and what it means
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
    """A cell of a board: `best` in its column, `marks` of differences whose 95 % interval does not hold 0."""

    cell: Cell
    best: bool
    marks: str


@dataclass(frozen=True)
class Board:
    """One leaderboard; `entries` by (upstream, place of the column)."""

    title: str
    columns: list[Column]
    upstreams: list[str]
    known: dict[str, Model]
    entries: dict[tuple[str, int], Entry]
    notes: list[str]

    @property
    def setting(self) -> Setting:
        """A setting of the board: they share fine-tuning and label budget."""
        return self.columns[0].setting

    def facts(self, name: str) -> dict[str, str]:
        """What is known of an upstream, as text, under the keys of FACTS."""
        m = self.known.get(name, Model())
        return {
            "front_end": m.front_end or "-",
            "iteration": m.iteration or "-",
            "params_m": number(m.params_m, 2),
            "delta_s": number(m.delta_s),
            "macs_g_per_s": number(m.macs_g_per_s, 3),
            "rtf_cpu": number(m.rtf_cpu, 4),
        }

    def marks(self) -> list[tuple[str, str]]:
        """The marks that occur, with their meaning."""
        used = "".join(entry.marks for entry in self.entries.values())
        return [(mark, meaning) for mark, meaning in MARKS.values() if mark in used]

    def table(self) -> Table:
        """The board as text: without marks, and without RTF, which differs from run to run."""
        shown = [key for key in FACTS if key != "rtf_cpu"]
        header = ["upstream", *(FACTS[key] for key in shown), *(column.heading for column in self.columns)]
        rows = []
        for name in self.upstreams:
            facts = self.facts(name)
            entries = [self.entries.get((name, place)) for place in range(len(self.columns))]
            values = ["-" if e is None else percent(e.cell.value, e.cell.low, e.cell.high) for e in entries]
            rows.append([name, *(facts[key] for key in shown), *values])
        return Table(self.title, header, rows, self.notes)


def leaderboard(cells: dict[Key, Cell], group: list[Setting], known: dict[str, Model], title: str) -> Board:
    """The board of settings that may stand side by side."""
    columns = columns_of(cells, set(group))
    entries = {}
    for place, column in enumerate(columns):
        values = column.cells(cells)
        sign = metric_info(column.metric).sign
        best = max((sign * cell.value for cell in values.values()), default=0.0)
        marks = _marks(values, sign)
        for name, cell in values.items():
            entries[name, place] = Entry(cell, len(values) > 1 and sign * cell.value == best, marks[name])
    names = upstream_order({u for st, _, _, u in cells if st in group})
    notes = [setting.describe() for setting in group]
    notes.append(
        "value [95 % interval by speaker, by utterance where there is one speaker], all in percent; "
        "↓ less is better, ↑ more is better"
    )
    if FBANK in names:
        notes.append(FBANK_NOTE)
    notes += _coverage_notes({k: c for k, c in cells.items() if k[0] in group})
    return Board(title, columns, names, known, entries, notes)


def _marks(values: dict[str, Cell], sign: int) -> dict[str, str]:
    """Marks of each upstream of a column, from the paired bootstrap against `fbank` and the teacher."""
    marks = dict.fromkeys(values, "")
    for against in (FBANK, TEACHER):
        for name in values:
            # What a teacher gains over the baseline is marked at the teacher.
            if against not in values or name == against or name == FBANK:
                continue
            drawn = paired_draws({name: values[name], against: values[against]})
            if drawn is None:
                continue
            low, high = central(sign * (drawn[1][name] - drawn[1][against]))
            if low > 0 or high < 0:
                marks[name] += MARKS[against, low > 0][0]
    return marks


def _coverage_notes(cells: dict[Key, Cell]) -> list[str]:
    """Who has fewer seeds or folds than others of the same column, and so another kind of mean."""
    most: dict[tuple[Setting, str, str], tuple[set[int], int]] = {}
    for (setting, split, metric, _), cell in cells.items():
        seeds, folds = most.get((setting, split, metric), (set(), 0))
        most[setting, split, metric] = (seeds | set(cell.seeds), max(folds, cell.folds))
    notes = set()
    for (setting, split, metric, upstream), cell in cells.items():
        seeds, folds = most[setting, split, metric]
        if lacking := sorted(seeds - set(cell.seeds)):
            names = ", ".join(map(str, lacking))
            notes.add(f"{upstream}: {setting.task.upper()} lacks seed {names} that others have")
        if len(cell.rows) < folds * len(cell.seeds):
            done = f"{len(cell.rows)} of {folds * len(cell.seeds)} runs over seeds and folds"
            notes.add(f"{upstream}: {setting.task.upper()} has only {done}")
    return sorted(notes)
