"""MGB-2: about 1,200 hours of Al Jazeera broadcasts in Arabic with aligned captions.

    <corpus>/train/wav/<GUID>.wav, train/xml/{utf8,bw}/<GUID>.xml
    <corpus>/{dev,test}/wav/<GUID>.wav and the texts, segments and id lists of the publisher, Lhotse, Kaldi or ESPnet
    or, as downloaded, <corpus>/{train,dev,test}.tar.gz

The metric is the word error rate on dev and test, which hold the speech of one speaker at a time. dev_overlap and
test_overlap hold overlapping speech.
"""

from __future__ import annotations

from pathlib import Path

from corpora.datasets._mgb import add_scored_set, check_script, training_items, unpacked
from corpora.files import CorpusError
from corpora.prepare.preparation import Preparation
from corpora.prepare.tree import find_path, visible_files
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="mgb2",
    title="MGB-2: Arabic broadcasts of Al Jazeera",
    tasks=("asr", "ssl"),
    hours=1200,
    licence="the publisher's, for research",
    access="form",
    by_hand="fill in the form at arabicspeech.org/mgb2 (or accept the terms of QCRI/mgb2 on Hugging Face), "
    "then fetch train, dev and test",
    layout="train/wav/<GUID>.wav, train/xml/utf8/<GUID>.xml (or bw/), {dev,test}/wav/ with text and segments, or the "
    "same in {train,dev,test}.tar.gz",
    published={"train": 375103, "dev": 5002, "dev_overlap": 840, "test": 5365, "test_overlap": 290},
)
SPLITS = ("train", "dev", "test")
MAX_WMER = 80.0


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = "mgb",
    max_wmer: float = MAX_WMER,
    script: str = "auto",
) -> None:
    """Write each of `<out_dir>/{train,dev,dev_overlap,test,test_overlap}` that the corpus has.

    Archives (`<split>.tar.gz`, as downloaded) are unpacked into `<out_dir>/unpacked`.
    max_wmer: training segments with a higher word matching error rate (%) are excluded; the published count is for 80.
    script: utf8, bw (Buckwalter), or auto: UTF-8 if the corpus has it, else Buckwalter.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    check_script(script)
    corpus_dir = unpacked(corpus_dir, out_dir, SPLITS)
    folders = {name: folder for name in SPLITS if (folder := find_path(corpus_dir, name)).is_dir()}
    if not folders:
        raise corpus_error(corpus_dir, INFO)
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs, text_profile=text_profile)
    if "train" in folders:
        own, files = _transcripts(find_path(folders["train"], "xml"), script)
        items = training_items(work, "train", files, "train/wav", script=own, max_wmer=max_wmer, jobs=jobs)
        work.add("train", items)
    for name in ("dev", "test"):
        if name in folders:
            add_scored_set(work, name, folders[name], script=script)
    work.write({name: count for name, count in INFO.published.items() if name != "train" or max_wmer == MAX_WMER})


def _transcripts(folder: Path, script: str) -> tuple[str, list[Path]]:
    """The script of the transcripts to use, and their files."""
    names = ("utf8", "bw") if script == "auto" else (script,)
    for name in names:
        files = visible_files(find_path(folder, name), "*.xml")
        if files:
            return name, files
    expected = " or ".join(f"{name}/<GUID>.xml" for name in names)
    found = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
    raise CorpusError(f"{folder}: expected {expected}; found {found or 'nothing'}")
