"""QASR: about 2,000 hours of Al Jazeera broadcasts in Arabic with aligned captions, in the XML of MGB-2.

    <corpus>/wav/<recording>.wav                                  the training recordings
    <corpus>/release/train_20210109/xml/<recording>.xml
    <corpus>/release/{dev,test}/{wav/,text.verbatim.nonoverlap}   times come from the ids

Known from one third-party script: the release's folder, the text's name and the training folder are options.
"""

from __future__ import annotations

from pathlib import Path

from corpora.datasets._mgb import add_scored_set, check_script, training_items
from corpora.files import CorpusError
from corpora.prepare.preparation import Preparation
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="qasr",
    title="QASR: QCRI's corpus of Al Jazeera broadcasts",
    tasks=("asr", "ssl"),
    hours=2000,
    licence="the publisher's, for research",
    access="form",
    by_hand="fill in the form at arabicspeech.org/qasr, then fetch the recordings and the release",
    layout="wav/<recording>.wav, release/train_20210109/xml/, release/{dev,test}/{wav/,text.verbatim.nonoverlap}",
    published={"train": 1592226, "dev": 5002, "test": 5366},
)


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = "mgb",
    script: str = "auto",
    max_wmer: float = float("inf"),
    release: str = "release",
    train_folder: str = "train_20210109",
    wav_folder: str = "wav",
) -> None:
    """Write `<out_dir>/{train,dev,test}`, those whose folders are there.

    script: utf8, bw (Buckwalter), or auto: Buckwalter where a transcript has no letter in Arabic script.
    max_wmer: training segments whose captions match worse (%) are excluded; the published count is that of all.
    release, train_folder, wav_folder: names in the layout, which nobody has confirmed.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    check_script(script)
    folders = {name: corpus_dir / release / name for name in (train_folder, "dev", "test")}
    folders = {name: folder for name, folder in folders.items() if folder.is_dir()}
    if not folders:
        raise corpus_error(corpus_dir, INFO, f"{release}/{{{train_folder},dev,test}}/")
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs, text_profile=text_profile)
    if train_folder in folders:
        files = sorted((folders[train_folder] / "xml").glob("*.xml"))
        if not files:
            raise CorpusError(f"{folders[train_folder] / 'xml'}: expected <recording>.xml; found none")
        items = training_items(work, "train", files, wav_folder, script=script, max_wmer=max_wmer, jobs=jobs)
        work.add("train", items)
    for name in ("dev", "test"):
        if name in folders:
            add_scored_set(work, name, folders[name], script=script)
    whole = max_wmer == float("inf")
    work.write({name: count for name, count in INFO.published.items() if name != "train" or whole})
