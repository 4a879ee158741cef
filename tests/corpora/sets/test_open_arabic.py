"""The open_arabic data: scored data is not in training data, by file, by content, by text and by speaker."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
import soundfile

from corpora.audio import load_any
from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import everyayah
from corpora.files import CorpusError
from corpora.prepare.sources import Provenance, check_isolation, read_sources, write_sources
from corpora.sets import open_arabic
from corpora.text import text_key

pytestmark = pytest.mark.usefixtures("no_disk_sync")

SETS = ["ssl/train", "ssl/dev", "asr/train", "asr/dev", "asr/test_keywords", "asr/test_quran"]
SETS += [f"ser/fold{fold}/{split}" for fold in range(1, 6) for split in ("train", "dev", "test")]
SCORED = [name for name in SETS if not name.startswith("ssl/") and not name.endswith("train")]


def _sources(root: Path, trees) -> dict[str, Path]:
    infos = [corpus.INFO for corpus in open_arabic.CORPORA]
    return {info.variable: getattr(trees, info.name)(root / info.name) for info in infos}


@pytest.fixture(scope="module")
def prepared(corpus_trees, tmp_path_factory) -> tuple[dict[str, Path], Path]:
    root = tmp_path_factory.mktemp("open_arabic")
    sources = _sources(root, corpus_trees)
    open_arabic.prepare(root / "out", sources=sources, seed=1)
    return sources, root / "out"


def _content(sources: dict[str, Path], row: Provenance) -> str:
    """Hash of a source file's own samples, computed without the output of the preparation."""
    path = sources[row.corpus.upper()] / row.source
    return hashlib.sha256(load_any(path).tobytes()).hexdigest()


def _check_isolation_again(sources: dict[str, Path], out: Path) -> None:
    trained = {(row.corpus, row.source) for name in ("ssl/train", "ssl/dev") for row in read_sources(out / name)}
    contents = {_content(sources, row) for name in ("ssl/train", "ssl/dev") for row in read_sources(out / name)}
    assert {corpus for corpus, _ in trained} == {"arabic_speech_commands", "everyayah", "free_spoken_digits"}
    for name in SCORED:
        rows = read_sources(out / name)
        assert {row.utt_id for row in rows} == {utterance.utt_id for utterance in read_datadir(out / name)}
        assert not trained & {(row.corpus, row.source) for row in rows}, name
        assert not contents & {_content(sources, row) for row in rows}, name


def test_every_set_is_valid_and_summarised(prepared):
    _, out = prepared
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["sets"]) == SETS and summary["text_profile"] == "mgb" and summary["seed"] == 1
    for name in SETS:
        assert validate_datadir(out / name) == []
        utterances = read_datadir(out / name)
        assert summary["sets"][name]["utterances"] == len(utterances)
        hours = sum(utterance.samples for utterance in utterances) / 16000 / 3600
        assert summary["sets"][name]["hours"] == pytest.approx(hours, abs=1e-4)
        if name.startswith("asr/"):
            assert all(utterance.text for utterance in utterances)


def test_nothing_scored_is_in_the_self_supervised_data(prepared):
    _check_isolation_again(*prepared)


def test_no_digit_of_the_test_part_and_no_emotion_is_pre_trained_on(prepared):
    _, out = prepared
    rows = read_sources(out / "ssl/train") + read_sources(out / "ssl/dev")
    digits = [Path(row.source).stem for row in rows if row.corpus == "free_spoken_digits"]
    assert digits and min(int(name.split("_")[2]) for name in digits) >= 5
    assert any(name.startswith("6_") for name in digits)  # clips of 0.14 s are used
    assert not [row for row in rows if row.corpus == "baved"]


def test_both_languages_are_there_and_no_text(prepared):
    _, out = prepared
    for name in ("ssl/train", "ssl/dev"):
        utterances = read_datadir(out / name)
        assert {utterance.language for utterance in utterances} == {"ar", "en"}
        assert all(u.language == ("en" if u.speaker.startswith("fsdd") else "ar") for u in utterances)
        assert all(utterance.text is None for utterance in utterances)


def test_ssl_dev_shares_nothing_with_ssl_train_and_uses_training_speakers(prepared):
    _, out = prepared
    train, dev = (read_sources(out / f"ssl/{split}") for split in ("train", "dev"))
    assert not {row.sha256 for row in train} & {row.sha256 for row in dev}
    speakers = {utterance.speaker for utterance in read_datadir(out / "asr/train")}
    for split in ("train", "dev"):
        arabic = {u.speaker for u in read_datadir(out / f"ssl/{split}") if u.language == "ar"}
        assert arabic <= speakers


