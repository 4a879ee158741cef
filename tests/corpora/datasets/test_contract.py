"""Every corpus keeps one contract: valid directories, expected counts, disjoint splits, errors that name the place.

A corpus of `registry.MODULES` without a case here fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from corpora import registry
from corpora.audio import read_audio
from corpora.datadir import read_datadir, validate_datadir
from corpora.files import CorpusError, TooManyBadFiles
from corpora.prepare.sources import read_sources
from corpora.text import LEADERBOARD, PROFILES

pytestmark = pytest.mark.usefixtures("no_disk_sync")


@dataclass(frozen=True)
class Case:
    """Utterances by data directory; options; and damages: file, text, its replacement (None: no file), error token.

    In a corpus of folds, `sets` has the utterances of each whole fold.
    """

    sets: dict[str, int]
    damages: list[tuple[str, str, str | None, str]]
    options: dict = field(default_factory=dict)


MGB2 = "FF2C4C1F-1A2B-4C3D-8E9F-0123456789AB"
CASES = {
    "adi5": Case({"train": 25, "dev": 10, "test": 10}, []),
    "adi17": Case(
        {"train": 6, "dev": 2, "test": 2},
        [
            ("adi17_official_dev_label.txt", "YEM", "ARG", r"label.txt:3: .*'ARG'"),
            ("adi17_official_dev_label.txt", "YEM\r\n", "YEM\r\nxyz\r\n", "label.txt:4: .*'xyz'"),
            ("adi17_official_dev_label.txt", "id label", "zz9ZZ-zz_zz_000000-000020 XXX", "label.txt:1: .*'XXX'"),
            (
                "adi17_official_dev_label.txt",
                "YEM\r\n",
                "YEM\r\nzz9ZZ-zz_zz_000000-000020 KSA\r\n",
                "label.txt:4: zz9ZZ.* KSA .* EGY .*label.txt:2",
            ),
        ],
    ),
    "adi20": Case(
        {"train": 4, "dev": 1},
        [
            ("dev.csv", ",MSA,", ",Cairo,", "dev.csv:2: .*'Cairo'"),
            ("dev.csv", ",0,3200", ",0.5,3200", "dev.csv:2: .*start.*'0.5'"),
            ("dev.csv", ",0.2,0,3200", "", "dev.csv:2: expected 6 fields"),
            ("dev.csv", "ID,wav,", "ID,path,", r"dev.csv:1: .*missing: wav\)"),
            ("dev.csv", "msa1_", "\udcff", "dev.csv:.*UTF-8"),
        ],
    ),
    "nadi": Case({"train": 36, "dev": 12, "test": 16}, []),
    "anad": Case(
        {"fold1": 24, "fold2": 24, "fold3": 24},
        [
            ("ANAD.csv", "V1_1 (2).wav',0.1,angry", "V1_1 (2).wav',0.1,bored", "ANAD.csv:3: .*'bored'"),
            ("ANAD.csv", "V1_1 (2).wav'", "unit1.wav", "ANAD.csv:3: .*'unit1.wav'"),
            ("ANAD.csv", "V1_1 (2).wav',0.1,", "V1_1 (2).wav',", "ANAD.csv:3: expected 3 fields"),
            ("ANAD.csv", "V1_1 (2).wav',0.1,angry", "V1_1 (1).wav',0.1,happy", r"ANAD.csv:3: V1_1 \(1\).wav .*happy"),
            ("ANAD.csv", "Emotion", "Mood", "ANAD.csv:1: .*missing: Emotion"),
            ("ANAD.csv", "", None, "ANAD.csv"),
        ],
        {"folds": 3},
    ),
    "baved": Case({f"fold{n}": 63 for n in range(1, 6)}, []),
    "eaed": Case({"fold1": 42, "fold2": 42}, [], {"folds": 2}),
    "eyase": Case({f"fold{n}": 48 for n in range(1, 7)}, []),
    "ksuemotions": Case({"fold1": 72, "fold2": 72}, [], {"folds": 2}),
    "sertus": Case(
        {f"fold{n}": 42 for n in range(1, 6)},
        [
            ("Categorical annotation.csv", "EMO4.wav, disgusted", "EMO4.wav, bored", "annotation.csv:3: .*'bored'"),
            ("Categorical annotation.csv", "EMO4.wav, disgusted", "take4.wav, sad", "annotation.csv:3: .*'take4.wav'"),
            ("Categorical annotation.csv", "EMO4.wav, disgusted", "EMO4.wav", "csv:3: expected 2 fields"),
            ("Categorical annotation.csv", "EMO4.wav, disgusted", "EMO1.wav, sad", "EMO1.wav: .*several labels"),
            ("Categorical annotation.csv", "Label", "Emotion", "csv:1: .*missing: Label"),
            ("Categorical annotation.csv", "", None, "a list of labels Categorical annotation.csv"),
        ],
    ),
    "arabic_speech_commands": Case(
        {"train": 31, "dev": 8, "test": 9},
        [
            ("keywords.tsv", "yes\tنعم", "yes نعم", "keywords.tsv:1: expected"),
            ("keywords.tsv", "yes\tنعم", "yes\t", "keywords.tsv:1: expected"),
            ("val.csv", "00000002_NO_01.wav,yes", "00000003_NO_01.wav,yes", "asc00000003 is in dev and test"),
            ("val.csv", "00000002_NO_01.wav,yes", "00000002_NO_01.wav", "val.csv:1: expected 2 fields"),
        ],
    ),
    "arabic_speech_corpus": Case(
        {"train": 2, "test": 1},
        [
            ("orthographic-transcript.txt", '"ARA NORM  0003.wav"', "x", "orthographic-transcript.txt:2"),
            ("orthographic-transcript.txt", "", None, "orthographic-transcript.txt; found phonetic-transcipt.txt"),
        ],
        {"text_profile": "none"},
    ),
    "callhome_egyptian": Case(
        {"train": 2, "dev": 2, "test": 2},
        [
            ("**/train/roman/*.txt", "# a comment\r\n", "A: hello\r\n", "roman/ar_train_1.txt:1: .*'A: hello'"),
            ("**/train/roman/*.txt", "0.10 0.60 A", "0.10 -1 A", "ar_train_1.txt:2"),
        ],
    ),
    "casablanca": Case(
        {"dev": 8, "dev_egy": 4, "dev_yem": 4, "test": 8, "test_egy": 4, "test_yem": 4},
        [],
        {"countries": ("Egypt", "Yemen")},
    ),
    "common_voice": Case(
        {"train": 3, "dev": 1, "test": 1},
        [
            ("*/ar/dev.tsv", "\tsentence\t", "\ttext\t", "dev.tsv:1: .*missing: sentence"),
            ("*/ar/dev.tsv", "", None, "dev.tsv"),
            ("*/ar/dev.tsv", "\t2\t\t\t\t\tar", "", "dev.tsv:2: expected 10 fields"),
            ("*/ar/train.tsv", "common_voice_ar_12.mp3", "../../x.mp3", r"train.tsv:3.*\.\./\.\./x.mp3"),
        ],
    ),
    "everyayah": Case(
        {"train": 32, "dev": 4, "test": 4}, [("quran.json", '[{"chapter"', '["a", {"chapter"', "quran.json")]
    ),
    "fleurs": Case(
        {"train": 3, "dev": 3, "test": 3},
        [
            ("**/dev.tsv", "10\t", "id\tfilename\n10\t", "dev.tsv:1: .*missing: raw"),
            ("**/dev.tsv", "\t3200\tFEMALE", "", "dev.tsv:1: expected 7 fields .*, found 5"),
        ],
    ),
    "gale": Case(
        {"train": 6},
        [("LDC2013T04/tdf/*.tdf", "\tmale\t", "\t", r"20070313.tdf:4: expected 13 .*columns")],
    ),
    "masc": Case(
        {"clean_train": 3, "clean_dev": 3, "noisy_test": 3},
        [
            ("subsets/clean_train.csv", "dialect", "variety", "clean_train.csv:1: .*missing: dialect"),
            ("subsets/clean_dev_meta.csv", ",News,1.5,UC1,Egypt,,,1.3", ",y", "dev_meta.csv:1: expected 8 fields"),
            ("subtitles/xyz12345678.ar.vtt", "", None, "xyz12345678.ar.vtt.*named by .*clean_dev_meta.csv:1"),
        ],
    ),
    "mgb2": Case(
        {"train": 3, "dev": 2, "dev_overlap": 1},
        [
            ("train/xml/utf8/*.xml", ' starttime="0.5"', "", ".xml:15: .*starttime"),
            ("train/xml/utf8/*.xml", "</transcript>", "", r"AB.xml:\d+: .*XML"),
            (
                "train/xml/utf8/*.xml",
                '<?xml version="1.0" encoding="utf-8"?>',
                '<!DOCTYPE t [<!ENTITY a "b">]>',
                ".xml:1: .*entity 'a'",
            ),
            ("train/wav/*.wav", "", None, "0123456789AB.wav: no such file, named by .*xml:10"),
            ("dev/overlap_speech", f"{MGB2}_spk-0001_seg-0000090:0000130", f"{MGB2}_spk-0001_seg-0000000:0000050",
             "non_overlap_speech:1: .*0000050 is listed as overlapping too, in .*:1"),
            ("dev/segments.all", " 0.00 0.50", " 0.00", "segments.all:1: expected"),
            ("dev/segments.all", " 0.00 0.50", " zero 1", "segments.all:1: .*'zero'"),
            ("dev/text.all", "seg-0000000", "seg-9", "non_overlap_speech:1: .*0000050 has no text"),
        ],
    ),  # fmt: skip
    "mgb3": Case(
        {"adapt": 3, "dev": 2},
        [
            ("dev/*/text_noverlap", "_0.1_0.55", "", "text_noverlap:1: .*comedy_75_first_12min'"),
            ("dev/Ali/text_noverlap", "_0.55_1.2", "_0.1_0.55", "text_noverlap:2: .*twice.*text_noverlap:1"),
            ("dev/Ali/text_noverlap", "كويس", "\udcff", r"text_noverlap:2: not UTF-8 \(byte 0xFF\)"),
        ],
    ),
    "mgb5": Case(
        {"train": 3, "dev": 2},
        [
            ("DB/train/train.segments.bw", " 0.0 0.5", " 0.0", "train.segments.bw:1: expected"),
            ("DB/train/train.segments.bw", " 0.5 1", " 0.5 -1", "train.segments.bw:4: .*'-1'"),
            ("DB/train/train.txt.bw", "_a4 ", "_a5 ", "train.segments.bw:4.*a4 has no text"),
            ("DB/train/train.txt.bw", "", None, "train.txt"),
        ],
    ),
    "arvoice": Case({"train": 4, "test": 2}, []),
    "clartts": Case({"train": 3, "test": 2}, []),
    "madis5": Case({"test": 5}, []),
    "mixat": Case({"train": 2, "test": 2}, []),
    "tunswitch": Case({"train_cs": 2, "dev_cs": 2, "test_cs": 2, "train_to": 2, "test_to": 2}, []),
    "mediaspeech": Case({"test": 2}, [("AR/0a1b2c3d-1.txt", "", None, "0a1b2c3d-1.flac: no text beside it")]),
    "mtedx": Case(
        {"train": 2, "dev": 2, "test": 2},
        [
            ("**/train/txt/train.ar", "شكرا\n", "", "3 lines in segments and 2 in train.ar"),
            ("**/train/txt/segments", "0.1 0.5", "0.1", "segments:1: expected '<sentence> <talk> <start> <end>'"),
            ("**/valid/vtt/*.vtt", "WEBVTT", "SRT", "vtt:1: expected WEBVTT"),
        ],
    ),
    "iwslt22_tunisian": Case(
        {"train": 2, "dev": 2, "test1": 2},
        [
            ("iwslt22-dialect/dev.file_id.txt", "20160101_1200_2_B", "20160101_1200_1_A", "1_A is in train too"),
            ("iwslt22-dialect/*.file_id.txt", "", None, "expected train.file_id.txt.*--set splits="),
            ("**/20160101_1200_1_A.tsv", "0.1\t0.6\tA", "0.1 0.6\tA", "A.tsv:1: expected start, end, speaker"),
            ("iwslt22-dialect/exclude-utterance.txt", " 1.2 1.2", " 1.2", "exclude-utterance.txt:1: expected"),
        ],
    ),
    "arzen": Case(
        {"train": 2, "dev": 1, "test": 1},
        [
            ("transcriptions/dev.src", "_000010-000090", "_10-90", "dev.src:1: expected an id such as S01-C03-R01_"),
            ("transcriptions/test.src", "\t", " ", "test.src:1: expected an id such as"),
            ("transcriptions/*.src", "", None, "expected train.src, dev.src and test.src.*--set splits="),
            ("recordings/C03-R02.WAV", "", None, "C03-R02.WAV: no such file, named by .*train.src:2"),
        ],
    ),
    "omani": Case(
        {"train": 2, "dev": 1, "test": 1},
        [
            ("transcripts/text01.html", "../audios/", "../sounds/", "text01.html: .*links to ../audios"),
            ("audios/v1l02.mp3", "", None, "v1l02.mp3: no such file, named by .*text01.html:11"),
        ],
    ),
    "verse_clips": Case(
        {"test": 3, "test_crowd": 1, "test_studio": 2},
        [
            ("manifest.json", '"file"', '"name"', "manifest.json:sample 1: .*'file'"),
            ("manifest.json", '"ayah": 3', '"ayah": 4', r"manifest.json:sample 1: no text for surah and ayah \(1, 4\)"),
            ("manifest.json", '"samples"', '"clips"', "manifest.json: expected"),
            ("quran.json", "", None, "quran.json: no text of the verses.*--set quran="),
        ],
    ),
    "qasr": Case(
        {"train": 1, "dev": 2, "test": 2},
        [("**/A-B.xml", 'who="A_B_speaker2_align"', 'who="somebody"', "A-B.xml:3: .*'somebody'")],
    ),
    "sada": Case(
        {"train": 3, "dev": 3, "test": 3},
        [
            ("train.csv", ",0,0.0,", ",0,zero,", "train.csv:2: .*'zero'"),
            ("train.csv", ",1.25,", ",NaN,", "train.csv:3: .*'NaN'"),
            ("train.csv", "هلا", "\udcff", r"train.csv:\d: .*UTF-8"),
            ("test.csv", "ProcessedText", "GroundTruthText", "test.csv:1: .*missing: ProcessedText"),
        ],
    ),
    "free_spoken_digits": Case({"train": 40, "test": 40}, []),
    "librispeech": Case(
        {"train-clean-5": 6, "dev-clean-2": 3},
        [
            ("dev-clean-2/84/9/84-9.trans.txt", "84-9-0002", "85-9-0003", "84-9.trans.txt:3: .*85-9-0003"),
            ("dev-clean-2/84/9/84-9-0001.flac", "", None, "dropped by Lhotse"),
        ],
    ),
    "tedlium3": Case({"dev": 2}, [("**/*.stm", "0.90 2.00", "0.90 2.0x", "AlGore_2009.stm:3: .*'2.0x'")]),
    "gigaspeech": Case({"train": 2, "dev": 2}, [("GigaSpeech.json", "}]}", "}]", "GigaSpeech.json: .*byte")]),
    "voxpopuli": Case({"train": 1, "dev": 1, "test": 1}, []),
}  # fmt: skip


def test_preparers_and_recipes_use_the_newest_rules_of_the_leaderboard() -> None:
    modules = (registry.load(name) for name in registry.MODULES)
    chosen = {
        module.INFO.name: own.default for module in modules if (own := registry.options(module).get("text_profile"))
    }
    for script in (Path(__file__).resolve().parents[3] / "egs").glob("*/asr1/run.sh"):
        found = re.findall(r"^ *--(?:text|score)_profile (\S+)", script.read_text(encoding="utf-8"), re.MULTILINE)
        chosen |= {f"{script.parent} {number}": own for number, own in enumerate(found)}
    assert set(chosen.values()) <= set(PROFILES) and LEADERBOARD in chosen.values() and len(chosen) > 40
    assert {own for own in chosen.values() if own.startswith("leaderboard")} == {LEADERBOARD}


def _prepare(name: str, corpus: Path, out: Path) -> None:
    registry.load(name).prepare(corpus, out, **CASES[name].options)


def test_every_corpus_has_a_case():
    assert sorted(CASES) == sorted(registry.MODULES)


@pytest.mark.parametrize("name", CASES)
def test_contract(name: str, tree: Callable[..., Path], tmp_path: Path):
    corpus, out, info = tree(name), tmp_path / "out", registry.load(name).INFO
    _prepare(name, corpus, out)
    sets = {path.parent.relative_to(out).as_posix(): read_datadir(path.parent) for path in sorted(out.rglob("utt2spk"))}
    folds = {key.split("/")[0] for key in sets if "/" in key}
    sizes = {fold: sum(len(own) for key, own in sets.items() if key.startswith(f"{fold}/")) for fold in folds}
    assert (sizes or {key: len(own) for key, own in sets.items()}) == CASES[name].sets

    files = {path.name for folder in (corpus, out) for path in folder.rglob("*")}
    rows = {key: read_sources(out / key) for key in sets}
    for key, own in sets.items():
        assert validate_datadir(out / key) == []
        assert {row.utt_id for row in rows[key]} == {u.utt_id for u in own}
        assert {row.corpus for row in rows[key]} == {name}
        assert {Path(row.source).name for row in rows[key]} <= files
        for utterance in own:
            assert len(read_audio(utterance.audio, utterance.start or 0, utterance.end)) == utterance.samples
            assert utterance.language in info.languages
        if "did" in info.tasks:
            assert all(u.dialect for u in own)
        if "asr" in info.tasks:
            assert all(u.text for u in own)
        if "ser" in info.tasks:
            assert all(u.emotion for u in own)

    for key in sets:
        split = key.split("/")[-1]
        if "train" not in split:
            continue
        for other in sets:
            if other != key and other.split("/")[:-1] == key.split("/")[:-1]:
                assert not _stretches(sets[key], rows[key]) & _stretches(sets[other], rows[other])
                if info.tasks in (("ser",), ("did",)):
                    assert not {u.speaker for u in sets[key]} & {u.speaker for u in sets[other]}

    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"}
    audio = {path: path.stat().st_ino for path in out.rglob("*.wav")}
    _prepare(name, corpus, out)
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert after == before and {path: path.stat().st_ino for path in audio} == audio


def _stretches(utterances: list, rows: list) -> set[tuple]:
    """Content and times of every utterance."""
    times = {u.utt_id: (u.start, u.end) for u in utterances}
    return {(row.sha256, *times[row.utt_id]) for row in rows if len(times) == len(rows)}


@pytest.mark.parametrize("name", CASES)
def test_the_error_for_a_missing_or_empty_folder_names_the_remedy(name: str, tmp_path: Path):
    info = registry.load(name).INFO
    (tmp_path / "empty").mkdir()
    for folder in ("nowhere", "empty"):
        with pytest.raises(CorpusError) as error:
            _prepare(name, tmp_path / folder, tmp_path / "out")
        message = str(error.value)
        assert f"{tmp_path / folder}" in message and f"{info.variable}=" in message and "found" in message
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("utt2spk"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [pytest.param(n, d, id=f"{n}-{i}") for n, case in CASES.items() for i, d in enumerate(case.damages)],
)
def test_bad_input_is_named(name: str, damage: tuple[str, str, str | None, str], tree, tmp_path: Path):
    glob, old, new, token = damage
    corpus = tree(name)
    files = sorted(corpus.glob(glob))
    assert files
    for path in files:
        if new is None:
            path.unlink()
            continue
        content = path.read_bytes()
        assert old.encode() in content
        path.write_bytes(content.replace(old.encode(), new.encode("utf-8", "surrogateescape")))
    try:
        _prepare(name, corpus, tmp_path / "out")
        report = (tmp_path / "out/skipped.tsv").read_text(encoding="utf-8").replace("\t", ": ")
    except (CorpusError, TooManyBadFiles) as error:
        report = str(error)
        assert not list((tmp_path / "out").rglob("utt2spk"))
    assert re.search(token, report), report
