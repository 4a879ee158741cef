"""Utterance and speaker ids out of a publisher's, such that sorting by either gives one order, as Kaldi wants it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BELOW_DOT = re.compile(r"[\s!-\-]")  # ASCII from the space to the hyphen


def name_utterances(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, str]]:
    """(speaker, utterance), as a publisher names them -> (utterance id, speaker id).

    An utterance keeps its name where that begins with the speaker's and the order holds. The order breaks where one
    speaker's name is the beginning of another's (`ab_1` and `ab-c_1`); then what sorts below a full stop becomes `~`
    in the speakers' names, and a hyphen joins them to the utterances'. White space becomes `_`.
    """
    plain = {pair: ("_".join(pair[0].split()), "_".join(pair[1].split())) for pair in sorted(set(pairs))}
    names = {
        pair: (own if own.startswith(speaker) else f"{speaker}-{own}", speaker)
        for pair, (speaker, own) in plain.items()
    }
    speakers = [speaker for _, speaker in sorted(names.values())]
    if speakers == sorted(speakers):
        return names
    safe = {pair: (_BELOW_DOT.sub("~", speaker), own) for pair, (speaker, own) in plain.items()}
    return {pair: (f"{speaker}-{own}", speaker) for pair, (speaker, own) in safe.items()}
