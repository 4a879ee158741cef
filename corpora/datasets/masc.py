"""MASC: about 1,000 hours of videos in Arabic and its dialects, with the subtitles of their makers.

    <corpus>/audios/<video>.wav, subtitles/<video>.ar.vtt
    <corpus>/subsets/{clean,noisy}_train.csv, subsets/{clean,noisy}_{dev,test}_meta.csv

    or Parquet, [data/][<clean or noisy>/]{train,validation,test}-*.parquet (audio, video_id, text, type), cut into cues

The cues of a video are its utterances, and the video is the speaker. A list may have a header. The order of the columns
in a list without a header is not confirmed, so it is an option.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from corpora.files import BadFileTally, CorpusError
from corpora.prepare import hub
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_cues, read_rows
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import LEADERBOARD

INFO = CorpusInfo(
    name="masc",
    title="MASC: Massive Arabic Speech Corpus",
    tasks=("asr", "ssl"),
    hours=1000,
    licence="the publisher's; the videos are their makers'",
    access="form",
    by_hand="register at IEEE DataPort and fetch 'MASC: Massive Arabic Speech Corpus'",
    layout="audios/<video>.wav, subtitles/<video>.ar.vtt, subsets/{clean,noisy}_{train,dev_meta,test_meta}.csv",
)
LISTS = {
    f"{quality}_{split}": f"subsets/{quality}_{split}{'' if split == 'train' else '_meta'}.csv"
    for split in ("train", "dev", "test")
    for quality in ("clean", "noisy")
}
COLUMNS = (
    "video_id", "category", "video_duration", "channel_id", "country", "dialect", "gender", "transcript_duration"
)  # fmt: skip

PARQUET_FIELDS = {
    "video": ("video_id", "video"), "text": ("text", "transcript", "sentence"), "type": ("type", "quality"),
    "dialect": ("dialect",),
}  # fmt: skip
_NUMBER = re.compile(r"^\s*\d+\]\s*")  # some subtitles have line numbers


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = LEADERBOARD,
    columns: tuple[str, ...] = COLUMNS,
    subtitles: str = "subtitles/{video}.ar.vtt",
    parquet: tuple[str, ...] = (),
) -> None:
    """Write each of `<out_dir>/{clean,noisy}_{train,dev,test}` that the corpus has lists for.

    columns: their order in a list without a header; video_id and dialect are used.  subtitles: path for each video.
    parquet: `field=column` for a copy in Parquet whose columns have other names.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines, subtitles or recordings.
    """
    shards = hub.shards(corpus_dir)
    if shards:
        rows = hub.Hub(INFO, corpus_dir, out_dir, shards, PARQUET_FIELDS, required=("video", "text"), chosen=parquet)
        work = Preparation(INFO, rows.clips_dir, out_dir, jobs=jobs, text_profile=text_profile)
        for split in rows.splits():
            for clip in rows.clips(split, work.bad):
                work.add(*_clip(clip))
        work.write()
        return
    own = find_path(corpus_dir, "masc")
    root = own if own.is_dir() else corpus_dir
    lists = {split: path for split, name in LISTS.items() if (path := find_path(root, name)).is_file()}
    if not lists or not find_path(root, "audios").is_dir():
        raise corpus_error(corpus_dir, INFO)
    if missing := {"video_id", "dialect"} - set(columns):
        raise CorpusError(f"columns={','.join(columns)}: lacks {', '.join(sorted(missing))}")
    work = Preparation(INFO, root, out_dir, jobs=jobs, text_profile=text_profile)
    videos = work.tally("files of subtitles")
    for split, path in lists.items():
        work.add(split, _items(work, path, columns, subtitles, videos))
    work.write()


def _clip(clip: hub.Clip) -> tuple[str, list[Item]]:
    """The set and the item of a clip. Its quality is the first letter of `type`, or of the configuration's name."""
    quality = {"c": "clean_", "n": "noisy_"}.get((clip["type"] or clip.folder)[:1].lower(), "")
    speaker = f"masc_{safe_id(clip['video'])}"
    dialect = "_".join(clip["dialect"].split()) or "unknown"
    text = _NUMBER.sub("", clip["text"])
    return f"{quality}{clip.split}", [
        Item(f"{speaker}-{clip.name}", speaker, clip.source, clip.where, text, dialect=dialect)
    ]


def _items(
    work: Preparation, path: Path, columns: tuple[str, ...], subtitles: str, videos: BadFileTally
) -> Iterator[Item]:
    for row in read_rows(path, columns, header=None, required=("video_id", "dialect"), bad=work.bad):
        video = row["video_id"]
        videos.total += 1
        if "/" in video or not video:
            work.bad(row.where, f"expected the id of a video, found {video!r}")
            continue
        file = find_path(work.corpus_dir, subtitles.format(video=video))
        try:
            cues = read_cues(file, work.bad)
        except CorpusError as error:
            videos.skip(file, f"{error} (named by {row.where})")
            continue
        speaker = f"masc_{safe_id(video)}"
        dialect = "_".join(row["dialect"].split()) or "unknown"
        for cue in cues:
            utt_id = f"{speaker}-{round(cue.start * 100):07d}-{round(cue.end * 100):07d}"
            text = _NUMBER.sub("", cue.text)
            source = f"audios/{video}.wav"
            yield Item(utt_id, speaker, source, cue.where, text, cue.start, cue.end, dialect=dialect)
