"""EveryAyah: verses with text, in splits that share no text under any spelling."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from corpora.audio import read_audio
from corpora.datadir import read_datadir
from corpora.datasets import everyayah
from corpora.files import TooManyBadFiles
from corpora.prepare.sources import Recording, read_sources
from corpora.text import PROFILES, normalise, text_key

pytestmark = pytest.mark.usefixtures("no_disk_sync")


@pytest.fixture(scope="module")
def prepared(corpus_trees, tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("everyayah")
    corpus = corpus_trees.everyayah(root / "corpus")
    everyayah.prepare(corpus, root / "out", seed=0)
    return corpus, root / "out"


def test_verses_are_converted_and_their_text_is_bare(prepared, corpus_trees):
    _, out = prepared
    utterances = [u for split in ("train", "dev", "test") for u in read_datadir(out / split)]
    assert len(utterances) == len(corpus_trees.verses)
    for utterance in utterances:
        surah, ayah = int(utterance.utt_id[-6:-3]), int(utterance.utt_id[-3:])
        verse = corpus_trees.verses[10 * (surah - 1) + ayah - 1]
        assert len(utterance.text.split()) == len(verse.split())
        assert re.fullmatch("[\u0621-\u063a\u0641-\u064a ]+", utterance.text)
        assert len(read_audio(utterance.audio)) == utterance.samples == pytest.approx(8000, abs=1200)
        assert utterance.speaker == "everyayah_a_reciter" and utterance.language == "ar"


def test_no_text_is_in_two_splits(prepared):
    _, out = prepared
    splits = defaultdict(set)
    for split in ("train", "dev", "test"):
        for utterance in read_datadir(out / split):
            splits[utterance.text].add(split)
            splits[text_key(utterance.text)].add(split)
    assert all(len(own) == 1 for own in splits.values())
    refrain = normalise("فَبِأَيِّ ءَالَآءِ رَبِّكُمَا تُكَذِّبَانِ", "mgb", quran=True)
    assert len(splits[refrain]) == 1


def test_a_split_depends_on_the_text_and_the_seed_alone(prepared, corpus_trees, tmp_path):
    corpus, out = prepared
    few = corpus_trees.everyayah(tmp_path / "few")
    for path in sorted((few / "a_reciter").iterdir())[::2]:
        path.unlink()
    verses, _ = everyayah.read_verses(few, tmp_path / "audio", seed=0)
    split = {row.source: name for name in ("train", "dev", "test") for row in read_sources(out / name)}
    assert all(split[verse.recording.source] == verse.split for verse in verses)
    keys = [str(number) for number in range(2000)]
    shares = Counter(everyayah.split_of(key, 0) for key in keys)
    assert 1500 < shares["train"] < 1700 and 150 < shares["dev"] < 250 and 150 < shares["test"] < 250
    assert [everyayah.split_of(key, 0) for key in keys] != [everyayah.split_of(key, 1) for key in keys]


def test_reciters_are_disjoint_too_and_bit_rates_are_one_reciter(corpus_trees, tmp_path):
    names = ("Husary_64kbps", "Husary_128kbps", "Minshawy 2", "Sudais_64kbps")
    corpus = corpus_trees.everyayah(tmp_path / "corpus", reciters=names)
    verses, _ = everyayah.read_verses(corpus, tmp_path / "audio", seed=0)
    splits, texts = defaultdict(set), defaultdict(set)
    for verse in verses:
        splits[verse.speaker].add(verse.split)
        texts[verse.key].add(verse.split)
    assert set(splits) == {"everyayah_Husary", "everyayah_Minshawy_2", "everyayah_Sudais"}
    assert sorted(map(tuple, splits.values())) == [("dev",), ("test",), ("train",)]
    assert all(len(own) == 1 for own in texts.values())
    assert len({verse.utt_id for verse in verses}) == len(verses)


def test_two_spellings_of_one_text_are_in_one_split(tmp_path, monkeypatch):
    """A dagger alef is a letter of other spellings: bare texts differ, and their split must not."""
    words = ["كتاب", "رسول", "جبل", "قمر", "شجر", "بحر", "نهر", "طير", "فجر", "عصر"]
    texts = [f"{alef} {word}" for word in words for alef in ("ٱلۡعَٰلَمِينَ", "ٱلۡعَالَمِينَ")]
    rows = [{"chapter": 1, "verse": n, "text": text} for n, text in enumerate(texts, 1)]
    (tmp_path / "a_reciter").mkdir()
    (tmp_path / "quran.json").write_text(json.dumps({"1": rows}), encoding="utf-8")
    for row in rows:
        (tmp_path / f"a_reciter/001{row['verse']:03d}.mp3").touch()
    made = {f"a_reciter/001{n:03d}.mp3": Recording(str(n), tmp_path / "x", 16000, str(n)) for n in range(1, 21)}
    monkeypatch.setattr(everyayah, "read_recordings", lambda *_, **__: made)
    verses, _ = everyayah.read_verses(tmp_path, tmp_path / "audio")
    splits = defaultdict(set)
    for verse in verses:
        splits[verse.text.split()[1]].add(verse.split)
    assert len({verse.text for verse in verses}) == 20 and all(len(own) == 1 for own in splits.values())
    assert any(len({everyayah.split_of(f"{form} {word}", 0) for form in ("العلمين", "العالمين")}) > 1 for word in words)


def test_an_interrupted_conversion_resumes(corpus_trees, tmp_path):
    corpus = corpus_trees.everyayah(tmp_path / "corpus")
    everyayah.prepare(corpus, tmp_path / "out")
    made = sorted((tmp_path / "out/audio").rglob("*.wav"))
    content = made[3].read_bytes()
    made[3].unlink()
    changed = corpus / "a_reciter" / made[5].name.removesuffix(".wav")
    changed.write_bytes((corpus / "a_reciter/001001.mp3").read_bytes())
    times = {path: path.stat().st_ino for path in made[:3] + made[6:]}
    everyayah.prepare(corpus, tmp_path / "out")
    assert made[3].read_bytes() == content
    assert made[5].read_bytes() == made[0].read_bytes()  # a source that has changed is converted again
    assert {path: path.stat().st_ino for path in times} == times


def test_verses_without_text_are_counted_and_formulas_passed_over(corpus_trees, tmp_path):
    corpus = corpus_trees.everyayah(tmp_path / "corpus")
    template = (corpus / "a_reciter/001001.mp3").read_bytes()
    (corpus / "a_reciter/002000.mp3").write_bytes(template)  # the formula before a surah
    (corpus / "a_reciter/114009.mp3").write_bytes(template)  # no such verse
    verses, tally = everyayah.read_verses(corpus, tmp_path / "audio")
    assert len(verses) == len(corpus_trees.verses)
    assert [path.name for path, _ in tally.skipped] == ["114009.mp3"]
    for ayah in range(10, 20):
        (corpus / f"a_reciter/114{ayah:03d}.mp3").write_bytes(template)
    with pytest.raises(TooManyBadFiles, match="no text for surah 114"):
        everyayah.read_verses(corpus, tmp_path / "audio")


@pytest.mark.slow
def test_real_texts_in_every_profile(real_speech):
    """All 6,236 verses: no text of one split is in another under any profile, and words stay words."""
    surahs = json.loads((real_speech / "everyayah/quran.json").read_text(encoding="utf-8"))
    texts = [verse["text"] for verses in surahs.values() for verse in verses]
    splits = [everyayah.split_of(text_key(text), 0) for text in texts]
    for profile in PROFILES:
        seen: dict[str, str] = {}
        for text, split in zip(texts, splits, strict=True):
            bare = normalise(text, profile, quran=True)
            assert bare, text
            assert seen.setdefault(bare, split) == split
    distinct = {text_key(text): split for text, split in zip(texts, splits, strict=True)}
    shares = Counter(distinct.values())
    assert 0.78 < shares["train"] / len(distinct) < 0.82 and 0.08 < shares["dev"] / len(distinct) < 0.12
