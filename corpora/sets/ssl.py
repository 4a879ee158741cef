"""Join prepared corpora of several languages into one self-supervised set without held-out data.

    python -m corpora ssl --out data/bilingual --from data/mgb2/train --from data/librispeech/train-clean-100
                          --from data/swahili/train:sw --held-out data/mgb2/dev --held-out data/mgb2/test

    <out>/ssl/{train,dev}       utt2lang, no text; long utterances as several segments of one recording
    <out>/summary.json          hours by language and corpus; number of utterances left out, by reason
    <out>/excluded.tsv          utterances that were left out, each with its reason

An utterance is left out if a held-out data directory has its recording (by file or by content), its speaker or its
text. Train and dev share no recording and no text:

    utterances  -- shared recording, shared text -->  groups  -- seeded, by language -->  train | dev
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from corpora import MIN_SAMPLES
from corpora.audio import SAMPLE_RATE
from corpora.datadir import Utterance, hours, read_datadir, summary_of, write_datadir
from corpora.files import CorpusError, hash_fraction, write_json, write_tsv
from corpora.prepare.duplicates import find_pairs
from corpora.prepare.groups import connected
from corpora.prepare.ids import name_utterances, safe_id
from corpora.prepare.sources import Provenance, check_isolation, read_sources, write_sources
from corpora.text import comparison_key

DEV_SHARE = 0.01
MIN_TEXT_WORDS = 3  # shorter texts are single words or commands: they may be in training and test

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """An utterance of a prepared corpus with the recordings that it was made from."""

    utterance: Utterance
    rows: tuple[Provenance, ...]
    language: str

    @property
    def corpus(self) -> str:
        return self.rows[0].corpus

    def recordings(self) -> Iterator[object]:
        for row in self.rows:
            yield row.corpus, row.source
            yield row.sha256

    def text(self, least: int) -> str | None:
        """The text as a key for comparison; None for no text or for fewer than `least` words.

        Arabic is compared by its consonants, other scripts by their letters and digits (`text.comparison_key`).
        """
        words = self.utterance.text or ""
        if len(words.split()) < least:
            return None
        return comparison_key(words) or None


def prepare(
    out_dir: Path,
    *,
    sets: Sequence[str],
    held_out: Sequence[str] = (),
    max_seconds: float = 30.0,
    min_seconds: float = 0.5,
    dev_share: float = DEV_SHARE,
    min_text_words: int = MIN_TEXT_WORDS,
    held_out_speakers: bool = True,
    seed: int = 0,
) -> None:
    """Write `<out_dir>/ssl/{train,dev}`.

    sets: data directories with `sources.tsv`, each as `DIR`, or as `DIR:LANGUAGE` for one without utt2lang.
    held_out: data directories that are scored.  max_seconds: longer utterances are cut into equal segments.
    min_seconds: shorter utterances are left out.  dev_share: of the utterances of each language.  min_text_words:
    a held-out text of fewer words does not exclude an utterance.  held_out_speakers: leave out the other utterances of
    held-out speakers too. Set it to False for a corpus that is trained and scored on the same speakers, for instance on
    one reciter.
    Raises CorpusError for unusable directories, for a language whose utterances form one group, and for held-out
    recordings in the result.
    """
    if not sets:
        raise CorpusError("ssl: no data directory is named (--from)")
    if not 0 < dev_share < 0.5:
        raise CorpusError(f"ssl: dev_share={dev_share}: expected a share between 0 and 0.5")
    if max_seconds < 2 * min_seconds or min_seconds * SAMPLE_RATE < MIN_SAMPLES:
        raise CorpusError(
            f"ssl: min_seconds={min_seconds}, max_seconds={max_seconds}: expected min_seconds of at least "
            f"{MIN_SAMPLES / SAMPLE_RATE}, and max_seconds of at least twice min_seconds"
        )
    guarded = [Path(path) for path in held_out]
    scored = [member for path in guarded for member in _read(path, None, scored=True)]
    members = [member for entry in sets for member in _read(*parse_set(entry))]
    kept, excluded = _exclude(members, scored, min_text_words, min_seconds, held_out_speakers)
    parts = _divide(kept, dev_share, min_text_words, seed)
    excluded += _exclude_copies(parts, scored)
    names = name_utterances(_ids(member) for own in parts.values() for member in own)
    summary = {}
    for split, own in parts.items():
        summary[split] = _write(out_dir / "ssl" / split, own, names, round(max_seconds * SAMPLE_RATE))
    train, dev = (out_dir / "ssl" / split for split in ("train", "dev"))
    check_isolation([train], [dev])
    check_isolation([train, dev], guarded)
    rows = [(member.corpus, member.utterance.utt_id, reason) for member, reason in excluded]
    write_tsv(out_dir / "excluded.tsv", ("corpus", "utt_id", "reason"), rows)
    reasons = dict(sorted(Counter(reason for _, reason in excluded).items()))
    write_json(
        out_dir / "summary.json",
        {
            "from": list(sets), "held_out": list(map(str, held_out)), "seed": seed, "max_seconds": max_seconds,
            "min_seconds": min_seconds, "dev_share": dev_share, "min_text_words": min_text_words,
            "held_out_speakers": held_out_speakers, "excluded": reasons, "sets": summary,
        },
    )  # fmt: skip
    for split, entry in summary.items():
        by_language = ", ".join(f"{name} {value:.3f}" for name, value in entry["hours_by_language"].items())
        _log.info("ssl/%s: %d utterances, %.3f h (%s)", split, entry["utterances"], entry["hours"], by_language)
    for reason, count in reasons.items():
        _log.info("ssl: %d utterances left out: %s", count, reason)


def parse_set(entry: str) -> tuple[Path, str | None]:
    """Folder and language of "DIR" or "DIR:LANGUAGE"."""
    folder, colon, language = entry.rpartition(":")
    if not colon or "/" in language or not language:
        return Path(entry), None
    return Path(folder), language


def _read(path: Path, language: str | None, *, scored: bool = False) -> Iterator[Member]:
    """The utterances of a data directory. A scored one needs no language."""
    rows: dict[str, list[Provenance]] = defaultdict(list)
    for row in read_sources(path):
        rows[row.utt_id].append(row)
    for utterance in read_datadir(path):
        if utterance.utt_id not in rows:
            raise CorpusError(f"{path / 'sources.tsv'}: {utterance.utt_id} is missing; prepare the corpus again")
        own = language or utterance.language
        if own is None and not scored:
            raise CorpusError(f"{path}: no utt2lang; write the language behind the folder: {path}:ar")
        yield Member(utterance, tuple(rows[utterance.utt_id]), own or "")


def _exclude(
    members: Iterable[Member], scored: Sequence[Member], min_text_words: int, min_seconds: float, by_speaker: bool
) -> tuple[list[Member], list[tuple[Member, str]]]:
    """The members to train on, and the others with their reasons."""
    recordings = {key for member in scored for key in member.recordings()}
    speakers = {(member.corpus, member.utterance.speaker) for member in scored if by_speaker}
    texts = {text for member in scored if (text := member.text(min_text_words))}
    kept, excluded = [], []
    seen: set[object] = set()
    for member in members:
        own = member.utterance
        stretch = tuple(row.sha256 for row in member.rows), own.start, own.end
        if not recordings.isdisjoint(member.recordings()):
            reason = "its recording is held out"
        elif (member.corpus, own.speaker) in speakers:
            reason = "its speaker is held out"
        elif member.text(min_text_words) in texts:
            reason = "its text is held out"
        elif own.samples < min_seconds * SAMPLE_RATE:
            reason = f"shorter than {min_seconds:g} s"
        elif stretch in seen:
            reason = "the same audio is there already"
        else:
            seen.add(stretch)
            kept.append(member)
            continue
        excluded.append((member, reason))
    if not kept:
        each = ", ".join(f"{reason}: {count}" for reason, count in Counter(reason for _, reason in excluded).items())
        raise CorpusError(
            f"ssl: nothing is left to train on ({each}). If training and held-out sets share speakers on purpose, "
            f"give --keep-speakers"
        )
    return kept, excluded


def _exclude_copies(parts: dict[str, list[Member]], scored: Sequence[Member]) -> list[tuple[Member, str]]:
    """Remove from train and dev what has the samples of a held-out utterance, and from train what has those of dev."""
    excluded = []
    for split, others in (("dev", scored), ("train", [*scored, *parts["dev"]])):
        own = parts[split]
        pairs = find_pairs([member.utterance for member in own], [member.utterance for member in others])
        copies = {pair.training for pair in pairs if pair.equal}
        excluded += [(member, "its samples are held out") for member in own if member.utterance in copies]
        parts[split] = [member for member in own if member.utterance not in copies]
    return excluded


def _divide(members: Sequence[Member], dev_share: float, min_text_words: int, seed: int) -> dict[str, list[Member]]:
    """Divide whole groups into train and dev: dev takes groups in the order of a seeded hash up to its share."""
    groups = _groups(members, min_text_words)
    by_language: dict[str, list[list[Member]]] = defaultdict(list)
    for group in groups:
        languages = {member.language for member in group}
        if len(languages) > 1:
            raise CorpusError(
                f"ssl: {group[0].utterance.utt_id} and others share recordings or texts and have the languages "
                f"{' and '.join(sorted(languages))}; give them one language"
            )
        by_language[group[0].language].append(group)
    parts: dict[str, list[Member]] = {"train": [], "dev": []}
    for language, own in sorted(by_language.items()):
        total = sum(map(len, own))
        own.sort(key=lambda group: hash_fraction(min(map(_key, group)), seed, "ssl"))
        chosen: list[list[Member]] = []
        count = 0
        for group in own:
            if count < dev_share * total and count + len(group) <= 2 * dev_share * total:
                chosen.append(group)
                count += len(group)
        if not chosen and len(own) > 1:
            chosen = [min(own, key=len)]  # all groups are larger than the share: the smallest is nearest to it
        if not chosen:
            raise CorpusError(
                f"ssl: all {total} utterances of {language} are one group by recording and text, so no dev part is "
                f"separate from training; give more recordings, or another min_text_words"
            )
        taken = set(map(id, chosen))
        for group in own:
            parts["dev" if id(group) in taken else "train"] += group
    return parts


def _groups(members: Sequence[Member], min_text_words: int) -> list[list[Member]]:
    """Groups of members that share recordings or texts, directly or through other members."""
    keys = []
    for member in members:
        text = member.text(min_text_words)
        keys.append([*member.recordings(), *([("text", text)] if text else [])])
    groups: dict[int, list[Member]] = defaultdict(list)
    for member, group in zip(members, connected(keys), strict=True):
        groups[group].append(member)
    return list(groups.values())


def _key(member: Member) -> str:
    return f"{member.corpus}/{member.utterance.utt_id}"


def _ids(member: Member) -> tuple[str, str]:
    """Speaker and utterance, unique among corpora."""
    corpus = safe_id(member.corpus)
    return f"{corpus}_{member.utterance.speaker}", f"{corpus}_{member.utterance.utt_id}"


def _write(
    path: Path, members: Sequence[Member], names: Mapping[tuple[str, str], tuple[str, str]], longest: int
) -> dict[str, object]:
    """Write a data directory with its sources; return its entry of the summary."""
    utterances, sources = [], []
    corpora: Counter[str] = Counter()
    for member in members:
        utt_id, speaker = names[_ids(member)]
        for piece in _pieces(replace(member.utterance, utt_id=utt_id, speaker=speaker), longest):
            utterances.append(replace(piece, language=member.language, text=None, dialect=None, emotion=None))
            sources += [replace(row, utt_id=piece.utt_id) for row in member.rows]
        corpora[member.corpus] += member.utterance.samples
    write_datadir(path, utterances)
    write_sources(path, sources)
    by_corpus = {corpus: hours(samples) for corpus, samples in sorted(corpora.items())}
    return {**summary_of(utterances), "hours_by_corpus": by_corpus}


def _pieces(utterance: Utterance, longest: int) -> Iterator[Utterance]:
    """The utterance, or equal parts of at most `longest` samples that together hold every sample."""
    count = -(-utterance.samples // longest)
    if count == 1:
        yield utterance
        return
    first = utterance.start or 0
    edges = [first + utterance.samples * place // count for place in range(count + 1)]
    for place, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
        yield replace(utterance, utt_id=f"{utterance.utt_id}-{place:04d}", start=start, end=end, samples=end - start)
