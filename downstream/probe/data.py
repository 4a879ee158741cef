"""The labelled sets of a task as probes use them: what is left out and why, and a hash of what is left."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from corpora.audio import SAMPLE_RATE, AudioError
from corpora.datadir import Utterance, read_datadir, read_table, read_utterance
from corpora.files import BadFileTally, read_json, sha256_file, sha256_json, write_json
from corpora.prepare.sources import SOURCES as SOURCES
from corpora.prepare.sources import read_sources
from downstream.protocols import Protocol
from downstream.score.metrics import tidy

logger = logging.getLogger(__name__)

LABELS = {"asr": "text", "ser": "emotion", "did": "dialect"}
# Letters that the profile mgb turns into others; among so many letters of any Arabic text some of them occur.
_MERGED_BY_MGB = frozenset("أإآةىؤئ")
_ENOUGH_LETTERS = 2000
LABEL_FILES = {"asr": "text", "ser": "utt2emotion", "did": "utt2dialect"}


class TaskDataError(ValueError):
    """Labelled data that cannot be used; the message names folder, utterance and what to do."""


@dataclass(frozen=True)
class Item:
    """One labelled utterance; `key` names its audio content, `start` and `end` are samples.

    `others`: further transcriptions of the same speech, in the same text profile.
    """

    utt_id: str
    speaker: str
    label: str
    audio: Path
    start: int | None
    end: int | None
    samples: int
    key: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskData:
    """Splits (`train`, `dev`, then every `test*`) of one task or one fold, and what was left out of them.

    `corpus` names where the test sets come from (their `sources.tsv`); empty where they do not say.
    """

    task: str
    splits: dict[str, list[Item]]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    corpus: str = ""

    @property
    def tests(self) -> list[str]:
        return [name for name in self.splits if name.startswith("test")]

    @property
    def hash(self) -> str:
        """Changes with any id, speaker, label or audio content."""
        return sha256_json(
            {
                split: [(i.utt_id, i.speaker, i.label, i.key, *i.others) for i in items]
                for split, items in self.splits.items()
            }
        )

    @property
    def items(self) -> list[Item]:
        return [item for items in self.splits.values() for item in items]


def folds_of(folder: Path) -> list[int]:
    """Numbers of the fold<k> folders of a task; empty where it has a single split."""
    found = [p.name[4:] for p in Path(folder).glob("fold*") if p.is_dir()]
    return sorted(int(number) for number in found if number.isdigit())


def load_task(folder: Path, protocol: Protocol) -> TaskData:
    """Read train, dev and every test* data directory under `folder` for a protocol.

    Left out of all splits, for every upstream alike: utterances below `min_ms`; of ASR training, those with fewer
    frames than CTC needs. Raises TaskDataError for a split that is missing or empty, an utterance without a label,
    a class that training never sees, a speaker on both sides of a test, or too many utterances left out.
    """
    folder = Path(folder)
    names = ["train", "dev", *sorted(p.name for p in folder.glob("test*") if p.is_dir())]
    for name in names:
        if not (folder / name).is_dir():
            raise TaskDataError(f"{protocol.task}: no data directory {folder / name}; {_make_it(folder)}")
    if len(names) == 2:
        raise TaskDataError(f"{protocol.task}: no test set (test*) under {folder}; {_make_it(folder)}")
    splits: dict[str, list[Item]] = {}
    left_out: dict[str, list[str]] = {}
    for name in names:
        items = _items(folder / name, protocol)
        splits[name], left_out[name] = _long_enough(items, protocol, folder / name)
    if protocol.task == "asr":
        splits["train"], dropped = _alignable(splits["train"], protocol, folder / "train")
        left_out["train"] += dropped
        _check_characters(splits, protocol, folder)
    else:
        _check_classes(splits, folder, protocol.task)
    if protocol.config["speaker_disjoint"]:
        _check_speakers(splits, folder)
    _check_audio(splits, folder)
    return TaskData(protocol.task, splits, left_out, _corpus_of([folder / name for name in names[2:]]))


def readable(data: TaskData, folder: Path) -> TaskData:
    """The data without utterances whose audio cannot be read: what the feature cache leaves out where it is used.

    Every file is decoded once; `folder` keeps the outcome. Raises TooManyBadFiles past the limit.
    """
    items = {item.key: item for item in data.items}
    path = Path(folder) / "unreadable" / f"{sha256_json(sorted(items))[:16]}.json"
    bad = read_json(path) if path.is_file() else None
    if bad is None:
        bad = {}
        for key, item in items.items():
            try:
                read_utterance(item)
            except AudioError as error:
                bad[key] = f"{error} (utterance {item.utt_id})"
        write_json(path, bad)
    tally = BadFileTally(len(items))
    for key, reason in bad.items():
        tally.skip(items[key].audio, reason)
    tally.check()
    return replace(data, splits={s: [i for i in own if i.key not in bad] for s, own in data.splits.items()})


def ctc_frames_needed(text: str) -> int:
    """Least frames of a CTC path over the characters of `text` and S3PRL's <eos>: a blank parts equal ones."""
    repeats = sum(a == b for a, b in zip(text, text[1:], strict=False))
    return len(text) + 1 + repeats


