"""MGB-2: XML in two scripts, three layouts of the scored sets, and what breaks them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import mgb2
from corpora.files import CorpusError, TooManyBadFiles, read_json
from corpora.text import to_buckwalter

pytestmark = pytest.mark.usefixtures("no_disk_sync")

TRAIN = "0A2C4C1F-1A2B-4C3D-8E9F-0123456789AB"
DEV = "FF2C4C1F-1A2B-4C3D-8E9F-0123456789AB"

# start, end, speaker, WMER, words
SEGMENTS = [
    (0.0, 0.5, 1, 0.0, "ذهبَ إلى المدرسةِ"),
    (0.5, 1.0, 2, 80.0, "قناة BBC@@LAT@@ العربية"),
    (0.9, 1.4, 1, 12.5, "#اه نعم"),
    (1.4, 1.8, 1, 80.1, "كلام آخر"),
    (1.8, 1.9, 1, 10.0, "#اه"),
]


def _xml(script: str) -> str:
    name = TRAIN.replace("-", "_")
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<transcript>", "<head>", '<recording filename="x"/>']
    lines += ['<speakers><speaker id="a" name="b"/></speakers>', "</head>", "<body>"]
    lines += ['<segments annotation_id="transcript_orig"><segment id="o"><element>x</element></segment></segments>']
    lines += ['<segments annotation_id="transcript_align">']
    for number, (start, end, speaker, rate, text) in enumerate(SEGMENTS):
        lines.append(
            f'<segment id="{name}_utt_{number}_align" who="{name}_speaker{speaker}_align" WMER="{rate}" PMER="0" '
            f'AWD="0.4" starttime="{start}" endtime="{end}">'
        )
        for word in text.split():
            if script == "bw" and "@@LAT@@" not in word:
                word = to_buckwalter(word).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            lines.append(f'<element type="word" id="w">{word}</element>')
        lines.append("</segment>")
    return "\r\n".join([*lines, "</segments>", "</body>", "</transcript>"])


CLEAN = {f"{DEV}_spk-0001_seg-0000000:0000050": "*hb <lY", f"{DEV}_spk-0002_seg-0000050:0000100": "qnAp CNN@@LAT@@"}
OVERLAP = {f"{DEV}_spk-0001_seg-0000090:0000130": "nEm"}


def _texts(rows: dict[str, str]) -> str:
    return "".join(f"{key} {text}\n" for key, text in rows.items())


def _segments(rows: dict[str, str]) -> str:
    times = [key.rsplit("-", 1)[1].split(":") for key in rows]
    rows = zip(rows, times, strict=True)
    return "".join(f"{key} {DEV} {int(start) / 100:.2f} {int(end) / 100:.2f}\n" for key, (start, end) in rows)


def _ids(rows: dict[str, str]) -> str:
    return "".join(f"{key}\n" for key in rows)


FORMS = {
    "lhotse": {
        "text.non_overlap_speech": _texts(CLEAN),
        "segments.non_overlap_speech": _segments(CLEAN),
        "text.overlap_speech": _texts(OVERLAP),
        "segments.overlap_speech": _segments(OVERLAP),
    },
    "kaldi": {
        "text.all": _texts(CLEAN | OVERLAP),
        "segments.all": _segments(CLEAN | OVERLAP),
        "non_overlap_speech": _ids(CLEAN),
        "overlap_speech": _ids(OVERLAP),
    },
    "espnet": {
        "text": _texts(CLEAN | OVERLAP),
        "segments.non_overlap_speech": _segments(CLEAN),
        "non_overlap_speech.lst": _ids(CLEAN),
        "overlap_speech.lst": _ids(OVERLAP),
    },
}


def _scored(folder: Path, form: str, noise) -> None:
    noise(folder / f"wav/{DEV}.wav", 1.5)
    for name, content in FORMS[form].items():
        (folder / name).write_bytes(content.replace("\n", "\r\n").encode("utf-8-sig"))
    (folder / "wav.scp").write_text(f"{DEV} sox /data/{DEV}.wav -t wav - |\n")  # not needed: the file is in wav/


@pytest.fixture
def corpus(tmp_path, noise) -> Path:
    root = tmp_path / "mgb2"
    noise(root / f"train/wav/{TRAIN}.wav", 2.0)
    for script in ("utf8", "bw"):
        path = root / f"train/xml/{script}/{TRAIN}.xml"
        path.parent.mkdir(parents=True)
        path.write_bytes(_xml(script).encode())
    _scored(root / "dev", "kaldi", noise)
    return root


@pytest.mark.parametrize("script", ["auto", "bw"])
def test_training_segments_in_both_scripts(corpus, tmp_path, script, caplog):
    caplog.set_level(logging.INFO)
    mgb2.prepare(corpus, tmp_path / "out", script=script)
    assert validate_datadir(tmp_path / "out/train") == []
    made = {u.utt_id: u for u in read_datadir(tmp_path / "out/train")}
    assert [(key.removeprefix(TRAIN), u.text) for key, u in made.items()] == [
        ("_spk-0001_seg-0000000:0000050", "ذهب الي المدرسه"),
        ("_spk-0001_seg-0000090:0000140", "نعم"),
        ("_spk-0002_seg-0000050:0000100", "قناه BBC العربيه"),
    ]
    assert all(u.audio == corpus / f"train/wav/{TRAIN}.wav" for u in made.values())  # segments, no copies
    excluded = (tmp_path / "out/excluded.tsv").read_text(encoding="utf-8")
    assert "WMER 80.1 is above 80" in excluded and "no words in the text '#اه'" in excluded
    assert f"{TRAIN}_spk-0001_seg-0000090:0000140\t{TRAIN}_spk-0002" in (tmp_path / "out/overlaps.tsv").read_text()
    summary = read_json(tmp_path / "out/summary.json")["sets"]
    assert summary["train"]["difference"] == 3 - 375103 and summary["dev"]["published"] == 5002
    assert "mgb2, train: 3, published are 375103 (-375100)" in caplog.text
    assert "published set test (5365 utterances) is not here" in caplog.text


def test_another_threshold_is_not_compared(corpus, tmp_path):
    mgb2.prepare(corpus, tmp_path / "out", max_wmer=100.0)
    sets = read_json(tmp_path / "out/summary.json")["sets"]
    assert sets["train"]["utterances"] == 4 and "published" not in sets["train"] and "published" in sets["dev"]


@pytest.mark.parametrize("form", FORMS)
def test_scored_sets_in_three_forms(tmp_path, noise, form):
    _scored(tmp_path / "c/test", form, noise)
    mgb2.prepare(tmp_path / "c", tmp_path / "out")
    clean = read_datadir(tmp_path / "out/test")
    assert {u.utt_id: u.text for u in clean} == dict(zip(CLEAN, ("ذهب الي", "قناه CNN"), strict=True))
    assert [(u.start, u.end, u.speaker) for u in clean] == [
        (0, 8000, f"{DEV}_spk-0001"), (8000, 16000, f"{DEV}_spk-0002")
    ]  # fmt: skip
    overlap = read_datadir(tmp_path / "out/test_overlap")
    assert [(u.utt_id, u.text, u.end) for u in overlap] == [(*OVERLAP, "نعم", 20800)]


def test_broken_trees_name_file_and_line(corpus, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(CorpusError, match=r"train/wav/<GUID>.wav.*found nothing.*MGB2=.*arabicspeech.org/mgb2"):
        mgb2.prepare(tmp_path / "nowhere", out)
    utf8 = corpus / f"train/xml/utf8/{TRAIN}.xml"
    whole = utf8.read_bytes()
    utf8.write_bytes(whole.replace(b' starttime="0.5"', b""))
    with pytest.raises(TooManyBadFiles, match=rf"{TRAIN}.xml:15: segment without starttime; its attributes are id"):
        mgb2.prepare(corpus, out)
    utf8.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TooManyBadFiles, match=rf"{TRAIN}.xml:\d+: no well-formed XML"):
        mgb2.prepare(corpus, out)
    utf8.write_bytes(b'<!DOCTYPE t [<!ENTITY a "b">]><transcript/>')
    with pytest.raises(TooManyBadFiles, match=rf"{TRAIN}.xml:1: declares the entity 'a'"):
        mgb2.prepare(corpus, out)
    with pytest.raises(CorpusError, match=r"script 'latin' is not one of auto, utf8, bw"):
        mgb2.prepare(corpus, out, script="latin")
    utf8.write_bytes(whole)
    (corpus / f"train/wav/{TRAIN}.wav").unlink()
    shutil.rmtree(corpus / "dev")
    with pytest.raises(TooManyBadFiles, match=rf"1 of 1 files.*{TRAIN}.wav: no such file, named by .*xml:10"):
        mgb2.prepare(corpus, out)
    shutil.rmtree(corpus / "train/xml/utf8")
    with pytest.raises(CorpusError, match=r"train/xml: expected utf8/<GUID>.xml; found bw"):
        mgb2.prepare(corpus, out, script="utf8")
    assert not (out / "train").exists()


def test_broken_scored_sets(corpus, tmp_path):
    dev, out = corpus / "dev", tmp_path / "out"
    (dev / "overlap_speech").write_text(_ids(CLEAN))
    with pytest.raises(CorpusError, match=r"non_overlap_speech:1: .*0000050 is listed as overlapping too, in .*:1"):
        mgb2.prepare(corpus, out)
    (dev / "overlap_speech").unlink()
    (dev / "segments.all").write_text(f"{next(iter(CLEAN))} {DEV} 0.0\n")
    with pytest.raises(CorpusError, match=r"segments.all:1: expected 'utterance recording start end'"):
        mgb2.prepare(corpus, out)
    (dev / "segments.all").write_text(f"{next(iter(CLEAN))} {DEV} zero 1\n")
    with pytest.raises(CorpusError, match=r"segments.all:1: expected a time in seconds, found 'zero'"):
        mgb2.prepare(corpus, out)
    (dev / "segments.all").unlink()  # times are in the ids too
    (dev / "text.all").write_text("x_y nEm\n")
    with pytest.raises(TooManyBadFiles, match=r"non_overlap_speech:1: .*0000050 has no text"):
        mgb2.prepare(corpus, out)
    (dev / "non_overlap_speech").unlink()
    with pytest.raises(CorpusError, match=r"dev: expected text.non_overlap_speech, or .*; found text.all, wav, wav"):
        mgb2.prepare(corpus, out)


def test_a_pipe_is_not_run(tmp_path, noise):
    _scored(tmp_path / "c/dev", "lhotse", noise)
    (tmp_path / f"c/dev/wav/{DEV}.wav").rename(tmp_path / "c/dev/wav/with space.wav")
    with pytest.raises(CorpusError, match=r"wav.scp:1: .* is a command, not a file; pipes are refused"):
        mgb2.prepare(tmp_path / "c", tmp_path / "out")
    (tmp_path / "c/dev/wav.scp").write_text(f"{DEV} /elsewhere/wav/with space.wav\n")
    mgb2.prepare(tmp_path / "c", tmp_path / "out")
    assert read_datadir(tmp_path / "out/dev")[0].audio.name == "with space.wav"
