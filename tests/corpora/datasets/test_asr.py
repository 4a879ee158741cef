"""Transcribed corpora: spelling, times, channels, speakers, splits and forms that are special to one publisher."""

from __future__ import annotations

import shutil
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile

from corpora import registry
from corpora.audio import read_audio
from corpora.datadir import read_datadir
from corpora.datasets import (
    arabic_speech_corpus,
    arvoice,
    arzen,
    callhome_egyptian,
    casablanca,
    clartts,
    common_voice,
    fleurs,
    gale,
    iwslt22_tunisian,
    masc,
    mtedx,
    omani,
    sada,
    verse_clips,
)
from corpora.files import CorpusError, TooManyBadFiles, read_json, write_json

pytestmark = pytest.mark.usefixtures("no_disk_sync")


# Arabic Speech Corpus


def test_arabic_speech_corpus_buckwalter_becomes_arabic(tree, tmp_path):
    corpus = tree("arabic_speech_corpus")
    arabic_speech_corpus.prepare(corpus.parent, tmp_path / "out", text_profile="none")
    train = read_datadir(tmp_path / "out/train")
    assert [unicodedata.normalize("NFC", u.text) for u in train] == [
        unicodedata.normalize("NFC", "وَرَجَّحَ التَّقْرِيرُ - ٱ")
    ] * 2
    assert {u.samples for u in train} == {4800}
    arabic_speech_corpus.prepare(corpus, tmp_path / "out")
    assert read_datadir(tmp_path / "out/test")[0].text == "ورجح التقرير ٱ"


def test_arabic_speech_corpus_the_misspelt_file(tree, tmp_path):
    corpus = tree("arabic_speech_corpus")
    arabic_speech_corpus.prepare(corpus, tmp_path / "out", transcript="phonetic")
    assert {u.text for split in ("train", "test") for u in read_datadir(tmp_path / "out" / split)} == {"w a r a j j"}
    with pytest.raises(CorpusError, match="transcript='phonemic': .*orthographic, phonetic"):
        arabic_speech_corpus.prepare(corpus, tmp_path / "out", transcript="phonemic")


# CALLHOME


def test_callhome_sides_are_channels(tree, tmp_path):
    callhome_egyptian.prepare(tree("callhome_egyptian"), tmp_path / "out")
    for split in ("train", "dev", "test"):
        first, second = read_datadir(tmp_path / "out" / split)
        assert (first.text, second.text) == ("izzayyak ya maHmud", "ah okay mish fahim bass kwayyis")
        assert (first.start, first.end, second.start, second.end) == (1600, 9600, 8000, 17600)
        assert first.speaker.endswith("_1_A") and second.speaker.endswith("_1_B1")
        loud = [np.sqrt(np.mean(read_audio(u.audio, u.start, u.end) ** 2)) for u in (first, second)]
        assert loud[1] > 5 * loud[0]
    assert (tmp_path / "out/excluded.tsv").read_text().count("no words") == 3
    assert len((tmp_path / "out/overlaps.tsv").read_text().splitlines()) == 1  # the sides do not overlap themselves


def test_callhome_upper_case_tree_as_on_the_disc(tree, tmp_path):
    corpus, disc = tree("callhome_egyptian"), tmp_path / "disc"
    for path in sorted((corpus / "callhome").rglob("*.sph")):
        target = disc / "LDC97S45" / path.relative_to(corpus).as_posix().upper()
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(corpus / "callhome_arabic_trans_970711", disc / "LDC97T19/callhome_arabic_trans_970711")
    callhome_egyptian.prepare(corpus, tmp_path / "out")
    callhome_egyptian.prepare(disc, tmp_path / "other")
    for split in ("train", "dev", "test"):
        for name in ("text", "utt2spk", "utt2num_samples"):
            assert len({(tmp_path / out / split / name).read_bytes() for out in ("out", "other")}) == 1


@pytest.mark.parametrize(
    ("marked", "words"),
    [
        ("<laugh>aywa</laugh> Tayyib", "Tayyib"),
        ('<foreign lang="English"> okay </foreign> ya <lname> &Hasan </lname>', "okay ya Hasan"),
        ("<English good night> <MSA laysa> [distortion] kida [/distortion]", "good night laysa kida"),
        (
            "{lipsmack} <breath/> da (( )) <background>tune</background> //aside// **word** #both#",
            "da aside word both",
        ),
        ("((mish ~fahim)) +bi-- %mm ¿ @la", "mish fahim bi mm la"),
        ("{cough {loud}} da", "da"),
    ],
)
def test_callhome_markup_leaves_the_text(marked, words):
    assert callhome_egyptian.clean(marked) == words


