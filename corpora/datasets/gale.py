"""GALE Arabic broadcasts (LDC): conversations and news with transcripts in tab-separated tables.

    <corpus>/**/<recording>.{wav,flac} and <corpus>/**/*.tdf

A table has three lines before its 13 columns. LDC publishes no split: `test_list` and `dev_list` name the recordings of
test and dev, and the other recordings are train. A recording that is in two LDC parts is used once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from corpora.files import CorpusError
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation
from corpora.prepare.readers import read_lines, seconds
from corpora.prepare.tree import visible_files
from corpora.registry import CorpusInfo, corpus_error

INFO = CorpusInfo(
    name="gale",
    title="GALE Arabic broadcast conversations and news, phases 2 to 4 (LDC)",
    tasks=("asr", "ssl"),
    hours=None,
    licence="LDC",
    access="paid",
    by_hand="order speech and transcripts of the LDC: phase 2 LDC2013S02 LDC2013T17, LDC2013S07 LDC2013T04, LDC2014S07 "
    "LDC2014T17, LDC2015S01 LDC2015T01; phase 3 LDC2015S11 LDC2015T16, LDC2016S01 LDC2016T06, LDC2016S07 LDC2016T17, "
    "LDC2017S02 LDC2017T04; phase 4 LDC2017S15 LDC2017T12, LDC2018S05 LDC2018T14",
    layout="**/<recording>.wav or .flac, and **/*.tdf",
)
COLUMNS = (
    "recording", "channel", "start", "end", "speaker", "gender", "dialect", "text", "section", "turn", "segment",
    "section_type", "su_type",
)  # fmt: skip
# The recordings that Kaldi's recipe (egs/gale_arabic/s5d/local/test) holds out: test_p2, which Lhotse uses too, dev_all
# and mt_eval_all. Two recordings of mt_eval_all are in phase2 too. LDC publishes no lists for phases 3 and 4.
HELD_OUT = {
    "phase2": """
        ALAM_WITHEVENT_ARB_20070116_205800 ALAM_WITHEVENT_ARB_20070206_205801 ALAM_WITHEVENT_ARB_20070213_205800
        ALAM_WITHEVENT_ARB_20070227_205800 ALAM_WITHEVENT_ARB_20070306_205800 ALAM_WITHEVENT_ARB_20070313_205800
        ARABIYA_FROMIRAQ_ARB_20070216_175800 ARABIYA_FROMIRAQ_ARB_20070223_175801
        ARABIYA_FROMIRAQ_ARB_20070302_175801 ARABIYA_FROMIRAQ_ARB_20070309_175800
    """.split(),
    "dev_all": """
        ALBAGHDADYA_BAGHDADYANEWS10_ARB_20080728_100000 ALHURRA_NEWS10_ARB_20061005_102800
        ALJZ_NEWS15_ARB_20081210_095801 ALURDUNYA_URDUNYANEWS_ARB_20070424_000000
        ARABIYA_PANORAMA_ARB_20090302_200000 IRAQIYAH_ECONRPT_ARB_20081210_075801 LBC_NEWS_ARB_20070322_195800
        SCOLA_EGYPNNSCO_ARB_20070426_035900 YEMENTV_YEMENNEWS_ARB_20080728_130000
        ALHIWAR_FREEOPINION_ARB_20090519_180000 ALHURRA_FREEHOUR_ARB_20080731_020000
        ALJZ_TODINTER_ARB_20070811_222800 ARABIYA_ARABSDEBATE_ARB_20070830_210000
        ARABIYA_THIRDEYE_ARB_20070323_000000 OMANTV_MORNCOFF_ARB_20070418_000000
        SYRIANTV_CIRCLEVT_ARB_20070813_142801
    """.split(),
    "mt_eval_all": """
        ALAM_IRAQNOW_ARB_20070208_085800 ALJZ_TODINTER_ARB_20070205_132800 SYRIANTV_WEEKFILE_ARB_20070203_142800
        ALAM_WITHEVENT_ARB_20070206_205801 ALAM_WITHEVENT_ARB_20070227_205800
        ARABIYA_ALARABIYANEWS2_ARB_20070312_000000 ARABIYA_ALARABIYANEWS2_ARB_20070322_000000
        ARABIYA_LATEHRNEWS_ARB_20070227_000000 DUBAI_DUBAINEWS2_ARB_20070313_000000
        ABUDHABI_ABUDHNEWS2_ARB_20070228_000000 ALURDUNYA_URDUNYANEWS_ARB_20070312_000000
        ARABIYA_ALARABIYANEWS2_ARB_20070308_000000 ARABIYA_ALARABIYANEWS2_ARB_20070316_000000
        ARABIYA_LATEHRNEWS_ARB_20070222_000000 ARABIYA_PANORAMA_ARB_20070226_000000
        ARABIYA_PANORAMA_ARB_20070306_000000 ARABIYA_PANORAMA_ARB_20070311_000000
        DUBAI_DUBAINEWS2_ARB_20070227_000000 DUBAI_DUBAINEWS2_ARB_20070306_000000
        DUBAI_DUBAINEWS2_ARB_20070312_000000 ALURDUNYA_URDUNYANEWS_ARB_20070326_000000
        ARABIYA_PANORAMA_ARB_20070326_000000
    """.split(),
}
_HEADER_LINES = 3
_NO_SPEAKER = "no speaker"
_TAG = re.compile(r"<[^<>]*>")
_log = logging.getLogger(__name__)


def prepare(
    corpus_dir: Path,
    out_dir: Path,
    *,
    jobs: int = 1,
    text_profile: str = "mgb",
    test_list: Path | None = None,
    dev_list: Path | None = None,
) -> None:
    """Write `<out_dir>/train`, and `dev` and `test` if their lists are given.

    test_list, dev_list: text files with one recording on each line, with or without its suffix, or the name of a list
    of Kaldi's recipe: phase2 (10 recordings), dev_all (16) or mt_eval_all (22). The other recordings are train.
    Raises CorpusError for another layout or a listed recording that has no transcript, TooManyBadFiles past the limit.
    """
    tables = visible_files(corpus_dir, "**/*.tdf")
    sources = _recordings(corpus_dir)
    if not tables or not sources:
        raise corpus_error(corpus_dir, INFO)
    chosen = {split: _read_list(path) for split, path in (("dev", dev_list), ("test", test_list)) if path}
    if both := sorted(chosen.get("dev", {}).keys() & chosen.get("test", {}).keys()):
        raise CorpusError(f"{chosen['dev'][both[0]]}: {both[0]} is also in the test list, {chosen['test'][both[0]]}")
    work = Preparation(INFO, corpus_dir, out_dir, jobs=jobs, text_profile=text_profile)
    items: dict[str, list[Item]] = {split: [] for split in ("train", *chosen)}
    seen: set[str] = set()
    first: dict[str, tuple[Path, str]] = {}  # table and line of every utterance
    for table in tables:
        for recording, item in _items(work, table, sources):
            seen.add(recording)
            split = next((name for name, own in chosen.items() if recording in own), "train")
            other, where = first.setdefault(item.utt_id, (table, item.where))
            if other != table:
                work.exclude(split, item.utt_id, item.where, f"the same segment is in {where}")
            else:
                items[split].append(item)
    for own in chosen.values():
        if unknown := [recording for recording in own if recording not in seen]:
            raise CorpusError(f"{own[unknown[0]]}: no transcript names the recording {unknown[0]}")
    for split, own in items.items():
        work.add(split, own)
    work.write()


def _name(recording: str) -> str:
    """A recording's name without its suffix and without the asterisk of some tables."""
    name = recording.replace("*", "").strip().rsplit("/", 1)[-1]
    return re.sub(r"\.(sph|wav|flac)$", "", name, flags=re.IGNORECASE)


