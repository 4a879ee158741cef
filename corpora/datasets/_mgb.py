"""Read the MGB corpora: utterance ids, Buckwalter text, scored sets, several references for one utterance."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from corpora.datasets._options import check_choice
from corpora.fetch import unpack_once
from corpora.files import CorpusError, write_text
from corpora.machine import parallel
from corpora.prepare import hub
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import Segment, read_lines, read_segments, seconds
from corpora.prepare.tree import find_path
from corpora.registry import CorpusInfo
from corpora.text import from_buckwalter, normalise, printable

SCRIPTS = ("auto", "utf8", "bw")
PARQUET_FIELDS = {"text": ("sentence", "text", "transcription")}
_LATIN = "@@LAT@@"  # marks a word in Latin letters that is not Buckwalter
_ID = re.compile(r"(?P<recording>.+)_spk-(?P<speaker>\d+)_seg-(?P<start>\d+):(?P<end>\d+)")
_WHO = re.compile(r".*_speaker(?P<number>\d+)(_align)?")
_ARABIC = re.compile("[\u0600-\u06ff]")

# Names of the files of a scored set in the forms of the publisher, Lhotse, Kaldi and ESPnet.
_TEXTS = ("text.non_overlap_speech", "text.verbatim.nonoverlap", "text.overlap_speech", "text.all", "text")
_SEGMENTS = ("segments.non_overlap_speech", "segments.overlap_speech", "segments.all", "segments")
_CLEAN = (
    "non_overlap_speech",
    "non_overlap_speech.lst",
    "text.non_overlap_speech",
    "text.verbatim.nonoverlap",
    "segments.non_overlap_speech",
)
_OVERLAP = ("overlap_speech", "overlap_speech.lst", "text.overlap_speech", "segments.overlap_speech")


def arabic_words(words: Iterable[str], *, buckwalter: bool) -> str:
    """Words in Arabic letters. Words with the mark @@LAT@@ lose it and stay Latin."""
    return " ".join(
        word.replace(_LATIN, "") if _LATIN in word or not buckwalter else from_buckwalter(word) for word in words
    )


def read_texts(path: Path, script: str = "auto", drop: Collection[str] = ()) -> dict[str, tuple[str, str]]:
    """Utterance id -> (`<file>:<line>`, text in Arabic letters) of a Kaldi text file.

    script: utf8, bw (Buckwalter), or auto: Buckwalter unless the file has a letter in Arabic script.  drop: marks of
    unintelligible words. Raises CorpusError for an id that is listed twice.
    """
    lines = list(read_lines(path))
    if script == "auto":
        script = "utf8" if any(_ARABIC.search(line) for _, line in lines) else "bw"
    texts: dict[str, tuple[str, str]] = {}
    for where, line in lines:
        utt_id, *words = line.split()
        if utt_id in texts:
            raise CorpusError(f"{where}: utterance {utt_id} is listed twice, first in {texts[utt_id][0]}")
        words = [word for word in words if word not in drop]
        texts[utt_id] = where, arabic_words(words, buckwalter=script == "bw")
    return texts


def check_script(script: str) -> None:
    """Raise CorpusError for a script that is not one of SCRIPTS."""
    check_choice("script", script, SCRIPTS)


def unpacked(corpus_dir: Path, out_dir: Path, splits: Sequence[str]) -> Path:
    """The folder of the unpacked splits. Archives `<split>.tar.gz` are unpacked once, into `<out_dir>/unpacked`."""
    archives = [path for split in splits if (path := find_path(corpus_dir, f"{split}.tar.gz")).is_file()]
    if not archives or any(find_path(corpus_dir, split).is_dir() for split in splits):
        return corpus_dir
    for archive in archives:
        unpack_once(archive, out_dir / "unpacked" / archive.name.lower().removesuffix(".tar.gz"), strip=1)
    return out_dir / "unpacked"


def training_items(
    work: Preparation,
    split: str,
    xml_files: Sequence[Path],
    wav_folder: str,
    *,
    script: str,
    max_wmer: float,
    jobs: int,
) -> Iterator[Item]:
    """The aligned segments of all transcripts with a WMER of at most `max_wmer` %. The others are excluded.

    wav_folder: the folder of `<transcript's name>.wav` inside the corpus. Ids have the form of the scored sets:
    `<recording>_spk-0001_seg-0001671:0002252`, times in centiseconds.
    """
    transcripts = work.tally("transcripts", len(xml_files))
    results = parallel(_try_segments, xml_files, jobs=jobs, label=f"{work.info.name} {split} XML")
    for path, segments in zip(xml_files, results, strict=True):
        if isinstance(segments, str):
            transcripts.skip(path, segments)
            continue
        buckwalter = script == "bw"
        if script == "auto":
            buckwalter = not any(_ARABIC.search(word) for segment in segments for word in segment.words)
        for segment in segments:
            who = _WHO.fullmatch(segment.who)
            if not who:
                work.bad(segment.where, f"expected who='<recording>_speaker<number>_align', found {segment.who!r}")
                continue
            speaker = f"{path.stem}_spk-{int(who['number']):04d}"
            utt_id = f"{speaker}_seg-{round(segment.start * 100):07d}:{round(segment.end * 100):07d}"
            if segment.error_rate is not None and segment.error_rate > max_wmer:
                work.exclude(split, utt_id, segment.where, f"WMER {segment.error_rate:g} is above {max_wmer:g}")
                continue
            text = arabic_words(segment.words, buckwalter=buckwalter)
            source = f"{wav_folder}/{path.stem}.wav"
            yield Item(utt_id, speaker, source, segment.where, text, segment.start, segment.end)


def add_scored_set(work: Preparation, name: str, folder: Path, *, script: str) -> None:
    """Add the set `name` (one speaker at a time) and, if the folder lists overlapping speech, `<name>_overlap`.

    Times come from `segments*`, else from the ids. Raises CorpusError for a folder that does not list the overlapping
    utterances, or lists an utterance as both.
    """
    texts: dict[str, tuple[str, str]] = {}
    for file in _present(folder, _TEXTS):
        texts |= read_texts(file, script)
    clean, overlap = _ids(folder, _CLEAN), _ids(folder, _OVERLAP)
    if not texts or not (clean or overlap):
        raise CorpusError(
            f"{folder}: expected text.non_overlap_speech, or text and the list non_overlap_speech (or .lst), or "
            f"text.verbatim.nonoverlap; found {', '.join(sorted(path.name for path in folder.iterdir())) or 'nothing'}"
        )
    both = sorted(clean.keys() & overlap.keys())
    if both:
        raise CorpusError(f"{clean[both[0]]}: {both[0]} is listed as overlapping too, in {overlap[both[0]]}")
    if not clean:
        clean = {utt_id: where for utt_id, (where, _) in texts.items() if utt_id not in overlap}
    segments = _segments(folder)
    wavs = _Recordings(work.corpus_dir, folder)
    for split, ids in ((name, clean), (f"{name}_overlap", overlap)):
        items = [_scored_item(work, utt_id, where, texts, segments, wavs) for utt_id, where in ids.items()]
        if ids:
            work.add(split, [item for item in items if item])


def recordings_as_speakers(items: Sequence[Item]) -> list[Item]:
    """The items of a corpus without speakers, with the recording as the speaker.

    Kaldi needs ids that sort like their speakers. With recordings "vlog_1" and "vlog_10" they do not: "vlog_10_0"
    comes before "vlog_1_0". Then every utterance is its own speaker.
    """
    recordings = [Path(item.source).stem for item in sorted(items, key=lambda item: item.utt_id)]
    prefixed = all(item.utt_id.startswith(Path(item.source).stem) for item in items)
    if prefixed and recordings == sorted(recordings):
        return [replace(item, speaker=Path(item.source).stem) for item in items]
    return [replace(item, speaker=item.utt_id) for item in items]


def first_texts(annotators: Iterable[Mapping[str, tuple[str, str]]], profile: str) -> dict[str, tuple[str, str]]:
    """Every utterance with the text of the first annotator whose text has words in the profile."""
    chosen: dict[str, tuple[str, str]] = {}
    worded: set[str] = set()
    for own in annotators:
        for utt_id, (where, text) in own.items():
            if utt_id not in worded and normalise(printable(text), profile):
                worded.add(utt_id)
                chosen[utt_id] = where, text
            chosen.setdefault(utt_id, (where, text))
    return chosen


def write_references(data_dir: Path, references: Mapping[str, Mapping[str, tuple[str, str]]], profile: str) -> None:
    """Write `text_<annotator>` for every annotator, for multi-reference error rates, in the text profile of the set.

    A file holds those utterances of `<data_dir>/text` that the annotator has transcribed with words.
    """
    kept = [line.split(" ", 1)[0] for line in (data_dir / "text").read_text(encoding="utf-8").splitlines()]
    for annotator, texts in references.items():
        lines = []
        for utt_id in kept:
            text = normalise(printable(texts.get(utt_id, ("", ""))[1]), profile)
            if text:
                lines.append(f"{utt_id} {text}\n")
        write_text(data_dir / f"text_{annotator.lower()}", "".join(lines))


def write_clips(
    info: CorpusInfo,
    corpus_dir: Path,
    out_dir: Path,
    shards: Sequence[hub.Shard],
    *,
    jobs: int,
    text_profile: str,
    chosen: Sequence[str],
) -> None:
    """Write the sets of a copy in Parquet: one text for each clip, and every clip is its own speaker."""
    rows = hub.Hub(info, corpus_dir, out_dir, shards, PARQUET_FIELDS, chosen=chosen)
    work = Preparation(info, rows.clips_dir, out_dir, jobs=jobs, text_profile=text_profile)

    def item(clip: hub.Clip) -> Item:
        utt_id = f"{info.name}_{clip.split}_{clip.name}"
        return Item(utt_id, utt_id, clip.source, clip.where, clip["text"])

    rows.add_to(work, item)
    work.write({})


def _try_segments(path: Path) -> list[Segment] | str:
    try:
        return read_segments(path)
    except CorpusError as error:
        return str(error)


def _present(folder: Path, names: Iterable[str]) -> list[Path]:
    return [path for name in names if (path := find_path(folder, name)).is_file()]


def _ids(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """First word -> place of every line of the existing files."""
    return {line.split()[0]: where for file in _present(folder, names) for where, line in read_lines(file)}


def _segments(folder: Path) -> dict[str, tuple[str, float, float]]:
    """Utterance id -> (recording, start, end) of the existing Kaldi segments files."""
    segments = {}
    for file in _present(folder, _SEGMENTS):
        for where, line in read_lines(file):
            fields = line.split()
            if len(fields) != 4:
                raise CorpusError(f"{where}: expected 'utterance recording start end', found {line!r}")
            segments[fields[0]] = (fields[1], seconds(where, fields[2]), seconds(where, fields[3]))
    return segments


def _scored_item(
    work: Preparation,
    utt_id: str,
    where: str,
    texts: Mapping[str, tuple[str, str]],
    segments: Mapping[str, tuple[str, float, float]],
    wavs: _Recordings,
) -> Item | None:
    parts = _ID.fullmatch(utt_id)
    if not parts:
        work.bad(where, f"expected an id <recording>_spk-<number>_seg-<start>:<end> (centiseconds), found {utt_id!r}")
        return None
    if utt_id not in texts:
        work.bad(where, f"{utt_id} has no text")
        return None
    recording, start, end = parts["recording"], int(parts["start"]) / 100, int(parts["end"]) / 100
    recording, start, end = segments.get(utt_id, (recording, start, end))
    text_where, text = texts[utt_id]
    speaker = f"{parts['recording']}_spk-{parts['speaker']}"
    return Item(utt_id, speaker, wavs.source(recording), text_where, text, start, end)


class _Recordings:
    """Find the recordings of a scored set: `wav/<recording>.wav`, else the file in wav.scp."""

    def __init__(self, corpus_dir: Path, folder: Path):
        self._corpus_dir = corpus_dir
        self._folder = folder
        self._listed: dict[str, tuple[str, str]] = {}
        for file in _present(folder, ["wav.scp"]):
            for where, line in read_lines(file):
                recording, _, entry = line.partition(" ")
                self._listed[recording] = where, entry.strip()

    def source(self, recording: str) -> str:
        """Path of a recording inside the corpus. Raises CorpusError for a recording that is a command in wav.scp."""
        usual = find_path(self._folder, f"wav/{recording}.wav")
        where, entry = self._listed.get(recording, ("", ""))
        if not usual.is_file() and entry:
            if entry.startswith("|") or entry.endswith("|"):
                raise CorpusError(
                    f"{where}: {recording} is a command, not a file; pipes are refused. Put its audio at {usual}"
                )
            # wav.scp has the paths of the publisher's machine, so the file is found by its name.
            for path in (self._folder / entry, find_path(self._folder, f"wav/{Path(entry).name}")):
                if path.is_file() and path.resolve().is_relative_to(self._corpus_dir.resolve()):
                    usual = path
                    break
        return usual.relative_to(self._corpus_dir).as_posix()
