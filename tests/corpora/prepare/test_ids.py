"""Ids sort in one order by utterance and by speaker, for any names of a publisher."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from corpora.prepare.ids import name_utterances, safe_id

NAMES = st.text(st.sampled_from("ab-_.9 ~A"), min_size=1, max_size=4).filter(str.strip)


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=12, unique=True))
def test_any_names_can_be_written(pairs):
    named = name_utterances(pairs)
    rows = sorted(set(named.values()))
    speakers = [speaker for _, speaker in rows]
    assert speakers == sorted(speakers)
    for utt_id, speaker in rows:
        assert utt_id.startswith(speaker) and len(utt_id.split()) == len(speaker.split()) == 1


def test_official_ids_stay():
    pairs = [("121", "121-121726-0000"), ("1210", "1210-1-0000"), ("-a_b", "-a_b_000-001")]
    assert name_utterances(pairs) == {pair: (pair[1], pair[0]) for pair in pairs}


def test_one_speaker_whose_name_begins_another():
    named = name_utterances([("ab", "ab_1"), ("ab-c", "ab-c_1")])
    assert list(named.values()) == [("ab-ab_1", "ab"), ("ab~c-ab-c_1", "ab~c")]


def test_safe_ids_are_ascii_distinct_and_sort_before_their_utterances():
    assert safe_id("ab_1.x") == "ab_1.x"
    assert safe_id("a-b") != safe_id("a_b") and safe_id("a-b").startswith("a_b_")
    assert safe_id("متحدث 1").isascii() and safe_id("متحدث 1") != safe_id("متحدث 2")
    assert os.fsencode(safe_id("a-b") + "-1") > os.fsencode(safe_id("a-b"))
