"""Arabic Speech Commands: 40 keywords by 30 speakers, 1 s each (CC BY 4.0; Ghandoura, Hjabo, Al Dakkak 2021).

    <corpus>/dataset/<keyword>/<speaker, 8 digits>_NO_<round>.wav
    <corpus>/{train,val,test}.csv        file,class: the official splits, disjoint by speaker
    <corpus>/keywords.tsv                keyword <tab> Arabic word (optional: the publisher's table is built in)

`prepare` joins the keywords of one speaker into connected utterances of 1-5 words: a small ASR corpus.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from corpora.datadir import write_datadir
from corpora.fetch import GITHUB, fetch_repository, make_once
from corpora.files import BadFileTally, CorpusError, write_text
from corpora.prepare.preparation import compare_count
from corpora.prepare.readers import read_rows
from corpora.prepare.sources import check_isolation, read_recordings, safe_relative, write_sources
from corpora.prepare.tree import find_path
from corpora.prepare.word_strings import Word, plan_strings, render_strings, string_sources
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import normalise

INFO = CorpusInfo(
    name="arabic_speech_commands",
    title="Arabic Speech Commands: 40 keywords by 30 speakers",
    tasks=("asr", "ssl"),
    hours=3.3,
    licence="CC BY 4.0",
    access="open",
    by_hand="",
    layout="dataset/<keyword>/<speaker>_NO_<round>.wav and train.csv, val.csv, test.csv",
    recordings=12000,
)
REPOSITORY = "abdulkaderghandoura/arabic-speech-commands-dataset/archive/HEAD.tar.gz"
SPLITS = {"train": "train.csv", "dev": "val.csv", "test": "test.csv"}
COLUMNS = ("file", "class")
TEXT_PROFILE = "mgb"
WORDS_PER_STRING = (1, 5)
PASSES = {"train": 2, "dev": 1, "test": 1}  # training words are used in two orders, scored words once

KEYWORDS = {
    "zero": "صفر", "one": "واحد", "two": "اثنان", "three": "ثلاثة", "four": "أربعة", "five": "خمسة",
    "six": "ستة", "seven": "سبعة", "eight": "ثمانية", "nine": "تسعة", "right": "يمين", "left": "يسار",
    "up": "أعلى", "down": "أسفل", "forward": "أمام", "backward": "خلف", "yes": "نعم", "no": "لا",
    "start": "ابدأ", "stop": "توقف", "enable": "تفعيل", "disable": "تعطيل", "ok": "موافق", "cancel": "إلغاء",
    "open": "فتح", "close": "إغلاق", "zoom in": "تكبير", "zoom out": "تصغير", "previous": "السابق",
    "next": "التالي", "send": "إرسال", "receive": "استقبال", "move": "تحريك", "rotate": "تدوير",
    "record": "تسجيل", "enter": "إدخال", "digit": "رقم", "direction": "اتجاه", "options": "خيارات",
    "undo": "تراجع",
}  # fmt: skip

_FILE = re.compile(r"(?P<speaker>\d+)_NO_(?P<round>\d+)\.wav", re.IGNORECASE)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Row:
    """One line of a list: path inside the corpus, keyword, speaker."""

    source: str
    keyword: str
    speaker: str


def read_words(
    corpus_dir: Path, audio_dir: Path, *, jobs: int = 1, text_profile: str = TEXT_PROFILE
) -> tuple[dict[str, list[Word]], BadFileTally]:
    """The recordings of each official split ("train", "dev", "test") with their Arabic word, normalised.

    Rows with a missing, unreadable or wrongly named file go to the tally. A training recording with the audio of a dev
    or test recording is left out. Raises CorpusError for another layout or a speaker in two splits, TooManyBadFiles
    past the limit of bad files.
    """
    tally = BadFileTally(check_layout(corpus_dir))
    table = read_keywords(corpus_dir)
    words: dict[str, list[Word]] = {}
    for split, name in SPLITS.items():
        rows = {row.source: row for row in _read_list(corpus_dir, find_path(corpus_dir, name), table, tally)}
        recordings = read_recordings(
            corpus_dir, sorted(rows), audio_dir, tally=tally, jobs=jobs, label=f"{INFO.name} {split}"
        )
        words[split] = [
            Word(recording, f"asc{rows[source].speaker}", normalise(table[rows[source].keyword], text_profile))
            for source, recording in recordings.items()
        ]
    tally.check()
    _check_speakers(words)
    held_out = {word.recording.sha256 for split in ("dev", "test") for word in words[split]}
    copies = [word for word in words["train"] if word.recording.sha256 in held_out]
    if copies:
        _log.warning(
            "%s: %d training recordings have the audio of a dev or test recording and are left out: %s",
            INFO.name, len(copies), ", ".join(word.recording.source for word in copies[:5]),
        )  # fmt: skip
        words["train"] = [word for word in words["train"] if word.recording.sha256 not in held_out]
    return words, tally


def prepare(corpus_dir: Path, out_dir: Path, *, seed: int = 0, jobs: int = 1, text_profile: str = TEXT_PROFILE) -> None:
    """Write `<out_dir>/{train,dev,test}`: strings of 1-5 keywords of one speaker, split as published.

    A split with an empty list, as in a part of the corpus, is not written.
    Raises CorpusError for a folder of another layout, TooManyBadFiles past the limit of bad recordings.
    """
    words, tally = read_words(corpus_dir, out_dir / "audio" / INFO.name, jobs=jobs, text_profile=text_profile)
    splits = {split: own for split, own in words.items() if own}
    compare_count(INFO.name, "recordings", sum(map(len, words.values())), INFO.recordings)
    for split, own in splits.items():
        strings = plan_strings(own, sizes=WORDS_PER_STRING, passes=PASSES[split], seed=seed, tag="k")
        utterances = render_strings(strings, out_dir / "audio" / f"keywords_{split}", jobs=jobs, language="ar")
        write_datadir(out_dir / split, utterances)
        write_sources(out_dir / split, string_sources(strings, INFO.name))
    if "train" in splits:
        check_isolation([out_dir / "train"], [out_dir / split for split in splits if split != "train"])
    tally.write(out_dir / "skipped.tsv")


def download(root: Path, *, host: str = GITHUB) -> Path:
    """Fetch the corpus into `<root>/arabic_speech_commands`, and write the table of its Arabic words."""

    def fill(folder: Path) -> None:
        fetch_repository(f"{host}/{REPOSITORY}", folder, root)
        write_text(folder / "keywords.tsv", "".join(f"{keyword}\t{word}\n" for keyword, word in KEYWORDS.items()))

    return make_once(root / INFO.name, fill, check_layout)


def check_layout(corpus_dir: Path) -> int:
    """Number of recordings in the three lists; raises CorpusError for a folder of another layout."""
    missing = [name for name in SPLITS.values() if not find_path(corpus_dir, name).is_file()]
    if missing or not find_path(corpus_dir, "dataset").is_dir():
        raise corpus_error(corpus_dir, INFO)
    total = sum(1 for name in SPLITS.values() for _ in read_rows(find_path(corpus_dir, name), COLUMNS, header=None))
    if not total:
        raise CorpusError(f"{corpus_dir}: {', '.join(SPLITS.values())} list no recording")
    return total


def read_keywords(corpus_dir: Path) -> dict[str, str]:
    """Keyword -> Arabic word, from the corpus's keywords.tsv, or from the built-in table if there is no such file."""
    path = find_path(corpus_dir, "keywords.tsv")
    if not path.exists():
        return KEYWORDS
    rows = list(read_rows(path, ("keyword", "word"), delimiter="\t", quoted=False, header=False))
    if empty := [row.where for row in rows if not row["word"]]:
        raise CorpusError(f"{empty[0]}: expected '<keyword><tab><Arabic word>', found no word")
    return {row["keyword"]: row["word"] for row in rows}


