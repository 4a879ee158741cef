"""MGB-5: Moroccan speech from YouTube, each utterance transcribed by four annotators.

    <corpus>/DB/{train,dev,test}.tar.gz, or unpacked: DB/<split>/{<split>.txt.bw, <split>.segments.bw, *.wav}

Texts are Buckwalter; the word UNK marks unintelligible speech and is deleted. The publisher pools the segmentations of
the four annotators in one pair of files, so a stretch of audio is listed up to four times. In dev and test, the lines
of one stretch become one utterance with several references. A copy with one text file for each annotator is read too
(option `texts`). The metric is the multi-reference word error rate: every set with several references holds
`text_<annotator>` besides `text`.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from corpora.datasets._mgb import (
    check_script,
    first_texts,
    read_texts,
    recordings_as_speakers,
    unpacked,
    write_clips,
    write_references,
)
from corpora.files import CorpusError
from corpora.prepare import hub
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_lines, seconds
from corpora.prepare.tree import find_path, visible_files
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import normalise, printable

INFO = CorpusInfo(
    name="mgb5",
    title="MGB-5: Moroccan speech from YouTube, four references",
    tasks=("asr",),
    hours=14,
    licence="the publisher's, for research",
    access="form",
    by_hand="fill in the form at arabicspeech.org/mgb5 (or accept the terms of the data set ArabicSpeech/MGB-5 on "
    "Hugging Face), then fetch DB/train.tar.gz and DB/dev.tar.gz",
    layout="DB/{train,dev,test}.tar.gz, each with <split>/<split>.txt.bw, <split>/<split>.segments.bw and *.wav",
)
SPLITS = ("train", "dev", "test")
SCORED = ("dev", "test")
UNKNOWN = "UNK"


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = "mgb",
    script: str = "bw",
    texts: str = "{split}.txt*.bw",
    segments: str = "{split}.segments.bw",
    parquet: tuple[str, ...] = (),
) -> None:
    """Write each of `<out_dir>/{train,dev,test}` that the corpus has, with `text_<annotator>` for several references.

    Archives are unpacked into `<out_dir>/unpacked`.  parquet: `field=column` for a copy in Parquet, which has one text
    for each clip.  texts, segments: names of the files. `texts` is a pattern; the
    text in place of its star is the annotator.  script: bw (Buckwalter), utf8 or auto.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    check_script(script)
    shards = hub.shards(corpus_dir)
    if shards:
        write_clips(INFO, corpus_dir, out_dir, shards, jobs=jobs, text_profile=text_profile, chosen=parquet)
        return
    own = find_path(corpus_dir, "DB")
    root = unpacked(own if own.is_dir() else corpus_dir, out_dir, SPLITS)
    splits = [split for split in SPLITS if find_path(root, split).is_dir()]
    if not splits:
        raise corpus_error(corpus_dir, INFO)
    work = Preparation(INFO, root, out_dir, jobs=jobs, text_profile=text_profile)
    references = {}
    for split in splits:
        folder, pattern = find_path(root, split), texts.format(split=split)
        listed = find_path(folder, segments.format(split=split))
        files = visible_files(folder, pattern)
        if not files or not listed.is_file():
            found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            raise CorpusError(
                f"{folder}: expected {pattern} and {listed.name}; found {found} (--set texts=, --set segments=)"
            )
        own = {_annotator(file, pattern): read_texts(file, script, drop=(UNKNOWN,)) for file in files}
        items = _items(work, root, split, listed, first_texts(own.values(), text_profile))
        if len(files) == 1 and split in SCORED:
            items, own = _pool(items, text_profile)
        references[split] = own
        work.add(split, recordings_as_speakers(items))
    for split in work.write():
        if len(references[split]) > 1:
            write_references(out_dir / split, references[split], text_profile)


def _pool(items: list[Item], profile: str) -> tuple[list[Item], dict[str, dict[str, tuple[str, str]]]]:
    """One item for each stretch of audio, and the references of all: "1" to "4", in the order of the list.

    The item is the first one with words in the text profile.
    """
    stretches: dict[object, list[Item]] = defaultdict(list)
    for item in items:
        stretches[item.source, item.start, item.end].append(item)
    kept, references = [], defaultdict(dict)
    for own in stretches.values():
        worded = [item for item in own if normalise(printable(item.text), profile)]
        kept.append((worded or own)[0])
        for number, item in enumerate(worded, 1):
            references[str(number)][kept[-1].utt_id] = item.where, item.text
    return kept, references


def _annotator(file: Path, pattern: str) -> str:
    """The part of a file's name in place of the pattern's star, or "1" if that part is empty."""
    head, _, tail = pattern.partition("*")
    return file.name[len(head) :].removesuffix(tail).strip(".") or "1"


def _items(work: Preparation, root: Path, split: str, listed: Path, texts: dict[str, tuple[str, str]]) -> list[Item]:
    wavs: dict[str, str] = {}
    for path in visible_files(find_path(root, split), "**/*.wav"):
        if path.stem in wavs:
            raise CorpusError(f"{path}: two recordings have this name, the other one is {root / wavs[path.stem]}")
        wavs[path.stem] = path.relative_to(root).as_posix()
    alike = {name.casefold(): source for name, source in wavs.items()}
    items = []
    for where, line in read_lines(listed):
        fields = line.split()
        if len(fields) != 4:
            work.bad(where, f"expected 'utterance recording start end', found {line!r}")
            continue
        utt_id, recording = fields[:2]
        start, end = (seconds(where, field, work.bad) for field in fields[2:])
        if start is None or end is None:
            continue
        if utt_id not in texts:
            work.bad(where, f"{utt_id} has no text")
            continue
        source = wavs.get(recording) or alike.get(recording.casefold(), f"{split}/{recording}.wav")
        items.append(Item(utt_id, utt_id, source, where, texts[utt_id][1], start, end))
    return items
