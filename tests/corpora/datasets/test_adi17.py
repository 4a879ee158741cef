"""ADI-17: the three forms of a split, label lists with and without a header, segments."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import adi17
from corpora.files import CorpusError
from corpora.prepare.sources import read_sources

pytestmark = pytest.mark.usefixtures("no_disk_sync")
VIDEOS = ["-a_bcDEfgh1", "_FBO2f3kW5Q", "zz9ZZ-zz_zz", "0123456789A"]  # YouTube ids hold hyphens and underscores


def _files(root: Path, write_clip, *, header: bool = True, line_end: str = "\r\n") -> Path:
    """Folders of segments: dialects as folders in train, lists elsewhere."""
    seed = 0
    for dialect, videos in {"EGY": VIDEOS[:1], "YEM": VIDEOS[1:2]}.items():
        for video in videos:
            for start in (100, 200, 300):
                seed += 1
                name = f"{video}_{start:06d}-{start + 20:06d}.wav"
                write_clip(root / "train_segments" / dialect / video / name, seed)
    for split, video in (("dev", VIDEOS[2]), ("test", VIDEOS[3])):
        lines = ["id label"] if header else []
        for place, dialect in enumerate(("EGY", "YEM")):
            seed += 1
            utt_id = f"{video}_{place * 100:06d}-{place * 100 + 20:06d}"
            write_clip(root / f"{split}_segments" / f"{utt_id}.wav", seed)
            lines.append(f"{utt_id} {dialect}")
        (root / f"adi17_official_{split}_label.txt").write_bytes((line_end.join(lines) + line_end).encode())
    return root


def _kaldi(root: Path, split: str, video: str, write_clip, *, scp: str | None = None) -> None:
    folder = root / split
    write_clip(folder / "wav" / f"{video}.wav", sum(map(ord, video)), seconds=1.0)
    (folder / "segments").write_text(
        f"{video}_000010-000030 {video} 0.10 0.30\n{video}_000080-000101 {video} 0.80 1.01\n"
    )
    (folder / "utt2lang").write_text(f"{video}_000010-000030 KSA\n{video}_000080-000101 KSA\n")
    if scp is not None:
        (folder / "wav.scp").write_text(f"{video} {scp}\n")


@pytest.mark.parametrize(("header", "line_end"), [(True, "\r\n"), (False, "\n")])
def test_folders_and_lists(tmp_path, write_clip, header, line_end):
    corpus = _files(tmp_path / "adi17", write_clip, header=header, line_end=line_end)
    adi17.prepare(corpus, tmp_path / "out")
    labels = {}
    for split in ("train", "dev", "test"):
        assert validate_datadir(tmp_path / "out" / split) == []
        own = read_datadir(tmp_path / "out" / split)
        labels[split] = [u.dialect for u in own]
        assert {u.speaker for u in own} <= set(VIDEOS)
    assert labels == {"train": ["EGY"] * 3 + ["YEM"] * 3, "dev": ["EGY", "YEM"], "test": ["EGY", "YEM"]}
    assert read_datadir(tmp_path / "out/dev")[0].utt_id == "zz9ZZ-zz_zz_000000-000020"  # the official id


def test_kaldi_form_keeps_recordings_whole(tmp_path, write_clip):
    corpus = _files(tmp_path / "adi17", write_clip)
    _kaldi(corpus, "train", VIDEOS[0], write_clip)
    _kaldi(corpus, "dev", VIDEOS[2], write_clip, scp="/somebody/else/adi17/dev/wav/zz9ZZ-zz_zz.wav")
    adi17.prepare(corpus, tmp_path / "out")
    first, last = read_datadir(tmp_path / "out/train")
    assert (first.start, first.end, first.dialect) == (1600, 4800, "KSA")
    assert (last.start, last.end) == (12800, 16000)  # listed up to 1.01 s of a recording of 1.00 s
    assert read_sources(tmp_path / "out/dev")[0].source == "dev/wav/zz9ZZ-zz_zz.wav"
    assert soundfile.info(first.audio).frames == 16000


def test_segment_past_the_end_is_counted_with_its_line(tmp_path, write_clip):
    corpus = tmp_path / "adi17"
    _kaldi(corpus, "test", VIDEOS[2], write_clip)
    with (corpus / "test/segments").open("a") as file:
        file.write(f"{VIDEOS[2]}_000090-000190 {VIDEOS[2]} 0.90 1.90\n")
    with (corpus / "test/utt2lang").open("a") as file:
        file.write(f"{VIDEOS[2]}_000090-000190 KSA\n")
    adi17.prepare(corpus, tmp_path / "out")
    assert len(read_datadir(tmp_path / "out/test")) == 2
    assert (
        "segments:3\tzz9ZZ-zz_zz_000090-000190 runs from 0.9 to 1.9 s, but test/wav/zz9ZZ-zz_zz.wav has 1 s"
        in (tmp_path / "out/skipped.tsv").read_text()
    )


def test_a_video_of_test_is_not_in_train(tmp_path, write_clip):
    corpus = _files(tmp_path / "adi17", write_clip)
    write_clip(corpus / "train_segments/EGY" / f"{VIDEOS[3]}_000900-000920.wav", 77)
    adi17.prepare(corpus, tmp_path / "out")
    assert {u.speaker for u in read_datadir(tmp_path / "out/train")} == set(VIDEOS[:2])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("xyz ARG", r"label.txt:4: expected one of ALG .* YEM, found the dialect 'ARG'"),
        ("xyz", r"label.txt:4: expected '<utterance> <dialect>', found 'xyz'"),
        ("zz9ZZ-zz_zz_000000-000020 KSA", r"label.txt:4: zz9ZZ.* is KSA here and EGY at .*label.txt:2"),
    ],
)
def test_a_broken_list_names_its_line(tmp_path, write_clip, line, message):
    corpus = _files(tmp_path / "adi17", write_clip)
    with (corpus / "adi17_official_dev_label.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CorpusError, match=message):
        adi17.prepare(corpus, tmp_path / "out")


def test_a_first_line_that_is_no_header_is_not_swallowed(tmp_path, write_clip):
    corpus = _files(tmp_path / "adi17", write_clip, header=False)
    path = corpus / "adi17_official_dev_label.txt"
    path.write_text("zz9ZZ-zz_zz_000000-000020 XXX\n" + path.read_text())
    with pytest.raises(CorpusError, match="label.txt:1: expected one of"):
        adi17.prepare(corpus, tmp_path / "out")


def test_pipes_and_segments_without_label_are_refused(tmp_path, write_clip):
    corpus = tmp_path / "adi17"
    _kaldi(corpus, "dev", VIDEOS[2], write_clip, scp="sph2pipe x.sph |")
    with pytest.raises(CorpusError, match="wav.scp:1: zz9ZZ-zz_zz is a command"):
        adi17.prepare(corpus, tmp_path / "out")
    (corpus / "dev/wav.scp").unlink()
    (corpus / "dev/utt2lang").write_text(f"{VIDEOS[2]}_000010-000030 KSA\n")
    with pytest.raises(CorpusError, match="segments:2: zz9ZZ-zz_zz_000080-000101 has no dialect"):
        adi17.prepare(corpus, tmp_path / "out")


def test_unknown_dialect_folder(tmp_path, write_clip):
    corpus = _files(tmp_path / "adi17", write_clip)
    (corpus / "train_segments/XXX").mkdir()
    with pytest.raises(CorpusError, match="XXX: expected folders ALG"):
        adi17.prepare(corpus, tmp_path / "out")