def test_callhome_packed_sphere_files_name_the_converter(tree, tmp_path):
    corpus = tree("callhome_egyptian")
    packed = corpus / "callhome/arabic/devtest/ar_devtest_1.sph"
    samples, rate = soundfile.read(packed)
    head = b"NIST_1A\n   1024\nsample_coding -s26 ulaw,embedded-shorten-v2.00\nend_head\n"
    packed.write_bytes(head.ljust(1024) + b"ajkg\x02" * 100)
    with pytest.raises(TooManyBadFiles, match="devtest_1.sph: .*shorten.*sph2pipe"):
        callhome_egyptian.prepare(corpus, tmp_path / "out")
    soundfile.write(packed.with_suffix(".wav"), samples, rate)
    callhome_egyptian.prepare(corpus, tmp_path / "out")
    assert read_datadir(tmp_path / "out/dev")[0].audio.name == "ar_devtest_1.wav.0.wav"


def test_callhome_missing_folders(tree, tmp_path):
    corpus = tree("callhome_egyptian")
    with pytest.raises(CorpusError, match="transcrp/train/script"):
        callhome_egyptian.prepare(corpus, tmp_path / "out", script="script")
    (corpus / "callhome/arabic/evltest").rename(corpus / "callhome/arabic/evtest")
    with pytest.raises(CorpusError, match="test .*callhome/arabic/evltest"):
        callhome_egyptian.prepare(corpus, tmp_path / "out")


# Casablanca


def test_casablanca_sets_of_each_country(tree, made, tmp_path):
    corpus, countries = tree("casablanca"), ("Egypt", "Yemen")
    casablanca.prepare(corpus, tmp_path / "out", countries=countries)
    egyptian = read_datadir(tmp_path / "out/test_egy")
    assert {u.text for u in egyptian} == {"ازيك عامل ايه", "ماشي"} and {u.dialect for u in egyptian} == {"EGY"}
    assert {(u.audio.suffix, u.samples) for u in egyptian} == {(".wav", 4800)}
    stored = list((tmp_path / "out").rglob("*.wav"))
    assert len(stored) == 8 + 8  # WAV stored as it came, FLAC of 44.1 kHz converted
    with pytest.raises(CorpusError, match="Algeria: .*validation-.*no such folder"):
        casablanca.prepare(corpus, tmp_path / "out")
    with pytest.raises(CorpusError, match="'Iraq'.*Algeria"):
        casablanca.prepare(corpus, tmp_path / "out", countries=("Iraq",))


def test_casablanca_rows_that_cannot_be_used(tree, made, tmp_path):
    corpus = tree("casablanca")
    path = corpus / "Egypt/test-00000-of-00002.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    contents = (None, b"text", b"")
    made.parquet(path, [rows[0] | {"audio": {"bytes": own, "path": None}, "seg_id": str(own)} for own in contents])
    with pytest.raises(TooManyBadFiles, match=r"3 of \d+ rows.*00000-of-00002.parquet:row 1: "):
        casablanca.prepare(corpus, tmp_path / "out", countries=("Egypt",))
    made.parquet(path, [{("text" if key == "transcription" else key): own for key, own in rows[0].items()}])
    with pytest.raises(CorpusError, match="missing: transcription"):
        casablanca.prepare(corpus, tmp_path / "out", countries=("Egypt",))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorpusError, match="test-00000-of-00002.parquet: .*Parquet"):
        casablanca.prepare(corpus, tmp_path / "out", countries=("Egypt",))


# Common Voice


