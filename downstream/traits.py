"""Probe every hidden state for speaker and language, with linear classifiers.

Low layers of a speech encoder carry speaker, prosody and channel, high layers carry phones; compression may lose the
former first. No open corpus of Arabic dialects is available, so speaker and language are proxies for dialect cues. A
probe is a multinomial logistic regression (scikit-learn) on mean-pooled, standardised states. The reported state is
chosen on a quarter of the training recordings, which shares no word (for language: no speaker) with the rest.

Features do not come from the cache of `downstream.probe`: it pools over S3PRL's ceil(n / 320) frames, which repeat the
last frame, and so gives slightly other means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from corpora.audio import SAMPLE_RATE
from corpora.batches import length_batches
from corpora.datadir import Utterance, read_datadir, read_utterance
from corpora.files import write_csv, write_text
from downstream import DownstreamError
from downstream.report import drawing
from downstream.report.tables import Table, difference, number, percent, plain
from downstream.score import stats
from downstream.score.results import commit
from upstream.model.encoder import encode
from upstream.model.family import RECEPTIVE_FIELD
from upstream.model.modeldir import load_model
from upstream.model.rate import check_directory

# Trait -> the field of an utterance that training and test recordings must not share.
NOT_SHARED = {"speaker": "text", "language": "speaker"}
PASS_SECONDS = 16.0  # audio per forward pass

Interval = tuple[float, float, float]  # a value and the ends of its 95 % interval


@dataclass(frozen=True)
class Difference:
    """Difference in recall to the model `against`, over the same draws of speakers.

    The chosen state is compared with the other's chosen state, the top state with the other's top state; None if this
    state is not the chosen (top) one.
    """

    against: str
    chosen: Interval | None
    top: Interval | None


@dataclass(frozen=True)
class TraitProbe:
    """Recall (shares) of a probe on one state of one model; `chosen` marks the state that represents the model."""

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
class ProbeAnswers:
    """Answers of a probe to the test recordings.

    `weight` of a recording is 1 / n if its class has n recordings; `correct` is the weight if the answer is correct,
    else 0. The ratio of their sums is the mean recall of the classes, also if speakers are drawn several times and
    if every speaker is a class. Speakers are drawn within `strata` (languages).
    """

    speakers: tuple[str, ...]
    strata: tuple[str, ...]
    correct: np.ndarray
    weight: np.ndarray

    @property
    def recall(self) -> float:
        """Mean recall of the classes."""
        return float(self.correct.sum() / self.weight.sum())

    def drawn(self, *, draws: int = stats.DRAWS) -> np.ndarray:
        """Recall in each bootstrap draw of speakers; all probes of one test set have the same draws."""
        total, values = np.zeros((draws, 2)), np.stack([self.correct, self.weight], axis=1)
        strata = np.array(self.strata)
        for seed, stratum in enumerate(sorted(set(self.strata))):
            own = strata == stratum
            speakers = tuple(np.array(self.speakers)[own])
            _, sums = stats.by_unit(stats.Scored(speakers, values[own]))
            total += stats.resample(len(sums), draws=draws, seed=seed) @ sums
        return total[:, 0] / total[:, 1]


@dataclass(frozen=True)
class TraitSet:
    """Recordings with their labels, and the groups (words or speakers) that the other parts must not share."""

    labels: np.ndarray
    groups: np.ndarray
    speakers: tuple[str, ...]
    utterances: list[Utterance]


def probe_models(
    models: Mapping[str, Path], data: Path, *, against: Sequence[str] = (), reference: str
) -> list[TraitProbe]:
    """Probe every state of every model on `<data>/{speaker,language}/{train,test}` (one of the two may be missing).

    `against` names the models that all others are compared with; ΔS refers to `reference`. Raises DownstreamError for
    data without classes and for an unknown model.
    """
    for option, name in (*(("against", name) for name in against), ("reference", reference)):
        if name not in models:
            raise DownstreamError(f"{option}: `{name}` is not among the models ({', '.join(models)})")
    for path in models.values():
        check_directory(path)
    sets = {name: pair for name in NOT_SHARED if (pair := _read(data, name)) is not None}
    if not sets:
        raise DownstreamError(f"{data}: no folder speaker/ or language/ with train/ and test/")
    sizes, scored = {}, {}
    for name, path in models.items():
        model = load_model(path).eval()
        sizes[name] = sum(p.numel() for p in model.parameters())
        for trait, (train, test) in sets.items():
            pooled = [pooled_states(model, part.utterances, f"{name}: {trait} {split}")
                      for part, split in ((train, "train"), (test, "test"))]  # fmt: skip
            scored[name, trait] = _probe(train, test, *pooled)
    probes: list[TraitProbe] = []
    for (name, trait), states in scored.items():
        train, test = sets[trait]
        best, top = _best(states), len(states) - 1
        others = {other: scored[other, trait] for other in against if other != name}
        for state, (held_out, run) in enumerate(states):
            low, high = stats.central(run.drawn())
            differences = tuple(
                Difference(
                    other,
                    recall_difference(run, its[_best(its)][1]) if state == best else None,
                    recall_difference(run, its[-1][1]) if state == top else None,
                )
                for other, its in others.items()
            )
            probes.append(
                TraitProbe(
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


def _best(states: list[tuple[float, ProbeAnswers]]) -> int:
    """The state with the highest recall on the held-out training recordings; of equal ones the lowest."""
    return max(range(len(states)), key=lambda i: states[i][0])


def _read(data: Path, trait: str) -> tuple[TraitSet, TraitSet] | None:
    folders = [data / trait / split for split in ("train", "test")]
    if not all(folder.is_dir() for folder in folders):
        return None
    sets = []
    for folder in folders:
        own = [u for u in read_datadir(folder) if u.samples >= RECEPTIVE_FIELD]
        labels, groups = ([getattr(u, key) for u in own] for key in (trait, NOT_SHARED[trait]))
        if None in labels or len(set(labels)) < 2:
            raise DownstreamError(f"{folder}: every utterance needs a {trait}, and at least two are needed")
        if None in groups or len(set(groups)) < 2:
            raise DownstreamError(f"{folder}: every utterance needs a {NOT_SHARED[trait]}, and at least two are needed")
        sets.append(TraitSet(np.array(labels), np.array(groups), tuple(u.speaker for u in own), own))
    shared = sorted(set(sets[0].groups) & set(sets[1].groups))
    if shared:
        raise DownstreamError(
            f"{folders[1]}: the {NOT_SHARED[trait]} {shared[0]} is in {folders[0]} too; the parts must not share it"
        )
    unknown = set(sets[1].labels) - set(sets[0].labels)
    if unknown:
        raise DownstreamError(f"{folders[1]}: {trait} {sorted(unknown)[0]} is not in {folders[0]}")
    return sets[0], sets[1]


@torch.no_grad()
def pooled_states(
    model: torch.nn.Module, utterances: Sequence[Utterance], label: str, *, pass_seconds: float = PASS_SECONDS
) -> np.ndarray:
    """Means over time of every hidden state, (states, utterances, D); `label` names the progress bar."""
    found: list[list[np.ndarray]] = [[] for _ in utterances]
    plan = length_batches([u.samples for u in utterances], int(pass_seconds * SAMPLE_RATE))
    for batch in tqdm(plan, desc=label, unit="batch", mininterval=1.0):
        wavs = [torch.from_numpy(read_utterance(utterances[i])) for i in batch]
        encoded = encode(model, wavs)
        for row, index in enumerate(batch):
            frames = int(encoded.frames[row])
            found[index] = [state[row, :frames].mean(0).numpy() for state in encoded.hidden_states]
    return np.stack([np.stack(states) for states in zip(*found, strict=True)])


def _probe(train: TraitSet, test: TraitSet, fit: np.ndarray, scored: np.ndarray) -> list[tuple[float, ProbeAnswers]]:
    """For each state: mean recall on the held-out training recordings, and the answers to the test."""
    kept, held = _held_out(train)
    states = []
    for x, y in zip(fit, scored, strict=True):
        answer = _classifier().fit(x[kept], train.labels[kept]).predict(x[held])
        held_out = score_answers(train, answer, held).recall
        answer = _classifier().fit(x, train.labels).predict(y)
        states.append((held_out, score_answers(test, answer)))
    return states


def _held_out(train: TraitSet) -> tuple[np.ndarray, np.ndarray]:
    """Indices of three quarters and of one quarter (with few recordings: two halves) of the training part.

    They share no word (or speaker), and both have all classes.
    """
    classes, groups = set(train.labels), len(set(train.groups))
    smallest = min(Counter(train.labels).values())
    for parts in (n for n in (4, 2) if n <= min(groups, smallest)):
        folds = StratifiedGroupKFold(parts, shuffle=True, random_state=0)
        for kept, held in folds.split(train.labels, train.labels, train.groups):
            if set(train.labels[kept]) == classes == set(train.labels[held]):
                return kept, held
    raise DownstreamError(
        "the training part cannot be divided into two with every class in both: it has too few speakers or words"
    )


def score_answers(part: TraitSet, given: np.ndarray, index: np.ndarray | None = None) -> ProbeAnswers:
    """Compare the labels that a probe has `given` with those of the recordings (`index`: of some of them)."""
    labels = part.labels if index is None else part.labels[index]
    speakers = part.speakers if index is None else tuple(part.speakers[i] for i in index)
    names, place, count = np.unique(labels, return_inverse=True, return_counts=True)
    weight = 1 / count[place]
    # If the class is the speaker, a stratum would have one speaker, and its draws would be constant.
    strata = tuple(labels) if len(names) < len(set(speakers)) else ("",) * len(labels)
    return ProbeAnswers(speakers, strata, weight * (given == labels), weight)


def _classifier() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, class_weight="balanced"))


def recall_difference(run: ProbeAnswers, base: ProbeAnswers) -> tuple[float, float, float]:
    """Recall of `run` minus recall of `base`, with its 95 % interval over the same draws of speakers."""
    return run.recall - base.recall, *stats.central(run.drawn() - base.drawn())


def write(probes: Sequence[TraitProbe], out: Path, command: str) -> str:
    """Write traits.csv (every state), TRAITS.md (a table for each trait), traits.png and traits.svg.

    Returns the tables as text.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = [_flat(probe) for probe in probes]
    write_csv(out / "traits.csv", dict.fromkeys(name for row in rows for name in row), rows)
    traits = list(dict.fromkeys(probe.trait for probe in probes))
    tables = [_table([probe for probe in probes if probe.trait == trait]) for trait in traits]
    parts = ["# Speaker and language in the hidden states", f"Command: `{command}` (commit {commit()})."]
    parts += [part for table in tables for part in (f"## {plain(table.title)}", table.markdown())]
    parts += ["![recall by state, and over ΔS](traits.png)"]
    write_text(out / "TRAITS.md", "\n\n".join(parts) + "\n")
    drawing.save(_figure(probes, traits), out)
    return "\n".join(table.terminal() for table in tables)


