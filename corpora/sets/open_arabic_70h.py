"""Data of the recipe `open_arabic_70h`: published recitations, keywords, English, emotions and dialects.

    <out>/speech/<source>                                          training speech of each source
    <out>/ssl/{train,dev}                                          the same in pieces, without text (`corpora.sets.ssl`)
    <out>/asr/{train,dev,test_seen,test_unseen,test_keywords,test_digits}
    <out>/ser/fold<k>/{train,dev,test}                             BAVED
    <out>/did/fold<k>/{train,dev,test}                             ADI-5, folds by programme
    <out>/{summary.json,skipped.tsv,excluded.tsv}                  hours; unreadable files; what `ssl` left out

Chapters divide the verses (`corpora.sets.recitation`), and no training verse has the text of a dev or test verse. The
reciter of `test_unseen` is in no training set; the reciters of `test_seen` and the speakers of `test_digits` are.
BAVED and ADI-5 are in no self-supervised set.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from corpora.audio import SAMPLE_RATE, find_audio
from corpora.datadir import Utterance, read_datadir, summary_of
from corpora.datasets import adi5, arabic_speech_commands, baved, everyayah, free_spoken_digits
from corpora.datasets._emotion import FOLDS
from corpora.files import BadFileTally, CorpusError, hash_fraction, read_json, write_json
from corpora.prepare.ids import safe_id
from corpora.prepare.sources import Provenance, SourcedSet, check_isolation, read_recordings
from corpora.prepare.tree import is_visible
from corpora.prepare.word_strings import Word, plan_strings, render_strings, string_sources
from corpora.sets import ssl
from corpora.sets.recitation import PROFILE, SplitVerse, read_verses, split_verses

CORPORA = (everyayah, arabic_speech_commands, free_spoken_digits, baved, adi5)
RECITATIONS = "recitations"
# Folders of speech without text: variable -> name, language. The publisher of the voices states no language.
UNLABELLED = {"SPEECH_TO_INTENT": ("speech_to_intent", "en"), "COMMON_VOICE_VOICES": ("common_voice_voices", "und")}
_log = logging.getLogger(__name__)


def prepare(
    out_dir: Path,
    *,
    sources: Mapping[str, Path],
    share: float = 1.0,
    asr_hours: float = 2.0,
    asr_seconds: float = 10.0,
    scored_share: float = 1.0,
    max_seconds: float = 15.0,
    seed: int = 0,
    jobs: int = 1,
) -> None:
    """Write all data directories of the recipe.

    sources: RECITATIONS has a folder of SSSAAA.mp3 for each training reciter; EVERYAYAH has quran.json and such folders
    of unseen reciters; ARABIC_SPEECH_COMMANDS, FREE_SPOKEN_DIGITS, BAVED and ADI5 have their publishers' layouts;
    SPEECH_TO_INTENT (English) and COMMON_VOICE_VOICES are folders of audio.
    share: of the training recordings of verses, drawn for each reciter.  asr_hours: labelled verses of at most
    `asr_seconds`, all reciters together.  scored_share: of the dev and test verses of the training reciters, the same
    verses for each.  max_seconds: longer recordings are cut for `ssl`.
    Raises CorpusError for a missing folder or one of another layout and for a scored recording in a training set,
    TooManyBadFiles past the limit of bad files in one source.
    """
    if not (0 < share <= 1 and 0 < scored_share <= 1 and asr_hours > 0):
        raise CorpusError(
            f"share={share}, scored_share={scored_share}, asr_hours={asr_hours}: expected shares above 0 and at most "
            "1, and hours above 0"
        )
    variables = ("RECITATIONS", *(corpus.INFO.variable for corpus in CORPORA), *UNLABELLED)
    if missing := [variable for variable in variables if not sources.get(variable)]:
        raise CorpusError(
            f"no folder is given for {', '.join(missing)}: set {'= and '.join(missing)}= in egs/open_arabic_70h/db.sh "
            "(or in the environment) to the folder that holds the speech"
        )
    folder = {variable: Path(sources[variable]) for variable in variables}
    reciters = [_reciters(variable, folder[variable]) for variable in ("RECITATIONS", "EVERYAYAH")]
    quran = read_verses(folder["EVERYAYAH"] / "quran.json")
    # First what takes seconds, so that a wrong folder is named before hours of MP3 are decoded.
    baved.prepare(folder["BAVED"], out_dir / "ser", seed=seed, jobs=jobs, folds=FOLDS)
    adi5.prepare(folder["ADI5"], out_dir / "did", seed=seed, jobs=jobs, folds=FOLDS)
    keywords, keyword_tally = arabic_speech_commands.read_words(
        folder["ARABIC_SPEECH_COMMANDS"], out_dir / "audio/keywords", jobs=jobs, text_profile=PROFILE
    )
    digits, digit_tally = free_spoken_digits.read_words(
        folder["FREE_SPOKEN_DIGITS"], out_dir / "audio/digits", jobs=jobs
    )
    tallies = [keyword_tally, digit_tally]
    speech = {}
    for variable, (name, language) in UNLABELLED.items():
        speech[name], tally = _unlabelled(folder[variable], name, language, out_dir / "audio" / name, jobs)
        tallies.append(tally)

    verses: dict[str, SourcedSet] = {}
    split = split_verses(quran, *reciters)
    for name, variable in (("seen", "RECITATIONS"), ("unseen", "EVERYAYAH")):
        chosen = _choose(split, reciters[name == "unseen"], name, share, scored_share, seed)
        found, tally = _read(folder[variable], chosen, name, out_dir / "audio" / f"{RECITATIONS}_{name}", jobs)
        verses |= found
        tallies.append(tally)
    strings = {}
    for name, corpus, words, language in (
        ("keywords", arabic_speech_commands, keywords, "ar"),
        ("digits", free_spoken_digits, digits, "en"),
    ):
        for part, own in words.items():
            strings[name, part] = _strings(
                own, corpus.INFO.name, out_dir / "audio" / f"{name}_{part}", language, seed, jobs
            )

    speech |= {"recitation": verses["train"]} | {name: own for (name, part), own in strings.items() if part == "train"}
    labelled = _labelled(verses["train"], asr_hours, asr_seconds, seed)
    asr = {
        "train": labelled + strings["keywords", "train"] + strings["digits", "train"],
        "dev": verses["dev"] + strings["keywords", "dev"],
        "test_seen": verses["test_seen"],
        "test_unseen": verses["test_unseen"],
        "test_keywords": strings["keywords", "test"],
        "test_digits": strings["digits", "test"],
    }
    sets = {f"speech/{name}": own.write(out_dir / "speech" / name) for name, own in speech.items()}
    sets |= {f"asr/{name}": own.write(out_dir / "asr" / name) for name, own in asr.items()}
    scored = [out_dir / "asr" / name for name in asr if name != "train"]
    check_isolation([out_dir / "asr/train"], scored)
    scored += sorted(path for task in ("ser", "did") for path in (out_dir / task).glob("fold*/test"))
    ssl.prepare(
        out_dir,
        sets=[str(out_dir / "speech" / name) for name in speech],
        held_out=[str(path) for path in scored],
        max_seconds=max_seconds,
        held_out_speakers=False,  # three reciters are in training and in `test_seen`
        seed=seed,
    )
    unlabelled = read_json(out_dir / "summary.json")
    sets |= {f"ssl/{name}": entry for name, entry in unlabelled.pop("sets").items()}
    for path in sorted(path.parent for task in ("ser", "did") for path in (out_dir / task).glob("fold*/*/utt2spk")):
        sets[path.relative_to(out_dir).as_posix()] = summary_of(read_datadir(path))
    tallies[0].write(out_dir / "skipped.tsv", *tallies[1:])
    settings = {"share": share, "asr_hours": asr_hours, "asr_seconds": asr_seconds, "scored_share": scored_share}
    write_json(out_dir / "summary.json", {"seed": seed, **settings, "sets": sets, "ssl": unlabelled})
    for name, entry in sets.items():
        _log.info("%-22s %6d utterances  %3d speakers  %.3f h", name, *list(entry.values())[:3])


def _reciters(variable: str, folder: Path) -> dict[str, Path]:
    """The folders of reciters by name, without bit rates. Raises CorpusError."""
    if not folder.is_dir():
        raise CorpusError(f"{variable}={folder}: no such folder")
    reciters: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and is_visible(path.name) and any(path.glob("*.[mM][pP]3")):
            name = everyayah.reciter_of(path.name)
            if name in reciters:
                raise CorpusError(f"{path} and {reciters[name]} are of one reciter; keep one of them")
            reciters[name] = path
    if not reciters:
        raise CorpusError(f"{variable}={folder}: no folder of a reciter there; expected <reciter>/SSSAAA.mp3")
    return reciters


def _choose(
    verses: list[SplitVerse], reciters: Mapping[str, Path], name: str, share: float, scored_share: float, seed: int
) -> list[SplitVerse]:
    """The recordings to use: of unseen reciters all test verses, of training reciters a share of each split."""

    def wanted(verse: SplitVerse) -> bool:
        if name == "unseen":
            return verse.split == "test"
        if verse.split == "train":
            return hash_fraction(verse.utt_id, seed, verse.split) < share
        return hash_fraction(verse.path.stem, seed, verse.split) < scored_share

    return [verse for verse in verses if verse.reciter in reciters and wanted(verse)]


def _read(
    root: Path, verses: list[SplitVerse], name: str, audio_dir: Path, jobs: int
) -> tuple[dict[str, SourcedSet], BadFileTally]:
    """The sets train, dev and `test_<name>` from recordings below `root`, and the tally of unreadable ones."""
    by_source = {verse.path.relative_to(root).as_posix(): verse for verse in verses}
    tally = BadFileTally(len(by_source))
    label = f"{RECITATIONS} {name}"
    found = read_recordings(root, list(by_source), audio_dir, tally=tally, jobs=jobs, label=label)
    tally.check()
    corpus = RECITATIONS if name == "seen" else everyayah.INFO.name
    sets = {key: SourcedSet() for key in (("train", "dev") if name == "seen" else ()) + (f"test_{name}",)}
    for source, recording in found.items():
        verse = by_source[source]
        own = sets[f"test_{name}" if verse.split == "test" else verse.split]
        own.utterances.append(
            Utterance(
                utt_id=verse.utt_id,
                speaker=verse.reciter,
                audio=recording.path,
                samples=recording.samples,
                text=verse.text,
                language="ar",
            )
        )
        own.sources.append(Provenance(verse.utt_id, corpus, source, recording.sha256))
    return sets, tally


def _labelled(verses: SourcedSet, most_hours: float, longest: float, seed: int) -> SourcedSet:
    """Recordings of at most `longest` seconds, in the order of a seeded hash, up to a number of hours."""
    kept, samples = set(), 0
    for own in sorted(verses.utterances, key=lambda own: hash_fraction(own.utt_id, seed, "asr")):
        if own.samples <= longest * SAMPLE_RATE and samples + own.samples <= most_hours * 3600 * SAMPLE_RATE:
            kept.add(own.utt_id)
            samples += own.samples
    return SourcedSet(
        [own for own in verses.utterances if own.utt_id in kept],
        [row for row in verses.sources if row.utt_id in kept],
    )


def _strings(words: list[Word], corpus: str, audio_dir: Path, language: str, seed: int, jobs: int) -> SourcedSet:
    """Strings of one to five words of a speaker."""
    plan = plan_strings(words, sizes=arabic_speech_commands.WORDS_PER_STRING, seed=seed, tag="k")
    return SourcedSet(render_strings(plan, audio_dir, jobs=jobs, language=language), string_sources(plan, corpus))


def _unlabelled(folder: Path, name: str, language: str, audio_dir: Path, jobs: int) -> tuple[SourcedSet, BadFileTally]:
    """Every recording below a folder as an utterance; each counts as a speaker of its own."""
    paths, others = find_audio(folder)
    if not paths:
        raise CorpusError(f"{folder}: no audio below this folder ({name})")
    if others:
        _log.info("%s: %d files below %s are no audio, such as %s", name, len(others), folder, others[0])
    files = [path.relative_to(folder).as_posix() for path in paths]
    tally = BadFileTally(len(files))
    found = read_recordings(folder, files, audio_dir, tally=tally, jobs=jobs, label=name)
    tally.check()
    own = SourcedSet()
    for source, recording in found.items():
        utt_id = f"{name}_{safe_id(source)}"
        own.utterances.append(Utterance(utt_id, utt_id, recording.path, recording.samples, language=language))
        own.sources.append(Provenance(utt_id, name, source, recording.sha256))
    return own, tally
