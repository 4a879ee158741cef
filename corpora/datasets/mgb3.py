"""MGB-3: Egyptian speech from YouTube in seven genres, each utterance transcribed by four annotators.

    <corpus>/wav/<genre>_NN_first_12min.wav
    <corpus>/{adapt,dev,test}/{Alaa,Ali,Mohamed,Omar}/text_noverlap      ids end in start and end, in seconds

The metric is the multi-reference word error rate: besides `text` (by the first annotator who has words for the
utterance), every set holds `text_<annotator>`. Dev and test are scored on the utterances that all annotators have.
"""

from __future__ import annotations

import re
from pathlib import Path

from corpora.datasets._mgb import (
    check_script,
    first_texts,
    read_texts,
    recordings_as_speakers,
    write_clips,
    write_references,
)
from corpora.files import CorpusError
from corpora.prepare import hub
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="mgb3",
    title="MGB-3: Egyptian speech from YouTube, four references",
    tasks=("asr",),
    hours=16,
    licence="the publisher's, for research",
    access="form",
    by_hand="fill in the form at arabicspeech.org/mgb3-asr-2, then fetch the recordings and the transcripts",
    layout="wav/<genre>_NN_first_12min.wav, {adapt,dev,test}/{Alaa,Ali,Mohamed,Omar}/text_noverlap",
)
SPLITS = ("adapt", "dev", "test")
SCORED = ("dev", "test")
ANNOTATORS = ("Alaa", "Ali", "Mohamed", "Omar")

_ID = re.compile(r"(?P<recording>.+)_(?P<start>\d+(\.\d+)?)_(?P<end>\d+(\.\d+)?)")


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = "mgb",
    script: str = "auto",
    annotators: tuple[str, ...] = ANNOTATORS,
    text_file: str = "text_noverlap",
    parquet: tuple[str, ...] = (),
) -> None:
    """Write each of `<out_dir>/{adapt,dev,test}` that the corpus has, each with `text_<annotator>`.

    annotators: in the order of preference for `text`.  script: utf8, bw (Buckwalter) or auto.
    parquet: `field=column` for a copy in Parquet, which has one text for each clip.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    check_script(script)
    shards = hub.shards(corpus_dir)
    if shards:
        write_clips(INFO, corpus_dir, out_dir, shards, jobs=jobs, text_profile=text_profile, chosen=parquet)
        return
    own = find_path(corpus_dir, "mgb3")
    root = own if own.is_dir() else corpus_dir
    splits = [split for split in SPLITS if find_path(root, split).is_dir()]
    if not splits or not find_path(root, "wav").is_dir():
        raise corpus_error(corpus_dir, INFO)
    work = Preparation(INFO, root, out_dir, jobs=jobs, text_profile=text_profile)
    references = {}
    for split in splits:
        files = {name: find_path(root, f"{split}/{name}/{text_file}") for name in annotators}
        files = {name: file for name, file in files.items() if file.is_file()}
        if not files:
            found = ", ".join(sorted(path.name for path in (root / split).iterdir())) or "nothing"
            raise CorpusError(f"{root / split}: expected {'|'.join(annotators)}/{text_file}; found {found}")
        texts = {name: read_texts(file, script) for name, file in files.items()}
        references[split] = texts
        chosen = first_texts(texts.values(), text_profile)
        if split in SCORED:
            chosen = _in_all(work, split, texts, chosen)
        work.add(split, recordings_as_speakers(_items(work, chosen)))
    for split in work.write():
        write_references(out_dir / split, references[split], text_profile)


def _in_all(
    work: Preparation, split: str, texts: dict[str, dict[str, tuple[str, str]]], chosen: dict[str, tuple[str, str]]
) -> dict[str, tuple[str, str]]:
    """The utterances of all annotators; the others are excluded, with an annotator who has not transcribed them."""
    kept = {}
    for utt_id, (where, text) in chosen.items():
        lacking = [name for name, own in texts.items() if utt_id not in own]
        if lacking:
            work.exclude(split, utt_id, where, f"not scored: {lacking[0]} has not transcribed it")
        else:
            kept[utt_id] = where, text
    return kept


def _items(work: Preparation, texts: dict[str, tuple[str, str]]) -> list[Item]:
    items = []
    for utt_id, (where, text) in texts.items():
        parts = _ID.fullmatch(utt_id)
        if not parts:
            work.bad(where, f"expected an id <recording>_<start>_<end> (seconds), found {utt_id!r}")
            continue
        recording, start, end = parts["recording"], float(parts["start"]), float(parts["end"])
        items.append(Item(utt_id, utt_id, f"wav/{recording}.wav", where, text, start, end))
    return items
