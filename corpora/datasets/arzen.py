"""ArzEn: Egyptian Arabic mixed with English, interviews, with the splits of ArzEn-ST.

    <corpus>/recordings/<interview>.WAV              one interview: C03-R01
    <lists>/{train,dev,test}.src                     id and text, tab-separated; id: S01-C03-R01_000059-000508, which is
                                                     speaker, interview, start and end in hundredths of a second

Sources: the publisher's page (arzen.camel-lab.com), and the scripts and lists of ahmedheakl/arazn-llm on GitHub. The
splits differ in participants (S01, ...); interviewers (I01, ...) are all in training. Tags ([HES], [LAUGHTER]) are
removed. `*`, which joins the words of an English expression, becomes a space. `+` and `#`, which stand between an
Arabic affix and an English word, stay; text profiles delete them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from corpora.files import CorpusError
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_lines
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="arzen",
    title="ArzEn: Egyptian Arabic mixed with English, interviews",
    tasks=("asr",),
    hours=12,
    licence="ArzEn: none stated; ArzEn-ST: CC BY-SA 4.0",
    access="form",
    by_hand="get ArzEn and ArzEn-ST from arzen.camel-lab.com, and put `transcriptions` of ArzEn-ST into the corpus",
    layout="recordings/C03-R01.WAV, transcriptions/{train,dev,test}.src",
    published={"train": 3344, "dev": 1402, "test": 1470},
)
SPLITS = ("train", "dev", "test")
DIALECT = "EGY"

_ID = re.compile(r"(?P<speaker>[SI]\d+)-(?P<recording>C\d+-R\d+)_(?P<start>\d{6})-(?P<end>\d{6})")
_TAG = re.compile(r"\[[^\]]*\]")


def prepare(
    corpus_dir: Path, out_dir: Path, *, jobs: int = 1, text_profile: str = "artst", splits: Path | None = None
) -> None:
    """Write each of `<out_dir>/{train,dev,test}` that has a list.

    splits: folder of the lists; without it `transcriptions` in the corpus folder.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    inner = find_path(corpus_dir, "ArzEn_SpeechCorpus")
    root = inner if inner.is_dir() else corpus_dir
    if not find_path(root, "recordings").is_dir():
        raise corpus_error(corpus_dir, INFO)
    folders = [splits] if splits else [find_path(root, "transcriptions"), find_path(corpus_dir, "transcriptions")]
    lists = {
        split: path
        for split in SPLITS
        if (path := next((own for folder in folders if (own := find_path(folder, f"{split}.src")).is_file()), None))
    }
    if not lists:
        raise CorpusError(
            f"{folders[0]}: expected train.src, dev.src and test.src of ArzEn-ST, which name the splits; found none of "
            "them (--set splits=FOLDER)"
        )
    work = Preparation(INFO, root, out_dir, jobs=jobs, text_profile=text_profile)
    for split, path in lists.items():
        work.add(split, _items(work, path))
    work.write()


def _items(work: Preparation, path: Path) -> Iterator[Item]:
    for where, line in read_lines(path):
        name, tab, text = line.partition("\t")
        parts = _ID.fullmatch(name.strip())
        if not tab or parts is None:
            work.bad(
                where, f"expected an id such as S01-C03-R01_000059-000508, a tab and the text; found {line[:60]!r}"
            )
            continue
        yield Item(
            f"arzen_{name.strip()}",
            f"arzen_{parts['speaker']}",
            f"recordings/{parts['recording']}.WAV",
            where,
            _TAG.sub(" ", text).replace("*", " "),
            int(parts["start"]) / 100,
            int(parts["end"]) / 100,
            dialect=DIALECT,
        )
