"""WebVTT: hours that may be missing, tags, entities, and files that are something else."""

from __future__ import annotations

import pytest

from corpora.prepare.ingest import CorpusError
from corpora.prepare.subtitles import Cue, read_cues


def test_cues_lose_their_tags_and_keep_their_place(tmp_path):
    path = tmp_path / "x.vtt"
    content = "WEBVTT - نص\n\n\n1\n10:00.500 --> 10:01.000 align:start\n<v Sami>نعم&nbsp;يا</v>\n<b>هلا</b>\n"
    path.write_bytes(content.replace("\n", "\r\n").encode("utf-8-sig"))
    cues = read_cues(path, lambda *own: pytest.fail(str(own)))
    assert cues == [Cue(f"{path}:5", 600.5, 601.0, "نعم يا هلا")]


def test_subtitles_that_are_none(tmp_path):
    path = tmp_path / "x.vtt"
    path.write_text("1\n00:00:00,000 --> 00:00:01,000\nنعم\n")
    with pytest.raises(CorpusError, match=r"x.vtt:1: expected WEBVTT, found '1'"):
        read_cues(path, lambda *_: None)
    path.write_text("WEBVTT\n\n0:0 --> 1\nنعم\n\n01:00:00.000 --> 01:00:01.000\nلا\n")
    bad = []
    assert [(cue.start, cue.text) for cue in read_cues(path, lambda *own: bad.append(own))] == [(3600.0, "لا")]
    assert bad[0][0] == f"{path}:3"
