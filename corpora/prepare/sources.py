"""Which recordings each utterance was made from, and the proof that a test recording is nowhere in training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from corpora.files import write_text
from corpora.prepare.ingest import CorpusError

NAME = "sources.tsv"
_HEADER = "utt_id\tcorpus\tsource\tsha256"


@dataclass(frozen=True)
class Provenance:
    """One recording that an utterance was made from.

    source: path inside the corpus folder.  sha256: hash of the recording's 16-bit samples at 16 kHz.
    """

    utt_id: str
    corpus: str
    source: str
    sha256: str


class LeakError(ValueError):
    """A recording that is scored is also in the data that a model is trained on."""


def write_sources(data_dir: Path, rows: Iterable[Provenance]) -> None:
    """Write `sources.tsv` into a data directory: one row per recording, in the order in which it is heard."""
    lines = [_HEADER, *("\t".join((row.utt_id, row.corpus, row.source, row.sha256)) for row in rows)]
    write_text(data_dir / NAME, "\n".join(lines) + "\n")


def read_sources(data_dir: Path) -> list[Provenance]:
    """Read `sources.tsv`; raises CorpusError that names the line when it is missing or of another form."""
    path = data_dir / NAME
    if not path.exists():
        raise CorpusError(f"{path}: missing; prepare the corpus again")
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if lines[0] != _HEADER:
        raise CorpusError(f"{path}:1: expected the header {_HEADER!r}, found {lines[0]!r}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        fields = line.split("\t")
        if len(fields) != 4:
            raise CorpusError(f"{path}:{number}: expected 4 tab-separated fields, found {len(fields)}")
        rows.append(Provenance(*fields))
    return rows


def check_isolation(training: Iterable[Path], held_out: Iterable[Path]) -> None:
    """Raise LeakError when a recording of a held-out data directory is in a training one.

    Compares by corpus and file and, since publishers store the same audio under two names, by content hash.
    """
    where: dict[object, tuple[Path, Provenance]] = {}
    for folder in training:
        for row in read_sources(folder):
            where[row.corpus, row.source] = where[row.sha256] = (folder, row)
    for folder in held_out:
        for row in read_sources(folder):
            hit = where.get((row.corpus, row.source)) or where.get(row.sha256)
            if hit:
                raise LeakError(
                    f"{folder}: utterance {row.utt_id} uses {row.corpus}/{row.source}, which trains a model as "
                    f"{hit[1].corpus}/{hit[1].source} (utterance {hit[1].utt_id} of {hit[0]})"
                )