def _recordings(corpus_dir: Path) -> dict[str, str]:
    """Path inside the corpus by name. If two LDC parts have a recording of the same name, the first path is used."""
    sources: dict[str, str] = {}
    for path in visible_files(corpus_dir, "**/*"):
        if path.suffix.lower() not in (".wav", ".flac"):
            continue
        source = path.relative_to(corpus_dir).as_posix()
        if sources.setdefault(path.stem, source) != source:
            _log.warning("gale: %s is in two places; %s is used, %s is not", path.stem, sources[path.stem], source)
    return sources


def _read_list(path: Path) -> dict[str, str]:
    """Place of every recording of a list."""
    if path.as_posix() in HELD_OUT:
        return dict.fromkeys(HELD_OUT[path.as_posix()], f"the list {path}")
    return {_name(line): where for where, line in read_lines(path)}


def _items(work: Preparation, table: Path, sources: Mapping[str, str]) -> Iterator[tuple[str, Item]]:
    """(recording, item) of every line with a speaker."""
    for number, (where, line) in enumerate(read_lines(table, strip=False, empty=True)):
        if number < _HEADER_LINES or not line.strip():
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != len(COLUMNS):
            names = ", ".join(COLUMNS)
            work.bad(where, f"expected {len(COLUMNS)} tab-separated columns ({names}), found {len(fields)}")
            continue
        row = dict(zip(COLUMNS, fields, strict=True))
        if row["speaker"] == _NO_SPEAKER:
            continue
        start, end = seconds(where, row["start"], work.bad), seconds(where, row["end"], work.bad)
        if start is None or end is None:
            continue
        recording = _name(row["recording"])
        speaker = f"gale_{safe_id(recording)}_{safe_id(row['speaker'] or 'unknown')}"
        utt_id = f"{speaker}-{round(start * 100):07d}-{round(end * 100):07d}"
        text = _TAG.sub(" ", row["text"].replace("*", ""))
        source = sources.get(recording, f"{recording}.wav")
        yield recording, Item(utt_id, speaker, source, where, text, start, end)