def test_common_voice_the_newest_release_and_lone_quotation_marks(tree, tmp_path):
    corpus = tree("common_voice")
    for older in ("cv-corpus-9.0-2022-04-27", "cv-corpus-20.0-delta-2024-12-06"):
        (corpus / older / "ar/clips").mkdir(parents=True)
    common_voice.prepare(corpus, tmp_path / "out")
    sets = {split: read_datadir(tmp_path / "out" / split) for split in ("train", "dev", "test")}
    assert [u.text for u in sets["train"]] == ["قال نعم ثم مضى", "مرحبا", "اقتباس وحيد"]
    assert [u.text for u in sets["dev"]] == ["اهلا وسهلا"] and [u.text for u in sets["test"]] == ["12 فيلا"]
    assert len({u.speaker for u in sets["train"]}) == 1  # ids differ after the sixteenth digit only in this test
    assert sets["train"][0].audio.suffix == ".wav" and 4000 < sets["train"][0].samples < 6500
    summary = read_json(tmp_path / "out/summary.json")["sets"]
    assert summary["test"]["difference"] == 1 - 10471 and "published" not in summary["train"]


def test_common_voice_validated_clips_that_are_scored_do_not_train(tree, tmp_path):
    corpus = tree("common_voice", release="cv-corpus-21.0-2025-03-14") / "cv-corpus-21.0-2025-03-14"
    common_voice.prepare(corpus, tmp_path / "out", splits=("validated", "dev", "test"), text_profile="none")
    assert [u.text for u in read_datadir(tmp_path / "out/validated")] == ["نعم"]
    excluded = (tmp_path / "out/excluded.tsv").read_text()
    assert excluded.count("also in dev") == 1 and excluded.count("also in test") == 1
    assert "published" not in read_json(tmp_path / "out/summary.json")["sets"]["test"]  # another release


@pytest.mark.parametrize("below", ["", "cv-corpus-20.0-delta-2024-12-06", "cv-corpus-20.0-delta-2024-12-06/ar"])
def test_common_voice_a_delta_release_is_no_corpus(tree, tmp_path, below):
    corpus = tree("common_voice", release="cv-corpus-20.0-delta-2024-12-06")
    with pytest.raises(CorpusError, match="cv-corpus-20.0-delta-2024-12-06/ar: .*delta"):
        common_voice.prepare(corpus / below, tmp_path / "out")


# FLEURS


def test_fleurs_every_reading_is_an_utterance(tree, tmp_path):
    corpus = tree("fleurs")
    fleurs.prepare(corpus, tmp_path / "out", text_profile="mgb")
    train = read_datadir(tmp_path / "out/train")
    assert [(u.utt_id, u.text) for u in train] == [
        ("fleurs-0-100001", "قال نعم 0"), ("fleurs-0-100002", "قال نعم 0"), ("fleurs-1-100003", "قال نعم 1")
    ]  # fmt: skip
    assert {u.speaker for u in train} == {u.utt_id for u in train}
    fleurs.prepare(corpus, tmp_path / "out", text_profile="none", text_column="normalised")
    assert read_datadir(tmp_path / "out/test")[0].text == "قال نعم 20"
    with pytest.raises(CorpusError, match="text_column='chars': .*raw, normalised"):
        fleurs.prepare(corpus, tmp_path / "out", text_column="chars")
    shutil.rmtree(corpus / "ar_eg/dev")
    with pytest.raises(CorpusError, match=r"train, dev, test in ar_eg/<split>/ or ar_eg/audio/<split>.tar.gz"):
        fleurs.prepare(corpus, tmp_path / "out")


@pytest.mark.parametrize("page", ["ar_eg", "data/ar_eg"])
def test_fleurs_archives_of_a_hub_snapshot(tree, tmp_path, page):
    corpus, folder = tree("fleurs"), tmp_path / "page" / page
    (folder / "audio").mkdir(parents=True)
    (tmp_path / "page/README.md").write_text("a snapshot")
    for split in ("train", "dev", "test"):
        shutil.copy(corpus / f"metadata/ar_eg/{split}.tsv", folder / f"{split}.tsv")
        with tarfile.open(folder / f"audio/{split}.tar.gz", "w:gz") as file:
            file.add(corpus / f"ar_eg/{split}", split)
    fleurs.prepare(tmp_path / "page", tmp_path / "out")
    assert len(read_datadir(tmp_path / "out/dev")) == 3


# GALE


