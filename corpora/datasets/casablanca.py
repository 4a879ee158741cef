"""Casablanca: television in eight Arabic dialects, transcribed (CC BY-NC-ND 4.0).

    <corpus>/<Country>/{validation,test}-*.parquet        audio, seg_id, transcription, gender, duration

The recordings are stored inside the Parquet files and are written to `<out_dir>/unpacked`. The speakers are unknown:
every utterance is its own speaker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from corpora.files import BadFileTally, CorpusError
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_parquet, store_audio
from corpora.prepare.tree import find_path, visible_files
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import LEADERBOARD

INFO = CorpusInfo(
    name="casablanca",
    title="Casablanca: eight Arabic dialects from television",
    tasks=("asr", "did"),
    hours=48,
    licence="CC BY-NC-ND 4.0",
    access="form",
    by_hand="accept the terms of the data set UBC-NLP/Casablanca on Hugging Face, then fetch its Parquet files",
    layout="<Country>/{validation,test}-*.parquet (audio, seg_id, transcription, gender, duration)",
)
# Names of the folders, and the labels of ADI-17.
COUNTRIES = {
    "Algeria": "ALG",
    "Egypt": "EGY",
    "Jordan": "JOR",
    "Mauritania": "MAU",
    "Morocco": "MOR",
    "Palestine": "PAL",
    "UAE": "UAE",
    "Yemen": "YEM",
}
SPLITS = {"dev": "validation", "test": "test"}


@dataclass(frozen=True)
class Segment:
    """One row: place, country, id, text, and the path of its recording inside the audio folder."""

    where: str
    country: str
    seg_id: str
    text: str
    source: str

    @property
    def utt_id(self) -> str:
        return f"casablanca_{COUNTRIES[self.country].lower()}_{safe_id(self.seg_id)}"


def read_clips(
    corpus_dir: Path,
    audio_dir: Path,
    split: str,
    *,
    countries: Sequence[str] = tuple(COUNTRIES),
    tally: BadFileTally,
    text_column: str = "transcription",
) -> Iterator[Segment]:
    """The rows of a split ("dev" or "test"), with their recordings written to `audio_dir`. Bad rows go to `tally`.

    Raises CorpusError for a Parquet file that is damaged or lacks a column, and for a country without files.
    """
    for country in countries:
        files = visible_files(find_path(corpus_dir, country), f"{SPLITS[split]}-*.parquet")
        if not files:
            folder = corpus_dir / country
            found = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
            raise CorpusError(f"{folder}: expected {SPLITS[split]}-*.parquet; found {found or 'nothing'}")
        for file in files:
            rows = read_parquet(file, ("audio", "seg_id", text_column))
            for where, row in tqdm(rows, desc=f"{country} {file.name}", unit="row", mininterval=0.5):
                tally.total += 1
                seg_id = str(row["seg_id"])
                try:
                    path = store_audio(row["audio"], audio_dir / country / split / safe_id(seg_id))
                except CorpusError as error:
                    tally.skip(Path(where), error)
                    continue
                yield Segment(where, country, seg_id, row[text_column] or "", path.relative_to(audio_dir).as_posix())


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = LEADERBOARD,
    countries: tuple[str, ...] = tuple(COUNTRIES),
    text_column: str = "transcription",
) -> None:
    """Write `<out_dir>/{dev,test}` of all countries, and `<out_dir>/{dev,test}_<label>` of each, for its score.

    countries: names of the folders to use. There is no training set.
    Raises CorpusError for another layout or an unknown country, TooManyBadFiles past the limit of bad rows.
    """
    if unknown := [country for country in countries if country not in COUNTRIES]:
        raise CorpusError(f"countries={','.join(countries)}: {unknown[0]!r} is not one of {', '.join(COUNTRIES)}")
    if not any(find_path(corpus_dir, country).is_dir() for country in COUNTRIES):
        raise corpus_error(corpus_dir, INFO)
    audio_dir = out_dir / "unpacked"
    work = Preparation(INFO, audio_dir, out_dir, jobs=jobs, text_profile=text_profile)
    tally = work.tally("rows")
    for split in SPLITS:
        items: dict[str, list[Item]] = {country: [] for country in countries}
        for clip in read_clips(corpus_dir, audio_dir, split, countries=countries, tally=tally, text_column=text_column):
            label = COUNTRIES[clip.country]
            item = Item(clip.utt_id, clip.utt_id, clip.source, clip.where, clip.text, dialect=label)
            items[clip.country].append(item)
        work.add(split, [item for own in items.values() for item in own])
        for country, own in items.items():
            work.add(f"{split}_{COUNTRIES[country].lower()}", own)
    work.write()
