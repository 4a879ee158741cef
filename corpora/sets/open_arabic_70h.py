"""Data of the recipe `open_arabic_70h`: published recitations, keywords, English, emotions and dialects.

    <out>/speech/<name>                                            unlabelled speech of each source, one folder each
    <out>/ssl/{train,dev}                                          the same in pieces (`corpora.sets.ssl`)
    <out>/asr/{train,dev,test_seen,test_unseen,test_keywords,test_digits}
    <out>/ser/fold<k>/{train,dev,test}                             BAVED
    <out>/did/fold<k>/{train,dev,test}                             ADI-5, folds by programme

Chapters divide the verses (`corpora.sets.recitation`): the verses of dev and test are those of no training verse, and
`test_unseen` has a reciter who is in no training set. BAVED and ADI-5 are scored only: neither is in `ssl`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from corpora.audio import SAMPLE_RATE
from corpora.datadir import Utterance, read_datadir, summary_of, write_datadir
from corpora.datasets import adi5, arabic_speech_commands, baved, everyayah, free_spoken_digits
from corpora.files import BadFileTally, CorpusError, hash_fraction, write_json
from corpora.prepare.ids import safe_id
from corpora.prepare.sources import Provenance, check_isolation, read_recordings, write_sources
from corpora.prepare.tree import visible_files
from corpora.prepare.word_strings import Word, plan_strings, render_strings, string_sources
from corpora.sets import ssl
from corpora.sets.recitation import SplitVerse, read_quran, split_verses

PROFILE = "modern"
FOLDS = 5
RECITATIONS = "recitations"
# Folders of audio without text: variable, name, language. The publisher of the voices states no language.
UNLABELLED = (("SPEECH_TO_INTENT", "speech_to_intent", "en"), ("COMMON_VOICE_VOICES", "common_voice_voices", "und"))
_AUDIO = ("**/*.wav", "**/*.mp3")
_log = logging.getLogger(__name__)

_Rows = tuple[list[Utterance], list[Provenance]]


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
    SPEECH_TO_INTENT (English) and COMMON_VOICE_VOICES (unstated) are folders of audio.
    share: part of the training verses that is used.  asr_hours: labelled verses of at most `asr_seconds`, all reciters
    together.  scored_share: part of the dev and test verses of the training reciters.  max_seconds: longer recordings
    are cut for `ssl`.
    Raises CorpusError for a missing folder or one of another layout and for a scored recording in a training set,
    TooManyBadFiles past the limit of bad files in one corpus.
    """
    needed = ("RECITATIONS", "EVERYAYAH", "ARABIC_SPEECH_COMMANDS", "FREE_SPOKEN_DIGITS", "BAVED", "ADI5")
    wanted = (*needed, *(variable for variable, _, _ in UNLABELLED))
    if missing := [variable for variable in wanted if not sources.get(variable)]:
        raise CorpusError(f"no folder is given for {', '.join(missing)}: set {'= and '.join(missing)}= in db.sh")
    folder = {variable: Path(sources[variable]) for variable in wanted}
    verses, verse_tally = _verses(folder["RECITATIONS"], folder["EVERYAYAH"], out_dir, share, scored_share, seed, jobs)
    strings, string_tallies = _strings(folder, out_dir, seed, jobs)

    speech = {"recitation": ("ar", verses["train"]), **{name: own["train"] for name, own in strings.items()}}
    tallies = [verse_tally, *string_tallies]
    for variable, name, language in UNLABELLED:
        rows, tally = _unlabelled(folder[variable], name, language, out_dir / "audio" / name, jobs)
        speech[name] = language, rows
        tallies.append(tally)
    for name, (_, rows) in speech.items():
        _write(out_dir / "speech" / name, rows)

    train = _labelled(verses["train"], asr_hours, asr_seconds, seed)
    asr = {
        "train": _join(train, *(own["train"][1] for own in strings.values())),
        "dev": _join(verses["dev"], strings["keywords"]["dev"][1]),
        "test_seen": verses["test_seen"],
        "test_unseen": verses["test_unseen"],
        **{f"test_{name}": own["test"][1] for name, own in strings.items()},
    }
    for split, rows in asr.items():
        _write(out_dir / "asr" / split, rows)
    baved.prepare(folder["BAVED"], out_dir / "ser", seed=seed, jobs=jobs, folds=FOLDS)
    adi5.prepare(folder["ADI5"], out_dir / "did", seed=seed, jobs=jobs, folds=FOLDS)
    scored = [out_dir / "asr" / split for split in asr if split != "train"]
    check_isolation([out_dir / "asr/train"], scored)
    ssl.prepare(
        out_dir,
        sets=[f"{out_dir / 'speech' / name}:{language}" for name, (language, _) in speech.items()],
        held_out=[str(path) for path in scored],
        max_seconds=max_seconds,
        held_out_speakers=False,
        seed=seed,
    )
    names = [*(f"asr/{split}" for split in asr), *(f"speech/{name}" for name in speech), "ssl/train", "ssl/dev"]
    sets = {name: summary_of(read_datadir(out_dir / name)) for name in names}
    tallies[0].write(out_dir / "skipped.tsv", *tallies[1:])
    settings = {"seed": seed, "share": share, "asr_hours": asr_hours, "scored_share": scored_share}
    write_json(out_dir / "summary.json", {**settings, "sets": sets})
    for name, entry in sets.items():
        _log.info("%-22s %6d utterances  %3d speakers  %.3f h", name, *list(entry.values())[:3])


