"""Read and check the labelled sets of a task; unusable utterances are left out for every upstream."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from corpora.audio import SAMPLE_RATE, AudioError
from corpora.datadir import Utterance, read_datadir, read_table, read_utterance
from corpora.files import BadFileTally, cached_sha256, read_json, sha256_json, write_json
from corpora.names import check_name
from corpora.prepare.sources import SOURCES, read_sources
from downstream import DownstreamError
from downstream.protocols import TASKS, Protocol
from downstream.score.metrics import tidy

logger = logging.getLogger(__name__)

# Letters that the profile mgb replaces. Some of them occur in any Arabic text of more than ENOUGH_LETTERS letters.
_MERGED_BY_MGB = frozenset("أإآةىؤئ")
ENOUGH_LETTERS = 2000


@dataclass(frozen=True)
class LabelledUtterance:
    """One labelled utterance; `key` identifies its audio content, `start` and `end` are in samples.

    `others` are further transcriptions of the same speech, in the same text profile.
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
    """Splits (`train`, `dev`, then every `test*`) of one task or one fold, and the ids that were left out of them.

    `corpus` names the corpora of the test sets (from their `sources.tsv`); empty without that file.
    """

    task: str
    splits: dict[str, list[LabelledUtterance]]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    corpus: str = ""

    @property
    def tests(self) -> list[str]:
        return [name for name in self.splits if name.startswith("test")]

    @property
    def hash(self) -> str:
        """Hash of all ids, speakers, labels and audio contents."""
        return sha256_json(
            {
                split: [(i.utt_id, i.speaker, i.label, i.key, *i.others) for i in items]
                for split, items in self.splits.items()
            }
        )

    @property
    def items(self) -> list[LabelledUtterance]:
        return [item for items in self.splits.values() for item in items]


def folds_of(folder: Path) -> list[int]:
    """Numbers of the fold<k> folders of a task; empty if it has a single split."""
    found = [p.name[4:] for p in Path(folder).glob("fold*") if p.is_dir()]
    return sorted(int(number) for number in found if number.isdigit())


def load_task(folder: Path, protocol: Protocol, *, enough_letters: int = ENOUGH_LETTERS) -> TaskData:
    """Read train, dev and every test* data directory under `folder` for a protocol.

    Utterances shorter than `min_ms` are left out of all splits, and utterances with too few frames for CTC are left out
    of ASR training. Raises DownstreamError for a missing or empty split, an utterance without a label, a class that is
    not in training, a speaker or recording in two of train, dev and test, too many utterances left out, and text of
    more than `enough_letters` characters that is already in another text profile.
    """
    folder = Path(folder)
    names = ["train", "dev", *sorted(p.name for p in folder.glob("test*") if p.is_dir())]
    for name in names:
        check_name(name, f"{folder}: test set")  # it names files of results
        if not (folder / name).is_dir():
            raise DownstreamError(f"{protocol.task}: no data directory {folder / name}; {_advice(folder)}")
    if len(names) == 2:
        raise DownstreamError(f"{protocol.task}: no test set (test*) under {folder}; {_advice(folder)}")
    splits: dict[str, list[LabelledUtterance]] = {}
    left_out: dict[str, list[str]] = {}
    for name in names:
        items = _items(folder / name, protocol, enough_letters)
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
    """The data without utterances whose audio cannot be read; the feature cache leaves out the same ones.

    Every file is decoded once; the list is kept in `folder`. Raises TooManyBadFiles above the limit.
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
    """Least number of frames of a CTC path over `text` and S3PRL's <eos>; equal neighbours need a blank in between."""
    repeats = sum(a == b for a, b in zip(text, text[1:], strict=False))
    return len(text) + 1 + repeats


def _corpus_of(folders: Iterable[Path]) -> str:
    present = [folder for folder in folders if (folder / SOURCES).is_file()]
    return "+".join(sorted({row.corpus for folder in present for row in read_sources(folder)}))


def _items(folder: Path, protocol: Protocol, enough_letters: int) -> list[LabelledUtterance]:
    task, profile = TASKS[protocol.task], protocol.config["text_profile"]
    utterances = read_datadir(folder)
    if not utterances:
        raise DownstreamError(f"{folder}: no utterances; {_advice(folder.parent)}")
    items = []
    texts: dict[str, str] = {}
    for utterance in utterances:
        label = getattr(utterance, task.label)
        if label is None:
            raise DownstreamError(f"{folder}: no file {task.file}, which {protocol.task} needs")
        texts[utterance.utt_id] = label
        label = tidy(label, profile) if profile else label.strip()
        if not label:
            raise DownstreamError(
                f"{folder / task.file}: utterance {utterance.utt_id} has an empty label"
                f"{f' in text profile {profile}' if profile else ''}; remove the utterance or give it one"
            )
        items.append(_item(utterance, label))
    if protocol.task != "asr":
        return items
    _check_profile("".join(texts[item.utt_id] for item in items), profile, folder, enough_letters)
    return _with_others(items, folder, profile)


def _with_others(items: list[LabelledUtterance], folder: Path, profile: str) -> list[LabelledUtterance]:
    """Add further transcriptions from the files `text.<name>` or `text_<name>` beside `text` (MGB-3, MGB-5)."""
    problems: list[str] = []
    files = sorted(p for p in folder.glob("text[._]*") if p.is_file())
    tables = [read_table(path, problems, "transcript") for path in files]
    if problems:
        raise DownstreamError(problems[0])
    known = {item.utt_id for item in items}
    for table in tables:
        for utt_id in table:
            if utt_id not in known:
                raise DownstreamError(f"{table.where(utt_id)}: utterance {utt_id} is not in {folder / 'text'}")
    texts = {
        item.utt_id: tuple(dict.fromkeys(tidy(table[item.utt_id], profile) for table in tables if item.utt_id in table))
        for item in items
    }
    return [replace(item, others=tuple(text for text in texts[item.utt_id] if text != item.label)) for item in items]


