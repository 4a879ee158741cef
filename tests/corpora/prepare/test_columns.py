"""Publishers' lists: headers that may be there, quotes or none, line ends, byte order marks, places in messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.prepare.columns import read_lines, read_rows, seconds
from corpora.prepare.ingest import CorpusError


def _rows(path: Path, content: bytes, columns: tuple[str, ...] = ("id", "text"), **options: object) -> list[tuple]:
    path.write_bytes(content)
    return [(row.where.rsplit(":", 1)[1], *row.values.values()) for row in read_rows(path, columns, **options)]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "list.csv"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rows_by_column_whatever_the_line_ends(path, end, mark):
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


def test_a_header_that_may_be_there(path):
    assert _rows(path, b"1,a\n2,b\n", header=None) == [("1", "1", "a"), ("2", "2", "b")]
    assert _rows(path, b"id,text\n1,a\n", header=None) == [("2", "1", "a")]
    assert _rows(path, b"1,a\n", header=False) == [("1", "1", "a")]
    assert _rows(path, b"id,dialect\n1,EGY\n", ("id", "dialect", "x"), header=None, required=("id",)) == [
        ("2", "1", "EGY")
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,words\n", r":1: expected the columns id, text; found id, words \(missing: text\)"),
        (b"id,text\n1,a\n2\n", r":3: expected 2 fields \(id, text\), found 1"),
        (b"", r":1: expected the columns id, text; found an empty file"),
        (b"id,text\n1,\xff\n", r":\d: cannot be read as UTF-8 text"),
        (b"id,text\n" + b'1,"' + b"a" * 200_000, r":\d: cannot be read .*field larger"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(path, content, message):
    with pytest.raises(CorpusError, match=f"list.csv{message}"):
        _rows(path, content)


def test_bad_rows_go_to_who_counts_them(path):
    bad = []
    rows = _rows(path, b"id,text\n1\n2,b\n", bad=lambda where, reason: bad.append((where, reason)))
    assert rows == [("3", "2", "b")] and bad == [(f"{path}:2", "expected 2 fields (id, text), found 1")]


def test_lines_and_times(path):
    path.write_bytes("\ufeff a \r\n\r\n b\r\n".encode())
    assert list(read_lines(path)) == [(f"{path}:1", "a"), (f"{path}:3", "b")]
    assert list(read_lines(path, strip=False, empty=True))[:2] == [(f"{path}:1", " a "), (f"{path}:2", "")]
    path.write_bytes(b"a\nb \xfe\n")
    with pytest.raises(CorpusError, match=r"list.csv:2: not UTF-8 \(byte 0xFE\)"):
        list(read_lines(path))
    with pytest.raises(CorpusError, match="no such file"):
        list(read_lines(path.with_name("none")))
    assert seconds("x:1", "1.50") == 1.5
    for value in ("-1", "nan", "inf", "", "1,5"):
        with pytest.raises(CorpusError, match="x:1: expected a time in seconds, found"):
            seconds("x:1", value)
