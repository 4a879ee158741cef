"""VoxPopuli, the transcribed part, through Lhotse's recipe: speeches in the European Parliament (CC0).

<corpus>/raw_audios/<language>/<year>/<session>_<language>.ogg
<corpus>/**/asr_<language>.tsv.gz      columns between `|`: session_id, start_time, end_time, split, speaker_id, ...
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from corpora.files import CorpusError
from corpora.prepare.lhotse import read_manifests, write_manifests
from corpora.prepare.preparation import Preparation
from corpora.prepare.readers import read_rows, seconds
from corpora.prepare.tree import visible_files
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="voxpopuli",
    title="VoxPopuli, transcribed: the European Parliament in sixteen languages",
    tasks=("asr", "ssl"),
    hours=543,
    licence="CC0 (audio: the European Parliament's legal notice)",
    access="open",
    by_hand="raw audio with the tools at github.com/facebookresearch/voxpopuli; put asr_en.tsv.gz next to raw_audios",
    layout="raw_audios/<language>/<year>/*.ogg, asr_<language>.tsv.gz",
    languages=("en",),
)
COLUMNS = ("session_id", "start_time", "end_time", "split", "speaker_id", "gender", "normed_text", "original_text")
SPLITS = ("train", "dev", "test")


def prepare(corpus_dir: Path, out_dir: Path, *, jobs: int = 1, language: str = "en") -> None:
    """Write `<out_dir>/{train,dev,test}` with `segments` and normalised text.

    language: of the transcribed part, in the publisher's abbreviation.
    Raises CorpusError with file and line for a list of another form, TooManyBadFiles past the limit.
    """
    name = f"asr_{language}.tsv.gz"
    lists = visible_files(corpus_dir, f"**/{name}")
    if not lists or not (corpus_dir / "raw_audios" / language).is_dir():
        raise corpus_error(corpus_dir, INFO, f"raw_audios/{language}/ and {name}")
    from lhotse.recipes.voxpopuli import prepare_voxpopuli

    listed = _check_list(lists[0])
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs)
    out_dir.mkdir(parents=True, exist_ok=True)
    # Lhotse fetches the list from the network unless its output folder holds it.
    with TemporaryDirectory(dir=out_dir, prefix=".lhotse-") as folder:
        shutil.copy(lists[0], Path(folder) / name)
        manifests = read_manifests(work, lambda: prepare_voxpopuli(corpus_dir, folder, task="asr", lang=language))
        write_manifests(work, manifests, {split: split for split in SPLITS}, language=language, listed=listed)


def _check_list(path: Path) -> dict[str, int]:
    """Number of lines of each split; CorpusError for a damaged list, a missing column or a wrong time."""
    count = dict.fromkeys(SPLITS, 0)
    for row in read_rows(path, COLUMNS, delimiter="|"):
        if row["split"] in count:
            start, end = (seconds(row.where, row[column]) for column in ("start_time", "end_time"))
            if not start < end:
                raise CorpusError(f"{row.where}: from {start:g} to {end:g} s holds no audio")
            count[row["split"]] += 1
    return count
