"""Readers of publishers' lists: optional headers, quotes, line ends, byte order marks, places in messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.files import CorpusError
from corpora.prepare.readers import Cue, read_cues, read_lines, read_rows, seconds


def _rows(path: Path, content: bytes, columns: tuple[str, ...] = ("id", "text"), **options: object) -> list[tuple]:
    path.write_bytes(content)
    return [(row.where.rsplit(":", 1)[1], *row.values.values()) for row in read_rows(path, columns, **options)]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "list.csv"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rows_by_column_with_any_line_ends(path, end, mark):
    text = mark + end.join(["text,id,more", '"نعم, لا",1,x', "", "لا,2,y"])
    path.write_bytes(text.encode())
    rows = list(read_rows(path, ("id", "text")))
    assert [(row["id"], row["text"], row.get("more"), row.get("none")) for row in rows] == [
        ("1", "نعم, لا", "x", ""), ("2", "لا", "y", "")
    ]  # fmt: skip
    assert [row.where for row in rows] == [f"{path}:2", f"{path}:4"]


def test_without_quoting_a_quotation_mark_is_text(path):
    content = 'id\ttext\n1\t"نعم\n2\tلا" و\rنعم\n'.encode()
    assert _rows(path, content, delimiter="\t", quoted=False) == [("2", "1", '"نعم'), ("3", "2", 'لا" و\rنعم')]


def test_a_header_is_optional(path):
    assert _rows(path, b"1,a\n2,b\n", header=None) == [("1", "1", "a"), ("2", "2", "b")]
    assert _rows(path, b"id,text\n1,a\n", header=None) == [("2", "1", "a")]
    assert _rows(path, b"1,a\n", header=False) == [("1", "1", "a")]
    assert _rows(path, b"id,dialect\n1,EGY\n", ("id", "dialect", "x"), header=None, required=("id",)) == [
        ("2", "1", "EGY")
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,words\n", ":1: .*id, words .*text"),
        (b"id,text\n1,a\n2\n", ":3: .*2 fields.*1"),
        (b"", ":1: .*id, text"),
        (b"id,text\n1,\xff\n", r":\d: .*UTF-8"),
        (b"id,text\n" + b'1,"' + b"a" * 200_000, r":\d: .*field larger"),
    ],
)
def test_errors_name_the_line(path, content, message):
    with pytest.raises(CorpusError, match=f"list.csv{message}"):
        _rows(path, content)


def test_bad_rows_are_reported_to_the_caller(path):
    bad = []
    rows = _rows(path, b"id,text\n1\n2,b\n", bad=lambda where, reason: bad.append((where, reason)))
    assert rows == [("3", "2", "b")] and [where for where, _ in bad] == [f"{path}:2"]


def test_lines_and_times(path):
    path.write_bytes("\ufeff a \r\n\r\n b\r\n".encode())
    assert list(read_lines(path)) == [(f"{path}:1", "a"), (f"{path}:3", "b")]
    assert list(read_lines(path, strip=False, empty=True))[:2] == [(f"{path}:1", " a "), (f"{path}:2", "")]
    path.write_bytes(b"a\nb \xfe\n")
    with pytest.raises(CorpusError, match="list.csv:2: .*0xFE"):
        list(read_lines(path))
    with pytest.raises(CorpusError, match="none"):
        list(read_lines(path.with_name("none")))
    assert seconds("x:1", "1.50") == 1.5
    for value in ("-1", "nan", "inf", "", "1,5"):
        with pytest.raises(CorpusError, match="x:1: "):
            seconds("x:1", value)


def test_cues_lose_their_tags_and_keep_their_place(tmp_path):
    path = tmp_path / "x.vtt"
    content = "WEBVTT - نص\n\n\n1\n10:00.500 --> 10:01.000 align:start\n<v Sami>نعم&nbsp;يا</v>\n<b>هلا</b>\n"
    path.write_bytes(content.replace("\n", "\r\n").encode("utf-8-sig"))
    cues = read_cues(path, lambda *own: pytest.fail(str(own)))
    assert cues == [Cue(f"{path}:5", 600.5, 601.0, "نعم يا هلا")]


def test_files_and_cues_that_are_not_webvtt(tmp_path):
    path = tmp_path / "x.vtt"
    path.write_text("1\n00:00:00,000 --> 00:00:01,000\nنعم\n")
    with pytest.raises(CorpusError, match="x.vtt:1: .*WEBVTT"):
        read_cues(path, lambda *_: None)
    path.write_text("WEBVTT\n\n0:0 --> 1\nنعم\n\n01:00:00.000 --> 01:00:01.000\nلا\n")
    bad = []
    assert [(cue.start, cue.text) for cue in read_cues(path, lambda *own: bad.append(own))] == [(3600.0, "لا")]
    assert bad[0][0] == f"{path}:3"
