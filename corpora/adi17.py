"""ADI-17: seventeen Arabic dialects from YouTube (MGB-5, about 3,000 h), for dialect identification.

Each split comes in one of three forms, and the splits of a copy may come in different ones:

    <corpus>/<split>/{segments,utt2lang[,wav.scp]}      Kaldi; the audio that wav.scp names, or <split>/**/<id>.wav
    <corpus>/train_segments/<DIALECT>/**/<utterance>.wav
    <corpus>/{dev,test}_segments/<utterance>.wav        and adi17_official_{dev,test}_label.txt: "<utterance> <dialect>"

An utterance id is `<YouTube id>_<start>-<end>` in centiseconds; its video is its programme. The label lists may begin
with a header line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from corpora.audio import SAMPLE_RATE
from corpora.dialect import SPLITS, Item, check_labels, write_splits
from corpora.files import BadFileTally
from corpora.ingest import CorpusError, corpus_error
from corpora.lists import find_inside, read_lines
from corpora.registry import CorpusInfo

DIALECTS = tuple("ALG EGY IRA JOR KSA KUW LEB LIB MAU MOR OMA PAL QAT SUD SYR UAE YEM".split())
INFO = CorpusInfo(
    name="adi17",
    title="ADI-17: seventeen Arabic dialects from YouTube (MGB-5)",
    tasks=("did",),
    hours=3000,
    licence="for research, after registration",
    access="form",
    by_hand="register for the MGB-5 dialect identification data at arabicspeech.org/adi_resources/mgb5",
    layout="{train,dev,test}/{segments,utt2lang}, or train_segments/<DIALECT>/ and {dev,test}_segments/ with "
    "adi17_official_{dev,test}_label.txt",
    published={"dev": 8955, "test": 12615},
)
UTTERANCE = r"(?P<programme>.+)_(?P<start>\d+)-(?P<end>\d+)"

_AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus")
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
) -> None:
    """Write `<out_dir>/{train,dev,test}` with `utt2dialect`; a split that is in none of the forms is not written.

    utterance: regular expression of an utterance id with the group `programme` (and `start`, `end` in centiseconds).
    labels: name of a label list.  shared: see `corpora.dialect.write_splits`.
    Raises CorpusError for a folder of another layout or an unknown dialect, with file and line; TooManyBadFiles.
    """
    pattern = re.compile(utterance)
    if "programme" not in pattern.groupindex:
        raise CorpusError(f"{INFO.name}: utterance={utterance!r} has no group (?P<programme>...)")
    items: dict[str, list[Item]] = {}
    tally = BadFileTally(0)
    for split in SPLITS:
        if (corpus_dir / split / "segments").is_file():
            items[split] = _kaldi(corpus_dir, split, pattern, tally)
        elif (corpus_dir / f"{split}_segments").is_dir():
            folder = corpus_dir / f"{split}_segments"
            listed = corpus_dir / labels.format(split=split)
            by_folder = split == "train" and not listed.is_file()
            items[split] = _folders(corpus_dir, folder, pattern, tally) if by_folder else _labelled(
                corpus_dir, folder, listed, pattern, tally
            )
    if not items:
        raise corpus_error(corpus_dir, INFO)
    write_splits(INFO.name, corpus_dir, out_dir, items, tally=tally, published=INFO.published, shared=shared, jobs=jobs)


def read_labels(path: Path, known: Sequence[str]) -> dict[str, tuple[str, str]]:
    """utterance id -> (dialect, place) of a list "<utterance> <dialect>" with or without a header line.

    Raises CorpusError, with the line, for another number of fields, an unknown dialect, an id with two dialects.
    """
    labels: dict[str, tuple[str, str]] = {}
    for place, (number, line) in enumerate(read_lines(path)):
        where = f"{path}:{number}"
        fields = line.split()
        if len(fields) != 2:
            raise CorpusError(f"{where}: expected '<utterance> <dialect>', found {line!r}")
        utt_id, label = fields
        if place == 0 and (utt_id.lower(), label.lower()) in _HEADERS:
            continue
        utt_id = Path(utt_id).stem if Path(utt_id).suffix.lower() in _AUDIO else utt_id
        check_labels(where, label, known)
        if labels.get(utt_id, (label,))[0] != label:
            raise CorpusError(f"{where}: {utt_id} is {label} here and {labels[utt_id][0]} at {labels[utt_id][1]}")
        labels[utt_id] = (label, where)
    return labels


def _item(utt_id: str, pattern: re.Pattern[str], dialect: str, source: str, where: str) -> Item | None:
    found = pattern.fullmatch(utt_id)
    return Item(utt_id, found["programme"], dialect, source, where=where) if found else None


def _folders(corpus_dir: Path, folder: Path, pattern: re.Pattern[str], tally: BadFileTally) -> list[Item]:
    """Utterances below folders that are named after dialects."""
    unknown = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name not in DIALECTS)
    if unknown:
        raise CorpusError(f"{folder / unknown[0]}: expected folders {' '.join(DIALECTS)}, found {', '.join(unknown)}")
    items = []
    for dialect in DIALECTS:
        for path in _audio_below(folder / dialect):
            source = path.relative_to(corpus_dir).as_posix()
            tally.total += 1
            item = _item(path.stem, pattern, dialect, source, source)
            if item:
                items.append(item)
            else:
                tally.skip(path, f"expected a name like {pattern.pattern}")
    if not items:
        raise CorpusError(f"{folder}: expected <DIALECT>/**/<utterance>.wav, found no such file")
    return items


def _labelled(
    corpus_dir: Path, folder: Path, listed: Path, pattern: re.Pattern[str], tally: BadFileTally
) -> list[Item]:
    """Utterances that a list labels; a file that is not listed, and a listed one that is not there, are counted."""
    labels = read_labels(listed, DIALECTS)
    files = {path.stem: path for path in _audio_below(folder)}
    tally.total += len(labels.keys() | files.keys())
    for utt_id in sorted(files.keys() - labels.keys()):
        tally.skip(files[utt_id], f"not in {listed.name}")
    items = []
    for utt_id, (dialect, where) in sorted(labels.items()):
        if utt_id not in files:
            tally.skip(folder / f"{utt_id}.wav", f"{where}: no such file")
            continue
        item = _item(utt_id, pattern, dialect, files[utt_id].relative_to(corpus_dir).as_posix(), where)
        if item:
            items.append(item)
        else:
            tally.skip(files[utt_id], f"{where}: expected an id like {pattern.pattern}")
    return items


def _kaldi(corpus_dir: Path, split: str, pattern: re.Pattern[str], tally: BadFileTally) -> list[Item]:
    """Utterances of a Kaldi directory; recordings stay whole and are named with their times."""
    folder = corpus_dir / split
    labels = read_labels(folder / "utt2lang", DIALECTS)
    audio = _recordings(corpus_dir, folder)
    items = []
    for number, line in read_lines(folder / "segments"):
        where = f"{folder / 'segments'}:{number}"
        fields = line.split()
        tally.total += 1
        try:
            utt_id, recording = fields[0], fields[1]
            start, end = (round(float(field) * SAMPLE_RATE) for field in fields[2:])
        except (ValueError, IndexError, OverflowError):
            raise CorpusError(f"{where}: expected '<utterance> <recording> <start> <end>', found {line!r}") from None
        if not 0 <= start < end:
            raise CorpusError(f"{where}: segment {utt_id} from {fields[2]} to {fields[3]} s holds no audio")
        if utt_id not in labels:
            raise CorpusError(f"{where}: {utt_id} has no dialect in {folder / 'utt2lang'}")
        found = pattern.fullmatch(utt_id)
        if recording not in audio:
            tally.skip(folder / recording, f"{where}: no audio of recording {recording}")
        elif not found:
            tally.skip(corpus_dir / audio[recording], f"{where}: expected an id like {pattern.pattern}")
        else:
            items.append(Item(utt_id, found["programme"], labels[utt_id][0], audio[recording], start, end, where))
    return items


def _recordings(corpus_dir: Path, folder: Path) -> dict[str, str]:
    """Recording id -> path inside the corpus: as wav.scp has it, else the files below the folder, by their stems."""
    scp = folder / "wav.scp"
    if not scp.is_file():
        return {path.stem: path.relative_to(corpus_dir).as_posix() for path in _audio_below(folder)}
    found = {}
    for number, line in read_lines(scp):
        recording, _, entry = line.strip().partition(" ")
        where, entry = f"{scp}:{number}", entry.strip()
        if not entry:
            raise CorpusError(f"{where}: expected '<recording> <path>', found {line!r}")
        if entry.endswith("|") or entry.startswith("|"):
            raise CorpusError(f"{where}: {recording} is a command, not a file; pipes are refused, write audio files")
        place = find_inside(corpus_dir, entry)
        if place is not None:
            found[recording] = place
    return found


def _audio_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in _AUDIO and not path.name.startswith(".")
    )
