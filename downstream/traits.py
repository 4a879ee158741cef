"""What a representation keeps besides the words: linear probes for the speaker and the language, on every hidden state.

Low layers of a speech encoder carry speaker, prosody and channel, high ones phones; compression may lose the former
first. No open corpus of Arabic dialects is at hand, so these are stand-ins for what a dialect is heard by, not for
dialects. A probe is a multinomial logistic regression (scikit-learn) on mean-pooled, standardised states. Which state
is reported is decided on a quarter of the training recordings, whose words (speakers) the others do not hold.
"""

from __future__ import annotations

import csv
import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from corpora.batches import length_batches
from corpora.datadir import Utterance, read_datadir, read_utterance
from corpora.files import atomic_file, write_text
from downstream.report.text import Table, number, percent, signed
from downstream.score import stats
from upstream.model.encoder import encode
from upstream.model.family import RECEPTIVE_FIELD, SAMPLE_RATE
from upstream.model.modeldir import load_model

log = logging.getLogger(__name__)

# Of each trait, what the recordings to train on must not share with those of the test: words, or speakers.
APART = {"speaker": "text", "language": "speaker"}
PASS_SECONDS = 16.0  # of audio in a forward pass


class TraitsError(ValueError):
    """Data or models that such probes cannot be trained on."""


Interval = tuple[float, float, float]  # a value, and where its 95 % interval begins and ends


@dataclass(frozen=True)
class Difference:
    """To the model `against`, in the same draws of speakers: of the chosen state to its chosen one, of the top to its
    top; None for a state that is not that."""

    against: str
    chosen: Interval | None
    top: Interval | None


@dataclass(frozen=True)
class Probe:
    """One state of one model under one probe, in shares of 1; `chosen` is the state that stands for the model."""

    model: str
    delta_s: float
    params_m: float
    trait: str
    state: int
    chosen: bool
    held_out: float
    value: float
    ci_low: float
    ci_high: float
    reference: str
    differences: tuple[Difference, ...]
    classes: int
    train: int
    test: int
    speakers: int


@dataclass(frozen=True)
class Answers:
    """What a probe got right: for each recording of the test 1 / n where its class has n there, in `weight`, and the
    same or 0 in `right`. The ratio of their sums is the mean recall of the classes, and stays so when speakers are
    drawn several times, also where every speaker is a class. `strata` are drawn from apart: languages."""

    speakers: tuple[str, ...]
    strata: tuple[str, ...]
    right: np.ndarray
    weight: np.ndarray

    @property
    def recall(self) -> float:
        """Mean recall of the classes."""
        return float(self.right.sum() / self.weight.sum())

    def drawn(self, *, draws: int = stats.DRAWS) -> np.ndarray:
        """The recall in each draw of speakers, the same draws for all answers to one test."""
        total, values = np.zeros((draws, 2)), np.stack([self.right, self.weight], axis=1)
        strata = np.array(self.strata)
        for seed, stratum in enumerate(sorted(set(self.strata))):
            own = strata == stratum
            speakers = tuple(np.array(self.speakers)[own])
            _, sums = stats.by_unit(stats.Scored(speakers, values[own]))
            total += stats.resample(len(sums), draws=draws, seed=seed) @ sums
        return total[:, 0] / total[:, 1]


@dataclass(frozen=True)
class _Set:
    labels: np.ndarray
    groups: np.ndarray
    speakers: tuple[str, ...]
    utterances: list[Utterance]


def probe_models(models: Mapping[str, Path], data: Path, *, against: Sequence[str] = (), reference: str) -> list[Probe]:
    """Probes of every state of every model on `<data>/{speaker,language}/{train,test}`, those that are there.

    `against` names the models that all others are compared with, `reference` the one that ΔS refers to. Raises
    TraitsError for data without classes or a name that is not among the models.
    """
    for what, name in (*(("against", name) for name in against), ("reference", reference)):
        if name not in models:
            raise TraitsError(f"{what}: `{name}` is not among the models ({', '.join(models)})")
    sets = {name: pair for name in APART if (pair := _read(data, name)) is not None}
    if not sets:
        raise TraitsError(f"{data}: neither speaker/ nor language/ with train and test in it")
    sizes, scored = {}, {}
    for name, path in models.items():
        model = load_model(path).eval()
        sizes[name] = sum(p.numel() for p in model.parameters())
        for trait, (train, test) in sets.items():
            pooled = [_pooled(model, part.utterances, f"{name}: {trait} {split}")
                      for part, split in ((train, "train"), (test, "test"))]  # fmt: skip
            scored[name, trait] = _probe(train, test, *pooled)
    probes: list[Probe] = []
    for (name, trait), states in scored.items():
        train, test = sets[trait]
        best, top = _best(states), len(states) - 1
        others = {other: scored[other, trait] for other in against if other != name}
        for state, (held_out, run) in enumerate(states):
            low, high = stats.central(run.drawn())
            differences = tuple(
                Difference(
                    other,
                    _difference(run, its[_best(its)][1]) if state == best else None,
                    _difference(run, its[-1][1]) if state == top else None,
                )
                for other, its in others.items()
            )
            probes.append(
                Probe(
                    model=name,
                    delta_s=100 * (1 - sizes[name] / sizes[reference]),
                    params_m=sizes[name] / 1e6,
                    trait=trait,
                    state=state,
                    chosen=state == best,
                    held_out=held_out,
                    value=run.recall,
                    ci_low=low,
                    ci_high=high,
                    reference=reference,
                    differences=differences,
                    classes=len(set(train.labels)),
                    train=len(train.labels),
                    test=len(test.labels),
                    speakers=len(set(test.speakers)),
                )
            )
    return probes