def _read_list(corpus_dir: Path, path: Path, table: dict[str, str], tally: BadFileTally) -> list[_Row]:
    rows = []
    for row in read_rows(path, COLUMNS, header=None):
        where = row.where.removeprefix(f"{path.parent}/")
        source, keyword = safe_relative(row["file"]), row["class"]
        found = _FILE.fullmatch(Path(source).name) if source else None
        if source is None:
            tally.skip(row["file"], f"{where}: the path leaves the corpus folder")
        elif not found:
            tally.skip(corpus_dir / source, f"{where}: expected <speaker>_NO_<round>.wav")
        elif keyword not in table:
            tally.skip(corpus_dir / source, f"{where}: no Arabic word for the class {keyword!r}")
        elif not (path_on_disk := find_path(corpus_dir, source)).is_file():
            tally.skip(corpus_dir / source, f"{where}: no such file")
        else:
            source = path_on_disk.relative_to(corpus_dir).as_posix()
            rows.append(_Row(source, keyword, found["speaker"]))
    return rows


def _check_speakers(words: dict[str, list[Word]]) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for split, own in words.items():
        for word in own:
            splits[word.speaker].add(split)
    shared = {speaker: sorted(own) for speaker, own in splits.items() if len(own) > 1}
    if shared:
        speaker, own = sorted(shared.items())[0]
        raise CorpusError(
            f"{INFO.name}: speaker {speaker} is in {' and '.join(own)} ({len(shared)} such speakers): the lists "
            f"must be disjoint by speaker; take the publisher's {', '.join(SPLITS.values())}"
        )
