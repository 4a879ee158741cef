"""Verse clips: 43 recitations of one to five verses of the Quran, by a crowd and by studio reciters: find the verse.

    <corpus>/manifest.json     {"samples": [{"file", "category", "source", "expected_verses": [{"surah", "ayah"}]}]}
    <corpus>/<file>            WAV or MP3
    quran.json                 the text of the verses, as in the corpus everyayah

The set is for evaluation alone: everything is in `test`, and in `test_crowd` or `test_studio`. The speakers are
unknown: every clip is its own speaker. Studio clips are recordings of EveryAyah: do not train on them before scoring.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpora.datasets.everyayah import read_quran
from corpora.files import CorpusError, read_json
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo, corpus_error
from corpora.text import normalise

INFO = CorpusInfo(
    name="verse_clips",
    title="Verse clips: recitations by a crowd and by studio reciters, for evaluation",
    tasks=("asr",),
    hours=0.3,
    licence="recordings of EveryAyah and RetaSy: evaluation only, do not redistribute",
    access="open",
    by_hand="fetch the benchmark clips with their manifest.json from yazinsai/offline-tarteel on GitHub",
    layout="manifest.json and the clips that it names; quran.json there, or --set quran=PATH",
    published={"test": 43},
)
SOURCES = {"retasy": "crowd", "everyayah": "studio"}
QURAN = "quran.json"


def prepare(
    corpus_dir: Path, out_dir: Path, *, jobs: int = 1, text_profile: str = "mgb", quran: Path | None = None
) -> None:
    """Write `<out_dir>/test`, and `<out_dir>/test_{crowd,studio}` for the sources.

    quran: the text; without it `quran.json` in the corpus folder, or in a folder `everyayah` next to it.
    Raises CorpusError for another layout, TooManyBadFiles past the limit of bad clips.
    """
    manifest = find_path(corpus_dir, "manifest.json")
    if not manifest.is_file():
        raise corpus_error(corpus_dir, INFO)
    places = [quran] if quran else [find_path(corpus_dir, QURAN), corpus_dir.parent / "everyayah" / QURAN]
    text = next((path for path in places if path.is_file()), None)
    if text is None:
        raise CorpusError(
            f"{places[0]}: no text of the verses; --corpus downloads of the corpus everyayah fetches {QURAN} "
            "(--set quran=PATH)"
        )
    verses = read_quran(text)
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs, text_profile=text_profile)
    items = list(_items(work, manifest, verses, text_profile))
    work.add("test", [item for _, item in items])
    for source in SOURCES.values():
        own = [item for name, item in items if name == source]
        if own:
            work.add(f"test_{source}", own)
    work.write()


def _items(
    work: Preparation, manifest: Path, verses: dict[tuple[int, int], str], profile: str
) -> Iterator[tuple[str, Item]]:
    """(source, item) of every sample."""
    samples = read_json(manifest)
    if not isinstance(samples, dict) or not isinstance(samples.get("samples"), list):
        raise CorpusError(f'{manifest}: expected {{"samples": [...]}}')
    for number, sample in enumerate(samples["samples"], 1):
        where = f"{manifest}:sample {number}"
        try:
            name, keys = str(sample["file"]), [_verse(own) for own in sample["expected_verses"]]
            source = SOURCES.get(str(sample["source"]), str(sample["source"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CorpusError(f"{where}: expected file, source and expected_verses: {error!r}") from error
        missing = [key for key in keys if key not in verses]
        if missing or not keys:
            work.bad(where, f"no text for surah and ayah {missing[0]}" if missing else "no expected verse")
            continue
        utt_id = f"verse_{safe_id(Path(name).stem)}"
        text = " ".join(normalise(verses[key], profile, quran=True) for key in keys)
        yield source, Item(utt_id, utt_id, name, where, text)


def _verse(own: Any) -> tuple[int, int]:
    return int(own["surah"]), int(own["ayah"])
