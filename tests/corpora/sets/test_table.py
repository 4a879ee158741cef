"""Data directories from a list of one's own recordings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora.__main__ import main
from corpora.audio import read_audio
from corpora.datadir import read_datadir, validate_datadir
from corpora.prepare.sources import read_sources

pytestmark = pytest.mark.usefixtures("no_disk_sync")


@pytest.fixture
def recordings(tmp_path: Path, noise) -> Path:
    """Two files of 16 kHz, one of 44.1 kHz with a name in Arabic, and one outside the folder of the list."""
    noise(tmp_path / "lists/clips/a.wav", 1.0)
    noise(tmp_path / "lists/clips/b b.wav", 0.5)
    noise(tmp_path / "lists/clips/ج.wav", 0.4, 44100)
    noise(tmp_path / "other/d.flac", 0.3, format="FLAC")
    return tmp_path / "lists"


def table(path: Path, *options: str) -> int:
    return main(["table", str(path), "--out", str(path.parent.parent / "out"), "--jobs", "1", *options])


HEADER = ["audio", "text", "speaker", "split", "dialect", "emotion", "start", "end"]


def rows(folder: Path) -> list[list[str]]:
    return [
        ["clips/a.wav", "قال، نعم", "سارة", "train", "EGY", "happy", "0", "0.5"],
        ["clips/a.wav", "ثم لا", "سارة", "train", "EGY", "sad", "0.5", "1"],
        ["clips\\b b.wav", "طيب", "ab", "validation", "MOR", "sad", "", ""],
        ["./clips/ج.wav", "هلا", "ab-c", "test", "MSA", "neutral", "", ""],
        [str(folder.parent / "other/d.flac"), "شكرا", "ab-c", "test", "MSA", "neutral", "", ""],
    ]


@pytest.mark.parametrize("form", ["csv", "semicolon", "tsv", "utf-16", "jsonl", "json"])
def test_every_form_gives_the_same_directories(form: str, recordings: Path, tmp_path: Path, capsys) -> None:
    own = rows(recordings)
    objects = [dict(zip(HEADER, row, strict=True)) for row in own]
    content = {
        "csv": ",".join(HEADER) + "\r\n" + "".join(",".join(row) + "\r\n" for row in own),
        "semicolon": "\ufeff" + ";".join(HEADER) + "\n" + "".join(";".join(row) + "\n" for row in own),
        "tsv": "\t".join(HEADER) + "\n" + "".join("\t".join(row) + "\n" for row in own),
        "utf-16": "\t".join(HEADER) + "\n" + "".join("\t".join(row) + "\n" for row in own),
        "jsonl": "".join(json.dumps(own, ensure_ascii=False) + "\n" for own in objects),
        "json": json.dumps(objects, indent=1),
    }[form]
    suffix = {"semicolon": "csv", "utf-16": "txt"}.get(form, form)
    path = recordings / f"list.{suffix}"
    path.write_bytes(content.encode("utf-16" if form == "utf-16" else "utf-8"))
    assert table(path, "--text-profile", "mgb") == 0
    out = tmp_path / "out"
    sets = {split: read_datadir(out / split) for split in ("train", "dev", "test")}
    assert all(validate_datadir(out / split) == [] for split in sets)
    assert [(u.text, u.dialect, u.emotion, u.start, u.end) for u in sets["train"]] == [
        ("قال نعم", "EGY", "happy", 0, 8000), ("ثم لا", "EGY", "sad", 8000, 16000)
    ]  # fmt: skip
    assert [(u.text, u.samples) for u in sets["dev"]] == [("طيب", 8000)]
    assert {(u.text, u.samples) for u in sets["test"]} == {("هلا", 6400), ("شكرا", 4800)}
    assert len({u.speaker for u in sets["test"]}) == 1
    assert {row.corpus for row in read_sources(out / "test")} == {"list"}
    assert f"{out / 'train'}: 2 utterances, 1 speakers" in capsys.readouterr().out


def test_columns_by_option_and_a_nemo_manifest(recordings: Path, tmp_path: Path) -> None:
    lines = [{"audio_filepath": "clips/a.wav", "offset": 0.25, "duration": 0.5, "words": "نعم", "lang": "ar"}]
    (recordings / "manifest.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert table(recordings / "manifest.json", "--column", "text=words") == 0
    (own,) = read_datadir(tmp_path / "out/train")
    assert (own.text, own.start, own.end, own.language) == ("نعم", 4000, 12000, "ar")
    assert own.speaker == "a"  # without speakers, a recording is one


def test_a_column_or_an_option_names_the_channel(tmp_path: Path) -> None:
    """Both sides of a telephone call in one file."""
    call = np.sin(np.arange(16000) / 9)[:, None] * [0.1, 0.3]
    own = tmp_path / "lists"
    own.mkdir()
    soundfile.write(own / "call.wav", call, 16000)
    (own / "list.csv").write_text("audio,side,channel\ncall.wav,0,TV\ncall.wav,1,TV\n")

    def peaks(*options: str) -> list[float]:
        assert table(own / "list.csv", *options) == 0
        return [round(float(np.abs(read_audio(u.audio)).max()), 2) for u in read_datadir(tmp_path / "out/train")]

    assert peaks("--column", "channel=side") == [0.1, 0.3]
    (own / "list.csv").write_text("audio\ncall.wav\n")
    assert peaks() == [0.2] and peaks("--channel", "1") == [0.3]


def test_another_duration_than_the_list_states_is_named(recordings: Path, tmp_path: Path, caplog) -> None:
    rows = ["audio,text,duration", "clips/a.wav,نعم,0.2", "clips/b b.wav,لا,0.6"]
    (recordings / "list.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert table(recordings / "list.csv") == 0
    assert "1 recordings have another duration than the list states, as a: 1.00 s, stated are 0.20 s" in caplog.text


def test_a_text_of_several_lines_stays_one_text(recordings: Path, tmp_path: Path) -> None:
    (recordings / "list.csv").write_text('audio,text\nclips/a.wav,"قال\n""نعم"" ثم لا"\n', encoding="utf-8")
    assert table(recordings / "list.csv") == 0
    assert [u.text for u in read_datadir(tmp_path / "out/train")] == ['قال "نعم" ثم لا']


def test_whole_speakers_are_drawn_for_dev_and_test(tmp_path: Path, noise) -> None:
    lines = ["path,speaker_id"]
    for speaker in range(30):
        for number in range(2):
            noise(tmp_path / f"l/{speaker}_{number}.wav", 0.1)
            lines.append(f"{speaker}_{number}.wav,s{speaker:02d}")
    (tmp_path / "l/list.csv").write_text("\n".join(lines))
    assert table(tmp_path / "l/list.csv", "--dev-share", "0.2", "--test-share", "0.2") == 0
    sets = {split: read_datadir(tmp_path / "out" / split) for split in ("train", "dev", "test")}
    speakers = {split: {u.speaker for u in own} for split, own in sets.items()}
    assert sum(map(len, speakers.values())) == 30 and all(speakers.values())
    assert all(u.text is None for own in sets.values() for u in own)


def test_checks_are_those_of_every_corpus(recordings: Path, tmp_path: Path, caplog, noise) -> None:
    (recordings / "clips/copy.wav").write_bytes((recordings / "clips/a.wav").read_bytes())
    own = ["clips/a.wav,نعم,s,train", "clips/b b.wav,لا,s,train", "clips/copy.wav,نعم,s,test", "clips/ج.wav,؟,t,test"]
    (recordings / "list.csv").write_text("\n".join(["audio,text,speaker,split", *own]) + "\n", encoding="utf-8")
    assert table(recordings / "list.csv", "--text-profile", "mgb") == 0
    assert [u.text for u in read_datadir(tmp_path / "out/train")] == ["لا"]
    excluded = (tmp_path / "out/excluded.tsv").read_text(encoding="utf-8")
    assert "also in test" in excluded and "no words" in excluded and "list.csv:5" in excluded
    assert "1 speakers of test are in training too, as s" in caplog.text


@pytest.mark.parametrize(
    ("content", "options", "token"),
    [
        ("sound,text\na.wav,x\n", [], "list.csv:1: expected a column of recordings .*found sound, text"),
        ("audio,text\nclips/a.wav,x\n", ["--column", "text=txt"], "no column 'txt'; the nearest .*`text`"),
        ("audio,text\nclips/a.wav,x\n", ["--column", "txt=text"], "txt=text: expected FIELD=COLUMN .*`text`"),
        ("audio,text\nclips/a.wav,x\n", ["--text-profile", "mbg"], "--text-profile mbg: .*`mgb`"),
        ("audio,text\nclips/a.wav,x\n", ["--dev-share", "2"], "expected shares below 1"),
        ("audio,split\nclips/a.wav,train\n", ["--dev-share", "0.1"], "column split names the splits"),
        ("audio,split\nclips/a.wav,../x\n", [], r"list.csv:2: expected the name of a split .*'\.\./x'"),
        ("audio,split\nclips/a.wav,\n", [], "list.csv:2: expected the name of a split"),
        ("audio,text\nno.wav,x\n", [], "no.wav: no such file, named by .*list.csv:2"),
        ("audio,text\n,x\n", [], "list.csv: no row|no recording is named"),
        ("audio,start\nclips/a.wav,soon\n", [], "list.csv:2: expected a time in seconds, found 'soon'"),
        ("audio,c\nclips/a.wav,B\n", ["--column", "channel=c"], "list.csv:2: channel 'B': expected a number from 0"),
        ("audio,end\nclips/a.wav,7\n", [], "runs from .*7 s, but .*has 1 s"),
        ("audio,dialect\nclips/a.wav,\n", [], "list.csv:2: empty dialect"),
        ("audio,audio\na,b\n", [], "column 'audio' is there twice"),
        (
            'audio,text\nclips/a.wav,"x\nclips/a.wav,y\nclips/a.wav,"z" w\n',
            [],
            "list.csv:2: a quotation mark .* line 4",
        ),
        ("audio,text\nclips/a.wav,\u064e\u064f\n", [], "list.csv: no utterance|no utterance of list is left"),
        ("x" * 200_000, [], "list.csv:1: no list with columns in its first line"),
        ("audio,start,end\nclips/a.wav,soon,late\n", [], "1 of 1 lines .*'soon'"),
        ("", [], "list.csv"),
        (None, [], "list.csv: no such file"),
    ],
)
def test_bad_lists_get_one_line(content, options, token, recordings: Path, tmp_path: Path, capsys) -> None:
    import re

    path = recordings / "list.csv"
    if content is not None:
        path.write_text(content)
    assert table(path, *options) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("corpora: error: ")]
    assert len(error) == 1 and re.search(token, error[0]), error
    assert not list((tmp_path / "out").rglob("utt2spk")) if (tmp_path / "out").exists() else True


def test_names_of_files_and_sets_as_people_write_them(recordings: Path, tmp_path: Path, noise, caplog) -> None:
    """A name with a tilde, a line feed, a mark of direction; sets in Arabic, which count as training data."""
    names = ["~clip.wav", "clips/line\nfeed.wav", "clips/\u200fتسجيل.wav", "clips/a,b.wav", "clips/=1+1.wav"]
    for name in names:
        noise(recordings / name, 0.2)
    rows = "".join(f'"{name}",نص,{split}\n' for name, split in zip(names, ("تدريب",) * 4 + ("اختبار",), strict=True))
    (recordings / "list.csv").write_text(f"audio,text,split\n{rows}", encoding="utf-8")
    assert table(recordings / "list.csv") == 0
    found = [u for split in ("تدريب", "اختبار") for u in read_datadir(tmp_path / "out" / split)]
    assert len(found) == 5 and all(len(read_audio(u.audio)) == 3200 for u in found)
    assert "the split تدريب, اختبار counts as training data" in caplog.text


def test_values_of_json_that_are_no_text_are_named(recordings: Path, tmp_path: Path) -> None:
    fine = [json.dumps({"audio": "clips/a.wav", "text": f"نص {n}", "id": f"u{n}", "words": ["x"]}) for n in range(40)]
    odd = {"audio": {"path": "clips/b b.wav", "bytes": None}, "text": ["a", "b"]}
    (recordings / "list.jsonl").write_text("\n".join([*fine, json.dumps(odd)]) + "\n", encoding="utf-8")
    assert table(recordings / "list.jsonl") == 0
    assert len(read_datadir(tmp_path / "out/train")) == 40
    assert (
        'list.jsonl:41\ttext: expected a text or a number, found ["a", "b"]'
        in (tmp_path / "out/skipped.tsv").read_text()
    )


def test_bad_json_is_named_with_its_line(recordings: Path, capsys) -> None:
    (recordings / "list.jsonl").write_text('{"audio": "clips/a.wav"}\n{"audio": \n')
    assert table(recordings / "list.jsonl") == 2
    assert "list.jsonl:2: not valid JSON" in capsys.readouterr().err
    (recordings / "list.json").write_text('[{"audio": "clips/a.wav"}, 3]')
    assert table(recordings / "list.json") == 2
    assert "list.json:row 2: expected an object" in capsys.readouterr().err