def test_gale_marks_leave_the_text(tree, tmp_path):
    corpus = tree("gale")
    gale.prepare(corpus, tmp_path / "out")
    train = read_datadir(tmp_path / "out/train")
    assert [u.text for u in train if "_A_" in u.utt_id and "speaker" in u.speaker] == ["السلام عليكم", "لا"]
    assert [(u.text, u.start, u.end) for u in train if u.text == "نعم"] == [("نعم", 8000, 14400)] * 2
    assert {u.audio.suffix for u in train} == {".flac", ".wav"}
    gale.prepare(corpus, tmp_path / "whole", text_profile="none")
    assert "السلام عليكم" in {u.text for u in read_datadir(tmp_path / "whole/train")}


def test_gale_lists_split_by_recording(tree, made, noise, tmp_path):
    corpus, listed = tree("gale"), tmp_path / "test"
    listed.write_text("ALAM_B_20070314.sph\r\n")
    gale.prepare(corpus, tmp_path / "out", test_list=listed)
    assert {u.audio.stem for u in read_datadir(tmp_path / "out/test")} == {"ALAM_B_20070314"}
    assert len(read_datadir(tmp_path / "out/train")) == 3
    with pytest.raises(CorpusError, match="test:1: ALAM_B_20070314 .*test:1"):
        gale.prepare(corpus, tmp_path / "out", test_list=listed, dev_list=listed)
    listed.write_text("ALAM_B_20070314\nALAM_C\n")
    with pytest.raises(CorpusError, match="test:2: .*ALAM_C"):
        gale.prepare(corpus, tmp_path / "out", test_list=listed)
    with pytest.raises(CorpusError, match="the list phase2: .*ALAM_WITHEVENT_ARB_20070116_205800"):
        gale.prepare(corpus, tmp_path / "out", test_list=Path("phase2"))
    with pytest.raises(CorpusError, match="the list mt_eval_all: .*20070206_205801 is also in the test list"):
        gale.prepare(corpus, tmp_path / "out", dev_list=Path("mt_eval_all"), test_list=Path("phase2"))
    sizes = {name: len(set(own)) for name, own in gale.HELD_OUT.items()}
    assert sizes == {"phase2": 10, "dev_all": 16, "mt_eval_all": 22}
    for recording in (*gale.HELD_OUT["phase2"], *gale.HELD_OUT["dev_all"]):
        noise(corpus / f"LDC2014S07/{recording}.wav", 1.0)
        path = corpus / f"LDC2014T17/{recording}.tdf"
        path.parent.mkdir(exist_ok=True)
        path.write_text(made.gale_top + made.gale_line(recording, 0, 0.5, "speaker 1", "نعم"), encoding="utf-8")
    gale.prepare(corpus, tmp_path / "out", test_list=Path("phase2"), dev_list=Path("dev_all"))
    sizes = {split: len(read_datadir(tmp_path / "out" / split)) for split in ("train", "dev", "test")}
    assert sizes == {"train": 6, "dev": 16, "test": 10}


def test_gale_a_recording_in_two_parts_is_used_once(tree, tmp_path, caplog):
    corpus = tree("gale")
    gale.prepare(corpus, tmp_path / "out")
    for path in ("LDC2013S02/audio/ALAM_A_20070313.flac", "LDC2013T04/tdf/ALAM_A_20070313.tdf"):
        (corpus / "LDC2015S01").mkdir(exist_ok=True)
        shutil.copy(corpus / path, corpus / "LDC2015S01")
    gale.prepare(corpus, tmp_path / "other")
    ids = [[u.utt_id for u in read_datadir(tmp_path / out / "train")] for out in ("out", "other")]
    assert ids[0] == ids[1] and "ALAM_A_20070313 is in two places" in caplog.text
    assert (tmp_path / "other/excluded.tsv").read_text().count("the same segment") == 3
    assert (tmp_path / "other/skipped.tsv").read_text() == "path\treason\n"


# MASC


def test_masc_cues_become_segments(tree, tmp_path):
    corpus = tree("masc")
    masc.prepare(corpus.parent, tmp_path / "out")
    train = read_datadir(tmp_path / "out/clean_train")
    assert [(u.text, u.start, u.end, u.dialect) for u in train] == [
        ("مرحبا بكم اهلا", 0, 11200, "Modern_Standard"),
        ("نعم", 9600, 17600, "Modern_Standard"),
        ("موسيقى", 17600, 20800, "Modern_Standard"),
    ]
    assert train[0].audio == corpus / "audios/-aB_cdefghi.wav"
    assert [u.dialect for u in read_datadir(tmp_path / "out/noisy_test")] == ["Egyptian"] * 3
    assert {u.dialect for u in read_datadir(tmp_path / "out/clean_dev")} == {"unknown"}
    assert (tmp_path / "out/overlaps.tsv").read_text().count("0.10") == 3


