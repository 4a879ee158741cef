"""ADI-20: ADI-17 with Tunisian, Bahraini and Modern Standard Arabic added, for dialect identification.

    <corpus>/{train,dev,test}.csv     ID,wav,dialect,duration,start,end      start and end in samples at 16 kHz
    <corpus>/...                      the audio that the lists name
    or Parquet, [data/]{train,validation,test}-*.parquet (ID, audio, dialect), cut into utterances

The publisher's paths begin with a placeholder or another machine's folder; both are removed. An ID may end in the times
of a segment or in `_split_<n>`, one part of a long recording; the programme is the ID without this ending.
"""

from __future__ import annotations

import re
from pathlib import Path

from corpora.audio import SAMPLE_RATE
from corpora.datasets._dialect import SPLITS, CorpusFiles, check_dialect, write_clips, write_splits
from corpora.datasets._options import compile_pattern
from corpora.datasets.adi17 import DIALECTS as ADI17_DIALECTS
from corpora.files import CorpusError
from corpora.prepare import hub
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_rows
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="adi20",
    title="ADI-20: ADI-17 with Tunisian, Bahraini and Modern Standard Arabic",
    tasks=("did",),
    hours=3556,
    licence="that of each source; only the lists are distributed",
    access="form",
    by_hand="fetch the data set ArabicSpeech/ADI20 from Hugging Face, or the lists and sources of "
    "github.com/elyadata/ADI-20: ADI-17, ADI-5 (MSA), Tunisian corpora, YouTube",
    layout="{train,dev,test}.csv with ID,wav,dialect,duration,start,end, and the audio that they name",
)
DIALECTS = (*ADI17_DIALECTS, "TUN", "BAH", "MSA")
COLUMNS = ("ID", "wav", "dialect", "start", "end")
PROGRAMME = r"(?P<programme>.+?)(?:_\d+-\d+)?(?:_split_\d+)?"


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    shared: str = "drop",
    lists: str = "{split}.csv",
    dialects: tuple[str, ...] = DIALECTS,
    programme: str = PROGRAMME,
    parquet: tuple[str, ...] = (),
) -> None:
    """Write `<out_dir>/{train,dev,test}` with `utt2dialect`; a split without a list is not written.

    lists: name of a split's list, for instance "adi20_{split}.csv".  dialects: the labels.
    programme: regular expression of an ID with the group `programme`.  shared: treatment of a programme that is in two
    splits: drop, keep or refuse.  parquet: `field=column` for a copy in Parquet whose columns have other names.
    Raises CorpusError with file and line for a list of another form; TooManyBadFiles.
    """
    pattern = compile_pattern("programme", programme, "programme")
    shards = hub.shards(corpus_dir)
    if shards:
        write_clips(INFO, corpus_dir, out_dir, shards, dialects, pattern, jobs=jobs, shared=shared, chosen=parquet)
        return
    paths = {split: find_path(corpus_dir, lists.format(split=split)) for split in SPLITS}
    if not any(path.is_file() for path in paths.values()):
        raise corpus_error(corpus_dir, INFO, ", ".join(path.name for path in paths.values()))
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs)
    items = {split: _read(work, path, dialects, pattern) for split, path in paths.items() if path.is_file()}
    write_splits(work, items, shared=shared)


def _read(work: Preparation, path: Path, dialects: tuple[str, ...], pattern: re.Pattern[str]) -> list[Item]:
    items = []
    files = CorpusFiles(work.corpus_dir)
    for row in read_rows(path, COLUMNS):
        dialect = check_dialect(row.where, row["dialect"], dialects)
        start, end = (_samples(row.where, name, row[name]) for name in ("start", "end"))
        found = pattern.fullmatch(row["ID"])
        if not found:
            raise CorpusError(f"{row.where}: expected an ID like {pattern.pattern}, found {row['ID']!r}")
        source = files.find(row["wav"])
        if source is None:
            work.bad(row.where, f"no such file in {work.corpus_dir}: {row['wav']}")
            continue
        times = {"start": start / SAMPLE_RATE, "end": end / SAMPLE_RATE}
        items.append(Item(row["ID"], found["programme"], source, row.where, dialect=dialect, **times))
    return items


def _samples(where: str, name: str, value: str) -> int:
    """A number of samples; pandas writes 16000.0 for whole numbers in a column with a gap."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if number < 0 or number != int(number):
        raise CorpusError(f"{where}: expected a number of samples in {name}, found {value!r}")
    return int(number)
