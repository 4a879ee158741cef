"""ADI-20: ADI-17 with Tunisian, Bahraini and Modern Standard Arabic added, for dialect identification.

    <corpus>/{train,dev,test}.csv     ID,wav,dialect,duration,start,end      start and end in samples at 16 kHz
    <corpus>/...                      the audio that the lists name

The publisher's lists begin paths with a placeholder; it is dropped, as is another machine's folder.
"""

from __future__ import annotations

import re
from pathlib import Path

from corpora.adi17 import DIALECTS as ADI17_DIALECTS
from corpora.dialect import SPLITS, Item, check_labels, write_splits
from corpora.files import BadFileTally
from corpora.ingest import CorpusError, corpus_error
from corpora.lists import find_inside, read_columns
from corpora.registry import CorpusInfo

INFO = CorpusInfo(
    name="adi20",
    title="ADI-20: ADI-17 with Tunisian, Bahraini and Modern Standard Arabic",
    tasks=("did",),
    hours=None,
    licence="that of each source; the lists alone are given out",
    access="form",
    by_hand="lists and sources as github.com/elyadata/ADI-20 tells: ADI-17, ADI-5 (MSA), Tunisian corpora, YouTube",
    layout="{train,dev,test}.csv with ID,wav,dialect,duration,start,end, and the audio that they name",
)
DIALECTS = (*ADI17_DIALECTS, "TUN", "BAH", "MSA")
COLUMNS = ("ID", "wav", "dialect", "start", "end")
PROGRAMME = r"(?P<programme>.+?)(?:_\d+-\d+)?"


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    shared: str = "drop",
    lists: str = "{split}.csv",
    dialects: tuple[str, ...] = DIALECTS,
    programme: str = PROGRAMME,
) -> None:
    """Write `<out_dir>/{train,dev,test}` with `utt2dialect`; a split whose list is not there is not written.

    lists: name of a split's list, as "adi20_{split}.csv".  dialects: the labels.
    programme: regular expression of an ID with the group `programme`.  shared: see `corpora.dialect.write_splits`.
    Raises CorpusError with file and line for a list of another form; TooManyBadFiles.
    """
    pattern = re.compile(programme)
    if "programme" not in pattern.groupindex:
        raise CorpusError(f"{INFO.name}: programme={programme!r} has no group (?P<programme>...)")
    tally = BadFileTally(0)
    items = {
        split: _read(corpus_dir, corpus_dir / lists.format(split=split), dialects, pattern, tally)
        for split in SPLITS
        if (corpus_dir / lists.format(split=split)).is_file()
    }
    if not items:
        raise corpus_error(corpus_dir, INFO)
    write_splits(INFO.name, corpus_dir, out_dir, items, tally=tally, shared=shared, jobs=jobs)


def _read(
    corpus_dir: Path, path: Path, dialects: tuple[str, ...], pattern: re.Pattern[str], tally: BadFileTally
) -> list[Item]:
    items = []
    found: dict[str, str | None] = {}
    for number, row in read_columns(path, COLUMNS):
        where = f"{path}:{number}"
        tally.total += 1
        dialect = check_labels(where, row["dialect"], dialects)
        start, end = (_samples(where, name, row[name]) for name in ("start", "end"))
        if not start < end:
            raise CorpusError(f"{where}: {row['ID']} from sample {start} to {end} holds no audio")
        name = pattern.fullmatch(row["ID"])
        if not name:
            raise CorpusError(f"{where}: expected an ID like {pattern.pattern}, found {row['ID']!r}")
        if row["wav"] not in found:
            found[row["wav"]] = find_inside(corpus_dir, row["wav"])
        if found[row["wav"]] is None:
            tally.skip(row["wav"], f"{where}: no such file in {corpus_dir}")
            continue
        items.append(Item(row["ID"], name["programme"], dialect, found[row["wav"]], start, end, where))
    return items


def _samples(where: str, name: str, value: str) -> int:
    """A number of samples; pandas writes whole numbers as 16000.0 where a column holds a gap."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if number < 0 or number != int(number):
        raise CorpusError(f"{where}: expected a number of samples in {name}, found {value!r}")
    return int(number)