def test_masc_the_order_of_columns_is_an_option(tree, tmp_path):
    corpus = tree("masc")
    for name in ("clean_train", "clean_dev_meta"):
        (corpus / f"subsets/{name}.csv").unlink()
    (corpus / "subsets/noisy_test_meta.csv").write_text("AbCdEfGhIjK,Egyptian\n")
    masc.prepare(corpus, tmp_path / "out", columns=("video_id", "dialect"))
    assert read_datadir(tmp_path / "out/noisy_test")[0].dialect == "Egyptian"
    with pytest.raises(CorpusError, match="columns=video_id: .*dialect"):
        masc.prepare(corpus, tmp_path / "out", columns=("video_id",))


# SADA


def test_sada_speakers_and_unclear_lines(tree, tmp_path):
    sada.prepare(tree("sada"), tmp_path / "out")
    test = read_datadir(tmp_path / "out/test")
    assert sorted((u.text, u.start, u.end, u.dialect) for u in test) == [
        ("طيب", 0, 8000, "unknown"), ("قال نعم", 8000, 20000, "حجازي_جداً"), ("هلا كيف الحال", 0, 8000, "نجدي")
    ]  # fmt: skip
    assert len({u.speaker for u in test}) == 3  # speaker 1 of two programmes is two people
    assert {u.audio.name for u in test} == {"test show.wav.wav", "test-2.wav"}
    rows = [line.split("\t") for line in (tmp_path / "out/excluded.tsv").read_text(encoding="utf-8").splitlines()]
    assert [(row[0], row[2].rsplit("/")[-1]) for row in rows[1:]] == [
        (split, f"{name}.csv:{line}")  # the tag with its space, and joined
        for split, name in (("train", "train"), ("dev", "valid"), ("test", "test"))
        for line in (4, 5)
    ]
    summary = read_json(tmp_path / "out/summary.json")["sets"]["test"]
    assert (summary["excluded"], summary["published"]) == (2, 6047)


def test_sada_names_are_options(tree, tmp_path):
    corpus = tree("sada")
    (corpus / "valid.csv").rename(corpus / "validation.csv")
    content = (corpus / "test.csv").read_text(encoding="utf-8-sig").replace("ProcessedText", "GroundTruthText")
    (corpus / "test.csv").write_text(content, encoding="utf-8")
    (corpus / "train.csv").unlink()
    names = {"text_column": "GroundTruthText", "lists": ("train", "nothing", "test")}
    sada.prepare(corpus, tmp_path / "out", unclear="", **names)
    assert len(read_datadir(tmp_path / "out/test")) == 5


# Omani, verse clips


def test_omani_text_is_the_cell_of_the_clip_without_footnotes(tree, tmp_path):
    omani.prepare(tree("omani"), tmp_path / "out", text_profile="none")
    train = {u.utt_id: (u.speaker, u.text) for u in read_datadir(tmp_path / "out/train")}
    assert train == {
        "omani_text01_E-v1l02": ("omani_text01_E", 'هلا "تفضلوا"'),
        "omani_text01_x-v1l01": ("omani_text01_x", "أوه! عبود"),
    }
    assert [u.dialect for u in read_datadir(tmp_path / "out/dev")] == ["OMA"]


def test_verse_clips_have_the_words_of_all_their_verses(tree, tmp_path):
    verse_clips.prepare(tree("verse_clips"), tmp_path / "out")
    texts = {u.utt_id: u.text for u in read_datadir(tmp_path / "out/test")}
    assert texts == {"verse_ea_1": "الحمد لله", "verse_m": "بسم الله الحمد لله", "verse_r_0": "الرحمن"}


def test_a_verse_that_the_text_lacks_is_named(tree, tmp_path, caplog):
    corpus = tree("verse_clips")
    manifest = read_json(corpus / "manifest.json")
    manifest["samples"][0]["expected_verses"][0]["ayah"] = 99
    write_json(corpus / "manifest.json", manifest)
    verse_clips.prepare(corpus, tmp_path / "out")
    assert len(read_datadir(tmp_path / "out/test")) == 2
    assert "sample 1: no text for surah and ayah (1, 99)" in caplog.text


