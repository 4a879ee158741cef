"""CALLHOME Egyptian (LDC): telephone calls between relatives, two channels at 8 kHz, romanised transcripts.

    <corpus>/callhome/arabic/{train,devtest,evltest}/*.sph
    <corpus>/callhome_arabic_trans_970711/transcrp/{train,devtest,evaltest}/roman/*.txt

A line reads `19.33 21.18 B: text`; a turn may go on in the next line. A is the first channel, B the second. The speech
folder says evltest where the transcripts say evaltest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from corpora.files import CorpusError
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_lines
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
# Our name, and what the folders of speech and of transcripts are called.
SPLITS = {
    "train": (("train",), ("train",)),
    "dev": (("devtest",), ("devtest",)),
    "test": (("evltest", "evaltest"), ("evaltest", "evltest")),
}
_SUFFIXES = (".wav", ".flac", ".sph", ".SPH", ".WAV")  # a converted file goes before the SPHERE file beside it

_TURN = re.compile(r"(?P<start>\d+(\.\d+)?)\s+(?P<end>\d+(\.\d+)?)\s+(?P<side>[AB])(?P<number>\d*):\s*(?P<text>.*)")
_SOUND = re.compile(r"\{[^{}]*\}|\[\[[^][]*\]\]|\[[^][]*\]")  # {laugh}, [noise], [[comment]]
_LANGUAGE = re.compile(r"<(?:[A-Z][A-Za-z]*)\s+([^<>]*)>")  # <English okay>
_MARKS = re.compile(r"\(\(|\)\)|//|\*\*|[+&%~@#]|--")


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
    """Write `<out_dir>/{train,dev,test}`, those that are there; the text stays romanised.

    speech, transcripts: folders inside the corpus.  script: the folder of the transcripts' form.
    Raises CorpusError for another layout, TooManyBadFiles past the limit, as when the SPHERE files are still packed.
    """
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs, text_profile=text_profile)
    found = False
    for split, (spoken, written) in SPLITS.items():
        folder = _first(corpus_dir / transcripts, written)
        audio = _first(corpus_dir / speech, spoken)
        if folder is None and audio is None:
            continue
        if folder is None or audio is None:
            lacking = f"{transcripts}/{written[0]}" if folder is None else f"{speech}/{spoken[0]}"
            raise CorpusError(f"{corpus_dir}: the {split} set lacks its folder {lacking}")
        files = sorted((folder / script).glob("*.txt"))
        if not files:
            raise CorpusError(f"{folder / script}: expected *.txt; found none")
        found = True
        items = [item for file in files for item in _items(work, file, audio)]
        work.add(split, items)
    if not found:
        raise corpus_error(corpus_dir, INFO)
    work.write()


def clean(text: str) -> str:
    """A turn without marks of sounds, comments, foreign words, names, fillers and unclear speech; the words stay."""
    text = _SOUND.sub(" ", text)
    text = _LANGUAGE.sub(r"\1", text)
    return " ".join(_MARKS.sub(" ", text).split())


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _turns(path: Path) -> Iterator[tuple[str, str]]:
    """(place, text) of every turn, its further lines joined; comments begin with #."""
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


def _items(work: Preparation, path: Path, audio: Path) -> Iterator[Item]:
    recording = next((file for suffix in _SUFFIXES if (file := audio / (path.stem + suffix)).is_file()), None)
    file = recording or audio / f"{path.stem}.sph"
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
