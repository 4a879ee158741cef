"""CALLHOME Egyptian (LDC): telephone calls between relatives, two channels at 8 kHz, romanised transcripts.

    <corpus>/callhome/arabic/{train,devtest,evltest}/*.sph
    <corpus>/callhome_arabic_trans_970711/transcrp/{train,devtest,evaltest}/roman/*.txt

A line reads `19.33 21.18 B: text`; a turn may continue in the next line. A is the first channel, B the second. The
speech has the folder evltest, the transcripts evaltest. Names may be in upper case, as on the publisher's disc
(CALLHOME/ARABIC/TRAIN/AR_4001.SPH), and lie in a folder of their LDC number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from corpora.files import CorpusError
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_lines
from corpora.prepare.tree import visible_files
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="callhome_egyptian",
    title="CALLHOME Egyptian Arabic (LDC)",
    tasks=("asr",),
    hours=None,
    licence="LDC",
    access="paid",
    by_hand="order speech LDC97S45 and transcripts LDC97T19 of the LDC; unpack SPHERE files with sph2pipe",
    layout="callhome/arabic/{train,devtest,evltest}/*.sph and "
    "callhome_arabic_trans_970711/transcrp/{train,devtest,evaltest}/roman/*.txt",
)
# Our name of a split, and the folders of its speech and of its transcripts.
SPLITS = {
    "train": (("train",), ("train",)),
    "dev": (("devtest",), ("devtest",)),
    "test": (("evltest", "evaltest"), ("evaltest", "evltest")),
}
_SUFFIXES = (".wav", ".flac", ".sph")  # in either case; a converted file is preferred to the SPHERE file next to it

_TURN = re.compile(r"(?P<start>\d+(\.\d+)?)\s+(?P<end>\d+(\.\d+)?)\s+(?P<side>[AB])(?P<number>\d*):\s*(?P<text>.*)")
_SOUND = re.compile(  # {laugh}, [noise], [[comment]], <laugh>...</laugh>, <background>...</background>
    r"\{[^{}]*\}|\[\[[^][]*\]\]|\[[^][]*\]|<(laugh|background)>[^<]*</\1>", re.IGNORECASE
)
_LANGUAGE = re.compile(r"<(?!/|foreign\b)(?:[A-Za-z]+)\s+([^<>]*)>")  # <English okay>
_ELEMENT = re.compile(r"</?[A-Za-z][^<>]*>")  # <foreign lang="English">, <lname>, <breath/>
_MARKS = re.compile(r"\(\(|\)\)|\(\)|//|\*\*|[+&%~@#<>¿]|--")


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = "none",
    speech: str = "callhome/arabic",
    transcripts: str = "callhome_arabic_trans_970711/transcrp",
    script: str = "roman",
) -> None:
    """Write each of `<out_dir>/{train,dev,test}` that the corpus has; the text stays romanised.

    speech, transcripts: folders inside the corpus.  script: the folder of the transcripts' form.
    Raises CorpusError for another layout, TooManyBadFiles past the limit, for instance for packed SPHERE files.
    """
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs, text_profile=text_profile)
    found = False
    for split, (spoken, written) in SPLITS.items():
        folder = _first(corpus_dir, transcripts, written)
        audio = _first(corpus_dir, speech, spoken)
        if folder is None and audio is None:
            continue
        if folder is None or audio is None:
            lacking = f"{transcripts}/{written[0]}" if folder is None else f"{speech}/{spoken[0]}"
            raise CorpusError(f"{corpus_dir}: the {split} set lacks its folder {lacking}")
        form = _find_folder(folder, script)
        files = visible_files(form, "*.txt") if form else []
        if not files:
            raise CorpusError(f"{folder / script}: expected *.txt; found none")
        found = True
        recordings = _recordings(audio)
        items = [item for file in files for item in _items(work, file, audio, recordings)]
        work.add(split, items)
    if not found:
        raise corpus_error(corpus_dir, INFO)
    work.write()


def clean(text: str) -> str:
    """The words of a turn, without marks of sounds, comments, foreign words, names, fillers and unclear speech."""
    for pattern, replacement in ((_SOUND, " "), (_LANGUAGE, r"\1"), (_ELEMENT, " "), (_SOUND, " "), (_MARKS, " ")):
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def _find_folder(folder: Path, path: str) -> Path | None:
    """A folder below another one, whatever the case of its name; None if there is none."""
    for part in path.split("/"):
        found = [entry for entry in folder.iterdir() if entry.name.lower() == part.lower() and entry.is_dir()]
        if not found:
            return None
        folder = min(found, key=lambda entry: (entry.name != part, entry.name))
    return folder


def _first(corpus_dir: Path, path: str, names: tuple[str, ...]) -> Path | None:
    """The first folder `<path>/<name>` in the corpus or in one of its folders (LDC97S45, LDC97T19)."""
    if not corpus_dir.is_dir():
        return None
    places = [corpus_dir, *sorted(entry for entry in corpus_dir.iterdir() if entry.is_dir())]
    found = (_find_folder(place, f"{path}/{name}") for place in places for name in names)
    return next((folder for folder in found if folder), None)


def _recordings(audio: Path) -> dict[str, Path]:
    """Recordings by name in lower case."""
    files = [path for path in audio.iterdir() if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")]
    files.sort(key=lambda path: (-_SUFFIXES.index(path.suffix.lower()), path.name))
    return {path.stem.lower(): path for path in files}


def _turns(path: Path) -> Iterator[tuple[str, str]]:
    """(place, text) of every turn, with its continuation lines. Comments begin with #."""
    place, turn = "", ""
    for where, line in read_lines(path):
        if line.startswith("#"):
            continue
        if _TURN.fullmatch(line) or not turn:
            if turn:
                yield place, turn
            place, turn = where, line
        else:
            turn += " " + line
    if turn:
        yield place, turn


def _items(work: Preparation, path: Path, audio: Path, recordings: Mapping[str, Path]) -> Iterator[Item]:
    file = recordings.get(path.stem.lower(), audio / f"{path.stem}.sph")
    source = file.relative_to(work.corpus_dir).as_posix()
    for where, line in _turns(path):
        turn = _TURN.fullmatch(line)
        if not turn:
            work.bad(where, f"expected '<start> <end> <A or B>: <text>', found {line!r}")
            continue
        start, end = float(turn["start"]), float(turn["end"])
        speaker = f"callhome_{safe_id(path.stem)}_{turn['side']}{turn['number']}"
        utt_id = f"{speaker}-{round(start * 100):06d}-{round(end * 100):06d}"
        channel = "AB".index(turn["side"])
        yield Item(utt_id, speaker, source, where, clean(turn["text"]), start, end, channel)
