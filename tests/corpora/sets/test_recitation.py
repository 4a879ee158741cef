"""The recogniser's data from a small made-up set of reciters, keywords and digits."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora.files import CorpusError
from corpora.prepare.packed import PackedAudio
from corpora.sets.recitation import named_folders, prepare

TEXTS = {
    (1, 1): "بِسۡمِ ٱللَّهِ ٱلرَّحۡمَٰنِ ٱلرَّحِيمِ",
    (2, 1): "الٓمٓ",
    (2, 2): "ذَٰلِكَ ٱلۡكِتَٰبُ لَا رَيۡبَۛ فِيهِۛ",
    (44, 1): "حمٓ",
    (54, 17): "وَلَقَدۡ يَسَّرۡنَا ٱلۡقُرۡءَانَ",
    (55, 13): "وَلَقَدۡ يَسَّرۡنَا ٱلۡقُرۡءَانَ",  # the text of a dev verse
    (75, 1): "لَآ أُقۡسِمُ بِيَوۡمِ ٱلۡقِيَٰمَةِ",
}


def _sound(path: Path, rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, rate // 2), rate)


@pytest.fixture
def sources(tmp_path: Path) -> dict:
    chapters: dict[str, list] = {}
    for (chapter, verse), text in TEXTS.items():
        chapters.setdefault(str(chapter), []).append({"chapter": chapter, "verse": verse, "text": text})
    (tmp_path / "quran.json").write_text(json.dumps(chapters), encoding="utf-8")
    for reciter in ("one", "two", "other"):
        for chapter, verse in TEXTS:
            _sound(tmp_path / reciter / f"{chapter:03d}{verse:03d}.mp3")
    for folder, speaker in (("zoom in", "00000001"), ("zoom in", "00000002"), ("one", "00000009")):
        _sound(tmp_path / "keywords" / folder / f"{speaker}_NO_01.wav")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "keywords.tsv").write_text("zoom in\tتكبير\none\tواحد\n", encoding="utf-8")
    for split, speaker in (("train", 3), ("val", 1), ("test", 2)):
        (lists / f"{split}.csv").write_text(f"file,class\ndataset/zoom in/0000000{speaker}_NO_01.wav,zoom in\n")
    _sound(tmp_path / "digits" / "7_seven_0001.wav")
    (tmp_path / "digits" / "8_eight_0001.wav").write_bytes(b"\x1a\x45\xdf\xa3 webm")
    return {
        "quran": tmp_path / "quran.json",
        "reciters": {"one": tmp_path / "one", "two": tmp_path / "two"},
        "unseen": {"other": tmp_path / "other"},
        "keywords": tmp_path / "keywords",
        "keyword_splits": lists,
        "digits": tmp_path / "digits",
    }


def test_splits_are_disjoint_by_chapter_text_reciter_and_speaker(sources: dict, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(out, **sources)

    def rows(name: str) -> dict[str, str]:
        lines = (out / "text" / f"{name}.text").read_text(encoding="utf-8").splitlines()
        return dict(line.split(" ", 1) for line in lines)

    # neither the letters that open a chapter, nor a refrain of a dev chapter, nor the unseen reciter
    assert sorted(rows("recitation")) == ["one-001001", "one-002002", "two-001001", "two-002002"]
    assert rows("recitation")["one-002002"] == "ذلك الكتاب لا ريب فيه"
    assert sorted(rows("dev_seen")) == ["one-054017", "two-054017"] and sorted(rows("test_other")) == [
        "other-044001",
        "other-075001",
    ]
    assert list(rows("keywords_val").values()) == ["تكبير"] and list(rows("keywords_train").values()) == ["واحد"]
    assert rows("digits") == {"digits-7_seven_0001": "سبعة"}
    assert "8_eight" in (out / "skipped.tsv").read_text()
    assert set(PackedAudio(out / "audio" / "recitation")) == set(rows("recitation"))
    assert len(rows("verses")) == len(TEXTS)
    assert "CC BY 4.0" in (out / "sources.tsv").read_text()


def test_what_is_missing_is_named(sources: dict, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="SSSAAA.mp3"):
        prepare(tmp_path / "out", **{**sources, "reciters": {"none": tmp_path / "empty"}})
    other = {"other": [{"chapter": 3, "verse": 1, "text": "ٱللَّهُ"}]}
    (tmp_path / "other.json").write_text(json.dumps({"3": other["other"]}), encoding="utf-8")
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    (tmp_path / "keyless.json").write_text('{"1": [{"verse": 1}]}', encoding="utf-8")
    (tmp_path / "half.json").write_text('{"1": [', encoding="utf-8")
    for changed, message in (
        ({"reciters": {"none": tmp_path / "nowhere"}}, "nowhere: no such folder"),
        ({"quran": tmp_path / "nowhere.json"}, "nowhere.json: no such file; --quran"),
        ({"quran": tmp_path / "list.json"}, r"list.json: expected quran.json, \{[^()]*$"),
        ({"quran": tmp_path / "keyless.json"}, "a verse lacks the key 'text'"),
        ({"quran": tmp_path / "half.json"}, "^[^']*half.json: not valid JSON"),
        ({"quran": tmp_path / "other.json"}, "one: none of its recordings has a text"),
        ({"keyword_splits": tmp_path / "nowhere"}, "nowhere: keywords.tsv is missing; --keyword-splits"),
        ({"keyword_splits": None, "keywords": tmp_path / "digits"}, "digits: keywords.tsv is missing"),
    ):
        with pytest.raises(CorpusError, match=message):
            prepare(tmp_path / "out", **{**sources, **changed})
    (sources["keyword_splits"] / "keywords.tsv").write_text("zoom in\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"keywords.tsv:1: expected a folder, a tab and its word"):
        prepare(tmp_path / "out", **sources)
    with pytest.raises(CorpusError, match="NAME=DIR"):
        named_folders(["somewhere"], "--reciter")


def test_half_a_reciter_and_recordings_without_a_text_are_stated(sources: dict, tmp_path: Path, caplog) -> None:
    (tmp_path / "two" / "002002.mp3").unlink()
    (tmp_path / "two" / "075001.mp3").unlink()
    _sound(tmp_path / "other" / "114009.mp3")
    with caplog.at_level("INFO"):
        prepare(tmp_path / "out", **sources)
    assert "reciter one: 7 of 7 verses\n" in caplog.text
    assert "reciter two: 5 of 7 verses, not 2:2 and others\n" in caplog.text
    assert f"{tmp_path / 'other'}: 1 recordings have no text and are left out" in caplog.text
    assert "114009.mp3" in caplog.text
