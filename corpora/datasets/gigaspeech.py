"""GigaSpeech through Lhotse's recipe: English from audiobooks, podcasts and video, 16 kHz Opus.

    <corpus>/GigaSpeech.json            {"audios": [{"aid", "path", "segments": [...], ...}]}
    <corpus>/audio/**/*.opus

Most recordings have no speaker; such a recording is its own speaker. Segments without words (<SIL>, <MUSIC>, <NOISE>,
<OTHER>) are left out, and the marks of punctuation are removed from the text.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from corpora.datasets._options import check_choice
from corpora.files import CorpusError
from corpora.prepare.lhotse import read_manifests, write_manifests
from corpora.prepare.preparation import Preparation
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="gigaspeech",
    title="GigaSpeech: English audiobooks, podcasts and video",
    tasks=("asr", "ssl"),
    hours=10000,
    licence="audio: that of its owners, for research; lists: Apache-2.0",
    access="form",
    by_hand="ask for the password at github.com/SpeechColab/GigaSpeech and fetch with its tools",
    layout="GigaSpeech.json, audio/**/*.opus",
    languages=("en",),
)
SUBSETS = ("XL", "L", "M", "S", "XS")
_TAG = re.compile(r"<[A-Z_]+>")


def prepare(corpus_dir: Path, out_dir: Path, *, jobs: int = 1, subset: str = "XL") -> None:
    """Write `<out_dir>/{train,dev,test}` with `segments`, text in lower case.

    subset: the training set: XL, L, M, S or XS.
    Raises CorpusError for a folder of another layout and, with its place, for JSON that cannot be read.
    """
    check_choice("subset", subset, SUBSETS)
    if not (corpus_dir / "GigaSpeech.json").is_file():
        raise corpus_error(corpus_dir, INFO)
    from lhotse.recipes.gigaspeech import prepare_gigaspeech

    _check_json(corpus_dir / "GigaSpeech.json")
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs)
    sets = {subset: "train", "DEV": "dev", "TEST": "test"}
    out_dir.mkdir(parents=True, exist_ok=True)
    # Lhotse reuses a list that a killed run has written in part, so its lists are deleted after this call.
    with TemporaryDirectory(dir=out_dir, prefix=".lhotse-") as folder:
        manifests = read_manifests(work, lambda: prepare_gigaspeech(corpus_dir, folder, dataset_parts=list(sets)))
        write_manifests(work, manifests, sets, clean=clean)


def clean(text: str) -> str:
    """The words of a segment: "HELLO <COMMA> WORLD <PERIOD>" -> "hello world"."""
    return " ".join(_TAG.sub(" ", text).lower().split())


def _check_json(path: Path) -> None:
    """Raise CorpusError, with the place, for a damaged list.

    Lhotse reads the list in a thread and ignores that thread's errors: it would treat the part before the damage as the
    whole corpus. Therefore the whole list, some gigabytes, is read here as a stream.
    """
    import ijson

    with path.open("rb") as file:
        try:
            if not sum(1 for _ in ijson.items(file, "audios.item.aid")):
                raise CorpusError(f"{path}: expected an object with the list `audios`, found none")
        except ijson.JSONError as error:
            reason = " ".join(str(error).split())
            raise CorpusError(f"{path}: damaged JSON near byte {file.tell()}: {reason}") from error
