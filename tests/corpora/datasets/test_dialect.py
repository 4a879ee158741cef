"""Dialect corpora: programmes from ids, no programme in two splits, the forms in which the corpora are published."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet
import pytest
import soundfile

from corpora.datadir import read_datadir
from corpora.datasets import adi5, adi17, adi20, madis5, nadi
from corpora.files import CorpusError, TooManyBadFiles, read_json
from corpora.prepare.sources import read_sources

pytestmark = pytest.mark.usefixtures("no_disk_sync")


# ADI-5


def test_adi5_programmes_and_published_counts(tree, tmp_path, caplog):
    corpus = tree("adi5")
    for split in ("train", "test"):  # some copies have no folder `wav`
        for path in sorted((corpus / split / "wav").iterdir()):
            path.rename(corpus / split / path.name)
        (corpus / split / "wav").rmdir()
    adi5.prepare(corpus, tmp_path / "out")
    for split in ("train", "dev", "test"):
        sources = {row.utt_id: row.source for row in read_sources(tmp_path / "out" / split)}
        for utterance in read_datadir(tmp_path / "out" / split):
            assert sources[utterance.utt_id].split("/")[-2] == utterance.dialect
            assert utterance.speaker == utterance.utt_id.split("_")[0]
    gap = read_json(tmp_path / "out/summary.json")["sets"]["test"]["differs_from_published"]
    assert gap == {"EGY": 2 - 302, "GLF": 2 - 250, "LAV": 2 - 334, "MSA": 2 - 262, "NOR": 2 - 344}
    assert "adi5: test differs from the published counts: EGY -300" in caplog.text
    assert adi5.INFO.published == {"train": 14592, "dev": 1566, "test": 1492}


def test_a_programme_of_test_is_not_in_dev(tree, made, write_clip, tmp_path):
    corpus, shared = tree("adi5"), made.md5("t00")
    write_clip(corpus / "dev/wav/EGY" / f"{shared}__7.00_7.20.wav", 900)
    adi5.prepare(corpus, tmp_path / "out")
    assert shared not in {u.speaker for u in read_datadir(tmp_path / "out/dev")}
    assert read_json(tmp_path / "out/summary.json")["sets"]["dev"]["of_shared_programmes"] == 1
    adi5.prepare(corpus, tmp_path / "kept", shared="keep")
    assert shared in {u.speaker for u in read_datadir(tmp_path / "kept/dev")}
    with pytest.raises(CorpusError, match=f"1 utterances of dev .* 1 programmes.*{shared}"):
        adi5.prepare(corpus, tmp_path / "refused", shared="refuse")
    with pytest.raises(CorpusError, match="shared='both': .*drop, keep, refuse"):
        adi5.prepare(corpus, tmp_path / "refused", shared="both")


def test_a_recording_of_test_is_not_in_train_and_contradictions_are_counted(tree, made, tmp_path):
    corpus = tree("adi5")
    shutil.copy(next((corpus / "test/wav/MSA").iterdir()), corpus / "train/wav/MSA/MSA000777.wav")
    (corpus / "train/wav/EGY/EGY000001.wav").rename(corpus / "train/wav/GLF/EGY000001.wav")
    shutil.copy(corpus / "train/wav/NOR/NOR000001.wav", corpus / "dev/wav/NOR/notes.wav")
    adi5.prepare(corpus, tmp_path / "out")
    assert "MSA000777" in (tmp_path / "out/excluded.tsv").read_text()
    assert "MSA000777" not in {u.utt_id for u in read_datadir(tmp_path / "out/train")}
    skipped = (tmp_path / "out/skipped.tsv").read_text()
    assert "train/wav/GLF/EGY000001.wav\t" in skipped and "NOR/notes.wav\t" in skipped
    shutil.copy(corpus / "dev/wav/EGY" / f"{made.md5('d00')}__0.10_0.50.wav", corpus / "dev/wav/NOR")
    with pytest.raises(TooManyBadFiles):
        adi5.prepare(corpus, tmp_path / "out")


# ADI-17


def _kaldi(root: Path, split: str, video: str, write_clip, *, scp: str | None = None) -> Path:
    """Two segments of a video; the segment list says KSA and YEM, the list of videos says EGY."""
    folder, labels = root / split, root / f"{split}_segments/utt2lang"
    ids = [f"{video}_000010-000030", f"{video}_000080-000101"]
    write_clip(folder / "wav" / f"{video}.wav", sum(map(ord, video)), seconds=1.0)
    (folder / "segments").write_text(f"{ids[0]} {video} 0.10 0.30\n{ids[1]} {video} 0.80 1.01\n")
    (folder / "utt2lang").write_text(f"{video} EGY\n")
    labels.parent.mkdir()
    labels.write_text(f"{ids[0]} KSA\n{ids[1]} YEM\n")
    if scp is not None:
        (folder / "wav.scp").write_text(f"{video} {scp}\n")
    return labels


@pytest.mark.parametrize("data", ["", "data"])
def test_adi17_kaldi_labels_are_by_segment_and_recordings_stay_whole(tmp_path, made, write_clip, data):
    corpus, video = tmp_path / "adi17", made.videos[2]
    _kaldi(corpus / data, "dev", video, write_clip, scp=f"/somebody/else/adi17/dev/wav/{video}.wav")
    labels = _kaldi(corpus / data, "train", made.videos[0], write_clip)
    adi17.prepare(corpus, tmp_path / "out")
    first, last = read_datadir(tmp_path / "out/train")
    assert (first.start, first.end, first.dialect) == (1600, 4800, "KSA")
    assert (last.start, last.end, last.dialect) == (12800, 16000, "YEM")  # listed up to 1.01 s of 1.00 s
    assert read_sources(tmp_path / "out/dev")[0].source.endswith(f"dev/wav/{video}.wav")
    assert soundfile.info(first.audio).frames == 16000
    labels.write_text(labels.read_text().split("\n")[0] + "\n")  # the label of the video is used for the other one
    adi17.prepare(corpus, tmp_path / "out")
    assert [u.dialect for u in read_datadir(tmp_path / "out/train")] == ["KSA", "EGY"]
    labels.unlink()
    (corpus / data / "train/utt2lang").write_text("somebody KSA\n")
    with pytest.raises(CorpusError, match=rf"segments:1: {first.utt_id} has no dialect"):
        adi17.prepare(corpus, tmp_path / "out")
    (corpus / data / "train/utt2lang").unlink()
    with pytest.raises(CorpusError, match="train_segments/utt2lang or .*train/utt2lang"):
        adi17.prepare(corpus, tmp_path / "out")


def test_adi17_kaldi_bad_lines(tmp_path, made, write_clip):
    corpus, video = tmp_path / "adi17", made.videos[2]
    labels = _kaldi(corpus, "test", video, write_clip)
    with (corpus / "test/segments").open("a") as file:
        file.write(f"{video}_000090-000190 {video} 0.90 1.90\n")
    with labels.open("a") as file:
        file.write(f"{video}_000090-000190 KSA\n")
    adi17.prepare(corpus, tmp_path / "out")
    assert len(read_datadir(tmp_path / "out/test")) == 2
    assert f"segments:3\t{video}_000090-000190 runs from 0.9 to 1.9 s" in (tmp_path / "out/skipped.tsv").read_text()
    (corpus / "test/wav.scp").write_text(f"{video} sph2pipe x.sph |\n")
    with pytest.raises(CorpusError, match=f"wav.scp:1: {video} is a command"):
        adi17.prepare(corpus, tmp_path / "out")


def test_adi17_lists_without_header_and_videos_of_test(tree, made, write_clip, tmp_path):
    corpus = tree("adi17")
    for split in ("dev", "test"):
        path = corpus / f"adi17_official_{split}_label.txt"
        path.write_text(path.read_text().split("\n", 1)[1])
    write_clip(corpus / "train_segments/EGY" / f"{made.videos[3]}_000900-000920.wav", 77)
    adi17.prepare(corpus, tmp_path / "out")
    assert [u.dialect for u in read_datadir(tmp_path / "out/dev")] == ["EGY", "YEM"]
    assert read_datadir(tmp_path / "out/dev")[0].utt_id == "zz9ZZ-zz_zz_000000-000020"  # the official id
    (corpus / "adi17_official_dev_label.txt").rename(corpus / "dev_segments/utt2lang")
    adi17.prepare(corpus, tmp_path / "out")
    assert [u.dialect for u in read_datadir(tmp_path / "out/dev")] == ["EGY", "YEM"]
    assert {u.speaker for u in read_datadir(tmp_path / "out/train")} == set(made.videos[:2])
    (corpus / "train_segments/XXX").mkdir()
    with pytest.raises(CorpusError, match="XXX: .*ALG"):
        adi17.prepare(corpus, tmp_path / "out")


# ADI-20


def test_adi20_ids_of_several_lengths(tree, tmp_path):
    adi20.prepare(tree("adi20"), tmp_path / "out")
    own = {u.utt_id: u for u in read_datadir(tmp_path / "out/train")}
    # hyphens inside a programme would break the order of Kaldi's tables
    assert set(own) == {
        "ab-ab_000000-000050",
        "ab~c-ab-c",
        "~a_bcDEfgh1--a_bcDEfgh1_000010-000030",
        "~a_bcDEfgh1--a_bcDEfgh1_000050-000080",
    }
    assert (own["ab~c-ab-c"].samples, own["ab~c-ab-c"].dialect) == (8000, "TUN")
    assert own["~a_bcDEfgh1--a_bcDEfgh1_000050-000080"].start == 8000


@pytest.mark.parametrize("ids", ["msa1_split_{}", "msa1_000000-000020_split_{}"])
def test_adi20_parts_of_one_recording_are_one_programme(tree, tmp_path, ids):
    corpus = tree("adi20")
    with (corpus / "train.csv").open("a") as file:
        file.write(f"{ids.format(1)},MSA/msa1.wav,MSA,0.1,0.0,1600.0\n{ids.format(2)},MSA/msa1.wav,MSA,0.1,1600,3200\n")
    adi20.prepare(corpus, tmp_path / "out")  # dev has msa1, so train has none of its parts
    assert not [u for u in read_datadir(tmp_path / "out/train") if "msa1" in u.utt_id]
    (corpus / "dev.csv").unlink()
    adi20.prepare(corpus, tmp_path / "out")
    assert {u.speaker for u in read_datadir(tmp_path / "out/train") if "msa1" in u.utt_id} == {"msa1"}


def test_adi20_rows_without_audio_are_counted(tree, tmp_path):
    corpus = tree("adi20")
    rows = [f"msa1_{n:06d}-{n + 2:06d},MSA/msa1.wav,MSA,0.02,{n},{n + 400}" for n in range(60)]
    broken = ["x1,MSA/msa1.wav,MSA,0.2,3200,0", "x2,MSA/msa2.wav,MSA,0.2,0,3200"]
    with (corpus / "dev.csv").open("a") as file:
        file.write("\n".join([*rows, *broken]) + "\n")
    adi20.prepare(corpus, tmp_path / "out")
    skipped = (tmp_path / "out/skipped.tsv").read_text()
    assert "dev.csv:63\tx1-x1 runs from 0.2 to 0 s" in skipped
    assert "dev.csv:64\t" in skipped and "MSA/msa2.wav" in skipped
    assert len(read_datadir(tmp_path / "out/dev")) == 61
    with pytest.raises(CorpusError, match=r"programme='.\+': .*\(\?P<programme>"):
        adi20.prepare(corpus, tmp_path / "out", programme=".+")
    with pytest.raises(CorpusError, match="adi20_train.csv, adi20_dev.csv, adi20_test.csv; found"):
        adi20.prepare(corpus, tmp_path / "out", lists="adi20_{split}.csv")


# NADI


def test_nadi_division_is_seeded_and_cells_without_audio_are_counted(tree, made, tmp_path):
    corpus = tree("nadi")
    nadi.prepare(corpus, tmp_path / "out", seed=3)
    splits = {split: read_datadir(tmp_path / "out" / split) for split in ("train", "dev", "test")}
    assert {u.dialect for u in splits["train"]} == set(nadi.COUNTRIES)
    assert all(u.utt_id.startswith(u.dialect + "-seg_") and u.samples == 4800 for u in splits["test"])
    nadi.prepare(corpus, tmp_path / "other", seed=4)
    assert [u.utt_id for u in read_datadir(tmp_path / "other/dev")] != [u.utt_id for u in splits["dev"]]
    path = corpus / "Egypt/test-00000-of-00001.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    rows.append(rows[0] | {"audio": {"bytes": b"\x00" * 100, "path": "x.wav"}, "seg_id": "last"})
    rows[1]["audio"] = {"bytes": None, "path": "x.wav"}
    made.parquet(path, rows)
    nadi.prepare(corpus, tmp_path / "out")
    assert [u.utt_id for u in read_datadir(tmp_path / "out/test") if u.dialect == "Egypt"] == ["Egypt-seg_test_0"]
    skipped = (tmp_path / "out/skipped.tsv").read_text()
    assert "row 2\t" in skipped and "row 3\t" in skipped


def test_nadi_flat_form_with_a_country_column(made, tmp_path):
    for place, part in enumerate(("adaptation", "validation", "test")):
        rows = [
            {"audio": made.audio_cell(100 * place + n), "country": country} for n, country in enumerate(nadi.COUNTRIES)
        ]
        made.parquet(tmp_path / "nadi/data" / f"{part}-00000-of-00001-0a1b2c.parquet", rows)
    nadi.prepare(tmp_path / "nadi", tmp_path / "out")
    for split in ("train", "dev", "test"):
        assert sorted(u.dialect for u in read_datadir(tmp_path / "out" / split)) == list(nadi.COUNTRIES)


def test_nadi_broken_files_are_named(made, tmp_path):
    corpus = tmp_path / "nadi"
    made.parquet(corpus / "validation-00000-of-00001.parquet", [{"audio": made.audio_cell(1), "country": "Iraq"}])
    with pytest.raises(CorpusError, match="parquet:row 1: .*'Iraq'"):
        nadi.prepare(corpus, tmp_path / "out")
    with pytest.raises(CorpusError, match="missing: land"):
        nadi.prepare(corpus, tmp_path / "out", country_column="land")
    (corpus / "test-00000-of-00001.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(CorpusError, match="test-.*Parquet"):
        nadi.prepare(corpus, tmp_path / "out")
    made.parquet(corpus / "Iraq/test-00000-of-00001.parquet", [{"audio": made.audio_cell(1)}])
    with pytest.raises(CorpusError, match="Iraq: .*Algeria"):
        nadi.prepare(corpus, tmp_path / "out")


# ADI-5 in folds


def test_adi5_folds_test_each_programme_once(tree, tmp_path):
    adi5.prepare(tree("adi5"), tmp_path / "out", folds=2)
    tested = []
    for fold in ("fold1", "fold2"):
        own = {split: read_datadir(tmp_path / "out" / fold / split) for split in ("train", "dev", "test")}
        programmes = {split: {u.speaker for u in utterances} for split, utterances in own.items()}
        assert not programmes["test"] & (programmes["train"] | programmes["dev"])
        assert not programmes["dev"] & programmes["train"]
        assert sum(u.utt_id.startswith(adi5.DIALECTS) for u in own["train"]) == 25
        assert not any(u.utt_id.startswith(adi5.DIALECTS) for u in own["test"])
        tested += [u.utt_id for u in own["test"]]
    assert len(tested) == len(set(tested)) == 20
    with pytest.raises(CorpusError, match="programmes cannot make 99 folds"):
        adi5.prepare(tree("adi5"), tmp_path / "other", folds=99)


# NADI 2025, subtask 2, and 2026; MADIS 5


def test_nadi_with_transcripts_has_text(made, tmp_path):
    for place, part in enumerate(("train", "validation", "test")):
        rows = [
            {"audio": made.audio_cell(3000 + 10 * place + n), "transcription": f"نص، {n}", "seg_id": f"{part}{n}"}
            for n in range(2)
        ]
        made.parquet(tmp_path / f"nadi/Morocco/{part}-00000-of-00001.parquet", rows)
    nadi.prepare(tmp_path / "nadi", tmp_path / "out")
    for split in ("train", "dev", "test"):
        assert [(u.text, u.dialect) for u in read_datadir(tmp_path / "out" / split)] == [
            ("نص 0", "Morocco"), ("نص 1", "Morocco")
        ]  # fmt: skip


def test_nadi_2026_names_the_parts_of_its_test_by_country(made, tmp_path):
    for place, country in enumerate(("Egypt", "UAE")):
        rows = [{"audio": made.audio_cell(3100 + place)}]
        made.parquet(tmp_path / f"nadi/data/{country}-00000-of-00001.parquet", rows)
    nadi.prepare(tmp_path / "nadi", tmp_path / "out")
    assert {u.dialect for u in read_datadir(tmp_path / "out/test")} == {"Egypt", "UAE"}
    assert not (tmp_path / "out/train").exists()


def test_madis5_has_the_labels_of_adi5(tree, made, tmp_path):
    corpus = tree("madis5")
    madis5.prepare(corpus, tmp_path / "out")
    assert sorted(u.dialect for u in read_datadir(tmp_path / "out/test")) == sorted(adi5.DIALECTS)
    rows = [{"audio": made.audio_cell(9), "dialect": "Cairo"}]
    made.parquet(corpus / "data/test-00000-of-00001.parquet", rows)
    with pytest.raises(CorpusError, match="parquet:row 1: .*'Cairo'"):
        madis5.prepare(corpus, tmp_path / "other")
