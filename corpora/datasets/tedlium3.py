"""TED-LIUM 3 in its legacy division, through Lhotse's recipe (CC BY-NC-ND 3.0).

<corpus>/legacy/{train,dev,test}/sph/<talk>.sph
<corpus>/legacy/{train,dev,test}/stm/<talk>.stm      <talk> 1 <talk> <start> <end> <label> text
"""

from __future__ import annotations

import re
from pathlib import Path

from corpora.files import CorpusError
from corpora.prepare.lhotse import read_manifests, write_manifests
from corpora.prepare.preparation import Preparation
from corpora.prepare.readers import read_lines, seconds
from corpora.prepare.tree import visible_files
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="tedlium3",
    title="TED-LIUM 3 (legacy division): English talks",
    tasks=("asr", "ssl"),
    hours=452,
    licence="CC BY-NC-ND 3.0",
    access="open",
    by_hand="OpenSLR 51; give the folder TEDLIUM_release-3 of the unpacked archive",
    layout="legacy/{train,dev,test}/{sph,stm}",
    languages=("en",),
    published={"dev": 507, "test": 1155},
)
NOT_SCORED = "ignore_time_segment_in_scoring"
_MARKS = re.compile(r"<unk>|\[NOISE\]|\{\w+\}|\(\d+\)", re.IGNORECASE)


def prepare(
    corpus_dir: Path, out_dir: Path, *, jobs: int = 1, parts: tuple[str, ...] = ("train", "dev", "test")
) -> None:
    """Write `<out_dir>/{train,dev,test}` with `segments`, without unknown words and noises, with joined clitics.

    parts: the parts to prepare, if the corpus has them. A talk is a speaker.
    Raises CorpusError with file and line for an STM line of another form, TooManyBadFiles past the limit.
    """
    chosen = [part for part in parts if (corpus_dir / "legacy" / part / "stm").is_dir()]
    if not chosen:
        raise corpus_error(corpus_dir, INFO)
    from lhotse.recipes.tedlium import prepare_tedlium

    listed = {part: _check_stm(corpus_dir / "legacy" / part / "stm") for part in chosen}
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs)
    manifests = read_manifests(work, lambda: prepare_tedlium(corpus_dir, dataset_parts=chosen))
    write_manifests(work, manifests, {part: part for part in chosen}, clean=clean, listed=listed)


def clean(text: str) -> str:
    """The words of an STM line: "it 's <unk> good(2)" -> "it's good"."""
    return re.sub(r" (?='\w)", "", " ".join(_MARKS.sub(" ", text).split()))


def _check_stm(folder: Path) -> int:
    """Number of scored lines in the STM files of a folder; CorpusError for a line of another form."""
    count = 0
    for path in visible_files(folder, "*.stm"):
        for where, line in read_lines(path):
            fields = line.split()
            if len(fields) < 7 or fields[0] != path.stem:
                raise CorpusError(f"{where}: expected '{path.stem} 1 {path.stem} start end label text', found {line!r}")
            start, end = (seconds(where, field) for field in fields[3:5])
            if not start < end:
                raise CorpusError(f"{where}: from {fields[3]} to {fields[4]} s holds no audio")
            count += fields[6:] != [NOT_SCORED]
    return count