def test_other_speeds_are_added_to_ssl_train_alone_and_leak_nothing(prepared, tmp_path):
    sources, plain = prepared
    open_arabic.prepare(tmp_path / "out", sources=sources, seed=1, ssl_speeds=[0.9, 1.1])
    _check_isolation_again(sources, tmp_path / "out")
    before, after = (read_datadir(out / "ssl/train") for out in (plain, tmp_path / "out"))
    expected = {(f"{at}{u.utt_id}", f"{at}{u.speaker}") for u in before for at in ("", "sp0.9-", "sp1.1-")}
    assert {(u.utt_id, u.speaker) for u in after} == expected
    for name in SETS[1:]:
        ids = [{u.utt_id for u in read_datadir(out / name)} for out in (plain, tmp_path / "out")]
        assert ids[0] == ids[1], name
    with pytest.raises(ValueError, match="speed 5"):
        open_arabic.prepare(tmp_path / "refused", sources=sources, ssl_speeds=[5])


def test_asr_splits_share_no_speaker_of_keywords_and_no_verse_text(prepared):
    _, out = prepared
    speakers, texts = defaultdict(set), defaultdict(set)
    for split in ("train", "dev", "test_keywords", "test_quran"):
        for utterance in read_datadir(out / "asr" / split):
            if utterance.speaker.startswith("asc"):
                speakers[utterance.speaker].add(split)
                assert split != "test_quran"
            else:
                texts[text_key(utterance.text)].add(split)
                assert split != "test_keywords"
    assert all(len(own) == 1 for own in speakers.values()) and len(speakers) == 7
    assert all(len(own) == 1 for own in texts.values())
    train = {utterance.speaker[:3] for utterance in read_datadir(out / "asr/train")}
    assert train == {"asc", "eve"}  # one training set holds both


def test_a_second_run_changes_nothing_and_rewrites_no_audio(prepared, tmp_path):
    sources, out = prepared
    files = [path for path in out.rglob("*") if path.is_file() and path.suffix not in (".wav", ".lock")]
    before = {path: path.read_bytes() for path in files}
    audio = {path: path.stat().st_ino for path in out.rglob("*.wav")}
    open_arabic.prepare(out, sources=sources, seed=1)
    assert {path: path.read_bytes() for path in files} == before
    assert {path: path.stat().st_ino for path in out.rglob("*.wav")} == audio


def test_a_leak_is_found_by_name_and_by_content(prepared, tmp_path):
    _, out = prepared
    for name in ("ssl", "test"):
        (tmp_path / name).mkdir()
    rows = read_sources(out / "ssl/train")
    scored = read_sources(out / "asr/test_keywords")
    check_isolation([out / "ssl/train"], [out / "asr/test_keywords"])
    by_name = Provenance("u", scored[0].corpus, scored[0].source, "0" * 64)
    by_content = Provenance("u", "elsewhere", "copy.wav", scored[0].sha256)
    for leak in (by_name, by_content):
        write_sources(tmp_path / "ssl", [*rows, leak])
        with pytest.raises(CorpusError, match=scored[0].source):
            check_isolation([tmp_path / "ssl"], [out / "asr/test_keywords"])
    (tmp_path / "test/sources.tsv").write_text("utt_id\tcorpus\tsource\tsha256\nu\tv\n")
    with pytest.raises(CorpusError, match="sources.tsv:2"):
        check_isolation([out / "ssl/train"], [tmp_path / "test"])


def test_the_same_audio_under_a_scored_and_a_training_name_stops_the_stage(corpus_trees, tmp_path):
    """A verse recording that is stored under the name of a verse of another split."""
    sources = _sources(tmp_path, corpus_trees)
    verses, _ = everyayah.read_verses(sources["EVERYAYAH"], tmp_path / "audio", seed=1)
    pick = {split: next(verse for verse in verses if verse.split == split) for split in ("train", "test")}
    folder = sources["EVERYAYAH"]
    shutil.copy(folder / pick["test"].recording.source, folder / pick["train"].recording.source)
    with pytest.raises(CorpusError, match=r"everyayah/a_reciter/\d{6}.mp3"):
        open_arabic.prepare(tmp_path / "out", sources=sources, seed=1)


