"""Data of the recogniser: packed recitations, keywords and digits, texts in modern spelling, fixed splits.

    <out>/audio/{recitation,eval,keywords,digits}/     packed stores (`prepare.packed`); eval: dev and test chapters
    <out>/text/recitation.text                         training verses
    <out>/text/{dev,test}_<reciter>.text           of each reciter; {dev,test}_seen.text: of the training reciters
    <out>/text/keywords_{train,val,test}.text          official lists of speakers
    <out>/text/digits.text  <out>/text/verses.text     all verses, for `find`
    <out>/sources.tsv  <out>/skipped.tsv               hours and licence of each source; unreadable files

Dev is chapters 54, 70, 76 and test is chapters 36, 44, 56, 68, 75, for every reciter. Training leaves out a verse of
another chapter if one of these has the same text (a refrain). Reciters under `unseen` are only in dev and test.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpora.audio import SAMPLE_RATE
from corpora.datasets import everyayah
from corpora.files import CorpusError, write_text
from corpora.prepare.packed import PackedAudio, pack
from corpora.prepare.readers import read_lines, read_rows
from corpora.text import normalise, text_key

DEV = frozenset({54, 70, 76})
TEST = frozenset({36, 44, 56, 68, 75})
PROFILE = "modern"
DIGITS = "صفر واحد اثنان ثلاثة أربعة خمسة ستة سبعة ثمانية تسعة عشرة".split()
LICENCES = {
    "recitation": "none stated by the publisher; published for free listening",
    "keywords": "CC BY 4.0",
    "digits": "CC BY 4.0",
}
# Letters that open chapters and are read by their names: their spelling says nothing of the sound.
_NAMED_LETTERS = frozenset("الم المر الر المص كهيعص طسم طس حم عسق طه يس".split())
_VERSE = re.compile(r"(\d{3})(\d{3})\.mp3", re.IGNORECASE)
_DIGIT = re.compile(r"(\d+)_[a-z]+_\d+\.wav")

log = logging.getLogger(__name__)


def prepare(
    out: Path,
    *,
    quran: Path,
    reciters: Mapping[str, Path],
    unseen: Mapping[str, Path] | None = None,
    keywords: Path | None = None,
    keyword_splits: Path | None = None,
    digits: Path | None = None,
    jobs: int = 1,
) -> dict[str, float]:
    """Write everything above; the hours of each store. What is packed already is not decoded again.

    `quran` is quran.json, `reciters` and `unseen` folders of SSSAAA.mp3, `keywords` Arabic Speech Commands (folders of
    WAV), `keyword_splits` the folder of its {train,val,test}.csv and keywords.tsv. A log states the verses of each
    reciter, and warns of recordings without a text. Raises CorpusError for a folder without audio.
    """
    if not Path(quran).is_file():
        raise CorpusError(f"{quran}: no such file; --quran names quran.json of EveryAyah's texts")
    verses = read_verses(quran)
    training: dict[str, Path] = {}
    scored: dict[str, Path] = {}
    rows: dict[str, list[tuple[str, str]]] = {"recitation": []}
    for own in split_verses(verses, reciters, unseen or {}):
        if own.split == "train":
            training[own.utt_id] = own.path
            rows["recitation"].append((own.utt_id, own.text))
            continue
        scored[own.utt_id] = own.path
        rows.setdefault(f"{own.split}_{own.reciter}", []).append((own.utt_id, own.text))
        if own.reciter in reciters:
            rows.setdefault(f"{own.split}_seen", []).append((own.utt_id, own.text))
    stores = {"eval": scored, "recitation": training}
    if keywords is not None:
        stores["keywords"] = {}
        for split, utt_id, path, text in _keywords(keywords, keyword_splits or keywords):
            stores["keywords"][utt_id] = path
            rows.setdefault(f"keywords_{split}", []).append((utt_id, text))
    if digits is not None:
        stores["digits"] = {f"digits-{path.stem}": path for path in _wavs(digits) if _DIGIT.fullmatch(path.name)}
        rows["digits"] = [(name, DIGITS[int(_DIGIT.fullmatch(p.name)[1])]) for name, p in stores["digits"].items()]
    skipped: dict[str, str] = {}
    hours: dict[str, float] = {}
    for name, files in stores.items():
        skipped |= pack(files, out / "audio" / name, jobs=jobs)
        store = PackedAudio(out / "audio" / name)
        hours[name] = sum(store.samples(utt_id) for utt_id in store) / SAMPLE_RATE / 3600
    for name, entries in rows.items():
        kept = sorted((utt_id, text) for utt_id, text in entries if utt_id not in skipped)
        write_text(out / "text" / f"{name}.text", "".join(f"{utt_id} {text}\n" for utt_id, text in kept))
    everything = "".join(f"{chapter}:{verse} {text}\n" for (chapter, verse), (_, text) in sorted(verses.items()))
    write_text(out / "text" / "verses.text", everything)
    licences = "".join(f"{name}\t{hours[name]:.2f}\t{LICENCES.get(name, LICENCES['recitation'])}\n" for name in hours)
    write_text(out / "sources.tsv", "store\thours\tlicence\n" + licences)
    write_text(out / "skipped.tsv", "".join(f"{name}\t{reason}\n" for name, reason in sorted(skipped.items())))
    if skipped:
        log.warning("%d files could not be read; %s names them", len(skipped), out / "skipped.tsv")
    return hours


def read_verses(path: Path) -> dict[tuple[int, int], tuple[str, str]]:
    """quran.json as chapter and verse -> the text as it is, and in modern spelling."""
    return {place: (text, normalise(text, PROFILE, quran=True)) for place, text in everyayah.read_quran(path).items()}


@dataclass(frozen=True)
class SplitVerse:
    """A recording of a verse, with its reciter, its split (train, dev or test) and its text in modern spelling."""

    utt_id: str
    reciter: str
    split: str
    text: str
    path: Path


def split_verses(
    verses: Mapping[tuple[int, int], tuple[str, str]], reciters: Mapping[str, Path], unseen: Mapping[str, Path]
) -> list[SplitVerse]:
    """The recordings in folders of SSSAAA.mp3 whose verse has a text, each with its split. `verses` is `read_verses`'s.

    Training verses that repeat the text of a dev or test verse, or that are letters read by their names, are left out,
    and so are those of `unseen` reciters. Raises CorpusError for a folder without such files, and for a reciter who is
    in both mappings.
    """
    if both := sorted(reciters.keys() & unseen.keys()):
        raise CorpusError(f"{unseen[both[0]]}: {both[0]} is a training reciter ({reciters[both[0]]}) and an unseen one")
    held = {text_key(raw) for (chapter, _), (raw, _) in verses.items() if chapter in DEV | TEST}
    found = []
    for name, folder in {**reciters, **unseen}.items():
        recordings = _recordings(name, folder)
        without = [path for _, place, path in recordings if place not in verses]
        if len(without) == len(recordings):
            raise CorpusError(f"{folder}: none of its recordings has a text in quran.json ({len(verses)} verses)")
        known = {place for _, place, _ in recordings} & verses.keys()
        lacking = sorted(verses.keys() - known)
        state = f"{len(known)} of {len(verses)} verses" + (f", not {lacking[0][0]}:{lacking[0][1]}" if lacking else "")
        log.info("reciter %s: %s%s", name, state, " and others" if len(lacking) > 1 else "")
        if without:
            log.warning("%s: %d recordings have no text and are left out, such as %s", folder, len(without), without[0])
        for utt_id, place, path in recordings:
            if place not in verses:
                continue
            raw, text = verses[place]
            split = "dev" if place[0] in DEV else "test" if place[0] in TEST else "train"
            if split != "train" or (name in reciters and text_key(raw) not in held and text not in _NAMED_LETTERS):
                found.append(SplitVerse(utt_id, name, split, text, path))
    return found


def _recordings(name: str, folder: Path) -> list[tuple[str, tuple[int, int], Path]]:
    if not Path(folder).is_dir():
        raise CorpusError(f"{folder}: no such folder (of the reciter {name})")
    found = []
    for path in sorted(Path(folder).rglob("*.mp3")):
        if match := _VERSE.fullmatch(path.name):
            found.append((f"{name}-{path.stem}", (int(match[1]), int(match[2])), path))
    if not found:
        raise CorpusError(f"{folder}: no file named SSSAAA.mp3 (chapter, verse) for the reciter {name}")
    return found


def _wavs(folder: Path) -> list[Path]:
    found = sorted(Path(folder).rglob("*.wav"))
    if not found:
        raise CorpusError(f"{folder}: no WAV file in this folder")
    return found


def _keywords(folder: Path, splits: Path) -> list[tuple[str, str, Path, str]]:
    """Split, id, path and word of every recording; a speaker that no list names belongs to train."""
    if not (splits / "keywords.tsv").is_file():
        raise CorpusError(
            f"{splits}: keywords.tsv is missing; --keyword-splits names the folder of it and of {{train,val,test}}.csv"
        )
    words: dict[str, str] = {}
    for where, line in read_lines(splits / "keywords.tsv"):
        name, *fields = line.split("\t")
        if not fields:
            raise CorpusError(f"{where}: expected a folder, a tab and its word")
        words[name] = fields[0]
    speakers: dict[str, str] = {}
    for split in ("train", "val", "test"):
        speakers |= {Path(row["file"]).name[:8]: split for row in read_rows(splits / f"{split}.csv", ("file",))}
    found = []
    for path in _wavs(folder):
        if path.parent.name in words:
            name = f"keywords-{path.parent.name.replace(' ', '_')}-{path.stem}"
            text = normalise(words[path.parent.name], PROFILE)
            found.append((speakers.get(path.name[:8], "train"), name, path, text))
    if not found:
        raise CorpusError(f"{folder}: no folder is named after a keyword of {splits / 'keywords.tsv'}")
    return found


def named_folders(pairs: Sequence[str], option: str) -> dict[str, Path]:
    """`NAME=DIR` arguments as a mapping; CorpusError for what is not one."""
    given = {}
    for pair in pairs:
        name, _, folder = pair.partition("=")
        if not folder or not re.fullmatch(r"\w+", name) or name in given:
            raise CorpusError(f"{option} {pair}: write NAME=DIR, every name once")
        given[name] = Path(folder)
    return given