def _corpus_of(folders: Iterable[Path]) -> str:
    present = [folder for folder in folders if (folder / SOURCES).is_file()]
    return "+".join(sorted({row.corpus for folder in present for row in read_sources(folder)}))


def _items(folder: Path, protocol: Protocol) -> list[Item]:
    task, profile = protocol.task, protocol.config["text_profile"]
    utterances = read_datadir(folder)
    if not utterances:
        raise TaskDataError(f"{folder}: no utterances; {_make_it(folder.parent)}")
    items = []
    texts: dict[str, str] = {}
    for utterance in utterances:
        label = getattr(utterance, LABELS[task])
        if label is None:
            raise TaskDataError(f"{folder}: no file {LABEL_FILES[task]}, which {task} needs")
        texts[utterance.utt_id] = label
        label = tidy(label, profile) if profile else label.strip()
        if not label:
            raise TaskDataError(
                f"{folder / LABEL_FILES[task]}: utterance {utterance.utt_id} has an empty label"
                f"{f' in text profile {profile}' if profile else ''}; remove the utterance or give it one"
            )
        items.append(_item(utterance, label))
    if task != "asr":
        return items
    _check_profile(items, profile, texts, folder)
    return _with_others(items, folder, profile)


def _with_others(items: list[Item], folder: Path, profile: str) -> list[Item]:
    """Further transcriptions, from the files `text.<name>` or `text_<name>` beside `text` (MGB-3, MGB-5)."""
    problems: list[str] = []
    files = sorted(p for p in folder.glob("text[._]*") if p.is_file())
    tables = [read_table(path, problems, "transcript") for path in files]
    if problems:
        raise TaskDataError(problems[0])
    known = {item.utt_id for item in items}
    for table in tables:
        for utt_id in table:
            if utt_id not in known:
                raise TaskDataError(f"{table.where(utt_id)}: utterance {utt_id} is not in {folder / 'text'}")
    texts = {
        item.utt_id: tuple(dict.fromkeys(tidy(table[item.utt_id], profile) for table in tables if item.utt_id in table))
        for item in items
    }
    return [replace(item, others=tuple(text for text in texts[item.utt_id] if text != item.label)) for item in items]


def _item(utterance: Utterance, label: str) -> Item:
    key = _content(utterance.audio)
    if utterance.start is not None:
        key = f"{key}:{utterance.start}-{utterance.end}"
    return Item(
        utterance.utt_id,
        utterance.speaker,
        label,
        utterance.audio,
        utterance.start,
        utterance.end,
        utterance.samples,
        key,
    )


@cache
def _hash_of(path: Path, size: int, modified: int) -> str:
    return sha256_file(path)[:32]


def _content(path: Path) -> str:
    stat = path.stat()
    return _hash_of(path, stat.st_size, stat.st_mtime_ns)


def _long_enough(items: list[Item], protocol: Protocol, folder: Path) -> tuple[list[Item], list[str]]:
    least = protocol.config["min_ms"] * SAMPLE_RATE // 1000
    short = [item.utt_id for item in items if item.samples < least]
    if short:
        logger.warning(
            "%s: %d of %d utterances are shorter than %d ms and left out for every upstream: %s",
            folder,
            len(short),
            len(items),
            protocol.config["min_ms"],
            _some(short),
        )
        _check_share(short, items, protocol, folder, f"shorter than {protocol.config['min_ms']} ms")
    return [item for item in items if item.samples >= least], short