def _item(utterance: Utterance, label: str) -> LabelledUtterance:
    key = cached_sha256(utterance.audio)[:32]
    if utterance.start is not None:
        key = f"{key}:{utterance.start}-{utterance.end}"
    return LabelledUtterance(
        utterance.utt_id,
        utterance.speaker,
        label,
        utterance.audio,
        utterance.start,
        utterance.end,
        utterance.samples,
        key,
    )


def _long_enough(
    items: list[LabelledUtterance], protocol: Protocol, folder: Path
) -> tuple[list[LabelledUtterance], list[str]]:
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


def _alignable(
    items: list[LabelledUtterance], protocol: Protocol, folder: Path
) -> tuple[list[LabelledUtterance], list[str]]:
    """The items that CTC can align; with fewer frames than characters and repeats its loss is infinite."""
    # The lowest frame rate of any head of this protocol: all upstreams leave out the same utterances.
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


def _check_share(bad: list[str], items: list[LabelledUtterance], protocol: Protocol, folder: Path, reason: str) -> None:
    limit = protocol.config["max_left_out"]
    if len(bad) == len(items) or (len(bad) > 1 and len(bad) > limit * len(items)):
        raise DownstreamError(
            f"{folder}: {len(bad)} of {len(items)} utterances are {reason} (limit {limit:.0%}), the first is {bad[0]}; "
            "check segments and labels, or raise max_left_out"
        )


def _check_classes(splits: dict[str, list[LabelledUtterance]], folder: Path, task: str) -> None:
    known = {item.label for item in splits["train"]}
    if len(known) < 2:
        raise DownstreamError(f"{folder / 'train'}: only one class ({', '.join(known)}); a classifier needs two")
    for name, items in splits.items():
        for item in items:
            if item.label not in known:
                raise DownstreamError(
                    f"{folder / name / TASKS[task].file}: utterance {item.utt_id} has the label `{item.label}`, which "
                    f"training does not have (it has {', '.join(sorted(known))}); correct it, or leave the class out"
                )


def _check_characters(splits: dict[str, list[LabelledUtterance]], protocol: Protocol, folder: Path) -> None:
    """Characters that are not in training are errors of every hypothesis; many of them mean a wrong text profile."""
    known = set().union(*(item.label for item in splits["train"]))
    for name, items in splits.items():
        unknown = [item for item in items if not known.issuperset(item.label)]
        if not unknown:
            continue
        first = unknown[0]
        character = next(c for c in first.label if c not in known)
        message = (
            f"{folder / name / 'text'}: {len(unknown)} of {len(items)} utterances hold characters that are not in "
            f"training, the first is {first.utt_id} with `{character}` (U+{ord(character):04X})"
        )
        limit = protocol.config["max_left_out"] * len(items)
        if len(unknown) == len(items) or len(unknown) > max(1, limit):
            raise DownstreamError(f"{message}; bring all splits to one text profile (corpora.text)")
        logger.warning("%s; they stay and count as errors", message)


def _check_speakers(splits: dict[str, list[LabelledUtterance]], folder: Path) -> None:
    """Refuse a speaker who is in training and in dev or test, or in dev, which chooses the checkpoint, and in test.

    For dialect the speaker is the smallest unit that the corpus names: the programme or video of an utterance.
    """
    for first, others in (("train", set(splits) - {"train"}), ("dev", set(splits) - {"train", "dev"})):
        known = {item.speaker for item in splits[first]}
        for name in sorted(others):
            shared = sorted(known & {item.speaker for item in splits[name]})
            if shared:
                count = Counter(item.speaker for item in splits[name])[shared[0]]
                raise DownstreamError(
                    f"{folder / name}: speaker {shared[0]} ({count} utterances) is also in {first}; this task is "
                    "scored on unseen speakers, so split by speaker (programme or video for dialect)"
                )


def _check_audio(splits: dict[str, list[LabelledUtterance]], folder: Path) -> None:
    """Refuse a recording that is in two of train, dev and test, even under different ids."""
    first: dict[str, tuple[str, str]] = {}
    for name, items in splits.items():
        for item in items:
            side = "test" if name.startswith("test") else name
            other, utt_id = first.setdefault(item.key, (side, item.utt_id))
            if other != side:
                raise DownstreamError(
                    f"{folder / name}: utterance {item.utt_id} is the same recording as {utt_id} in {other}; "
                    "remove one of them"
                )


def _check_profile(raw: str, profile: str | None, folder: Path, enough_letters: int) -> None:
    """Refuse text that is already in the profile `mgb` if it is to be scored in another one."""
    if profile in ("mgb", None):
        return
    if len(raw) > enough_letters and not _MERGED_BY_MGB.intersection(raw) and "ه" in raw and "ا" in raw:
        raise DownstreamError(
            f"{folder / 'text'}: {len(raw)} characters without any of {' '.join(sorted(_MERGED_BY_MGB))}: the text is "
            f"already normalised to the profile mgb, so error rates in the profile {profile} would be wrong; prepare "
            "the corpus with its original text, or score it as mgb"
        )


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _advice(folder: Path) -> str:
    return f"make the corpus (./run.sh --stage 1 --stop_stage 1), or name another folder than {folder}"