# Talks, calls, clips of a hub


def test_mtedx_takes_sentences_before_subtitles(tree, tmp_path):
    corpus = tree("mtedx")
    mtedx.prepare(corpus, tmp_path / "out", text_profile="none")
    train = read_datadir(tmp_path / "out/train")
    assert [(u.text, u.start, u.end) for u in train] == [("أهلا وسهلا", 1600, 8000), ("شكرا", 14400, 16000)]
    dev = read_datadir(tmp_path / "out/dev")
    assert [(u.text, u.start, u.end) for u in dev] == [("أهلا", 1600, 6400), ("و سهلا", 6400, 14400)]


def test_arzen_text_times_and_speakers(tree, tmp_path, caplog):
    arzen.prepare(tree("arzen"), tmp_path / "out")
    interviewer, student = sorted(read_datadir(tmp_path / "out/train"), key=lambda u: u.speaker)
    assert (student.text, student.speaker) == ("الweekends mainly فبنزور الtwo families", "arzen_S01")
    assert (student.start, student.end) == (9440, 24000)
    assert (interviewer.text, interviewer.speaker) == ("mobileي", "arzen_I01")
    assert "1 recordings have other parts in training than in dev or test" in caplog.text
    assert {u.dialect for u in read_datadir(tmp_path / "out/dev")} == {"EGY"}


def test_arzen_lists_from_another_folder_and_an_outer_folder(tree, tmp_path):
    corpus = tree("arzen")
    (tmp_path / "outer").mkdir()
    (corpus / "transcriptions").rename(tmp_path / "lists")
    corpus.rename(tmp_path / "outer/ArzEn_SpeechCorpus")
    arzen.prepare(tmp_path / "outer", tmp_path / "out", splits=tmp_path / "lists")
    assert [len(read_datadir(tmp_path / "out" / split)) for split in ("train", "dev", "test")] == [2, 1, 1]


def test_iwslt22_marks_disappear_and_their_words_stay(tree, tmp_path):
    iwslt22_tunisian.prepare(tree("iwslt22_tunisian"), tmp_path / "out", text_profile="none")
    assert [u.text for u in read_datadir(tmp_path / "out/train")] == ["bonjour شنوة حوالك", "لا يعن"]
    assert (tmp_path / "out/excluded.tsv").read_text().count("in exclude-utterance.txt") == 3


def test_arvoice_synthetic_speech_only_if_asked_for(tree, tmp_path):
    corpus = tree("arvoice")
    arvoice.prepare(corpus, tmp_path / "out", text_profile="none")
    assert {u.speaker for u in read_datadir(tmp_path / "out/train")} == {
        f"arvoice_Human_{part}_s{n}" for part in (1, 3) for n in (0, 1)
    }
    arvoice.prepare(corpus, tmp_path / "all", synthetic=True)
    assert len(read_datadir(tmp_path / "all/train")) == 6


def test_mediaspeech_joins_the_lines_of_a_text(tree, tmp_path):
    registry.load("mediaspeech").prepare(tree("mediaspeech"), tmp_path / "out")
    assert {u.text for u in read_datadir(tmp_path / "out/test")} == {"قالت المصادر"}


def test_clips_of_mixat_without_names_are_not_the_same_in_two_sets(tree, tmp_path):
    registry.load("mixat").prepare(tree("mixat"), tmp_path / "out")
    ids = [u.utt_id for split in ("train", "test") for u in read_datadir(tmp_path / "out" / split)]
    assert len(set(ids)) == len(ids) == 4


def test_clartts_samples_have_the_rate_of_their_column(tree, tmp_path):
    clartts.prepare(tree("clartts"), tmp_path / "out", text_profile="none")
    assert {u.samples for u in read_datadir(tmp_path / "out/test")} == {4800}
    assert read_datadir(tmp_path / "out/test")[0].text == "قَالَ test 0"
    ids = [u.utt_id for split in ("train", "test") for u in read_datadir(tmp_path / "out" / split)]
    assert len(set(ids)) == 5, "the parts have files of the same names"
