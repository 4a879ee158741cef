"""NADI 2025, 2026 and Casablanca as dialect identification: the country of an utterance, eight countries.

    <corpus>/<Country>/{validation,test}-*.parquet                           Casablanca: the folder is the label
    <corpus>/[data/]{train,adaptation,validation,dev,test}-*.parquet         NADI 2025, subtask 1: a column is the label
    <corpus>/<Country>/{train,validation,test}-*.parquet                     NADI 2025, subtask 2: with transcription
    <corpus>/[data/]<Country>-*.parquet                                      NADI 2026: test, one part for each country

Casablanca has no training part, so its validation part is divided into train and dev with a seed. Neither publisher
documents the programme of an utterance: by default every utterance is its own programme, and an option reads it from
the id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from corpora.datasets import casablanca
from corpora.datasets._dialect import check_dialect, write_splits
from corpora.datasets._options import compile_pattern
from corpora.files import CorpusError, hash_fraction
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_parquet, store_audio
from corpora.prepare.tree import visible_files
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import LEADERBOARD

COUNTRIES = tuple(casablanca.COUNTRIES)
INFO = CorpusInfo(
    name="nadi",
    title="NADI 2025, 2026 and Casablanca as dialect identification: eight countries",
    tasks=("did",),
    hours=48,
    licence="CC BY-NC-ND 4.0",
    access="form",
    by_hand="accept the terms of UBC-NLP/Casablanca or of the NADI 2025 data, fetch the Parquet files",
    layout="<Country>/{validation,test}-*.parquet, or {train,validation,test}-*.parquet with a country column",
)
SPLIT_OF = {"train": "train", "adaptation": "train", "validation": "dev", "valid": "dev", "dev": "dev", "test": "test"}
DEV_SHARE = 0.2  # of the validation part, in a corpus without a training part

_FILE = re.compile(r"(?P<part>[a-z]+)(?:-\d+-of-\d+)?(?:-[0-9a-f]+)?\.parquet", re.IGNORECASE)


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    seed: int = 0,
    jobs: int = 1,
    shared: str = "drop",
    country_column: str = "country",
    id_column: str = "seg_id",
    programme: str = "(?P<programme>.+)",
    countries: tuple[str, ...] = COUNTRIES,
    text_column: str = "transcription",
    text_profile: str = LEADERBOARD,
) -> None:
    """Write `<out_dir>/{train,dev,test}` with `utt2dialect`, and the clips as files below `<out_dir>/audio`.

    A split whose rows have the text column (subtask 2 of 2025) has `text` too, without the rows of no words.

    country_column: the label, where the folder does not state it.  id_column: the utterance's id; without that column
    rows are numbered.  programme: regular expression of an id with the group `programme`.  countries: the labels.
    shared: treatment of a programme that is in two splits: drop, keep or refuse.  seed: divides the validation part.
    Raises CorpusError for a folder of another layout, with file and row for a row that cannot be used.
    """
    pattern = compile_pattern("programme", programme, "programme")
    files = _files(corpus_dir, countries)
    clips = out_dir / "audio" / "clips"
    work = Preparation(
        INFO, clips, out_dir, jobs=jobs, text_profile=text_profile
    )  # the clips in the Parquet files are its recordings
    items: dict[str, list[Item]] = {}
    for path, part, country in tqdm(files, desc=f"{INFO.name} clips", unit="file", mininterval=0.5):
        own = items.setdefault(SPLIT_OF[part], [])
        columns = ["audio"] if country else ["audio", country_column]
        for number, (where, row) in enumerate(read_parquet(path, columns, optional=[id_column, text_column]), 1):
            dialect = check_dialect(where, country or str(row[country_column]), countries)
            utt_id = _utt_id(row.get(id_column), path, number)
            found = pattern.fullmatch(utt_id)
            if not found:
                raise CorpusError(f"{where}: expected an id like {pattern.pattern}, found {utt_id!r}")
            try:
                clip = store_audio(row["audio"], clips / dialect / part / utt_id)
            except CorpusError as error:
                work.bad(where, str(error))
                continue
            # numbers and short names repeat between countries
            owner = f"{dialect}-{found['programme']}"
            source = clip.relative_to(clips).as_posix()
            text = row.get(text_column)
            own.append(Item(f"{dialect}-{utt_id}", owner, source, where, text=text, dialect=dialect))
    if "train" not in items:
        items = dict(_divide(items, seed))
    write_splits(work, items, shared=shared)


def _files(corpus_dir: Path, countries: tuple[str, ...]) -> list[tuple[Path, str, str]]:
    """(file, part, country or "") of every Parquet file. Raises CorpusError for another name than the published one."""
    found = []
    for path in visible_files(corpus_dir, "*/*.parquet") + visible_files(corpus_dir, "*.parquet"):
        match = _FILE.fullmatch(path.name)
        part = match["part"].lower() if match else ""
        folder = "" if path.parent == corpus_dir or path.parent.name.lower() == "data" else path.parent.name
        if part not in SPLIT_OF:  # the test of 2026 has one file for each country
            part, folder = ("test", part) if part in map(str.lower, countries) else (part, folder)
        folder = next((own for own in countries if own.lower() == folder.lower()), folder)
        if part not in SPLIT_OF:
            raise CorpusError(f"{path}: expected a name like <{' or '.join(SPLIT_OF)}>-00000-of-00001.parquet")
        if folder and folder not in countries:
            raise CorpusError(f"{path.parent}: expected a folder {', '.join(countries)} or data, found {folder}")
        found.append((path, part, folder))
    if not found:
        raise corpus_error(corpus_dir, INFO)
    return found


def _utt_id(value: object, path: Path, number: int) -> str:
    """The row's id in characters that a file name may hold; the row's number if it has no id."""
    name = str(value).strip() if value is not None else ""
    return re.sub(r"[^\w.-]", "_", name) if name.strip(".") else f"{path.stem}-{number:06d}"


def _divide(items: dict[str, list[Item]], seed: int) -> Iterator[tuple[str, list[Item]]]:
    """Divide dev into train and dev by a hash of the programme, which depends on no other utterance."""
    held = [hash_fraction(item.speaker, seed, INFO.name) < DEV_SHARE for item in items.get("dev", ())]
    if held:
        yield "train", [item for item, dev in zip(items["dev"], held, strict=True) if not dev]
        yield "dev", [item for item, dev in zip(items["dev"], held, strict=True) if dev]
    for split, own in items.items():
        if split != "dev":
            yield split, own
