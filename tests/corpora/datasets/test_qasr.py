"""QASR: MGB-2's XML, names of the layout as options, times from the ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import qasr
from corpora.files import CorpusError, TooManyBadFiles, read_json

pytestmark = pytest.mark.usefixtures("no_disk_sync")

SEGMENT = (
    '<segment id="{n}" who="A_B_speaker{k}_align" starttime="{start}" endtime="{end}" WMER="95">'
    '<element type="word" id="1">{text}</element></segment>\n'
)


@pytest.fixture
def corpus(tmp_path, noise) -> Path:
    root = tmp_path / "qasr"
    body = SEGMENT.format(n=1, k=1, start=0, end=0.4, text="مرحبا") + SEGMENT.format(
        n=2, k=2, start=0.4, end=0.9, text="بكم"
    )
    xml = root / "release/train_20210109/xml/A-B.xml"
    xml.parent.mkdir(parents=True)
    xml.write_text(f"<transcript><body><segments>\n{body}</segments></body></transcript>", encoding="utf-8")
    noise(root / "wav/A-B.wav", 1.0)
    for split in ("dev", "test"):
        noise(root / f"release/{split}/wav/{split}-1.wav", 1.0)
        text = f"{split}-1_spk-0001_seg-0000010:0000060 نعم\n{split}-1_spk-0001_seg-0000060:0000100 لا\n"
        (root / f"release/{split}/text.verbatim.nonoverlap").write_text(text, encoding="utf-8")
    return root


def test_all_three_sets(corpus, tmp_path):
    qasr.prepare(corpus, tmp_path / "out")
    sets = {split: read_datadir(tmp_path / "out" / split) for split in ("train", "dev", "test")}
    assert [(u.utt_id, u.text) for u in sets["train"]] == [
        ("A-B_spk-0001_seg-0000000:0000040", "مرحبا"), ("A-B_spk-0002_seg-0000040:0000090", "بكم")
    ]  # fmt: skip
    assert [(u.start, u.end, u.text) for u in sets["test"]] == [(1600, 9600, "نعم"), (9600, 16000, "لا")]
    assert all(validate_datadir(tmp_path / "out" / split) == [] for split in sets)


def test_unconfirmed_names_are_options_and_errors_show_both(corpus, tmp_path):
    (corpus / "release").rename(corpus / "v1")
    with pytest.raises(CorpusError, match=r"expected release/\{train_20210109,dev,test\}/; found v1/, wav/"):
        qasr.prepare(corpus, tmp_path / "out")
    (corpus / "v1/train_20210109").rename(corpus / "v1/train")
    qasr.prepare(corpus, tmp_path / "out", release="v1", train_folder="train")
    assert len(read_datadir(tmp_path / "out/train")) == 2


def test_a_threshold_is_not_compared_with_the_published_count(corpus, tmp_path):
    qasr.prepare(corpus, tmp_path / "out")
    assert read_json(tmp_path / "out/summary.json")["sets"]["train"]["published"] == 1592226
    qasr.prepare(corpus, tmp_path / "other", max_wmer=90.0)  # every segment here has 95
    sets = read_json(tmp_path / "other/summary.json")["sets"]
    assert "train" not in sets and sets["dev"]["published"] == 5002


def test_a_broken_transcript_names_its_line(corpus, tmp_path):
    xml = corpus / "release/train_20210109/xml/A-B.xml"
    xml.write_text(xml.read_text(encoding="utf-8").replace('who="A_B_speaker2_align"', 'who="somebody"'))
    with pytest.raises(TooManyBadFiles, match=r"A-B.xml:3: expected who=.*found 'somebody'"):
        text = corpus / "release/dev/text.verbatim.nonoverlap"
        text.write_text(text.read_text(encoding="utf-8") + "dev-1_1 نعم\n", encoding="utf-8")
        qasr.prepare(corpus, tmp_path / "out")
