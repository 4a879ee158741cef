"""QASR: about 2,000 hours of Al Jazeera broadcasts in Arabic with aligned captions, in the XML of MGB-2.

    <corpus>/release/train_20210109/xml/<recording>.xml
    <corpus>/release/{dev,test}/{wav/,text.verbatim.nonoverlap}   times come from the ids
    <corpus>/wav/<recording>.wav                                  the training recordings

As downloaded, `release/` is in a folder `mgb2.1` (qasr_annotation_v1.0/mgb2.1/release), and so is `wav/`
(alt/arabic-speech-web/mgb2.1/wav): both are found at any depth below the corpus. Names are known from third-party
scripts, so they are options.
"""

from __future__ import annotations

from pathlib import Path

from corpora.datasets._mgb import add_scored_set, check_script, training_items
from corpora.files import CorpusError
from corpora.prepare.preparation import Preparation
from corpora.prepare.tree import find_path, visible_files
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="qasr",
    title="QASR: QCRI's corpus of Al Jazeera broadcasts",
    tasks=("asr", "ssl"),
    hours=2000,
    licence="the publisher's, for research",
    access="form",
    by_hand="fill in the form at arabicspeech.org/qasr (or accept the terms of QCRI/QASR on Hugging Face), "
    "then fetch the recordings and the release",
    layout="wav/<recording>.wav, release/train_20210109/xml/, release/{dev,test}/{wav/,text.verbatim.nonoverlap}",
    published={"train": 1592226, "dev": 5002, "test": 5366},
)


MAX_WMER = 80.0


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = "mgb",
    script: str = "auto",
    max_wmer: float = MAX_WMER,
    release: str = "release",
    train_folder: str = "train_20210109",
    wav_folder: str = "wav",
) -> None:
    """Write each of `<out_dir>/{train,dev,test}` that the corpus has.

    script: utf8, bw (Buckwalter), or auto: Buckwalter where a transcript has no letter in Arabic script.
    max_wmer: training segments with a higher word matching error rate (%) are excluded; the published count is for 80.
    release, train_folder, wav_folder: names in the layout.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    check_script(script)
    root = _below(corpus_dir, release)
    folders = {name: find_path(root, name) for name in (train_folder, "dev", "test")} if root else {}
    folders = {name: folder for name, folder in folders.items() if folder.is_dir()}
    if not folders:
        raise corpus_error(corpus_dir, INFO, f"{release}/{{{train_folder},dev,test}}/")
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs, text_profile=text_profile)
    if train_folder in folders:
        files = visible_files(find_path(folders[train_folder], "xml"), "*.xml")
        if not files:
            raise CorpusError(f"{folders[train_folder] / 'xml'}: expected <recording>.xml; found none")
        wavs = (_below(corpus_dir, wav_folder) or corpus_dir / wav_folder).relative_to(corpus_dir).as_posix()
        items = training_items(work, "train", files, wavs, script=script, max_wmer=max_wmer, jobs=jobs)
        work.add("train", items)
    for name in ("dev", "test"):
        if name in folders:
            add_scored_set(work, name, folders[name], script=script)
    work.write({name: count for name, count in INFO.published.items() if name != "train" or max_wmer == MAX_WMER})


def _below(corpus_dir: Path, name: str) -> Path | None:
    """The folder of a name in the corpus folder, or in a folder `mgb2.1` at any depth below it; None if neither is."""
    places = (corpus_dir, *sorted(corpus_dir.glob("**/mgb2.1")))
    return next((folder for place in places if (folder := find_path(place, name)).is_dir()), None)
