"""ADI-17: seventeen Arabic dialects from YouTube (MGB-5, about 3,000 h), for dialect identification.

Each split of a copy has one of these forms:

    <corpus>/[data/]<split>/{segments,utt2lang[,wav.scp]}   Kaldi; audio as in wav.scp, or <split>/**/<video>.wav
    <corpus>/[data/]<split>_segments/utt2lang               Kaldi: the labels of the segments
    <corpus>/train_segments/<DIALECT>/**/<utterance>.wav
    <corpus>/{dev,test}_segments/<utterance>.wav            and adi17_official_{dev,test}_label.txt, or utt2lang there

    <corpus>/[data/]{train,dev,test}-*.parquet              audio, id, dialect: a copy of a hub

A label list reads "<utterance> <dialect>" and may begin with a header line. `<split>/utt2lang` is keyed by video: its
labels hold for all segments of a video and are used for those that `<split>_segments/utt2lang` does not have. An
utterance id is `<YouTube id>_<start>-<end>` in centiseconds; the video is the programme.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from corpora.audio import AUDIO_SUFFIXES
from corpora.datasets._dialect import SPLITS, CorpusFiles, check_dialect, write_clips, write_splits
from corpora.datasets._options import compile_pattern
from corpora.files import CorpusError
from corpora.prepare import hub
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_lines, seconds
from corpora.prepare.tree import find_path, is_visible, visible_files
from corpora.registry import CorpusInfo, corpus_error

DIALECTS = tuple("ALG EGY IRA JOR KSA KUW LEB LIB MAU MOR OMA PAL QAT SUD SYR UAE YEM".split())
INFO = CorpusInfo(
    name="adi17",
    title="ADI-17: seventeen Arabic dialects from YouTube (MGB-5)",
    tasks=("did",),
    hours=3032.4,
    licence="for research, after registration",
    access="form",
    by_hand="register for the MGB-5 dialect identification data at arabicspeech.org/adi_resources/mgb5, or accept the "
    "terms of the data set ArabicSpeech/ADI17 on Hugging Face",
    layout="{train,dev,test}/{segments,utt2lang}, or train_segments/<DIALECT>/ and {dev,test}_segments/ with "
    "adi17_official_{dev,test}_label.txt",
    published={"dev": 8955, "test": 12615},
)
UTTERANCE = r"(?P<programme>.+)_(?P<start>\d+)-(?P<end>\d+)"

_HEADERS = {
    (first, second)
    for first in ("id", "utt", "utt_id", "uttid", "utterance", "file", "filename", "name", "segment")
    for second in ("label", "dialect", "lang", "language", "class")
}


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    shared: str = "drop",
    utterance: str = UTTERANCE,
    labels: str = "adi17_official_{split}_label.txt",
    parquet: tuple[str, ...] = (),
) -> None:
    """Write `<out_dir>/{train,dev,test}` with `utt2dialect`; a split that has none of the forms is not written.

    utterance: regular expression of an utterance id with the group `programme` (and `start`, `end` in centiseconds).
    parquet: `field=column` for a copy in Parquet whose columns have other names.
    labels: name of a label list.  shared: treatment of a programme that is in two splits: drop, keep or refuse.
    Raises CorpusError for a folder of another layout or an unknown dialect, with file and line; TooManyBadFiles.
    """
    pattern = compile_pattern("utterance", utterance, "programme")
    shards = hub.shards(corpus_dir)
    if shards:
        write_clips(INFO, corpus_dir, out_dir, shards, DIALECTS, pattern, jobs=jobs, shared=shared, chosen=parquet)
        return
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs)
    items: dict[str, list[Item]] = {}
    for split in SPLITS:
        folder = find_path(corpus_dir, f"{split}_segments")
        listed = find_path(corpus_dir, labels.format(split=split))
        places = (find_path(corpus_dir, split), find_path(corpus_dir, f"data/{split}"))
        kaldi = next((own for own in places if _is_kaldi(own)), None)
        if kaldi:
            items[split] = _kaldi(work, kaldi, pattern)
        elif folder.is_dir() and split == "train" and not listed.is_file():
            items[split] = _folders(work, folder, pattern)
        elif folder.is_dir():
            own = folder / "utt2lang"
            items[split] = _labelled(work, folder, own if own.is_file() and not listed.is_file() else listed, pattern)
    if not items:
        raise corpus_error(corpus_dir, INFO)
    write_splits(work, items, shared=shared)


def read_labels(path: Path, known: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Utterance id -> (dialect, place) of a list "<utterance> <dialect>" with or without a header line.

    Raises CorpusError, with the line, for another number of fields, an unknown dialect, an id with two dialects.
    """
    labels: dict[str, tuple[str, str]] = {}
    for place, (where, line) in enumerate(read_lines(path)):
        fields = line.split()
        if len(fields) != 2:
            raise CorpusError(f"{where}: expected '<utterance> <dialect>', found {line!r}")
        utt_id, label = fields
        if place == 0 and (utt_id.lower(), label.lower()) in _HEADERS:
            continue
        utt_id = Path(utt_id).stem if Path(utt_id).suffix.lower() in AUDIO_SUFFIXES else utt_id
        check_dialect(where, label, known)
        if labels.get(utt_id, (label,))[0] != label:
            raise CorpusError(f"{where}: {utt_id} is {label} here and {labels[utt_id][0]} at {labels[utt_id][1]}")
        labels[utt_id] = (label, where)
    return labels


