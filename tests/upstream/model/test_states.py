"""One loop from utterances to hidden states: order, batches, unreadable clips."""

import numpy as np
import pytest
import torch

from corpora.audio import read_audio, write_audio
from corpora.datadir import Utterance
from corpora.files import BadFileTally, TooManyBadFiles
from upstream.model.encoder import build_encoder, encode, frame_count
from upstream.model.family import Geometry
from upstream.model.states import batches_of, count_unreadable, hidden_states, read_all

TINY = Geometry("tiny", 3, 32, 2, 64, "logmel", pos_conv_kernel=16, pos_conv_groups=2)


@pytest.fixture
def utterances(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for i, samples in enumerate((16000, 5000, 24000, 9000, 400)):
        write_audio(tmp_path / f"{i}.wav", (0.1 * rng.standard_normal(samples)).astype(np.float32))
        found.append(Utterance(f"s-{i}", "s", tmp_path / f"{i}.wav", samples))
    return found


def test_batches_are_read_in_order_without_unreadable_clips(utterances):
    utterances[1].audio.write_bytes(b"")
    batches = batches_of(utterances, 1.2)
    assert [[u.utt_id for u in batch] for batch in batches] == [["s-4", "s-1"], ["s-3"], ["s-0"], ["s-2"]]
    unreadable = {}
    read = list(read_all(batches, unreadable))
    assert [[u.utt_id for u in batch] for batch, _ in read] == [["s-4"], ["s-3"], ["s-0"], ["s-2"]]
    for batch, wavs in read:
        for u, wav in zip(batch, wavs, strict=True):
            np.testing.assert_array_equal(wav, read_audio(u.audio))
    assert list(unreadable) == ["s-1"] and "1.wav" in unreadable["s-1"]
    assert list(read_all([[utterances[1]]], unreadable)) == []


def test_hidden_states_are_those_of_each_utterance_alone(utterances):
    torch.manual_seed(0)
    model = build_encoder(TINY).eval()
    unreadable = {}
    seen = []
    with torch.no_grad():
        for u, states, frames in hidden_states(model, utterances, 2.0, unreadable, top_layer=2):
            alone = encode(model, [torch.from_numpy(read_audio(u.audio))], top_layer=2).hidden_states
            assert frames == frame_count(u.samples) and len(states) == 3
            for state, expected in zip(states, alone, strict=True):
                torch.testing.assert_close(state, expected[0], atol=1e-4, rtol=1e-4)
            seen.append(u.utt_id)
    assert sorted(seen) == [u.utt_id for u in utterances] and not unreadable


def test_too_many_unreadable_clips_are_an_error(utterances):
    tally = BadFileTally(100)
    count_unreadable(tally, utterances, {"s-1": "truncated"})
    assert len(tally.skipped) == 1 and "s-1: truncated" in tally.skipped[0][1]
    with pytest.raises(TooManyBadFiles, match="2 of 5 .*s-1"):
        count_unreadable(BadFileTally(5), utterances, {"s-1": "truncated", "s-3": "empty"})
