"""MGB-3: times in the ids, four annotators who do not all transcribe everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import mgb3
from corpora.files import CorpusError, TooManyBadFiles

pytestmark = pytest.mark.usefixtures("no_disk_sync")

RECORDING = "comedy_75_first_12min"
IDS = [f"{RECORDING}_0.1_0.55", f"{RECORDING}_0.55_1.2", f"{RECORDING}_1.2_1.5"]


@pytest.fixture
def corpus(tmp_path, noise) -> Path:
    root = tmp_path / "mgb3"
    noise(root / f"wav/{RECORDING}.wav", 1.6)
    texts = {
        "Alaa": [f"{IDS[0]} إزيك يا باشا", f"{IDS[1]} #"],
        "Ali": [f"{IDS[0]} ازيّك يا باشا", f"{IDS[1]} كويس الحمد لله"],
        "Omar": [f"{IDS[2]} ماشي"],
    }
    for name, lines in texts.items():
        path = root / f"dev/{name}/text_noverlap"
        path.parent.mkdir(parents=True)
        path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    return root


def test_references_stand_beside_the_text(corpus, tmp_path):
    mgb3.prepare(corpus, tmp_path / "out")
    made = {u.utt_id: u for u in read_datadir(tmp_path / "out/dev")}
    assert {key: u.text for key, u in made.items()} == dict(
        zip(IDS, ("ازيك يا باشا", "كويس الحمد لله", "ماشي"), strict=True)
    )
    assert (made[IDS[1]].start, made[IDS[1]].end, made[IDS[1]].speaker) == (8800, 19200, RECORDING)
    assert validate_datadir(tmp_path / "out/dev") == []
    references = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out/dev").glob("text_*")}
    assert references == {
        "text_alaa": f"{IDS[0]} ازيك يا باشا\n",
        "text_ali": f"{IDS[0]} ازيك يا باشا\n{IDS[1]} كويس الحمد لله\n",
        "text_omar": f"{IDS[2]} ماشي\n",
    }


def test_the_order_of_annotators_and_the_folder_above(corpus, tmp_path):
    mgb3.prepare(corpus.parent, tmp_path / "out", annotators=("Ali", "Alaa"), text_profile="none")
    assert [u.text for u in read_datadir(tmp_path / "out/dev")] == ["ازيّك يا باشا", "كويس الحمد لله"]


def test_broken_trees(corpus, tmp_path):
    text = corpus / "dev/Ali/text_noverlap"
    text.write_text("comedy-75 نعم\nb نعم\n", encoding="utf-8")
    with pytest.raises(TooManyBadFiles, match=r"2 of 5 lines.*Ali/text_noverlap:1: expected an id <recording>"):
        mgb3.prepare(corpus, tmp_path / "out")
    text.write_text(f"{IDS[0]} نعم\n{IDS[0]} لا\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"text_noverlap:2: utterance .* is there already, in .*text_noverlap:1"):
        mgb3.prepare(corpus, tmp_path / "out")
    text.write_bytes("x نعم\n".encode() + b"\xff\n")
    with pytest.raises(CorpusError, match=r"text_noverlap:2: not UTF-8 \(byte 0xFF\)"):
        mgb3.prepare(corpus, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"dev: expected Zeina/text_noverlap; found Alaa, Ali, Omar"):
        mgb3.prepare(corpus, tmp_path / "out", annotators=("Zeina",))
