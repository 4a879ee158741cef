"""Seeded folds for corpora without a published split: every speaker is tested once, and is in no other part then.

    <out>/fold<k>/{train,dev,test}      data directories
    <out>/protocol.json                 who is tested and who is dev in which fold: what a result has to name

Where speakers are unknown, a speaker here is what the clips were cut from, as a video.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from corpora.datadir import write_datadir
from corpora.datasets._emotion import Clip
from corpora.files import CorpusError, write_json
from corpora.prepare.sources import check_isolation, write_sources

FOLDS = 5
DEV_SHARE = 0.12  # of the utterances outside the test fold
METRICS = ("WA", "UA", "macro F1")
_DEV_TRIES = 300


def write_folds(
    name: str,
    clips: Sequence[Clip],
    out_dir: Path,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    least: int = 3,
    speaker_word: str = "speaker",
) -> None:
    """Write the data directories of every fold and `protocol.json`; train, dev and test of a fold share no speaker.

    name: of the corpus.  least: fewest speakers of a test fold.  speaker_word: what a speaker is, in messages.
    Raises CorpusError for too few speakers, and for an emotion that some fold would test without having trained it.
    """
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        labels[clip.speaker][clip.emotion] += 1
    tests = speaker_folds(labels, folds, seed, name=name, least=least, speaker_word=speaker_word)
    parts = []
    for number, test in enumerate(tests, 1):
        rest = {speaker: labels[speaker] for speaker in sorted(labels) if speaker not in test}
        dev = dev_speakers(rest, seed + number)
        parts.append({"train": set(rest) - dev, "dev": dev, "test": test})
        _check_trained(name, number, labels, parts[-1], speaker_word)
    for number, part in enumerate(parts, 1):
        folder = out_dir / f"fold{number}"
        for split, chosen in part.items():
            own = [clip for clip in clips if clip.speaker in chosen]
            write_datadir(folder / split, [clip.utterance() for clip in own])
            write_sources(folder / split, [clip.provenance() for clip in own])
        check_isolation([folder / "train"], [folder / "dev", folder / "test"])
        check_isolation([folder / "dev"], [folder / "test"])
    write_json(out_dir / "protocol.json", _protocol(name, clips, parts, seed, speaker_word))


def speaker_folds(
    labels: Mapping[str, Counter[str]],
    folds: int,
    seed: int,
    *,
    name: str = "folds",
    least: int = 3,
    speaker_word: str = "speaker",
) -> list[set[str]]:
    """Share speakers out over `folds` sets of (nearly) equal numbers of speakers, utterances and labels.

    labels: per speaker, the number of utterances of each label. Largest speaker first, into the fold where it adds
    least to the sum of squared label counts among those with room; a seeded order settles ties. One speaker with more
    than its share of the corpus makes its fold larger; the fold then gets the smallest of the others.
    """
    needed = max(least * folds, 3)
    if folds < 2 or len(labels) < needed:
        raise CorpusError(
            f"{name}: {len(labels)} {speaker_word}s cannot make {folds} folds of disjoint train, dev and test "
            f"{speaker_word}s; at least {needed} are needed, and 2 folds"
        )
    order = sorted(labels)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda speaker: -labels[speaker].total())
    room = [len(order) // folds + (place < len(order) % folds) for place in range(folds)]
    chosen: list[set[str]] = [set() for _ in range(folds)]
    counts = [Counter() for _ in range(folds)]
    for speaker in order:
        own = labels[speaker]
        growth = {
            place: sum((counts[place][label] + n) ** 2 - counts[place][label] ** 2 for label, n in own.items())
            for place in range(folds)
            if len(chosen[place]) < room[place]
        }
        best = min(growth, key=growth.__getitem__)
        chosen[best].add(speaker)
        counts[best] += own
    return chosen


def dev_speakers(labels: Mapping[str, Counter[str]], seed: int) -> set[str]:
    """Choose the dev speakers among those outside a test fold: DEV_SHARE of the utterances, every label, seeded.

    The best of many random draws by distance from the wanted size and label shares, so that one speaker who holds a
    large part of the corpus stays in training, and so does the last one of a label.
    """
    whole = sum(labels.values(), Counter())
    goal = {label: DEV_SHARE * count for label, count in whole.items()}
    draw = random.Random(seed)
    best, best_cost = set(), float("inf")
    for _ in range(_DEV_TRIES):
        order = draw.sample(sorted(labels), len(labels))
        chosen, count = [], Counter()
        for speaker in order[:-1]:
            if (count + labels[speaker]).total() <= 1.15 * DEV_SHARE * whole.total() or not chosen:
                chosen.append(speaker)
                count += labels[speaker]
            if count.total() >= DEV_SHARE * whole.total():
                break
        cost = sum(abs(count[label] - wanted) / wanted for label, wanted in goal.items())
        cost += sum(10 for label in goal if not count[label])
        cost += sum(1000 for label in goal if count[label] == whole[label])
        if cost < best_cost:
            best, best_cost = set(chosen), cost
    return best


def _check_trained(
    name: str, number: int, labels: Mapping[str, Counter[str]], part: Mapping[str, set[str]], speaker_word: str
) -> None:
    """Every emotion of dev and test must be in train: a class that training never sees cannot be recognised."""
    heard = {split: set(sum((labels[speaker] for speaker in own), Counter())) for split, own in part.items()}
    for emotion in sorted((heard["dev"] | heard["test"]) - heard["train"]):
        own = [speaker for speaker, count in labels.items() if count[emotion]]
        raise CorpusError(
            f"{name}: fold {number} would score {emotion} without training it: {len(own)} {speaker_word}"
            f"{'s have' if len(own) > 1 else ' has'} it ({', '.join(sorted(own)[:4])}); take other folds or another "
            f"seed, or name the emotions to use without it (--set emotions=...)"
        )


def _protocol(
    name: str, clips: Sequence[Clip], parts: Sequence[Mapping[str, set[str]]], seed: int, speaker_word: str
) -> dict:
    return {
        "corpus": name,
        "published_split": None,
        "folds": len(parts),
        "seed": seed,
        "disjoint_by": speaker_word,
        "metrics": list(METRICS),
        "clips": len(clips),
        "emotions": dict(sorted(Counter(clip.emotion for clip in clips).items())),
        "parts": {
            f"fold{number}": {split: sorted(part[split]) for split in ("test", "dev")}
            for number, part in enumerate(parts, 1)
        },
    }
