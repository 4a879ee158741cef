"""EveryAyah: Quran recitation, one MP3 for each verse, with the Uthmani text.

    <corpus>/<reciter>/SSSAAA.mp3     surah and ayah, three digits each
    <corpus>/quran.json               {"<surah>": [{"chapter", "verse", "text"}, ...]}   (CC BY-SA 4.0)

    or Parquet (tarteel-ai/everyayah), [data/]{train,validation,test}-*.parquet: audio, text, reciter

Refrains repeat, so the splits are disjoint by text; with several reciters they are also disjoint by reciter.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from corpora.datadir import Utterance, write_datadir
from corpora.fetch import GITHUB, fetch, fetch_repository, make_once
from corpora.files import BadFileTally, CorpusError, hash_fraction, lock_file, read_json
from corpora.prepare import hub
from corpora.prepare.sources import (
    Listing,
    Provenance,
    Recording,
    check_isolation,
    list_audio,
    read_recordings,
    write_sources,
)
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import normalise, printable, text_key

INFO = CorpusInfo(
    name="everyayah",
    title="EveryAyah: recitation of the Quran, one file for each verse",
    tasks=("asr", "ssl"),
    hours=None,
    licence="recordings: none stated by the publisher; text (quran-json): CC BY-SA 4.0",
    access="open",
    by_hand="further reciters: folders of MP3 files from everyayah.com, next to the first",
    layout="quran.json and <reciter>/SSSAAA.mp3 (surah, ayah)",
)
REPOSITORY = "quranstatic/yasser-salama-hadr-gapless-2/archive/HEAD.tar.gz"  # one recitation
RECITER = "yasser_salama"
# The text of the Quran, at one commit.
QURAN = "risan/quran-json/raw/9051fd00c68a29b221a958c1cdf1c9fa7c9cc8c7/data/quran.json"
QURAN_SHA256 = "bd74e2cefe800e2600baa4a6056d1e83a83c771f6ff525064cb08bdccbf128bf"
TEXT_PROFILE = "mgb"
PARQUET_FIELDS = {"text": ("text", "sentence"), "reciter": ("reciter", "reciter_name")}
SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}

_VERSE = re.compile(r"(\d{3})(\d{3})\.mp3", re.IGNORECASE)
_BIT_RATE = re.compile(r"[_-]?(\d+kbps)$", re.IGNORECASE)
_log = logging.getLogger(__name__)


class _Named(NamedTuple):
    """A verse before its recording is read."""

    utt_id: str
    speaker: str
    text: str


@dataclass(frozen=True)
class Verse:
    """A recited verse: its split, its normalised text, and the key that equal texts share."""

    utt_id: str
    speaker: str
    split: str
    text: str
    key: str
    recording: Recording

    def utterance(self) -> Utterance:
        return Utterance(
            utt_id=self.utt_id,
            speaker=self.speaker,
            audio=self.recording.path,
            samples=self.recording.samples,
            text=self.text,
            language="ar",
        )

    def provenance(self) -> Provenance:
        return Provenance(self.utt_id, INFO.name, self.recording.source, self.recording.sha256)


def read_verses(
    corpus_dir: Path,
    audio_dir: Path,
    *,
    seed: int = 0,
    jobs: int = 1,
    text_profile: str = TEXT_PROFILE,
    parquet: tuple[str, ...] = (),
) -> tuple[list[Verse], BadFileTally]:
    """All verses with text and audio, each with its split, and the tally of the files that were left out.

    The MP3s are converted into `audio_dir`. `SSS000.mp3`, the formula before a surah, is not a verse and not used.
    Raises CorpusError for a folder of another layout, TooManyBadFiles past the limit of bad files.
    """
    shards = hub.shards(corpus_dir)
    if shards:
        rows = hub.Hub(
            INFO, corpus_dir, audio_dir, shards, PARQUET_FIELDS, required=("text", "reciter"), chosen=parquet
        )
        root, (wanted, tally) = rows.clips_dir, _hub_verses(rows, text_profile)
    else:
        root, (wanted, tally) = corpus_dir, _listed_verses(corpus_dir, text_profile)
    recordings = read_recordings(root, list(wanted), audio_dir, tally=tally, jobs=jobs, label=INFO.name)
    tally.check()
    reciters = _split_reciters({wanted[source].speaker for source in recordings}, seed)
    verses, unused = [], Counter()
    for source, recording in recordings.items():
        own = wanted[source]
        key = text_key(own.text)
        split = split_of(key, seed)
        if split not in reciters[own.speaker]:
            unused[own.speaker] += 1
            continue
        verses.append(Verse(own.utt_id, own.speaker, split, own.text, key, recording))
    if unused:
        _log.info(
            "%s: %d verses left out: their reciter and their text belong to different splits",
            INFO.name, unused.total(),
        )  # fmt: skip
    return verses, tally


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    seed: int = 0,
    jobs: int = 1,
    text_profile: str = TEXT_PROFILE,
    parquet: tuple[str, ...] = (),
) -> None:
    """Write `<out_dir>/{train,dev,test}`, about 80/10/10 % of the distinct texts; an empty split is not written.

    parquet: `field=column` for a copy in Parquet whose columns have other names.
    Raises CorpusError for a folder of another layout, TooManyBadFiles past the limit of bad recordings.
    """
    verses, tally = read_verses(
        corpus_dir, out_dir / "audio" / INFO.name, seed=seed, jobs=jobs, text_profile=text_profile, parquet=parquet
    )
    splits = {split: own for split in SHARES if (own := [verse for verse in verses if verse.split == split])}
    for split, own in splits.items():
        write_datadir(out_dir / split, [verse.utterance() for verse in own])
        write_sources(out_dir / split, [verse.provenance() for verse in own])
    if "train" in splits:
        check_isolation([out_dir / "train"], [out_dir / split for split in splits if split != "train"])
    tally.write(out_dir / "skipped.tsv")


def download(root: Path, *, host: str = GITHUB, quran_sha256: str | None = QURAN_SHA256) -> Path:
    """Fetch one recitation and the text of the Quran into `<root>/everyayah`."""

    def fill(folder: Path) -> None:
        repository = folder / ".repository"
        fetch_repository(f"{host}/{REPOSITORY}", repository, root)
        if not (repository / "audio").is_dir():
            raise CorpusError(f"{host}/{REPOSITORY}: expected a folder audio/ with one MP3 per verse")
        (repository / "audio").rename(folder / RECITER)
        shutil.rmtree(repository)
        fetch(f"{host}/{QURAN}", folder / "quran.json", quran_sha256)
        lock_file(folder / "quran.json").unlink()

    return make_once(root / INFO.name, fill, check_layout)


def check_layout(corpus_dir: Path) -> Listing:
    """The recordings of a corpus folder; raises CorpusError for a folder of another layout."""
    if not find_path(corpus_dir, "quran.json").is_file():
        raise corpus_error(corpus_dir, INFO)
    return list_audio(corpus_dir, "*/*.mp3", _VERSE, info=INFO)


def split_of(key: str, seed: int) -> str:
    """Split of a text. It depends on the key and the seed alone, not on the other verses of the corpus."""
    place = hash_fraction(key, seed)
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    return "test"


def _listed_verses(corpus_dir: Path, text_profile: str) -> tuple[dict[str, _Named], BadFileTally]:
    """The verses of the publisher's form by path inside the corpus, and the tally of its files."""
    listing = check_layout(corpus_dir)
    tally = listing.tally(corpus_dir, INFO.layout)
    texts = read_quran(find_path(corpus_dir, "quran.json"))
    wanted: dict[str, _Named] = {}
    for source in listing.named:
        surah, ayah = (int(part) for part in _VERSE.fullmatch(source.rsplit("/", 1)[-1]).groups())
        text = normalise(texts.get((surah, ayah), ""), text_profile, quran=True)
        if text:
            wanted[source] = _Named(_utt_id(source), _speaker(source), text)
        elif ayah > 0:
            tally.skip(corpus_dir / source, f"quran.json has no text for surah {surah}, ayah {ayah}")
    return wanted, tally


