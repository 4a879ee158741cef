"""Write the sets of a transcribed corpus that its publisher ships as Parquet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from corpora.prepare import hub
from corpora.prepare.preparation import Item, Preparation
from corpora.registry import CorpusInfo, corpus_error


def write_clips(
    info: CorpusInfo,
    corpus_dir: Path,
    out_dir: Path,
    fields: Mapping[str, Sequence[str]],
    item: Callable[[hub.Clip], Item | None],
    *,
    jobs: int,
    text_profile: str,
    chosen: Sequence[str] = (),
    folders: Callable[[str], bool] = lambda name: True,
    set_of: Callable[[hub.Clip], str] = lambda clip: clip.split,
) -> None:
    """Write the sets of all shards.

    fields, chosen: as for `hub.Hub`.  item: of a clip; None leaves it out.  folders: the configurations to use.
    set_of: name of a clip's set. Raises CorpusError for a folder without shards, TooManyBadFiles.
    """
    shards = hub.shards(corpus_dir, folders)
    if not shards:
        raise corpus_error(corpus_dir, info)
    rows = hub.Hub(info, corpus_dir, out_dir, shards, fields, chosen=chosen)
    work = Preparation(info, rows.clips_dir, out_dir, jobs=jobs, text_profile=text_profile)
    for split in rows.splits():
        for clip in rows.clips(split, work.bad):
            own = item(clip)
            if own is not None:
                work.add(set_of(clip), [own])
    work.write()