def _verses(
    recitations: Path, scored: Path, out_dir: Path, share: float, scored_share: float, seed: int, jobs: int
) -> tuple[dict[str, _Rows], BadFileTally]:
    """The recordings of train, dev, test_seen and test_unseen."""
    reciters, unseen = _reciters(recitations), _reciters(scored)
    if both := sorted(reciters.keys() & unseen.keys()):
        raise CorpusError(f"{scored / both[0]}: {both[0]} is a training reciter ({recitations}) and an unseen one")
    chosen: dict[str, dict[str, SplitVerse]] = {"seen": {}, "unseen": {}}
    for verse in split_verses(read_quran(scored / "quran.json"), reciters, unseen):
        seen = verse.reciter in reciters
        part = share if verse.split == "train" else scored_share
        key = verse.utt_id if verse.split == "train" else verse.path.stem
        if (seen and hash_fraction(key, seed, verse.split) < part) or (not seen and verse.split == "test"):
            root = recitations if seen else scored
            chosen["seen" if seen else "unseen"][verse.path.relative_to(root).as_posix()] = verse
    rows: dict[str, _Rows] = {name: ([], []) for name in ("train", "dev", "test_seen", "test_unseen")}
    tally = BadFileTally(sum(map(len, chosen.values())))
    for (name, own), root in zip(chosen.items(), (recitations, scored), strict=True):
        label = f"{RECITATIONS} {name}"
        audio_dir = out_dir / "audio" / f"{RECITATIONS}_{name}"
        found = read_recordings(root, list(own), audio_dir, tally=tally, jobs=jobs, label=label)
        for source, recording in found.items():
            verse = own[source]
            utterances, provenance = rows[f"test_{name}" if verse.split == "test" else verse.split]
            utterances.append(
                Utterance(
                    utt_id=verse.utt_id,
                    speaker=verse.reciter,
                    audio=recording.path,
                    samples=recording.samples,
                    text=verse.text,
                    language="ar",
                )
            )
            corpus = RECITATIONS if name == "seen" else everyayah.INFO.name
            provenance.append(Provenance(verse.utt_id, corpus, source, recording.sha256))
    tally.check()
    return rows, tally


def _reciters(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}


def _labelled(rows: _Rows, most_hours: float, longest: float, seed: int) -> _Rows:
    """Short recordings in the order of a seeded hash, up to a number of hours."""
    utterances, provenance = rows
    kept, samples = set(), 0.0
    for own in sorted(utterances, key=lambda own: hash_fraction(own.utt_id, seed, "asr")):
        if own.samples <= longest * SAMPLE_RATE and samples + own.samples <= most_hours * 3600 * SAMPLE_RATE:
            kept.add(own.utt_id)
            samples += own.samples
    return [own for own in utterances if own.utt_id in kept], [row for row in provenance if row.utt_id in kept]


def _strings(
    folder: Mapping[str, Path], out_dir: Path, seed: int, jobs: int
) -> tuple[dict[str, dict[str, tuple[str, _Rows]]], list[BadFileTally]]:
    """Strings of Arabic keywords and of English digits by split, each with its language."""
    audio = out_dir / "audio"
    keywords, keyword_tally = arabic_speech_commands.read_words(
        folder["ARABIC_SPEECH_COMMANDS"], audio / "arabic_speech_commands", jobs=jobs, text_profile=PROFILE
    )
    digits, digit_tally = free_spoken_digits.read_words(
        folder["FREE_SPOKEN_DIGITS"], audio / "free_spoken_digits", jobs=jobs
    )

    def rendered(name: str, corpus: str, language: str, words: Mapping[str, Sequence[Word]]) -> dict:
        found = {}
        for split, own in words.items():
            plan = plan_strings(own, sizes=arabic_speech_commands.WORDS_PER_STRING, seed=seed, tag="k")
            utterances = render_strings(plan, audio / f"{name}_{split}", jobs=jobs, language=language)
            found[split] = language, (utterances, string_sources(plan, corpus))
        return found

    strings = {
        "keywords": rendered("keywords", arabic_speech_commands.INFO.name, "ar", keywords),
        "digits": rendered("digits", free_spoken_digits.INFO.name, "en", digits),
    }
    return strings, [keyword_tally, digit_tally]


def _unlabelled(folder: Path, name: str, language: str, audio_dir: Path, jobs: int) -> tuple[_Rows, BadFileTally]:
    """Every recording below a folder as one utterance, its file name as speaker."""
    files = sorted({path.relative_to(folder).as_posix() for glob in _AUDIO for path in visible_files(folder, glob)})
    if not files:
        raise CorpusError(f"{folder}: no WAV or MP3 file below this folder ({name})")
    tally = BadFileTally(len(files))
    found = read_recordings(folder, files, audio_dir, tally=tally, jobs=jobs, label=name)
    tally.check()
    utterances, provenance = [], []
    for source, recording in found.items():
        utt_id = f"{name}_{safe_id(Path(source).with_suffix('').as_posix())}"
        utterances.append(Utterance(utt_id, utt_id, recording.path, recording.samples, language=language))
        provenance.append(Provenance(utt_id, name, source, recording.sha256))
    return (utterances, provenance), tally


def _join(*parts: _Rows) -> _Rows:
    return [own for utterances, _ in parts for own in utterances], [row for _, rows in parts for row in rows]


def _write(path: Path, rows: _Rows) -> None:
    """Write a data directory with its sources."""
    utterances, provenance = rows
    if not utterances:
        raise CorpusError(f"{path}: no utterances: the corpora have too few files for this set")
    write_datadir(path, utterances)
    write_sources(path, provenance)