@pytest.mark.slow
def test_bad_files_of_all_corpora_are_listed(corpus_trees, tmp_path):
    sources = _sources(tmp_path, corpus_trees)
    for corpus, pattern in (("EVERYAYAH", "*/001002.mp3"), ("FREE_SPOKEN_DIGITS", "*/3_theo_6.wav")):
        next(sources[corpus].glob(pattern)).write_bytes(b"no audio")
    loud = corpus_trees.speech(1, 0.3)
    loud[100] = float("nan")
    clip = next((sources["BAVED"] / "0").glob("7-*"))
    soundfile.write(clip, loud, 16000, subtype="FLOAT")
    open_arabic.prepare(tmp_path / "out", sources=sources)
    skipped = (tmp_path / "out/skipped.tsv").read_text()
    assert skipped.count("\n") == 4
    assert "001002.mp3" in skipped and "3_theo_6.wav" in skipped and f"{clip.name}\t" in skipped and "NaN" in skipped


def test_corpora_that_are_not_named_or_not_there(corpus_trees, tmp_path):
    with pytest.raises(CorpusError, match="BAVED, EVERYAYAH: set BAVED= and EVERYAYAH="):
        open_arabic.prepare(
            tmp_path / "out", sources={"ARABIC_SPEECH_COMMANDS": tmp_path, "FREE_SPOKEN_DIGITS": tmp_path}
        )
    sources = {corpus.INFO.variable: tmp_path / "none" for corpus in open_arabic.CORPORA}
    with pytest.raises(CorpusError, match="no such folder"):
        open_arabic.prepare(tmp_path / "out", sources=sources)


@pytest.mark.slow
def test_real_speech_in_part(real_speech, tmp_path):
    """Every speaker and every fifth file or so of the real corpora."""
    sources = {}
    for corpus in open_arabic.CORPORA:
        folder = tmp_path / corpus.INFO.name
        sources[corpus.INFO.variable] = folder
        real = real_speech / corpus.INFO.name
        for path in sorted(path for path in real.rglob("*") if path.is_file()):
            keep = path.suffix not in (".wav", ".mp3")
            keep |= corpus.INFO.name == "arabic_speech_commands" and path.parent.name in ("yes", "zoom in", "ok")
            keep |= corpus.INFO.name == "baved" and path.parent.name in "03"
            keep |= corpus.INFO.name == "everyayah" and path.stem[:3] in ("001", "055", "077", "109")
            keep |= corpus.INFO.name == "free_spoken_digits" and path.name[0] in "16"
            if keep:
                link = folder / path.relative_to(real)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path)
    commands = sources["ARABIC_SPEECH_COMMANDS"]
    for name in ("train.csv", "val.csv", "test.csv"):
        header, *lines = (commands / name).read_bytes().decode().splitlines(keepends=True)
        (commands / name).unlink()
        kept = [line for line in lines if line.rstrip().endswith((",yes", ",zoom in", ",ok"))]
        (commands / name).write_bytes("".join([header, *kept]).encode())
    out = tmp_path / "out"
    open_arabic.prepare(out, sources=sources)
    _check_isolation_again(sources, out)
    assert (out / "skipped.tsv").read_text() == "path\treason\n"
    refrain = [
        split
        for split in ("train", "dev", "test_quran")
        for utterance in read_datadir(out / "asr" / split)
        if utterance.utt_id.endswith(("055013", "055016", "055018"))
    ]
    assert len(refrain) == 3 and len(set(refrain)) == 1
    assert sum(len(read_sources(out / f"ser/fold1/{split}")) for split in ("train", "dev", "test")) > 300


def test_trait_sets_are_disjoint_by_word_or_by_speaker(prepared):
    _, out = prepared
    summary = json.loads((out / "summary.json").read_text())
    sets = {
        name: [read_datadir(out / "traits" / name / split) for split in ("train", "test")]
        for name in ("speaker", "language")
    }
    for name, (train, test) in sets.items():
        assert summary["traits"][name] == {"train": len(train), "test": len(test)}
        assert not {u.audio for u in train} & {u.audio for u in test}
    train, test = sets["speaker"]
    assert {u.speaker for u in train} == {u.speaker for u in test} and len({u.speaker for u in test}) > 1
    assert not {u.text for u in train} & {u.text for u in test}
    train, test = sets["language"]
    assert {u.language for u in train} == {u.language for u in test} == {"ar", "en"}
    assert not {u.speaker for u in train} & {u.speaker for u in test}
