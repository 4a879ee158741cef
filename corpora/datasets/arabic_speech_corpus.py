"""Arabic Speech Corpus: one speaker of Damascene Arabic in a studio, for synthesis, with vowel marks (CC BY 4.0).

    <corpus>/arabic-speech-corpus/{wav/*.wav, lab/, orthographic-transcript.txt, phonetic-transcipt.txt}
    <corpus>/arabic-speech-corpus/test set/{wav/*.wav, orthographic-transcript.txt}

A line reads `"x.wav" "text"` in Buckwalter. `phonetic-transcipt.txt` is the publisher's spelling; the test set has
`phonetic-transcript.txt`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from corpora.datasets._options import check_choice
from corpora.files import CorpusError
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_lines
from corpora.prepare.sources import safe_relative
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import LEADERBOARD, from_buckwalter

INFO = CorpusInfo(
    name="arabic_speech_corpus",
    title="Arabic Speech Corpus: one speaker, 48 kHz, diacritised",
    tasks=("asr",),
    hours=3.7,
    licence="CC BY 4.0",
    access="open",
    by_hand="fetch arabic-speech-corpus.zip from en.arabicspeechcorpus.com",
    layout="arabic-speech-corpus/{wav/*.wav,orthographic-transcript.txt} and 'test set/' with the same",
    published={"train": 1813, "test": 100},
)
SPLITS = {"train": "", "test": "test set"}
TRANSCRIPTS = {
    "orthographic": ("orthographic-transcript.txt",),
    "phonetic": ("phonetic-transcipt.txt", "phonetic-transcript.txt"),
}
SPEAKER = "arabicspeechcorpus"

_LINE = re.compile(r'"(?P<file>[^"]+\.wav)"\s+"(?P<text>.*)"', re.IGNORECASE)


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = LEADERBOARD,
    transcript: str = "orthographic",
) -> None:
    """Write `<out_dir>/{train,test}`. With text_profile=none the text keeps its vowel marks.

    transcript: orthographic (Arabic letters), or phonetic (the publisher's symbols, in no text profile).
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad lines or recordings.
    """
    check_choice("transcript", transcript, TRANSCRIPTS)
    root = find_path(corpus_dir, "arabic-speech-corpus")
    root = root if root.is_dir() else corpus_dir
    if not find_path(root, "wav").is_dir():
        raise corpus_error(corpus_dir, INFO)
    profile = "none" if transcript == "phonetic" else text_profile
    work = Preparation(INFO, root, out_dir, jobs=jobs, text_profile=profile)
    for split, folder in SPLITS.items():
        if not find_path(root, folder).is_dir():
            continue
        names = TRANSCRIPTS[transcript]
        listed = (find_path(root, f"{folder}/{name}".lstrip("/")) for name in names)
        path = next((path for path in listed if path.is_file()), None)
        if path is None:
            found = ", ".join(sorted(path.name for path in find_path(root, folder).iterdir())) or "nothing"
            raise CorpusError(f"{root / folder}: expected {' or '.join(names)}; found {found}")
        work.add(split, _items(work, path, folder, split, buckwalter=transcript == "orthographic"))
    work.write()


def _items(work: Preparation, path: Path, folder: str, split: str, *, buckwalter: bool) -> Iterator[Item]:
    for where, line in read_lines(path):
        parts = _LINE.fullmatch(line)
        if not parts:
            work.bad(where, f'expected "<file>.wav" "<text>", found {line!r}')
            continue
        file, text = safe_relative(parts["file"]) or parts["file"], parts["text"]
        source = f"{folder}/wav/{file}" if folder else f"wav/{file}"
        utt_id = f"{SPEAKER}-{split}-{safe_id(Path(file).stem)}"
        yield Item(utt_id, SPEAKER, source, where, from_buckwalter(text) if buckwalter else text)
