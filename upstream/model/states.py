"""Read utterances in batches, with read-ahead, and compute hidden states; unreadable clips are left out and counted.

unreadable: dict[str, str] = {}
for utterance, states, frames in hidden_states(model, utterances, 40.0, unreadable):
    ...
count_unreadable(BadFileTally(len(utterances)), utterances, unreadable)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import HubertModel

from corpora.audio import SAMPLE_RATE, AudioError
from corpora.batches import length_batches
from corpora.datadir import Utterance, read_utterance
from corpora.files import BadFileTally
from upstream.model.encoder import encode, frame_count

READERS = 4  # threads


def batches_of(utterances: Sequence[Utterance], seconds: float) -> list[list[Utterance]]:
    """Utterances of similar length in batches of at most `seconds` of padded audio, shortest first."""
    rows = length_batches([u.samples for u in utterances], int(seconds * SAMPLE_RATE))
    return [[utterances[i] for i in row] for row in rows]


def shards_of(utterances: Iterable[Utterance], seconds: float) -> list[list[Utterance]]:
    """Utterances in their order, cut into shards of at least `seconds` of audio each; the last may be shorter."""
    shards: list[list[Utterance]] = []
    room = 0.0
    for utterance in utterances:
        if room <= 0:
            shards.append([])
            room = seconds
        shards[-1].append(utterance)
        room -= utterance.samples / SAMPLE_RATE
    return shards


def read_all(
    batches: Iterable[Sequence[Utterance]], unreadable: dict[str, str]
) -> Iterator[tuple[list[Utterance], list[np.ndarray]]]:
    """The utterances of each batch with their waveforms (N,); threads read the next batch meanwhile.

    An utterance that cannot be read is left out, and `unreadable` receives its id and the reason. A batch without a
    readable utterance is skipped.
    """
    pool = ThreadPoolExecutor(READERS)
    try:
        reading: list[tuple[Utterance, Future[np.ndarray]]] = []
        for batch in chain(batches, [[]]):
            following = [(u, pool.submit(read_utterance, u)) for u in batch]
            found, wavs = [], []
            for utterance, future in reading:
                try:
                    wavs.append(future.result())
                    found.append(utterance)
                except AudioError as error:
                    unreadable[utterance.utt_id] = str(error)
            reading = following
            if found:
                yield found, wavs
    finally:
        pool.shutdown(cancel_futures=True)


def count_unreadable(tally: BadFileTally, utterances: Iterable[Utterance], unreadable: dict[str, str]) -> None:
    """Add the unreadable ones of these utterances to `tally`. Raises TooManyBadFiles above its limit."""
    bad = [u for u in utterances if u.utt_id in unreadable]
    for utterance in bad:
        tally.skip(utterance.audio, f"utterance {utterance.utt_id}: {unreadable[utterance.utt_id]}")
    if bad:
        tally.check()


def clip_states(
    model: HubertModel, wavs: Sequence[np.ndarray], seconds: float, *, top_layer: int | None = None
) -> Iterator[tuple[int, list[Tensor]]]:
    """Index and hidden states 0..top_layer of each waveform (N,), every state (T, D) without padding.

    One forward pass takes waveforms of similar length, together at most `seconds` with their padding. Gradients and
    train mode as the caller set them.
    """
    for batch in length_batches([len(wav) for wav in wavs], int(seconds * SAMPLE_RATE)):
        encoded = encode(model, [torch.from_numpy(wavs[i]) for i in batch], top_layer=top_layer)
        for row, i in enumerate(batch):
            yield i, [state[row, : frame_count(len(wavs[i]))] for state in encoded.hidden_states]


def hidden_states(
    model: HubertModel,
    utterances: Sequence[Utterance],
    seconds: float,
    unreadable: dict[str, str],
    *,
    top_layer: int | None = None,
) -> Iterator[tuple[Utterance, list[Tensor], int]]:
    """Each readable utterance with its hidden states, (T, D) each, and T; shortest first.

    `seconds` bounds the padded audio of one forward pass; `unreadable` as in `read_all`.
    """
    for batch, wavs in read_all(batches_of(utterances, seconds), unreadable):
        for i, states in clip_states(model, wavs, seconds, top_layer=top_layer):
            yield batch[i], states, len(states[0])


def audio_bar(title: str, utterances: Sequence[Utterance]) -> tqdm:
    """A progress bar that counts seconds of audio; `advance` moves it."""
    total = sum(u.samples for u in utterances) / SAMPLE_RATE
    return tqdm(total=total, desc=title, unit="s", unit_scale=True, mininterval=1.0)


def advance(bar: tqdm, utterances: Sequence[Utterance]) -> None:
    """Move the bar by the length of these utterances."""
    done = sum(u.samples for u in utterances) / SAMPLE_RATE
    bar.update(min(done, bar.total - bar.n))  # the sum of the parts may exceed the whole by a rounding error
