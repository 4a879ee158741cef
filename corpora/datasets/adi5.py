"""ADI-5: five Arabic dialects of broadcast news (MGB-3, VarDial), for dialect identification.

    <corpus>/{train,dev,test}/[wav/]{EGY,GLF,LAV,MSA,NOR}/*.wav
        train  EGY000001.wav                     the programme is unknown
        dev    <md5>__<start>_<end>.wav          the programme is the hash
        test   <md5>_<M|F>_<number>_<start>_<end>.wav

The splits are the publisher's. Only dev and test name their programmes. A training recording with the same audio as a
dev or test recording is left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from corpora.datasets._dialect import SPLITS, programme_folds, write_splits
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.sources import list_audio, remove_other_folds
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo, corpus_error

DIALECTS = ("EGY", "GLF", "LAV", "MSA", "NOR")
PUBLISHED = {
    "train": dict(zip(DIALECTS, (3177, 2873, 3118, 2219, 3205), strict=True)),
    "dev": dict(zip(DIALECTS, (315, 265, 348, 283, 355), strict=True)),
    "test": dict(zip(DIALECTS, (302, 250, 334, 262, 344), strict=True)),
}

INFO = CorpusInfo(
    name="adi5",
    title="ADI-5: five Arabic dialects of broadcast news (MGB-3, VarDial 2017)",
    tasks=("did",),
    hours=71.7,
    licence="for research, after registration",
    access="form",
    by_hand="register for the MGB-3 dialect identification data at arabicspeech.org/adi_resources/mgb3, or accept the "
    "terms of the data set ArabicSpeech/MGB-3 on Hugging Face",
    layout="{train,dev,test}/wav/{EGY,GLF,LAV,MSA,NOR}/*.wav",
    published={split: sum(own.values()) for split, own in PUBLISHED.items()},
)

_FILE = {
    "train": re.compile(r"(?P<programme>(?P<dialect>[A-Z]{3})\d+)\.wav", re.IGNORECASE),
    "dev": re.compile(r"(?P<programme>[0-9a-f]{32})__.+\.wav", re.IGNORECASE),
    "test": re.compile(r"(?P<programme>[0-9a-f]{32})_[MF]_.+\.wav", re.IGNORECASE),
}


def prepare(
    corpus_dir: Path, out_dir: Path, *, seed: int = 0, jobs: int = 1, shared: str = "drop", folds: int = 0
) -> None:
    """Write `<out_dir>/{train,dev,test}` with `utt2dialect`; a split without a folder is not written.

    folds: of a part of the corpus; writes `<out_dir>/fold<k>/{train,dev,test}` instead. Each programme of dev and test
    is tested in exactly one fold; the recordings of train, whose programmes are unknown, are training data of every
    fold. seed: of the folds.

    The folder names the label; a training file whose name has another dialect is left out.
    shared: treatment of a programme that is in two splits: drop (from the earlier of train, dev, test), keep or refuse.
    Raises CorpusError for a folder of another layout, TooManyBadFiles past the limit of bad files.
    """
    folders = {split: _folder(find_path(corpus_dir, split)) for split in SPLITS}
    folders = {split: folder.relative_to(corpus_dir).as_posix() for split, folder in folders.items() if folder}
    if not folders:
        raise corpus_error(corpus_dir, INFO)
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs)
    items: dict[str, list[Item]] = {split: [] for split in folders}
    for split, place in folders.items():
        listing = list_audio(corpus_dir, f"{place}/*/*.wav", _FILE[split], info=INFO)
        for source in listing.odd:
            work.bad(source, f"expected a name like {_FILE[split].pattern}")
        for source in listing.named:
            folder, name = source.split("/")[-2:]
            folder = folder.upper()
            parts = _FILE[split].fullmatch(name).groupdict()
            if folder not in DIALECTS or parts.get("dialect", folder).upper() != folder:
                work.bad(source, f"folder {folder} and name do not agree on one of {', '.join(DIALECTS)}")
                continue
            items[split].append(Item(Path(name).stem, parts["programme"], source, source, dialect=folder))
    if not folds:
        write_splits(work, items, shared=shared, published=PUBLISHED)
        remove_other_folds(out_dir, 0)
        return
    known = [item for split in ("dev", "test") for item in items.get(split, ())]
    for number, part in enumerate(programme_folds(known, folds, seed, INFO.name), 1):
        own = Preparation(INFO, corpus_dir, out_dir / f"fold{number}", jobs=jobs)
        part["train"] += items.get("train", [])
        write_splits(own, part, shared=shared, whole=False)
    remove_other_folds(out_dir, folds)


def _folder(split: Path) -> Path | None:
    """The folder with the dialects: `wav/` of a split, or the split itself."""
    places = (find_path(split, "wav"), split)
    return next((folder for folder in places if any(find_path(folder, d).is_dir() for d in DIALECTS)), None)