def _best(states: list[tuple[float, Answers]]) -> int:
    """The state of highest recall on the held-out part of the training recordings; the lowest of equals."""
    return max(range(len(states)), key=lambda i: states[i][0])


def _read(data: Path, trait: str) -> tuple[_Set, _Set] | None:
    folders = [data / trait / split for split in ("train", "test")]
    if not all(folder.is_dir() for folder in folders):
        return None
    sets = []
    for folder in folders:
        own = [u for u in read_datadir(folder) if u.samples >= RECEPTIVE_FIELD]
        labels, groups = ([getattr(u, key) for u in own] for key in (trait, APART[trait]))
        if None in labels or len(set(labels)) < 2:
            raise TraitsError(f"{folder}: every utterance needs its {trait}, and there must be two at least")
        if None in groups or len(set(groups)) < 2:
            raise TraitsError(f"{folder}: every utterance needs its {APART[trait]}, and there must be two at least")
        sets.append(_Set(np.array(labels), np.array(groups), tuple(u.speaker for u in own), own))
    shared = sorted(set(sets[0].groups) & set(sets[1].groups))
    if shared:
        raise TraitsError(f"{folders[1]}: the {APART[trait]} {shared[0]} is in {folders[0]} too; they must be apart")
    unknown = set(sets[1].labels) - set(sets[0].labels)
    if unknown:
        raise TraitsError(f"{folders[1]}: {trait} {sorted(unknown)[0]} is not in {folders[0]}")
    return sets[0], sets[1]


@torch.no_grad()
def _pooled(model: torch.nn.Module, utterances: list[Utterance], what: str) -> np.ndarray:
    """Means over time of every hidden state, (states, utterances, D)."""
    found: list[list[np.ndarray]] = [[] for _ in utterances]
    plan = length_batches([u.samples for u in utterances], int(PASS_SECONDS * SAMPLE_RATE))
    for batch in tqdm(plan, desc=what, unit="batch", mininterval=1.0):
        wavs = [torch.from_numpy(read_utterance(utterances[i])) for i in batch]
        encoded = encode(model, wavs)
        for row, index in enumerate(batch):
            frames = int(encoded.frames[row])
            found[index] = [state[row, :frames].mean(0).numpy() for state in encoded.hidden_states]
    return np.stack([np.stack(states) for states in zip(*found, strict=True)])


def _probe(train: _Set, test: _Set, fit: np.ndarray, scored: np.ndarray) -> list[tuple[float, Answers]]:
    """For each state the mean recall on the held-out part of the training recordings, and the answers to the test."""
    kept, held = _held_out(train)
    states = []
    for x, y in zip(fit, scored, strict=True):
        answer = _classifier().fit(x[kept], train.labels[kept]).predict(x[held])
        held_out = _answers(train, answer, held).recall
        answer = _classifier().fit(x, train.labels).predict(y)
        states.append((held_out, _answers(test, answer)))
    return states


def _held_out(train: _Set) -> tuple[np.ndarray, np.ndarray]:
    """Three quarters of the training part and one, or two halves where there is little, that share no word (or
    speaker); both hold all classes."""
    classes, groups = set(train.labels), len(set(train.groups))
    smallest = min(Counter(train.labels).values())
    for parts in (n for n in (4, 2) if n <= min(groups, smallest)):
        folds = StratifiedGroupKFold(parts, shuffle=True, random_state=0)
        for kept, held in folds.split(train.labels, train.labels, train.groups):
            if set(train.labels[kept]) == classes == set(train.labels[held]):
                return kept, held
    raise TraitsError(
        "the training part cannot be divided so that both sides hold every class: it has recordings of too few "
        "speakers or words"
    )


def _answers(part: _Set, given: np.ndarray, index: np.ndarray | None = None) -> Answers:
    labels = part.labels if index is None else part.labels[index]
    speakers = part.speakers if index is None else tuple(part.speakers[i] for i in index)
    names, place, count = np.unique(labels, return_inverse=True, return_counts=True)
    weight = 1 / count[place]
    # Where the class is the speaker, drawing within classes would draw nothing.
    strata = tuple(labels) if len(names) < len(set(speakers)) else ("",) * len(labels)
    return Answers(speakers, strata, weight * (given == labels), weight)


