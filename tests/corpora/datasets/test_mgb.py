"""MGB-2, MGB-3, MGB-5 and QASR: XML and text in two scripts, scored sets, several references, layouts as downloaded."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from corpora.datadir import read_datadir
from corpora.datasets import mgb2, mgb3, mgb5, qasr
from corpora.files import CorpusError, read_json

pytestmark = pytest.mark.usefixtures("no_disk_sync")


def _pack(folder: Path, archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)


def _references(data_dir: Path) -> dict[str, list[str]]:
    return {path.name: path.read_text(encoding="utf-8").splitlines() for path in sorted(data_dir.glob("text_*"))}


# MGB-2


@pytest.mark.parametrize("script", ["auto", "bw"])
def test_mgb2_training_segments_in_both_scripts(tree, made, tmp_path, script, caplog):
    corpus = tree("mgb2")
    mgb2.prepare(corpus, tmp_path / "out", script=script)
    rows = {u.utt_id: u for u in read_datadir(tmp_path / "out/train")}
    assert [(key.removeprefix(made.mgb2_train), u.text) for key, u in rows.items()] == [
        ("_spk-0001_seg-0000000:0000050", "ذهب الي المدرسه"),
        ("_spk-0001_seg-0000090:0000140", "نعم"),
        ("_spk-0002_seg-0000050:0000100", "قناه BBC العربيه"),
    ]
    assert all(u.audio == corpus / f"train/wav/{made.mgb2_train}.wav" for u in rows.values())  # segments, no copies
    excluded = (tmp_path / "out/excluded.tsv").read_text(encoding="utf-8")
    assert "WMER 80.1 is above 80" in excluded and "'#اه'" in excluded
    overlap = f"{made.mgb2_train}_spk-0001_seg-0000090:0000140\t{made.mgb2_train}_spk-0002"
    assert overlap in (tmp_path / "out/overlaps.tsv").read_text()
    summary = read_json(tmp_path / "out/summary.json")["sets"]
    assert summary["train"]["difference"] == 3 - 375103 and summary["dev"]["published"] == 5002
    assert "mgb2, train: 3, published are 375103 (-375100)" in caplog.text


def test_mgb2_another_threshold_is_not_compared(tree, tmp_path):
    mgb2.prepare(tree("mgb2"), tmp_path / "out", max_wmer=100.0)
    sets = read_json(tmp_path / "out/summary.json")["sets"]
    assert sets["train"]["utterances"] == 4 and "published" not in sets["train"] and "published" in sets["dev"]


@pytest.mark.parametrize("form", ["lhotse", "kaldi", "espnet"])
def test_mgb2_scored_sets_in_three_forms(made, tmp_path, form):
    made.mgb2_scored(tmp_path / "c/test", form)
    mgb2.prepare(tmp_path / "c", tmp_path / "out")
    clean = read_datadir(tmp_path / "out/test")
    assert {u.utt_id: u.text for u in clean} == dict(zip(made.mgb2_clean, ("ذهب الي", "قناه CNN"), strict=True))
    assert [(u.start, u.end, u.speaker) for u in clean] == [
        (0, 8000, f"{made.mgb2_dev}_spk-0001"), (8000, 16000, f"{made.mgb2_dev}_spk-0002")
    ]  # fmt: skip
    overlap = read_datadir(tmp_path / "out/test_overlap")
    assert [(u.utt_id, u.text, u.end) for u in overlap] == [(*made.mgb2_overlap, "نعم", 20800)]


def test_mgb2_archives_as_downloaded(tree, tmp_path):
    corpus = tree("mgb2")
    for split in ("train", "dev"):
        _pack(corpus / split, tmp_path / f"packed/{split}.tar.gz")
    mgb2.prepare(corpus, tmp_path / "out")
    mgb2.prepare(tmp_path / "packed", tmp_path / "other")
    wav = next((tmp_path / "other/unpacked/train/wav").iterdir())
    before = wav.stat().st_ino
    mgb2.prepare(tmp_path / "packed", tmp_path / "other")
    assert wav.stat().st_ino == before
    for split in ("train", "dev"):
        own = [(tmp_path / out / split / "text").read_bytes() for out in ("out", "other")]
        assert own[0] == own[1]


def test_mgb2_files_that_are_missing(tree, made, tmp_path):
    corpus, out = tree("mgb2"), tmp_path / "out"
    with pytest.raises(CorpusError, match="script='latin': .*auto, utf8, bw"):
        mgb2.prepare(corpus, out, script="latin")
    shutil.rmtree(corpus / "train/xml/utf8")
    with pytest.raises(CorpusError, match="train/xml: .*utf8/<GUID>.xml; found bw"):
        mgb2.prepare(corpus, out, script="utf8")
    shutil.rmtree(corpus / "train")
    (corpus / "dev/segments.all").unlink()  # times are in the ids too
    mgb2.prepare(corpus, out)
    assert read_datadir(out / "dev")[1].end == 16000
    (corpus / "dev/non_overlap_speech").unlink()
    (corpus / "dev/overlap_speech").unlink()
    with pytest.raises(CorpusError, match="dev: .*text.non_overlap_speech.*found text.all, wav, wav.scp"):
        mgb2.prepare(corpus, out)


def test_mgb2_a_pipe_is_not_run(made, tmp_path):
    made.mgb2_scored(tmp_path / "c/dev", "lhotse")
    (tmp_path / f"c/dev/wav/{made.mgb2_dev}.wav").rename(tmp_path / "c/dev/wav/with space.wav")
    with pytest.raises(CorpusError, match="wav.scp:1: .* is a command"):
        mgb2.prepare(tmp_path / "c", tmp_path / "out")
    (tmp_path / "c/dev/wav.scp").write_text(f"{made.mgb2_dev} /elsewhere/wav/with space.wav\n")
    mgb2.prepare(tmp_path / "c", tmp_path / "out")
    assert read_datadir(tmp_path / "out/dev")[0].audio.name == "with space.wav"


# MGB-3


def test_mgb3_dev_holds_the_utterances_that_all_annotators_have(tree, made, tmp_path):
    mgb3.prepare(tree("mgb3"), tmp_path / "out")
    ids, rows = made.mgb3_ids, {u.utt_id: u for u in read_datadir(tmp_path / "out/dev")}
    assert {key: u.text for key, u in rows.items()} == {ids[0]: "ازيك يا باشا", ids[2]: "ماشي"}
    assert (rows[ids[2]].start, rows[ids[2]].end) == (19200, 24000)
    assert rows[ids[0]].speaker == ids[0].split("_0.1")[0]
    assert _references(tmp_path / "out/dev") == {
        "text_alaa": [f"{ids[0]} ازيك يا باشا", f"{ids[2]} ماشي"],
        "text_ali": [f"{ids[0]} ازيك يا باشا", f"{ids[2]} ماشي"],
        "text_omar": [f"{ids[2]} ماشيين"],
    }
    excluded = (tmp_path / "out/excluded.tsv").read_text(encoding="utf-8")
    assert f"dev\t{ids[1]}\t" in excluded and "Omar" in excluded
    assert len(read_datadir(tmp_path / "out/adapt")) == 3  # training speech: one annotator is enough


def test_mgb3_order_of_annotators_and_the_folder_above(tree, made, tmp_path):
    corpus = tree("mgb3")
    mgb3.prepare(corpus.parent, tmp_path / "out", annotators=("Ali", "Alaa"), text_profile="none")
    texts = [u.text for u in read_datadir(tmp_path / "out/dev")]
    assert texts == ["ازيّك يا باشا", "كويس الحمد لله", "ماشي"]
    with pytest.raises(CorpusError, match="adapt: .*Zeina/text_noverlap; found Alaa, Ali, Omar"):
        mgb3.prepare(corpus, tmp_path / "out", annotators=("Zeina",))


# MGB-5


def test_mgb5_pooled_segmentations_are_one_utterance_with_several_references(tree, tmp_path):
    mgb5.prepare(tree("mgb5"), tmp_path / "out")
    assert [(u.utt_id, u.text) for u in read_datadir(tmp_path / "out/dev")] == [
        ("vlog_dev_a1", "واخا"), ("vlog_dev_a4", "لا")
    ]  # fmt: skip
    assert _references(tmp_path / "out/dev") == {
        "text_1": ["vlog_dev_a1 واخا", "vlog_dev_a4 لا"],
        "text_2": ["vlog_dev_a1 وا خا"],
    }
    train = read_datadir(tmp_path / "out/train")  # every transcript trains; UNK alone has no words
    assert [u.utt_id for u in train] == ["vlog_train_a1", "vlog_train_a2", "vlog_train_a4"]
    assert not _references(tmp_path / "out/train") and train[0].speaker == "vlog_train"


def test_mgb5_archives_and_one_file_for_each_annotator(tree, tmp_path):
    corpus = tree("mgb5")
    dev = corpus / "DB/dev"
    (dev / "dev.txt.bw").unlink()
    segments = "".join(f"vlog_dev_{n:02d} vlog_dev {n / 50} {n / 50 + 0.1}\n" for n in range(40))
    (dev / "dev.segments.bw").write_text(segments + "vlog_dev_99 vlog_dev 0.5 1.0\n")
    for annotator, text in enumerate(("wAx~A", "wA x~A", "waxA", "UNK"), 1):
        (dev / f"dev.txt.{annotator}.bw").write_text("".join(f"vlog_dev_{n:02d} {text}\n" for n in range(40)))
    for split in ("train", "dev"):
        _pack(corpus / "DB" / split, tmp_path / f"packed/DB/{split}.tar.gz")
    mgb5.prepare(tmp_path / "packed", tmp_path / "out")
    assert [u.text for u in read_datadir(tmp_path / "out/dev")] == ["واخا"] * 40
    first = {name: rows[:1] for name, rows in _references(tmp_path / "out/dev").items()}
    assert first == {
        "text_1": ["vlog_dev_00 واخا"], "text_2": ["vlog_dev_00 وا خا"], "text_3": ["vlog_dev_00 وخا"], "text_4": []
    }  # fmt: skip
    assert "dev.segments.bw:41\tvlog_dev_99 has no text" in (tmp_path / "out/skipped.tsv").read_text()
    with pytest.raises(CorpusError, match="train: .*train.trn and train.segments.bw; found train"):
        mgb5.prepare(corpus, tmp_path / "out", texts="{split}.trn")


def test_mgb5_recordings_whose_ids_do_not_sort_are_no_speakers(tree, noise, tmp_path):
    train = tree("mgb5") / "DB/train"
    noise(train / "wav/vlog_train_10.wav", 1.0)
    for name, line in (("segments", "vlog_train_10_1 vlog_train_10 0.5 1.0\n"), ("txt", "vlog_train_10_1 lA\n")):
        with (train / f"train.{name}.bw").open("a") as file:
            file.write(line)
    mgb5.prepare(train.parents[1], tmp_path / "out")
    rows = read_datadir(tmp_path / "out/train")
    assert len(rows) == 4 and all(u.speaker == u.utt_id for u in rows)


def test_mgb5_an_archive_that_leaves_its_folder_is_refused(tmp_path):
    (tmp_path / "mgb5/DB").mkdir(parents=True)
    with tarfile.open(tmp_path / "mgb5/DB/dev.tar.gz", "w:gz") as file:
        member = tarfile.TarInfo("dev/../../evil")
        member.size = 1
        file.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(CorpusError, match="evil"):
        mgb5.prepare(tmp_path / "mgb5", tmp_path / "out")
    assert not (tmp_path / "evil").exists() and not (tmp_path / "out/dev").exists()


# QASR


def test_qasr_threshold_and_published_count(tree, tmp_path):
    corpus = tree("qasr")
    qasr.prepare(corpus, tmp_path / "out")
    assert [(u.utt_id, u.text) for u in read_datadir(tmp_path / "out/train")] == [
        ("A-B_spk-0001_seg-0000000:0000040", "مرحبا")
    ]
    test = read_datadir(tmp_path / "out/test")
    assert [(u.start, u.end, u.text) for u in test] == [(1600, 9600, "نعم"), (9600, 16000, "لا")]
    assert "WMER 95 is above 80" in (tmp_path / "out/excluded.tsv").read_text()
    assert read_json(tmp_path / "out/summary.json")["sets"]["train"]["published"] == 1592226
    qasr.prepare(corpus, tmp_path / "all", max_wmer=float("inf"))
    sets = read_json(tmp_path / "all/summary.json")["sets"]
    assert sets["train"]["utterances"] == 2 and "published" not in sets["train"] and sets["dev"]["published"] == 5002


def test_qasr_as_downloaded_and_other_names(tree, tmp_path):
    corpus, loaded = tree("qasr"), tmp_path / "loaded"
    for source, target in (("release", "qasr_annotation_v1.0/mgb2.1"), ("wav", "alt/arabic-speech-web/mgb2.1")):
        (loaded / target).mkdir(parents=True)
        shutil.copytree(corpus / source, loaded / target / source)
    qasr.prepare(corpus, tmp_path / "out")
    qasr.prepare(loaded, tmp_path / "other")
    for split in ("train", "dev", "test"):
        own = [(tmp_path / out / split / "text").read_bytes() for out in ("out", "other")]
        assert own[0] == own[1]
    (corpus / "release").rename(corpus / "v1")
    with pytest.raises(CorpusError, match=r"release/\{train_20210109,dev,test\}/; found v1/, wav/"):
        qasr.prepare(corpus, tmp_path / "out")
    (corpus / "v1/train_20210109").rename(corpus / "v1/train")
    qasr.prepare(corpus, tmp_path / "out", release="v1", train_folder="train")
    qasr.prepare(corpus, tmp_path / "out", release="v1", train_folder="train", wav_folder="sound")
    assert "sound/A-B.wav\tno such file" in (tmp_path / "out/skipped.tsv").read_text()