def _hub_verses(rows: hub.Hub, text_profile: str) -> tuple[dict[str, _Named], BadFileTally]:
    """The verses of a copy in Parquet by path of the clip, and the tally of its rows.

    The publisher's parts share texts, so they are not used as splits.
    """
    tally = BadFileTally(0)
    wanted: dict[str, _Named] = {}
    for part in rows.splits():
        for clip in rows.clips(part, lambda where, reason: tally.skip(Path(where), reason)):
            speaker = _speaker(clip["reciter"] or "unknown")
            text = normalise(printable(clip["text"]), text_profile, quran=True)
            if text:
                wanted[clip.source] = _Named(f"{speaker}-{part}-{clip.name}", speaker, text)
            else:
                tally.skip(Path(clip.where), f"no words in the text {clip['text']!r}")
    tally.total = len(wanted) + len(tally.skipped)
    return wanted, tally


def read_quran(path: Path) -> dict[tuple[int, int], str]:
    """(surah, ayah) -> text of quran.json. Raises CorpusError for a file of another form."""
    try:
        return {
            (int(surah), int(verse["verse"])): verse["text"]
            for surah, verses in read_json(path).items()
            for verse in verses
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CorpusError):  # it names the file and the place
            raise
        lacking = f"; a verse lacks the key {error}" if isinstance(error, KeyError) else ""
        raise CorpusError(
            f'{path}: expected quran.json, {{"<surah>": [{{"chapter", "verse", "text"}}, ...]}}{lacking}'
        ) from error


def _speaker(source: str) -> str:
    """Reciter of a file. Folders of one reciter at several bit rates are one speaker."""
    return "everyayah_" + reciter_of(source.split("/")[0])


def reciter_of(folder: str) -> str:
    """Name of the reciter of a folder, without its bit rate, as a part of an id."""
    return re.sub(r"[^0-9A-Za-z_.]", "_", _BIT_RATE.sub("", folder))


def _utt_id(source: str) -> str:
    folder, name = source.split("/")
    rate = _BIT_RATE.search(folder)
    middle = f"{rate[1]}-" if rate else ""
    return f"{_speaker(source)}-{middle}{Path(name).stem}"


def _split_reciters(speakers: set[str], seed: int) -> dict[str, set[str]]:
    """The splits that each reciter's verses may go to.

    A single reciter is in all splits. The second of two is held out for dev and test. With more reciters, about a tenth
    of them is held out for dev and another tenth for test.
    """
    order = sorted(speakers, key=lambda speaker: (hashlib.sha256(f"{seed}/{speaker}".encode()).hexdigest(), speaker))
    if len(order) == 1:
        return {order[0]: set(SHARES)}
    if len(order) == 2:
        return {order[0]: {"train"}, order[1]: {"dev", "test"}}
    held = max(1, round(0.1 * len(order)))
    return {
        speaker: {"test"} if place < held else {"dev"} if place < 2 * held else {"train"}
        for place, speaker in enumerate(order)
    }
