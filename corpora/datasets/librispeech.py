"""LibriSpeech, and Mini LibriSpeech, through Lhotse's recipe (CC BY 4.0).

    <corpus>/<part>/<speaker>/<chapter>/{<speaker>-<chapter>.trans.txt,<speaker>-<chapter>-NNNN.flac}

A data directory has the name of its part: train-clean-100, dev-other, ...
"""

from __future__ import annotations

from pathlib import Path

from corpora.files import CorpusError
from corpora.prepare.lhotse import read_manifests, write_manifests
from corpora.prepare.preparation import Preparation
from corpora.prepare.readers import read_lines
from corpora.prepare.tree import visible_files
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="librispeech",
    title="LibriSpeech: read English books",
    tasks=("asr", "ssl"),
    hours=960,
    licence="CC BY 4.0",
    access="open",
    by_hand="OpenSLR 12 (Mini LibriSpeech: OpenSLR 31); give the folder LibriSpeech of the unpacked archives",
    layout="<part>/<speaker>/<chapter>/{*.trans.txt,*.flac}",
    languages=("en",),
    published={
        "train-clean-100": 28539, "train-clean-360": 104014, "train-other-500": 148688, "dev-clean": 2703,
        "dev-other": 2864, "test-clean": 2620, "test-other": 2939, "train-clean-5": 1519, "dev-clean-2": 1089,
    },
)  # fmt: skip


def prepare(corpus_dir: Path, out_dir: Path, *, jobs: int = 1, parts: tuple[str, ...] = ()) -> None:
    """Write `<out_dir>/<part>`, text in lower case.

    parts: the parts to prepare; without them, all parts of the corpus folder.
    Raises CorpusError with file and line for a transcript of another form, TooManyBadFiles past the limit.
    """
    unknown = sorted(set(parts) - set(INFO.published))
    if unknown:
        raise CorpusError(f"{INFO.name}: parts {', '.join(unknown)}: expected some of {', '.join(INFO.published)}")
    chosen = list(parts) or [part for part in INFO.published if (corpus_dir / part).is_dir()]
    missing = [part for part in chosen if not (corpus_dir / part).is_dir()]
    if not chosen or missing:
        raise corpus_error(corpus_dir, INFO, f"the folders {', '.join(missing)}" if missing else "")
    from lhotse.recipes.librispeech import prepare_librispeech

    listed = {part: _check_transcripts(corpus_dir / part) for part in chosen}
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs)
    manifests = read_manifests(
        work, lambda: prepare_librispeech(corpus_dir, dataset_parts=chosen, normalize_text="lower", num_jobs=jobs)
    )
    write_manifests(work, manifests, {part: part for part in chosen}, listed=listed)


def _check_transcripts(folder: Path) -> int:
    """Number of transcript lines of a part; CorpusError for a line that is not `<speaker>-<chapter>-NNNN TEXT`."""
    count = 0
    for path in visible_files(folder, "**/*.trans.txt"):
        chapter = path.name.removesuffix(".trans.txt")
        for where, line in read_lines(path):
            utt_id, _, text = line.partition(" ")
            if not utt_id.startswith(f"{chapter}-") or not text.strip():
                raise CorpusError(f"{where}: expected '{chapter}-NNNN TEXT', found {line!r}")
            count += 1
    if not count:
        raise CorpusError(f"{folder}: expected <speaker>/<chapter>/*.trans.txt, found none")
    return count
