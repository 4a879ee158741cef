"""Omani speech: 148 clips of Omani television and video with verbatim transcripts.

    <corpus>/audios/<clip>.mp3
    <corpus>/transcripts/text<NN>.html     a table for each recording: translations, the text with its clip, the speaker
    <corpus>/transcripts/*.txt             notes, without clips: not read

A row's text is the link to its clip; a cell after it names the speaker by one letter, if the recording has several.
Marks of footnotes are no part of the text, and `[…]` are words that were not understood. No split is published:
whole recordings are train, dev and test, so that no speaker is in two of them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

from corpora.files import CorpusError
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.tree import find_path, visible_files
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import LEADERBOARD, to_buckwalter

INFO = CorpusInfo(
    name="omani",
    title="Omani speech: television and video in the dialect of Oman",
    tasks=("asr", "did"),
    hours=0.2,
    licence="none stated by the publisher: evaluation only, do not redistribute",
    access="open",
    by_hand="fetch the repository of transcribed Omani speech (audios/ and transcripts/)",
    layout="audios/<clip>.mp3 and transcripts/text<NN>.html",
    published={"train": 96, "dev": 19, "test": 33},
)
DIALECT = "OMA"
SPLIT_OF = {"text03": "test", "text07": "dev"}  # other recordings are training data

_UNCLEAR = re.compile(r"\[\s*(?:…|\.\.\.)\s*\]|…")
_SPEAKER = re.compile("[\u0621-\u064a]{1,2}")
_log = logging.getLogger(__name__)


def prepare(corpus_dir: Path, out_dir: Path, *, jobs: int = 1, text_profile: str = LEADERBOARD) -> None:
    """Write `<out_dir>/{train,dev,test}` with `text` and `utt2dialect`.

    Raises CorpusError for another layout, TooManyBadFiles past the limit of rows without a clip.
    """
    tables = visible_files(find_path(corpus_dir, "transcripts"), "*.html")
    audios = find_path(corpus_dir, "audios")
    if not tables or not audios.is_dir():
        raise corpus_error(corpus_dir, INFO)
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs, text_profile=text_profile)
    named: set[str] = set()
    for table in tables:
        items = list(_items(table))
        if not items:
            raise CorpusError(f"{table}: expected a table with links to ../audios/<clip>.mp3; found none")
        named |= {Path(item.source).stem.lower() for item in items}
        work.add(SPLIT_OF.get(table.stem.lower(), "train"), items)
    unnamed = [path.name for path in visible_files(audios, "*.mp3") if path.stem.lower() not in named]
    if unnamed:
        _log.info("%s: %d clips have no transcript, as %s", INFO.name, len(unnamed), unnamed[0])
    work.write()


def _items(table: Path) -> Iterator[Item]:
    parser = _Rows(table)
    parser.feed(table.read_text(encoding="utf-8-sig"))
    parser.close()
    recording = safe_id(table.stem.lower())
    for where, clip, text, speaker in parser.rows:
        name = PurePosixPath(clip).name
        owner = f"omani_{recording}_{safe_id(to_buckwalter(speaker))}" if speaker else f"omani_{recording}"
        utt_id = f"{owner}-{safe_id(Path(name).stem)}"
        yield Item(utt_id, owner, f"audios/{name}", where, _UNCLEAR.sub(" ", text), dialect=DIALECT)


class _Rows(HTMLParser):
    """Collects (place, clip, text, speaker) of the table rows that link a clip."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self._path = path
        self.rows: list[tuple[str, str, str, str]] = []
        self._clip: tuple[str, str] | None = None  # place and address
        self._cells: list[list[str]] = []  # the cell of the link, and those after it
        self._footnote = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get("href") or ""
        if tag == "tr":
            self._clip, self._cells = None, []
        elif tag == "sup":
            self._footnote += 1
        elif tag == "td" and self._clip:
            self._cells.append([])
        elif tag == "a" and "audios/" in address:  # links of footnotes may stand inside this one
            self._clip, self._cells = (f"{self._path}:{self.getpos()[0]}", address), [[]]

    def handle_endtag(self, tag: str) -> None:
        if tag == "sup":
            self._footnote = max(0, self._footnote - 1)
        elif tag == "tr" and self._clip:
            words, *others = [" ".join("".join(cell).split()) for cell in self._cells]
            speaker = next((other for other in others if _SPEAKER.fullmatch(other)), "")
            self.rows.append((*self._clip, words, speaker))
            self._clip = None

    def handle_data(self, data: str) -> None:
        if self._cells and not self._footnote:
            self._cells[-1].append(data)
