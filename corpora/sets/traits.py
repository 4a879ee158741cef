"""Single-word recordings for probes of what a representation keeps besides the words: who speaks, and which language.

    <out>/speaker/{train,test}    all speakers of one corpus; the words of the test are in no training recording
    <out>/language/{train,test}   two corpora in two languages; the speakers of the test are in no training recording

Corpora differ in more than their language (room, microphone, gaps), and a probe may use all of it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from corpora.datadir import Utterance, write_datadir
from corpora.prepare.word_strings import Word

TEST_SHARE = 1 / 3  # of the words, or of the speakers
Sets = dict[str, list[tuple[Word, str]]]


def speaker_sets(words: Sequence[Word], language: str, *, seed: int = 0) -> Sets:
    """`train` and `test` by word. Speakers without recordings on both sides are left out."""
    texts = sorted({word.text for word in words if word.text is not None})
    held = set(_share(texts, seed, "words"))
    sets = {
        "train": [word for word in words if word.text is not None and word.text not in held],
        "test": [word for word in words if word.text in held],
    }
    both = {word.speaker for word in sets["train"]} & {word.speaker for word in sets["test"]}
    return {split: [(word, language) for word in own if word.speaker in both] for split, own in sets.items()}


def language_sets(words: Mapping[str, Sequence[Word]], *, seed: int = 0) -> Sets:
    """`train` and `test` by speaker, from the words of every language."""
    sets: Sets = {"train": [], "test": []}
    for language, own in words.items():
        held = set(_share(sorted({word.speaker for word in own}), seed, language))
        for word in own:
            sets["test" if word.speaker in held else "train"].append((word, language))
    return sets


def write_sets(out_dir: Path, name: str, sets: Sets) -> dict[str, int]:
    """Write `<out_dir>/<name>/{train,test}`; how many recordings each holds. Nothing, and an empty answer, where
    there would be fewer than two classes on either side, as in a part of a corpus."""
    classes = [{word.speaker if name == "speaker" else language for word, language in own} for own in sets.values()]
    if any(len(own) < 2 for own in classes):
        return {}
    for split, own in sets.items():
        write_datadir(out_dir / name / split, _utterances(own))
    return {split: len(own) for split, own in sets.items()}


def _share(items: list[str], seed: int, name: str) -> list[str]:
    """TEST_SHARE of the items, at least one."""
    random.Random(f"{seed}/traits/{name}").shuffle(items)
    return items[: max(1, round(TEST_SHARE * len(items)))]


def _utterances(own: Iterable[tuple[Word, str]]) -> list[Utterance]:
    count: Counter[str] = Counter()
    made = []
    for word, language in sorted(own, key=lambda item: (item[0].speaker, item[0].recording.source)):
        count[word.speaker] += 1
        made.append(
            Utterance(
                utt_id=f"{word.speaker}-w{count[word.speaker]:05d}",
                speaker=word.speaker,
                audio=word.recording.path,
                samples=word.recording.samples,
                text=word.text,
                language=language,
            )
        )
    return made
