"""Data of the recipe `open_arabic`: self-supervised, ASR, SER and probe sets from four public corpora.

    <out>/ssl/{train,dev}                               keywords, verses and English digits; utt2lang ar|en; train
                                                        also at other speeds
    <out>/asr/{train,dev,test_keywords,test_quran}      keyword strings and verses, text in one profile
    <out>/ser/fold<k>/{train,dev,test}                  BAVED
    <out>/traits/{speaker,language}/{train,test}        single words, for `python -m downstream traits`
    <out>/{summary.json,skipped.tsv}                    hours of every set; files that were left out, with reasons

The self-supervised data shares nothing with the dev and test sets of any task: it comes from the training speakers of
Arabic Speech Commands, the training texts of EveryAyah and the training part of Free Spoken Digits. BAVED is not used,
since every clip is in the test set of a fold. `prepare` checks this by file and by content.

The trait sets probe which information a representation holds besides the words. Speaker identification: all speakers
of the keywords; train and test share no word. Language identification: Arabic keywords against English digits; train
and test share no speaker. The two corpora also differ in room, microphone and gaps, which a probe may use. Most
recordings of the trait sets are in the self-supervised set too, but without labels.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from corpora.datadir import Utterance, read_datadir, summary_of, write_datadir
from corpora.datasets import arabic_speech_commands, baved, everyayah, free_spoken_digits
from corpora.datasets._emotion import FOLDS, EmotionClip, write_folds
from corpora.datasets.everyayah import Verse
from corpora.files import CorpusError, hash_fraction, write_json
from corpora.prepare.sources import SourcedSet, check_isolation
from corpora.prepare.word_strings import Word, plan_strings, render_strings, string_sources
from corpora.sets.speed import check_factor, perturb, perturbed_sources, prefix

CORPORA = (arabic_speech_commands, baved, everyayah, free_spoken_digits)
TEXT_PROFILE = "mgb"
SSL_DEV_SHARE = 0.04
TRAIT_TEST_SHARE = 1 / 3  # of the words, or of the speakers
# Longer than the ASR strings: a masked span of 200 ms needs words around it.
SSL_WORDS_PER_STRING = (3, 8)

_log = logging.getLogger(__name__)


def prepare(
    out_dir: Path,
    *,
    sources: Mapping[str, Path],
    seed: int = 0,
    jobs: int = 1,
    folds: int = FOLDS,
    text_profile: str = TEXT_PROFILE,
    ssl_speeds: Sequence[float] = (),
) -> None:
    """Write all data directories of the recipe.

    sources: the corpus folders, keyed ARABIC_SPEECH_COMMANDS, BAVED, EVERYAYAH, FREE_SPOKEN_DIGITS.
    ssl_speeds: further speeds at which the self-supervised training set is repeated (`corpora.sets.speed`).
    Raises CorpusError for a missing folder or one of another layout and for a scored recording in the self-supervised
    data, TooManyBadFiles past the limit of bad files in one corpus.
    """
    for speed in ssl_speeds:
        check_factor(speed)
    missing = [corpus.INFO.variable for corpus in CORPORA if not sources.get(corpus.INFO.variable)]
    if missing:
        raise CorpusError(
            f"no folder is given for {', '.join(missing)}: set {'= and '.join(missing)}= in egs/open_arabic/db.sh (or "
            f"in the environment) to the folder that holds the corpus, or to 'downloads' to fetch it"
        )
    folder = {corpus.INFO.name: Path(sources[corpus.INFO.variable]) for corpus in CORPORA}
    audio = {corpus.INFO.name: out_dir / "audio" / corpus.INFO.name for corpus in CORPORA}
    keywords, keyword_tally = arabic_speech_commands.read_words(
        folder["arabic_speech_commands"], audio["arabic_speech_commands"], jobs=jobs, text_profile=text_profile
    )
    verses, verse_tally = everyayah.read_verses(
        folder["everyayah"], audio["everyayah"], seed=seed, jobs=jobs, text_profile=text_profile
    )
    digits, digit_tally = free_spoken_digits.read_words(
        folder["free_spoken_digits"], audio["free_spoken_digits"], jobs=jobs
    )
    clips, clip_tally = baved.read_clips(folder["baved"], audio["baved"], jobs=jobs)

    spoken = {split: [verse for verse in verses if verse.split == split] for split in everyayah.SHARES}
    summary = _write_ssl(out_dir, keywords["train"], spoken["train"], digits["train"], ssl_speeds, seed, jobs)
    summary |= _write_asr(out_dir, keywords, spoken, seed, jobs)
    summary |= _write_ser(out_dir, clips, folds, seed)
    scored = [out_dir / name for name in summary if name.split("/")[-1] != "train" and not name.startswith("ssl/")]
    check_isolation([out_dir / "ssl/train", out_dir / "ssl/dev", out_dir / "asr/train"], scored)
    traits = write_traits(out_dir, keywords, digits, seed)
    keyword_tally.write(out_dir / "skipped.tsv", verse_tally, digit_tally, clip_tally)
    settings = {"seed": seed, "text_profile": text_profile, "folds": folds}
    write_json(out_dir / "summary.json", {**settings, "sets": summary, "traits": traits})
    for name, entry in summary.items():
        _log.info("%-22s %5d utterances  %3d speakers  %.3f h", name, *list(entry.values())[:3])


def write_traits(
    out_dir: Path, keywords: Mapping[str, Sequence[Word]], digits: Mapping[str, Sequence[Word]], seed: int
) -> dict[str, dict[str, int]]:
    """Write the trait sets; return the number of recordings of every set.

    A set with fewer than two classes in train or test, as in a part of a corpus, is not written and has no numbers.
    """
    arabic = [word for own in keywords.values() for word in own]
    english = [word for own in digits.values() for word in own]
    sizes: dict[str, dict[str, int]] = {}
    for name, sets in (("speaker", _speaker_sets(arabic, seed)), ("language", _language_sets(arabic, english, seed))):
        classes = [{word.speaker if name == "speaker" else language for word, language in own} for own in sets.values()]
        sizes[name] = {}
        if all(len(own) > 1 for own in classes):
            for split, own in sets.items():
                write_datadir(out_dir / "traits" / name / split, _word_utterances(own))
                sizes[name][split] = len(own)
    return sizes


def _speaker_sets(words: Sequence[Word], seed: int) -> dict[str, list[tuple[Word, str]]]:
    """Words with their language, train and test by word; only speakers who are in both."""
    held = set(_held_out(sorted({word.text for word in words if word.text is not None}), seed, "words"))
    train = [word for word in words if word.text is not None and word.text not in held]
    test = [word for word in words if word.text in held]
    both = {word.speaker for word in train} & {word.speaker for word in test}
    sets = {"train": train, "test": test}
    return {split: [(word, "ar") for word in own if word.speaker in both] for split, own in sets.items()}


def _language_sets(arabic: Sequence[Word], english: Sequence[Word], seed: int) -> dict[str, list[tuple[Word, str]]]:
    """Words with their language, train and test by speaker."""
    sets: dict[str, list[tuple[Word, str]]] = {"train": [], "test": []}
    for language, own in (("ar", arabic), ("en", english)):
        held = set(_held_out(sorted({word.speaker for word in own}), seed, language))
        for word in own:
            sets["test" if word.speaker in held else "train"].append((word, language))
    return sets


def _held_out(items: list[str], seed: int, name: str) -> list[str]:
    """TRAIT_TEST_SHARE of the items, at least one, drawn with a seed."""
    random.Random(f"{seed}/traits/{name}").shuffle(items)
    return items[: max(1, round(TRAIT_TEST_SHARE * len(items)))]


def _word_utterances(words: Sequence[tuple[Word, str]]) -> list[Utterance]:
    """One utterance for each word, numbered by speaker."""
    count: Counter[str] = Counter()
    utterances = []
    for word, language in sorted(words, key=lambda item: (item[0].speaker, item[0].recording.source)):
        count[word.speaker] += 1
        utterances.append(
            Utterance(
                utt_id=f"{word.speaker}-w{count[word.speaker]:05d}",
                speaker=word.speaker,
                audio=word.recording.path,
                samples=word.recording.samples,
                text=word.text,
                language=language,
            )
        )
    return utterances


def _write_asr(
    out_dir: Path, keywords: Mapping[str, list[Word]], verses: Mapping[str, list[Verse]], seed: int, jobs: int
) -> dict[str, dict]:
    """Keyword strings and verses: together in train and dev, as two test sets."""
    strings = {}
    for split, words in keywords.items():
        plan = plan_strings(
            words,
            sizes=arabic_speech_commands.WORDS_PER_STRING,
            passes=arabic_speech_commands.PASSES[split],
            seed=seed,
            tag="k",
        )
        folder = out_dir / "audio" / f"keywords_{split}"
        strings[split] = SourcedSet(
            render_strings(plan, folder, jobs=jobs, language="ar"),
            string_sources(plan, arabic_speech_commands.INFO.name),
        )
    sets = {
        "train": strings["train"] + _verse_set(verses["train"]),
        "dev": strings["dev"] + _verse_set(verses["dev"]),
        "test_keywords": strings["test"],
        "test_quran": _verse_set(verses["test"]),
    }
    return {f"asr/{split}": own.write(out_dir / "asr" / split) for split, own in sets.items()}


def _write_ssl(
    out_dir: Path,
    keywords: Sequence[Word],
    verses: Sequence[Verse],
    digits: Sequence[Word],
    speeds: Sequence[float],
    seed: int,
    jobs: int,
) -> dict[str, dict]:
    """Unlabelled speech of both languages. Dev has other recordings and texts of the same training part."""
    sets = {"train": SourcedSet(), "dev": SourcedSet()}
    for corpus, language, words in (
        (arabic_speech_commands.INFO.name, "ar", keywords),
        (free_spoken_digits.INFO.name, "en", digits),
    ):
        for split, own in _hold_out_words(words, seed).items():
            plan = plan_strings(own, sizes=SSL_WORDS_PER_STRING, seed=seed, tag="p")
            folder = out_dir / "audio" / f"{corpus}_ssl_{split}"
            utterances = render_strings(plan, folder, jobs=jobs, language=language)
            sets[split] += SourcedSet(utterances, string_sources(plan, corpus))
    for verse in verses:
        held = hash_fraction(verse.key, seed, "ssl") < SSL_DEV_SHARE
        sets["dev" if held else "train"] += _verse_set([verse])
    original = sets["train"]
    for speed in speeds:
        folder = out_dir / "audio" / f"ssl_train_{prefix(speed)[:-1]}"
        sets["train"] += SourcedSet(
            perturb(original.utterances, speed, folder, jobs=jobs), perturbed_sources(original.sources, speed)
        )
    for own in sets.values():
        own.utterances = [replace(utterance, text=None) for utterance in own.utterances]
    summary = {f"ssl/{split}": own.write(out_dir / "ssl" / split) for split, own in sets.items()}
    check_isolation([out_dir / "ssl/train"], [out_dir / "ssl/dev"])
    return summary


def _write_ser(out_dir: Path, clips: Sequence[EmotionClip], folds: int, seed: int) -> dict[str, dict]:
    write_folds(baved.INFO.name, clips, out_dir / "ser", folds=folds, seed=seed)
    names = [f"ser/fold{number}/{split}" for number in range(1, folds + 1) for split in ("train", "dev", "test")]
    return {name: summary_of(read_datadir(out_dir / name)) for name in names}


def _hold_out_words(words: Sequence[Word], seed: int) -> dict[str, list[Word]]:
    """SSL_DEV_SHARE of each speaker's recordings for dev, at least one; the rest for train."""
    by_speaker: dict[str, list[Word]] = defaultdict(list)
    for word in words:
        by_speaker[word.speaker].append(word)
    sets: dict[str, list[Word]] = {"train": [], "dev": []}
    for speaker, own in sorted(by_speaker.items()):
        random.Random(f"{seed}/ssl/{speaker}").shuffle(own)
        held = max(1, round(SSL_DEV_SHARE * len(own)))
        sets["dev"] += own[:held]
        sets["train"] += own[held:]
    return sets


def _verse_set(verses: Sequence[Verse]) -> SourcedSet:
    return SourcedSet([verse.utterance() for verse in verses], [verse.provenance() for verse in verses])