def _classifier() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, class_weight="balanced"))


def _difference(run: Answers, base: Answers) -> tuple[float, float, float]:
    """Recall of `run` less that of `base`, and its interval over the same draws of speakers."""
    return run.recall - base.recall, *stats.central(run.drawn() - base.drawn())


def write(probes: list[Probe], out: Path, command: str) -> str:
    """Write traits.csv (every state), TRAITS.md (a table for each trait) and traits.png; returns the tables as text."""
    from downstream.revision import commit

    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "traits.csv") as path, open(path, "w", encoding="utf-8", newline="") as stream:
        rows = [_flat(probe) for probe in probes]
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    traits = list(dict.fromkeys(probe.trait for probe in probes))
    tables = [_table([probe for probe in probes if probe.trait == trait]) for trait in traits]
    parts = ["# What is kept besides the words", f"Command: `{command}` (commit {commit()})."]
    parts += [part for table in tables for part in (f"## {table.title}", table.markdown())]
    parts += ["![recall by state, and over ΔS](traits.png)"]
    write_text(out / "TRAITS.md", "\n\n".join(parts) + "\n")
    _draw(probes, traits, out / "traits.png")
    return "\n".join(table.terminal() for table in tables)


def _flat(probe: Probe) -> dict[str, Any]:
    """A row of traits.csv; columns `<chosen or top>_against_<model>` hold a difference, its `_low` and its `_high`."""
    row = {f.name: getattr(probe, f.name) for f in dataclasses.fields(Probe) if f.name != "differences"}
    for difference in probe.differences:
        for state, interval in (("chosen", difference.chosen), ("top", difference.top)):
            for end, value in zip(("", "_low", "_high"), interval or (None, None, None), strict=True):
                row[f"{state}_against_{difference.against}{end}"] = value
    return row


def _table(probes: list[Probe]) -> Table:
    """All models under one probe."""
    some = probes[0]
    others = list(dict.fromkeys(d.against for probe in probes for d in probe.differences))
    against = [f"against {name}" for name in others]
    header = ["model", "params (M)", "ΔS (%)", "chosen state ↑", "state", *against, "top state ↑", *against]
    rows = []
    for name in dict.fromkeys(probe.model for probe in probes):
        states = [probe for probe in probes if probe.model == name]
        chosen, top = next(probe for probe in states if probe.chosen), states[-1]
        row = [name, number(top.params_m, 2), number(top.delta_s)]
        row += [percent(chosen.value, chosen.ci_low, chosen.ci_high), str(chosen.state)]
        of = {difference.against: difference.chosen for difference in chosen.differences}
        row += [_told(of.get(other)) for other in others]
        row += [percent(top.value, top.ci_low, top.ci_high)]
        of = {difference.against: difference.top for difference in top.differences}
        row += [_told(of.get(other)) for other in others]
        rows.append(row)
    notes = [
        "mean recall of the classes in percent, 95 % intervals over the speakers of the test; differences in points",
        f"{some.classes} classes, {some.train} recordings to train on, {some.test} of {some.speakers} speakers to test",
        "chosen: the state of highest recall on a held-out part of the training recordings (0: before the first layer)",
        f"ΔS against {some.reference}",
    ]
    return Table(f"Linear probes for the {some.trait}", header, rows, notes)


def _told(interval: Interval | None) -> str:
    """The cell of a difference."""
    if interval is None:
        return "-"
    value, low, high = map(signed, interval)
    return f"{value} [{low}, {high}]"


def _draw(probes: list[Probe], traits: Iterable[str], path: Path) -> None:
    """A row of panels for each trait: recall over depth, a line a model, and the chosen states over ΔS."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    traits = list(traits)
    figure = Figure(figsize=(12, 4.2 * len(traits)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(traits), 2, squeeze=False, sharey="row")
    names = list(dict.fromkeys(probe.model for probe in probes))
    for (left, right), trait in zip(panels, traits, strict=True):
        for index, name in enumerate(names):
            own = [probe for probe in probes if probe.model == name and probe.trait == trait]
            style = {"color": f"C{index % 10}", "marker": "osD^v"[index // 10 % 5], "markersize": 4}
            left.plot([p.state / max(1, len(own) - 1) for p in own], [100 * p.value for p in own], label=name, **style)
            best = next(probe for probe in own if probe.chosen)
            bars = [[100 * (best.value - best.ci_low)], [100 * (best.ci_high - best.value)]]
            right.errorbar([best.delta_s], [100 * best.value], yerr=bars, capsize=2, linestyle="none", **style)
        left.set_xlabel("state, as a share of the depth")
        left.set_ylabel(f"{trait}: mean recall (%)")
        right.set_xlabel("ΔS (%)")
        for axis in (left, right):
            axis.grid(alpha=0.3)
    panels[0][0].legend(fontsize=7, ncols=2)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})
