"""Multilingual TEDx, Arabic: TEDx talks with subtitles, cut into sentences (CC BY-NC-ND 4.0, OpenSLR 100).

    <corpus>/[ar-ar/]data/{train,valid,test}/wav/<talk>.flac
    <corpus>/[ar-ar/]data/{train,valid,test}/txt/segments and <split>.ar    sentence by sentence, one line each
    or                                       vtt/<talk>.ar.vtt              subtitles, used where txt/ is missing

A line of `segments` reads "<sentence> <talk> <start> <end>"; the line of the same number in `<split>.ar` is its text.
The talk is the speaker.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corpora.files import CorpusError
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_cues, read_lines, seconds
from corpora.prepare.tree import find_path, visible_files
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import LEADERBOARD

INFO = CorpusInfo(
    name="mtedx",
    title="Multilingual TEDx, Arabic: talks",
    tasks=("asr", "ssl"),
    hours=18,
    licence="CC BY-NC-ND 4.0",
    access="open",
    by_hand="fetch mtedx_ar.tgz from openslr.org/100",
    layout="ar-ar/data/{train,valid,test}/{wav/<talk>.flac,txt/segments,txt/<split>.ar,vtt/<talk>.ar.vtt}",
)
SPLITS = {"train": "train", "dev": "valid", "test": "test"}


def prepare(
    corpus_dir: Path, out_dir: Path, *, jobs: int = 1, text_profile: str = LEADERBOARD, language: str = "ar"
) -> None:
    """Write each of `<out_dir>/{train,dev,test}` that the corpus has.

    language: of the talks, as in the names of the files.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    own = find_path(corpus_dir, f"{language}-{language}")
    root = own if own.is_dir() else corpus_dir
    folders = {split: find_path(root, f"data/{name}") for split, name in SPLITS.items()}
    folders = {split: folder for split, folder in folders.items() if find_path(folder, "wav").is_dir()}
    if not folders:
        raise corpus_error(corpus_dir, INFO)
    work = Preparation(INFO, root, out_dir, jobs=jobs, text_profile=text_profile)
    for split, folder in folders.items():
        listed = find_path(folder, "txt/segments")
        items = _sentences if listed.is_file() else _cues
        work.add(split, items(work, folder, SPLITS[split], language))
    work.write()


def _sentences(work: Preparation, folder: Path, name: str, language: str) -> Iterator[Item]:
    segments = list(read_lines(find_path(folder, "txt/segments")))
    texts = list(read_lines(find_path(folder, f"txt/{name}.{language}"), empty=True))
    texts = texts[:-1] if texts and not texts[-1][1] else texts  # after the last line feed
    if len(segments) != len(texts):
        raise CorpusError(
            f"{folder / 'txt'}: {len(segments)} lines in segments and {len(texts)} in {name}.{language}; expected one "
            "line for each sentence in both"
        )
    for (where, line), (text_where, text) in zip(segments, texts, strict=True):
        fields = line.split()
        if len(fields) != 4:
            work.bad(where, f"expected '<sentence> <talk> <start> <end>', found {line!r}")
            continue
        start, end = (seconds(where, field, work.bad) for field in fields[2:])
        if start is not None and end is not None:
            yield _item(work, folder, fields[1], start, end, text, text_where, language)


def _cues(work: Preparation, folder: Path, name: str, language: str) -> Iterator[Item]:
    for path in visible_files(find_path(folder, "vtt"), f"*.{language}.vtt"):
        for cue in read_cues(path, work.bad):
            yield _item(work, folder, path.name.split(".")[0], cue.start, cue.end, cue.text, cue.where, language)


def _item(
    work: Preparation, folder: Path, talk: str, start: float, end: float, text: str, where: str, language: str
) -> Item:
    speaker = f"mtedx_{safe_id(talk)}"
    utt_id = f"{speaker}-{round(start * 100):07d}-{round(end * 100):07d}"
    source = find_path(folder, f"wav/{talk}.flac").relative_to(work.corpus_dir).as_posix()
    return Item(utt_id, speaker, source, where, text, start, end, language=language)