def _alignable(items: list[Item], protocol: Protocol, folder: Path) -> tuple[list[Item], list[str]]:
    """Training items that CTC can align; with fewer frames than labels and repeats its loss is infinite."""
    # The slowest rate that a head of this protocol sees, so that the same utterances are left out for all upstreams.
    stride = protocol.config["problem"]["build_downstream"].get("total_rate") or 320
    bad = [i.utt_id for i in items if i.samples // stride < ctc_frames_needed(i.label)]
    if bad:
        logger.warning(
            "%s: %d of %d utterances have fewer frames (one in %d samples) than characters and are left out of "
            "training: %s",
            folder,
            len(bad),
            len(items),
            stride,
            _some(bad),
        )
        _check_share(bad, items, protocol, folder, "too short for their text")
    gone = set(bad)
    return [item for item in items if item.utt_id not in gone], bad


def _check_share(bad: list[str], items: list[Item], protocol: Protocol, folder: Path, what: str) -> None:
    limit = protocol.config["max_left_out"]
    if len(bad) == len(items) or (len(bad) > 1 and len(bad) > limit * len(items)):
        raise TaskDataError(
            f"{folder}: {len(bad)} of {len(items)} utterances are {what} (limit {limit:.0%}), the first is {bad[0]}; "
            "check segments and labels, or raise max_left_out"
        )


def _check_classes(splits: dict[str, list[Item]], folder: Path, task: str) -> None:
    known = {item.label for item in splits["train"]}
    if len(known) < 2:
        raise TaskDataError(f"{folder / 'train'}: one class only ({', '.join(known)}); nothing to tell apart")
    for name, items in splits.items():
        for item in items:
            if item.label not in known:
                raise TaskDataError(
                    f"{folder / name / LABEL_FILES[task]}: utterance {item.utt_id} has the label `{item.label}`, which "
                    f"training does not hold (it has {', '.join(sorted(known))}); correct it, or leave the class out"
                )


def _check_characters(splits: dict[str, list[Item]], protocol: Protocol, folder: Path) -> None:
    """Characters unseen in training count as errors of every hypothesis; many of them mean a wrong text form."""
    known = set().union(*(item.label for item in splits["train"]))
    for name, items in splits.items():
        strange = [item for item in items if not known.issuperset(item.label)]
        if not strange:
            continue
        first = strange[0]
        character = next(c for c in first.label if c not in known)
        message = (
            f"{folder / name / 'text'}: {len(strange)} of {len(items)} utterances hold characters that training "
            f"does not, the first is {first.utt_id} with `{character}` (U+{ord(character):04X})"
        )
        if (
            len(strange) > protocol.config["max_left_out"] * len(items)
            and len(strange) > 1
            or len(strange) == len(items)
        ):
            raise TaskDataError(f"{message}; bring all splits to one text profile (corpora.text)")
        logger.warning("%s; they stay and count as errors", message)


def _check_speakers(splits: dict[str, list[Item]], folder: Path) -> None:
    """No speaker on two sides: not of training and anything else, and not of dev, which chooses, and a test set.

    For dialect a speaker is whoever the corpus can tell apart: the programme or video that an utterance comes from.
    """
    for first, others in (("train", set(splits) - {"train"}), ("dev", set(splits) - {"train", "dev"})):
        known = {item.speaker for item in splits[first]}
        for name in sorted(others):
            shared = sorted(known & {item.speaker for item in splits[name]})
            if shared:
                count = Counter(item.speaker for item in splits[name])[shared[0]]
                raise TaskDataError(
                    f"{folder / name}: speaker {shared[0]} ({count} utterances) is also in {first}; this task is "
                    "scored on unseen speakers, so split by speaker (programme or video for dialect)"
                )


def _check_audio(splits: dict[str, list[Item]], folder: Path) -> None:
    """No recording on two sides, whatever the ids say."""
    where: dict[str, tuple[str, str]] = {}
    for name, items in splits.items():
        for item in items:
            side = "test" if name.startswith("test") else name
            other, utt_id = where.setdefault(item.key, (side, item.utt_id))
            if other != side:
                raise TaskDataError(
                    f"{folder / name}: utterance {item.utt_id} is the very recording of {utt_id} in {other}; "
                    "remove one of them"
                )


def _check_profile(items: list[Item], profile: str, texts: dict[str, str], folder: Path) -> None:
    """Text that was brought to the form of `mgb` before cannot be scored in another profile any more."""
    if profile in ("mgb", None):
        return
    raw = "".join(texts[item.utt_id] for item in items)
    if len(raw) > _ENOUGH_LETTERS and not _MERGED_BY_MGB.intersection(raw) and "ه" in raw and "ا" in raw:
        raise TaskDataError(
            f"{folder / 'text'}: {len(raw)} characters without any of {' '.join(sorted(_MERGED_BY_MGB))}: the text was "
            f"normalised to the profile mgb before, and its rates would not be those of {profile}; prepare it with its "
            "original text, or score it as mgb"
        )


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _make_it(folder: Path) -> str:
    return f"make the corpus (./run.sh --stage 1 --stop_stage 1), or name another folder than {folder}"
