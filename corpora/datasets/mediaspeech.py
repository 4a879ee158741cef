"""MediaSpeech, Arabic: short segments of news and talk from YouTube channels of media (CC BY 4.0, OpenSLR 108).

    <corpus>/[AR/]<name>.flac and <name>.txt     the text of each recording beside it

No split is published, and the set is used for evaluation: everything is `test`. Every clip is its own speaker.
"""

from __future__ import annotations

from pathlib import Path

from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_lines
from corpora.prepare.tree import find_path, visible_files
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import LEADERBOARD

INFO = CorpusInfo(
    name="mediaspeech",
    title="MediaSpeech, Arabic: news and talk from media channels",
    tasks=("asr",),
    hours=10,
    licence="CC BY 4.0",
    access="open",
    by_hand="fetch AR.tgz from openslr.org/108",
    layout="AR/<name>.flac with AR/<name>.txt",
)


def prepare(corpus_dir: Path, out_dir: Path, *, jobs: int = 1, text_profile: str = LEADERBOARD) -> None:
    """Write `<out_dir>/test`.

    Raises CorpusError for another layout, TooManyBadFiles past the limit of recordings without text.
    """
    own = find_path(corpus_dir, "AR")
    root = own if own.is_dir() else corpus_dir
    recordings = visible_files(root, "*.flac") + visible_files(root, "*.wav")
    if not recordings:
        raise corpus_error(corpus_dir, INFO)
    work = Preparation(INFO, root, out_dir, jobs=jobs, text_profile=text_profile)
    work.add("test", [item for path in recordings if (item := _item(work, path))])
    work.write()


def _item(work: Preparation, path: Path) -> Item | None:
    text = find_path(path.parent, f"{path.stem}.txt")
    if not text.is_file():
        work.bad(str(path), f"no text beside it, {text.name}")
        return None
    words = " ".join(line for _, line in read_lines(text))
    utt_id = f"mediaspeech_{safe_id(path.stem)}"
    return Item(utt_id, utt_id, path.name, str(text), words)
