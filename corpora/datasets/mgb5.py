"""MGB-5: Moroccan speech from YouTube, each utterance transcribed by four annotators.

    <corpus>/DB/{train,dev,test}.tar.gz, or unpacked: DB/<split>/{<split>.txt.bw, <split>.segments.bw, *.wav}

Texts are Buckwalter; the word UNK stands for what nobody understood and is deleted. How the files of the four
annotators are called is not confirmed, so the pattern is an option; every file that fits is one annotator. The metric
is the multi-reference word error rate: besides `text`, every set with several references holds `text_<annotator>`.
"""

from __future__ import annotations

from pathlib import Path

from corpora.datasets._mgb import check_script, first_texts, read_texts, recordings_as_speakers, write_references
from corpora.fetch import unpack_once
from corpora.files import CorpusError
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_lines, seconds
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="mgb5",
    title="MGB-5: Moroccan speech from YouTube, four references",
    tasks=("asr",),
    hours=14,
    licence="the publisher's, for research",
    access="form",
    by_hand="fill in the form at arabicspeech.org/mgb5, then fetch DB/train.tar.gz and DB/dev.tar.gz",
    layout="DB/{train,dev,test}.tar.gz, each with <split>/<split>.txt.bw, <split>/<split>.segments.bw and *.wav",
)
SPLITS = ("train", "dev", "test")
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
) -> None:
    """Write `<out_dir>/{train,dev,test}`, those that are there, each with `text_<annotator>` where there are several.

    Archives are unpacked into `<out_dir>/unpacked`.  texts, segments: names of the files; `texts` is a pattern, and
    what its star stands for names the annotator.  script: bw (Buckwalter), utf8 or auto.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    check_script(script)
    root = _unpacked(corpus_dir, out_dir)
    work = Preparation(INFO, root, out_dir, jobs=jobs, text_profile=text_profile)
    references = {}
    for split in SPLITS:
        if not (root / split).is_dir():
            continue
        files = sorted((root / split).glob(texts.format(split=split)))
        listed = root / split / segments.format(split=split)
        if not files or not listed.is_file():
            found = ", ".join(sorted(path.name for path in (root / split).iterdir())[:8]) or "nothing"
            expected = f"{texts.format(split=split)} and {listed.name}"
            raise CorpusError(f"{root / split}: expected {expected}; found {found} (--set texts=, --set segments=)")
        references[split] = {
            _annotator(file, texts.format(split=split)): read_texts(file, script, drop=(UNKNOWN,)) for file in files
        }
        chosen = first_texts(references[split].values(), text_profile)
        work.add(split, recordings_as_speakers(_items(work, root, split, listed, chosen)))
    for split in work.write():
        if len(references[split]) > 1:
            write_references(out_dir / split, references[split], text_profile)


def _unpacked(corpus_dir: Path, out_dir: Path) -> Path:
    """The folder of the unpacked sets; archives are unpacked once."""
    root = corpus_dir / "DB" if (corpus_dir / "DB").is_dir() else corpus_dir
    if any((root / split).is_dir() for split in SPLITS):
        return root
    archives = [root / f"{split}.tar.gz" for split in SPLITS if (root / f"{split}.tar.gz").is_file()]
    if not archives:
        raise corpus_error(corpus_dir, INFO)
    for archive in archives:
        split = archive.name.removesuffix(".tar.gz")
        unpack_once(archive, out_dir / "unpacked" / split, strip=1)
    return out_dir / "unpacked"


def _annotator(file: Path, pattern: str) -> str:
    """What the star of the pattern stands for, "1" where it is nothing."""
    head, _, tail = pattern.partition("*")
    return file.name[len(head) :].removesuffix(tail).strip(".") or "1"


def _items(work: Preparation, root: Path, split: str, listed: Path, texts: dict[str, tuple[str, str]]) -> list[Item]:
    wavs: dict[str, str] = {}
    for path in sorted((root / split).rglob("*.wav")):
        if path.stem in wavs:
            raise CorpusError(f"{path}: a recording of this name is there twice, also as {root / wavs[path.stem]}")
        wavs[path.stem] = path.relative_to(root).as_posix()
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
        source = wavs.get(recording, f"{split}/{recording}.wav")
        items.append(Item(utt_id, utt_id, source, where, texts[utt_id][1], start, end))
    return items