def _flat(probe: TraitProbe) -> dict[str, Any]:
    """A row of traits.csv; columns `<chosen or top>_against_<model>` hold a difference, its `_low` and its `_high`."""
    row = {f.name: getattr(probe, f.name) for f in fields(TraitProbe) if f.name != "differences"}
    for other in probe.differences:
        for state, interval in (("chosen", other.chosen), ("top", other.top)):
            for end, value in zip(("", "_low", "_high"), interval or (None, None, None), strict=True):
                row[f"{state}_against_{other.against}{end}"] = value
    return {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}


def _table(probes: Sequence[TraitProbe]) -> Table:
    """All models under one probe."""
    others = list(dict.fromkeys(d.against for probe in probes for d in probe.differences))
    against = [f"against {name}" for name in others]
    header = ["model", "params (M)", "ΔS (%)", "chosen state ↑", "state", *against, "top state ↑", *against]
    rows = []
    for name in dict.fromkeys(probe.model for probe in probes):
        states = [probe for probe in probes if probe.model == name]
        chosen, top = next(probe for probe in states if probe.chosen), states[-1]
        row = [name, number(top.params_m, 2), number(top.delta_s)]
        row += [percent(chosen.value, chosen.ci_low, chosen.ci_high), str(chosen.state)]
        found = {d.against: d.chosen for d in chosen.differences}
        row += [difference(*found[other]) if found.get(other) else "-" for other in others]
        row += [percent(top.value, top.ci_low, top.ci_high)]
        found = {d.against: d.top for d in top.differences}
        row += [difference(*found[other]) if found.get(other) else "-" for other in others]
        rows.append(row)
    first = probes[0]
    notes = [
        "mean recall of the classes in percent, 95 % intervals over the speakers of the test; differences in points",
        f"{first.classes} classes; training: {first.train} recordings; test: {first.test} of {first.speakers} speakers",
        "chosen: the state with the highest recall on held-out training recordings (0: input of the first layer)",
        f"ΔS against {first.reference}",
    ]
    return Table(f"Linear probes for the {first.trait}", header, rows, notes)


def _figure(probes: Sequence[TraitProbe], traits: Sequence[str]) -> drawing.Figure:
    """Two panels for each trait: recall over depth with a line for each model, and the chosen states over ΔS."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(probe.model for probe in probes))}
    panels = []
    for trait in traits:
        lines, points = {}, {}
        for name in numbers:
            own = [probe for probe in probes if probe.model == name and probe.trait == trait]
            lines[name] = [p.state / max(1, len(own) - 1) for p in own], [100 * p.value for p in own]
            best = next(probe for probe in own if probe.chosen)
            points[name] = drawing.IntervalPoint(best.delta_s, best.value, best.ci_low, best.ci_high)
        label = f"{trait}: mean recall (%)"
        panels.append(drawing.line_panel(trait, lines, numbers, "state, as a share of the depth", label))
        panels.append(drawing.point_panel(f"{trait}, chosen state", points, numbers, "ΔS (%)", label))
    return drawing.Figure("traits", "Linear probes for speaker and language", "", panels, numbers, columns=2)