def _add(
    work: Preparation,
    items: list[Item],
    pattern: re.Pattern[str],
    item: Item,
) -> None:
    """Append an item with the programme of its id; an id of another form counts as bad."""
    found = pattern.fullmatch(item.utt_id)
    if found:
        items.append(replace(item, speaker=found["programme"]))
    else:
        work.bad(item.where, f"expected an utterance id like {pattern.pattern}, found {item.utt_id!r}")


def _folders(work: Preparation, folder: Path, pattern: re.Pattern[str]) -> list[Item]:
    """Utterances in the folders of the dialects."""
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and is_visible(entry.name)]
    unknown = sorted(name for name in names if name.upper() not in DIALECTS)
    if unknown:
        raise CorpusError(f"{folder / unknown[0]}: expected folders {' '.join(DIALECTS)}, found {', '.join(unknown)}")
    items: list[Item] = []
    for dialect in DIALECTS:
        for path in _audio_below(find_path(folder, dialect)):
            source = path.relative_to(work.corpus_dir).as_posix()
            _add(work, items, pattern, Item(path.stem, "", source, source, dialect=dialect))
    if not items:
        raise CorpusError(f"{folder}: expected <DIALECT>/**/<utterance>.wav, found no such file")
    return items


def _labelled(work: Preparation, folder: Path, listed: Path, pattern: re.Pattern[str]) -> list[Item]:
    """Utterances of a label list; an unlisted file and a missing file count as bad."""
    labels = read_labels(listed, DIALECTS)
    files = {path.stem: path.relative_to(work.corpus_dir).as_posix() for path in _audio_below(folder)}
    for utt_id in sorted(files.keys() - labels.keys()):
        work.bad(files[utt_id], f"not in {listed.name}")
    items: list[Item] = []
    for utt_id, (dialect, where) in sorted(labels.items()):
        source = files.get(utt_id, f"{folder.name}/{utt_id}.wav")
        _add(work, items, pattern, Item(utt_id, "", source, where, dialect=dialect))
    return items


def _kaldi(work: Preparation, folder: Path, pattern: re.Pattern[str]) -> list[Item]:
    """Utterances of a Kaldi directory as segments of their recordings, labelled by segment, else by video."""
    lists = [folder.with_name(f"{folder.name}_segments") / "utt2lang", folder / "utt2lang"]
    by_segment, by_video = (read_labels(path, DIALECTS) if path.is_file() else {} for path in lists)
    labels = by_video | by_segment
    if not labels:
        raise CorpusError(f"{folder}: expected the labels in {' or '.join(map(str, lists))}; found neither file")
    audio = _recordings(work, folder)
    items: list[Item] = []
    for where, line in read_lines(folder / "segments"):
        fields = line.split()
        if len(fields) != 4:
            raise CorpusError(f"{where}: expected '<utterance> <recording> <start> <end>', found {line!r}")
        utt_id, recording = fields[:2]
        start, end = (seconds(where, field) for field in fields[2:])
        label = labels.get(utt_id) or by_video.get(recording)
        if label is None:
            raise CorpusError(f"{where}: {utt_id} has no dialect in {' or '.join(map(str, lists))}")
        if recording not in audio:
            work.bad(where, f"no audio of recording {recording}")
            continue
        item = Item(utt_id, "", audio[recording], where, start=start, end=end, dialect=label[0])
        _add(work, items, pattern, item)
    return items


def _recordings(work: Preparation, folder: Path) -> dict[str, str]:
    """Recording id -> path inside the corpus, from wav.scp, or from the names of the files below the folder."""
    scp = folder / "wav.scp"
    if not scp.is_file():
        return {path.stem: path.relative_to(work.corpus_dir).as_posix() for path in _audio_below(folder)}
    files, found = CorpusFiles(work.corpus_dir, folder.parent), {}
    for where, line in read_lines(scp):
        recording, _, entry = line.partition(" ")
        if not entry.strip():
            raise CorpusError(f"{where}: expected '<recording> <path>', found {line!r}")
        if entry.endswith("|") or entry.startswith("|"):
            raise CorpusError(f"{where}: {recording} is a command, not a file; pipes are refused, write audio files")
        place = files.find(entry)
        if place is not None:
            found[recording] = place
    return found


def _is_kaldi(folder: Path) -> bool:
    return (folder / "segments").is_file()


def _audio_below(folder: Path) -> list[Path]:
    return [path for path in visible_files(folder, "**/*") if path.suffix.lower() in AUDIO_SUFFIXES]
