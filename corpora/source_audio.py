"""The audio of utterances as the data directory describes them: read, checked, and told from other audio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corpora.audio import AudioError, read_audio
from corpora.datadir import Utterance
from corpora.files import sha256_json


def read_utterance(utterance: Utterance) -> np.ndarray:
    """The whole utterance as float32 at 16 kHz, (T,). Raises AudioError when it cannot be read or has another length
    than the data directory says."""
    end = utterance.end if utterance.start is None else utterance.start + utterance.samples
    wav = read_audio(utterance.audio, utterance.start or 0, end)
    if len(wav) != utterance.samples:
        raise AudioError(
            f"{utterance.audio}: {len(wav)} samples, but the data directory says {utterance.samples}; "
            "prepare the corpus again"
        )
    return wav


def can_be_read(utterance: Utterance) -> bool:
    """Whether the audio is there and as long as the data directory says."""
    try:
        read_utterance(utterance)
    except AudioError:
        return False
    return True


def audio_sha256(utterances: Sequence[Utterance]) -> str:
    """What decides whether audio is that of last time: ids, lengths, and size and time of the files (they are not
    read). Times change with a copy, so this is no part of any identity."""
    stats = {path: path.stat() for path in {u.audio for u in utterances}}
    rows = []
    for u in utterances:
        stat = stats[u.audio]
        rows.append([u.utt_id, u.samples, u.start or 0, stat.st_size, stat.st_mtime_ns])
    return sha256_json(rows)
